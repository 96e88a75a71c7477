"""The model: masks, buckets, options, log-probs in chunks and their memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from tests import qwen_vl_examples as examples

# The two families' most telling models: windows, and odd ratios of heads.
NAMES = ('qwen2_vl_untied', 'qwen2_5_vl_untied')
BUCKETS = inputs_lib.Buckets(tokens=(20, 40), images=(4,), patches=(96, 112))


def _loss(model, params, inputs):
  """A mean over valid tokens, and the logits."""
  logits = model.apply({'params': params}, inputs)
  log_probs = jax.nn.log_softmax(logits)[..., 5]
  return jnp.sum(jnp.where(inputs.where, log_probs, 0)), logits


@functools.partial(
    jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def _logits(model, params, inputs):
  return model.apply({'params': params}, inputs)


@functools.partial(
    jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def _gradients(model, params, inputs):
  return jax.value_and_grad(
      functools.partial(_loss, model), has_aux=True)(params, inputs)


@pytest.mark.parametrize('name', NAMES)
def test_padding_changes_nothing(name):
  """Rubbish in it changes no bit, more of it no digit that counts."""
  model, params, _ = examples.load(name)
  padded = examples.batch(name, 'images_left', BUCKETS)
  assert padded.input_ids.shape == (3, 40)
  assert padded.images.where.shape[0] == 4
  assert not padded.images.where[:3].all()
  clean = _gradients(model, params, padded)
  foul = _gradients(
      model, params, examples.foul(padded, np.random.default_rng(0)))
  valid = padded.where
  np.testing.assert_array_equal(
      np.asarray(clean[0][1])[valid], np.asarray(foul[0][1])[valid])
  assert np.isfinite(foul[0][1]).all()
  for one, other in zip(*map(jax.tree.leaves, (clean[1], foul[1]))):
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all() and np.abs(one).max() > 0
  exact = examples.batch(name, 'images_left')
  np.testing.assert_allclose(
      np.asarray(_logits(model, params, exact))[exact.where],
      np.asarray(clean[0][1])[valid], rtol=0, atol=1e-5)


def test_options_change_no_result():
  """Recomputation, and attention for five queries at a time."""
  name = 'qwen2_5_vl_untied'
  model, params, _ = examples.load(name)
  inputs = examples.batch(name, 'images_right', BUCKETS)
  (_, plain), gradients = _gradients(model, params, inputs)
  other = model.clone(remat=True, attention_chunk=5)
  (_, chunked), other_gradients = _gradients(other, params, inputs)
  np.testing.assert_allclose(
      np.asarray(plain)[inputs.where], np.asarray(chunked)[inputs.where],
      rtol=0, atol=1e-5)
  for one, two in zip(*map(jax.tree.leaves, (gradients, other_gradients))):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_rows_without_a_token_are_finite():
  model, params, _ = examples.load('qwen2_5_vl_untied')
  inputs = examples.batch('qwen2_5_vl_untied', 'images_left', BUCKETS)
  inputs = dataclasses.replace(
      inputs, where=np.zeros_like(inputs.where),
      images=dataclasses.replace(
          inputs.images, where=np.zeros_like(inputs.images.where)))
  (loss, logits), gradients = _gradients(model, params, inputs)
  assert loss == 0 and np.isfinite(logits).all()
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(
      jax.device_get(gradients)))


def test_one_trace_for_a_bucket():
  model, params, _ = examples.load('qwen2_vl_untied')
  traces = []

  @functools.partial(jax.jit, compiler_options=examples.QUICK)
  def logits(params, inputs):
    traces.append(None)
    return model.apply({'params': params}, inputs)

  for title in ('images_left', 'images_right'):
    logits(params, examples.batch('qwen2_vl_untied', title, BUCKETS))
  pixels, ids = np.ones((4, 96)), np.full((3, 7), 3)
  ids[:, 1:] = 6
  logits(params, inputs_lib.make_inputs(
      model.config, ids, np.ones((3, 7)), np.tile(pixels, (3, 1)),
      [[1, 2, 2]] * 3,
      buckets=dataclasses.replace(
          BUCKETS, tokens=BUCKETS.tokens[1:], patches=BUCKETS.patches[:1])))
  assert len(traces) == 1


@pytest.mark.parametrize('name', NAMES)
def test_bfloat16_keeps_softmax_norms_and_logits_in_float32(name):
  """Products are in bfloat16; what is summed over many is not."""
  model, params, _ = examples.load(name)
  inputs = examples.batch(name, 'images_left')
  half = model.clone(dtype=jnp.bfloat16)
  found = {}
  jaxpr = jax.make_jaxpr(lambda p: half.apply({'params': p}, inputs))(params)
  for equation in filter(lambda e: e.invars, examples.equations(jaxpr.jaxpr)):
    found.setdefault(equation.primitive.name, set()).add(
        (str(equation.invars[0].aval.dtype),
         str(equation.outvars[0].aval.dtype)))
  assert found['exp'] == found['rsqrt'] == {('float32', 'float32')}
  assert {kind for kind, _ in found['dot_general']} == {'bfloat16'}
  for name in ('reduce_sum', 'reduce_max', 'sin'):
    assert all('bfloat16' not in kinds for kinds in found[name]), name
  logits, exact = (
      _logits(network, params, inputs) for network in (half, model))
  assert logits.dtype == jnp.float32
  error = np.abs(np.asarray(logits - exact))[inputs.where]
  assert 0 < error.max() < 0.15


def _scoring(rows=2, length=7, width=8, vocabulary=20, seed=0):
  rng = np.random.default_rng(seed)
  return (
      rng.normal(size=(rows, length, width)).astype(np.float32),
      rng.normal(size=(vocabulary, width)).astype(np.float32),
      rng.integers(0, vocabulary, (rows, length)))


@pytest.mark.parametrize('chunk', [1, 3, 64])
def test_log_probs_in_chunks(chunk):
  """Against numpy, and gradients against the unchunked ones."""
  hidden, table, tokens = _scoring()

  @functools.partial(
      jax.jit, static_argnums=2, compiler_options=examples.QUICK)
  def score(hidden, table, chunk):
    return model_lib.token_log_probs(
        hidden, table, tokens, temperature=0.7, chunk=chunk)

  log_probs, entropy = score(hidden, table, chunk)
  logits = hidden.astype(np.float64) @ table.T / 0.7
  expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  np.testing.assert_allclose(
      log_probs, np.take_along_axis(expected, tokens[..., None], -1)[..., 0],
      rtol=1e-6, atol=1e-5)
  np.testing.assert_allclose(
      entropy, -(np.exp(expected) * expected).sum(-1), rtol=1e-5, atol=1e-5)
  for one, whole in zip((log_probs, entropy), score(hidden, table, 7)):
    np.testing.assert_allclose(one, whole, rtol=0, atol=1e-6)

  @functools.partial(
      jax.jit, static_argnums=2, compiler_options=examples.QUICK)
  @functools.partial(jax.grad, argnums=(0, 1))
  def gradients(hidden, table, chunk):
    log_probs, entropy = model_lib.token_log_probs(
        hidden, table, tokens, temperature=0.7, chunk=chunk)
    return jnp.sum(log_probs) + 0.1 * jnp.sum(entropy)

  for one, whole in zip(*(
      gradients(hidden, table, size) for size in (chunk, 7))):
    np.testing.assert_allclose(one, whole, rtol=1e-5, atol=1e-5)


def _bytes(chunk, rows=4, length=256, vocabulary=32_768):
  """Temporary memory of loss and gradients, as XLA plans it."""

  def loss(hidden, table, tokens):
    return jnp.sum(model_lib.token_log_probs(
        hidden, table, tokens, chunk=chunk)[0])

  compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(
      jax.ShapeDtypeStruct((rows, length, 16), jnp.float32),
      jax.ShapeDtypeStruct((vocabulary, 16), jnp.float32),
      jax.ShapeDtypeStruct((rows, length), jnp.int32)).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_logits_never_exist_for_a_whole_batch():
  whole_batch = 4 * 256 * 32_768 * 4
  chunked, unchunked = _bytes(chunk=8), _bytes(chunk=256)
  print(f'logits {whole_batch:,}; chunks of 8: {chunked:,}; one: {unchunked:,}')
  assert unchunked >= whole_batch
  assert chunked < whole_batch / 8


def test_model_log_probs():
  """Scores tokens from `start` on, each from the position before it."""
  name = 'qwen2_5_vl_tied'
  model, params, _ = examples.load(name)
  inputs = examples.batch(name, 'images_right')
  expected = jax.nn.log_softmax(_logits(model, params, inputs))[:, 3:6]
  tokens = inputs.input_ids[:, 4:7]

  @functools.partial(jax.jit, compiler_options=examples.QUICK)
  def score(params):
    return model.apply(
        {'params': params}, inputs, jnp.asarray(tokens), start=3,
        method='log_probs')

  log_probs, entropy = score(params)
  np.testing.assert_allclose(
      log_probs, np.take_along_axis(
          np.asarray(expected), tokens[..., None], -1)[..., 0], atol=1e-5)
  assert entropy.shape == (3, 3)


def _refusal(**changes):
  name = 'qwen2_5_vl_tied'
  arguments = [changes.get(key, examples.read(name, 'images_left', key))
               for key in (
                   'input_ids', 'attention_mask', 'pixel_values',
                   'image_grid_thw')]
  return inputs_lib.make_inputs(
      examples.load(name)[0].config, *arguments,
      buckets=changes.get('buckets'))


@pytest.mark.parametrize('changes,message', [
    ({'input_ids': np.zeros((2, 3), int)}, 'input_ids and mask'),
    ({'input_ids': np.full((3, 30), 40)}, 'expected token ids under 40'),
    ({'pixel_values': np.zeros((7, 96))}, 'expected pixel_values'),
    ({'pixel_values': None}, 'expected pixel_values for 3 images, got none'),
    ({'image_grid_thw': None}, 'expected 0 image tokens'),
    ({'buckets': inputs_lib.Buckets(tokens=(16,))},
     'at most 16 tokens, got 30: add'),
    ({'buckets': dataclasses.replace(BUCKETS, images=(1, 2))},
     'at most 2 images, got 3'),
    ({'buckets': dataclasses.replace(BUCKETS, patches=(64,))},
     'at most 64 patches of an image, got 96'),
])
def test_inputs_refuse(changes, message):
  with pytest.raises(ValueError, match=message):
    _refusal(**changes)


def test_text_models_take_no_images():
  model, _, _ = examples.load('llama_tied')
  with pytest.raises(ValueError, match='no images for a text model'):
    inputs_lib.make_inputs(
        model.config, np.ones((1, 2), int), np.ones((1, 2)),
        np.zeros((4, 96)), np.array([[1, 2, 2]]))
