"""Both families and Llama against transformers, from committed fixtures."""

import functools
import os
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import saving
from step_jax.policies.qwen_vl import tensors
from tests import qwen_vl_examples as examples

PYTHON = os.environ.get('STEP_JAX_HF_PYTHON')
needs_transformers = pytest.mark.skipif(
    not PYTHON, reason='STEP_JAX_HF_PYTHON is not set: a Python with '
    'torch==2.13.0 and transformers==5.12.1')
SCRIPT = examples.DATA.parents[1] / 'make_qwen_vl_fixtures.py'
BATCHES = [
    (name, title) for name in examples.MODELS
    for title in examples.titles(name)]


@functools.partial(
    jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def _logits(model, params, inputs):
  return model.apply({'params': params}, inputs)


def test_pieces():
  """The fixtures hold what the issue asks for."""
  texts = [examples.load(name)[0].config.text for name in examples.MODELS]
  assert {text.num_heads // text.num_key_heads for text in texts} == {
      1, 2, 3, 5}
  assert {text.tied for text in texts} == {True, False}
  for name in examples.VISION:
    vision = examples.load(name)[0].config.vision
    grids = examples.read(name, 'images_left', 'image_grid_thw')
    assert len({tuple(grid) for grid in grids}) == 3
    if vision.window:
      assert 0 < len(vision.full_layers) < vision.num_layers
      assert (grids[:, 1:] // vision.merge_size % vision.window).any()
  for name, title in BATCHES:
    mask = examples.read(name, title, 'attention_mask')
    side = 0 if title.endswith('left') else -1
    assert not mask[:, side].any() and mask[:, -1 - side].any()
    assert np.ptp(mask.sum(axis=1))


@pytest.mark.parametrize('name,title', BATCHES)
def test_logits(name, title):
  """Within 1e-4, float32, of logits that reach 1 to 4."""
  model, params, _ = examples.load(name)
  inputs = examples.batch(name, title)
  expected = examples.read(name, title, 'logits')
  logits = np.asarray(_logits(model, params, inputs))
  assert logits.dtype == np.float32 and np.isfinite(logits).all()
  assert np.abs(expected[inputs.where]).max() > 1
  np.testing.assert_allclose(
      logits[inputs.where], expected[inputs.where], rtol=0, atol=1e-4)


@pytest.mark.parametrize('name', examples.MODELS)
def test_gradients(name):
  """Of the weighted log-probs of next tokens, in chunks of 4."""
  model, params, arrays = examples.load(name)
  title = 'images_left' if name in examples.VISION else 'text_left'
  inputs = examples.batch(name, title)

  @functools.partial(jax.jit, compiler_options=examples.QUICK)
  @jax.value_and_grad
  def loss(params):
    log_probs, _ = model.apply(
        {'params': params}, inputs, jnp.asarray(inputs.input_ids[:, 1:]),
        chunk=4, method='log_probs')
    return jnp.sum(log_probs * examples.read(name, title, 'loss_weights'))

  value, gradients = loss(params)
  np.testing.assert_allclose(value, arrays[f'{title}/loss'], rtol=1e-5)
  found = _by_name(model.config, gradients)
  prefix = f'{title}/grad/'
  expected = {
      tensors.canonical(key.removeprefix(prefix)): x
      for key, x in arrays.items() if key.startswith(prefix)}
  assert len(expected) >= (9 if name in examples.VISION else 5)
  for key, gradient in expected.items():
    assert np.abs(gradient).max() > 1e-3, key
    np.testing.assert_allclose(
        found[key].reshape(gradient.shape), gradient, rtol=1e-4, atol=1e-4,
        err_msg=key)


def _by_name(config, params):
  """`{their name: array}`."""
  leaves = tensors.by_path(jax.device_get(params))
  found = {}
  for path, name in tensors.names(config).items():
    rows = leaves[path] if '{}' in name else leaves[path][None]
    for layer, row in enumerate(rows):
      found[name.format(layer)] = row.T if path.endswith('kernel') else row
  return found


@pytest.mark.parametrize('name', examples.VISION)
def test_positions(name):
  for title in ('images_left', 'images_right'):
    inputs = examples.batch(name, title)
    expected = examples.read(name, title, 'positions')
    np.testing.assert_array_equal(
        inputs.positions[inputs.where],
        np.moveaxis(expected, 0, -1)[inputs.where])


def _run(*arguments):
  subprocess.run(
      [PYTHON, SCRIPT, *map(str, arguments)], check=True, timeout=300)


@needs_transformers
def test_fixtures_can_be_made_again(tmp_path):
  _run('make', tmp_path)
  for name in ('images', *examples.MODELS):
    with (np.load(tmp_path / f'{name}.npz') as made,
          np.load(examples.DATA / f'{name}.npz') as arrays):
      assert set(made) == set(arrays)
      for key in made:
        np.testing.assert_allclose(
            made[key], arrays[key], rtol=0, atol=1e-5, err_msg=key)
  for name in examples.MODELS:
    for file in ('config.json', 'model.safetensors'):
      path = f'{name}/{file}'
      assert (tmp_path / path).read_bytes() == (
          examples.DATA / path).read_bytes(), path


@needs_transformers
@pytest.mark.parametrize('name', examples.MODELS)
def test_transformers_loads_what_we_save(name, tmp_path):
  """In several files, and of fresh parameters."""
  model, _, _ = examples.load(name)
  params = model_lib.init_params(model, jax.random.key(1))
  saving.save_params(
      tmp_path, model.config, params, max_shard_bytes=20_000)
  assert len(list(tmp_path.glob('*.safetensors'))) > 1
  title = examples.titles(name)[0]
  keys = ('input_ids', 'attention_mask', 'pixel_values', 'image_grid_thw')
  arrays = {key: examples.read(name, title, key) for key in keys}
  np.savez(tmp_path / 'inputs.npz', **{
      key: x for key, x in arrays.items() if x is not None})
  _run('run', tmp_path, tmp_path / 'inputs.npz', tmp_path / 'outputs.npz')
  inputs = examples.batch(name, title)
  logits = np.asarray(_logits(model, params, inputs))
  with np.load(tmp_path / 'outputs.npz') as outputs:
    difference = np.abs(logits - outputs['logits'])[inputs.where].max()
  print(f'{name}: {difference:.1e}')
  assert difference < 1e-4
