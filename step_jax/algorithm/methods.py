"""The methods: what the paper's, its ablations and others differ in.

Each is a choice of the same pieces (method 5): an advantage, and whether tasks
are resampled, steps augmented, tasks redrawn, losses averaged by trajectory.
"""

import functools
from typing import Any, Callable, NamedTuple

import chex
import jax.numpy as jnp

from step_jax.algorithm import advantages as advantages_lib
from step_jax.algorithm import steps
from step_jax.algorithm import types


class Outcome(NamedTuple):
  """What an advantage is made of."""
  trajectory: types.Trajectory
  success_rate: chex.Array  # [N] s_hat after the round
  values: chex.Array  # [N] what each task was expected to return, before it
  group_size: int | None  # G slots are a group; None: all of a task are
  state_fn: Callable[[Any], Any] | None  # a codec's `state`


def _by_task(function, outcome, rates):
  return function(
      outcome.trajectory.returns, outcome.trajectory.task_ids, rates,
      where=outcome.trajectory.valid)


def _success_weighted(outcome):
  return _by_task(advantages_lib.success_weighted_advantages, outcome,
                  outcome.success_rate)


def _signed(outcome):
  return _by_task(advantages_lib.success_rate_advantages, outcome,
                  outcome.success_rate)


def _batch_normalised(outcome):
  return _by_task(advantages_lib.batch_normalised_advantages, outcome,
                  outcome.values)


def _groups(outcome):
  """`[B]` ids of groups, copies of one task, and the number of groups."""
  trajectory, group_size = outcome.trajectory, outcome.group_size
  if group_size is None:
    return trajectory.task_ids, outcome.success_rate.shape[0]
  num_slots = trajectory.returns.shape[0]
  if num_slots % group_size:
    raise ValueError(f'expected a multiple of {group_size} trajectories, got '
                     f'{num_slots}')
  return jnp.arange(num_slots) // group_size, num_slots // group_size


def _over_groups(function, outcome):
  group_ids, num_groups = _groups(outcome)
  return function(
      outcome.trajectory.returns, group_ids, num_groups=num_groups,
      where=outcome.trajectory.valid)


def _group_in_group(outcome):
  if outcome.state_fn is None:
    raise ValueError('expected state_fn with method gigpo, got None')
  trajectory = outcome.trajectory
  group_ids, num_groups = _groups(outcome)
  mask = trajectory.step_mask & trajectory.valid[:, None]
  return advantages_lib.gigpo_advantages(
      trajectory.returns, group_ids,
      steps.state_ids(outcome.state_fn(trajectory.observations), mask),
      num_groups=num_groups, step_mask=mask)


_group_relative = functools.partial(
    _over_groups, advantages_lib.group_relative_advantages)
_leave_one_out = functools.partial(
    _over_groups, advantages_lib.leave_one_out_advantages)


class Method(NamedTuple):
  """What distinguishes the methods; everything else is shared."""
  about: str  # in a few words, after its name
  advantages: Callable[[Outcome], chex.Array]  # [B], or [B, T] by step
  sampler: str = 'uniform'  # its own; any other can be taken instead
  augment: bool = False  # SL-GRPO
  redraw: bool = False  # tasks without spread give up slots amid the round
  trajectory_mean: bool = False  # token losses averaged within a trajectory

  @property
  def resample(self) -> bool:
    """Whether its sampler is SR-Traj."""
    return self.sampler == 'sr_traj'


METHODS = {
    'trajectory_grpo': Method(
        'GRPO over whole trajectories', _group_relative, trajectory_mean=True),
    'step_grpo': Method('GRPO over step samples', _group_relative),
    'rloo': Method('with a leave-one-out baseline', _leave_one_out),
    'gigpo': Method('groups of equal screens in groups', _group_in_group),
    'dapo': Method('GRPO that redraws tasks without spread', _group_relative,
                   redraw=True),
    'step': Method("the paper's", _success_weighted, 'sr_traj', augment=True),
    'step_no_resampling': Method(
        "the paper's without SR-Traj", _success_weighted, augment=True),
    'step_no_augmentation': Method(
        "the paper's without SL-GRPO", _success_weighted, 'sr_traj'),
    'step_advantage_only': Method(
        "the paper's advantage alone", _success_weighted),
    'step_signed': Method(
        "the paper's advantage with its negative half, an extension of ours",
        _signed, 'sr_traj'),
    'step_signed_augmented': Method(
        'step_signed with step-level groups, an extension of ours', _signed,
        'sr_traj', augment=True),
    'spo': Method('tracked values as baselines, arXiv 2509.13232',
                  _batch_normalised, 'spo'),
}
