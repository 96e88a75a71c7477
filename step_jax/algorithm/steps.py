"""Trajectories split into step samples (paper, section 5.2)."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.algorithm import types


def flatten_steps(
    trajectory: types.Trajectory,
    advantages: chex.Array,
    *,
    where: chex.Array | None = None,
) -> types.StepBatch:
  """Turns every step of every trajectory into a step sample with K = 1.

  Row b*T + t of the batch is step t of slot b. Steps carry the advantage of
  their trajectory, without length weighting.

  Args:
    trajectory: a round, `[B, T, ...]`.
    advantages: `[B]`, or `[B, T]` for advantages that differ between steps.
    where: `[B]` bool, trajectories whose steps are kept; lost ones
      (`trajectory.valid` False) are never kept.

  Returns:
    A padded `StepBatch` with S = B*T; rows that are not kept have a False
    mask, a False token mask and advantage 0.

  Raises:
    ValueError: if `advantages` is neither `[B]` nor `[B, T]`.
  """
  shape = trajectory.step_mask.shape
  if advantages.shape not in (shape[:1], shape):
    raise ValueError(
        f'expected advantages of shape {shape[:1]} or {shape}, '
        f'got {advantages.shape}')
  where = trajectory.valid if where is None else where
  chex.assert_shape([where, trajectory.valid], shape[:1])
  kept = trajectory.valid & where
  if advantages.ndim == 1:
    advantages = jnp.broadcast_to(advantages[:, None], shape)
  mask = trajectory.step_mask & kept[:, None]
  return types.StepBatch(
      observations=jax.tree.map(_merge_steps, trajectory.observations),
      actions=_merge_steps(trajectory.actions)[:, None],
      log_probs=_merge_steps(trajectory.log_probs)[:, None],
      token_mask=_merge_steps(
          trajectory.token_mask & mask[..., None])[:, None],
      advantages=_merge_steps(jnp.where(mask, advantages, 0))[:, None],
      mask=_merge_steps(mask)[:, None])


def _merge_steps(x: chex.Array) -> chex.Array:
  """`[B, T, ...]` -> `[B*T, ...]`."""
  return x.reshape((-1,) + x.shape[2:])


def partition(mask: chex.Array) -> tuple[chex.Array, chex.Array]:
  """Brings the rows that are valid to the front, in their order.

  Args:
    mask: `[S]` bool.

  Returns:
    `(order [S], count [])`, int32: `order[:count]` are the valid rows.
  """
  chex.assert_rank(mask, 1)
  order = jnp.argsort(~mask, stable=True).astype(jnp.int32)
  return order, jnp.sum(mask, dtype=jnp.int32)


def state_ids(observations: Any, step_mask: chex.Array) -> chex.Array:
  """Numbers the states of a round: equal ids iff equal bits in every leaf.

  Exact. A hash only proposes the first unnumbered row of its bucket, which is
  then compared in full; rows that differ from it wait for another pass, of
  which there is one unless hashes collide.

  Args:
    observations: pytree of `[B, T, ...]`, what counts as the state. References
      into a store are compared as they are.
    step_mask: `[B, T]` bool.

  Returns:
    `[B, T]` int32: the number b*T + t of the first valid step in that state,
    -1 behind the mask.
  """
  chex.assert_rank(step_mask, 2)
  leaves = jax.tree.leaves(observations)
  chex.assert_equal_shape_prefix([step_mask, *leaves], 2)
  where = step_mask.reshape(-1)
  size = where.shape[0]
  none = jnp.full(size, -1, jnp.int32)
  if not size:
    return none.reshape(step_mask.shape)
  index = jnp.arange(size, dtype=jnp.int32)
  rows = [_bits(x).reshape(size, -1) for x in leaves]
  hashes = _hash_rows(rows)
  bucket = jnp.searchsorted(jnp.sort(hashes), hashes)

  def body(ids):
    waiting = where & (ids < 0)
    first = jax.ops.segment_min(
        jnp.where(waiting, index, size), bucket, num_segments=size)[bucket]
    same = waiting
    for x in rows:
      same &= jnp.all(x == x.at[first].get(mode='clip'), axis=1)
    return jnp.where(same, first, ids)

  # One pass before the loop: inside shard_map its result differs from shard
  # to shard, which the constant that it begins with does not.
  ids = jax.lax.while_loop(
      lambda ids: jnp.any(where & (ids < 0)), body, body(none))
  return ids.reshape(step_mask.shape)


def _bits(x: chex.Array) -> chex.Array:
  """The same shape as unsigned integers, so that NaN equals itself."""
  x = jnp.asarray(x)
  if x.dtype == bool:
    return x.astype(jnp.uint8)
  return jax.lax.bitcast_convert_type(
      x, jnp.dtype(f'uint{8 * x.dtype.itemsize}'))


def _hash_rows(rows: list[chex.Array]) -> chex.Array:
  """`[S]` uint32 of unsigned `[S, n]` arrays."""
  words = jnp.concatenate([x.astype(jnp.uint32) for x in rows], axis=1)
  # Odd multiples of 2^32 / golden ratio; shifts bring high bits down.
  factors = np.uint32(2654435769) * jnp.arange(
      1, 2 * words.shape[1], 2, dtype=jnp.uint32)[None]
  mixed = (words ^ (words >> 16)) * factors
  return jnp.sum((mixed ^ (mixed >> 15)) * factors, axis=1, dtype=jnp.uint32)
