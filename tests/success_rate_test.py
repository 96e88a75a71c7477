"""The success record: what counts, and how it is smoothed."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import step_jax
from tests import examples
from tests import reference

NUM_TASKS = 6
ROWS = 40
FOUL_IDS = (-1, -NUM_TASKS, NUM_TASKS, 10**6, 2**31 - 1, -2**31)

_count = functools.partial(step_jax.count_outcomes, num_tasks=NUM_TASKS)
_update = functools.partial(step_jax.update_success_rate, group_size=16)
_ema = functools.partial(step_jax.ema_success_rate, decay=0.9)
_jit_count = jax.jit(lambda ids, won, where: _count(ids, won, where=where))
_jit_update = jax.jit(_update)
_jit_ema = jax.jit(_ema)


def _rounds(seed):
  """task_ids, successes and where of one random round."""
  rng = np.random.default_rng(seed)
  task_ids = rng.integers(0, NUM_TASKS, ROWS).astype(np.int32)
  return task_ids, rng.random(ROWS) < 0.5, rng.random(ROWS) < 0.7


def _records(seed):
  """A record and the counts of a round, below, at and above G = 16."""
  rng = np.random.default_rng(seed)
  collected = np.array([0, 1, 15, 16, 17, 40], np.int32)
  succeeded = rng.integers(0, collected + 1).astype(np.int32)
  return rng.random(NUM_TASKS).astype(np.float32), collected, succeeded


# count_outcomes


def test_counts_golden():
  # Task 0: rows 0 and 3, one success. Task 2: rows 1, 2, 4 of which row 2 is
  # lost, so two rows, both successes. Tasks 1 and 3: nothing.
  collected, succeeded = step_jax.count_outcomes(
      np.array([0, 2, 2, 0, 2]), np.array([True, True, True, False, True]),
      num_tasks=4, where=np.array([True, True, False, True, True]))
  np.testing.assert_array_equal(collected, [2, 0, 2, 0])
  np.testing.assert_array_equal(succeeded, [1, 0, 2, 0])
  assert collected.dtype == jnp.int32 and succeeded.dtype == jnp.int32


def test_replaced_slot_counts_for_the_task_it_became():
  # Task 0 is mastered and nearly always (kappa = 1000) replaced by task 1,
  # the only one of the cache: one slot counts for 0 and three for 1.
  task_ids = jax.jit(functools.partial(
      step_jax.resample_tasks, group_size=4, sharpness=1000.0))(
          jax.random.key(0), np.array([0], np.int32),
          np.array([1.0, 0.5], np.float32))
  np.testing.assert_array_equal(task_ids, [0, 1, 1, 1])
  collected, succeeded = jax.jit(functools.partial(
      step_jax.count_outcomes, num_tasks=2))(
          task_ids, np.array([False, True, False, True]))
  np.testing.assert_array_equal(collected, [1, 3])
  np.testing.assert_array_equal(succeeded, [0, 2])


@pytest.mark.parametrize('seed', range(20))
def test_counts_oracle(seed):
  task_ids, successes, where = _rounds(seed)
  assert where.any() and not where.all()
  expected = reference.counts(task_ids, successes, NUM_TASKS, where)
  actual = _jit_count(task_ids, successes, where)
  chex.assert_trees_all_equal(tuple(actual), expected)
  assert actual[0].sum() == where.sum()


def test_counts_without_where_are_of_all_rows():
  task_ids, successes, _ = _rounds(0)
  expected = reference.counts(task_ids, successes, NUM_TASKS)
  chex.assert_trees_all_equal(tuple(_count(task_ids, successes)), expected)
  everything = np.ones(ROWS, bool)
  chex.assert_trees_all_equal(
      tuple(_count(task_ids, successes, where=everything)), expected)


def test_counts_eager_jit_and_vmap_agree():
  rounds = [_rounds(seed) for seed in range(3)]
  plain = [_count(ids, won, where=where) for ids, won, where in rounds]
  chex.assert_trees_all_equal(plain, [_jit_count(*r) for r in rounds])
  stacked = jax.vmap(_jit_count)(*map(np.stack, zip(*rounds)))
  for i, single in enumerate(plain):
    chex.assert_trees_all_equal(
        jax.tree.map(lambda x: x[i], tuple(stacked)), tuple(single))


@pytest.mark.parametrize('foul_id', FOUL_IDS)
def test_counts_ignore_padding_and_order(foul_id):
  task_ids, successes, where = _rounds(7)
  expected = _jit_count(task_ids, successes, where)
  fouled = np.where(where, task_ids, np.int32(foul_id))
  assert (fouled == foul_id).any()
  chex.assert_trees_all_equal(_jit_count(fouled, successes, where), expected)
  order = np.random.default_rng(1).permutation(ROWS)
  assert (order != np.arange(ROWS)).any()
  chex.assert_trees_all_equal(
      _jit_count(fouled[order], successes[order], where[order]), expected)


def test_counts_of_nothing_are_zero():
  task_ids, successes, _ = _rounds(3)
  collected, succeeded = _jit_count(
      task_ids, successes, np.zeros(ROWS, bool))
  assert successes.any()
  np.testing.assert_array_equal(collected, np.zeros(NUM_TASKS))
  np.testing.assert_array_equal(succeeded, np.zeros(NUM_TASKS))


def test_counts_refuse_wrong_shapes():
  with pytest.raises(AssertionError):
    _count(np.zeros(3, np.int32), np.zeros(4, bool))
  with pytest.raises(AssertionError):
    _count(np.zeros((3, 2), np.int32), np.zeros((3, 2), bool))
  with pytest.raises(AssertionError):
    _count(np.zeros(3, np.int32), np.zeros(3, bool), where=np.ones(4, bool))


# update_success_rate


@pytest.mark.parametrize('record, collected, succeeded, expected', [
    (0.5, 0, 0, 0.5),        # n = 0: unchanged
    (0.5, 8, 8, 0.75),       # (8 + 8 * 0.5) / 16
    (0.5, 8, 0, 0.25),       # (0 + 8 * 0.5) / 16
    (0.0, 4, 4, 0.25),       # (4 + 12 * 0) / 16
    (1.0, 4, 1, 0.8125),     # (1 + 12 * 1) / 16
    (0.9, 15, 0, 0.05625),   # (0 + 1 * 0.9) / 16
    (0.9, 16, 4, 0.25),      # n = G: u / n, the history is dropped
    (0.9, 24, 12, 0.5),      # n > G: likewise
    (0.1, 32, 32, 1.0),      # n > G: likewise
    (0.0, 1, 1, 0.0625),     # the lone trajectory of a replaced group
])
def test_update_golden(record, collected, succeeded, expected):
  actual = _jit_update(
      np.array([record], np.float32), np.array([collected], np.int32),
      np.array([succeeded], np.int32))
  np.testing.assert_allclose(actual, [expected], rtol=1e-6)


@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('rule, oracle, option', [
    (_jit_update, reference.adaptive_rate, 16),
    (_jit_ema, reference.ema_rate, 0.9)])
def test_oracle(rule, oracle, option, seed):
  records = _records(seed)
  actual = rule(*records)
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(
      actual, oracle(*records, option), rtol=1e-6, atol=1e-7)
  assert np.all(np.asarray(actual) >= 0) and np.all(np.asarray(actual) <= 1)


@pytest.mark.parametrize('group_size', [1, 3, 6, 10])
def test_tasks_not_visited_keep_their_record_to_the_bit(group_size):
  record = np.random.default_rng(0).random(500).astype(np.float32)
  nothing = np.zeros(500, np.int32)
  np.testing.assert_array_equal(
      step_jax.update_success_rate(
          record, nothing, nothing, group_size=group_size), record)
  np.testing.assert_array_equal(
      step_jax.ema_success_rate(record, nothing, nothing, decay=0.3), record)


def test_update_repeated_rounds_forget_at_the_rate_of_the_round():
  # A quarter of a group each round, all succeeded, from s = 0:
  # s <- 1/4 + 3/4 s, so 1 - s = (3/4)^rounds.
  record = np.zeros(1, np.float32)
  four = np.array([4], np.int32)
  for rounds in range(1, 5):
    record = _jit_update(record, four, four)
    np.testing.assert_allclose(record, [1 - 0.75 ** rounds], rtol=1e-6)


def test_update_gradient_is_the_weight_of_the_history():
  record, collected, succeeded = _records(2)
  gradient = jax.grad(
      lambda s: _update(s, collected, succeeded).sum())(record)
  # (G - n) / G below G = 16, and 0 from G on.
  np.testing.assert_allclose(
      gradient, [1, 15 / 16, 1 / 16, 0, 0, 0], rtol=1e-6)


# ema_success_rate


def test_ema_golden():
  # 0.9 * 0.5 + 0.1 * 1 = 0.55; 0.9 * 0.5 + 0.1 * 1/4 = 0.475;
  # n = 0 keeps 0.5; n above any group changes nothing in the rule: 0.45.
  actual = step_jax.ema_success_rate(
      np.full(4, 0.5, np.float32), np.array([8, 4, 0, 100], np.int32),
      np.array([8, 1, 0, 0], np.int32), decay=0.9)
  np.testing.assert_allclose(actual, [0.55, 0.475, 0.5, 0.45], rtol=1e-6)


def test_ema_gradient_is_the_decay_and_one_where_nothing_came():
  record, collected, succeeded = _records(2)
  gradient = jax.grad(lambda s: _ema(s, collected, succeeded).sum())(record)
  np.testing.assert_allclose(
      gradient, [1, 0.9, 0.9, 0.9, 0.9, 0.9], rtol=1e-6)


@pytest.mark.parametrize('decay', [0.0, 1.0])
def test_ema_at_the_ends_of_the_decay(decay):
  record, collected, succeeded = _records(4)
  actual = step_jax.ema_success_rate(
      record, collected, succeeded, decay=decay)
  np.testing.assert_allclose(
      actual, reference.ema_rate(record, collected, succeeded, decay),
      rtol=1e-6)


# both rules


@pytest.mark.parametrize(
    'rule, jitted', [(_update, _jit_update), (_ema, _jit_ema)])
def test_rules_eager_jit_vmap_and_order_agree(rule, jitted):
  records = [_records(seed) for seed in range(3)]
  plain = [rule(*record) for record in records]
  for record, expected in zip(records, plain):
    np.testing.assert_allclose(jitted(*record), expected, rtol=1e-6)
  stacked = jax.vmap(jitted)(*map(np.stack, zip(*records)))
  np.testing.assert_allclose(stacked, np.stack(plain), rtol=1e-6)
  order = np.array([5, 0, 3, 1, 4, 2])
  np.testing.assert_allclose(
      jitted(*(x[order] for x in records[0])), plain[0][order], rtol=1e-6)


@pytest.mark.parametrize('rule', [_update, _ema])
def test_rules_trace_once(rule):
  examples.check_one_trace(rule, _records(0), _records(1))


def test_counts_trace_once():
  examples.check_one_trace(
      lambda ids, won, where: _count(ids, won, where=where),
      _rounds(0), _rounds(1))


@pytest.mark.parametrize('rule', [_update, _ema])
def test_rules_refuse_wrong_shapes(rule):
  with pytest.raises(AssertionError):
    rule(np.zeros(3, np.float32), np.zeros(3, np.int32),
         np.zeros(4, np.int32))


@pytest.mark.parametrize('group_size', [0, -1])
def test_update_refuses_an_empty_group(group_size):
  with pytest.raises(ValueError):
    step_jax.update_success_rate(
        np.zeros(2, np.float32), np.zeros(2, np.int32),
        np.zeros(2, np.int32), group_size=group_size)


@pytest.mark.parametrize('decay', [-0.1, 1.5])
def test_ema_refuses_a_decay_outside_the_unit_interval(decay):
  with pytest.raises(ValueError):
    step_jax.ema_success_rate(
        np.zeros(2, np.float32), np.zeros(2, np.int32),
        np.zeros(2, np.int32), decay=decay)
