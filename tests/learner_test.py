"""The update: its gradient, what it counts, and that it compiles once."""

import collections
import dataclasses
import functools
import json
import math
import os
import subprocess
import sys
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import step_jax
from step_jax.algorithm import types
from step_jax.learning import learner as learner_lib
from step_jax.learning import updates
from step_jax.policies import placement as placement_lib
from tests import examples

TRACES: collections.Counter = collections.Counter()
# A large eps, so that the size of the gradient shows in the first step.
ADAMW = {'learning_rate': 0.05, 'eps': 1.0, 'weight_decay': 0.1}
COUNTS = [(17, 5), (100, 12), (0, 3), (3, 0), (2, 1), (1, 0)]


def log_prob_fn(params, observation, tokens, name=None):
  """A linear policy with a bias for each position."""
  TRACES[name] += 1
  logits = (observation['features'] @ params['weights'])[:, None] + (
      params['bias'][None])
  log_probs = jax.nn.log_softmax(logits)
  entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
  return jnp.take_along_axis(
      log_probs, tokens[..., None], axis=-1)[..., 0], entropy


class Recorded(NamedTuple):
  total: dict
  each: dict  # [4, ...], the first gradients
  count: jax.Array


def recorder():
  """An optimiser that moves nothing and adds the gradients up."""
  def init(params):
    return Recorded(
        jax.tree.map(jnp.zeros_like, params),
        jax.tree.map(lambda x: jnp.zeros((8,) + x.shape), params),
        jnp.zeros((), jnp.int32))

  def update(gradients, state, params):
    del params
    return jax.tree.map(jnp.zeros_like, gradients), Recorded(
        jax.tree.map(jnp.add, state.total, gradients),
        jax.tree.map(
            lambda x, g: x.at[state.count].set(g), state.each, gradients),
        state.count + 1)
  return optax.GradientTransformation(init, update)


@functools.lru_cache(maxsize=None)
def _learner(name):
  """Compiling takes seconds, so few learners serve all tests."""
  optimizer, options = {
      'four': (recorder(), {}),
      'one': (recorder(), {'num_minibatches': 1, 'micro_batch_size': 1}),
      'epochs': (recorder(), {
          'num_epochs': 2, 'num_minibatches': 3, 'micro_batch_size': 3,
          'clip_low': 0.05, 'clip_high': 1.0}),
      'adamw': (optax.adamw(**ADAMW), {}),
      'wide': (optax.adamw(**ADAMW), {'micro_batch_size': 32}),
  }[name]
  return step_jax.make_learner(
      functools.partial(log_prob_fn, name=name), optimizer, **options)


def _params(seed=0):
  rng = np.random.default_rng(seed)
  return {
      'weights': jnp.asarray(rng.normal(size=(
          examples.FEATURES, examples.VOCABULARY)), jnp.float32),
      'bias': jnp.asarray(0.3 * rng.normal(size=(
          examples.TOKENS, examples.VOCABULARY)), jnp.float32)}


def _update(learner, batch, params=None):
  """State and metrics after one update from fresh parameters."""
  return learner.update(
      learner.init(_params() if params is None else params), batch)


def _responses(batch):
  """The useful rows of a round, one response at a time."""
  for rows in (batch.singles, batch.groups):
    if rows is None:
      continue
    for s, used in enumerate(rows.mask):
      if not (used & (rows.advantages[s] != 0)).any():
        continue
      for k in np.nonzero(used)[0]:
        yield (rows.observations['features'][s], rows.actions[s, k],
               rows.log_probs[s, k], rows.token_mask[s, k],
               rows.advantages[s, k])


def _oracle(batch, params, clip_low=0.2, clip_high=0.3):
  """Loss, gradient and statistics of a round, one token at a time."""
  weights, bias = (
      np.asarray(params[name], np.float64) for name in ('weights', 'bias'))
  tokens = sum(int(mask.sum()) for _, _, _, mask, _ in _responses(batch))
  sums = collections.Counter(dict.fromkeys(
      ('loss', 'clip_fraction', 'approx_kl', 'entropy'), 0.0))
  gradient = {'weights': np.zeros_like(weights), 'bias': np.zeros_like(bias)}
  for features, actions, behaviour, mask, advantage in _responses(batch):
    features, advantage = features.astype(np.float64), float(advantage)
    for position in np.nonzero(mask)[0]:
      logits = features @ weights + bias[position]
      probability = np.exp(logits) / np.exp(logits).sum()
      token = actions[position]
      log_ratio = math.log(probability[token]) - float(behaviour[position])
      ratio = math.exp(log_ratio)
      bounded = min(max(ratio, 1 - clip_low), 1 + clip_high)
      clipped = bounded * advantage < ratio * advantage
      sums['loss'] -= min(ratio * advantage, bounded * advantage)
      sums['clip_fraction'] += clipped
      sums['approx_kl'] += ratio - 1 - log_ratio
      sums['entropy'] -= float(probability @ np.log(probability))
      if not clipped:
        step = -advantage * ratio * (
            np.eye(examples.VOCABULARY)[token] - probability)
        gradient['weights'] += np.outer(features, step)
        gradient['bias'][position] += step
  scale = max(tokens, 1)
  return ({name: value / scale for name, value in sums.items()},
          {name: value / scale for name, value in gradient.items()})


def _close(actual, expected, tolerance=1e-5):
  chex.assert_trees_all_close(
      actual, jax.tree.map(np.asarray, expected), rtol=tolerance,
      atol=tolerance)


def _equal(actual, expected):
  """Bit-equal, types included."""
  chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
  chex.assert_trees_all_equal(actual, expected)


def _copy(state):
  return jax.tree.map(lambda x: np.array(x), state)


# The gradient


def test_pieces():
  """The example has every kind of token, and rows of different lengths."""
  batch = examples.round_batch(0, 17, 5)
  assert batch.singles.mask.sum() == 17 and batch.groups.mask.sum() == 40
  statistics, gradient = _oracle(batch, _params())
  assert 0.2 < statistics['clip_fraction'] < 0.6
  assert np.abs(gradient['weights']).min() > 1e-4
  lengths = {int(mask.sum()) for _, _, _, mask, _ in _responses(batch)}
  assert lengths == {1, 2, 3}
  advantages = [advantage for *_, advantage in _responses(batch)]
  assert min(advantages) < 0 < max(advantages)


def test_oracle_gradient_against_differences():
  """The oracle itself, by the loss that it computes."""
  batch, params = examples.round_batch(1, 4, 1), jax.device_get(_params())
  _, gradient = _oracle(batch, params)
  for index in ((0, 0), (2, 3)):
    losses = []
    for sign in (1, -1):
      moved = params['weights'].astype(np.float64)
      moved[index] += sign * 1e-6
      losses.append(_oracle(batch, params | {'weights': moved})[0]['loss'])
    np.testing.assert_allclose(
        (losses[0] - losses[1]) / 2e-6, gradient['weights'][index], rtol=1e-4)


@pytest.mark.parametrize('counts', COUNTS)
@pytest.mark.parametrize('name', ['one', 'four'])
def test_total_gradient_is_that_of_all_rows_at_once(name, counts):
  """One minibatch or four, at frozen parameters: the mean over the parts.

  One row or eight of them are computed at once.
  """
  batch = examples.round_batch(1, *counts)
  statistics, gradient = _oracle(batch, _params())
  state, metrics = _update(_learner(name), batch)
  parts = {'one': 1, 'four': 4}[name]
  _close(jax.tree.map(lambda x: x / parts, state.opt_state.total), gradient)
  assert max(np.abs(x).max() for x in gradient.values()) > 1e-2
  _close(state.params, _params(), 0)
  for key, value in statistics.items():
    np.testing.assert_allclose(metrics[key], value, rtol=1e-4, atol=1e-6)
  assert metrics['optimizer_steps'] == state.step == state.opt_state.count
  if name == 'one':
    np.testing.assert_allclose(metrics['grad_norm'], _norm(gradient), rtol=1e-5)
    assert metrics['optimizer_steps'] == 1
  if min(counts) >= 4:
    assert metrics['optimizer_steps'] == parts
    np.testing.assert_allclose(metrics['grad_norm'], np.mean([
        _norm(jax.tree.map(lambda x, m=m: x[m], state.opt_state.each))
        for m in range(parts)]), rtol=1e-5)


def _norm(tree):
  return math.sqrt(sum((np.asarray(x)**2).sum() for x in tree.values()))


def test_epochs_clip_bounds_and_micro_batches_of_three():
  """Every row is visited twice, in other parts."""
  batch = examples.round_batch(2, 22, 6)
  bounds = {'clip_low': 0.05, 'clip_high': 1.0}
  statistics, gradient = _oracle(batch, _params(), **bounds)
  state, metrics = _update(_learner('epochs'), batch)
  _close(jax.tree.map(lambda x: x / 6, state.opt_state.total), gradient)
  for name, value in statistics.items():
    np.testing.assert_allclose(
        metrics[name], value, rtol=1e-4, err_msg=name)
    if name == 'clip_fraction':  # so the bounds matter
      assert abs(value - _oracle(batch, _params())[0][name]) > 1e-2
  parts = np.asarray(state.opt_state.each['bias'])
  np.testing.assert_allclose(
      parts[:3].sum(axis=0), parts[3:6].sum(axis=0), atol=1e-4)
  assert np.abs(parts[:3] - parts[3:6]).max() > 1e-3
  assert metrics['optimizer_steps'] == 6
  assert metrics['step_samples'] == 28
  assert metrics['rows_useful'] == 2 * (22 + 48)
  # 22 = 8 + 7 + 7 singles in threes; a group is never cut.
  assert metrics['rows_computed'] == 2 * (27 + 48)


def test_first_step_of_adamw():
  """One row: one step, of 4 times its gradient over the round's tokens."""
  batch, params = examples.round_batch(3, 1, 0), jax.device_get(_params())
  state, metrics = _update(_learner('adamw'), batch)
  assert metrics['optimizer_steps'] == state.step == 1
  _, gradient = _oracle(batch, params)
  # Adam's first step is g / (|g| + eps), weight decay aside.
  _close(state.params, {
      name: params[name] - 0.05 * (
          4 * g / (np.abs(4 * g) + 1) + 0.1 * params[name])
      for name, g in gradient.items()})


@pytest.mark.parametrize('rows_each', [1, 4])
def test_a_part_is_a_sum_of_whole_units(rows_each):
  """Part m: its masked sum over (tokens of the round / 4)."""
  units = 11
  batch = examples.round_batch(5, 256, 0)
  # Nothing is clipped: at ratio 1 every row has a gradient.
  singles = dataclasses.replace(
      batch.singles, mask=np.arange(256)[:, None] < units * rows_each,
      log_probs=np.asarray(log_prob_fn(
          _params(), batch.singles.observations,
          batch.singles.actions[:, 0])[0])[:, None])
  batch = types.RoundBatch(
      singles=singles, groups=batch.groups,
      single_units=np.arange(256, dtype=np.int32) // rows_each)
  state, metrics = _update(_learner('four'), batch)
  assert metrics['optimizer_steps'] == 4
  tokens = singles.token_mask[:units * rows_each].sum()
  gradients = []
  for unit in range(units):
    rows = slice(unit * rows_each, (unit + 1) * rows_each)
    alone = types.RoundBatch(
        singles=jax.tree.map(lambda x, rows=rows: x[rows], singles),
        groups=None, single_units=None)
    _, gradient = _oracle(alone, _params())
    gradients.append(
        _flat(gradient) * alone.singles.token_mask.sum() * 4 / tokens)
  counts = np.zeros(units)
  for part in range(4):
    coefficients, *_ = np.linalg.lstsq(np.stack(gradients).T, _flat(
        jax.tree.map(lambda x, m=part: x[m], state.opt_state.each)), rcond=None)
    np.testing.assert_allclose(
        coefficients, np.round(coefficients), atol=1e-3)
    assert 2 <= np.round(coefficients).sum() <= 3
    counts += np.round(coefficients)
  np.testing.assert_array_equal(counts, 1)


def _flat(tree):
  return np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])


def test_without_groups():
  """The same gradient as with groups that hold nothing."""
  batch = examples.round_batch(7, 17, 0)
  learner = _learner('four')
  expected = _update(learner, batch)
  actual = _update(learner, dataclasses.replace(batch, groups=None))
  _close(actual[0], expected[0], 1e-6)
  _close(actual[1], expected[1], 1e-6)


# Truncated importance sampling


def _capped_step(batch, params, old_params, cap):
  """The gradient of a round, one token at a time, without any clip."""
  params, old_params = (
      jax.tree.map(lambda x: np.asarray(x, np.float64), x)
      for x in (params, old_params))
  gradient = jax.tree.map(np.zeros_like, params)
  weights, tokens = [], 0
  for features, actions, behaviour, mask, advantage in _responses(batch):
    for position in np.nonzero(mask)[0]:
      token, tokens = actions[position], tokens + 1
      new, old = (
          np.exp(x) / np.exp(x).sum() for x in (
              features @ p['weights'] + p['bias'][position]
              for p in (params, old_params)))
      weights.append(old[token] / math.exp(behaviour[position]))
      step = (-min(weights[-1], cap) * advantage * new[token] / old[token]
              * (np.eye(examples.VOCABULARY)[token] - new))
      gradient['weights'] += np.outer(features, step)
      gradient['bias'][position] += step
  return jax.tree.map(lambda x: x / tokens, gradient), np.array(weights)


def test_importance_cap():
  """Two epochs: both weigh and compare by the first parameters."""
  learner = step_jax.make_learner(
      log_prob_fn, optax.sgd(0.5), num_epochs=2, num_minibatches=1,
      clip_low=0.99, clip_high=99.0, importance_cap=1.5)
  batch, first = examples.round_batch(20, 17, 5), jax.device_get(_params())
  gradient, weights = _capped_step(batch, first, first, 1.5)
  assert 10 < (weights > 1.5).sum() < len(weights) - 10
  second = jax.tree.map(lambda x, y: x - 0.5 * y, first, gradient)
  gradient, _ = _capped_step(batch, second, first, 1.5)
  expected = jax.tree.map(lambda x, y: x - 0.5 * y, second, gradient)
  state, metrics = _update(learner, batch)
  _close(state.params, expected)
  assert metrics['clip_fraction'] == 0 < metrics['approx_kl']
  # By the second parameters in the place of the first it would be another.
  other, _ = _capped_step(batch, second, second, 1.5)
  assert np.abs(other['weights'] - gradient['weights']).max() > 1e-3


def test_the_entropy_bonus_is_a_mean_over_tokens():
  """Two updates that differ by the bonus differ by its gradient."""
  batch, params = examples.round_batch(20, 17, 5), jax.device_get(_params())
  plain, lively = (_update(step_jax.make_learner(
      log_prob_fn, optax.sgd(0.5), num_minibatches=1, entropy_bonus=bonus),
      batch)[0].params for bonus in (0., .2))

  @jax.jit
  def entropy_of(params, features, tokens, where):
    return jnp.sum(log_prob_fn(
        params, {'features': features[None]}, tokens[None])[1][0] * where)

  def mean_entropy(params):
    total, count = 0, 0
    for rows in (batch.singles, batch.groups):
      for s, k in np.argwhere(
          rows.mask & np.any(rows.advantages != 0, axis=1, keepdims=True)):
        total += entropy_of(
            params, rows.observations['features'][s], rows.actions[s, k],
            rows.token_mask[s, k])
        count += rows.token_mask[s, k].sum()
    return total / count

  gradient = jax.grad(mean_entropy)(params)
  assert max(np.abs(x).max() for x in jax.tree.leaves(gradient)) > 1e-3
  _close(lively, jax.tree.map(
      lambda x, y: x + 0.5 * 0.2 * y, plain, gradient))
  with pytest.raises(ValueError, match='entropy_bonus >= 0, got -1'):
    step_jax.make_learner(log_prob_fn, optax.sgd(.5), entropy_bonus=-1.)


# What is masked


def _foul_rows(rows, foul, keep):
  """Everything behind the mask replaced by what must never be read."""
  def spoil(x, keep):
    x = np.array(x)
    x[~keep] = 10**6 if x.dtype == np.int32 else foul
    return x
  state = keep.any(axis=1)
  return dataclasses.replace(
      rows, mask=keep,
      observations={'features': spoil(rows.observations['features'], state)},
      actions=spoil(rows.actions, rows.token_mask & keep[..., None]),
      log_probs=spoil(rows.log_probs, rows.token_mask & keep[..., None]),
      token_mask=rows.token_mask | ~keep[..., None],
      advantages=spoil(rows.advantages, keep))


@pytest.mark.parametrize('foul', [np.nan, np.inf, -np.inf])
def test_foul_padding_changes_neither_value_nor_gradient(foul):
  batch = examples.round_batch(8, 13, 5)
  keep = batch.groups.mask.copy()
  keep[:, 5] = False  # a candidate that does not exist
  clean = dataclasses.replace(batch, groups=dataclasses.replace(
      batch.groups, mask=keep))
  fouled = dataclasses.replace(
      batch, singles=_foul_rows(batch.singles, foul, batch.singles.mask),
      groups=_foul_rows(batch.groups, foul, keep))
  assert not np.isfinite(fouled.singles.observations['features']).all()
  assert fouled.singles.token_mask.sum() > batch.singles.token_mask.sum()
  learner = _learner('four')
  expected = _update(learner, clean)
  assert expected[1]['skipped_steps'] == 0
  _close(jax.tree.map(lambda x: x / 4, expected[0].opt_state.total),
         _oracle(clean, _params())[1])
  _equal(_update(learner, fouled), expected)


def test_rows_without_advantage_are_neither_computed_nor_counted():
  """trl #6365: valid rows of advantage 0 are as if they were not there."""
  batch = examples.round_batch(9, 256, 12)
  singles, groups = batch.singles, batch.groups
  zero, zero_groups = np.arange(256) % 8 != 0, np.arange(12) % 2 == 0
  assert singles.mask[zero].all() and groups.mask[zero_groups].all()
  present = examples.without_advantage(batch, zero, zero_groups)
  absent = dataclasses.replace(
      batch,
      singles=dataclasses.replace(
          singles, mask=singles.mask & ~zero[:, None]),
      groups=dataclasses.replace(
          groups, mask=groups.mask & ~zero_groups[:, None]))
  learner = _learner('four')
  state, metrics = _update(learner, present)
  _equal((state, metrics), _update(learner, absent))
  _close(jax.tree.map(lambda x: x / 4, state.opt_state.total),
         _oracle(present, _params())[1])
  assert metrics['step_samples'] == 32 + 6
  assert metrics['rows_useful'] == 32 + 6 * 8
  assert metrics['rows_computed'] == 4 * 8 + 6 * 8


def test_a_candidate_without_advantage_stays_in_a_group_with_spread():
  """The group is the sample: its tokens all count."""
  batch = examples.round_batch(10, 0, 3)
  advantages = batch.groups.advantages.copy()
  advantages[:, 2] = 0
  batch = dataclasses.replace(batch, groups=dataclasses.replace(
      batch.groups, advantages=advantages))
  state, metrics = _update(_learner('one'), batch)
  _close(state.opt_state.total, _oracle(batch, _params())[1])
  assert metrics['rows_useful'] == 24


def test_counts_and_mean_advantage():
  batch = examples.round_batch(11, 10, 3)
  _, metrics = _update(_learner('four'), batch)
  assert metrics['step_samples'] == 13
  assert metrics['rows_useful'] == 10 + 24
  assert metrics['optimizer_steps'] == 4
  magnitudes = [abs(advantage) for *_, advantage in _responses(batch)]
  np.testing.assert_allclose(
      metrics['mean_abs_advantage'], np.mean(magnitudes), rtol=1e-5)


# The state


def test_one_compilation_for_rounds_of_any_number_of_samples():
  learner = _learner('adamw')
  state = learner.init(_params())
  traces = []
  for seed, counts in enumerate([(0, 0), (2, 1), (256, 12), (0, 0), (33, 0)]):
    state, metrics = learner.update(state, examples.round_batch(seed, *counts))
    assert metrics['rows_useful'] == counts[0] + 8 * counts[1]
    traces.append(TRACES['adamw'])
  # Once for the singles and once for the groups, with all the other tests.
  assert traces == [2] * 5
  assert learner.update._cache_size() == 1


@pytest.mark.parametrize('kind', ['masked', 'advantage 0', 'foul'])
def test_a_round_without_signal_leaves_everything(kind):
  """trl #5588: momentum and weight decay from earlier rounds included."""
  learner = _learner('adamw')
  state, _ = _update(learner, examples.round_batch(12, 20, 6))
  before = _copy(state)
  assert before.step == 4
  assert max(np.abs(x).max() for x in jax.tree.leaves(before.opt_state)) > 0
  batch = examples.round_batch(
      13, 256 if kind == 'advantage 0' else 0, 12)
  groups = dataclasses.replace(
      batch.groups, advantages=np.zeros_like(batch.groups.advantages))
  if kind == 'advantage 0':
    singles = dataclasses.replace(
        batch.singles, advantages=np.zeros_like(batch.singles.advantages))
  else:
    singles = batch.singles
    groups = dataclasses.replace(
        groups, mask=np.zeros_like(groups.mask))
  if kind == 'foul':
    singles = _foul_rows(singles, np.nan, singles.mask)
  after, metrics = learner.update(state, dataclasses.replace(
      batch, singles=singles, groups=groups))
  _equal(_copy(after), before)
  for name in metrics:
    assert metrics[name] == 0, name


@pytest.mark.parametrize('where', ['observation', 'log_prob', 'advantage'])
def test_a_gradient_that_is_not_finite_skips_its_step(where):
  """One bad row: three steps of four are taken, and stay finite."""
  learner = _learner('adamw')
  state, _ = _update(learner, examples.round_batch(12, 20, 6))
  before = _copy(state)
  batch = examples.round_batch(14, 20, 6)
  row = np.nonzero(batch.singles.mask[:, 0])[0][3]
  if where == 'observation':
    batch.singles.observations['features'][row] = np.nan
  elif where == 'log_prob':
    batch.singles.log_probs[row, 0, 0] = np.nan
  else:
    batch.singles.advantages[row, 0] = np.inf
  state, metrics = learner.update(state, batch)
  assert metrics['skipped_steps'] == 1 and metrics['optimizer_steps'] == 3
  assert state.step == before.step + 3 and np.isfinite(metrics['grad_norm'])
  chex.assert_tree_all_finite(state)
  state, metrics = learner.update(state, examples.round_batch(15, 20, 6))
  assert metrics['skipped_steps'] == 0 and metrics['optimizer_steps'] == 4


def test_one_bad_row_leaves_the_state_though_steps_without_rows_follow():
  """It is alone, in the first of four steps; gradients of nothing are 0."""
  learner = _learner('adamw')
  state, _ = _update(learner, examples.round_batch(12, 20, 6))
  before = _copy(state)
  batch = examples.round_batch(14, 1, 0)
  row, = np.nonzero(batch.singles.mask[:, 0])[0]
  batch.singles.log_probs[row, 0, 0] = np.nan
  assert batch.singles.token_mask[row, 0, 0]
  state, metrics = learner.update(state, batch)
  _equal(_copy(state), before)
  assert metrics['skipped_steps'] == 1 and metrics['optimizer_steps'] == 0


def test_no_copy_of_the_state_is_kept():
  """Temporaries are a gradient and a little; the state is 3 times as much."""
  size = 2**18
  params = _params() | {'unused': jnp.zeros(size)}

  def score(params, *rows):
    log_probs, entropy = log_prob_fn(params, *rows)
    return log_probs + params['unused'][0], entropy

  learner = step_jax.make_learner(score, optax.adamw(**ADAMW))
  memory = learner.update.lower(
      learner.init(params), examples.round_batch(12, 20, 6)
  ).compile().memory_analysis()
  assert memory.alias_size_in_bytes >= 3 * 4 * size  # the state, in place
  assert memory.temp_size_in_bytes < 2 * 4 * size


def test_bfloat16_gradients_are_summed_in_float32():
  """512 equal micro-batches of one row; 8 bits lose what is added late."""
  batch = examples.round_batch(12, 1, 0)
  batch = dataclasses.replace(batch, groups=None)
  row = np.nonzero(batch.singles.mask[:, 0])[0]
  rows = jax.tree.map(
      lambda x: np.repeat(x[row], 512, axis=0), batch.singles)
  batch = types.RoundBatch(
      singles=rows, groups=None, single_units=np.arange(512))
  learner = step_jax.make_learner(
      log_prob_fn, recorder(), num_minibatches=1, micro_batch_size=1)
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _params())
  many, _ = _update(learner, batch, params)
  one, _ = _update(learner, dataclasses.replace(
      batch, singles=dataclasses.replace(
          rows, mask=rows.mask & (np.arange(512) < 1)[:, None])), params)
  assert many.opt_state.total['bias'].dtype == jnp.bfloat16
  np.testing.assert_allclose(*(
      np.asarray(state.opt_state.total['bias'], np.float32)
      for state in (many, one)), rtol=0.01)


def test_a_sum_too_large_for_float16_is_not_finite():
  """65,504 is float16's largest; the sum of two of 40,000 is in float32."""
  optimizer = optax.sgd(1e-3)
  state = updates.init(
      optimizer, placement_lib.NOWHERE, {'w': jnp.ones(2, jnp.float16)})
  progress = updates.clear_gradients(updates.start(state))
  take_step = jax.jit(functools.partial(updates.take_step, optimizer))
  for gradient, taken in ((8e4, 0), (4e4, 1)):
    totals = progress.totals._replace(
        gradients={'w': jnp.full(2, gradient, jnp.float32)})
    after = take_step(progress._replace(totals=totals), jnp.int32(1))
    assert after.step == taken and after.skipped == 1 - taken
    chex.assert_tree_all_finite(after.params)


def test_an_importance_cap_may_be_traced():
  batch = examples.round_batch(14, 5, 2)

  def bias(cap):
    learner = step_jax.make_learner(
        log_prob_fn, recorder(), importance_cap=cap)
    return learner.update(
        learner.init(_params()), batch)[0].opt_state.total['bias']

  np.testing.assert_allclose(jax.jit(bias)(0.5), bias(0.5), rtol=1e-5)


def test_nothing_is_promoted_by_itself():
  """Adam's own correction of its bias would be, in optax."""
  learner, batch = _learner('epochs'), examples.round_batch(12, 20, 6)
  with jax.numpy_dtype_promotion('strict'):
    jax.eval_shape(learner.update, learner.init(_params()), batch)


def test_update_is_a_function_of_its_arguments():
  """And of the step: another round is shuffled otherwise."""
  learner = _learner('adamw')
  batch = examples.round_batch(16, 30, 6)
  first, again = (_update(learner, batch) for _ in range(2))
  _equal(first, again)
  parts = []
  for step in (0, 4):
    state = _learner('four').init(_params())
    state = dataclasses.replace(state, step=jnp.int32(step))
    state, _ = _learner('four').update(state, batch)
    parts.append(np.asarray(state.opt_state.each['bias'])[:4])
  assert np.abs(parts[0] - parts[1]).max() > 1e-3
  np.testing.assert_allclose(parts[0].sum(0), parts[1].sum(0), atol=1e-4)


def test_the_state_is_donated():
  learner = _learner('adamw')
  state = learner.init(_params())
  old = jax.tree.leaves(state)
  learner.update(state, examples.round_batch(17, 20, 6))
  assert all(x.is_deleted() for x in old)


def check_own_params(init, update):
  """What was given to `init` outlives updates of the state."""
  params = _params()
  start = _copy(params)
  state, _ = update(init(params), examples.round_batch(17, 20, 6))
  assert not any(x.is_deleted() for x in jax.tree.leaves(params))
  chex.assert_trees_all_equal(params, start)
  assert np.abs(state.params['bias'] - params['bias']).max() > 1e-3
  _equal(init(params), init(start))  # numpy's, too, and again


def test_params_stay_the_callers():
  learner = _learner('adamw')
  check_own_params(learner.init, learner.update)


def test_update_learns():
  """Many rounds on one sample raise its probability, or lower it."""
  learner = _learner('adamw')
  batch = examples.round_batch(18, 1, 0)
  row = int(np.nonzero(batch.singles.mask[:, 0])[0][0])
  for sign in (1, -1):
    batch.singles.advantages[row, 0] = sign
    batch.singles.log_probs[row] = log_prob_fn(
        _params(), jax.tree.map(
            lambda x: x[[row]], batch.singles.observations),
        batch.singles.actions[row])[0]
    _, metrics = state, metrics = _update(learner, batch)
    np.testing.assert_allclose(metrics['loss'], -sign, rtol=1e-5)
    np.testing.assert_allclose(metrics['approx_kl'], 0, atol=1e-6)
    state, metrics = learner.update(state, batch)
    assert metrics['loss'] < -sign - 0.01


# Which rows go where


@functools.partial(jax.jit, static_argnames='num_minibatches')
def _deal(seed, useful, units, num_minibatches):
  return learner_lib._deal(
      jax.random.key(seed), useful, units, num_minibatches)


@pytest.mark.parametrize('num_minibatches', [1, 3, 4])
def test_deal_cuts_single_rows_into_equal_parts(num_minibatches):
  size, units = 50, np.arange(50)
  orders = set()
  for seed, count in enumerate([0, 1, 2, 3, 4, 5, 17, 48, 49, 50, 50]):
    useful = np.random.default_rng(seed).permutation(size) < count
    order, bounds = map(np.asarray, _deal(
        seed, useful, units, num_minibatches))
    assert sorted(order) == list(range(size))
    assert bounds[0] == 0 and bounds[-1] == count
    assert set(order[:count]) == set(np.nonzero(useful)[0])
    parts = np.diff(bounds)
    assert parts.shape == (num_minibatches,)
    assert parts.max() - parts.min() <= 1
    orders.add(tuple(order))
  assert len(orders) == 11
  assert list(order) != sorted(order)


def test_deal_shuffles_evenly():
  """Every row is in every part a quarter of the time."""
  useful = np.arange(12) != 5
  part = np.zeros((12, 3))
  for seed in range(400):
    order, bounds = map(np.asarray, _deal(seed, useful, np.arange(12), 3))
    for m in range(3):
      part[order[bounds[m]:bounds[m + 1]], m] += 1
  assert part[5].sum() == 0
  # 400 draws at about 1/3: six standard deviations are 57.
  assert np.abs(np.delete(part, 5, 0) - 400 * np.array([4, 4, 3]) / 11).max(
      ) < 57


@pytest.mark.parametrize('num_minibatches', [1, 4])
def test_deal_keeps_trajectories_together(num_minibatches):
  slots, max_steps = 24, 6
  units = np.repeat(np.arange(slots), max_steps)
  seen = set()
  for seed in range(10):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, max_steps + 1, slots)
    useful = (np.arange(max_steps) < lengths[:, None]).reshape(-1)
    order, bounds = map(np.asarray, _deal(
        seed, useful, units, num_minibatches))
    assert bounds[0] == 0 and bounds[-1] == useful.sum()
    assert (np.diff(bounds) >= 0).all()
    dealt = [
        set(units[order[bounds[m]:bounds[m + 1]]])
        for m in range(num_minibatches)]
    assert sum(map(len, dealt)) == (lengths > 0).sum()
    seen.add(tuple(sorted(dealt[0])))
    # As even as whole trajectories allow.
    assert np.diff(bounds).max() - np.diff(bounds).min() < 2 * max_steps
  assert num_minibatches == 1 or len(seen) == 10


@pytest.mark.parametrize('size', [0, 1, 2, 3, 1000, 1024, 1025, 70_000])
def test_a_stable_order_is_that_of_numpy(size):
  rng = np.random.default_rng(size)
  for most in (3, 1 << 16, 1 << 32):
    keys = rng.integers(most, size=size, dtype=np.uint32)
    order = jax.jit(learner_lib._stable_order)(keys)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(order, np.argsort(keys, kind='stable'))


def test_rows_computed_stay_near_the_useful_ones():
  """Under 1.25 from 300 rows on, whatever the split; K = 8, defaults."""
  rng = np.random.default_rng(0)
  size, worst = 1024, 0.0
  for seed in range(200):
    useful = int(np.exp(rng.uniform(np.log(300), np.log(4000))))
    groups = min(rng.integers(useful // 8 + 1), 256)
    singles = min(useful - 8 * groups, size)
    if singles + 8 * groups < 300:
      continue
    computed = 0
    for count, candidates in ((singles, 1), (groups, 8)):
      lengths = rng.integers(1, 16, size)
      units = np.repeat(np.arange(size), lengths)[:size]
      if seed % 2:
        units = np.arange(size)
      _, bounds = _deal(seed, np.arange(size) < count, units, 4)
      rows = 8 // candidates
      computed += sum(
          -(-int(n) // rows) * rows * candidates for n in np.diff(bounds))
    worst = max(worst, computed / (singles + 8 * groups))
  assert 1 < worst < 1.25


def test_rows_computed_in_the_metrics():
  """Those of the update itself: 300 rows that fill no micro-batch."""
  learner = _learner('four')
  batch = examples.round_batch(19, 204, 12)
  _, metrics = _update(learner, batch)
  assert metrics['rows_useful'] == 204 + 96
  # 51 singles a part are 7 micro-batches of 8; groups waste nothing.
  assert metrics['rows_computed'] == 4 * 56 + 96
  assert metrics['rows_computed'] / metrics['rows_useful'] < 1.25


@pytest.mark.parametrize('name', [
    'num_epochs', 'num_minibatches', 'micro_batch_size'])
def test_refuses_counts_below_one(name):
  with pytest.raises(ValueError, match=f'expected {name} >= 1, got 0'):
    step_jax.make_learner(log_prob_fn, optax.sgd(1.0), **{name: 0})


# More devices


def two_rounds(learner, sharding=None):
  """Parameters and metrics after two rounds."""
  state = learner.init(_params())
  for seed in (21, 22):
    batch = examples.round_batch(seed, 25, 7)
    if sharding is not None:
      batch = jax.device_put(batch, sharding)
      assert len(batch.groups.actions.sharding.device_set) == 4
    state, metrics = learner.update(state, batch)
  return jax.tree.map(lambda x: np.asarray(x).tolist(), {
      'params': state.params, 'metrics': metrics})


def two_rounds_on_a_mesh():
  """Run in a process of its own, with four emulated devices."""
  rows = jax.sharding.PartitionSpec('data')
  placement = placement_lib.Placement(
      jax.make_mesh((4, 1), ('data', 'model')), (('weights', rows),))
  sharding = jax.sharding.NamedSharding(placement.mesh, rows)
  # Six responses are neither two rows for each part nor one group.
  learner = step_jax.make_learner(
      log_prob_fn, optax.adamw(**ADAMW), micro_batch_size=6,
      placement=placement)
  state = learner.init({'weights': np.ones((8, 3))})
  assert state.params['weights'].sharding == sharding
  assert state.opt_state[0].mu['weights'].sharding == sharding
  assert state.step.sharding.is_fully_replicated
  print(json.dumps(two_rounds(learner, sharding)))


def test_a_mesh_of_four_devices_equals_one():
  result = subprocess.run(
      [sys.executable, '-c', 'from tests import learner_test; '
       'learner_test.two_rounds_on_a_mesh()'],
      env=os.environ | {
          'JAX_PLATFORMS': 'cpu',
          'XLA_FLAGS': '--xla_force_host_platform_device_count=4'},
      capture_output=True, text=True, timeout=300, check=False)
  assert result.returncode == 0, result.stderr
  expected = two_rounds(_learner('wide'))
  actual = json.loads(result.stdout)
  # Of each step's 6 or 7 singles 8 are computed, of its 1 or 2 groups 4.
  del expected['metrics']['rows_computed']
  assert actual['metrics'].pop('rows_computed') == 4 * (8 + 4 * 8)
  chex.assert_trees_all_close(
      jax.tree.map(np.float64, actual), jax.tree.map(np.float64, expected),
      rtol=1e-5, atol=1e-5)
  moved = np.array(actual['params']['bias']) - np.asarray(_params()['bias'])
  assert np.abs(moved).max() > 0.01
