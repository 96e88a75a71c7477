"""The methods: what the paper's, its ablations and others differ in.

Each is a choice of the same pieces (method 5): an advantage, and whether tasks
are resampled, steps augmented, tasks redrawn, losses averaged by trajectory.
"""

import functools
from typing import Callable, NamedTuple

import chex
import jax.numpy as jnp

from step_jax.algorithm import advantages as advantages_lib
from step_jax.algorithm import steps


def _success_weighted(trajectory, success_rate, group_size, state_fn):
  del group_size, state_fn
  return advantages_lib.success_weighted_advantages(
      trajectory.returns, trajectory.task_ids, success_rate,
      where=trajectory.valid)


def _over_groups(function, trajectory, success_rate, group_size, state_fn):
  del success_rate, state_fn
  num_slots = trajectory.returns.shape[0]
  return function(
      trajectory.returns, jnp.arange(num_slots) // group_size,
      num_groups=num_slots // group_size, where=trajectory.valid)


def _task_relative(trajectory, success_rate, group_size, state_fn):
  """All copies of a task start alike, so they are one group of any size."""
  del group_size, state_fn
  return advantages_lib.group_relative_advantages(
      trajectory.returns, trajectory.task_ids,
      num_groups=success_rate.shape[0], where=trajectory.valid)


def _group_in_group(trajectory, success_rate, group_size, state_fn):
  del success_rate
  if state_fn is None:
    raise ValueError('expected state_fn with method gigpo, got None')
  num_slots = trajectory.returns.shape[0]
  mask = trajectory.step_mask & trajectory.valid[:, None]
  return advantages_lib.gigpo_advantages(
      trajectory.returns, jnp.arange(num_slots) // group_size,
      steps.state_ids(state_fn(trajectory.observations), mask),
      num_groups=num_slots // group_size, step_mask=mask)


_group_relative = functools.partial(
    _over_groups, advantages_lib.group_relative_advantages)
_leave_one_out = functools.partial(
    _over_groups, advantages_lib.leave_one_out_advantages)


class Method(NamedTuple):
  """What distinguishes the methods; everything else is shared."""
  advantages: Callable[..., chex.Array]  # [B], or [B, T] by step
  resample: bool = False  # SR-Traj
  augment: bool = False  # SL-GRPO
  redraw: bool = False  # tasks without spread give up slots amid the round
  trajectory_mean: bool = False  # token losses averaged within a trajectory


METHODS = {
    'trajectory_grpo': Method(_group_relative, trajectory_mean=True),
    'step_grpo': Method(_group_relative),
    'rloo': Method(_leave_one_out),
    'gigpo': Method(_group_in_group),
    'dapo': Method(_task_relative, redraw=True),
    'step': Method(_success_weighted, resample=True, augment=True),
    'step_no_resampling': Method(_success_weighted, augment=True),
    'step_no_augmentation': Method(_success_weighted, resample=True),
    'step_advantage_only': Method(_success_weighted),
}
