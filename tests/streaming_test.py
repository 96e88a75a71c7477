"""Streaming: the same results as in one jit, and little that is loaded."""

import dataclasses
import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import step_jax
from step_jax.algorithm import types
from step_jax.learning import imitation
from step_jax.learning import loader
from step_jax.learning import of_policy
from step_jax.learning import streaming
from step_jax.policies import base
from step_jax.policies import element
from step_jax.runs import metrics as metrics_lib
from tests import credit_test
from tests import examples
from tests import learner_test

GROUP_ROWS = 1000  # observations of groups are numbered from here
COUNTS = [(17, 5), (0, 3), (3, 0), (0, 0), (256, 12)]
# Compiling takes seconds, so two pairs of learners serve all tests.
OPTIONS = {
    'both': {'num_epochs': 2},
    'singles': {'num_minibatches': 3, 'micro_batch_size': 3, 'clip_low': 0.05,
                'clip_high': 1.0, 'importance_cap': 1.5},
}


class Store:
  """What rows name by number; remembers what was asked for."""

  def __init__(self, tables):
    self._tables = tables  # {first number: features [S, ...]}
    self.calls = []
    self.closed = 0

  def load(self, batches):
    """Numbers of rows to their features."""
    try:
      for rows in batches:
        numbers = rows['number']
        assert isinstance(numbers, np.ndarray)
        self.calls.append(numbers.tolist())
        first = max(x for x in self._tables if x <= numbers[0])
        yield jax.tree.map(
            lambda x: x[numbers - first], self._tables[first])  # noqa: B023
    finally:
      self.closed += 1


def _stored(batch):
  """A round whose observations are numbers, and the store of features."""
  singles, groups = (
      rows and dataclasses.replace(rows, observations={
          'number': first + np.arange(len(rows.mask), dtype=np.int32)})
      for rows, first in ((batch.singles, 0), (batch.groups, GROUP_ROWS)))
  store = Store({0: batch.singles.observations} | (
      {GROUP_ROWS: batch.groups.observations} if groups else {}))
  return dataclasses.replace(batch, singles=singles, groups=groups), store


class _Streamed:
  """A learner, and the store of the round at hand."""

  def __init__(self, name):
    self.name = name
    self.learner = streaming.make_learner(
        functools.partial(learner_test.log_prob_fn, name=f'streamed {name}'),
        optax.adamw(**learner_test.ADAMW),
        load=lambda batches: self.load(batches), **OPTIONS[name])
    self.store = self.load = None

  def update(self, state, batch, load=None):
    batch, self.store = _stored(batch)
    self.load = load or self.store.load
    return self.learner.update(state, batch)

  def init(self):
    return self.learner.init(learner_test._params())


@functools.lru_cache(maxsize=None)
def _streamed(name):
  return _Streamed(name)


@functools.lru_cache(maxsize=None)
def _jitted(name):
  return step_jax.make_learner(
      learner_test.log_prob_fn, optax.adamw(**learner_test.ADAMW),
      **OPTIONS[name])


def _close(actual, expected, tolerance=1e-6):
  chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
  chex.assert_trees_all_close(
      actual, expected, rtol=tolerance, atol=tolerance)


def _batch(name, seed, *counts):
  batch = examples.round_batch(seed, *counts)
  return batch if name == 'both' else dataclasses.replace(batch, groups=None)


def _compare(name, *batches):
  """Both learners over some rounds; returns the last results."""
  jitted, streamed = _jitted(name), _streamed(name)
  expected, actual = jitted.init(learner_test._params()), streamed.init()
  for batch in batches:
    expected, expected_metrics = jitted.update(expected, batch)
    actual, metrics = streamed.update(actual, batch)
    _close(actual, expected)
    _close(metrics, expected_metrics)
    # With a cap, rows are scored once before the first step.
    passes = 2 if OPTIONS[name].get('importance_cap') else 1
    assert streamed.store.closed == passes * bool(streamed.store.calls)
  return actual, metrics


# The learner


@pytest.mark.parametrize('counts', COUNTS)
@pytest.mark.parametrize('name', OPTIONS)
def test_equals_the_jitted_learner(name, counts):
  state, metrics = _compare(
      name, *(_batch(name, seed, *counts) for seed in (1, 2)))
  if counts[0] >= 17:
    moved = state.params['bias'] - learner_test._params()['bias']
    assert np.abs(moved).max() > 1e-2
    # Against pi_old, the ratio has only begun to move.
    assert metrics['approx_kl'] > (1e-1 if name == 'both' else 1e-5)
  assert metrics['step_samples'] == (
      sum(counts) if name == 'both' else counts[0])


@pytest.mark.parametrize('name', OPTIONS)
def test_trajectories_stay_together(name):
  """The order is one of units, so another one than of rows."""
  calls = []
  for rows_each in (1, 4):
    batch = dataclasses.replace(
        _batch(name, 5, 60, 3),
        single_units=np.arange(256, dtype=np.int32) // rows_each)
    _compare(name, batch)
    calls.append(_streamed(name).store.calls)
  assert calls[0] != calls[1]


def test_only_useful_rows_are_loaded_once_an_epoch():
  batch = examples.round_batch(9, 100, 12)
  zero, zero_groups = np.arange(256) % 3 == 0, np.arange(12) % 2 == 0
  batch = examples.without_advantage(batch, zero, zero_groups)
  streamed = _streamed('both')
  _, metrics = streamed.update(streamed.init(), batch)
  useful = np.nonzero(batch.singles.mask[:, 0] & ~zero)[0].tolist()
  useful_groups = (GROUP_ROWS + np.nonzero(~zero_groups)[0]).tolist()
  assert 0 < len(useful) < 100
  calls = streamed.store.calls
  loaded = [call for call in calls if call[0] < GROUP_ROWS]
  # Of one shape; idle rows repeat a useful one.
  assert {len(call) for call in loaded} == {8}
  assert any(call[-1] == call[-2] for call in loaded)
  assert sorted(sum((list(set(call)) for call in loaded), [])) == sorted(
      2 * useful)
  assert sorted(sum((x for x in calls if x[0] >= GROUP_ROWS), [])) == sorted(
      2 * useful_groups)
  assert metrics['rows_computed'] == 8 * len(calls)


def test_one_compilation_for_rounds_of_any_number_of_samples():
  streamed = _streamed('both')
  state = streamed.init()
  state, _ = streamed.update(state, examples.round_batch(0, 5, 5))
  counter = metrics_lib.CompilationCounter()
  for seed, counts in enumerate([(0, 0), (2, 1), (256, 12), (0, 3), (33, 0)]):
    state, _ = streamed.update(state, examples.round_batch(seed, *counts))
  assert counter.count == 0
  # Once for the singles and once for the groups.
  assert learner_test.TRACES['streamed both'] == 2


@pytest.mark.parametrize('where', ['observation', 'log_prob'])
def test_a_gradient_that_is_not_finite_skips_its_step(where):
  streamed = _streamed('both')
  state, _ = streamed.update(streamed.init(), examples.round_batch(12, 20, 6))
  before = jax.tree.map(lambda x: np.array(x), state)
  batch = examples.round_batch(14, 20, 6)
  row = np.nonzero(batch.singles.mask[:, 0])[0][3]
  if where == 'observation':
    batch.singles.observations['features'][row] = np.nan
  else:
    batch.singles.log_probs[row, 0, 0] = np.nan
  state, metrics = streamed.update(state, batch)
  # The bad row is in one step of each epoch.
  assert metrics['skipped_steps'] == 2 and metrics['optimizer_steps'] == 6
  assert state.step == before.step + 6
  chex.assert_tree_all_finite(state)
  state, metrics = streamed.update(state, examples.round_batch(15, 20, 6))
  assert metrics['skipped_steps'] == 0 and metrics['optimizer_steps'] == 8


def test_the_state_is_donated_by_an_update_that_ends():
  streamed = _streamed('both')
  state = streamed.init()
  old = jax.tree.leaves(state)
  streamed.update(state, examples.round_batch(17, 20, 6))
  assert all(x.is_deleted() for x in old)


def test_params_stay_the_callers():
  streamed = _streamed('both')
  learner_test.check_own_params(streamed.learner.init, streamed.update)


def test_an_update_that_cannot_load_raises():
  """The exception comes out, and nothing goes on loading."""
  streamed = _streamed('both')
  state, _ = streamed.update(streamed.init(), examples.round_batch(12, 20, 6))
  closed = []

  def load(batches):
    try:
      for i, rows in enumerate(streamed.store.load(batches)):
        if i == 6:  # in the second optimiser step
          raise OSError('no such picture')
        yield rows
    finally:
      closed.append(True)

  with pytest.raises(OSError, match='no such picture'):
    streamed.update(state, examples.round_batch(18, 100, 6), load)
  assert len(streamed.store.calls) == 7 and closed
  # A step was taken, in the place of the state: a run goes back to a save.
  assert all(x.is_deleted() for x in jax.tree.leaves(state))


def test_with_the_loader_and_its_thread():
  """A policy's `load` takes one batch; `prefetch` makes it one of many."""
  streamed, batch = _streamed('both'), examples.round_batch(19, 50, 6)
  actual = streamed.update(streamed.init(), batch, functools.partial(
      loader.prefetch, lambda rows: next(streamed.store.load([rows])),
      depth=2))
  chex.assert_trees_all_equal(
      actual, streamed.update(streamed.init(), batch))


def test_a_policy_s_learner_loads_if_the_policy_does():
  def log_prob(params, observation, tokens, *, temperature):
    return learner_test.log_prob_fn(
        jax.tree.map(lambda x: x / temperature, params), observation, tokens)

  batch = _batch('singles', 20, 17, 0)
  rows, store = _stored(batch)
  policy = base.Policy(lambda key: learner_test._params(), log_prob, log_prob)
  results = []
  for policy, batch in ((policy, batch), (policy._replace(
      load=lambda rows: next(store.load([rows]))), rows)):
    learner = of_policy.make_learner(
        policy, optax.sgd(.1), temperature=.7, num_minibatches=1)
    results.append(learner.update(
        learner.init(policy.init(None)), batch)[0].params)
  _close(*results)
  assert store.calls
  moved = jax.tree.map(lambda x, y: np.abs(x - y).max(),
                       results[0], learner_test._params())
  assert max(jax.tree.leaves(moved)) > 1e-3


def test_the_options_are_those_of_the_jitted_learner():
  theirs, ours = (
      {name: (x.kind, x.default) for name, x in inspect.signature(
          module.make_learner).parameters.items()}
      for module in (step_jax, streaming))
  del ours['load'], ours['frozen']
  assert ours == theirs


@pytest.mark.parametrize('options', [
    {'num_epochs': 0}, {'num_minibatches': 0}, {'micro_batch_size': 0},
    {'importance_cap': -1.0}])
def test_refuses_options(options):
  (name, value), = options.items()
  for make in (step_jax.make_learner, functools.partial(
      streaming.make_learner, load=iter)):
    with pytest.raises(ValueError, match=f'expected {name} .*, got {value}'):
      make(learner_test.log_prob_fn, optax.sgd(1.0), **options)


# Alternatives

STEPS, ROWS, CANDIDATES = (
    credit_test.STEPS, credit_test.ROWS, credit_test.CANDIDATES)
LOW = credit_test.SOME
QUICK = {'xla_backend_optimization_level': 0}  # compiled sooner


@functools.lru_cache(maxsize=None)
def _singles():
  """Step samples with any legal actions, all but the last six."""
  rng = np.random.default_rng(0)
  screens = [examples.screen(rng) for _ in range(ROWS)]
  mask = np.arange(ROWS)[:, None] < ROWS - 6
  shape = (ROWS, 1, element.NUM_TOKENS)
  return types.StepBatch(
      observations=examples.stack(screens),
      actions=np.stack(
          [examples.legal_action(rng, x) for x in screens])[:, None],
      log_probs=-rng.random(shape, np.float32),
      token_mask=(rng.random(shape) < 0.8) & mask[..., None],
      advantages=np.linspace(0.1, 1, ROWS, dtype=np.float32)[:, None] * mask,
      mask=mask)


def _augment(low, sample_many, matches_fn):
  """The streamed round, and the store that it was loaded from."""
  singles = _singles()
  store = Store({0: singles.observations})
  # The codec reads the instruction of what is stored.
  stored = {'number': np.arange(ROWS, dtype=np.int32),
            'instruction': singles.observations['instruction']}
  batch = streaming.augment_steps(
      jax.random.key(9), credit_test._policy()[2],
      jax.device_put(dataclasses.replace(singles, observations=stored)),
      jnp.asarray(low), sample_many=sample_many, load=store.load,
      matches_fn=matches_fn, max_steps=STEPS, num_candidates=CANDIDATES,
      micro_batch_size=5)
  return batch, store


def test_alternatives_equal_those_of_one_jit():
  low = credit_test._low(*LOW)
  seen = []

  @functools.partial(jax.jit, compiler_options=QUICK)
  def sample_many(params, keys, observation):
    return jax.vmap(
        lambda keys: credit_test._policy()[1](params, keys, observation),
        in_axes=1, out_axes=1)(keys)

  def matches_fn(observation, tokens):
    """Slow Python, a row at a time."""
    assert all(isinstance(x, np.ndarray) for x in (
        tokens, *observation.values()))
    seen.extend(observation['number'].tolist())
    return [
        np.asarray(element.matches({'instruction': words}, row))
        for words, row in zip(observation['instruction'], tokens)]

  expected = credit_test._augment(low, _singles())
  batch, store = _augment(low, sample_many, matches_fn)
  for actual, other in ((batch.singles, expected.singles),
                        (batch.groups, expected.groups)):
    _close(dataclasses.replace(actual, observations=None),
           dataclasses.replace(other, observations=None), 1e-5)
  chex.assert_trees_all_equal(batch.single_units, expected.single_units)
  chex.assert_trees_all_equal(batch.groups.actions, expected.groups.actions)
  assert len(np.unique(batch.groups.advantages[low])) > 3
  # Only low steps were read, in micro-batches of five.
  assert seen == list(LOW)
  assert store.calls == [
      [*LOW[:5]], [*LOW[5:10]], [LOW[10]] * 5] and store.closed
  np.testing.assert_array_equal(
      batch.groups.observations['number'], np.arange(ROWS))


def test_a_policy_s_alternatives_load_if_the_policy_does():
  """A token of its key, times a parameter and a temperature."""
  def sample(params, keys, rows, *, temperature):
    drawn = jax.vmap(jax.random.uniform)(keys.reshape(-1)).reshape(keys.shape)
    seen = rows['feature'].reshape((-1,) + (1,) * (keys.ndim - 1))
    tokens = jnp.stack([drawn * 1000, params + seen + 0 * drawn], axis=-1)
    return base.ActionSample(
        tokens.astype(jnp.int32), temperature * drawn[..., None] - tokens * 0,
        jnp.ones(tokens.shape, bool))

  shape = (6, 1, 2)
  singles = types.StepBatch(
      observations={'feature': np.arange(6, dtype=np.int32)},
      actions=np.zeros(shape, np.int32), log_probs=np.zeros(shape, np.float32),
      token_mask=np.ones(shape, bool),
      advantages=np.ones((6, 1), np.float32), mask=np.ones((6, 1), bool))
  stored = dataclasses.replace(
      singles, observations={'number': np.arange(6, dtype=np.int32)})
  store = Store({0: singles.observations})
  policy = base.Policy(lambda key: None, sample, None)
  loading = policy._replace(
      load=lambda rows: next(store.load([rows])), sample_many=sample)
  drawn = []
  for policy, rows in ((policy, singles), (loading, stored)):
    augment = of_policy.make_augment(
        policy, temperature=.7, micro_batch_size=2)
    drawn.append(augment(
        jax.random.key(9), jnp.int32(100), rows, np.arange(6) % 2 == 0,
        matches_fn=lambda observations, tokens: tokens[..., 1] % 2 == 0,
        max_steps=3, num_candidates=4).groups)
  chex.assert_trees_all_equal(*(
      (rows.actions, rows.log_probs) for rows in drawn))
  assert store.calls == [[0, 2], [4, 4]]
  np.testing.assert_array_equal(
      drawn[0].actions[..., 1], [[0, *[100 + i] * 3] if i % 2 == 0 else [0] * 4
                                 for i in range(6)])
  assert 0 < np.max(drawn[0].log_probs) <= .7


def test_alternatives_compile_once_for_any_number_of_low_steps():
  traces = []

  @jax.jit
  def sample_many(params, keys, observation):
    del params, observation
    traces.append(keys.shape)
    shape = (*keys.shape, 3)
    return base.ActionSample(
        jnp.zeros(shape, jnp.int32), jnp.zeros(shape), jnp.ones(shape, bool))

  def agree(observation, tokens):
    del observation
    return np.ones(tokens.shape[:2], bool)

  for count in (1, 5, 11, 18):
    batch, _ = _augment(np.arange(ROWS) < count, sample_many, agree)
    assert batch.groups.mask.sum() == count * CANDIDATES
    assert not batch.groups.advantages.any()  # all match
  assert traces == [(5, CANDIDATES - 1)]


def test_no_low_step_loads_nothing():
  batch, store = _augment(
      np.zeros(ROWS, bool), sample_many=None, matches_fn=None)
  assert not store.calls and not batch.groups.mask.any()
  np.testing.assert_array_equal(
      batch.singles.mask, _singles().mask)


# Imitation


def _log_prob(params, observation, tokens, *, temperature):
  params = jax.tree.map(lambda x: x / temperature, params)
  return learner_test.log_prob_fn(params, observation, tokens)


def test_imitation_equals_that_of_one_jit():
  rows = examples.round_batch(3, 40, 0).singles
  tokens = rows.actions[:, 0]
  settings = dict(
      num_steps=30, batch_size=7, learning_rate=0.1, temperature=0.7)
  expected, losses = imitation.imitate(
      jax.random.key(4), learner_test._params(), rows.observations, tokens,
      log_prob_fn=_log_prob, **settings)
  store, told = Store({0: rows.observations}), []
  params = learner_test._params()
  actual, streamed_losses = imitation.imitate_loaded(
      jax.random.key(4), params, {'number': np.arange(256)}, tokens,
      log_prob_fn=_log_prob, load=store.load,
      on_step=lambda *args: told.append(args), **settings)
  _close(actual, expected)
  np.testing.assert_allclose(streamed_losses, losses, rtol=1e-6)
  assert losses[-5:].mean() < losses[:5].mean() - 0.1
  assert told == list(zip(range(1, 31), streamed_losses))
  assert [len(call) for call in store.calls] == [7] * 30
  assert len(set(sum(store.calls, []))) > 100  # drawn anew for each step
  assert store.closed == 1
  assert all(x.is_deleted() for x in jax.tree.leaves(params))  # donated
