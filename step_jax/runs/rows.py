"""What is written down of trajectories and evaluations, as `fields` tells."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from step_jax.rollout import collect as collect_lib
from step_jax.runs import evaluation as evaluation_lib
from step_jax.runs import signals


def of_collection(
    collection: collect_lib.Collection, base_ids: np.ndarray, *,
    group_size: int, num_tasks: int) -> dict[str, Any]:
  """The fields of a round's trajectories.

  Args:
    collection: the Q*G trajectories.
    base_ids: `[Q]` tasks that the round was to be of.
    group_size: G.
    num_tasks: N.
  """
  trajectory = collection.trajectory
  return {
      'success_rate': trajectory.successes.sum() / trajectory.valid.sum(),
      'replaced_fraction': np.mean(
          trajectory.task_ids != np.repeat(base_ids, group_size)),
      'trajectories': trajectory.valid.size,
      'valid_trajectories': int(trajectory.valid.sum()),
      'closed_slots': collection.closed_slots,
      'late_trajectories': len(collection.late.returns),
      'out_of_steps': int((
          trajectory.valid & ~trajectory.successes
          & trajectory.step_mask.all(axis=1)).sum()),
      'environment_failures': collection.environment_failures,
      'environment_steps': collection.environment_steps,
      'slots_per_task': np.bincount(
          trajectory.task_ids, minlength=num_tasks),
      'successes_per_task': np.bincount(
          trajectory.task_ids, trajectory.successes, num_tasks).astype(int)}


def of_evaluation(
    evaluation: evaluation_lib.Evaluation, tasks: Sequence[str],
    success_rate: np.ndarray) -> dict[str, Any]:
  """The fields of an evaluation of N tasks, beside the record s_hat `[N]`."""
  rates = evaluation_lib.success_rates(evaluation)
  row = {'eval_success_rate': rates.mean(),
         'eval_tasks_above_60': int((rates > 0.6).sum()),
         'record_error': signals.record_error(
             success_rate, tasks, evaluation)}
  drawn = evaluation_lib.success_rates(evaluation, 'drawn_')
  if drawn.size:
    row['eval_drawn_success_rate'] = drawn.mean()
  return row
