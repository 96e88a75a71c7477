"""What the rows and the text of a vision-language policy mean.

A stored row names a picture and holds the ids of a prompt:
  prompt      [P] int32       padded with -1 on the left
  screenshot  [] int32        number in the run's ScreenshotStore
  size        [2] int32       width and height of the picture
  state       [4] int32       equal iff picture and instruction are equal
  element_box [E, 4] float32  of elements where they are known, for `matches`
"""

from collections.abc import Callable, Iterable, Sequence
import io
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image
import tokenizers

from step_jax.codecs import actions
from step_jax.codecs import json_action
from step_jax.codecs import ui_tars
from step_jax.policies import base
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import images
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import positions
from step_jax.policies.qwen_vl import prompts
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import vocabulary as vocabulary_lib

_PADDING = -1
_PROBE = 'Do click.'  # an instruction of few tokens


class Sizes(NamedTuple):
  """What a row has room for, and how the model writes."""
  prompt_length: int  # P
  response_length: int  # L
  screen_size: Sequence[int]  # width and height of the largest picture
  min_pixels: int  # of a picture as the model sees it
  max_pixels: int
  convention: ui_tars.Convention  # how coordinates are counted


class VisionCodec:
  """What rows, prompts and responses mean; see `base.Codec`.

  Args:
    tokenizer: of the checkpoint.
    vocabulary: the model's ids among the tokenizer's.
    config: of the model.
    get_picture: of the number that a row has.
    sizes: what rows have room for.
    platform: whose calls the model writes.
    before: stands in the prompt before the instruction.
    stops: the tokens that end a response; a demonstration ends with the first.

  Raises:
    InputError: the largest picture alone fills the prompt.
  """

  def __init__(
      self,
      tokenizer: tokenizers.Tokenizer,
      vocabulary: vocabulary_lib.Vocabulary,
      config: config_lib.Config,
      get_picture: Callable[[int], Image.Image],
      *,
      sizes: Sizes,
      platform: ui_tars.Platform,
      before: str,
      stops: Sequence[str] = tokenizer_lib.STOPS):
    self.stops = [vocabulary.find(token) for token in stops]
    self._tokenizer = tokenizer
    self._vocabulary = vocabulary
    self._config = config
    self._get_picture = get_picture
    self._sizes = sizes
    self._platform: ui_tars.Platform = platform
    self._on_phone = platform == 'mobile'
    self._before = before
    self._num_patches = self._count(sizes.screen_size[::-1])[1]
    # Sizes of which it is clear that nothing will fit.
    self._prompt(self._count(sizes.screen_size[::-1])[0], '', [])

  def observe(
      self, observation: Any, info: dict[str, Any], history: Any) -> Any:
    """The row; a prompt that is too long lacks the oldest responses."""
    length = self._sizes.prompt_length
    prompt = np.full(length, _PADDING, np.int32)
    instruction = info.get('instruction', '')
    if info:
      ids = self._prompt(
          self._image_tokens(observation['size']), instruction,
          list(history))
      prompt[length - len(ids):] = ids
    return {
        'prompt': prompt,
        'screenshot': observation['screenshot'],
        'size': observation['size'],
        'state': images.digest(
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
    length = self._sizes.response_length
    if len(ids) > length:
      raise base.InputError(
          f'expected demonstrations of at most policy.response_length '
          f'{length} tokens, got {len(ids)}')
    return np.pad(np.array(ids, np.int32), (0, length - len(ids)))

  def matches(self, observation: Any, tokens: Any) -> np.ndarray:
    """Which candidates `[..., K, L]` do what candidate 0 does to the world.

    A phone presses Enter behind every text, reads answers and knows no drags
    but swipes and scrolls; a desktop reads no answers.
    """
    tokens = np.asarray(tokens)
    matched = np.zeros(tokens.shape[:-1], bool)
    for index in np.ndindex(tokens.shape[:-2]):
      row = jax.tree.map(lambda x: np.asarray(x)[index], observation)
      size = self._image_size(row)
      found = [self._read(row, candidate, size) for candidate in tokens[index]]
      boxes: Any = row['element_box'].tolist()
      matched[index] = [
          actions.matches(found[0], other, boxes=boxes, answers=self._on_phone)
          for other in found]
    return matched

  def state(self, observation: Any) -> Any:
    """`[..., 4]` int32: picture and instruction, without the history."""
    return observation['state']

  def load(self, observation: Any) -> inputs_lib.Inputs:
    """Stored rows as what the model reads."""
    return self._load(np.asarray(observation['prompt']), map(
        self._get_picture, np.asarray(observation['screenshot']).tolist()))

  def requests(self, observation: Any) -> list[base.Request]:
    """Stored rows as an inference server reads them.

    A picture is made as small as the model sees it, so that no server has to
    agree on how that is done.
    """
    return [
        self._request(prompt[prompt != _PADDING], self._get_picture(number))
        for prompt, number in zip(
            observation['prompt'],
            np.asarray(observation['screenshot']).tolist())]

  def probe(self) -> tuple[base.Request, inputs_lib.Inputs]:
    """A prompt that never changes: its request, and what the model reads."""
    width, height = self._sizes.screen_size
    ids = np.array(self._prompt(self._count((height, width))[0], _PROBE, []))
    picture = Image.linear_gradient('L').resize((width, height))
    prompt = np.full((1, self._sizes.prompt_length), _PADDING, np.int32)
    prompt[0, -len(ids):] = ids
    return self._request(ids, picture), self._load(prompt, [picture])

  def _request(self, ids: np.ndarray, picture: Image.Image) -> base.Request:
    vision = self._vision()
    resized = images.resize(
        np.asarray(picture.convert('RGB')),
        vision.patch_size * vision.merge_size, **self._pixels())
    file = io.BytesIO()
    Image.fromarray(resized).save(file, 'PNG', compress_level=1)
    return base.Request(ids.tolist(), [file.getvalue()])

  def _load(self, prompt: np.ndarray, pictures: Iterable[Image.Image]
            ) -> inputs_lib.Inputs:
    pixels, grids = zip(*(
        images.to_patches(np.asarray(picture.convert('RGB')), self._vision(),
                          **self._pixels()) for picture in pictures))
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
          prompt=self._before))
      if len(ids) <= self._sizes.prompt_length:
        return ids
    raise base.InputError(
        f'expected picture and prompt to take at most policy.prompt_length '
        f'{self._sizes.prompt_length} tokens, got {len(ids)}, '
        f'{num_image_tokens} of them the picture, with the instruction '
        f'{instruction[:60]!r}')

  def _image_tokens(self, size: np.ndarray) -> int:
    num_tokens, num_patches = self._count(size[::-1].tolist())
    if num_patches > self._num_patches:
      raise base.InputError(
          f'expected pictures of policy.screen_size '
          f'{tuple(self._sizes.screen_size)} or smaller, got '
          f'{tuple(size.tolist())}')
    return num_tokens

  def _count(self, size: Sequence[int]) -> tuple[int, int]:
    """Tokens and patches of a picture of (height, width)."""
    vision = self._vision()
    height, width = images.smart_resize(
        *size, factor=vision.patch_size * vision.merge_size, **self._pixels())
    grid = np.array(
        [1, height // vision.patch_size, width // vision.patch_size])
    return images.num_tokens(grid, vision.merge_size), (
        positions.padded_patches(
            grid[None], merge_size=vision.merge_size, window=vision.window))

  def _vision(self) -> config_lib.VisionConfig:
    assert self._config.vision is not None
    return self._config.vision

  def _pixels(self) -> dict[str, int]:
    return {'min_pixels': self._sizes.min_pixels,
            'max_pixels': self._sizes.max_pixels}

  def _cut(self, tokens: Any) -> list[int]:
    """A response without the token that ends it and what follows."""
    ids = np.asarray(tokens).tolist()
    ends = [place for place, token in enumerate(ids) if token in self.stops]
    return ids[:ends[0]] if ends else ids

  def _image_size(self, row: Any) -> tuple[int, int] | None:
    """Width and height as the model sees them, where coordinates need them."""
    if self._sizes.convention != 'pixels' and not self._on_phone:
      return None
    height, width = images.smart_resize(
        *row['size'][::-1].tolist(), **self._pixels())
    return width, height

  def _read(self, row: Any, tokens: np.ndarray, size: tuple[int, int] | None
            ) -> actions.Action | None:
    action = ui_tars.read(
        self.decode(row, tokens), convention=self._sizes.convention,
        image_size=size, platform=self._platform)
    if not self._on_phone:
      return action
    width, height = row['size'].tolist()
    return json_action.received(action, screen_size=(width, height))
