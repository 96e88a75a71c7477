"""A small vision-language model on emulated devices, against one device.

  python -m tests.mesh_examples 4 2

is run by placement_test.py in a process of its own, with eight devices, on a
mesh of 4 x 2. What differs is an AssertionError.
"""

import contextlib
import functools
import logging
import pathlib
import re
import sys
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from step_jax.algorithm import types
from step_jax.learning import streaming
from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import placement as qwen_vl_placement
from step_jax.policies.qwen_vl import sampling
from step_jax.runs import checkpoint

L, K, VOCABULARY, PROMPT = 4, 4, 96, 12
CONFIG = config_lib.Config(
    family='qwen2_5_vl',
    text=config_lib.TextConfig(
        vocabulary=VOCABULARY, width=32, hidden_width=64, num_layers=2,
        num_heads=8, num_key_heads=4, head_width=8, norm_epsilon=1e-6,
        rope_theta=100., rope_sections=(2, 1, 1), qkv_bias=True, tied=False),
    vision=config_lib.VisionConfig(
        width=32, hidden_width=64, num_layers=2, num_heads=4, out_width=32,
        gated=True, window=1, full_layers=(0, 1), norm_epsilon=1e-6,
        channels=3, patch_size=4, temporal_size=2, merge_size=2),
    image_token_id=3)


def load(observations):
  """Prompts of a picture each, by the number of their row."""
  numbers = observations['number']
  rng = [np.random.default_rng(int(number)) for number in numbers]
  ids = np.stack([r.integers(5, VOCABULARY, PROMPT) for r in rng])
  ids[:, 2:6] = 3
  pixels = np.concatenate([r.normal(size=(16, 96)) for r in rng])
  return inputs_lib.make_inputs(
      CONFIG, ids, np.ones(ids.shape, bool), pixels.astype(np.float32),
      np.tile([[1, 4, 4]], (len(numbers), 1)))


def load_all(batches):
  for batch in batches:
    yield load(batch)


def make(placement):
  """The functions of the model and its learner."""
  model = model_lib.Model(CONFIG, placement=placement, remat=True)
  policy = sampling.make_policy(model, num_tokens=L, stop_ids=(0,))
  learner = streaming.make_learner(
      functools.partial(policy.log_prob, temperature=1.),
      optax.chain(optax.clip_by_global_norm(1.), optax.adamw(1e-3)),
      load=load_all, num_minibatches=2, micro_batch_size=8,
      placement=placement)
  return policy, learner


def draw(policy, params, numbers):
  """K responses to each of some rows."""
  keys = jax.random.split(jax.random.key(1), (len(numbers), K))
  return jax.device_get(policy.sample_many(
      params, keys, load({'number': numbers}), temperature=1.))


def make_batch(sample):
  """Eleven singles and five groups, so that neither divides."""
  def rows(first, count, num):
    where = slice(first, first + count)
    shape = (count, num)
    tokens, log_probs, mask = (
        np.asarray(x)[where, :num] for x in sample)
    return types.StepBatch(
        observations={'number': np.arange(first, first + count)},
        actions=tokens, log_probs=log_probs, token_mask=mask,
        advantages=np.random.default_rng(first).normal(
            size=shape).astype(np.float32), mask=np.ones(shape, bool))
  return types.RoundBatch(
      singles=rows(0, 11, 1), single_units=np.arange(11), groups=rows(11, 5, K))


def compare(sizes):
  """One device and a mesh: samples, updates, placement, compilations."""
  mesh = placement_lib.make_mesh(dict(zip(('data', 'model'), sizes)))
  placement = placement_lib.Placement(mesh, qwen_vl_placement.RULES)
  numbers = np.arange(16)
  one, on_mesh = make(placement_lib.NOWHERE), make(placement)
  params = one[0].init(jax.random.key(0))
  states = [learner.init(params) for _, learner in (one, on_mesh)]
  expected, actual = (
      draw(policy, state.params, numbers)
      for (policy, _), state in zip((one, on_mesh), states))
  np.testing.assert_array_equal(actual.tokens, expected.tokens)
  chex.assert_trees_all_close(actual.log_probs, expected.log_probs, atol=1e-5)
  batch = make_batch(expected)
  lines = []
  handler = logging.Handler()
  handler.emit = lambda record: lines.append(record.getMessage())
  logging.getLogger('jax').addHandler(handler)
  for number in range(3):
    jax.config.update('jax_log_compiles', number > 0)
    metrics = []
    for index, (_, learner) in enumerate((one, on_mesh)):
      states[index], result = learner.update(states[index], batch)
      metrics.append(jax.device_get(result))
    check_shardings(placement, states[1])
    chex.assert_trees_all_close(
        jax.device_get(states[1].params), jax.device_get(states[0].params),
        atol=1e-4)
  compiled = [line for line in lines if line.startswith('Compiling')]
  assert not compiled, compiled
  moved = jax.tree.map(lambda x, y: np.abs(x - y).max(),
                       jax.device_get(states[1].params), jax.device_get(params))
  assert min(jax.tree.leaves(moved)) > 0, moved
  np.testing.assert_allclose(metrics[1]['loss'], metrics[0]['loss'], atol=1e-4)
  check_exchanges(placement, states[1].params)
  check_checkpoints(mesh.devices.shape, states[1])


def check_shardings(placement, state):
  """Every leaf lies where its rule says."""
  for (path, leaf), sharding in zip(
      jax.tree_util.tree_leaves_with_path(state),
      jax.tree.leaves(placement.shardings(state))):
    assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), (
        path, leaf.sharding, sharding)
  kernel = state.params['text']['layers']['gate']['kernel']
  assert kernel.addressable_shards[0].data.size * 8 == kernel.size
  table = state.opt_state[1][0].mu['text']['embed']['embedding']
  assert table.addressable_shards[0].data.size * 8 == table.size


def check_checkpoints(sizes, state):
  """What is saved on one mesh is read on another, and on one device."""
  other = placement_lib.make_mesh(dict(zip(('data', 'model'), sizes[::-1])))
  other = placement_lib.Placement(other, qwen_vl_placement.RULES)
  with tempfile.TemporaryDirectory() as folder, contextlib.closing(
      checkpoint.Checkpoints(
          pathlib.Path(folder) / 'checkpoints', print)) as checkpoints:
    checkpoints.save(1, state)
    shapes = jax.eval_shape(lambda: state)
    for placement in (other, placement_lib.NOWHERE):
      _, found = checkpoints.restore(placement.structs(shapes))
      chex.assert_trees_all_equal(*jax.device_get((found, state)))
      if placement is other:
        check_shardings(placement, found)
      else:
        assert len(found.step.sharding.device_set) == 1


def check_exchanges(placement, params):
  """No table of tokens is exchanged between devices, nor as wide a gradient."""
  model = model_lib.Model(CONFIG, placement=placement, remat=True)
  policy = sampling.make_policy(model, num_tokens=L, stop_ids=(0,))

  def loss(params, inputs, tokens):
    log_probs, entropy = policy.log_prob(
        params, placement.rows(inputs), tokens, temperature=1.)
    return jnp.sum(log_probs) + jnp.sum(entropy)

  text = jax.jit(lambda *x: placement.pin(jax.grad(loss)(*x))).lower(
      params, load({'number': np.arange(8)}),
      np.ones((8, L), np.int32)).compile().as_text()
  shapes = re.findall(r'= f32\[([\d,]*)\]\S* (all-gather|all-reduce|'
                      r'all-to-all|collective-permute)', text)
  assert shapes
  tables = [shape for shape, _ in shapes if re.fullmatch(
      f'({VOCABULARY},32|32,{VOCABULARY})', shape)]
  assert not tables, tables


if __name__ == '__main__':
  compare([int(size) for size in sys.argv[1:]])
