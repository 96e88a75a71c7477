"""Records that travel between the host loop, the advantages and the learner.

Shape legend, used in every docstring of the package:

  N tasks · Q base tasks a round · G group_size · B = Q*G trajectory slots ·
  T environment steps · L action tokens a step · S step slots ·
  K candidates at a step (G/2) · masks are bool, True = valid, called `where`.

Compare records with `chex.assert_trees_*` only.
"""

import typing
from typing import Any

import chex

_T = typing.TypeVar('_T')


@typing.dataclass_transform(kw_only_default=True, frozen_default=True)
def _record(cls: type[_T]) -> type[_T]:
  """A frozen chex dataclass that type checkers understand."""
  return chex.dataclass(
      frozen=True, kw_only=True, mappable_dataclass=False)(cls)


@_record
class Trajectory:
  """One round of collected trajectories, stored by slot, never by arrival.

  The observation of a step is everything that the policy read, its history
  included, so alternatives and the update rebuild nothing.
  """
  task_ids: chex.Array  # [B] int32, the task that was run
  observations: Any  # pytree of [B, T, ...]
  actions: chex.Array  # [B, T, L] int32 tokens
  log_probs: chex.Array  # [B, T, L] float32, behaviour policy
  token_mask: chex.Array  # [B, T, L] bool
  step_mask: chex.Array  # [B, T] bool
  returns: chex.Array  # [B] float32
  successes: chex.Array  # [B] bool
  valid: chex.Array  # [B] bool, False = lost to infrastructure


@_record
class StepBatch:
  """Step samples: K candidate actions at each of S stored states."""
  observations: Any  # pytree of [S, ...]
  actions: chex.Array  # [S, K, L] int32 tokens
  log_probs: chex.Array  # [S, K, L] float32, policy that drew the candidate
  token_mask: chex.Array  # [S, K, L] bool
  advantages: chex.Array  # [S, K] float32
  mask: chex.Array  # [S, K] bool


@_record
class LearnerState:
  """What an update reads and returns."""
  params: Any  # pytree
  opt_state: Any  # pytree, the optimiser's
  step: chex.Array  # [] int32, optimiser steps taken


@_record
class RoundBatch:
  """All step samples of a round.

  Rows of `singles` that share a unit stay together in one optimiser step: a
  unit is a step sample, or a trajectory for `trajectory_grpo`.
  """
  singles: StepBatch  # K = 1
  groups: StepBatch | None  # K = G/2, steps of tasks with s_hat <= s_low
  single_units: chex.Array  # [S] int32 in [0, S)
