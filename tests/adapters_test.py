"""Adapters: exact when fresh, alone in learning, merged for others."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from step_jax.learning import streaming
from step_jax.policies import base
from step_jax.policies.qwen_vl import adapters
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import sampling
from tests import mesh_examples

LORA = adapters.Lora(rank=2, alpha=6., targets=('query', 'down'))
NUMBERS = np.arange(4)


@functools.lru_cache(maxsize=None)
def _made(dtype='float32'):
  """Plain and adapted functions, parameters and fresh adapters."""
  plain = model_lib.Model(mesh_examples.CONFIG, dtype=dtype)
  adapted = adapters.adapt(plain, LORA)
  make = functools.partial(
      sampling.make_policy, num_tokens=mesh_examples.L, stop_ids=(0,))
  fresh = jax.jit(functools.partial(adapters.init, adapted))(jax.random.key(1))
  return make(plain), make(adapted), plain_params(plain), fresh


def plain_params(model):
  return jax.jit(functools.partial(model_lib.init_params, model))(
      jax.random.key(0))


def _scores(policy, params, tokens):
  return policy.log_prob(
      params, mesh_examples.load({'number': NUMBERS}), tokens, temperature=1.)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_fresh_adapters_change_nothing(dtype):
  plain, adapted, params, fresh = _made(dtype)
  joined = adapters.join(fresh, params)
  one, other = (mesh_examples.draw(policy, tree, NUMBERS) for policy, tree in (
      (plain, params), (adapted, joined)))
  chex.assert_trees_all_equal(one, other)
  tokens = one.tokens[:, 0]
  chex.assert_trees_all_equal(
      _scores(plain, params, tokens), _scores(adapted, joined, tokens))


def test_only_the_named_layers_have_adapters():
  *_, params, fresh = _made()
  shapes = jax.tree.map(jnp.shape, fresh)
  assert shapes == {'text': {'layers': {
      'query': {'kernel_lora_a': (2, 32, 2), 'kernel_lora_b': (2, 2, 64)},
      'down': {'kernel_lora_a': (2, 64, 2), 'kernel_lora_b': (2, 2, 32)}}}}
  joined = adapters.join(fresh, params)
  assert len(jax.tree.leaves(joined)) == len(jax.tree.leaves(params)) + 4
  assert 'kernel_lora_a' not in params['text']['layers']['query']


def test_merging_by_hand():
  """W + 6 / 2 A B, of one layer: 1 + 3 x (1 x 2 + 2 x 1) = 13."""
  merged = adapters.merge({
      'kernel': jnp.ones((1, 1, 1)), 'bias': 5.,
      'kernel_lora_a': jnp.array([[[1., 2.]]]),
      'kernel_lora_b': jnp.array([[[2.], [1.]]])}, LORA)
  assert merged.keys() == {'kernel', 'bias'}
  assert merged['kernel'].tolist() == [[[13.]]]


def test_a_merged_model_is_the_adapted_one():
  plain, adapted, params, fresh = _made()
  rng = np.random.default_rng(0)
  trained = jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32), fresh)
  joined = adapters.join(trained, params)
  tokens = mesh_examples.draw(adapted, joined, NUMBERS).tokens[:, 0]
  one = _scores(adapted, joined, tokens)
  chex.assert_trees_all_close(
      one, _scores(plain, adapters.merge(joined, LORA), tokens), atol=1e-4)
  assert np.abs(one[0] - _scores(plain, params, tokens)[0]).max() > 0.01


def test_adapters_alone_learn():
  """As where the whole tree learns, and all but the adapters is masked."""
  _, adapted, params, fresh = _made()
  batch = mesh_examples.make_batch(mesh_examples.draw(
      adapted, adapters.join(fresh, params), np.arange(16)))
  log_prob = functools.partial(adapted.log_prob, temperature=1.)
  make = functools.partial(
      streaming.make_learner, log_prob, load=mesh_examples.load_all,
      num_minibatches=2)
  learner = make(optax.adam(1e-2), frozen=base.Frozen(
      lambda: params, adapters.join))
  state, metrics = learner.update(learner.init(fresh), batch)
  chex.assert_trees_all_equal_shapes(state.params, fresh)
  joined = adapters.join(fresh, params)
  labels = jax.tree_util.tree_map_with_path(
      lambda path, _: 'lora' in jax.tree_util.keystr(path), joined)
  whole = make(optax.multi_transform(
      {True: optax.adam(1e-2), False: optax.set_to_zero()}, labels))
  expected, _ = whole.update(whole.init(joined), batch)
  # Adam's steps are of 1e-2, also of a gradient that is hardly above rounding.
  chex.assert_trees_all_close(
      adapters.join(state.params, params), expected.params, atol=1e-4)
  moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), state.params, fresh)
  assert min(jax.tree.leaves(moved)) > 1e-3
  assert metrics['skipped_steps'] == 0
