"""The vision-language policy of a config: its model, and what it may write."""

import functools
import pathlib
from typing import Any

import jax
import ml_collections
import safetensors
import tokenizers

from experiments import checks
from step_jax.codecs import actions
from step_jax.codecs import ui_tars
from step_jax.codecs import vision as vision_codec
from step_jax.policies import base
from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import prompts
from step_jax.policies.qwen_vl import sampling
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import vocabulary as vocabulary_lib

_WRITTEN = (
    *vision_codec.STOPS, tokenizer_lib.BOX_START, tokenizer_lib.BOX_END)
_QUERIES = 512  # of attention at a time; a screenshot has thousands of patches


def make_policy(
    config: ml_collections.ConfigDict, folder: str,
    platform: ui_tars.Platform = 'desktop',
) -> tuple[base.Policy, base.Codec]:
  """Builds the policy of a config; see configs/common.py for its fields.

  Args:
    config: the run's config.
    folder: of the run's pictures.
    platform: whose calls it writes.

  Raises:
    UserError: the checkpoint is not one, or picture and prompt do not fit.
  """
  options = config.policy
  source = pathlib.Path(options.checkpoint) if options.checkpoint else None
  try:
    tokenizer = tokenizer_lib.load(source)
    vocabulary = vocabulary_lib.Vocabulary(
        tokenizer, None if source else _kept_tokens(
            tokenizer, options, platform))
    model_config = (
        read_config(source, vocabulary) if source
        else tiny_config(options, vocabulary))
    codec = vision_codec.VisionCodec(
        options, tokenizer, vocabulary, model_config, folder, platform)
  except ValueError as error:
    raise checks.UserError(str(error)) from error
  model = model_lib.Model(
      model_config, dtype=options.dtype, remat=options.remat,
      attention_chunk=_QUERIES)
  functions = sampling.make_policy(
      model, num_tokens=options.response_length, stop_ids=codec.stops,
      legal=vocabulary.legal(model_config.text.vocabulary, _WRITTEN))
  init = functools.partial(_load_params, source, model_config) if (
      source) else jax.jit(functions.init)
  policy = base.Policy(
      init, functions.sample, functions.log_prob, codec.load,
      functions.sample_many)
  return policy, base.Codec(
      matches=codec.matches, empty_history=(), remember=codec.remember,
      state=lambda observation: observation['state'],
      num_tokens=options.response_length, observe=codec.observe,
      decode=codec.decode, encode=codec.encode)


def read_config(
    source: pathlib.Path, vocabulary: vocabulary_lib.Vocabulary
) -> config_lib.Config:
  """The configuration of a checkpoint that sees.

  Raises:
    ValueError: for one that does not, or does not fit its tokenizer.
  """
  config = checkpoint.read_config(source)
  if config.vision is None:
    raise ValueError(
        f'expected a checkpoint of Qwen2-VL or Qwen2.5-VL in {source}, got '
        f'one of {config.family}, which sees no pictures')
  image, = vocabulary.narrow([config.image_token_id or 0])
  if image != vocabulary.find(tokenizer_lib.IMAGE) or (
      len(vocabulary) > config.text.vocabulary):
    raise ValueError(
        f'expected a tokenizer.json in {source} that fits its config.json, '
        f'got one of {len(vocabulary)} tokens for {config.text.vocabulary}')
  return config


def tiny_config(
    options: ml_collections.ConfigDict,
    vocabulary: vocabulary_lib.Vocabulary,
) -> config_lib.Config:
  """A Qwen2.5-VL small enough to learn on a processor, of a config's sizes."""
  width, heads = options.width, options.num_heads
  sections = 2 * [width // heads // 2 // 3]
  return config_lib.Config(
      family='qwen2_5_vl',
      text=config_lib.TextConfig(
          vocabulary=len(vocabulary), width=width, hidden_width=2 * width,
          num_layers=options.num_layers, num_heads=heads, num_key_heads=heads,
          head_width=width // heads, norm_epsilon=1e-6,
          rope_theta=options.rope_theta,
          rope_sections=(
              width // heads // 2 - sum(sections), *sections),
          qkv_bias=True, tied=False),
      vision=config_lib.VisionConfig(
          width=width, hidden_width=2 * width,
          num_layers=options.vision_layers, num_heads=heads, out_width=width,
          gated=True, window=1,  # which all layers disregard, without padding
          full_layers=tuple(range(options.vision_layers)),
          norm_epsilon=1e-6, channels=3, patch_size=14, temporal_size=2,
          merge_size=2),
      image_token_id=vocabulary.find(tokenizer_lib.IMAGE))


def _kept_tokens(
    tokenizer: tokenizers.Tokenizer, options: ml_collections.ConfigDict,
    platform: ui_tars.Platform,
) -> set[int]:
  """The tokens of a prompt of `policy.words`, and of a click."""
  click = ui_tars.encode(
      actions.Action(kind='click', point=(0., 0.)), convention='thousand')
  return {
      *prompts.ui_tars(tokenizer, options.words, [], num_image_tokens=1,
                       prompt=vision_codec.prompt_text(options, platform)),
      *prompts.response(tokenizer, click)}


def _load_params(
    source: pathlib.Path, config: config_lib.Config, rng_key: Any) -> Any:
  del rng_key
  try:
    return checkpoint.load_params(source, config)
  except (ValueError, OSError, safetensors.SafetensorError) as error:
    raise checks.UserError(str(error)) from error
