"""A vision-language policy with its codec: of a checkpoint, or a tiny one."""

from collections.abc import Callable, Mapping
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
import tokenizers

from step_jax.codecs import actions
from step_jax.codecs import ui_tars
from step_jax.codecs import vision
from step_jax.policies import base
from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import policy as policy_lib
from step_jax.policies.qwen_vl import prompts
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import versions
from step_jax.policies.qwen_vl import vocabulary as vocabulary_lib

if TYPE_CHECKING:  # its package is an extra of its own
  from step_jax.policies.qwen_vl import adapters


def make_policy(
    get_picture: Callable[[int], Image.Image],
    settings: versions.Settings,
    *,
    source: pathlib.Path | None,
    platform: ui_tars.Platform = 'desktop',
    dtype: str = 'float32',
    remat: bool = False,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
    lora: 'adapters.Lora | None' = None,
    frozen_dtype: str = 'bfloat16',
    tiny: Mapping[str, Any] | None = None,
    words: str = '',
) -> tuple[base.Policy, base.Codec]:
  """Builds a policy that reads pictures and writes text.

  Args:
    get_picture: of the number that a row has, as `ScreenshotStore.get`.
    settings: what it reads and writes, see `versions.settings`.
    source: folder of a checkpoint; None for a random model.
    platform: whose calls it writes.
    dtype: of products, 'float32' or 'bfloat16'.
    remat: whether the gradient computes activations again.
    placement: of the model.
    lora: adapters, which alone learn; by default all parameters do.
    frozen_dtype: of the parameters beside adapters.
    tiny: without a source, the sizes that `policy.tiny_config` takes.
    words: without a source, a text whose tokens it knows; others are spelt in
      bytes.

  Returns:
    The policy, whose `init` raises `base.InputError` for weights that do not
    fit, and its codec.

  Raises:
    ValueError: the checkpoint is not one, or picture and prompt do not fit.
  """
  before = prompts.UI_TARS[settings.prompt][platform] if (
      settings.prompt) else ''
  tokenizer = tokenizer_lib.load(source)
  vocabulary = vocabulary_lib.Vocabulary(
      tokenizer, None if source else _kept_tokens(tokenizer, words, before))
  config = (policy_lib.read_config(source, vocabulary) if source
            else policy_lib.tiny_config(vocabulary, **tiny or {}))
  stops = list(dict.fromkeys((*tokenizer_lib.STOPS, *filter(
      None, map(tokenizer.id_to_token, settings.stop_ids)))))
  codec = vision.VisionCodec(
      tokenizer, vocabulary, config, get_picture,
      sizes=vision.Sizes(**{
          name: getattr(settings, name) for name in vision.Sizes._fields}),
      platform=platform, before=before, stops=stops)
  policy = policy_lib.make_policy(
      config, vocabulary, codec.load, source=source,
      num_tokens=settings.response_length, stops=stops, dtype=dtype,
      remat=remat, placement=placement, lora=lora, frozen_dtype=frozen_dtype)
  legal = policy_lib.legal_tokens(config, vocabulary, stops)
  policy = policy._replace(served=base.Served(
      codec.requests, codec.probe, tuple(codec.stops),
      tuple(np.flatnonzero(~legal).tolist()), settings.response_length))
  return policy, base.Codec(
      matches=codec.matches, empty_history=(), remember=codec.remember,
      state=codec.state, num_tokens=settings.response_length,
      observe=codec.observe, decode=codec.decode, encode=codec.encode)


def _kept_tokens(
    tokenizer: tokenizers.Tokenizer, words: str, before: str) -> set[int]:
  """The tokens of a prompt of `words`, and of a click."""
  click = ui_tars.encode(
      actions.Action(kind='click', point=(0., 0.)), convention='thousand')
  return {
      *prompts.ui_tars(
          tokenizer, words, [], num_image_tokens=1, prompt=before),
      *prompts.response(tokenizer, click)}
