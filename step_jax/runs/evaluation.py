"""Evaluations: the same episodes for every method and round; their table."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from rich import table as rich_table

from step_jax.rollout import collect as collect_lib
from step_jax.rollout import episodes as episodes_lib
from step_jax.rollout import workers

Evaluation = dict[str, dict[str, Any]]

_LONGEST_TABLE = 40  # tasks; evaluation.json has them all


def evaluate(
    tasks: Sequence[str],
    player: collect_lib.Player,
    collect: Callable[..., collect_lib.Collection],
    *,
    episodes: int,
) -> Evaluation:
  """Plays the same episodes for every method and round.

  Args:
    tasks: the world's tasks.
    player: the policy, with its key and temperature.
    collect: `(jobs, player)` -> `Collection`.
    episodes: number of episodes a task.

  Returns:
    `{task: {'success_rate', 'episodes'}}`; lost episodes are not counted, and
    a task all of whose episodes were lost has success rate None.
  """
  solved, valid = play(len(tasks), player, collect, episodes=episodes)
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

  Args:
    num_tasks: N.
    player, collect, episodes: as in `evaluate`.

  Returns:
    `(solved, valid)`, bool `[num_tasks, episodes]`; lost episodes are neither.
  """
  jobs = [
      workers.Job(slot, slot // episodes, episodes_lib.eval_seed(slot % episodes))
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
      'mean', *[_percent(rate.mean() if rate.size else None) for rate in rates],
      str(sum(row['episodes'] for row in after.values())))
  return table


def _percent(rate: float | None) -> str:
  return '-' if rate is None else f'{100 * rate:.0f} %'
