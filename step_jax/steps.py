"""Trajectories split into step samples (paper, section 5.2)."""

import chex
import jax
import jax.numpy as jnp

from step_jax import types


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
