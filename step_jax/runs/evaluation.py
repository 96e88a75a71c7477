"""Evaluations: the same episodes for every method and round; their table."""

from collections.abc import Callable, Sequence
import pathlib
from typing import Any

import jax
import numpy as np
from rich import table as rich_table

from step_jax.rollout import collect as collect_lib
from step_jax.rollout import episodes as episodes_lib
from step_jax.rollout import workers
from step_jax.runs import files

Evaluation = dict[str, dict[str, Any]]

_LONGEST_TABLE = 40  # tasks; evaluation.json has them all


def evaluate(
    tasks: Sequence[str],
    player: collect_lib.Player,
    collect: Callable[..., collect_lib.Collection],
    *,
    draws: int,
    instances: int = 0,
) -> Evaluation:
  """Plays the same episodes for every method and round.

  Args:
    tasks: the world's tasks.
    player: the policy, with its key and temperature.
    collect: `(jobs, player)` -> `Collection`.
    draws: number of draws of each task, none of which is trained on.
    instances: how often the one instance is played that training plays, where
      `env.episodes` is 'fixed'.

  Returns:
    `{task: {'success_rate', 'episodes'}}`, of the instances if there are any,
    else of the draws; besides instances the draws are 'drawn_success_rate' and
    'drawn_episodes'. Lost episodes are not counted, and a task all of whose
    episodes were lost has success rate None. Where the evaluator gives parts
    of a reward, 'score' is the mean of what it gave.
  """
  parts = {}
  if instances:
    parts[''] = play(tasks, player, collect, episodes=instances, fixed=True)
  if draws or not instances:
    parts['drawn_' if instances else ''] = play(
        tasks, player, collect, episodes=draws)
  return {
      task: {
          prefix + name: value
          for prefix, outcomes in parts.items()
          for name, value in _row(*(x[i] for x in outcomes)).items()}
      for i, task in enumerate(tasks)}


def _row(solved: np.ndarray, valid: np.ndarray, scores: np.ndarray
         ) -> dict[str, Any]:
  """What there is to know of a task's episodes `[episodes]`."""
  row: dict[str, Any] = {
      'success_rate': solved.sum() / valid.sum() if valid.any() else None,
      'episodes': int(valid.sum())}
  scores = scores[valid]
  if np.isfinite(scores).any():
    row['score'] = float(np.nanmean(scores))
  return row


def play(
    tasks: Sequence[str],
    player: collect_lib.Player,
    collect: Callable[..., collect_lib.Collection],
    *,
    episodes: int,
    fixed: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Plays evaluation episodes of the first of the world's tasks.

  Args:
    tasks, player, collect: as in `evaluate`.
    episodes: a task.
    fixed: whether they are the instance that training plays.

  Returns:
    `(solved, valid, scores)`, `[N, episodes]`: bool, bool and float32; lost
    episodes are neither solved nor valid, and a score that the evaluator did
    not give is NaN.
  """
  jobs = [
      workers.Job(
          i * episodes + k, i, episodes_lib.fixed_seed(task) if fixed
          else episodes_lib.eval_seed(k))
      for i, task in enumerate(tasks) for k in range(episodes)]
  collection = collect(jobs, player)
  valid, successes = jax.device_get(
      (collection.trajectory.valid, collection.trajectory.successes))
  valid = valid.reshape(len(tasks), episodes)
  scores = (collection.notes or collect_lib.make_notes(jobs)).scores
  return (successes.reshape(valid.shape) & valid, valid,
          scores.reshape(valid.shape))


def success_rates(evaluation: Evaluation, prefix: str = '') -> np.ndarray:
  """Success rates of the tasks that could be evaluated.

  Args:
    evaluation: from `evaluate`.
    prefix: '', or 'drawn_' for the draws besides the instances.
  """
  return np.array([
      row[f'{prefix}success_rate'] for row in evaluation.values()
      if row.get(f'{prefix}episodes')])


def write_results(folder: pathlib.Path, evaluation: Evaluation,
                  domains: Sequence[str]) -> None:
  """Writes a `result.txt` for each task, where OSWorld's show_result reads it.

  It holds the mean of the scores, as OSWorld's does, or of the rewards where
  there is no score.

  Args:
    folder: of a model, such as `results/pyautogui/screenshot/<model>`; what an
      earlier evaluation left there of these tasks is replaced.
    evaluation: from `evaluate`; a task that could not be evaluated has no file.
    domains: of its tasks.

  Raises:
    WriteError: it cannot be written.
  """
  for (task, row), domain in zip(evaluation.items(), domains, strict=True):
    path = folder / domain / pathlib.Path(task).name / 'result.txt'
    with files.writing(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      path.unlink(missing_ok=True)
    if row['success_rate'] is not None:
      files.replace(
          path, f'{row.get("score", row["success_rate"])}\n'.encode())


def make_table(
    before: Evaluation | None, after: Evaluation) -> rich_table.Table:
  """A table with a row for each task, or of means where there are many.

  Args:
    before: the evaluation to compare with, if there is one.
    after: the evaluation to show.
  """
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
      'mean', *map(_mean, rates),
      str(sum(row['episodes'] for row in after.values())))
  drawn = [success_rates(column, 'drawn_') for column in columns]
  if drawn[-1].size:
    table.add_row(
        'mean of fresh draws', *map(_mean, drawn),
        str(sum(row['drawn_episodes'] for row in after.values())))
  return table


def _mean(rates: np.ndarray) -> str:
  return _percent(rates.mean() if rates.size else None)


def _percent(rate: float | None) -> str:
  return '-' if rate is None else f'{100 * rate:.0f} %'
