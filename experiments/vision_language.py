"""The vision-language policy of a config, and what its tokens mean."""

from collections.abc import Callable
import functools
import pathlib
import sys
from typing import Any

import ml_collections
import numpy as np
from PIL import Image
import tokenizers

from experiments import worlds
from step_jax.codecs import actions
from step_jax.codecs import ui_tars
from step_jax.codecs import vision
from step_jax.policies import base
from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import policy as policy_lib
from step_jax.policies.qwen_vl import prompts
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import vocabulary as vocabulary_lib
from step_jax.rollout import pictures
from step_jax.runs import errors


def make_policy(
    config: ml_collections.ConfigDict, folder: str,
    platform: ui_tars.Platform = 'desktop',
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> tuple[base.Policy, base.Codec]:
  """Builds the policy of a config; see configs/common.py for its fields.

  Args:
    config: the run's config.
    folder: of the run's pictures.
    platform: whose calls it writes.
    placement: of the model.

  Raises:
    UserError: the checkpoint is not one, or picture and prompt do not fit.
  """
  options = config.policy
  source = pathlib.Path(options.checkpoint) if options.checkpoint else None
  settings = worlds.choose_settings(config)
  before = prompts.UI_TARS[settings.prompt][platform] if (
      settings.prompt) else ''
  if settings.warning:
    print(settings.warning, file=sys.stderr)
  try:
    tokenizer = tokenizer_lib.load(source)
    vocabulary = vocabulary_lib.Vocabulary(
        tokenizer, None if source else _kept_tokens(
            tokenizer, options.words, before))
    model_config = (
        policy_lib.read_config(source, vocabulary) if source
        else policy_lib.tiny_config(vocabulary, **{
            name: options[name] for name in (
                'width', 'num_layers', 'vision_layers', 'num_heads',
                'rope_theta')}))
    stops = list(dict.fromkeys((*tokenizer_lib.STOPS, *filter(
        None, map(tokenizer.id_to_token, settings.stop_ids)))))
    codec = vision.VisionCodec(
        tokenizer, vocabulary, model_config, _pictures(folder),
        sizes=vision.Sizes(screen_size=options.screen_size, **{
            name: getattr(settings, name) for name in vision.Sizes._fields
            if name != 'screen_size'}),
        platform=platform, before=before, stops=stops)
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  policy = policy_lib.make_policy(
      model_config, vocabulary, codec.load, source=source,
      num_tokens=settings.response_length, stops=stops, dtype=options.dtype,
      remat=options.remat, placement=placement,
      lora=make_lora(options.lora), frozen_dtype=options.lora.frozen_dtype)
  legal = policy_lib.legal_tokens(model_config, vocabulary, stops)
  policy = policy._replace(served=base.Served(
      codec.requests, codec.probe, tuple(codec.stops),
      tuple(np.flatnonzero(~legal).tolist()), settings.response_length))
  return policy, base.Codec(
      matches=codec.matches, empty_history=(), remember=codec.remember,
      state=codec.state, num_tokens=settings.response_length,
      observe=codec.observe, decode=codec.decode, encode=codec.encode)


def make_lora(options: ml_collections.ConfigDict) -> Any:
  """`adapters.Lora` of a config's `policy.lora`; None if there are none."""
  if not options.rank:
    return None
  from step_jax.policies.qwen_vl import adapters  # qwix is an extra
  return adapters.Lora(options.rank, options.alpha, tuple(options.targets))


def _pictures(folder: str) -> Callable[[int], Image.Image]:
  """Reads the pictures of a folder, which is made when the first is read."""
  @functools.cache
  def store():
    # Those who write pictures remove the oldest.
    return pictures.ScreenshotStore(folder, capacity=sys.maxsize)

  def get(number):
    return store().get(number)
  return get


def _kept_tokens(
    tokenizer: tokenizers.Tokenizer, words: str, before: str) -> set[int]:
  """The tokens of a prompt of `words`, and of a click."""
  click = ui_tars.encode(
      actions.Action(kind='click', point=(0., 0.)), convention='thousand')
  return {
      *prompts.ui_tars(
          tokenizer, words, [], num_image_tokens=1, prompt=before),
      *prompts.response(tokenizer, click)}
