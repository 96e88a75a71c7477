"""Reductions that padding cannot reach."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.algorithm import masking
from tests import examples

SHAPE = (4, 6)
AXES = pytest.mark.parametrize('axis', [None, 0, 1, -1])
FOUL = (np.nan, np.inf, -np.inf, 3e38)
REDUCTIONS = pytest.mark.parametrize(
    'reduce', [masking.masked_sum, masking.masked_mean])


def _oracle(reduce, x, where, axis):
  """numpy over the valid values, one line at a time; none gives 0."""
  take = np.sum if reduce is masking.masked_sum else np.mean
  if axis is None:
    return take(x[where]) if where.any() else 0.0
  lines = zip(np.moveaxis(x, axis, -1), np.moveaxis(where, axis, -1))
  return np.array([take(v[w]) if w.any() else 0.0 for v, w in lines])


def _values(seed):
  """Values and a mask with an empty row and an empty column."""
  rng = np.random.default_rng(seed)
  where = rng.random(SHAPE) < 0.6
  where[1] = False
  where[:, 2] = False
  return rng.normal(size=SHAPE).astype(np.float32), where


def test_pieces():
  _, where = _values(0)
  assert where.any() and not where.any(axis=0).all()
  assert not where.any(axis=1).all()


def test_golden():
  # 1 + 3 = 4 and 4 / 2 = 2: the mask shortens the mean, and 100 is not seen.
  x, where = np.array([1., 100., 3.], np.float32), np.array([1, 0, 1], bool)
  np.testing.assert_array_equal(masking.masked_sum(x, where), 4.0)
  np.testing.assert_array_equal(masking.masked_mean(x, where), 2.0)


def test_groups_golden():
  # Group 0 has 1 + 3; group 1 has 2 + 2, its 100 being masked; 2 is empty.
  groups = dict(
      group_ids=np.array([0, 0, 1, 1, 1, 9]), num_groups=3,
      where=np.array([1, 1, 1, 1, 0, 0], bool))
  x = np.array([1., 3., 2., 2., 100., np.nan], np.float32)
  np.testing.assert_array_equal(masking.group_sum(x, **groups), [4, 4, 0])
  np.testing.assert_array_equal(
      masking.group_spread(x, **groups), [True, False, False])


@pytest.mark.parametrize('dtype', [bool, np.uint8, np.int8, np.float16])
def test_spread_of_any_type(dtype):
  """A constant 1 and a constant 0 have none, 0 and 1 have some."""
  actual = masking.group_spread(
      np.array([1, 1, 0, 0, 0, 1], dtype), np.array([0, 0, 1, 1, 2, 2]),
      num_groups=3, where=np.ones(6, bool))
  np.testing.assert_array_equal(actual, [False, False, True])


@REDUCTIONS
@AXES
def test_oracle_eager_and_jit(reduce, axis):
  reduce_axis = functools.partial(reduce, axis=axis)
  jitted = jax.jit(reduce_axis)
  for seed in range(5):
    x, where = _values(seed)
    expected = _oracle(reduce, x.astype(np.float64), where, axis)
    for run in (reduce_axis, jitted):
      actual = run(x, where)
      assert actual.shape == np.shape(expected)
      assert actual.dtype == jnp.float32
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@REDUCTIONS
def test_vmap_is_the_last_axis(reduce):
  x, where = _values(3)
  np.testing.assert_allclose(
      jax.vmap(reduce)(x, where), reduce(x, where, axis=-1), rtol=1e-6)


@REDUCTIONS
@AXES
def test_padding_changes_neither_value_nor_gradient(reduce, axis):
  x, where = _values(5)
  value_and_grad = jax.jit(jax.value_and_grad(
      lambda x: jnp.sum(reduce(x, where, axis=axis) ** 2)))
  expected = value_and_grad(x)
  assert expected[0] > 0
  np.testing.assert_array_equal(np.asarray(expected[1])[~where], 0)
  for foul in FOUL:
    fouled = np.where(where, x, np.float32(foul))
    chex.assert_trees_all_equal(value_and_grad(fouled), expected)


@REDUCTIONS
def test_gradient_golden(reduce):
  # 1 for each valid value of a sum, 1/2 for each of two of a mean.
  where = np.array([True, False, True])
  gradient = jax.grad(lambda x: reduce(x, where))(np.ones(3, np.float32))
  one = 1.0 if reduce is masking.masked_sum else 0.5
  np.testing.assert_array_equal(gradient, [one, 0, one])


@REDUCTIONS
def test_order_does_not_matter(reduce):
  x, where = _values(6)
  np.testing.assert_allclose(
      reduce(x[::-1, ::-1], where[::-1, ::-1]), reduce(x, where), rtol=1e-5)


@REDUCTIONS
@AXES
def test_all_masked_is_zero_with_gradient_zero(reduce, axis):
  nothing = np.zeros(SHAPE, bool)
  for foul in (1.0, np.nan, np.inf):
    x = np.full(SHAPE, foul, np.float32)
    value, gradient = jax.value_and_grad(
        lambda x: reduce(x, nothing, axis=axis).sum())(x)
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(gradient, np.zeros(SHAPE))


@REDUCTIONS
def test_traces_once(reduce):
  examples.check_one_trace(reduce, _values(0), _values(1))
