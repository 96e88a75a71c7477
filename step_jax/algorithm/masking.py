"""Reductions that are safe under a mask: values, gradients and foul padding.

Everything selects before it computes, so NaN or inf behind the mask changes
neither the value nor the gradient, and a reduction over nothing is 0.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp


def sum_type(x: chex.Array) -> jnp.dtype:
  """The type to sum `x` in: its own if that is a float of 32 bits or more."""
  wide = jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize >= 4
  return x.dtype if wide else jnp.dtype(jnp.float32)


def as_float(x: chex.Array) -> chex.Array:
  """`x` in `sum_type`: bfloat16 and float16 would lose a sum's small terms."""
  x = jnp.asarray(x)
  return x.astype(sum_type(x))


def in_range(ids: chex.Array, size: int) -> chex.Array:
  """Which ids lie in `[0, size)`; the others count for nothing anywhere.

  Args:
    ids: `[...]` int.
    size: of what they number.

  Returns:
    `[...]` bool.
  """
  return (0 <= ids) & (ids < size)


def masked_sum(
    x: chex.Array, where: chex.Array, axis: int | None = None) -> chex.Array:
  """Sum of the valid entries of `x`.

  Args:
    x: `[...]` values; entries behind the mask may be anything.
    where: bool, the shape of `x`, True = valid.
    axis: axis to reduce, all of them if None.

  Returns:
    The reduced array, at least float32; 0 where nothing is valid.
  """
  chex.assert_equal_shape([x, where])
  return jnp.sum(jnp.where(where, as_float(x), 0), axis=axis)


def masked_mean(
    x: chex.Array, where: chex.Array, axis: int | None = None) -> chex.Array:
  """Mean of the valid entries of `x`.

  Args:
    x: `[...]` values; entries behind the mask may be anything.
    where: bool, the shape of `x`, True = valid.
    axis: axis to reduce, all of them if None.

  Returns:
    The reduced array, at least float32; 0 where nothing is valid.
  """
  count = jnp.sum(where, axis=axis)
  total = masked_sum(x, where, axis)
  return total / jnp.maximum(count, 1).astype(total.dtype)


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
    group_ids: `[B]` int; what lies outside `[0, num_groups)` is not counted.
    num_groups: number of groups.
    where: `[B]` bool, True = valid.

  Returns:
    `[num_groups]` sums, at least float32, 0 for a group without members.
  """
  chex.assert_equal_shape([x, group_ids, where])
  where = where & in_range(group_ids, num_groups)
  # One group more takes what is masked, so that its ids may be anything.
  return jax.ops.segment_sum(
      jnp.where(where, as_float(x), 0),
      jnp.where(where, group_ids, num_groups),
      num_segments=num_groups + 1)[:num_groups]


def group_spread(
    x: chex.Array,
    group_ids: chex.Array,
    *,
    num_groups: int,
    where: chex.Array,
) -> chex.Array:
  """Whether the valid members of each group differ.

  Decided by comparing the largest with the smallest member, so a group of any
  constant value has no spread, whatever rounding does to its mean.

  Args:
    x: `[B]` values.
    group_ids: `[B]` int; what lies outside `[0, num_groups)` is not counted.
    num_groups: number of groups.
    where: `[B]` bool, True = valid.

  Returns:
    `[num_groups]` bool, False for a group without members.
  """
  chex.assert_equal_shape([x, group_ids, where])
  groups: dict[str, Any] = dict(
      group_ids=group_ids, num_groups=num_groups, where=where)
  x = as_float(x)  # there is no -True, and -1 of a uint8 is 255
  return group_max(x, **groups) > -group_max(-x, **groups)


def group_max(
    x: chex.Array,
    group_ids: chex.Array,
    *,
    num_groups: int,
    where: chex.Array,
) -> chex.Array:
  """The largest valid entry of each group, a constant to `jax.grad`.

  Args:
    x: `[B]` values.
    group_ids: `[B]` int; what lies outside `[0, num_groups)` is not counted.
    num_groups: number of groups.
    where: `[B]` bool, True = valid.

  Returns:
    `[num_groups]`, at least float32; -inf for a group without members.
  """
  chex.assert_equal_shape([x, group_ids, where])
  where = where & in_range(group_ids, num_groups)
  ids = jnp.where(where, group_ids, num_groups)
  x = jax.lax.stop_gradient(jnp.where(where, as_float(x), 0))
  return jax.ops.segment_max(
      x, ids, num_segments=num_groups + 1)[:num_groups]
