"""The formulas behind the vision-language model's tables."""

import dataclasses
import json

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks import flop_use
from benchmarks import vlm_memory
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from tests import qwen_vl_examples as examples

_LLAMA = config_lib.from_dict({
    'model_type': 'llama', 'vocab_size': 512, 'hidden_size': 256,
    'intermediate_size': 384, 'num_hidden_layers': 1,
    'num_attention_heads': 8, 'num_key_value_heads': 2})


def _with_layers(config, part, num_layers):
  shape = dataclasses.replace(getattr(config, part), num_layers=num_layers)
  return dataclasses.replace(config, **{part: shape})


def test_flops_agree_with_xla():
  """XLA counts elementwise work besides, which is small for wide layers."""
  rows, tokens = 2, 64
  inputs = inputs_lib.make_inputs(
      _LLAMA, np.zeros((rows, tokens), int), np.ones((rows, tokens), bool))
  model = model_lib.Model(_LLAMA)
  params = vlm_memory.abstract_params(_LLAMA)
  cost = jax.jit(model.apply).lower({'params': params}, inputs).cost_analysis()
  ratio = cost['flops'] / flop_use.forward_flops(_LLAMA, rows, tokens)
  assert 1 < ratio < 1.03


def test_flops_grow_with_layers():
  """XLA counts the body of a scan once, so this is not its word."""
  none, one, three = (
      flop_use.forward_flops(_with_layers(_LLAMA, 'text', layers), 2, 64)
      for layers in (0, 1, 3))
  assert none == 2 * 512 * 256 * 2 * 64  # the head's table
  assert three - none == 3 * (one - none) > 0


def test_the_newer_7b_model_has_all_its_parameters():
  """7,615,616,512 of Qwen2.5-7B; the vision tower's by hand."""
  width, hidden, merged, out = 1280, 3420, 5120, 3584
  layer = (
      2 * width + (width + 1) * 3 * width + (width + 1) * width
      + 2 * (width + 1) * hidden + (hidden + 1) * width)
  tower = (
      3 * 2 * 14**2 * width + 32 * layer + width + (merged + 1) * merged
      + (merged + 1) * out)
  params = vlm_memory.abstract_params(vlm_memory.CONFIGS['Qwen2.5-VL-7B'])
  assert sum(x.size for x in jax.tree.leaves(params)) == 7_615_616_512 + tower


@pytest.mark.parametrize('name,part', [
    ('qwen2_vl_untied', 'text'), ('qwen2_vl_untied', 'vision'),
    ('qwen2_5_vl_untied', 'vision')])
def test_each_layer_keeps_its_input_only(name, part):
  """One more layer keeps `[B, L, D]` more, and is no more to compute again."""
  values = json.loads((examples.DATA / name / 'config.json').read_text())
  config = config_lib.from_dict(values)
  inputs = vlm_memory.row_inputs(config, (1, 8, 6), 21)
  size = {'text': 21 * config.text.width,
          'vision': inputs.images.where.size * config.vision.width}[part]
  flag = part == 'vision' and config.vision.gated  # whether it has windows
  (fewer, again), (more, also) = (
      vlm_memory.activations(
          _with_layers(config, part, layers), inputs, part, jnp.bfloat16, 8)
      for layers in (5, 6))
  assert more - fewer == 2 * size + flag
  assert again == also > 4 * size


def test_cache_of_the_7b_models():
  """28 layers x 4 heads x 128 x (key, value) x 2 bytes: 57,344 a token."""
  text = vlm_memory.CONFIGS['Qwen2-VL-7B'].text
  assert vlm_memory.cache_bytes(text, 1500) == 1500 * 57_344


def test_largest_exchange():
  program = """
  %a = f32[8,4]{1,0} add(%x, %y)
  %b = bf16[3,5]{1,0} all-gather(%x), dimensions={0}
  ROOT %c = (f32[2]{0}, f32[2,5]{1,0}) all-reduce(%x, %y), to_apply=%add
  """
  assert vlm_memory.largest_exchange(program) == (40, 'all-reduce f32[2,5]')
  assert vlm_memory.largest_exchange('%a = f32[8]{0} add(%x)') == (0, 'none')


def test_a_new_device_is_looked_at(capsys):
  """The functions and the model of `accelerator.py`, in small sizes."""
  flags.FLAGS(['accelerator', '--width=128', '--layers=1', '--prompt=30',
               '--tokens=4', '--repeats=1'])
  accelerator.check_functions()
  accelerator.measure_vision()
  lines = capsys.readouterr().out.splitlines()
  numbers = [[float(x.strip(',')) for x in line.split() if x[0].isdecimal()
              and x.strip(',').replace('.', '').isdecimal()]
             for line in lines if 'rho' in line]
  assert np.abs(np.array(numbers) - 1).max() < 1e-2 and len(numbers) == 2
  assert float(lines[0].split()[-1]) < 1e-5
  assert lines[-1].endswith('True')
  flags.FLAGS.unparse_flags()
