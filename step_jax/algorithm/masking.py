"""Reductions that are safe under a mask: values, gradients and foul padding.

Everything selects before it computes, so NaN or inf behind the mask changes
neither the value nor the gradient, and a reduction over nothing is 0.
"""

import chex
import jax
import jax.numpy as jnp


def masked_sum(
    x: chex.Array, where: chex.Array, axis: int | None = None) -> chex.Array:
  """Sum of the valid entries of `x`.

  Args:
    x: `[...]` values; entries behind the mask may be anything.
    where: bool, the shape of `x`, True = valid.
    axis: axis to reduce, all of them if None.

  Returns:
    The reduced array; 0 where nothing is valid.
  """
  chex.assert_equal_shape([x, where])
  return jnp.sum(jnp.where(where, x, 0), axis=axis)


def masked_mean(
    x: chex.Array, where: chex.Array, axis: int | None = None) -> chex.Array:
  """Mean of the valid entries of `x`; see `masked_sum` for the arguments."""
  count = jnp.sum(where, axis=axis)
  return masked_sum(x, where, axis) / jnp.maximum(count, 1)


def group_sum(
    x: chex.Array,
    group_ids: chex.Array,
    *,
    num_groups: int,
    where: chex.Array,
) -> chex.Array:
  """Sum of the valid entries of each group.

  Args:
    x: `[B]` values.
    group_ids: `[B]` int, in `[0, num_groups)` where valid.
    num_groups: number of groups.
    where: `[B]` bool, True = valid.

  Returns:
    `[num_groups]` sums, 0 for a group without members.
  """
  chex.assert_equal_shape([x, group_ids, where])
  # One group more takes what is masked, so that its ids may be anything.
  return jax.ops.segment_sum(
      jnp.where(where, x, 0), jnp.where(where, group_ids, num_groups),
      num_segments=num_groups + 1)[:num_groups]


def group_spread(
    x: chex.Array,
    group_ids: chex.Array,
    *,
    num_groups: int,
    where: chex.Array,
) -> chex.Array:
  """Whether the valid members of each group differ: `[num_groups]` bool.

  Decided by comparing the largest with the smallest member, so a group of any
  constant value has no spread, whatever rounding does to its mean.
  """
  chex.assert_equal_shape([x, group_ids, where])
  ids = jnp.where(where, group_ids, num_groups)
  x = jax.lax.stop_gradient(jnp.where(where, x, 0))
  largest = jax.ops.segment_max(x, ids, num_segments=num_groups + 1)
  smallest = jax.ops.segment_min(x, ids, num_segments=num_groups + 1)
  return (largest > smallest)[:num_groups]
