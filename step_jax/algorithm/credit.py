"""The two jitted halves of a round: which tasks, and what they teach."""

import dataclasses
import functools
import typing
from typing import Any, Callable, Literal

import chex
import jax
import jax.numpy as jnp

from step_jax.algorithm import advantages as advantages_lib
from step_jax.algorithm import masking
from step_jax.algorithm import methods
from step_jax.algorithm import resampling
from step_jax.algorithm import steps
from step_jax.algorithm import success_rate as success_rate_lib
from step_jax.algorithm import types

GroupWeight = Literal['sum', 'sample']


def propose_tasks(
    rng_key: chex.PRNGKey,
    base_task_ids: chex.Array,
    success_rate: chex.Array,
    *,
    method: methods.Method,
    group_size: int,
    threshold: float = 0.6,
    sharpness: float = 10.0,
) -> chex.Array:
  """Tasks of the round's slots: resampled, or G copies of each base task.

  Args:
    rng_key: key of the round.
    base_task_ids: `[Q]` int.
    success_rate: `[N]` s_hat.
    method: an entry of `methods.METHODS`.
    group_size: G.
    threshold: s_0.
    sharpness: kappa.

  Returns:
    `[Q*G]` int32.

  Raises:
    ValueError: as `resampling.resample_tasks`; a traced value is not checked.
  """
  resampling.check_rule(threshold, sharpness)
  return _propose_tasks(
      rng_key, base_task_ids, success_rate, method=method,
      group_size=group_size, threshold=threshold, sharpness=sharpness)


@functools.partial(jax.jit, static_argnames=('method', 'group_size'))
def _propose_tasks(
    rng_key, base_task_ids, success_rate, *, method, group_size, threshold,
    sharpness):
  if not method.resample:
    return jnp.repeat(base_task_ids, group_size).astype(jnp.int32)
  return resampling.resample_tasks(
      rng_key, base_task_ids, success_rate, group_size=group_size,
      threshold=threshold, sharpness=sharpness)


def assign_credit(
    trajectory: types.Trajectory,
    success_rate: chex.Array,
    *,
    method: methods.Method,
    group_size: int,
    low_threshold: float = 0.2,
    ema_decay: float | None = None,
    by_task: bool = False,
    values: chex.Array | None = None,
    state_fn: Callable[[Any], Any] | None = None,
) -> tuple[types.StepBatch, chex.Array, chex.Array]:
  """Turns a round of trajectories into step samples with advantages.

  Args:
    trajectory: the round, B = Q*G.
    success_rate: `[N]` s_hat before the round.
    method: an entry of `methods.METHODS`.
    group_size: G.
    low_threshold: s_low; steps of tasks at or below it are to be augmented.
    ema_decay: None for the adaptive rule, else d of the fixed-decay one.
    by_task: whether all trajectories of a task are one group, of any size, as
      a sampler that resamples gives them; else the G slots of a base task are.
    values: `[N]` the baseline of `spo`; by default s_hat before the round.
    state_fn: a codec's `state`, which `gigpo` needs.

  Returns:
    `(singles, low, success_rate)`: step samples with S = B*T and K = 1, those
    without a signal masked out; `[S]` bool, the samples that step-level groups
    shall replace; `[N]` s_hat after the round.

  Raises:
    ValueError: if the method augments and `group_size` is odd or less than 4,
      if it is `gigpo` and `state_fn` is missing, if it compares groups of
      G slots and B is no multiple of G, or if `ema_decay` lies outside [0, 1].
  """
  if ema_decay is not None:
    success_rate_lib.check_decay(ema_decay)
  return _assign_credit(
      trajectory, success_rate, method=method, group_size=group_size,
      low_threshold=low_threshold, ema_decay=ema_decay, by_task=by_task,
      values=values, state_fn=state_fn)


@functools.partial(
    jax.jit, static_argnames=('method', 'group_size', 'by_task', 'state_fn'))
def _assign_credit(
    trajectory, success_rate, *, method, group_size, low_threshold, ema_decay,
    by_task, values, state_fn):
  if method.augment and (group_size % 2 or group_size < 4):
    raise ValueError(
        'expected an even group_size of at least 4 with augmentation, got '
        f'{group_size}')
  values = success_rate if values is None else values
  trajectory = dataclasses.replace(
      trajectory, valid=trajectory.valid & masking.in_range(
          trajectory.task_ids, success_rate.shape[0]))
  collected, succeeded = success_rate_lib.count_outcomes(
      trajectory.task_ids, trajectory.successes,
      num_tasks=success_rate.shape[0], where=trajectory.valid)
  if ema_decay is None:
    success_rate = success_rate_lib.update_success_rate(
        success_rate, collected, succeeded, group_size=group_size)
  else:
    success_rate = success_rate_lib.ema_success_rate(
        success_rate, collected, succeeded, decay=ema_decay)
  advantages = method.advantages(methods.Outcome(
      trajectory, success_rate, values,
      None if by_task or method.redraw else group_size, state_fn))
  if method.trajectory_mean:
    advantages = advantages * _length_weights(trajectory, advantages)

  singles = steps.flatten_steps(trajectory, advantages)
  mask = singles.advantages != 0
  singles = dataclasses.replace(
      singles, mask=mask, token_mask=singles.token_mask & mask[..., None])
  low = success_rate[trajectory.task_ids] <= low_threshold
  low = jnp.repeat(low, trajectory.step_mask.shape[1])
  low &= singles.advantages[:, 0] > 0  # a group sharpens what succeeded
  return singles, low & method.augment, success_rate


def _length_weights(
    trajectory: types.Trajectory, advantages: chex.Array) -> chex.Array:
  """`[B]` factors that make the token mean a mean over trajectories of means.

  sum_b f_b A_b / (B' n_b) = sum_b f_b A_b w_b / M with w_b = M / (B' n_b): n_b
  tokens of trajectory b, M tokens and B' trajectories that carry a signal.
  """
  mask = trajectory.token_mask & trajectory.step_mask[..., None]
  counts = jnp.sum(mask, axis=(1, 2))
  used = trajectory.valid & (advantages != 0) & (counts > 0)
  total = jnp.sum(jnp.where(used, counts, 0))
  mean = total / jnp.maximum(jnp.sum(used), 1)
  return jnp.where(
      used, mean / jnp.maximum(counts, 1).astype(mean.dtype), 0)


@jax.jit
def row_keys(
    rng_key: chex.PRNGKey, slots: chex.Array, step_ids: chex.Array,
    candidate: chex.Array | int,
) -> chex.PRNGKey:
  """One key for each row: of (round, slot, step, candidate), nothing else.

  Args:
    rng_key: key of (seed, round).
    slots, step_ids: `[B]` int.
    candidate: 0 for the action that is taken, 1 .. K-1 for alternatives.

  Returns:
    `[B]` keys.
  """
  def fold(slot, step_id):
    key = jax.random.fold_in(jax.random.fold_in(rng_key, slot), step_id)
    return jax.random.fold_in(key, candidate)
  return jax.vmap(fold)(slots, step_ids)


@functools.partial(
    jax.jit, static_argnames=('sample_fn', 'matches_fn', 'max_steps',
                              'num_candidates', 'group_weight',
                              'micro_batch_size'))
def augment_steps(
    rng_key: chex.PRNGKey,
    params: Any,
    singles: types.StepBatch,
    low: chex.Array,
    *,
    sample_fn: Callable[..., Any],
    matches_fn: Callable[..., chex.Array],
    max_steps: int,
    num_candidates: int,
    group_weight: GroupWeight = 'sum',
    micro_batch_size: int = 8,
) -> types.RoundBatch:
  """SL-GRPO: groups of alternatives at stored states (paper, section 5.3).

  K - 1 alternatives are drawn at each low step's observation; no environment is
  touched, and their log-probs are those of the policy that draws them. Only
  low steps are computed, in micro-batches of a fixed size.

  Args:
    rng_key: key of (seed, round), the one the trajectories were drawn with.
    params: of the behaviour policy.
    singles: K = 1, S = B*T, from `assign_credit`.
    low: `[S]` bool, the samples to replace by groups.
    sample_fn: `(params, keys [B], observation [B, ...])` -> `ActionSample`.
    matches_fn: a codec's `matches`.
    max_steps: T.
    num_candidates: K.
    group_weight: see `with_groups`.
    micro_batch_size: states sampled at once.

  Returns:
    The round's batch: singles without the low steps, and their groups. A group
    in which all match has advantage 0, so the learner drops it.
  """
  order, count = steps.partition(low)
  first = (singles.actions, singles.log_probs, singles.token_mask)

  def body(state):
    position, drawn = state
    index = position + jnp.arange(micro_batch_size)
    rows = order.at[index].get(mode='clip')
    observation = jax.tree.map(lambda x: x[rows], singles.observations)

    def alternative(candidate):
      keys = row_keys(rng_key, rows // max_steps, rows % max_steps, candidate)
      return sample_fn(params, keys, observation)

    sample = jax.vmap(alternative, out_axes=1)(jnp.arange(1, num_candidates))
    target = jnp.where(index < count, rows, low.shape[0])  # dropped if idle
    return position + micro_batch_size, tuple(
        old.at[target, 1:].set(new, mode='drop')
        for old, new in zip(drawn, sample))

  drawn = tuple(jnp.repeat(x, num_candidates, axis=1) for x in first)
  _, drawn = jax.lax.while_loop(
      lambda state: state[0] < count, body, (jnp.int32(0), drawn))
  return with_groups(
      singles, low, drawn, matches_fn(singles.observations, drawn[0]),
      group_weight=group_weight)


def with_groups(
    singles: types.StepBatch, low: chex.Array, drawn: tuple,
    agree: chex.Array, *, group_weight: GroupWeight = 'sum',
) -> types.RoundBatch:
  """Puts groups in the place of the `low` steps (method 3).

  Args:
    singles, low: as in `augment_steps`.
    drawn: actions, log-probs and token masks, each `[S, K, L]`, candidate 0
      being the original.
    agree: `[S, K]` bool, which candidates match the original.
    group_weight: 'sum', each of the K responses is a sample of its own, the
      paper read literally; 'sample', the group weighs what the sample weighed
      that it replaces: its advantages are divided by K [choice].

  Returns:
    The round's batch, as from `augment_steps`.

  Raises:
    ValueError: for another `group_weight`.
  """
  if group_weight not in typing.get_args(GroupWeight):
    raise ValueError(
        f"expected group_weight 'sum' or 'sample', got {group_weight!r}")
  scale = 1 if group_weight == 'sum' else agree.shape[-1]
  mask = jnp.broadcast_to(low[:, None], agree.shape)
  groups = types.StepBatch(
      observations=singles.observations, actions=drawn[0], log_probs=drawn[1],
      token_mask=drawn[2] & mask[..., None],
      advantages=advantages_lib.step_group_advantages(
          singles.advantages[:, 0] / scale, agree, where=mask),
      mask=mask)
  return types.RoundBatch(
      singles=dataclasses.replace(singles, mask=singles.mask & ~low[:, None]),
      groups=groups, single_units=jnp.arange(low.shape[0]))


def without_groups(
    singles: types.StepBatch, *, method: methods.Method, max_steps: int
) -> types.RoundBatch:
  """The round's batch of a method without step-level groups.

  Args:
    singles: K = 1, S = B*T, from `assign_credit`.
    method: an entry of `methods.METHODS`.
    max_steps: T.

  Returns:
    The singles; with `method.trajectory_mean`, a trajectory is one unit.
  """
  rows = jnp.arange(singles.mask.shape[0])
  return types.RoundBatch(
      singles=singles, groups=None,
      single_units=rows // max_steps if method.trajectory_mean else rows)
