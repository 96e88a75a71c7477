"""Credit: the two halves of a round against a slow pipeline."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import step_jax
from step_jax.algorithm import credit
from step_jax.algorithm import methods
from step_jax.algorithm import types
from step_jax.policies import base
from step_jax.policies import element
from tests import examples
from tests import reference

NAMES = ('trajectory_grpo', 'step_grpo', 'rloo', 'gigpo', 'dapo', 'step',
         'step_no_resampling', 'step_no_augmentation', 'step_advantage_only',
         'step_signed', 'step_signed_augmented', 'spo')
RESAMPLE = ('step', 'step_no_augmentation', 'step_signed',
            'step_signed_augmented')
AUGMENT = ('step', 'step_no_resampling', 'step_signed_augmented')
TASKS, BASE, GROUP, STEPS = 5, 4, 6, 4
SLOTS = BASE * GROUP
RATES = np.array([0.0, 0.1, 0.45, 0.6, 1.0], np.float32)


def _round(seed):
  """A round in which slots have been replaced, and some were lost."""
  rng = np.random.default_rng(seed)
  task_ids = np.repeat(rng.permutation(TASKS)[:BASE], GROUP)
  replaced = rng.random(SLOTS) < 0.4
  replaced[::GROUP] = False
  task_ids = np.where(replaced, rng.integers(TASKS, size=SLOTS), task_ids)
  return examples.trajectory(seed, task_ids, STEPS)


def _with_outcomes(task_ids, successes):
  """A round in which nothing was lost, of known outcomes."""
  return dataclasses.replace(
      examples.trajectory(0, task_ids, STEPS, lost=0), successes=successes,
      returns=successes.astype(np.float32))


def _assign(trajectory, success_rate=RATES, name='step', **options):
  options.setdefault('group_size', GROUP)
  return jax.tree.map(np.asarray, credit.assign_credit(
      trajectory, success_rate, method=methods.METHODS[name], **options))


def _slow(trajectory, success_rate, name, low_threshold=0.2, ema_decay=None):
  """advantages [B], low [B] and the record, from the oracles."""
  counts = reference.counts(
      trajectory.task_ids, trajectory.successes, TASKS, trajectory.valid)
  if ema_decay is None:
    rates = reference.adaptive_rate(success_rate, *counts, GROUP)
  else:
    rates = reference.ema_rate(success_rate, *counts, ema_decay)
  slots = np.arange(SLOTS) // GROUP
  if 'signed' in name:
    advantages = np.array([
        trajectory.valid[b] * (trajectory.returns[b] - rates[task])
        for b, task in enumerate(trajectory.task_ids)])
  elif name == 'spo':
    surprise = trajectory.returns - success_rate[trajectory.task_ids]
    known = surprise[trajectory.valid].astype(float)
    advantages = trajectory.valid * (
        surprise - known.mean()) / known.std(ddof=1)
  elif name.startswith('step') and name != 'step_grpo':
    advantages = reference.success_weighted(
        trajectory.returns, trajectory.task_ids, rates, trajectory.valid)
  elif name == 'rloo':
    advantages = reference.leave_one_out(
        trajectory.returns, slots, BASE, trajectory.valid)
  elif name == 'dapo':  # groups are tasks, wherever they were run
    advantages = reference.group_relative(
        trajectory.returns, trajectory.task_ids, TASKS, trajectory.valid)
  else:
    advantages = reference.group_relative(
        trajectory.returns, slots, BASE, trajectory.valid)
  low = np.array([
      name in AUGMENT and advantages[b] > 0
      and rates[trajectory.task_ids[b]] <= low_threshold + 1e-9
      for b in range(SLOTS)])
  return advantages, low, rates


# The methods


def test_the_methods():
  assert set(methods.METHODS) == set(NAMES)
  for name, method in methods.METHODS.items():
    assert method.resample == (name in RESAMPLE), name
    assert method.augment == (name in AUGMENT), name
    assert method.redraw == (name == 'dapo'), name
    assert method.sampler == (
        'sr_traj' if name in RESAMPLE else
        'spo' if name == 'spo' else 'uniform'), name
    assert method.trajectory_mean == (name == 'trajectory_grpo'), name


@pytest.mark.parametrize('name', NAMES)
def test_tasks_are_resampled_by_the_methods_that_say_so(name):
  base_ids = np.array([4, 0, 3, 2], np.int32)
  key = jax.random.key(0)
  options = {'group_size': 50, 'threshold': 0.5, 'sharpness': 5.0}
  actual = np.asarray(credit.propose_tasks(
      key, base_ids, RATES, method=methods.METHODS[name], **options))
  assert actual.dtype == np.int32 and actual.shape == (200,)
  uniform = np.repeat(base_ids, 50)
  if name not in RESAMPLE:
    np.testing.assert_array_equal(actual, uniform)
    return
  np.testing.assert_array_equal(actual, jax.jit(functools.partial(
      step_jax.resample_tasks, **options))(key, base_ids, RATES))
  slots = actual.reshape(4, 50)
  np.testing.assert_array_equal(slots[:, 0], base_ids)
  # Of task 4, mastered, nearly all are replaced by those in the cache, 1 and
  # 2; task 0 was never solved and keeps its slots.
  assert (slots[0] == 4).sum() < 20 and (slots[1] == 0).sum() > 40
  assert set(slots[0]) == {1, 2, 4}


# assign_credit


@pytest.mark.parametrize('name, ema_decay', [
    *((name, None) for name in NAMES if name != 'gigpo'),
    ('step', 0.8), ('step_grpo', 0.8)])
def test_assign_credit_oracle(name, ema_decay):
  options = {} if ema_decay is None else {'ema_decay': ema_decay}
  seen = 0
  for seed in range(8):
    trajectory = _round(seed)
    advantages, low, rates = _slow(trajectory, RATES, name, **options)
    singles, is_low, new_rates = _assign(trajectory, name=name, **options)
    np.testing.assert_allclose(new_rates, rates, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(
        is_low.reshape(SLOTS, STEPS),
        low[:, None] & trajectory.step_mask & trajectory.valid[:, None])
    mask = trajectory.step_mask & (advantages != 0)[:, None]
    assert not mask[~trajectory.valid].any()
    np.testing.assert_array_equal(singles.mask.reshape(SLOTS, STEPS), mask)
    tokens = (trajectory.token_mask & mask[..., None]).sum(axis=(1, 2))
    weights = np.ones(SLOTS)
    if name == 'trajectory_grpo':
      # M / (B' n_b): the token mean becomes a mean over trajectories.
      weights = tokens.sum() / np.maximum(tokens, 1) / (tokens > 0).sum()
    np.testing.assert_allclose(
        singles.advantages.reshape(SLOTS, STEPS),
        mask * (weights * advantages)[:, None], rtol=1e-4, atol=1e-6)
    for field in ('actions', 'log_probs'):
      np.testing.assert_array_equal(
          getattr(singles, field)[:, 0].reshape(SLOTS, STEPS, -1)[mask],
          getattr(trajectory, field)[mask])
    seen += low.sum()
  assert (seen > 3) == (name in AUGMENT)


def _screen(observation):
  return observation['screen']


def _visiting_round(seed):
  """A round of four screens, seen again and again; no history is equal."""
  trajectory = _round(seed)
  shape = trajectory.step_mask.shape
  rng = np.random.default_rng(seed)
  return dataclasses.replace(trajectory, observations={
      'screen': rng.normal(size=(4, 2)).astype(np.float32)[
          rng.integers(4, size=shape)],
      'history': np.arange(SLOTS * STEPS).reshape(shape)})


@pytest.mark.parametrize('seed', range(4))
def test_assign_credit_oracle_of_gigpo(seed):
  trajectory = _visiting_round(seed)
  mask = trajectory.step_mask & trajectory.valid[:, None]
  slots = np.arange(SLOTS) // GROUP
  advantages = reference.gigpo(
      trajectory.returns, slots, reference.state_ids(
          [trajectory.observations['screen']], mask), BASE, mask)
  singles, low, rates = _assign(trajectory, name='gigpo', state_fn=_screen)
  np.testing.assert_allclose(
      singles.advantages.reshape(SLOTS, STEPS), advantages, rtol=1e-4,
      atol=1e-5)
  used = mask & (np.abs(advantages) > 1e-6)
  np.testing.assert_array_equal(singles.mask.reshape(SLOTS, STEPS), used)
  np.testing.assert_array_equal(
      singles.token_mask[:, 0].reshape(trajectory.token_mask.shape),
      trajectory.token_mask & used[..., None])
  assert not low.any()
  np.testing.assert_allclose(
      rates, _slow(trajectory, RATES, 'step_grpo')[2], rtol=1e-5, atol=1e-7)
  # Steps of a trajectory differ, and the history is not of the state: with it
  # no state is seen twice.
  assert (np.ptp(advantages, axis=1) > 0.1).sum() > SLOTS / 2
  alone, _, _ = _assign(trajectory, name='gigpo', state_fn=dict)
  grpo, _, _ = _assign(trajectory, name='step_grpo')
  np.testing.assert_allclose(alone.advantages, grpo.advantages, rtol=1e-6)


def test_dapo_golden():
  # Slots of base tasks 0 and 1, G = 4; 0 failed twice, so that its second
  # half became 2, and 1 kept its own. Task 2 alone: 1 and 0 have mean 1/2
  # and deviation sqrt(1/2). Task 1: 1, 0, 0, 0, as in GRPO's golden number.
  trajectory = _with_outcomes(
      [0, 0, 2, 2, 1, 1, 1, 1], np.array([0, 0, 1, 0, 1, 0, 0, 0], bool))
  singles, _, rates = _assign(
      trajectory, np.zeros(3, np.float32), 'dapo', group_size=4)
  h = 0.5 ** 0.5
  np.testing.assert_allclose(
      singles.advantages.reshape(8, STEPS)[:, 0],
      [0, 0, h, -h, 1.5, -0.5, -0.5, -0.5], rtol=1e-6)
  assert not singles.mask.reshape(8, STEPS)[:2].any()
  np.testing.assert_allclose(rates, [0, 0.25, 0.25])


@pytest.mark.parametrize('name, expected', [
    # Task 1 won 1 of 4, task 3 both, task 0 none of its 2: the mean is taken
    # off and what is left divided by the sample's deviation, 1/2.
    ('step_grpo', {0: [0, 0], 1: [1.5, -.5, -.5, -.5], 3: [0, 0]}),
    # The mean of the others: 0 for the one that won, 1/3 for those that lost.
    ('rloo', {0: [0, 0], 1: [1, -1 / 3, -1 / 3, -1 / 3], 3: [0, 0]}),
])
def test_groups_of_unequal_size_are_those_of_tasks(name, expected):
  task_ids = np.array([1, 0, 3, 1, 1, 0, 1, 3])
  wins = np.array([1, 0, 1, 0, 0, 0, 0, 1], bool)
  singles, _, _ = _assign(
      _with_outcomes(task_ids, wins), name=name, group_size=4, by_task=True)
  found = singles.advantages.reshape(8, STEPS)[:, 0]
  for task, values in expected.items():
    np.testing.assert_allclose(
        found[task_ids == task], values, rtol=1e-6, atol=1e-7)


def test_slots_that_are_no_whole_groups_are_refused():
  trajectory = _with_outcomes(np.zeros(7, int), np.ones(7, bool))
  with pytest.raises(ValueError, match='multiple of 4 trajectories, got 7'):
    _assign(trajectory, name='step_grpo', group_size=4)
  _assign(trajectory, name='step_grpo', group_size=4, by_task=True)


def test_signed_golden():
  # s_hat of task 2 becomes 2/4, so a success is worth 1/2 and a failure -1/2.
  wins = np.array([1, 1, 0, 0], bool)
  singles, low, rates = _assign(
      _with_outcomes(np.full(4, 2), wins), name='step_signed_augmented',
      group_size=4, low_threshold=.6)
  assert rates[2] == .5
  np.testing.assert_array_equal(
      singles.advantages.reshape(4, STEPS)[:, 0], [.5, .5, -.5, -.5])
  # Groups stand at steps that succeeded, none at a failed one.
  assert not low.reshape(4, STEPS)[2:].any() and low.any()


def test_spo_takes_the_values_that_it_is_given():
  task_ids, wins = np.array([0, 0, 1, 1]), np.array([1, 0, 1, 1], bool)
  singles, _, _ = _assign(
      _with_outcomes(task_ids, wins), name='spo', group_size=4, by_task=True,
      values=np.array([.5, .75, 0, 0, 0], np.float32))
  # R - v = 1/2, -1/2, 1/4, 1/4: mean 1/8, deviation sqrt(.5625 / 3).
  np.testing.assert_allclose(
      singles.advantages.reshape(4, STEPS)[:, 0],
      (np.array([.5, -.5, .25, .25]) - .125) / (.5625 / 3)**.5, rtol=1e-6)


def test_gigpo_drops_the_steps_that_carry_no_signal():
  # Two successes of 2 steps: no episode advantage. They share the state of
  # their first steps, with the same value, and no other: nothing is left.
  # With a third step the second success is worth less at that state.
  for length, expected in [(2, [0, 0, 0, 0, 0, 0]),
                           (3, [0.5 ** 0.5, 0, 0, -0.5 ** 0.5, 0, 0])]:
    trajectory = dataclasses.replace(
        examples.trajectory(0, [0, 0], 3, lost=0),
        step_mask=np.arange(3) < np.array([[2], [length]]),
        observations=np.array([[0, 1, 2], [0, 3, 4]]),
        returns=np.ones(2, np.float32), successes=np.ones(2, bool))
    singles, _, _ = _assign(
        trajectory, RATES, 'gigpo', group_size=2, state_fn=jnp.asarray)
    np.testing.assert_allclose(singles.advantages[:, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(singles.mask, singles.advantages != 0)


def test_gigpo_wants_to_know_what_a_state_is():
  with pytest.raises(ValueError, match='expected state_fn'):
    _assign(_visiting_round(0), name='gigpo')


def test_pieces_of_the_rounds():
  rounds = [_round(seed) for seed in range(8)]
  assert sum((~x.valid).sum() for x in rounds) > 10
  assert sum((x.successes & ~x.valid).sum() for x in rounds) > 3
  for x in rounds:
    first = np.repeat(x.task_ids[::GROUP], GROUP)
    assert (x.task_ids != first).sum() > 2


def test_a_replaced_slot_counts_for_the_task_it_became():
  # Slots of base tasks 0 and 1, G = 4; two slots of 0 became 1.
  successes = np.array([1, 1, 0, 1, 0, 0, 0, 1], bool)
  trajectory = _with_outcomes([0, 1, 0, 1, 1, 1, 1, 1], successes)
  singles, _, rates = _assign(
      trajectory, np.array([0.5, 0.5], np.float32), group_size=4)
  # Task 0: n = 2, u = 1, (1 + 2 * 0.5) / 4; task 1: n = 6, u = 3, 3 / 6.
  np.testing.assert_allclose(rates, [0.5, 0.5])
  rates = _assign(
      trajectory, np.array([0.0, 0.0], np.float32), group_size=4)[2]
  np.testing.assert_allclose(rates, [0.25, 0.5])
  np.testing.assert_allclose(
      singles.advantages.reshape(8, STEPS)[:, 0], 0.5 * successes)
  # Groups of the GRPO methods are the base slots, whatever was run in them:
  # 3 of 4 succeeded in the first, 1 of 4 in the second; std is 0.5.
  singles, _, _ = _assign(
      trajectory, np.zeros(2, np.float32), name='step_grpo', group_size=4)
  np.testing.assert_allclose(
      singles.advantages.reshape(8, STEPS)[:, 0],
      [0.5, 0.5, -1.5, 0.5, -0.5, -0.5, -0.5, 1.5], rtol=1e-5)


@pytest.mark.parametrize('name', ['step', 'step_grpo', 'rloo', 'gigpo',
                                  'dapo', 'trajectory_grpo'])
def test_an_invalid_trajectory_counts_for_nothing(name):
  """Whatever it holds: the record, the statistics and the samples."""
  trajectory = _visiting_round(1)
  lost = ~trajectory.valid
  assert lost.sum() > 1
  options = {'name': name, 'state_fn': _screen}
  expected = _assign(trajectory, **options)
  fouled = dataclasses.replace(
      trajectory, returns=np.where(lost, np.nan, trajectory.returns).astype(
          np.float32),
      successes=trajectory.successes ^ lost,
      task_ids=np.where(lost, 0, trajectory.task_ids),
      token_mask=trajectory.token_mask | lost[:, None, None])
  actual = _assign(fouled, **options)
  for field in ('mask', 'advantages', 'token_mask'):
    np.testing.assert_array_equal(
        getattr(actual[0], field), getattr(expected[0], field))
  chex.assert_trees_all_equal(actual[1:], expected[1:])
  nothing = dataclasses.replace(
      trajectory, valid=np.zeros(SLOTS, bool))
  singles, low, rates = _assign(nothing, **options)
  assert not singles.mask.any() and not low.any()
  np.testing.assert_array_equal(rates, RATES)


@pytest.mark.parametrize('group_size', [10, 40])
def test_low_includes_the_threshold(group_size):
  """s_hat = 0.2 in float32 is low, the next possible rate is not."""
  for step in (0, 1):
    successes = np.arange(40) < (40 if group_size == 40 else 10) / 5 + step
    trajectory = examples.trajectory(
        0, np.where(np.arange(40) < group_size, 0, 1), STEPS, lost=0)
    trajectory = dataclasses.replace(
        trajectory, successes=successes, returns=np.float32(successes))
    singles, low, rates = _assign(
        trajectory, np.zeros(2, np.float32), group_size=group_size)
    np.testing.assert_allclose(
        rates[0], 0.2 + step / group_size, rtol=1e-6)
    assert singles.mask.any()
    np.testing.assert_array_equal(
        low, singles.mask[:, 0] if step == 0 else False)


def test_other_low_thresholds():
  trajectory = _round(2)
  for threshold in (0.0, 1.0):
    _, low, rates = _assign(trajectory, low_threshold=threshold)
    expected = _slow(
        trajectory, RATES, 'step', low_threshold=threshold)[1]
    np.testing.assert_array_equal(
        low.reshape(SLOTS, STEPS), expected[:, None] & trajectory.step_mask)
  assert low.any()  # at 1.0, all that have an advantage


@pytest.mark.parametrize('group_size', [2, 3, 5])
def test_groups_of_alternatives_need_an_even_size_of_four_at_least(
    group_size):
  trajectory = examples.trajectory(0, [0] * 2 * group_size, STEPS)
  for name in AUGMENT:
    with pytest.raises(
        ValueError, match=f'expected an even group_size .* got {group_size}'):
      _assign(trajectory, name=name, group_size=group_size)


def test_assign_credit_traces_once():
  _assign(_round(0))
  size = credit._assign_credit._cache_size()
  for seed in range(1, 4):
    _assign(_round(seed), RATES[::-1].copy())
  assert credit._assign_credit._cache_size() == size
  for seed in range(2):
    _assign(_visiting_round(seed), name='gigpo', state_fn=_screen)
  assert credit._assign_credit._cache_size() <= size + 1


def test_trajectory_grpo_is_a_mean_over_trajectories_of_token_means():
  """The loss of the round, and its gradient by the log-probs."""
  trajectory = _round(3)
  advantages = reference.group_relative(
      trajectory.returns, np.arange(SLOTS) // GROUP, BASE, trajectory.valid)
  singles, _, _ = _assign(trajectory, name='trajectory_grpo')
  rng = np.random.default_rng(0)
  log_probs = singles.log_probs + rng.normal(
      scale=0.3, size=singles.log_probs.shape).astype(np.float32)

  def loss(log_probs):
    return step_jax.clipped_surrogate_loss(
        log_probs, singles.log_probs, singles.advantages,
        where=singles.token_mask)

  def slow(log_probs):
    shape = trajectory.log_probs.shape
    losses = [
        reference.surrogate_loss(
            log_probs.reshape(shape)[b], trajectory.log_probs[b],
            np.full(STEPS, advantages[b]), trajectory.token_mask[b])
        for b in range(SLOTS) if advantages[b] != 0]
    assert len(losses) > 4
    return np.mean(losses)

  value, gradient = jax.jit(jax.value_and_grad(loss))(log_probs)
  np.testing.assert_allclose(value, slow(log_probs), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
      gradient, reference.numerical_gradient(slow, log_probs), rtol=1e-3,
      atol=1e-6)
  assert len(set(trajectory.token_mask.sum(axis=(1, 2)))) > 4


@pytest.mark.parametrize('name', ['trajectory_grpo', 'step_grpo'])
def test_units_of_the_learner(name):
  singles, _, _ = _assign(_round(0), name=name)
  batch = credit.without_groups(
      singles, method=methods.METHODS[name], max_steps=STEPS)
  chex.assert_trees_all_equal(batch.singles, singles)
  assert batch.groups is None
  rows = np.arange(SLOTS * STEPS)
  np.testing.assert_array_equal(
      batch.single_units, rows // STEPS if name == 'trajectory_grpo' else rows)


# Keys


def test_row_keys_are_distinct_and_independent_of_the_batch():
  slots, steps, candidates = (
      x.ravel() for x in np.meshgrid(range(8), range(15), range(8)))
  data = np.concatenate([
      jax.random.key_data(credit.row_keys(
          jax.random.key(3), slots[candidates == k], steps[candidates == k],
          k)) for k in range(8)])
  assert len(np.unique(data, axis=0)) == 8 * 15 * 8
  alone = credit.row_keys(jax.random.key(3), np.array([5]), np.array([2]), 6)
  index = np.nonzero(
      (slots[candidates == 6] == 5) & (steps[candidates == 6] == 2))[0]
  np.testing.assert_array_equal(
      jax.random.key_data(alone), data[6 * 120 + index])
  other = credit.row_keys(jax.random.key(4), np.array([5]), np.array([2]), 6)
  assert (jax.random.key_data(other) != jax.random.key_data(alone)).any()


# augment_steps

CANDIDATES = 4
ROWS = 6 * STEPS  # S of these tests


@functools.lru_cache(maxsize=None)
def _policy():
  policy = element.make_policy(
      examples.screen(np.random.default_rng(0)), width=16, num_layers=1,
      num_heads=2, vocabulary=64)
  sample_fn = functools.partial(policy.sample, temperature=0.7)
  return policy, sample_fn, examples.parameters(policy.init)


@functools.lru_cache(maxsize=None)
def _singles():
  """Step samples that the policy drew itself, all but the last six."""
  policy, sample_fn, params = _policy()
  del policy
  observation = examples.screens(0, ROWS)
  # Every screen offers something to choose.
  observation['verb_mask'][:, 2:] = True
  rows = np.arange(ROWS)
  sample = jax.tree.map(lambda x: np.asarray(x)[:, None], sample_fn(
      params, credit.row_keys(
          jax.random.key(9), rows // STEPS, rows % STEPS, 0), observation))
  mask = rows[:, None] < ROWS - 6
  return types.StepBatch(
      observations=observation, actions=sample.tokens,
      log_probs=sample.log_probs,
      token_mask=sample.token_mask & mask[..., None],
      advantages=np.linspace(0.1, 1, ROWS, dtype=np.float32)[:, None] * mask,
      mask=mask)


def _augment(low, singles=None, sample_fn=None):
  _, sampler, params = _policy()
  return jax.tree.map(np.asarray, credit.augment_steps(
      jax.random.key(9), params, singles or _singles(), low,
      sample_fn=sample_fn or sampler, matches_fn=element.matches,
      max_steps=STEPS, num_candidates=CANDIDATES,
      micro_batch_size=5))


def _low(*rows):
  return np.isin(np.arange(ROWS), rows)


SOME = (0, 3, 4, 7, 8, 9, 10, 12, 13, 15, 17)


def test_groups_hold_the_original_and_its_alternatives():
  singles, low = _singles(), _low(*SOME)
  batch = _augment(low)
  groups = batch.groups
  assert groups.actions.shape == (ROWS, CANDIDATES, 3)
  np.testing.assert_array_equal(
      groups.mask, np.repeat(low[:, None], CANDIDATES, axis=1))
  assert not groups.token_mask[~low].any()
  for field in ('actions', 'log_probs', 'token_mask'):
    np.testing.assert_array_equal(
        getattr(groups, field)[low, 0], getattr(singles, field)[low, 0])
  chex.assert_trees_all_equal(groups.observations, singles.observations)
  np.testing.assert_array_equal(batch.single_units, np.arange(ROWS))


def test_singles_lose_the_low_rows_and_nothing_else():
  singles, low = _singles(), _low(*SOME)
  batch = _augment(low)
  np.testing.assert_array_equal(
      batch.singles.mask[:, 0], singles.mask[:, 0] & ~low)
  chex.assert_trees_all_equal(
      dataclasses.replace(batch.singles, mask=singles.mask), singles)
  # No sample is in both.
  assert not (batch.singles.mask[:, 0] & batch.groups.mask[:, 0]).any()


def test_ratio_is_one_for_alternatives():
  policy, _, params = _policy()
  low = _low(*SOME)
  groups = _augment(low).groups
  for candidate in range(CANDIDATES):
    log_probs, _ = policy.log_prob(
        params, groups.observations, groups.actions[:, candidate],
        temperature=0.7)
    where = groups.token_mask[:, candidate] & low[:, None]
    assert where.any()
    np.testing.assert_allclose(
        np.exp(log_probs - groups.log_probs[:, candidate])[where], 1,
        rtol=1e-5)


def test_alternatives_are_drawn_with_the_key_of_slot_step_and_candidate():
  """Whatever the micro-batches are: those here hold five rows."""
  _, sample_fn, params = _policy()
  groups = _augment(_low(*SOME)).groups
  rows = np.arange(ROWS)
  low = _low(*SOME)
  for candidate in range(1, CANDIDATES):
    sample = sample_fn(params, credit.row_keys(
        jax.random.key(9), rows // STEPS, rows % STEPS, candidate),
        groups.observations)
    np.testing.assert_array_equal(
        groups.actions[low, candidate], sample.tokens[low])
    np.testing.assert_array_equal(
        groups.token_mask[low, candidate], sample.token_mask[low])
    np.testing.assert_allclose(
        groups.log_probs[low, candidate], sample.log_probs[low], rtol=1e-5,
        atol=1e-5)
  first, others = groups.actions[low, :1], groups.actions[low, 1:]
  assert (first != others).any()
  for k in range(CANDIDATES):
    for j in range(k):
      assert (groups.actions[low, k] != groups.actions[low, j]).any()


def test_advantages_of_groups():
  """Candidate 0 is right by definition: method 3, from the actions."""
  singles, low = _singles(), _low(*SOME)
  groups = _augment(low).groups
  matches = np.zeros((ROWS, CANDIDATES), bool)
  for row in range(ROWS):
    words = singles.observations['instruction'][row]
    meant = [
        (verb, target * element.USES_ELEMENT[verb],
         words[word] * element.USES_WORD[verb])
        for verb, target, word in groups.actions[row]]
    matches[row] = [action == meant[0] for action in meant]
  expected = reference.step_groups(
      singles.advantages[:, 0], matches, groups.mask)
  np.testing.assert_allclose(
      groups.advantages, expected, rtol=1e-5, atol=1e-6)
  assert (expected[low] > 0).any() and (expected[low] < 0).any()


def test_a_group_can_weigh_what_its_sample_weighed():
  singles, low = _singles(), _low(1, 6)
  drawn = tuple(np.repeat(x, 3, axis=1) for x in (
      singles.actions, singles.log_probs, singles.token_mask))
  agree = np.tile([True, False, True], (len(low), 1))
  by_sum, by_sample = (
      jax.device_get(jax.jit(functools.partial(
          credit.with_groups, group_weight=weight))(
              singles, low, drawn, agree))
      for weight in ('sum', 'sample'))
  assert np.abs(by_sum.groups.advantages).max() > 0
  np.testing.assert_allclose(
      by_sample.groups.advantages, by_sum.groups.advantages / 3, rtol=1e-6)
  with pytest.raises(ValueError, match="'sum' or 'sample', got 'mean'"):
    credit.with_groups(singles, low, drawn, agree, group_weight='mean')


def test_a_low_row_does_not_depend_on_the_others():
  alone, some = _augment(_low(9)).groups, _augment(_low(*SOME)).groups
  everything = _augment(_low(*range(ROWS - 6))).groups
  for groups in (alone, some):
    for field in ('actions', 'token_mask', 'mask'):
      np.testing.assert_array_equal(
          getattr(groups, field)[9], getattr(everything, field)[9])
    np.testing.assert_allclose(
        groups.log_probs[9], everything.log_probs[9], atol=1e-6)
  chex.assert_trees_all_equal(_augment(_low(9)), _augment(_low(9)))


def test_no_low_rows():
  singles = _singles()
  batch = _augment(_low())
  assert not batch.groups.mask.any() and not batch.groups.token_mask.any()
  assert (batch.groups.advantages == 0).all()
  chex.assert_trees_all_equal(batch.singles, singles)


ECHOES: list[int] = []  # one for each trace


def _echo(params, keys, observation):
  """Always the same action, with a log-prob of its own."""
  del params
  ECHOES.append(0)
  rows = keys.shape[0]
  assert observation['instruction'].shape[0] == rows
  return base.ActionSample(
      jnp.tile(jnp.array([[2, 0, 0]], jnp.int32), (rows, 1)),
      jnp.full((rows, 3), -0.5), jnp.ones((rows, 3), bool))


def test_groups_in_which_all_match_have_no_advantage():
  singles = _singles()
  low = _low(*SOME)
  actions = singles.actions.copy()
  actions[SOME[0]] = actions[SOME[1]] = [2, 0, 0]
  actions[SOME[2]] = [3, 0, 0]
  batch = _augment(
      low, dataclasses.replace(singles, actions=actions), _echo)
  assert (batch.groups.advantages[list(SOME[:2])] == 0).all()
  # m = 1 of 4: sqrt(3) and -sqrt(1/3).
  np.testing.assert_allclose(
      batch.groups.advantages[SOME[2]] / singles.advantages[SOME[2]],
      [np.sqrt(3)] + 3 * [-np.sqrt(1 / 3)], rtol=1e-5)
  np.testing.assert_array_equal(batch.groups.log_probs[low, 1:], -0.5)
  assert batch.groups.token_mask[low, 1:].all()


def test_one_trace_for_any_number_of_low_rows():
  for rows in ((), SOME, (1,), range(ROWS - 6)):
    batch = _augment(_low(*rows), sample_fn=_echo)
    assert batch.groups.mask[:, 0].sum() == len(rows)
    assert len(ECHOES) == 1


def test_foul_rows_change_nothing():
  """What lies behind the mask is not read."""
  singles, low = _singles(), _low(*SOME)
  expected = _augment(low)
  unused = ~singles.mask[:, 0]
  actions, log_probs = singles.actions.copy(), singles.log_probs.copy()
  actions[unused], log_probs[unused] = 10**6, np.nan
  advantages = np.where(unused[:, None], np.nan, singles.advantages)
  observations = dict(singles.observations)
  observations['element_box'] = observations['element_box'].copy()
  observations['element_box'][unused] = np.nan
  actual = _augment(low, dataclasses.replace(
      singles, actions=actions, log_probs=log_probs,
      observations=observations, advantages=advantages.astype(np.float32)))
  for field in ('mask', 'token_mask', 'advantages'):
    np.testing.assert_array_equal(
        getattr(actual.groups, field), getattr(expected.groups, field))
  for field in ('actions', 'log_probs'):
    np.testing.assert_array_equal(
        getattr(actual.groups, field)[low], getattr(expected.groups, field)[
            low])
