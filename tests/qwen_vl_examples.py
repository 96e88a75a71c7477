"""The tiny checkpoints of tests/data/qwen_vl, which transformers saved."""

import dataclasses
import functools
import pathlib

import jax
import numpy as np

from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib

DATA = pathlib.Path(__file__).parent / 'data' / 'qwen_vl'
VISION = (
    'qwen2_vl_tied', 'qwen2_vl_untied', 'qwen2_5_vl_tied',
    'qwen2_5_vl_untied')
MODELS = (*VISION, 'llama_tied', 'llama_untied')
# Compiling is most of what these tests do; the models are tiny.
QUICK = {'xla_backend_optimization_level': 0}


def few_weights(*, tied):
  """The config of a Qwen2.5-VL of few weights under the whole vocabulary."""
  return config_lib.Config(
      family='qwen2_5_vl', text=config_lib.TextConfig(
          vocabulary=151_936, width=8, hidden_width=8, num_layers=1,
          num_heads=2, num_key_heads=1, head_width=4, norm_epsilon=1e-6,
          rope_theta=1e6, rope_sections=(1, 1, 0), qkv_bias=True, tied=tied),
      vision=config_lib.VisionConfig(
          width=8, hidden_width=8, num_layers=1, num_heads=2, out_width=8,
          gated=True, window=4, full_layers=(0,), norm_epsilon=1e-6,
          channels=3, patch_size=14, temporal_size=2, merge_size=2),
      image_token_id=151_655)


@functools.lru_cache(maxsize=None)
def load(name):
  """A model, its parameters, and the arrays of its batches."""
  config = checkpoint.read_config(DATA / name)
  params = checkpoint.load_params(DATA / name, config)
  with np.load(DATA / f'{name}.npz') as arrays:
    return model_lib.Model(config), params, dict(arrays)


def titles(name):
  """The batches of a fixture."""
  kinds = ('images', 'text') if name in VISION else ('text',)
  return [f'{kind}_{side}' for kind in kinds for side in ('left', 'right')]


def read(name, title, key):
  """One array of a batch, or None."""
  return load(name)[2].get(f'{title}/{key}')


def batch(name, title, buckets=None):
  """One batch of a fixture as inputs of the model."""
  arrays = [read(name, title, key) for key in (
      'input_ids', 'attention_mask', 'pixel_values', 'image_grid_thw')]
  return inputs_lib.make_inputs(
      load(name)[0].config, *arrays, buckets=buckets)


def foul(inputs, rng):
  """The same batch with rubbish wherever it is padded."""
  where, images = inputs.where, inputs.images

  def rubbish(x):
    return np.where(
        where.reshape(where.shape + (1,) * (x.ndim - 2)), x,
        rng.integers(-2**31, 2**31, x.shape)).astype(x.dtype)

  return dataclasses.replace(
      inputs,
      input_ids=rubbish(inputs.input_ids),
      positions=rubbish(inputs.positions),
      image_index=rubbish(inputs.image_index),
      images=images and dataclasses.replace(
          images,
          pixels=np.where(
              images.where[..., None], images.pixels,
              np.float32(np.nan)),
          positions=np.where(
              images.where[..., None], images.positions, 10**6)))


def equations(jaxpr):
  """Every equation, those of inner jaxprs included."""
  for equation in jaxpr.eqns:
    yield equation
    for value in jax.tree.leaves(
        list(equation.params.values()),
        is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')):
      inner = getattr(value, 'jaxpr', value)
      if hasattr(inner, 'eqns'):
        yield from equations(inner)
