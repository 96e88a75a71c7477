"""Signals that a policy has stopped to explore, and the sentence for it.

A success teaches nothing where all copies of a task end alike; a policy that
has become deterministic on tasks it does not solve stays where it is.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from step_jax.algorithm import types
from step_jax.rollout import redrawing
from step_jax.runs import evaluation as evaluation_lib

_LITTLE_ENTROPY = 0.05  # nats a token [choice]


def of_round(
    trajectory: types.Trajectory, batch: types.RoundBatch) -> dict[str, float]:
  """The signals of a round, shares in [0, 1]; 0 where there is nothing.

  Args:
    trajectory: the round, numpy arrays.
    batch: what is learned from it.

  Returns:
    `tasks_without_spread`: of the tasks with two valid trajectories or more,
    those whose trajectories all end alike; `groups_without_spread`: of the
    step-level groups, those in which all candidates agree.
  """
  ids, counts = np.unique(
      trajectory.task_ids[trajectory.valid], return_counts=True)
  several = set(ids[counts > 1].tolist())
  spread = redrawing.tasks_with_spread(trajectory)
  signals = {
      'tasks_without_spread': len(several - spread) / max(len(several), 1),
      'groups_without_spread': 0.0}
  if batch.groups is not None:
    mask, advantages = jax.device_get(
        (batch.groups.mask, batch.groups.advantages))
    groups = mask.any(axis=1)
    flat = groups & (advantages == 0).all(axis=1)
    signals['groups_without_spread'] = float(
        flat.sum() / max(groups.sum(), 1))
  return signals


def record_error(
    success_rate: np.ndarray, tasks: Sequence[str],
    evaluation: evaluation_lib.Evaluation) -> float:
  """How far the record is from an evaluation.

  Args:
    success_rate: `[N]` s_hat, at the training temperature.
    tasks: N names.
    evaluation: of them.

  Returns:
    The mean of |s_hat - success rate| over the tasks that were evaluated, in
    [0, 1]. It is not 0 for a good record either: the evaluation is greedy.
  """
  return float(np.mean([
      abs(rate - evaluation[task]['success_rate'])
      for task, rate in zip(tasks, success_rate.tolist(), strict=True)
      if evaluation[task]['episodes']]))


def sentence(row: dict[str, Any], success_rate: np.ndarray) -> str:
  """What to tell of a round in which nothing was tried; '' if nothing.

  Args:
    row: the round's metrics.
    success_rate: `[N]` s_hat after it.
  """
  unsolved = int((success_rate < 0.6).sum())
  if not unsolved or row['tasks_without_spread'] < 1 or (
      row['step_samples']
      and (row['entropy'] is None or row['entropy'] > _LITTLE_ENTROPY)):
    return ''
  # Without samples its entropy is not known: it may try, and always fail.
  why = ('the policy has become deterministic,' if row['step_samples'] else
         'there was nothing to learn from, as')
  return (f'round {row["round"]}: {why} all '
          f'copies of each task end alike, while {unsolved} of '
          f'{len(success_rate)} tasks are unsolved; a higher temperature, a '
          'lower learning rate or optimizer.entropy_bonus may keep it trying')
