"""What a trajectory is worth: golden, oracle, padding, order, gradient."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import step_jax
from tests import examples
from tests import reference

NUM_GROUPS = 5
ROWS = 40
FOUL_IDS = (-1, -NUM_GROUPS, NUM_GROUPS, 10**6, 2**31 - 1, -2**31)
FOUL_VALUES = (np.nan, np.inf, -np.inf, 3e38)
RATES = np.array([0, 0.25, 0.5, 0.9, 1], np.float32)


def _weighted(returns, ids, where=None):
  return step_jax.success_weighted_advantages(
      returns, ids, jnp.asarray(RATES), where=where)


def _relative(returns, ids, where=None, **options):
  return step_jax.group_relative_advantages(
      returns, ids, num_groups=NUM_GROUPS, where=where, **options)


def _left_out(returns, ids, where=None):
  return step_jax.leave_one_out_advantages(
      returns, ids, num_groups=NUM_GROUPS, where=where)


def _signed(returns, ids, where=None):
  return step_jax.success_rate_advantages(
      returns, ids, jnp.asarray(RATES), where=where)


def _normalised(returns, ids, where=None, **options):
  return step_jax.batch_normalised_advantages(
      returns, ids, jnp.asarray(RATES), where=where, **options)


def _oracle_weighted(returns, ids, where=None):
  return reference.success_weighted(returns, ids, RATES, where)


def _oracle_relative(returns, ids, where=None):
  return reference.group_relative(returns, ids, NUM_GROUPS, where)


def _oracle_left_out(returns, ids, where=None):
  return reference.leave_one_out(returns, ids, NUM_GROUPS, where)


def _oracle_signed(returns, ids, where=None):
  return reference.success_rate_difference(returns, ids, RATES, where)


def _oracle_normalised(returns, ids, where=None):
  return reference.batch_normalised(returns, ids, RATES, where)


JITTED = {
    f: jax.jit(functools.partial(f)) for f in
    (_weighted, _relative, _left_out, _signed, _normalised)}
ESTIMATORS = pytest.mark.parametrize('estimator', list(JITTED))
GROUPED = pytest.mark.parametrize('estimator', [_relative, _left_out])
ORACLES = {_weighted: _oracle_weighted, _relative: _oracle_relative,
           _left_out: _oracle_left_out, _signed: _oracle_signed,
           _normalised: _oracle_normalised}


def _batch(seed, binary=False):
  """returns, ids and where; unequal groups, some rows of each masked."""
  rng = np.random.default_rng(seed)
  returns = rng.normal(size=ROWS).astype(np.float32)
  if binary:
    returns = (returns > 0).astype(np.float32)
  ids = rng.choice(NUM_GROUPS, ROWS, p=[.4, .3, .2, .07, .03])
  return returns, ids.astype(np.int32), rng.random(ROWS) < 0.8


def _in_one_group(values):
  values = np.asarray(values, np.float32)
  return values, np.zeros(len(values), np.int32)


# success_weighted_advantages


def test_success_weighted_golden():
  # (1 - s) R: a lone success of 16 has s = 1/16, so 1 - 1/16 = 0.9375;
  # 16 of 16 has s = 1, so 0; a failure is 0 whatever its task; half of the
  # return at s = 0.25 is 0.75 * 0.5 = 0.375.
  actual = jax.jit(step_jax.success_weighted_advantages)(
      np.array([1, 1, 0, 0, 0.5], np.float32),
      np.array([0, 1, 0, 1, 2], np.int32),
      np.array([1 / 16, 1, 0.25], np.float32))
  np.testing.assert_array_equal(actual, [0.9375, 0, 0, 0, 0.375])


def test_a_group_of_successes_after_its_own_update_is_worth_nothing():
  ids = np.repeat(np.arange(2, dtype=np.int32), 16)
  successes = np.arange(32) <= 16  # all 16 of task 0, a lone one of task 1

  @jax.jit
  def advantages(ids, successes):
    collected, succeeded = step_jax.count_outcomes(
        ids, successes, num_tasks=2)
    record = step_jax.update_success_rate(
        np.zeros(2, np.float32), collected, succeeded, group_size=16)
    return step_jax.success_weighted_advantages(
        successes.astype(np.float32), ids, record)

  np.testing.assert_array_equal(
      advantages(ids, successes), [0] * 16 + [0.9375] + [0] * 15)


def test_failures_are_discarded_whatever_their_return():
  # R > 0 is the condition: neither 0 nor a penalty is a success.
  returns, ids = _in_one_group([0, -1, -0.5, 2])
  np.testing.assert_array_equal(
      JITTED[_weighted](returns, ids), [0, 0, 0, 2])


def test_success_weighted_gradient():
  # By R: 1 - s for a success, 0 else. By s: -R of the task's successes.
  returns = np.array([1, 0, 2, 1], np.float32)
  ids = np.array([1, 1, 1, 3], np.int32)
  by_return, by_rate = jax.jit(jax.grad(
      lambda r, s: step_jax.success_weighted_advantages(r, ids, s).sum(),
      argnums=(0, 1)))(returns, RATES)
  np.testing.assert_allclose(by_return, [0.75, 0, 0.75, 0.1], rtol=1e-6)
  np.testing.assert_array_equal(by_rate, [0, -3, 0, -1, 0])


def test_a_numpy_record_may_meet_traced_ids():
  returns, ids, _ = _batch(12)
  actual = jax.jit(lambda r, i: step_jax.success_weighted_advantages(
      r, i, RATES))(returns, ids)
  np.testing.assert_allclose(
      actual, _oracle_weighted(returns, ids), rtol=1e-5, atol=1e-6)


def test_foul_padding_does_not_reach_the_record():
  """Gradient by the success rate too, and rates of masked rows only."""
  returns = np.array([1, np.nan, 1, np.inf], np.float32)
  ids = np.array([1, 1, 4, 2**31 - 1], np.int32)
  where = np.array([True, False, False, False])
  rates = np.array([0, 0.25, 0, 0, np.nan], np.float32)

  def total(returns, rates):
    advantages = step_jax.success_weighted_advantages(
        returns, ids, rates, where=where)
    return advantages.sum(), advantages

  gradients, advantages = jax.jit(jax.grad(
      total, argnums=(0, 1), has_aux=True))(returns, rates)
  np.testing.assert_array_equal(advantages, [0.75, 0, 0, 0])
  np.testing.assert_array_equal(gradients[0], [0.75, 0, 0, 0])
  np.testing.assert_array_equal(gradients[1], [0, -1, 0, 0, 0])


# success_rate_advantages


def test_success_rate_golden():
  # R - s: 1 - 1/4 and 0 - 1/4 at s = 1/4; 0 - 1 and 1 - 1 at s = 1; half a
  # return at s = 0 is 1/2; the last row is lost.
  actual = jax.jit(step_jax.success_rate_advantages)(
      np.array([1, 0, 0, 1, 0.5, 1], np.float32),
      np.array([1, 1, 2, 2, 0, 1], np.int32),
      np.array([0, 0.25, 1], np.float32),
      where=np.array([1, 1, 1, 1, 1, 0], bool))
  np.testing.assert_array_equal(actual, [0.75, -0.25, -1, 0, 0.5, 0])


def test_success_rate_is_success_weighted_and_its_negative_half():
  returns, ids, where = _batch(13, binary=True)
  assert set(returns) == {0, 1}
  signed, weighted = (np.asarray(JITTED[estimator](returns, ids, where))
                      for estimator in (_signed, _weighted))
  np.testing.assert_allclose(
      signed - weighted, np.where(where & (returns == 0), -RATES[ids], 0),
      atol=1e-7)


def test_success_rate_advantages_of_a_task_sum_to_zero_at_its_mean():
  """Of 16 copies and their own rate, whatever the sizes of other groups."""
  ids = np.repeat(np.arange(2, dtype=np.int32), [16, 5])
  returns = (np.arange(21) % 4 == 0).astype(np.float32)
  rates = np.array([returns[:16].mean(), 1], np.float32)
  actual = jax.jit(step_jax.success_rate_advantages)(returns, ids, rates)
  np.testing.assert_allclose(np.sum(actual[:16]), 0, atol=1e-6)


@pytest.mark.parametrize(
    'function', [step_jax.success_rate_advantages,
                 step_jax.batch_normalised_advantages])
def test_foul_padding_does_not_reach_the_baseline(function):
  returns = np.array([1, np.nan, 0, np.inf], np.float32)
  ids = np.array([1, 1, 2, 2**31 - 1], np.int32)
  where = np.array([True, False, True, False])
  rates = np.array([np.nan, 0.25, 0.5, np.nan], np.float32)

  def total(returns, rates):
    return function(returns, ids, rates, where=where)[0]

  gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(returns, rates)
  for gradient, used in zip(gradients, (where, [False, True, True, False])):
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(np.asarray(gradient)[~np.array(used)], 0)


# batch_normalised_advantages


def test_batch_normalised_golden():
  # R - v: 3/4, -1/4, -1/2, 0 have mean 0 and squares 9/16 + 1/16 + 4/16, so
  # the sample's variance is (14/16) / 3 = 7/24, the population's 7/32. The
  # last row is lost.
  arguments = (np.array([1, 0, 0, 1, np.nan], np.float32),
               np.array([0, 0, 1, 2, 0], np.int32),
               np.array([0.25, 0.5, 1], np.float32))
  where = np.arange(5) < 4
  centred = np.array([0.75, -0.25, -0.5, 0, 0])
  for ddof, variance in [(1, 7 / 24), (0, 7 / 32)]:
    actual = jax.jit(functools.partial(
        step_jax.batch_normalised_advantages, ddof=ddof))(
            *arguments, where=where)
    np.testing.assert_allclose(actual, centred / variance**0.5, rtol=1e-6)


def test_batch_normalised_compares_across_tasks():
  """A task without spread of its own has advantages; a batch has none."""
  returns, ids = np.ones(4, np.float32), np.array([0, 0, 1, 1], np.int32)
  normalised = JITTED[_normalised]
  actual = normalised(returns, ids)  # surprises of 1 and 0.75
  half = np.float32(0.75) ** 0.5
  np.testing.assert_allclose(actual, [half, half, -half, -half], rtol=1e-6)
  for same in (normalised(returns, 0 * ids), normalised(*map(
      lambda x: x[:1], (returns, ids)))):
    np.testing.assert_array_equal(same, np.zeros_like(same))


# group_relative_advantages


def test_group_relative_golden():
  # Group 0: 1, 0, 0, 0 has mean 1/4 and, with ddof 1, variance
  # (9/16 + 3/16) / 3 = 1/4, so (3/4) / (1/2) = 1.5 and -0.5.
  # Group 2: 1, 0 has mean 1/2 and variance 1/2, so +-1/sqrt 2.
  returns = np.array([1, 0, 0, 0, 1, 0], np.float32)
  ids = np.array([0, 0, 2, 0, 2, 0], np.int32)
  half = np.sqrt(0.5)
  np.testing.assert_allclose(
      JITTED[_relative](returns, ids), [1.5, -0.5, -half, -0.5, half, -0.5],
      rtol=1e-6)


def test_group_relative_golden_population():
  # ddof 0: variance (9/16 + 3/16) / 4 = 3/16, so sqrt 3 and -1/sqrt 3.
  actual = jax.jit(functools.partial(_relative, ddof=0))(
      *_in_one_group([1, 0, 0, 0]))
  np.testing.assert_allclose(
      actual, [3 ** 0.5] + [-3 ** -0.5] * 3, rtol=1e-6)


def test_long_episodes_weigh_no_more_than_short_ones():
  # One success in 3 steps, one failure in 15: +-0.707 at each step, where
  # statistics over the 18 step rows would give +2.17 and -0.435.
  advantages = JITTED[_relative](*_in_one_group([1, 0]))
  np.testing.assert_allclose(
      advantages, [0.70710678, -0.70710678], rtol=1e-6)


@pytest.mark.parametrize('scale, shift', [
    (1e-4, 0.0), (1e4, 0.0), (1.0, 1000.0), (0.01, -5.0)])
def test_group_relative_knows_neither_scale_nor_shift(scale, shift):
  """No constant is added to the deviation, no square is subtracted."""
  returns, ids = _in_one_group([1, 0, 0, 0])
  moved = (returns * scale + shift).astype(np.float32)
  assert len(set(moved)) == 2
  np.testing.assert_allclose(
      JITTED[_relative](moved, ids), [1.5, -0.5, -0.5, -0.5], rtol=1e-4)


@pytest.mark.parametrize('ddof', [0, 1])
def test_group_relative_ddof_oracle(ddof):
  returns, ids, where = _batch(11)
  sizes = [(where & (ids == g)).sum() for g in range(NUM_GROUPS)]
  assert max(sizes) > 3 and min(sizes) < 2
  np.testing.assert_allclose(
      jax.jit(functools.partial(_relative, ddof=ddof))(returns, ids, where),
      reference.group_relative(returns, ids, NUM_GROUPS, where, ddof),
      rtol=1e-4, atol=1e-6)


# leave_one_out_advantages


def test_leave_one_out_golden():
  # 1, 0, 0, 0: the others of the success have mean 0, those of a failure
  # 1/3. Row 4 is alone in its group.
  returns = np.array([1, 0, 0, 0, 1], np.float32)
  ids = np.array([0, 0, 0, 0, 3], np.int32)
  np.testing.assert_allclose(
      JITTED[_left_out](returns, ids), [1, -1 / 3, -1 / 3, -1 / 3, 0],
      rtol=1e-6)


# groups without spread


@GROUPED
@pytest.mark.parametrize('size', [2, 3, 7, 16, 40])
@pytest.mark.parametrize('value', [0, 1, 0.95, 0.1, -0.3, 1e-7, 1e6 / 3])
def test_a_constant_group_is_exactly_zero(estimator, value, size):
  returns = np.full(ROWS, value, np.float32)
  where = np.arange(ROWS) < size
  actual = JITTED[estimator](returns, np.zeros(ROWS, np.int32), where)
  np.testing.assert_array_equal(actual, np.zeros(ROWS))


@GROUPED
def test_a_constant_group_is_zero_beside_one_with_spread(estimator):
  returns = np.full(ROWS, 0.95, np.float32)
  ids = (np.arange(ROWS) % 2).astype(np.int32)
  returns[::4] = 0  # half of group 0
  for run in (estimator, JITTED[estimator]):
    actual = np.asarray(run(returns, ids, np.ones(ROWS, bool)))
    np.testing.assert_array_equal(actual[ids == 1], np.zeros(ROWS // 2))
    assert (actual[ids == 0] != 0).all()


@GROUPED
@pytest.mark.parametrize('value', [0.0, 0.95, 7.0])
def test_a_group_of_one_is_zero_and_not_its_return(estimator, value):
  returns, ids = _in_one_group([value])
  np.testing.assert_array_equal(JITTED[estimator](returns, ids), [0.0])


@GROUPED
def test_a_group_that_its_mask_leaves_alone_is_zero(estimator):
  returns, ids = _in_one_group([1, 0, 0])
  actual = JITTED[estimator](returns, ids, np.array([True, False, False]))
  np.testing.assert_array_equal(actual, [0.0, 0.0, 0.0])


def test_a_constant_group_has_gradient_zero():
  """The deviation of a constant group has no derivative to lean on."""
  returns, ids = _in_one_group([0.95, 0.95, 0.95])
  weights = np.array([1, 2, 3], np.float32)
  gradient = jax.jit(jax.grad(
      lambda r: (_relative(r, ids) * weights).sum()))(returns)
  np.testing.assert_array_equal(gradient, np.zeros(3))


# all of them


@ESTIMATORS
@pytest.mark.parametrize('seed', range(20))
def test_oracle(estimator, seed):
  returns, ids, where = _batch(seed, binary=seed % 2 == 0)
  assert where.any() and not where.all()
  actual = JITTED[estimator](returns, ids, where)
  assert actual.shape == (ROWS,) and actual.dtype == jnp.float32
  expected = ORACLES[estimator](returns, ids, where)
  assert np.abs(expected).max() > 0
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(np.asarray(actual)[~where], 0)


@ESTIMATORS
def test_eager_jit_and_vmap_agree(estimator):
  examples.check_jit_and_vmap(
      estimator, [_batch(seed) for seed in range(3)], rtol=1e-5, atol=1e-6)


@ESTIMATORS
def test_without_where_all_rows_are_valid(estimator):
  returns, ids, _ = _batch(4)
  np.testing.assert_allclose(
      estimator(returns, ids), ORACLES[estimator](returns, ids),
      rtol=1e-4, atol=1e-6)


@ESTIMATORS
def test_foul_padding_changes_neither_value_nor_gradient(estimator):
  returns, ids, where = _batch(5)
  weights = np.random.default_rng(1).normal(size=ROWS).astype(np.float32)

  _check_foul_padding(
      lambda returns, ids: estimator(returns, ids, where), weights,
      (returns, where), (ids, where))


def _check_foul_padding(estimator, weights, returns, *ids):
  """Whatever stands in padding moves neither value nor gradient.

  Args:
    estimator: of returns and several kinds of ids.
    weights: of the sum whose gradient is taken.
    returns: a pair, values and where they are valid.
    *ids: such pairs of int32.
  """
  @jax.jit
  def value_and_gradient(returns, *ids):
    def total(returns):
      advantages = estimator(returns, *ids)
      return (advantages * weights).sum(), advantages
    return jax.grad(total, has_aux=True)(returns)

  values, where = returns
  expected = value_and_gradient(values, *(x for x, _ in ids))
  assert np.abs(np.asarray(expected[0])[where]).max() > 0
  np.testing.assert_array_equal(np.asarray(expected[0])[~where], 0)
  for foul_value in FOUL_VALUES:
    for foul_id in FOUL_IDS:
      actual = value_and_gradient(
          np.where(where, values, np.float32(foul_value)),
          *(np.where(valid, x, np.int32(foul_id)) for x, valid in ids))
      chex.assert_trees_all_equal(actual, expected)


@ESTIMATORS
def test_more_padding_changes_nothing(estimator):
  returns, ids, where = _batch(6)
  expected = np.asarray(JITTED[estimator](returns, ids, where))
  more = np.full(9, -1, np.int32)
  actual = JITTED[estimator](
      np.concatenate([returns, np.full(9, np.nan, np.float32)]),
      np.concatenate([ids, more]), np.concatenate([where, more > 0]))
  np.testing.assert_allclose(
      np.asarray(actual)[:ROWS], expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(np.asarray(actual)[ROWS:], np.zeros(9))


@ESTIMATORS
def test_order_does_not_matter(estimator):
  returns, ids, where = _batch(8)
  order = np.random.default_rng(0).permutation(ROWS)
  assert (order != np.arange(ROWS)).any()
  expected = np.asarray(JITTED[estimator](returns, ids, where))[order]
  actual = JITTED[estimator](returns[order], ids[order], where[order])
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@ESTIMATORS
@pytest.mark.parametrize('foul', FOUL_VALUES)
def test_all_masked_is_zero_with_gradient_zero(estimator, foul):
  returns, ids, _ = _batch(9)
  nothing = np.zeros(ROWS, bool)
  returns[::3] = foul
  value, gradient = jax.value_and_grad(
      lambda r: JITTED[estimator](r, ids, nothing).sum())(returns)
  np.testing.assert_array_equal(value, 0.0)
  np.testing.assert_array_equal(gradient, np.zeros(ROWS))


@pytest.mark.parametrize(
    'estimator', [_relative, _left_out, _signed, _normalised])
def test_gradient_against_numerical_differences(estimator):
  returns, ids, where = _batch(10)
  weights = np.random.default_rng(2).normal(size=ROWS)
  actual = jax.jit(jax.grad(lambda r: (estimator(
      r, ids, where) * weights.astype(np.float32)).sum()))(returns)
  expected = reference.numerical_gradient(
      lambda r: (ORACLES[estimator](r, ids, where) * weights).sum(), returns)
  assert np.abs(expected).max() > 0
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


@ESTIMATORS
def test_traces_once(estimator):
  examples.check_one_trace(estimator, _batch(0), _batch(1))


@ESTIMATORS
def test_refuses_wrong_shapes(estimator):
  returns, ids, where = _batch(0)
  with pytest.raises(AssertionError):
    estimator(returns, ids[:-1], where)
  with pytest.raises(AssertionError):
    estimator(returns[None], ids[None], where[None])
  with pytest.raises(AssertionError):
    estimator(returns, ids, where[:-1])


def test_success_weighted_refuses_a_table_of_rates():
  returns, ids, _ = _batch(0)
  with pytest.raises(AssertionError):
    step_jax.success_weighted_advantages(returns, ids, RATES[None])


def test_lost_trajectories_count_for_nothing_anywhere():
  """A group of 4 with one lost equals the group of the other 3."""
  returns, ids = _in_one_group([1, 0, 0, 1])
  where = np.array([True, True, True, False])
  for estimator in JITTED.values():
    actual = np.asarray(estimator(returns, ids, where))
    np.testing.assert_allclose(
        actual[:3], estimator(returns[:3], ids[:3]), rtol=1e-6)
    assert actual[3] == 0


# gigpo_advantages

TIME = 6


def _gigpo(returns, ids, states, mask, **options):
  return step_jax.gigpo_advantages(
      returns, ids, states, num_groups=NUM_GROUPS, step_mask=mask, **options)


_jit_gigpo = jax.jit(_gigpo)


def _oracle_gigpo(returns, ids, states, mask, **options):
  return reference.gigpo(returns, ids, states, NUM_GROUPS, mask, **options)


def _visits(seed, binary=False):
  """returns, ids, states and mask: few states, some seen once, some lost."""
  rng = np.random.default_rng(seed)
  returns, ids, valid = _batch(seed, binary)
  names = np.array([0, 7, 10**6, 2**31 - 1, 2**31 - 2], np.int32)
  states = rng.choice(names, (ROWS, TIME), p=[.5, .3, .1, .05, .05])
  mask = np.arange(TIME) < rng.integers(1, TIME + 1, ROWS)[:, None]
  if seed % 3 == 0:
    mask &= rng.random(mask.shape) < .8  # steps may be missing anywhere
  mask &= valid[:, None]
  return returns, ids, np.where(mask, states, -1).astype(np.int32), mask


def test_gigpo_golden():
  # Group 0 holds a success with states 5, 7, 5 and a failure with 5, 9; the
  # episodes are worth +-h with h = sqrt(1/2). With gamma = 1/2 the values at
  # state 5 are 1/4, 1 and 0: mean 5/12, deviations -2/12, 7/12, -5/12, sum of
  # squares 78/144, variance 39/144; so -2, 7 and -5 over sqrt(39). States 7
  # and 9 are seen once. Group 3 holds one success, at state 5 twice: no
  # episode advantage; values 1/2 and 1 are +-h. Row 3 was lost. omega = 2.
  h, r = 0.5 ** 0.5, 39 ** -0.5
  actual = jax.jit(functools.partial(step_jax.gigpo_advantages, num_groups=4))(
      np.array([1, 0, 1, 0], np.float32), np.array([0, 0, 3, 3], np.int32),
      np.array([[5, 7, 5], [5, 9, -1], [5, 5, -1], [-1, -1, -1]], np.int32),
      step_mask=np.array(
          [[1, 1, 1], [1, 1, 0], [1, 1, 0], [0, 0, 0]], bool),
      discount=0.5, step_weight=2.0)
  np.testing.assert_allclose(actual, [
      [h - 4 * r, h, h + 14 * r], [-h - 10 * r, -h, 0], [-2 * h, 2 * h, 0],
      [0, 0, 0]], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('seed', range(20))
def test_gigpo_oracle(seed):
  returns, ids, states, mask = _visits(seed, binary=seed % 2 == 0)
  options = [{}, {'discount': .5, 'step_weight': 3.}, {'discount': 1.},
             {'discount': 0.}][seed % 4]
  actual = _gigpo(returns, ids, states, mask, **options)
  assert actual.shape == (ROWS, TIME) and actual.dtype == jnp.float32
  expected = _oracle_gigpo(returns, ids, states, mask, **options)
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-5)
  np.testing.assert_array_equal(np.asarray(actual)[~mask], 0)


def test_pieces_of_the_visits():
  """Both parts are there: shared states, lone ones, rows that were lost."""
  for seed in range(4):
    returns, ids, states, mask = _visits(seed, binary=True)
    assert 0 < (~mask.any(axis=1)).sum() < ROWS
    pairs = list(zip(np.repeat(ids, TIME)[mask.ravel()], states[mask]))
    counts = [pairs.count(pair) for pair in set(pairs)]
    assert 1 in counts and max(counts) > 9
    episode = _oracle_gigpo(returns, ids, states, mask, step_weight=0.)
    both = _oracle_gigpo(returns, ids, states, mask)
    assert (episode != both).sum() > 20 and (episode != 0).sum() > 20


def test_gigpo_without_its_step_part_is_group_relative():
  returns, ids, states, mask = _visits(1)
  expected = _relative(returns, ids, mask.any(axis=1))
  for actual in (
      _gigpo(returns, ids, states, mask, step_weight=0.),
      # No state is seen twice.
      _gigpo(returns, ids, np.where(
          mask, np.arange(ROWS * TIME).reshape(mask.shape), -1), mask),
      # No state is known.
      _gigpo(returns, ids, np.full_like(states, -1), mask)):
    np.testing.assert_allclose(
        actual, np.where(mask, expected[:, None], 0), rtol=1e-6)


@pytest.mark.parametrize('value', [0, 1, 0.95, 0.1, -0.3, 1e6 / 3])
@pytest.mark.parametrize('size', [2, 3, 7, 40])
def test_gigpo_of_constant_values_is_exactly_zero(value, size):
  """Every visit of a state has the same delay, so neither part has spread."""
  returns = np.full(ROWS, value, np.float32)
  states = np.tile(np.arange(TIME, dtype=np.int32), (ROWS, 1))
  mask = np.tile(np.arange(ROWS)[:, None] < size, (1, TIME))
  for run in (_gigpo, _jit_gigpo):
    actual = run(returns, np.zeros(ROWS, np.int32), states, mask)
    np.testing.assert_array_equal(actual, np.zeros((ROWS, TIME)))
  gradient = jax.grad(lambda r: (_jit_gigpo(
      r, np.zeros(ROWS, np.int32), states, mask) * states).sum())(returns)
  np.testing.assert_array_equal(gradient, np.zeros(ROWS))


@pytest.mark.parametrize('rows, steps', [(3, 5), (7, 15), (31, 7)])
def test_gigpo_of_equal_delays_is_exactly_zero(rows, steps):
  """Episodes of any length whose states tell how many steps are left."""
  lengths = np.random.default_rng(rows).integers(1, steps + 1, rows)[:, None]
  mask = np.arange(steps) < lengths
  left = np.where(mask, lengths - np.arange(steps), -1).astype(np.int32)
  assert len(set(lengths.ravel())) > 1
  for value in (0.95, 1, 0.1):
    returns = np.full(rows, value, np.float32)
    for run in (_gigpo, _jit_gigpo):
      actual = run(returns, np.zeros(rows, np.int32), left, mask)
      np.testing.assert_array_equal(actual, np.zeros(mask.shape))


def test_gigpo_knows_states_by_group_and_not_by_number():
  """Groups may use the same numbers, and numbers mean nothing."""
  returns, ids, states, mask = _visits(2)
  expected = _jit_gigpo(returns, ids, states, mask)
  _, small = np.unique(states, return_inverse=True)
  small = small.reshape(states.shape)  # numpy 1 returns it flat
  for other in (small, 7 + small * NUM_GROUPS + ids[:, None],
                2**31 - 1 - small * 10**8):
    assert other.min() >= 0
    actual = _jit_gigpo(returns, ids, other.astype(np.int32), mask)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_gigpo_eager_jit_and_vmap_agree():
  examples.check_jit_and_vmap(
      _gigpo, [_visits(seed) for seed in range(3)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('options', [{}, {'discount': 0.}])
def test_gigpo_foul_padding_changes_neither_value_nor_gradient(options):
  returns, ids, states, mask = _visits(5)
  weights = np.random.default_rng(1).normal(size=mask.shape)
  valid = mask.any(axis=1)
  _check_foul_padding(
      lambda returns, ids, states: _gigpo(
          returns, ids, states, mask, **options), weights.astype(np.float32),
      (returns, valid), (ids, valid), (states, mask))


def test_gigpo_more_padding_changes_nothing():
  returns, ids, states, mask = _visits(6)
  expected = np.asarray(_jit_gigpo(returns, ids, states, mask))
  pad = (0, 9), (0, 3)
  actual = np.asarray(_jit_gigpo(
      np.pad(returns, pad[0], constant_values=np.nan),
      np.pad(ids, pad[0], constant_values=-1),
      np.pad(states, pad, constant_values=-1), np.pad(mask, pad)))
  np.testing.assert_allclose(
      actual[:ROWS, :TIME], expected, rtol=1e-5, atol=1e-6)
  assert not actual[ROWS:].any() and not actual[:, TIME:].any()


def test_gigpo_order_does_not_matter():
  batch = _visits(8)
  order = np.random.default_rng(0).permutation(ROWS)
  assert (order != np.arange(ROWS)).any()
  expected = np.asarray(_jit_gigpo(*batch))[order]
  actual = _jit_gigpo(*(x[order] for x in batch))
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('foul', FOUL_VALUES)
def test_gigpo_all_masked_is_zero_with_gradient_zero(foul):
  returns, ids, states, mask = _visits(9)
  returns[::3] = foul
  value, gradient = jax.value_and_grad(lambda r: _jit_gigpo(
      r, ids, states, np.zeros_like(mask)).sum())(returns)
  np.testing.assert_array_equal(value, 0.0)
  np.testing.assert_array_equal(gradient, np.zeros(ROWS))


def test_gigpo_gradient_against_numerical_differences():
  returns, ids, states, mask = _visits(10)
  weights = np.random.default_rng(2).normal(size=mask.shape)
  actual = jax.grad(lambda r: (_jit_gigpo(
      r, ids, states, mask) * weights.astype(np.float32)).sum())(returns)
  expected = reference.numerical_gradient(lambda r: (_oracle_gigpo(
      r, ids, states, mask) * weights).sum(), returns)
  assert np.abs(expected).max() > 0
  np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_gigpo_traces_once():
  examples.check_one_trace(_gigpo, _visits(0), _visits(1))


def test_gigpo_refuses_wrong_shapes():
  returns, ids, states, mask = _visits(0)
  for wrong in (
      (returns, ids[:-1], states, mask), (returns[:-1], ids[:-1], states, mask),
      (returns, ids, states[:, :-1], mask), (returns, ids, states, mask[:-1]),
      (returns, ids, states[:, 0], mask[:, 0])):
    with pytest.raises(AssertionError):
      _gigpo(*wrong)
