"""Where the slots of a round go."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import step_jax
from step_jax.algorithm import resampling
from tests import examples
from tests import reference

GROUP_SIZE = 16
NUM_KEYS = 500

# Tasks 0 never solved, 1 mastered, 2 at the threshold, 3 above it, 4 to 6 in
# the cache, 7 never solved.
RECORD = np.array([0, 1, 0.6, 0.8, 0.2, 0.4, 0.59, 0], np.float32)
CACHE = (4, 5, 6)
BASE = np.array([1, 0, 2, 4, 3], np.int32)

_resample = functools.partial(
    step_jax.resample_tasks, group_size=GROUP_SIZE)
_jit_resample = jax.jit(_resample)


@functools.lru_cache(maxsize=None)
def _draws(seed=0):
  """Slots of many rounds with RECORD and BASE: [keys, Q, G]."""
  keys = jax.random.split(jax.random.key(seed), NUM_KEYS)
  slots = jax.jit(jax.vmap(_resample, in_axes=(0, None, None)))(
      keys, BASE, RECORD)
  return np.asarray(slots).reshape(NUM_KEYS, len(BASE), GROUP_SIZE)


def _run(seed, base, record, **options):
  return jax.jit(functools.partial(step_jax.resample_tasks, **options))(
      jax.random.key(seed), np.array(base, np.int32),
      np.array(record, np.float32))


def _assert_binomial(count, trials, p, sigmas=5):
  deviation = math.sqrt(trials * p * (1 - p))
  assert abs(count - trials * p) <= sigmas * deviation + 1


def test_pieces():
  """The record has every kind of task, and the base tasks of each kind."""
  cache = [j for j, s in enumerate(RECORD) if 0 < s < np.float32(0.6)]
  assert tuple(cache) == CACHE
  assert set(RECORD[BASE]) >= {0.0, 1.0, np.float32(0.6)}
  assert _draws().shape == (NUM_KEYS, len(BASE), GROUP_SIZE)


# replacement_probability


@pytest.mark.parametrize('rate, expected', [
    (0.0, .0025), (0.2, .0180), (0.4, .1192), (0.6, .5), (0.8, .8808),
    (1.0, .9820)])
def test_replacement_golden(rate, expected):
  # 1 / (1 + exp(-10 (s - 0.6))), the table of the method.
  actual = step_jax.replacement_probability(np.float32(rate))
  assert actual.shape == ()
  np.testing.assert_allclose(actual, expected, atol=5e-5)


@pytest.mark.parametrize('threshold, sharpness', [
    (0.6, 10.0), (0.3, 10.0), (0.6, 2.5), (1.0, 30.0)])
def test_replacement_oracle(threshold, sharpness):
  rates = np.random.default_rng(0).random((4, 5)).astype(np.float32)
  expected = np.vectorize(reference.replacement)(rates, threshold, sharpness)
  actual = step_jax.replacement_probability(
      rates, threshold=threshold, sharpness=sharpness)
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_replacement_jit_vmap_and_order():
  rates = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
  plain = step_jax.replacement_probability(rates)
  jitted = jax.jit(step_jax.replacement_probability)
  np.testing.assert_allclose(jitted(rates), plain, rtol=1e-6)
  np.testing.assert_allclose(jax.vmap(jitted)(rates), plain, rtol=1e-6)
  np.testing.assert_allclose(
      jitted(rates[::-1, ::-1]), plain[::-1, ::-1], rtol=1e-6)
  assert np.all(np.diff(plain.reshape(-1)) > 0)


def test_replacement_traces_once():
  examples.check_one_trace(
      step_jax.replacement_probability, (RECORD,), (RECORD + np.float32(0.1),))


def test_replacement_gradient():
  # kappa p (1 - p): 2.5 at the threshold.
  slope = jax.grad(step_jax.replacement_probability)
  np.testing.assert_allclose(slope(jnp.float32(0.6)), 2.5, rtol=1e-5)


@pytest.mark.parametrize('rate, expected', [(0.0, 0.0), (1.0, 1.0)])
def test_replacement_is_finite_however_sharp(rate, expected):
  # exp(600) is no float32; neither value nor gradient may show it.
  sharp = functools.partial(
      step_jax.replacement_probability, sharpness=1000.0)
  value, slope = jax.value_and_grad(sharp)(jnp.float32(rate))
  np.testing.assert_allclose(value, expected, atol=1e-30)
  np.testing.assert_allclose(slope, 0.0, atol=1e-30)


# resample_tasks


def test_resample_golden():
  # kappa = 1000 makes p_rep 0 or 1 off the threshold. Task 0 (s = 1) gives
  # its slots 1..3 to the only task of the cache, 2; task 1 (s = 0) and task
  # 2 (s = 0.5) keep theirs.
  actual = _run(
      3, [0, 1, 2, 0], [1, 0, 0.5], group_size=4, sharpness=1000.0)
  assert actual.dtype == jnp.int32
  np.testing.assert_array_equal(
      actual, [0, 2, 2, 2, 1, 1, 1, 1, 2, 2, 2, 2, 0, 2, 2, 2])


def test_the_first_slot_of_a_group_is_its_base_task():
  np.testing.assert_array_equal(
      _draws()[:, :, 0], np.broadcast_to(BASE, (NUM_KEYS, len(BASE))))


@pytest.mark.parametrize('slot', range(1, GROUP_SIZE))
def test_every_other_slot_may_be_replaced(slot):
  # The mastered task keeps one slot with 1 - p_rep(1) = 0.018.
  kept = (_draws()[:, 0, slot] == 1).sum()
  assert kept < NUM_KEYS / 2
  _assert_binomial(kept, NUM_KEYS, 1 - reference.replacement(1.0))


def test_a_replaced_slot_holds_a_task_of_the_cache():
  draws = _draws()
  replaced = draws != BASE[:, None]
  assert replaced.any()
  assert set(np.unique(draws[replaced])) == set(CACHE)


def test_a_mastered_task_keeps_about_one_slot():
  # 1 + 15 (1 - 0.9820) = 1.27 of 16.
  kept = (_draws()[:, 0] == 1).sum()
  _assert_binomial(
      kept - NUM_KEYS, NUM_KEYS * 15, 1 - reference.replacement(1.0))
  np.testing.assert_allclose(kept / NUM_KEYS, 1.27, atol=0.05)


def test_a_task_never_solved_keeps_its_slots_and_is_never_drawn():
  # Each of its 15 slots goes with probability 0.0025, and neither it nor
  # the other unsolved task, 7, ever fills a slot of another task.
  draws = _draws()
  lost = (draws[:, 1] != 0).sum()
  _assert_binomial(lost, NUM_KEYS * 15, reference.replacement(0.0))
  assert lost < 0.01 * NUM_KEYS * 15
  others = np.delete(draws, 1, axis=1)
  assert not np.isin(others, (0, 7)).any()


@pytest.mark.parametrize('q', range(len(BASE)))
def test_resample_oracle(q):
  """The frequencies of one base task's slots, against the distribution."""
  slots = _draws()[:, q, 1:]
  expected = reference.slot_distribution(
      BASE[q], RECORD.astype(np.float64).round(6))
  assert expected.sum() == pytest.approx(1)
  for task, p in enumerate(expected):
    _assert_binomial((slots == task).sum(), slots.size, p)


@pytest.mark.parametrize('options', [
    {'threshold': 0.9, 'sharpness': 2.0},
    {'threshold': 0.3, 'sharpness': 10.0}])
def test_resample_oracle_of_other_options(options):
  # Both options steer the coin, and the threshold the cache as well.
  keys = jax.random.split(jax.random.key(1), NUM_KEYS)
  slots = jax.jit(jax.vmap(
      functools.partial(_resample, **options), in_axes=(0, None, None)))(
          keys, BASE, RECORD)
  slots = np.asarray(slots).reshape(NUM_KEYS, len(BASE), GROUP_SIZE)[:, :, 1:]
  for q, base in enumerate(BASE):
    expected = reference.slot_distribution(
        base, RECORD.astype(np.float64).round(6), **options)
    for task, p in enumerate(expected):
      _assert_binomial(
          (slots[:, q] == task).sum(), slots[:, q].size, p)


def test_draws_are_uniform_over_the_cache():
  # Chi-square with 2 degrees of freedom: above 27.6 once in a million.
  draws = _draws()[:, 0, 1:]
  counts = np.array([(draws == task).sum() for task in CACHE])
  expected = counts.sum() / len(CACHE)
  assert expected > 1000
  assert ((counts - expected) ** 2 / expected).sum() < 27.6


def test_slots_are_independent():
  """Each slot has a coin and a draw of its own."""
  draws = _draws()
  # Base task 2 stands at the threshold: p = 1/2, never drawn itself. The
  # replaced of 15 slots have variance 15/4; one coin for all: 225/4.
  replaced = (draws[:, 2, 1:] != 2).sum(axis=1)
  deviation = 15 / 4 * math.sqrt(2 / NUM_KEYS)
  assert abs(replaced.var() - 15 / 4) < 5 * deviation
  # Two replaced slots of the mastered task agree with probability 1/3,
  # in the same group and across neighbouring rounds.
  for left, right in [
      (draws[:, 0, 1], draws[:, 0, 2]), (draws[:, 0, 1], draws[:, 4, 1]),
      (draws[1:, 0, 1], draws[:-1, 0, 1])]:
    both = np.isin(left, CACHE) & np.isin(right, CACHE)
    assert both.sum() > NUM_KEYS / 2
    _assert_binomial((left == right)[both].sum(), both.sum(), 1 / 3)
  # That a slot is replaced says nothing about what fills it: were coin and
  # draw one number below 1/2, it would fill from one half of the cache.
  filled = draws[:, 2, 1:][draws[:, 2, 1:] != 2]
  for task in CACHE:
    _assert_binomial((filled == task).sum(), filled.size, 1 / 3)


def test_coins_and_draws_come_of_different_keys():
  """What fills one slot is uncorrelated with whether any is replaced."""
  keys = jax.random.split(jax.random.key(4), 2000)
  slots = np.asarray(jax.jit(jax.vmap(_resample, in_axes=(0, None, None)))(
      keys, np.zeros(1, np.int32), np.array([0.6, 0.3, 0.3], np.float32)))
  replaced = (slots[:, 1:] != 0).astype(np.float64)
  drawn = replaced * np.where(slots[:, 1:] == 1, 1, -1)
  assert set(np.unique(drawn)) == {-1, 0, 1}
  covariance = (replaced - 0.5).T @ drawn / len(keys)
  # Deviation of the mean of values of variance 1/4 * 1/2.
  assert np.abs(covariance).max() < 6 * math.sqrt(1 / 8 / len(keys))


@pytest.mark.parametrize('record', [
    np.zeros(3), np.ones(3), np.full(3, 0.6), np.array([0, 0.6, 1]),
    np.array([0.7, 0.9, 0])])
def test_an_empty_cache_keeps_every_slot(record):
  base = np.array([2, 0, 1], np.int32)
  assert reference.slot_distribution(0, record)[0] == 1
  for seed in range(3):
    actual = _jit_resample(
        jax.random.key(seed), base, record.astype(np.float32))
    np.testing.assert_array_equal(actual, np.repeat(base, GROUP_SIZE))


def test_the_threshold_moves_the_cache():
  for threshold, cache in [(0.3, {1}), (0.6, {1, 2}), (0.1, set())]:
    slots = _run(
        0, [0, 0, 0], [1, 0.2, 0.5], group_size=GROUP_SIZE,
        threshold=threshold)
    assert set(np.unique(slots)) == cache | {0}


def test_a_threshold_of_one_takes_all_but_mastered_and_unsolved_tasks():
  slots = _run(
      0, [0] * 8, [1, 0.99, 0.01, 0], group_size=GROUP_SIZE, threshold=1.0)
  assert set(np.unique(slots)) == {0, 1, 2}


def test_a_group_of_one_keeps_its_base_task():
  actual = _run(0, BASE, RECORD, group_size=1)
  np.testing.assert_array_equal(actual, BASE)


def test_a_base_task_out_of_range_keeps_its_slots():
  slots = _run(
      0, [-1, 0, 3, 0, 10**6], [1, .3, 1], group_size=GROUP_SIZE, sharpness=1e3)
  groups = [{0, 1} if i == 0 else {i} for i in (-1, 0, 3, 0, 10**6)]
  assert [set(x.tolist()) for x in slots.reshape(5, GROUP_SIZE)] == groups


def test_the_key_decides():
  keys = [jax.random.key(seed) for seed in (0, 0, 1)]
  same, again, other = (_jit_resample(k, BASE, RECORD) for k in keys)
  np.testing.assert_array_equal(same, again)
  assert (np.asarray(same) != np.asarray(other)).any()


def test_resample_eager_jit_and_vmap_agree():
  keys = jax.random.split(jax.random.key(5), 3)
  records = np.stack([RECORD, RECORD[::-1], np.zeros_like(RECORD)])
  plain = [_resample(k, BASE, r) for k, r in zip(keys, records)]
  for key, record, expected in zip(keys, records, plain):
    np.testing.assert_array_equal(
        _jit_resample(key, BASE, record), expected)
  stacked = jax.vmap(_jit_resample, in_axes=(0, None, 0))(
      keys, BASE, records)
  np.testing.assert_array_equal(stacked, np.stack(plain))


def test_a_numpy_record_may_meet_traced_base_tasks():
  key = jax.random.key(2)
  actual = jax.jit(lambda base: _resample(key, base, RECORD))(BASE)
  np.testing.assert_array_equal(actual, _jit_resample(key, BASE, RECORD))


def test_resample_renumbered_tasks_keep_their_shares():
  """The order of the tasks and of the base tasks is no privilege."""
  order = np.array([6, 2, 7, 0, 5, 1, 4, 3])
  renumber = np.argsort(order).astype(np.int32)
  np.testing.assert_array_equal(order[renumber], np.arange(8))
  keys = jax.random.split(jax.random.key(9), NUM_KEYS)
  slots = jax.jit(jax.vmap(_resample, in_axes=(0, None, None)))(
      keys, renumber[BASE][::-1], RECORD[order])
  slots = np.asarray(slots).reshape(NUM_KEYS, len(BASE), GROUP_SIZE)
  mastered = order[slots[:, -1, 1:]]
  distribution = reference.slot_distribution(
      1, RECORD.astype(np.float64).round(6))
  for task, p in enumerate(distribution):
    _assert_binomial((mastered == task).sum(), mastered.size, p)


def test_resample_traces_once():
  examples.check_one_trace(
      _resample, (jax.random.key(0), BASE, RECORD),
      (jax.random.key(1), BASE[::-1], np.zeros_like(RECORD)))


@pytest.mark.parametrize('wrong', [
    {'threshold': 0.0}, {'threshold': -0.5}, {'threshold': 1.1},
    {'sharpness': 0.0}, {'sharpness': -10.0}])
def test_refuses_what_is_no_probability(wrong):
  with pytest.raises(ValueError):
    step_jax.replacement_probability(RECORD, **wrong)
  with pytest.raises(ValueError):
    _resample(jax.random.key(0), BASE, RECORD, **wrong)


def test_resample_refuses_an_empty_group_and_wrong_shapes():
  with pytest.raises(ValueError):
    step_jax.resample_tasks(jax.random.key(0), BASE, RECORD, group_size=0)
  with pytest.raises(AssertionError):
    _resample(jax.random.key(0), BASE[None], RECORD)
  with pytest.raises(AssertionError):
    _resample(jax.random.key(0), BASE, RECORD[None])


def test_resample_takes_traced_options():
  options = {'threshold': 0.5, 'sharpness': 20.0}
  expected = _resample(jax.random.key(3), BASE, RECORD, **options)
  actual = jax.jit(lambda options: _resample(
      jax.random.key(3), BASE, RECORD, **options))(options)
  np.testing.assert_array_equal(actual, expected)


def test_resample_needs_no_table_of_slots_by_tasks():
  # 256 slots x 10^6 tasks are 1 GB; the running count is 4 MB.
  shapes = (jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((16,), jnp.int32),
            jax.ShapeDtypeStruct((10**6,), jnp.float32))
  memory = jax.jit(_resample).lower(*shapes).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 64e6


# draw_tasks


def test_draw_golden():
  # Only task 2 has tickets; without a ticket anything in [0, N) will do.
  draw = jax.jit(resampling.draw_tasks, static_argnames='shape')
  actual = draw(jax.random.key(0), np.array([0, 0, 5, 0]), shape=(2, 3))
  assert actual.dtype == jnp.int32
  np.testing.assert_array_equal(actual, np.full((2, 3), 2))
  nothing = draw(jax.random.key(0), np.zeros(4, bool), shape=(9,))
  assert ((0 <= nothing) & (nothing < 4)).all()


@pytest.mark.parametrize('tickets', [
    [1, 0, 2, 7, 0], [0, 1, 1, 1, 0],
    # Where jax.random.randint would give the first 0.62 instead of 0.57.
    [2**30, 1, 2**29, 0, 2**28]])
def test_draws_are_in_proportion_to_the_tickets(tickets):
  draws = np.asarray(resampling.draw_tasks(
      jax.random.key(1), np.array(tickets, np.int32), shape=(100, 200)))
  for task, owned in enumerate(tickets):
    count = (draws == task).sum()
    _assert_binomial(count, draws.size, owned / sum(tickets))
    assert owned or not count


def test_the_high_half_of_a_product():
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 2**32, (2, 1000), dtype=np.uint64)
  a[:4], b[:4] = [0, 2**32 - 1, 2**32 - 1, 2**16], [7, 2**32 - 1, 1, 2**16]
  actual = resampling._high_product(
      a.astype(np.uint32), b.astype(np.uint32))
  np.testing.assert_array_equal(actual, (a * b) >> np.uint64(32))
