"""From trajectories to step samples, and groups of alternatives."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import step_jax
from step_jax.algorithm import steps
from tests import examples
from tests import reference

STEPS, CANDIDATES = 12, 8
ROWS, TIME, TOKENS = 5, 4, 3


def _groups(seed):
  """advantages [S], matches and where [S, K]; whole rows are padding too."""
  rng = np.random.default_rng(seed)
  matches = rng.random((STEPS, CANDIDATES)) < rng.random((STEPS, 1))
  matches[:, 0] = True
  matches[0], matches[1, 1:] = True, False
  where = rng.random((STEPS, CANDIDATES)) < 0.8
  where[:, 0] = True
  where[:2], where[-3:] = True, False
  return rng.normal(size=STEPS).astype(np.float32), matches, where


def _step_groups(advantages, matches, where=None):
  return step_jax.step_group_advantages(advantages, matches, where=where)


_jit_groups = jax.jit(_step_groups)


# step_group_advantages


@pytest.mark.parametrize('count', range(1, 8))
def test_group_golden(count):
  # m of 8 match: the mean is m/8 and the variance m (8 - m) / 64, so
  # (1 - m/8) / std = sqrt((8 - m) / m) and -m/8 / std = -sqrt(m / (8 - m)).
  matches = np.arange(8)[None] < count
  actual = _jit_groups(np.ones(1, np.float32), matches)
  expected = np.where(
      matches, np.sqrt((8 - count) / count), -np.sqrt(count / (8 - count)))
  np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_group_golden_lone_match():
  # m = 1 of 8: sqrt 7 = 2.6458 and -sqrt(1/7) = -0.3780, times Adv = 0.5.
  matches = np.arange(8)[None] < 1
  actual = _jit_groups(np.full(1, 0.5, np.float32), matches)
  np.testing.assert_allclose(
      actual, [[1.3229] + 7 * [-0.18898]], rtol=1e-4)


@pytest.mark.parametrize('candidates', [1, 2, 3, 6, 7, 8, 11])
def test_all_match_is_exactly_zero(candidates):
  matches = np.ones((2, candidates), bool)
  actual = _jit_groups(np.array([0.95, 1e6], np.float32), matches)
  np.testing.assert_array_equal(actual, np.zeros((2, candidates)))


def test_the_original_matches_itself_whatever_the_matcher_says():
  # Without it, one match of four would be candidate 2 and not 0.
  matches = np.array([[0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]], bool)
  actual = _jit_groups(np.ones(3, np.float32), matches)
  lone, others = np.sqrt(3), -np.sqrt(1 / 3)
  np.testing.assert_allclose(actual, [
      [1, -1, 1, -1], [lone, others, others, others], [0, 0, 0, 0]],
      rtol=1e-6)


def test_masked_candidates_are_not_of_the_group():
  # Of eight, four are valid and two of these match: +1 and -1.
  matches = np.array([[1, 1, 0, 0, 0, 1, 0, 1]], bool)
  where = np.array([[1, 1, 1, 1, 0, 0, 0, 0]], bool)
  actual = _jit_groups(np.ones(1, np.float32), matches, where)
  np.testing.assert_allclose(
      actual, [[1, 1, -1, -1, 0, 0, 0, 0]], rtol=1e-6)
  # Where the valid ones all match nothing is left to learn.
  matches[0, :4] = True
  actual = _jit_groups(np.ones(1, np.float32), matches, where)
  np.testing.assert_array_equal(actual, np.zeros((1, 8)))


@pytest.mark.parametrize('seed', range(20))
def test_groups_oracle(seed):
  advantages, matches, where = _groups(seed)
  assert not where.all() and matches[0].all() and matches[1].sum() == 1
  actual = np.asarray(_jit_groups(advantages, matches, where))
  np.testing.assert_allclose(
      actual, reference.step_groups(advantages, matches, where),
      rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(actual[~where], 0)
  # z has mean 0 in every group: nothing is gained by chance.
  np.testing.assert_allclose(actual.sum(axis=1), 0, atol=1e-4)


def test_groups_without_where_are_whole():
  advantages, matches, _ = _groups(1)
  np.testing.assert_allclose(
      _jit_groups(advantages, matches),
      reference.step_groups(advantages, matches), rtol=1e-5, atol=1e-6)


def test_groups_eager_jit_and_vmap_agree():
  examples.check_jit_and_vmap(
      _step_groups, [_groups(seed) for seed in range(3)], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('foul', [np.nan, np.inf, -np.inf])
def test_foul_groups_change_neither_value_nor_gradient(foul):
  advantages, matches, where = _groups(2)
  padding = ~where.any(axis=1)
  assert padding.any()
  weights = np.random.default_rng(0).normal(size=where.shape)

  @jax.jit
  def value_and_gradient(advantages, matches):
    def total(advantages):
      result = _step_groups(advantages, matches, where)
      return (result * weights.astype(np.float32)).sum(), result
    return jax.grad(total, has_aux=True)(advantages)

  expected = value_and_gradient(advantages, matches)
  np.testing.assert_array_equal(np.asarray(expected[0])[padding], 0)
  fouled = np.where(padding, np.float32(foul), advantages)
  chex.assert_trees_all_equal(
      value_and_gradient(fouled, matches ^ ~where), expected)


def test_groups_gradient_is_z():
  advantages, matches, where = _groups(3)
  gradient = jax.jit(jax.grad(
      lambda a: _step_groups(a, matches, where)[:, 0].sum()))(advantages)
  z = reference.step_groups(np.ones(STEPS), matches, where)[:, 0]
  assert np.abs(z).max() > 0
  np.testing.assert_allclose(gradient, z, rtol=1e-5, atol=1e-6)


def test_all_masked_groups_are_zero_with_gradient_zero():
  advantages, matches, _ = _groups(4)
  advantages[::2] = np.nan
  nothing = np.zeros((STEPS, CANDIDATES), bool)
  value, gradient = jax.value_and_grad(
      lambda a: _jit_groups(a, matches, nothing).sum())(advantages)
  np.testing.assert_array_equal(value, 0.0)
  np.testing.assert_array_equal(gradient, np.zeros(STEPS))


def test_order_of_steps_and_of_alternatives_does_not_matter():
  advantages, matches, where = _groups(5)
  expected = np.asarray(_jit_groups(advantages, matches, where))
  rows = np.random.default_rng(0).permutation(STEPS)
  columns = np.array([0, 5, 2, 7, 1, 3, 6, 4])  # the original stays first
  actual = _jit_groups(
      advantages[rows], matches[rows][:, columns], where[rows][:, columns])
  np.testing.assert_allclose(
      actual, expected[rows][:, columns], rtol=1e-6, atol=1e-7)


def test_groups_trace_once():
  examples.check_one_trace(_step_groups, _groups(0), _groups(1))


def test_groups_refuse_wrong_shapes():
  advantages, matches, where = _groups(0)
  with pytest.raises(AssertionError):
    _step_groups(advantages[:-1], matches)
  with pytest.raises(AssertionError):
    _step_groups(advantages[:, None], matches)
  with pytest.raises(AssertionError):
    _step_groups(advantages, matches, where[:, :-1])


# partition


def test_partition_golden():
  # Rows 1, 2 and 4 are valid and come first, then 0 and 3, both in order.
  order, count = steps.partition(np.array([0, 1, 1, 0, 1], bool))
  np.testing.assert_array_equal(order, [1, 2, 4, 0, 3])
  np.testing.assert_array_equal(count, 3)
  assert order.dtype == jnp.int32 and count.dtype == jnp.int32
  assert count.shape == ()


def test_partition_oracle_eager_jit_and_vmap():
  rng = np.random.default_rng(0)
  masks = rng.random((6, 300)) < np.array([[0, .1, .5, .9, 1, .3]]).T
  assert not masks[0].any() and masks[4].all()
  jitted = jax.jit(steps.partition)
  stacked = jax.vmap(jitted)(masks)
  for i, mask in enumerate(masks):
    order, count = reference.partition(mask)
    for actual in (steps.partition(mask), jitted(mask),
                   (stacked[0][i], stacked[1][i])):
      np.testing.assert_array_equal(actual[0], order)
      np.testing.assert_array_equal(actual[1], count)


def test_partition_traces_once():
  chex.clear_trace_counter()
  traced = jax.jit(chex.assert_max_traces(
      lambda mask: steps.partition(mask), n=1))
  assert traced(np.zeros(9, bool))[1] == 0
  assert traced(np.ones(9, bool))[1] == 9


# flatten_steps


def _trajectory(seed=0):
  """A round in which every number tells its row, step and token."""
  rng = np.random.default_rng(seed)
  lengths = np.array([4, 1, 3, 2, 4])
  step_mask = np.arange(TIME) < lengths[:, None]
  row, step, token = np.ogrid[:ROWS, :TIME, :TOKENS]
  successes = np.array([1, 0, 1, 0, 1], bool)
  return step_jax.Trajectory(
      task_ids=np.arange(ROWS, dtype=np.int32),
      observations={
          'where': (100 * row + 10 * step)[:, :, 0].astype(np.int32),
          'screen': rng.normal(size=(ROWS, TIME, 2, 3)).astype(np.float32)},
      actions=(100 * row + 10 * step + token).astype(np.int32),
      log_probs=-rng.random((ROWS, TIME, TOKENS)).astype(np.float32),
      token_mask=rng.random((ROWS, TIME, TOKENS)) < 0.7,
      step_mask=step_mask, returns=successes.astype(np.float32),
      successes=successes, valid=np.ones(ROWS, bool))


def _flatten(trajectory, advantages, where=None):
  return step_jax.flatten_steps(trajectory, advantages, where=where)


_jit_flatten = jax.jit(_flatten)
_ADVANTAGES = np.array([1, -2, 3, -4, 5], np.float32)


def test_flatten_shapes():
  batch = _flatten(_trajectory(), _ADVANTAGES)
  size = ROWS * TIME
  chex.assert_shape(batch.observations['where'], (size,))
  chex.assert_shape(batch.observations['screen'], (size, 2, 3))
  chex.assert_shape(
      (batch.actions, batch.log_probs, batch.token_mask), (size, 1, TOKENS))
  chex.assert_shape((batch.advantages, batch.mask), (size, 1))
  assert batch.actions.dtype == jnp.int32
  assert batch.observations['where'].dtype == jnp.int32
  assert batch.mask.dtype == bool and batch.token_mask.dtype == bool
  assert batch.advantages.dtype == jnp.float32


@pytest.mark.parametrize('per_step', [False, True])
@pytest.mark.parametrize('kept', [None, [1, 0, 1, 1, 0]])
def test_flatten_oracle(per_step, kept):
  """Row b * T + t is step t of trajectory b, with its own advantage."""
  trajectory = _trajectory()
  advantages = np.broadcast_to(_ADVANTAGES[:, None], (ROWS, TIME)).copy()
  if per_step:
    advantages += np.arange(TIME, dtype=np.float32) / 8
  kept = kept if kept is None else np.array(kept, bool)
  batch = jax.tree.map(np.asarray, _jit_flatten(
      trajectory, advantages if per_step else _ADVANTAGES, kept))
  for b in range(ROWS):
    for t in range(TIME):
      row = b * TIME + t
      valid = trajectory.step_mask[b, t] and (kept is None or kept[b])
      assert batch.mask[row, 0] == valid
      assert batch.advantages[row, 0] == (advantages[b, t] if valid else 0)
      if not valid:
        assert not batch.token_mask[row].any()
        continue
      assert batch.observations['where'][row] == 100 * b + 10 * t
      np.testing.assert_array_equal(
          batch.observations['screen'][row],
          trajectory.observations['screen'][b, t])
      for name in ('actions', 'log_probs', 'token_mask'):
        np.testing.assert_array_equal(
            getattr(batch, name)[row, 0], getattr(trajectory, name)[b, t])


def test_all_steps_of_a_trajectory_share_its_advantage():
  # One success of 3 steps and one failure of 15: 3 rows of +0.707 and 15 of
  # -0.707, with no weight for the length.
  returns = np.array([1, 0], np.float32)
  advantages = jax.jit(functools.partial(
      step_jax.group_relative_advantages, num_groups=1))(
          returns, np.zeros(2, np.int32))
  shape = (2, 15, 1)
  batch = _jit_flatten(step_jax.Trajectory(
      task_ids=np.zeros(2, np.int32), observations=np.zeros((2, 15)),
      actions=np.zeros(shape, np.int32), log_probs=np.zeros(shape),
      token_mask=np.ones(shape, bool),
      step_mask=np.arange(15) < np.array([[3], [15]]), returns=returns,
      successes=returns > 0, valid=np.ones(2, bool)), advantages)
  rows = np.asarray(batch.advantages)[np.asarray(batch.mask)]
  np.testing.assert_allclose(
      rows, 3 * [0.70710678] + 15 * [-0.70710678], rtol=1e-6)


def test_invalid_trajectories_have_no_steps():
  valid = np.array([1, 1, 0, 1, 1], bool)
  trajectory = dataclasses.replace(_trajectory(), valid=valid)
  batch = _flatten(trajectory, _ADVANTAGES)
  expected = trajectory.step_mask & valid[:, None]
  assert trajectory.step_mask[2].any()
  np.testing.assert_array_equal(batch.mask[:, 0], expected.reshape(-1))
  np.testing.assert_array_equal(
      np.asarray(batch.advantages).reshape(ROWS, TIME)[2], np.zeros(TIME))


def test_flatten_eager_jit_and_vmap_agree():
  trajectories = [_trajectory(seed) for seed in range(2)]
  kept = np.array([1, 0, 1, 1, 0], bool)
  plain = [_flatten(t, _ADVANTAGES, kept) for t in trajectories]
  chex.assert_trees_all_equal(
      plain, [_jit_flatten(t, _ADVANTAGES, kept) for t in trajectories])
  stacked = jax.vmap(lambda t: _jit_flatten(t, _ADVANTAGES, kept))(
      jax.tree.map(lambda *x: np.stack(x), *trajectories))
  chex.assert_trees_all_equal(
      stacked, jax.tree.map(lambda *x: jnp.stack(x), *plain))


def test_flatten_keeps_no_lost_trajectory_whoever_asks():
  # Trajectories 0 and 2 of the five are lost; 2, 3 and 4 are asked for.
  trajectory = dataclasses.replace(
      _trajectory(), valid=np.array([0, 1, 0, 1, 1], bool))
  for where, kept in ((None, [1, 3, 4]),
                      (np.array([0, 0, 1, 1, 1], bool), [3, 4])):
    batch = _jit_flatten(trajectory, _ADVANTAGES, where)
    mask = np.asarray(batch.mask).reshape(ROWS, TIME)
    np.testing.assert_array_equal(np.flatnonzero(mask.any(axis=1)), kept)
    np.testing.assert_array_equal(
        np.asarray(batch.advantages).reshape(ROWS, TIME),
        np.where(mask, _ADVANTAGES[:, None], 0))


def test_flatten_follows_the_order_of_the_slots():
  trajectory = _trajectory()
  order = np.array([3, 0, 4, 2, 1])
  moved = jax.tree.map(lambda x: x[order], trajectory)
  rows = (order[:, None] * TIME + np.arange(TIME)).reshape(-1)
  chex.assert_trees_all_equal(
      _flatten(moved, _ADVANTAGES[order]),
      jax.tree.map(lambda x: x[rows], _flatten(trajectory, _ADVANTAGES)))


@pytest.mark.parametrize('foul', [np.nan, np.inf, -np.inf])
def test_foul_advantages_behind_the_mask_are_zero(foul):
  trajectory = _trajectory()
  where = np.array([1, 0, 1, 1, 0], bool)
  weights = np.arange(1, ROWS * TIME + 1, dtype=np.float32)[:, None]

  def total(advantages):
    batch = _flatten(trajectory, advantages, where)
    return (batch.advantages * weights).sum(), batch.advantages

  for clean, keep in [
      (_ADVANTAGES, where),
      (np.ones((ROWS, TIME), np.float32),
       where[:, None] & trajectory.step_mask)]:
    run = jax.grad(total, has_aux=True)
    expected = run(clean)
    np.testing.assert_array_equal(np.asarray(expected[0])[~keep], 0)
    fouled = np.where(keep, clean, np.float32(foul))
    assert not np.isfinite(fouled).all()
    chex.assert_trees_all_equal(run(fouled), expected)


def test_flatten_of_nothing_is_all_masked_with_gradient_zero():
  trajectory, nothing = _trajectory(), np.zeros(ROWS, bool)
  foul = np.full(ROWS, np.nan, np.float32)
  batch = _jit_flatten(trajectory, foul, nothing)
  assert not np.asarray(batch.mask).any()
  np.testing.assert_array_equal(
      batch.advantages, np.zeros((ROWS * TIME, 1)))
  gradient = jax.grad(lambda a: _jit_flatten(
      trajectory, a, nothing).advantages.sum())(foul)
  np.testing.assert_array_equal(gradient, np.zeros(ROWS))


def test_flatten_traces_once():
  chex.clear_trace_counter()
  traced = jax.jit(chex.assert_max_traces(
      lambda t, a, where: _flatten(t, a, where), n=1))
  first = traced(_trajectory(0), _ADVANTAGES, np.ones(ROWS, bool))
  second = traced(_trajectory(1), -_ADVANTAGES, np.zeros(ROWS, bool))
  assert first.mask.sum() == 14 and second.mask.sum() == 0


@pytest.mark.parametrize('shape', [
    (ROWS - 1,), (ROWS, TIME + 1), (ROWS, TIME, 1), (1,), (ROWS, 1)])
def test_flatten_refuses_wrong_advantages(shape):
  with pytest.raises((AssertionError, ValueError)):
    _flatten(_trajectory(), np.ones(shape, np.float32))


@pytest.mark.parametrize('shape', [(ROWS - 1,), (1,), (ROWS, TIME)])
def test_flatten_refuses_a_wrong_where(shape):
  with pytest.raises((AssertionError, ValueError)):
    _flatten(_trajectory(), _ADVANTAGES, np.ones(shape, bool))


# state_ids


def _observations(seed):
  """Few states of many types, at random places; rows are masked as well."""
  rng = np.random.default_rng(seed)
  pool = {
      'words': rng.integers(-2**31, 2**31, (7, 5), dtype=np.int32),
      'flags': rng.random((7, 2, 3)) < 0.5,
      'boxes': rng.random((7, 2, 4)).astype(np.float32),
      'small': rng.integers(-128, 128, (7, 3), dtype=np.int8),
      'half': rng.random((7, 3)).astype(np.float16),
      'alone': rng.integers(256, size=7, dtype=np.uint8)}
  for name, x in pool.items():  # two states that differ in one leaf only
    x[6] = x[5]
  pool['flags'][6, 1, 2] ^= True
  pick = rng.integers(7, size=(ROWS, TIME))
  return jax.tree.map(lambda x: x[pick], pool), rng.random(pick.shape) < 0.8


_jit_state_ids = jax.jit(lambda x, mask: steps.state_ids(x, mask))


def _oracle_ids(observations, mask):
  return reference.state_ids(jax.tree.leaves(observations), mask)


def test_state_ids_golden():
  # Steps are numbered 0 to 7. Of the words, 3 4 is seen at steps 0, 2 and 7,
  # but step 2 has another flag. 4 3 at 1 is not 3 4. Steps 3 and 6 are
  # padding, so 5 5 is first seen at 4, and again at 5.
  observations = (
      np.array([[[3, 4], [4, 3], [3, 4], [5, 5]],
                [[5, 5], [5, 5], [4, 3], [3, 4]]], np.int32),
      np.array([[0, 0, 1, 0], [0, 0, 0, 0]], bool))
  mask = np.array([[1, 1, 1, 0], [1, 1, 0, 1]], bool)
  ids = _jit_state_ids(observations, mask)
  np.testing.assert_array_equal(ids, [[0, 1, 2, -1], [4, 4, -1, 0]])
  assert ids.dtype == jnp.int32


@pytest.mark.parametrize('seed', range(10))
def test_state_ids_oracle(seed):
  observations, mask = _observations(seed)
  expected = _oracle_ids(observations, mask)
  assert 3 < len(set(expected[mask])) < mask.sum() and not mask.all()
  np.testing.assert_array_equal(_jit_state_ids(observations, mask), expected)


def _near_collisions():
  """A row `[1, S, ...]` twice, and all that differ from it in one bit."""
  rng = np.random.default_rng(0)
  words = rng.integers(2**31, size=6, dtype=np.int32)
  boxes = np.array([0., 0.5, 0.25, 1.], np.float32)
  flags = np.array([0, 1, 1, 0], bool)
  rows = [(words, boxes, flags), (words, boxes, flags)]
  for i in range(32):
    flip = np.uint32(1 << i)
    for j in range(6):
      other = words.copy()
      other.view(np.uint32)[j] ^= flip
      rows.append((other, boxes, flags))
    for j in range(4):
      other = boxes.copy()
      other.view(np.uint32)[j] ^= flip
      rows.append((words, other, flags))
  for j in range(4):
    other = flags.copy()
    other[j] ^= True
    rows.append((words, boxes, other))
  for order in ([1, 0, 2, 3, 4, 5], [5, 0, 1, 2, 3, 4]):
    rows.append((words[order], boxes, flags))
  # The same sum, and the highest bit of two words.
  rows.append((words + np.array([1, -1, 0, 0, 0, 0], np.int32), boxes, flags))
  other = words.copy()
  other.view(np.uint32)[:2] ^= np.uint32(1 << 31)
  rows.append((other, boxes, flags))
  return jax.tree.map(lambda *x: np.stack(x)[None], *rows), len(rows)


def test_states_that_differ_in_a_bit_are_told_apart():
  """Among them zeros of both signs, NaN and infinities."""
  observations, size = _near_collisions()
  assert np.isinf(observations[1]).any() and (
      np.signbit(observations[1]) & (observations[1] == 0)).any()
  ids = np.asarray(_jit_state_ids(observations, np.ones((1, size), bool)))[0]
  np.testing.assert_array_equal(ids, [0, 0, *range(2, size)])
  # One pass was enough for them.
  hashes = jax.jit(lambda *leaves: steps._hash_rows(
      [steps._bits(x)[0] for x in leaves]))(*observations)
  assert len(set(np.asarray(hashes).tolist())) == size - 1


def test_nan_is_the_same_state_as_itself():
  x = np.array([[np.nan, 1, np.nan, -0., 0.]], np.float32)
  ids = _jit_state_ids(x, np.ones((1, 5), bool))
  np.testing.assert_array_equal(ids, [[0, 1, 0, 3, 4]])


@pytest.mark.parametrize('buckets', [1, 2, 3])
def test_state_ids_are_exact_whatever_the_hash(monkeypatch, buckets):
  """Rows of a bucket lie between each other and outnumber the buckets."""
  def bad_hash(rows):
    return rows[0][:, 0].astype(jnp.uint32) % buckets
  monkeypatch.setattr(steps, '_hash_rows', bad_hash)
  state_ids = jax.jit(lambda x, mask: steps.state_ids(x, mask))
  for seed in range(3):
    observations, mask = _observations(seed)
    expected = _oracle_ids(observations, mask)
    assert len(set(expected[mask])) > 3
    np.testing.assert_array_equal(state_ids(observations, mask), expected)


def test_state_ids_eager_jit_and_vmap_agree():
  batches = [_observations(seed) for seed in range(3)]
  expected = [_oracle_ids(*batch) for batch in batches]
  for batch, ids in zip(batches, expected):
    np.testing.assert_array_equal(steps.state_ids(*batch), ids)
  stacked = jax.vmap(_jit_state_ids)(
      *jax.tree.map(lambda *x: np.stack(x), *batches))
  np.testing.assert_array_equal(stacked, np.stack(expected))


def test_state_ids_do_not_read_padding():
  observations, mask = _observations(3)
  expected = _oracle_ids(observations, mask)
  fouled = jax.tree.map(np.copy, observations)
  for x in jax.tree.leaves(fouled):
    x[~mask] = x[mask][0]  # equal to a valid state
  np.testing.assert_array_equal(_jit_state_ids(fouled, mask), expected)
  fouled['boxes'][~mask] = np.nan
  np.testing.assert_array_equal(_jit_state_ids(fouled, mask), expected)
  # More rows change nothing.
  more = jax.tree.map(lambda x: np.concatenate([x, x]), fouled)
  ids = np.asarray(_jit_state_ids(
      more, np.concatenate([mask, np.zeros_like(mask)])))
  np.testing.assert_array_equal(
      ids, np.concatenate([expected, np.full_like(expected, -1)]))


def test_state_ids_follow_the_order_of_the_slots():
  """Another slot may be the first, but the same steps are equal."""
  observations, mask = _observations(4)
  order = np.array([3, 0, 4, 2, 1])
  before = np.asarray(_jit_state_ids(observations, mask))[order].ravel()
  after = np.asarray(_jit_state_ids(
      jax.tree.map(lambda x: x[order], observations), mask[order])).ravel()
  np.testing.assert_array_equal(
      before[:, None] == before, after[:, None] == after)


def test_state_ids_of_nothing():
  observations, mask = _observations(5)
  ids = _jit_state_ids(observations, np.zeros_like(mask))
  np.testing.assert_array_equal(ids, np.full(mask.shape, -1))


def test_state_ids_let_gradients_pass():
  """Advantages by states can be differentiated within one function."""
  observations, mask = _observations(6)
  gradient = jax.jit(jax.grad(lambda r: step_jax.gigpo_advantages(
      r, np.zeros(ROWS, np.int32), steps.state_ids(observations, mask),
      num_groups=1, step_mask=mask)[0].sum()))(
          np.arange(ROWS, dtype=np.float32))
  assert np.isfinite(gradient).all() and np.asarray(gradient).any()


def test_state_ids_trace_once():
  examples.check_one_trace(
      steps.state_ids, _observations(0), _observations(1))


def test_state_ids_refuse_wrong_shapes():
  observations, mask = _observations(0)
  with pytest.raises(AssertionError):
    steps.state_ids(observations, mask[:-1])
  with pytest.raises(AssertionError):
    steps.state_ids(observations, mask.reshape(-1))
