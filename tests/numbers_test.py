"""Types, tiny spreads and foul ids: what every public function bears."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import step_jax
from step_jax import samplers
from step_jax.algorithm import credit
from step_jax.algorithm import steps
from tests import examples
from tests import reference

RELATIVE = functools.partial(step_jax.group_relative_advantages, num_groups=1)
MASK = np.ones((4, 3), bool)


def _calls(dtype=np.float32):
  """Every public function of advantages, records and losses, once."""
  returns = jnp.array([1, 0, 1, 0], dtype)
  rates = jnp.array([.5, .25], dtype)
  ids, groups = jnp.array([0, 1, 1, 0]), jnp.array([0, 0, 1, 1])
  won = returns > 0
  logs = -jnp.ones((4, 3), dtype)
  counts = step_jax.count_outcomes(ids, won, num_tasks=2)
  loss = functools.partial(
      step_jax.clipped_surrogate_loss, logs, logs, returns, where=MASK)
  states = steps.state_ids(jnp.zeros((4, 3)), MASK)
  yield step_jax.update_success_rate(rates, *counts, group_size=4)
  yield step_jax.ema_success_rate(rates, *counts, decay=.8)
  yield step_jax.success_weighted_advantages(returns, ids, rates)
  yield step_jax.success_rate_advantages(returns, ids, rates)
  yield step_jax.batch_normalised_advantages(returns, ids, rates)
  yield step_jax.group_relative_advantages(returns, groups, num_groups=2)
  yield step_jax.leave_one_out_advantages(returns, groups, num_groups=2)
  yield step_jax.gigpo_advantages(
      returns, groups, states, num_groups=2, step_mask=MASK)
  yield step_jax.step_group_advantages(returns, MASK)
  yield loss()
  yield loss(importance_cap=1., old_log_probs=logs)
  yield loss(normaliser=jnp.sum(MASK))


def _round_calls():
  """The halves of a round and the samplers."""
  trajectory = examples.trajectory(0, [0, 0, 1, 1], 3)
  rates = jnp.array([.5, .25])
  base = jnp.array([0, 1])
  for name in ('trajectory_grpo', 'step', 'spo'):
    yield credit.assign_credit(
        trajectory, rates, method=step_jax.METHODS[name], group_size=4)
  for sampler in (samplers.sr_traj(), samplers.frontier(), samplers.plr(),
                  samplers.spo(), samplers.knapsack()):
    state = sampler.update(
        sampler.init(2), jnp.array([0, 1]), jnp.array([1., 0.]))
    yield sampler.propose(jax.random.key(0), base, state, group_size=4)


@pytest.mark.parametrize('calls', [_calls, _round_calls])
def test_nothing_is_promoted_by_itself(calls):
  with jax.numpy_dtype_promotion('strict'):
    for result in jax.jit(lambda: list(calls()))():
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(result))


def test_64_bits():
  narrow = jax.jit(lambda: list(_calls()))()
  jax.config.update('jax_enable_x64', True)
  try:
    wide = jax.jit(lambda: list(_calls(np.float64)))()
  finally:
    jax.config.update('jax_enable_x64', False)
  for actual, expected in zip(wide, narrow, strict=True):
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_16_bits_are_summed_in_32(dtype):
  """1,800 of 2,000 succeed: 1 + ... + 1 ends at 256 in bfloat16."""
  won = np.arange(2000) % 10 > 0
  returns = jnp.asarray(won, dtype)
  ids = np.zeros(2000, int)
  actual = RELATIVE(returns, ids)
  assert actual.dtype == np.float32
  np.testing.assert_allclose(
      actual, (won - won.mean()) / won.std(ddof=1), rtol=1e-4)
  np.testing.assert_allclose(
      step_jax.leave_one_out_advantages(returns, ids, num_groups=1),
      (won - won.mean()) * 2000 / 1999, rtol=1e-4)


@pytest.mark.parametrize('values', [
    [0, 1e-25], [0, 1e-37, 0], [1, 1.00001, 1], [1e18, -1e18, 3e18],
    [1, np.nextafter(np.float32(1), 2)]])
def test_groups_of_little_spread_against_float64(values):
  """verl #6348: small differences against a large mean."""
  returns = np.repeat(np.array(values, np.float32), 50)
  exact = returns.astype(np.float64)
  actual = jax.jit(RELATIVE)(returns, np.zeros(returns.size, int))
  np.testing.assert_allclose(
      actual, (exact - exact.mean()) / exact.std(ddof=1), rtol=1e-4,
      atol=1e-6)


def test_the_groups_of_verl_6348():
  """verl #6348: two groups, each of a small difference."""
  returns = np.array([1, 1.00001, 2, 2.00001], np.float32)
  actual = jax.jit(functools.partial(
      step_jax.group_relative_advantages, num_groups=2))(
          returns, np.array([0, 0, 1, 1]))
  np.testing.assert_allclose(
      actual, np.array([-1, 1, -1, 1]) / np.sqrt(2), rtol=1e-6)


def test_gigpo_of_a_thousand_steps_against_float64():
  """gamma^999 is 5e-23, and its square is less than any float32."""
  rows = (np.array([1, 0], np.float32), np.zeros(2, int),
          np.tile(np.arange(1000) // 2, (2, 1)))  # each state twice in a row
  mask = np.ones((2, 1000), bool)
  actual = jax.jit(functools.partial(
      step_jax.gigpo_advantages, num_groups=1))(*rows, step_mask=mask)
  np.testing.assert_allclose(
      actual, reference.gigpo(*rows, 1, mask), rtol=1e-3)


def test_ids_out_of_range_count_nowhere():
  ids = np.array([0, -1, -2, 2, 10**6, 1, 0])
  won = np.array([1, 1, 1, 1, 1, 1, 0], np.float32)
  known = (0 <= ids) & (ids < 2)
  counts = step_jax.count_outcomes(ids, won > 0, num_tasks=2)
  assert [x.tolist() for x in counts] == [[2, 1], [1, 1]]
  rates = jnp.array([.5, .25])
  for function in (
      step_jax.success_weighted_advantages, step_jax.success_rate_advantages):
    np.testing.assert_array_equal(
        function(won, ids, rates), function(won, ids, rates, where=known))
  batch = functools.partial(
      step_jax.batch_normalised_advantages, won, ids, rates)
  np.testing.assert_array_equal(batch(), batch(where=known))
  assert not np.asarray(batch())[~known].any()
  for function in (step_jax.group_relative_advantages,
                   step_jax.leave_one_out_advantages):
    actual = function(won, ids, num_groups=2)
    np.testing.assert_array_equal(
        actual, function(won, ids, num_groups=2, where=known))
    assert not np.asarray(actual)[~known].any()
  mask = np.ones((7, 2), bool)
  gigpo = jax.jit(lambda mask: step_jax.gigpo_advantages(
      won, ids, np.zeros((7, 2), int), num_groups=2, step_mask=mask))
  np.testing.assert_array_equal(gigpo(mask), gigpo(mask & known[:, None]))


def test_a_task_out_of_range_is_a_lost_trajectory():
  trajectory = examples.trajectory(0, [0, 0, -2, 7], 3)
  lost = trajectory.replace(valid=np.array([True, True, False, False]))
  results = [credit.assign_credit(
      x, jnp.array([.5, .25]), method=step_jax.METHODS['step_grpo'],
      group_size=4) for x in (trajectory, lost)]
  jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_round_of_nothing():
  nothing = np.zeros((0, 3), int)
  assert steps.state_ids(np.zeros((0, 3, 2)), nothing > 0).shape == (0, 3)
  assert step_jax.gigpo_advantages(
      np.zeros(0, np.float32), np.zeros(0, int), nothing, num_groups=0,
      step_mask=nothing > 0).shape == (0, 3)


def _on_shards(function, *rows):
  """A function of rows on a mesh of one device."""
  shard_map = getattr(jax, 'shard_map', None)
  if shard_map is None:
    from jax.experimental.shard_map import shard_map
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ('data',))
  spec = jax.sharding.PartitionSpec('data')
  return jax.jit(shard_map(
      function, mesh=mesh, in_specs=(spec,) * len(rows), out_specs=spec))(*rows)


def test_states_inside_shard_map():
  observations = jnp.array([[1, 2, 1], [2, 3, 3]])
  ids = _on_shards(steps.state_ids, observations, jnp.ones((2, 3), bool))
  np.testing.assert_array_equal(ids, [[0, 1, 0], [1, 4, 4]])

  def gigpo(returns, groups, ids, mask):
    return step_jax.gigpo_advantages(
        returns, groups, ids, num_groups=1, step_mask=mask)

  rows = (jnp.array([1., 0.]), jnp.zeros(2, jnp.int32), ids, MASK[:2])
  np.testing.assert_allclose(
      _on_shards(gigpo, *rows), jax.jit(gigpo)(*rows), atol=1e-6)


def test_hyper_parameters_are_traced():
  rates = jnp.array([.5, .7, .1])
  method = step_jax.METHODS['step']
  options = {'threshold': .4, 'sharpness': 5.}
  propose = functools.partial(
      credit.propose_tasks, jax.random.key(0), np.array([0, 1]), rates,
      method=method, group_size=8)
  np.testing.assert_array_equal(
      jax.jit(lambda x: propose(**x))(options), propose(**options))
  with pytest.raises(ValueError, match='expected threshold in'):
    propose(threshold=2.)
  logs, old = np.full((2, 3), -1.), np.full((2, 3), -1.5)
  loss = functools.partial(
      step_jax.clipped_surrogate_loss, logs, logs * 1.2, np.ones(2),
      old_log_probs=old, where=MASK[:2])
  for cap in (0., .5):
    np.testing.assert_allclose(
        jax.jit(lambda x: loss(importance_cap=x))(cap),
        loss(importance_cap=cap), rtol=1e-6)


def test_the_loss_selects_before_it_subtracts():
  logs = jnp.array([[-1., -jnp.inf]])
  with jax.debug_nans(True):
    assert step_jax.clipped_surrogate_loss(
        logs, logs, jnp.ones(1), where=jnp.array([[True, False]])) == -1


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_the_first_ratio_is_one_in_16_bits(dtype):
  """Then the loss is minus the mean advantage, to float32's precision.

  alf #1795.
  """
  rng = np.random.default_rng(0)
  logs = jnp.asarray(-9 * rng.random((50, 3)), dtype)
  advantages = rng.random(50).astype(np.float32)
  where = np.ones((50, 3), bool)
  for behaviour in (logs, logs.astype(jnp.float32)):
    loss = step_jax.clipped_surrogate_loss(
        logs, behaviour, advantages, where=where)
    np.testing.assert_allclose(loss, -advantages.mean(), rtol=1e-6)


def test_a_base_task_that_is_also_a_replacement_is_one_group():
  """Task 0 has its own slots and one of task 1's, as SR-Traj may give it.

  Search-R1 #88.
  """
  trajectory = examples.trajectory(0, [0, 0, 1, 0], 3)
  trajectory = trajectory.replace(
      returns=np.array([1, 0, 1, 0], np.float32), valid=np.ones(4, bool),
      successes=np.array([True, False, True, False]),
      step_mask=np.ones_like(trajectory.step_mask))
  singles, _, rates = credit.assign_credit(
      trajectory, jnp.zeros(2), method=step_jax.METHODS['step_grpo'],
      group_size=2, by_task=True)
  actual = np.asarray(singles.advantages).reshape(4, -1)[:, 0]
  three = (np.array([1, 0, 0]) - 1 / 3) / np.std([1, 0, 0], ddof=1)
  np.testing.assert_allclose(actual, [*three[:2], 0, three[2]], rtol=1e-5)
  np.testing.assert_allclose(rates, [1 / 3, .5], rtol=1e-6)
