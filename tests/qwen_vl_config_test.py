"""Configurations: both layouts of the file, and clear refusals."""

import copy
import json

import jax
import pytest

from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import model as model_lib
from tests import qwen_vl_examples as examples


def _values(name):
  return json.loads((examples.DATA / name / 'config.json').read_text())


# As the hub has it: flat, with the older names.
QWEN2_VL_7B = {
    'model_type': 'qwen2_vl', 'hidden_act': 'silu', 'hidden_size': 3584,
    'intermediate_size': 18944, 'num_attention_heads': 28,
    'num_hidden_layers': 28, 'num_key_value_heads': 4, 'rms_norm_eps': 1e-06,
    'rope_theta': 1000000.0, 'sliding_window': 32768,
    'tie_word_embeddings': False, 'use_sliding_window': False,
    'image_token_id': 151655, 'vocab_size': 152064,
    'rope_scaling': {'type': 'mrope', 'mrope_section': [16, 24, 24]},
    'vision_config': {
        'depth': 32, 'embed_dim': 1280, 'mlp_ratio': 4, 'num_heads': 16,
        'in_chans': 3, 'hidden_size': 3584, 'patch_size': 14,
        'spatial_merge_size': 2, 'spatial_patch_size': 14,
        'temporal_patch_size': 2},
}


def test_hub_file_of_the_7b_model():
  config = config_lib.from_dict(QWEN2_VL_7B)
  text, vision = config.text, config.vision
  assert (text.head_width, text.norm_epsilon) == (128, 1e-6)
  assert vision is not None and vision.norm_epsilon == 1e-6
  assert (vision.hidden_width, vision.patch_width, vision.window) == (
      5120, 1176, 0)
  assert len(vision.full_layers) == 32 and not vision.gated


def test_the_7b_model_has_all_its_parameters():
  """7,615,616,512 of Qwen2-7B and 675,759,104 of the vision tower."""
  model = model_lib.Model(config_lib.from_dict(QWEN2_VL_7B))
  shapes = jax.eval_shape(
      lambda key: model_lib.init_params(model, key), jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 8_291_375_616


@pytest.mark.parametrize('name', examples.MODELS)
def test_round_trip(name):
  """Nested as transformers wrote it, flat as we do."""
  config = config_lib.from_dict(_values(name))
  written = config_lib.to_dict(config)
  assert config_lib.from_dict(json.loads(json.dumps(written))) == config
  assert config.family in name


# By each version of transformers; see make_qwen_vl_configs.
_TABLE = json.loads(
    (examples.DATA.parent / 'qwen_vl_configs.json').read_text())


@pytest.mark.parametrize('name', _TABLE)
def test_what_versions_of_transformers_write(name):
  _, family, head = name.split()
  gated = family == 'qwen2_5_vl'
  assert config_lib.from_dict(_TABLE[name]) == config_lib.Config(
      family=family, image_token_id=151655, text=config_lib.TextConfig(
          vocabulary=152064, width=3584, hidden_width=18944, num_layers=2,
          num_heads=28, num_key_heads=4, head_width=128, norm_epsilon=1e-6,
          rope_theta=1e6, rope_sections=(16, 24, 24), qkv_bias=True,
          tied=head == 'tied'),
      vision=config_lib.VisionConfig(
          width=1280, hidden_width=3420 if gated else 5120, num_layers=32,
          num_heads=16, out_width=3584, gated=gated, window=4 if gated else 0,
          full_layers=(7, 15, 23, 31) if gated else tuple(range(32)),
          norm_epsilon=1e-6, channels=3, patch_size=14, temporal_size=2,
          merge_size=2))


def test_what_is_missing_has_the_default_of_transformers():
  """The 72B model, but for its vision tower's width."""
  rope = {'rope_scaling': {'type': 'mrope', 'mrope_section': [16, 24, 24]}}
  config = config_lib.from_dict({
      'model_type': 'qwen2_vl', 'vision_config': {'hidden_size': 8192}} | rope)
  text = config.text
  assert (text.vocabulary, text.width, text.hidden_width, text.num_layers) == (
      152064, 8192, 29568, 80)
  assert (text.num_heads, text.num_key_heads) == (64, 8)
  assert text.norm_epsilon == 1e-5
  assert not text.tied and config.image_token_id == 151655
  llama = config_lib.from_dict({'model_type': 'llama'}).text
  assert (llama.width, llama.num_key_heads, llama.rope_theta) == (4096, 32, 1e4)


def test_epsilons_are_read_apart():
  """The trap: the text norm's epsilon is not the vision norm's."""
  config = config_lib.from_dict(_values('qwen2_5_vl_untied'))
  assert config.text.norm_epsilon == 1e-3
  assert config.vision is not None and config.vision.norm_epsilon == 1e-6


@pytest.mark.parametrize('change,message', [
    ({'model_type': 'qwen3_vl'}, 'expected model_type'),
    ({'use_sliding_window': True}, 'expected use_sliding_window'),
    ({'quantization_config': {'quant_method': 'awq', 'bits': 4}},
     'expected quantization_config of .None,., got .*awq'),
    ({'hidden_act': 'gelu'}, 'expected hidden_act'),
    ({'attention_bias': True}, 'expected attention_bias'),
    ({'mlp_bias': True}, 'expected mlp_bias'),
    ({'num_key_value_heads': 3}, 'to divide num_attention_heads'),
    ({'vocab_size': None}, 'expected vocab_size in config.json'),
    ({'image_token_id': None}, 'expected image_token_id'),
    ({'rope_scaling': {'type': 'yarn'}}, 'expected rotary positions'),
    ({'rope_scaling': {'type': 'mrope', 'mrope_section': [16, 24, 23]}},
     'expected three sections of 64 frequencies'),
    ({'vision_config': QWEN2_VL_7B['vision_config'] | {'hidden_size': 8}},
     'puts out width 3584, got 8'),
    ({'vision_config': QWEN2_VL_7B['vision_config'] | {'num_heads': 7}},
     'expected a vision width'),
    ({'vision_config': QWEN2_VL_7B['vision_config'] | {'hidden_act': 'gelu'}},
     'quick_gelu'),
    ({'layer_types': ['sliding_attention']}, 'expected layer_types'),
    ({'rope_scaling': None}, 'expected mrope_section'),
])
def test_refuses(change, message):
  with pytest.raises(ValueError, match=message):
    config_lib.from_dict(copy.deepcopy(QWEN2_VL_7B) | change)
