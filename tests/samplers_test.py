"""Which tasks fill the slots, and what the samplers learn of a round."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import step_jax
from step_jax.algorithm import samplers
from step_jax.algorithm.samplers import replay
from tests import examples
from tests import reference

NUM_TASKS = 6
GROUP_SIZE = 16
NUM_KEYS = 300
BASE = np.array([4, 0, 5, 0], np.int32)
FOUL_IDS = (-1, -NUM_TASKS, NUM_TASKS, 10**6, 2**31 - 1, -2**31)
RATES = np.array([0, 1, 0.2, 0.5, 0.55, 0.9], np.float32)

SAMPLERS = {
    'uniform': samplers.uniform(), 'sr_traj': samplers.sr_traj(),
    'frontier': samplers.frontier(), 'knapsack': samplers.knapsack(),
    'plr': samplers.plr(), 'spo': samplers.spo()}
ALL = pytest.mark.parametrize('name', list(SAMPLERS))
LEARNING = pytest.mark.parametrize('name', list(SAMPLERS)[1:])
# States in which tasks differ, some of them never run.
STATES = {
    'uniform': (), 'sr_traj': RATES, 'frontier': RATES, 'knapsack': RATES,
    'plr': samplers.ReplayState(
        scores=np.array([0.3, 0, 0.3, 0.9, 0.1, 0], np.float32),
        success_rate=RATES, last_seen=np.array([9, 0, 20, 1, 20, 5], np.int32),
        count=np.int32(20)),
    'spo': samplers.ValueTracker(
        successes=np.array([0.5, 8, 1, 2, 0.1, 3], np.float32),
        failures=np.array([0.5, 0.1, 3, 2, 9, 1], np.float32))}


@functools.cache
def _jitted(name):
  sampler = SAMPLERS[name]
  return (jax.jit(sampler.propose, static_argnames='group_size'),
          jax.jit(sampler.update))


def _draws(sampler, state, group_size=GROUP_SIZE):
  """Slots of many rounds: [keys, Q, G]."""
  keys = jax.random.split(jax.random.key(0), NUM_KEYS)
  propose = functools.partial(sampler.propose, group_size=group_size)
  slots = jax.jit(jax.vmap(propose, in_axes=(0, None, None)))(
      keys, BASE, state)
  return np.asarray(slots).reshape(NUM_KEYS, len(BASE), group_size)


def _round(seed, rows=40):
  """task_ids, returns and where of one random round."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(0, NUM_TASKS - 1, rows).astype(np.int32)
  returns = (rng.random(rows) < 0.4).astype(np.float32)
  return ids, returns, rng.random(rows) < 0.7


def _check_frequencies(draws, distribution):
  """Binomial bounds for each task, and none of probability 0."""
  assert distribution.sum() == pytest.approx(1)
  for task, p in enumerate(distribution):
    count, expected = (draws == task).sum(), draws.size * p
    assert abs(count - expected) <= 5 * math.sqrt(expected * (1 - p)) + 1
    assert p or not count


# all of them


@ALL
@pytest.mark.parametrize('group_size', [1, 2, GROUP_SIZE])
def test_the_first_slot_of_a_group_is_its_base_task(name, group_size):
  for state in (STATES[name], SAMPLERS[name].init(NUM_TASKS)):
    slots = _jitted(name)[0](
        jax.random.key(1), BASE, state, group_size=group_size)
    assert slots.shape == (len(BASE) * group_size,)
    assert slots.dtype == jnp.int32
    np.testing.assert_array_equal(slots[::group_size], BASE)
    assert ((0 <= slots) & (slots < NUM_TASKS)).all()


@LEARNING
def test_the_key_decides(name):
  propose, _ = _jitted(name)
  same, again, *others = (
      np.asarray(propose(jax.random.key(seed), BASE, STATES[name],
                         group_size=GROUP_SIZE)) for seed in (0, 0, 1, 2, 3))
  np.testing.assert_array_equal(same, again)
  if name != 'knapsack':  # only equal claims are left to chance
    assert any((same != other).any() for other in others)


@ALL
def test_eager_jit_vmap_and_scan_agree(name):
  sampler, (propose, update) = SAMPLERS[name], _jitted(name)
  keys = jax.random.split(jax.random.key(2), 3)
  rounds = tuple(map(np.stack, zip(*map(_round, range(3)))))
  states = jax.tree.map(lambda x: np.stack([x] * 3), STATES[name])
  slots, new = jax.vmap(
      lambda key, state, ids, returns, where: (
          propose(key, BASE, state, group_size=4),
          update(state, ids, returns, where=where)))(keys, states, *rounds)
  state = STATES[name]
  for i, (ids, returns, where) in enumerate(zip(*rounds)):
    np.testing.assert_array_equal(slots[i], sampler.propose(
        keys[i], BASE, STATES[name], group_size=4))
    chex.assert_trees_all_close(
        jax.tree.map(lambda x: x[i], new),
        sampler.update(STATES[name], ids, returns, where=where), rtol=1e-5)
    state = update(state, ids, returns, where=where)
  # The types of a state are those of the next: a scan is no error.
  scanned, _ = jax.lax.scan(
      lambda state, x: (sampler.update(state, *x[:2], where=x[2]), None),
      jax.tree.map(jnp.asarray, STATES[name]), rounds)
  chex.assert_trees_all_close(scanned, state, rtol=1e-5)
  chex.assert_trees_all_equal_shapes_and_dtypes(
      sampler.init(NUM_TASKS), scanned)


@LEARNING
def test_whatever_does_not_count_changes_nothing(name):
  """Masked rows may hold anything, and so may the ids of valid ones."""
  _, update = _jitted(name)
  ids, returns, where = _round(3)
  expected = update(STATES[name], ids, returns, where=where)
  for foul_id in FOUL_IDS:
    for foul_return in (np.nan, np.inf, -1e38):
      actual = update(
          STATES[name], np.where(where, ids, np.int32(foul_id)),
          np.where(where, returns, np.float32(foul_return)), where=where)
      chex.assert_trees_all_equal(actual, expected)
    outside = np.where(where, ids, np.int32(foul_id))
    chex.assert_trees_all_equal(
        update(STATES[name], outside, returns, where=np.ones_like(where)),
        expected)
    # Without a mask all trajectories of known tasks count.
    chex.assert_trees_all_equal(
        update(STATES[name], outside, returns), expected)


@LEARNING
def test_more_padding_and_another_order_change_nothing(name):
  _, update = _jitted(name)
  ids, returns, where = _round(4)
  expected = update(STATES[name], ids, returns, where=where)
  order = np.random.default_rng(0).permutation(len(ids) + 9)
  more = (np.append(ids, np.full(9, -3, np.int32)),
          np.append(returns, np.full(9, np.nan, np.float32)),
          np.append(where, np.zeros(9, bool)))
  ids, returns, where = (x[order] for x in more)
  chex.assert_trees_all_close(
      update(STATES[name], ids, returns, where=where), expected, rtol=1e-5)


@ALL
def test_a_round_without_trajectories_changes_nothing(name):
  """Lost to the last, or empty: same state, and a gradient of 0."""
  sampler = SAMPLERS[name]
  ids, returns, _ = _round(5)
  returns[::3] = np.nan
  expected = jax.tree.map(jnp.asarray, STATES[name])

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def total(returns, ids):
    state = sampler.update(
        STATES[name], ids, returns, where=np.zeros(ids.shape, bool))
    return sum((x.sum() for x in jax.tree.leaves(state)), 0.0), state

  for rows in (len(ids), 0):
    (_, state), gradient = total(returns[:rows], ids[:rows])
    chex.assert_trees_all_equal(state, expected)
    np.testing.assert_array_equal(gradient, np.zeros(rows))
  assert _jitted(name)[0](
      jax.random.key(0), BASE[:0], STATES[name], group_size=4).shape == (0,)


@LEARNING
def test_a_task_that_was_not_run_is_unchanged(name):
  ids, returns, where = _round(6)
  absent = NUM_TASKS - 1
  assert absent not in ids and len(set(ids[where])) == NUM_TASKS - 1
  before, after = STATES[name], _jitted(name)[1](
      STATES[name], ids, returns, where=where)
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
    if np.ndim(old):
      np.testing.assert_array_equal(old[absent], new[absent])
      assert (old[:absent] != new[:absent]).any()


@LEARNING
def test_traces_once(name):
  sampler = SAMPLERS[name]
  examples.check_one_trace(
      lambda state, *x: sampler.update(state, *x[:2], where=x[2]),
      (STATES[name], *_round(0)), (STATES[name], *_round(1)))
  examples.check_one_trace(
      functools.partial(sampler.propose, group_size=GROUP_SIZE),
      (jax.random.key(0), BASE, STATES[name]),
      (jax.random.key(1), BASE[::-1], STATES[name]))


@LEARNING
def test_hyper_parameters_may_be_traced(name):
  options = {
      'sr_traj': {'threshold': 0.7, 'sharpness': 5.0},
      'frontier': {'target': 0.4, 'width': 0.1, 'uniform_share': 0.3,
                   'decay': 0.5, 'initial': 0.1},
      'knapsack': {'confidence': 0.5},
      'plr': {'temperature': 0.5, 'staleness': 0.4, 'decay': 0.1},
      'spo': {'exploration': 0.2, 'discount': 0.5, 'prior': 2.0}}[name]

  def run(options):
    sampler = getattr(samplers, name)(**options)
    ids, returns, where = _round(7)
    state = sampler.update(
        sampler.init(NUM_TASKS), ids, returns, where=where)
    return state, sampler.propose(
        jax.random.key(0), BASE, STATES[name], group_size=GROUP_SIZE)

  chex.assert_trees_all_close(jax.jit(run)(options), run(options), rtol=1e-6)


@pytest.fixture(name='x64')
def made_x64():
  """64 bits, in a way that the oldest jax knows, too."""
  jax.config.update('jax_enable_x64', True)
  yield
  jax.config.update('jax_enable_x64', False)


@ALL
@pytest.mark.usefixtures('x64')
def test_in_64_bits(name):
  sampler, (propose, update) = SAMPLERS[name], _jitted(name)
  state = sampler.init(NUM_TASKS)
  ids, returns, where = _round(8)
  for dtype in (np.int32, np.int64):
    state = update(
        state, ids.astype(dtype), returns.astype(np.float64), where=where)
    slots = propose(
        jax.random.key(0), BASE.astype(dtype), state, group_size=4)
    assert slots.dtype == jnp.int32
    np.testing.assert_array_equal(slots[::4], BASE)
  chex.assert_trees_all_equal_shapes_and_dtypes(
      state, sampler.init(NUM_TASKS))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@ALL
def test_a_million_tasks_need_no_table_of_slots_by_tasks(name):
  sampler = SAMPLERS[name]
  state = jax.eval_shape(lambda: sampler.init(10**6))
  key = jax.eval_shape(lambda: jax.random.key(0))
  memory = jax.jit(
      sampler.propose, static_argnames='group_size').lower(
          key, jax.ShapeDtypeStruct((16,), jnp.int32), state,
          group_size=16).compile().memory_analysis()
  assert memory.temp_size_in_bytes < 64e6  # such a table has a gigabyte


@ALL
def test_refuses_wrong_shapes(name):
  sampler = SAMPLERS[name]
  ids, returns, where = _round(0)
  with pytest.raises(AssertionError):
    sampler.propose(jax.random.key(0), BASE[None], STATES[name], group_size=4)
  if name == 'uniform':
    return
  for wrong in ((ids[:-1], returns, where), (ids, returns, where[:-1]),
                (ids[None], returns[None], where[None])):
    with pytest.raises(AssertionError):
      sampler.update(STATES[name], *wrong[:2], where=wrong[2])


@pytest.mark.parametrize('name, wrong', [
    ('sr_traj', {'threshold': 0.0}), ('sr_traj', {'sharpness': -1.0}),
    ('frontier', {'width': 0.0}), ('frontier', {'uniform_share': 1.1}),
    ('frontier', {'decay': -0.1}), ('frontier', {'target': math.nan}),
    ('plr', {'temperature': 0.0}), ('plr', {'staleness': 2.0}),
    ('plr', {'decay': 1.5}), ('spo', {'prior': 0.0}),
    ('spo', {'exploration': 0.0}),
    ('spo', {'discount': np.array([0.5, 1.5])})])
def test_refuses_what_makes_no_distribution(name, wrong):
  with pytest.raises(ValueError, match='expected'):
    getattr(samplers, name)(**wrong)


# uniform


def test_uniform_is_copies_of_the_base_tasks():
  slots = _jitted('uniform')[0](jax.random.key(0), BASE, (), group_size=3)
  np.testing.assert_array_equal(slots, [4, 4, 4, 0, 0, 0, 5, 5, 5, 0, 0, 0])


# sr_traj


def test_sr_traj_is_the_resampling_and_the_smoothing_of_the_paper():
  ids, returns, where = _round(1)
  for seed in range(3):
    np.testing.assert_array_equal(
        _jitted('sr_traj')[0](
            jax.random.key(seed), BASE, RATES, group_size=GROUP_SIZE),
        step_jax.resample_tasks(
            jax.random.key(seed), BASE, RATES, group_size=GROUP_SIZE))
  collected, succeeded = reference.counts(ids, returns, NUM_TASKS, where)
  assert 0 < succeeded.sum() < collected.sum()
  np.testing.assert_allclose(
      _jitted('sr_traj')[1](RATES, ids, returns, where=where),
      reference.adaptive_rate(RATES, collected, succeeded, 16), rtol=1e-5)
  eight = samplers.sr_traj(smoothing=functools.partial(
      step_jax.update_success_rate, group_size=8))
  np.testing.assert_allclose(
      eight.update(RATES, ids, returns, where=where),
      reference.adaptive_rate(RATES, collected, succeeded, 8), rtol=1e-5)


# frontier


def test_frontier_golden():
  # p: task 0 stays at 1/2; task 1 goes to 0.8 * 0.5 + 0.2 * 1/2 = 0.5 by one
  # success of two; task 2 to 0.8 * 0.5 + 0.2 = 0.6, task 3 to 0.4 by failures.
  state = _jitted('frontier')[1](
      SAMPLERS['frontier'].init(4), np.array([1, 1, 2, 3, 3]),
      np.array([1, 0, 1, 0, 0], np.float32))
  np.testing.assert_allclose(state, [0.5, 0.5, 0.6, 0.4], rtol=1e-6)
  # Infinitely narrow, without a uniform part: only the nearest is drawn.
  narrow = samplers.frontier(target=0.59, width=1e-6, uniform_share=0.0)
  slots = jax.jit(functools.partial(narrow.propose, group_size=4))(
      jax.random.key(0), BASE[:1], state)
  np.testing.assert_array_equal(slots, [4, 2, 2, 2])


@pytest.mark.parametrize('options', [
    {}, {'target': 0.2, 'width': 0.1, 'uniform_share': 0.5},
    {'uniform_share': 1.0}])
def test_frontier_oracle(options):
  draws = _draws(samplers.frontier(**options), RATES)
  expected = reference.frontier_distribution(RATES, **options)
  _check_frequencies(draws[:, :, 1:], expected)
  _check_frequencies(draws[:, 1, 1:], expected)  # whatever the base task


def test_frontier_update_oracle():
  ids, returns, where = _round(2)
  np.testing.assert_allclose(
      _jitted('frontier')[1](RATES, ids, returns, where=where),
      reference.ema_rate(
          RATES, *reference.counts(ids, returns, NUM_TASKS, where), 0.8),
      rtol=1e-5)


# knapsack


_jit_budgets = jax.jit(samplers.knapsack_budgets, static_argnames=(
    'group_size', 'minimum', 'maximum'))


def _budgets(rates, group_size=GROUP_SIZE, seed=0, **options):
  return np.asarray(_jit_budgets(
      jax.random.key(seed), np.array(rates, np.float32),
      group_size=group_size, **options))


def test_knapsack_golden():
  # p = 1/2: V(n+1) - V(n) = 2^-n / 8, so 1/16, 1/32, 1/64, ... p = 9/10 at
  # n = 2: (.081 + .009) * .009 = .00081, less than 2^-7 / 8. Of 10
  # trajectories each has 2, and the next 5 go to p = 1/2 (n = 2 .. 6), then
  # n = 7 has .00098 > .00081 and n = 8 has .00049: one each.
  np.testing.assert_array_equal(_budgets([0.5, 0.9], 5), [8, 2])
  np.testing.assert_array_equal(_budgets([0.5, 0.9], 6), [8, 4])
  # Enough to differ with 0.9: log .1 / log .5 = 3.3, so 3 beyond the least.
  # Of 32 trajectories 2 + 3 and 2 are gone; those never solved halve 25.
  budgets = _budgets([0.5, 0, 1, 0], 8)
  assert budgets[0] == 5 and budgets[2] == 2
  assert sorted(budgets[[1, 3]]) == [12, 13]


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('options', [
    {}, {'minimum': 1, 'maximum': 9}, {'minimum': 4, 'maximum': 20}])
def test_knapsack_is_optimal(seed, options):
  """The greedy rule reaches the value of the dynamic programme."""
  rng = np.random.default_rng(seed)
  rates = rng.choice([0.02, 0.1, 0.3, 0.5, 0.8, 0.97], 5).astype(np.float32)
  budgets = _budgets(rates, group_size=8, **options)
  options = {'minimum': 2, 'maximum': 40} | options
  assert budgets.sum() == 40
  assert budgets.min() >= options['minimum']
  assert budgets.max() <= options['maximum']
  value = sum(reference.exploration_value(int(n), float(p))
              for n, p in zip(budgets, rates))
  best = reference.knapsack_value(rates, 40, **options)
  np.testing.assert_allclose(value, best, rtol=1e-5)


@pytest.mark.parametrize('rates', [
    [0] * 5, [1] * 5, [0, 1, 0.5], [1, 1, 0], [1e-30, 1 - 1e-7, 0.5, 0],
    [0.3], [0, 0, 0.01, 0.99, 1]])
@pytest.mark.parametrize('group_size', [1, 2, 16, 128])
def test_knapsack_spends_the_budget_whatever_the_tasks(rates, group_size):
  for confidence in (0.0, 0.9, 1.0):
    budgets = _budgets(rates, group_size, confidence=confidence)
    assert budgets.sum() == len(rates) * group_size
    assert budgets.min() >= min(2, group_size) and budgets.max() <= 128


def test_knapsack_divides_equal_claims_evenly_and_the_rest_at_random():
  for rates in ([0.0] * 5, [1.0] * 5, [0.4] * 5):
    np.testing.assert_array_equal(_budgets(rates), [GROUP_SIZE] * 5)
  # 2 trajectories are left of equal claims on 16 * 4 - 2 = 62 by 3 tasks.
  first = {tuple(_budgets([1, 0, 0, 0], seed=seed)) for seed in range(20)}
  assert first == {(2, 20, 21, 21), (2, 21, 20, 21), (2, 21, 21, 20)}


def test_knapsack_fills_the_slots_that_tasks_leave():
  # Base 4 (p = .55), 0 (p = 0), 5 (p = .9), 1 (p = 1).
  base = np.array([4, 0, 5, 1], np.int32)
  budgets = _budgets(RATES[base])
  assert budgets.max() > GROUP_SIZE > budgets.min() >= 2
  slots = np.asarray(_jitted('knapsack')[0](
      jax.random.key(0), base, RATES, group_size=GROUP_SIZE))
  np.testing.assert_array_equal(
      [(slots == task).sum() for task in base], budgets)
  for row, task, budget in zip(slots.reshape(4, -1), base, budgets):
    kept = min(budget, GROUP_SIZE)
    np.testing.assert_array_equal(row[:kept], np.full(kept, task))
    assert (row[kept:] != task).all()


def test_knapsack_refuses_budgets_that_do_not_fit():
  for wrong in ({'minimum': 0}, {'maximum': 8}, {'group_size': 0},
                {'confidence': 1.5}):
    with pytest.raises(ValueError, match='expected'):
      samplers.knapsack_budgets(
          jax.random.key(0), np.array([0.5], np.float32),
          **{'group_size': GROUP_SIZE} | wrong)


# plr


def test_plr_golden():
  # Round 1: task 0 succeeds and fails against s = 0, |R - s| = 1, 0; task 2
  # fails twice. Scores 1/2 and 0, s = .2 * 1/2 = .1 and 0; 4 trajectories.
  # Round 2: task 0 fails, |0 - .1| = .1; one trajectory more.
  update = _jitted('plr')[1]
  state = update(
      SAMPLERS['plr'].init(3), np.array([0, 0, 2, 2]),
      np.array([1, 0, 0, 0], np.float32))
  chex.assert_trees_all_close(state, samplers.ReplayState(
      scores=jnp.array([0.5, 0, 0]), success_rate=jnp.array([0.1, 0, 0]),
      last_seen=jnp.array([4, 0, 4]), count=jnp.int32(4)))
  state = update(state, np.array([0]), np.zeros(1, np.float32))
  chex.assert_trees_all_close(state, samplers.ReplayState(
      scores=jnp.array([0.1, 0, 0]), success_rate=jnp.array([0.08, 0, 0]),
      last_seen=jnp.array([5, 0, 4]), count=jnp.int32(5)))


def test_plr_ranks_golden():
  # beta = 1: weights 1, 1/2, 1/3 by rank, with sum 11/6; the two at .3 share
  # (1/2 + 1/3) / 2 = 5/12. The task not seen has no rank, though it is first.
  actual = jax.jit(replay._rank_weights)(
      jnp.array([0.3, 9, 0.7, 0.3]), jnp.array([True, False, True, True]), 1.0)
  np.testing.assert_allclose(
      actual, [5 / 22, 0, 6 / 11, 5 / 22], rtol=1e-5)


@pytest.mark.parametrize('options', [
    {}, {'temperature': 1.0, 'staleness': 0.0},
    {'temperature': 2.0, 'staleness': 0.5}, {'staleness': 1.0}])
def test_plr_oracle(options):
  state = STATES['plr']
  _check_frequencies(
      _draws(samplers.plr(**options), state)[:, :, 1:],
      reference.replay_distribution(
          state.scores, state.last_seen, state.count, **options))


def test_plr_draws_evenly_of_what_it_does_not_know():
  """No task seen, or all seen in this round with the same score."""
  sampler = SAMPLERS['plr']
  everything = np.arange(NUM_TASKS, dtype=np.int32)
  alike = sampler.update(
      sampler.init(NUM_TASKS), everything, np.zeros(NUM_TASKS, np.float32))
  for state in (sampler.init(NUM_TASKS), alike):
    _check_frequencies(
        _draws(sampler, state)[:, :, 1:], np.full(NUM_TASKS, 1 / NUM_TASKS))


# spo


def test_spo_golden():
  # rho = 1/2. Task 0 wins 2 of 3: alpha = .25 + 2, beta = .25 + 1, v = 9/14.
  # Task 1 gets half a return: alpha = .25 + .5 = beta. Task 2 stays at 1/2.
  sampler = samplers.spo(discount=0.5)
  state = sampler.update(
      sampler.init(3), np.array([0, 0, 0, 1]),
      np.array([1, 0, 1, 0.5], np.float32))
  chex.assert_trees_all_close(state, samplers.ValueTracker(
      successes=jnp.array([2.25, 0.75, 0.5]),
      failures=jnp.array([1.25, 0.75, 0.5])))
  np.testing.assert_allclose(
      samplers.tracked_values(state), [9 / 14, 1 / 2, 1 / 2], rtol=1e-6)


@pytest.mark.parametrize('exploration', [0.05, 1.0, 1e-6])
def test_spo_oracle(exploration):
  state = STATES['spo']
  _check_frequencies(
      _draws(samplers.spo(exploration=exploration), state)[:, :, 1:],
      reference.spo_distribution(*state, exploration=exploration))


def test_spo_update_oracle():
  ids, returns, where = _round(9)
  discount = np.linspace(0.8, 0.99, NUM_TASKS, dtype=np.float32)
  alpha, beta = (np.array(x, np.float64) for x in STATES['spo'])
  for task in set(ids[where]):
    won = returns[where & (ids == task)]
    alpha[task] = alpha[task] * discount[task] + won.sum()
    beta[task] = beta[task] * discount[task] + (1 - won).sum()
  actual = samplers.spo(discount=discount).update(
      STATES['spo'], ids, returns, where=where)
  np.testing.assert_allclose(actual.successes, alpha, rtol=1e-5)
  np.testing.assert_allclose(actual.failures, beta, rtol=1e-5)


def test_spo_forgets_down_to_the_window_of_its_discount():
  # One trajectory a round: alpha + beta tends to 1 / (1 - rho).
  sampler = samplers.spo(discount=0.875)
  state = sampler.init(1)
  update = jax.jit(sampler.update)
  for _ in range(100):
    state = update(state, np.zeros(1, np.int32), np.ones(1, np.float32))
  np.testing.assert_allclose(state.successes + state.failures, 8, rtol=1e-4)


def test_kl_discount_golden():
  # 2^(-.03 / .06) = .7071 is below the bounds, 2^(-.006 / .06) = .9330 in
  # them; without bounds a half-life halves.
  np.testing.assert_allclose(
      samplers.kl_discount(jnp.array([0, 0.006, 0.03])),
      [0.96, 0.9330, 0.875], rtol=1e-4)
  np.testing.assert_allclose(samplers.kl_discount(
      jnp.array([0.1, 0.2]), half_life=0.1, minimum=0.0), [0.5, 0.25])


def test_spo_advantages_are_of_the_values_before_the_round():
  ids, returns, where = _round(10)
  values = samplers.tracked_values(STATES['spo'])
  actual = jax.jit(step_jax.batch_normalised_advantages)(
      returns, ids, values, where=where)
  rest = (returns - np.asarray(values)[ids])[where]
  np.testing.assert_allclose(
      np.asarray(actual)[where], (rest - rest.mean()) / rest.std(ddof=1),
      rtol=1e-4, atol=1e-5)
