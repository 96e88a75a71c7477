"""Evaluates the newest checkpoint of a run.

  python experiments/evaluate.py --workdir=DIR [--split=train|all|held_out]
      [--episodes=n]

Prints a table and writes DIR/evaluation.json, or evaluation_<split>.json for
another split than the training tasks.
"""

from collections.abc import Callable, Sequence
import pathlib
import sys
from typing import Any

if __name__ == '__main__':  # run as a script, from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
import jax
import ml_collections
import numpy as np
from rich import console as rich_console
from rich import table as rich_table

from experiments import checks
from experiments import worlds
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers

Evaluation = dict[str, dict[str, Any]]

_LONGEST_TABLE = 40  # tasks; evaluation.json has them all


def evaluate(
    config: ml_collections.ConfigDict,
    tasks: Sequence[str],
    params: Any,
    collect: Callable[..., collect_lib.Collection],
    *,
    episodes: int,
) -> Evaluation:
  """Plays the same episodes for every method and round.

  Args:
    config: of the run.
    tasks: the world's tasks.
    params: of the policy.
    collect: `(jobs, player)` -> `Collection`.
    episodes: number of episodes a task.

  Returns:
    `{task: {'success_rate', 'episodes'}}`; lost episodes are not counted, and
    a task all of whose episodes were lost has success rate None.
  """
  solved, valid = play(len(tasks), collect_lib.Player(
      params, jax.random.key(config.seed), config.eval_temperature),
      collect, episodes=episodes)
  return {
      task: {
          'success_rate': solved[i].sum() / valid[i].sum()
          if valid[i].any() else None,
          'episodes': int(valid[i].sum()),
      } for i, task in enumerate(tasks)}


def play(
    num_tasks: int,
    player: collect_lib.Player,
    collect: Callable[..., collect_lib.Collection],
    *,
    episodes: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Plays the evaluation episodes of tasks 0 .. num_tasks - 1.

  Returns:
    `(solved, valid)`, bool `[num_tasks, episodes]`; lost episodes are neither.
  """
  jobs = [
      workers.Job(slot, slot // episodes, worlds.eval_seed(slot % episodes))
      for slot in range(num_tasks * episodes)]
  trajectory = collect(jobs, player).trajectory
  valid, successes = jax.device_get(
      (trajectory.valid, trajectory.successes))
  valid = valid.reshape(num_tasks, episodes)
  return successes.reshape(valid.shape) & valid, valid


def success_rates(evaluation: Evaluation) -> np.ndarray:
  """Success rates of the tasks that could be evaluated."""
  return np.array([
      row['success_rate'] for row in evaluation.values() if row['episodes']])


def make_table(
    before: Evaluation | None, after: Evaluation) -> rich_table.Table:
  """A table with a row for each task, or of means where there are many."""
  table = rich_table.Table(title='Success rate at temperature 0')
  table.add_column('task')
  columns = [after] if before is None else [before, after]
  for name in ('before', 'after')[-len(columns):]:
    table.add_column(name, justify='right')
  table.add_column('episodes', justify='right')
  if len(after) <= _LONGEST_TABLE:
    for task, row in after.items():
      table.add_row(
          task,
          *[_percent(column[task]['success_rate']) for column in columns],
          str(row['episodes']))
    table.add_section()
  rates = [success_rates(column) for column in columns]
  table.add_row('tasks above 60 %', *[
      f'{(rate > 0.6).sum()} of {rate.size}' for rate in rates], '')
  table.add_row(
      'mean', *[_percent(rate.mean() if rate.size else None) for rate in rates],
      str(sum(row['episodes'] for row in after.values())))
  return table


def _percent(rate: float | None) -> str:
  return '-' if rate is None else f'{100 * rate:.0f} %'


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  from experiments import train  # the loop imports this module

  flags.DEFINE_string('workdir', None, 'folder of the run', required=True)
  flags.DEFINE_enum(
      'split', 'train', ['train', 'all', 'held_out'], 'which tasks')
  flags.DEFINE_integer('episodes', 50, 'episodes a task', lower_bound=1)
  console = rich_console.Console()
  try:
    flags.FLAGS(argv)
    path = pathlib.Path(flags.FLAGS.workdir)
    if not (path / 'config.json').exists():
      raise checks.UserError(f'there is no run in {path}: no config.json')
    config = ml_collections.ConfigDict(
        checks.read_config(path / 'config.json'))
    evaluation = train.evaluate_run(
        config, path, split=flags.FLAGS.split, episodes=flags.FLAGS.episodes)
    console.print(make_table(None, evaluation))
    return 0
  except KeyboardInterrupt:
    return 130
  except (checks.UserError, flags.Error) as error:
    print(error, file=sys.stderr)
    return 2
  except checks.RunError as error:
    print(error, file=sys.stderr)
    return 1


if __name__ == '__main__':
  sys.exit(main(sys.argv))
