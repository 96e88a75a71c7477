"""The vision-language policy of a config: its model, its prompts, its text.

A stored row names a picture and holds the ids of a prompt:
  prompt      [P] int32       padded with -1 on the left
  screenshot  [] int32        number in the run's ScreenshotStore
  state       [4] int32       equal iff picture and instruction are equal
  element_box [E, 4] float32  of elements where they are known, for `matches`
"""

from collections.abc import Sequence
import functools
import pathlib
import sys
from typing import Any

import jax
import ml_collections
import numpy as np
from PIL import Image
import safetensors
import tokenizers

from experiments import checks
from step_jax.envs import actions
from step_jax.envs import pictures
from step_jax.envs import ui_tars
from step_jax.envs.osworld import screenshots as screenshots_lib
from step_jax.policies import base
from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import images
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import positions
from step_jax.policies.qwen_vl import prompts
from step_jax.policies.qwen_vl import sampling
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import vocabulary as vocabulary_lib

_STOPS = (tokenizer_lib.END, tokenizer_lib.END_OF_TEXT)
_WRITTEN = (*_STOPS, tokenizer_lib.BOX_START, tokenizer_lib.BOX_END)
_PROMPTS = {'ui_tars': prompts.UI_TARS, 'short': ''}
_PADDING = -1
_QUERIES = 512  # of attention at a time; a screenshot has thousands of patches


def make_policy(
    config: ml_collections.ConfigDict, folder: str
) -> tuple[base.Policy, base.Codec]:
  """Builds the policy of a config; see configs/common.py for its fields.

  Args:
    config: the run's config.
    folder: of the run's pictures.

  Raises:
    UserError: the checkpoint is not one, or picture and prompt do not fit.
  """
  options = config.policy
  source = pathlib.Path(options.checkpoint) if options.checkpoint else None
  try:
    tokenizer = tokenizer_lib.load(source)
    vocabulary = vocabulary_lib.Vocabulary(
        tokenizer, None if source else _kept_tokens(tokenizer, options))
    model_config = (
        read_config(source, vocabulary) if source
        else tiny_config(options, vocabulary))
    codec = VisionCodec(options, tokenizer, vocabulary, model_config, folder)
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
    tokenizer: tokenizers.Tokenizer, options: ml_collections.ConfigDict
) -> set[int]:
  """The tokens of a prompt of `policy.words`, and of a click."""
  click = ui_tars.encode(
      actions.Action(kind='click', point=(0., 0.)), convention='thousand')
  return {
      *prompts.ui_tars(tokenizer, options.words, [], num_image_tokens=1,
                       prompt=_PROMPTS[options.prompt]),
      *prompts.response(tokenizer, click)}


def _load_params(
    source: pathlib.Path, config: config_lib.Config, rng_key: Any) -> Any:
  del rng_key
  try:
    return checkpoint.load_params(source, config)
  except (ValueError, OSError, safetensors.SafetensorError) as error:
    raise checks.UserError(str(error)) from error


class VisionCodec:
  """What rows, prompts and responses mean; see `base.Codec`."""

  def __init__(
      self,
      options: ml_collections.ConfigDict,
      tokenizer: tokenizers.Tokenizer,
      vocabulary: vocabulary_lib.Vocabulary,
      config: config_lib.Config,
      folder: str):
    self.stops = [vocabulary.find(token) for token in _STOPS]
    self._options = options
    self._tokenizer = tokenizer
    self._vocabulary = vocabulary
    self._config = config
    self._folder = folder
    self._num_patches = self._count(options.screen_size[::-1])[1]
    self._check_fit()

  def observe(
      self, observation: Any, info: dict[str, Any], history: Any) -> Any:
    """The row; a prompt that is too long lacks the oldest responses."""
    length = self._options.prompt_length
    prompt = np.full(length, _PADDING, np.int32)
    instruction = info.get('instruction', '')
    if info:
      ids = self._prompt(
          self._image_tokens(int(observation['screenshot'])), instruction,
          list(history))
      prompt[length - len(ids):] = ids
    return {
        'prompt': prompt,
        'screenshot': observation['screenshot'],
        'state': pictures.digest(
            observation['digest'].tobytes() + instruction.encode()),
        'element_box': observation['element_box']}

  def remember(
      self, history: Any, observation: Any, tokens: Any, xp: Any = np) -> Any:
    """The last three responses, as the tokenizer's ids, oldest first."""
    del observation, xp
    response = self._vocabulary.widen(self._cut(tokens))
    return (*history, response)[-prompts.HISTORY_LENGTH:]

  def decode(self, row: Any, tokens: np.ndarray) -> str:
    """The text of a response."""
    del row
    return self._tokenizer.decode(
        self._vocabulary.widen(self._cut(tokens)), skip_special_tokens=False)

  def encode(self, row: Any, expert_action: str) -> np.ndarray:
    """The ids of a demonstration, and the token that ends it."""
    del row
    ids = [*self._vocabulary.narrow(
        prompts.response(self._tokenizer, expert_action)), self.stops[0]]
    length = self._options.response_length
    if len(ids) > length:
      raise checks.UserError(
          f'expected demonstrations of at most policy.response_length '
          f'{length} tokens, got {len(ids)}')
    return np.pad(np.array(ids, np.int32), (0, length - len(ids)))

  def matches(self, observation: Any, tokens: Any) -> np.ndarray:
    """Which candidates `[..., K, L]` do what candidate 0 does."""
    tokens = np.asarray(tokens)
    matched = np.zeros(tokens.shape[:-1], bool)
    for index in np.ndindex(tokens.shape[:-2]):
      row = jax.tree.map(lambda x: np.asarray(x)[index], observation)
      size = self._image_size(row)
      found = [self._read(row, candidate, size) for candidate in tokens[index]]
      boxes: Any = row['element_box'].tolist()
      matched[index] = [
          actions.matches(found[0], other, boxes=boxes) for other in found]
    return matched

  def load(self, observation: Any) -> inputs_lib.Inputs:
    """Stored rows as what the model reads."""
    prompt = np.asarray(observation['prompt'])
    vision = self._config.vision
    assert vision is not None
    pixels, grids = zip(*(
        images.to_patches(np.asarray(self._picture(number).convert('RGB')),
                          vision, **self._pixels())
        for number in np.asarray(observation['screenshot']).tolist()))
    return inputs_lib.make_inputs(
        self._config, prompt, prompt != _PADDING, np.concatenate(pixels),
        np.stack(grids), buckets=inputs_lib.Buckets(
            tokens=(prompt.shape[1],), images=(len(grids),),
            patches=(self._num_patches,)))

  def _prompt(
      self, num_image_tokens: int, instruction: str,
      history: Sequence[Sequence[int]]) -> list[int]:
    """The model's ids of a prompt that fits."""
    for first in range(len(history) + 1):
      ids = self._vocabulary.narrow(prompts.ui_tars(
          self._tokenizer, instruction, history[first:],
          num_image_tokens=num_image_tokens,
          prompt=_PROMPTS[self._options.prompt]))
      if len(ids) <= self._options.prompt_length:
        return ids
    raise checks.UserError(
        f'expected picture and prompt to take at most policy.prompt_length '
        f'{self._options.prompt_length} tokens, got {len(ids)}, '
        f'{num_image_tokens} of them the picture, with the instruction '
        f'{instruction[:60]!r}')

  def _check_fit(self) -> None:
    """Refuses sizes of which it is clear that nothing will fit."""
    self._prompt(self._count(self._options.screen_size[::-1])[0], '', [])

  def _image_tokens(self, number: int) -> int:
    picture = self._picture(number)
    num_tokens, num_patches = self._count(picture.size[::-1])
    if num_patches > self._num_patches:
      raise checks.UserError(
          f'expected pictures of policy.screen_size '
          f'{tuple(self._options.screen_size)} or smaller, got {picture.size}')
    return num_tokens

  def _count(self, size: Sequence[int]) -> tuple[int, int]:
    """Tokens and patches of a picture of (height, width)."""
    vision = self._config.vision
    assert vision is not None
    height, width = images.smart_resize(
        *size, factor=vision.patch_size * vision.merge_size, **self._pixels())
    grid = np.array(
        [1, height // vision.patch_size, width // vision.patch_size])
    return images.num_tokens(grid, vision.merge_size), (
        positions.padded_patches(
            grid[None], merge_size=vision.merge_size, window=vision.window))

  def _pixels(self) -> dict[str, int]:
    return {name: self._options[name] for name in ('min_pixels', 'max_pixels')}

  @functools.cached_property
  def _store(self) -> screenshots_lib.ScreenshotStore:
    # Those who write pictures remove the oldest.
    return screenshots_lib.ScreenshotStore(self._folder, capacity=sys.maxsize)

  def _picture(self, number: int) -> Image.Image:
    return self._store.get(number)

  def _cut(self, tokens: Any) -> list[int]:
    """A response without the token that ends it and what follows."""
    ids = np.asarray(tokens).tolist()
    ends = [place for place, token in enumerate(ids) if token in self.stops]
    return ids[:ends[0]] if ends else ids

  def _image_size(self, row: Any) -> tuple[int, int] | None:
    """Width and height as the model sees them, where coordinates need them."""
    if self._options.convention != 'pixels':
      return None
    height, width = images.smart_resize(
        *self._picture(int(row['screenshot'])).size[::-1], **self._pixels())
    return width, height

  def _read(self, row: Any, tokens: np.ndarray, size: tuple[int, int] | None
            ) -> actions.Action | None:
    try:
      return ui_tars.decode(
          self.decode(row, tokens), convention=self._options.convention,
          image_size=size)[1]
    except ui_tars.UiTarsError:
      return None
