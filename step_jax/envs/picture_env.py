"""Any environment as a vision-language model drives it: pictures in, text out.

The observation names a picture in a `ScreenshotStore`, and what the model
writes is read as UI-TARS does; what cannot be read does nothing and counts as
a step. Observation, dictionary of arrays (E elements):

  screenshot  [] int32        number of the picture in the store
  size        [2] int32       its width and height
  digest      [4] int32       equal iff the pictures are equal
  element_box [E, 4] float32  of elements where they are known, for `matches`

The environment inside has `render()`, takes `actions.Action` besides its own
actions, and has `expand(action)`: one of its own as real ones. On a phone its
class says `platform = 'mobile'`.
"""

from collections.abc import Callable
import dataclasses
import io
import os
from typing import Any

import gymnasium
from gymnasium import spaces
import numpy as np
from PIL import Image

from step_jax.codecs import actions
from step_jax.codecs import ui_tars
from step_jax.envs import base
from step_jax.policies.qwen_vl import images
from step_jax.rollout import pictures

_BOXES = 'element_box'


def example() -> base.Observation:
  """An observation, for shapes."""
  return {
      'screenshot': np.array(-1, np.int32),
      'size': np.zeros(2, np.int32),
      'digest': np.zeros(images.DIGEST_LENGTH, np.int32),
      _BOXES: np.zeros((base.MAX_ELEMENTS, 4), np.float32)}


class PictureEnv(gymnasium.Wrapper):
  """Pictures in, UI-TARS text out; see the module.

  `info['instruction']` is the task in words. With the option 'expert' of
  `reset`, where the environment inside has a scripted solution, every info
  carries `expert_action`, the text of its next real action: an element action
  can take several steps, such as to click into a field and then to type.

  Args:
    make_env: makes the environment inside; picklable.
    folder: of the store.
    capacity: pictures that the store keeps.
    convention: how coordinates are counted, see `ui_tars`.
    platform: whose calls the model writes, likewise.
    min_pixels: of the picture as the model sees it, for 'pixels'.
    max_pixels: likewise.

  Raises:
    ValueError: for an environment that shows no pictures.
  """

  def __init__(self, make_env: Callable[[], gymnasium.Env],
               folder: str | os.PathLike, *, capacity: int = 20_000,
               convention: ui_tars.Convention = 'thousand',
               platform: ui_tars.Platform = 'desktop',
               min_pixels: int = images.MIN_PIXELS,
               max_pixels: int = images.MAX_PIXELS):
    super().__init__(make_env())
    self._store = pictures.ScreenshotStore(folder, capacity=capacity)
    self._form: dict[str, Any] = {
        'convention': convention, 'platform': platform}
    self._pixels = {'min_pixels': min_pixels, 'max_pixels': max_pixels}
    self.observation_space = spaces.Dict({
        'screenshot': spaces.Box(-1, np.iinfo(np.int32).max, (), np.int32),
        'size': spaces.Box(0, np.iinfo(np.int32).max, (2,), np.int32),
        'digest': spaces.Box(
            np.iinfo(np.int32).min, np.iinfo(np.int32).max,
            (images.DIGEST_LENGTH,), np.int32),
        _BOXES: spaces.Box(0., 1., (base.MAX_ELEMENTS, 4), np.float32)})
    self.action_space = spaces.Text(ui_tars.MAX_LENGTH, min_length=0)
    self._seen = example()
    self._image_size = (1, 1)  # of the picture as the model sees it
    self._proposal: Any = None  # the expert's element action
    self._parts: list[actions.Action] = []  # what is left of it

  def reset(self, *, seed: int | None = None,
            options: dict[str, Any] | None = None
            ) -> tuple[base.Observation, dict[str, Any]]:
    observation, info = self.env.reset(seed=seed, options=options)
    self._parts = []
    self._look(observation)
    return self._seen, self._info(info)

  def step(self, action: Any) -> tuple[
      base.Observation, Any, bool, bool, dict[str, Any]]:
    parsed = ui_tars.read(
        str(action), image_size=self._image_size, **self._form)
    followed = bool(self._parts) and parsed == self._parts[0]
    self._parts = self._parts[1:] if followed else []
    if followed and not self._parts and hasattr(self.unwrapped, 'follow'):
      self.unwrapped.follow(self._proposal)
    observation, reward, terminated, truncated, info = self.env.step(parsed)
    if terminated or truncated:  # nobody reads another picture
      info.pop('expert_action', None)
      return self._seen, reward, terminated, truncated, info
    self._look(observation)
    return self._seen, reward, terminated, truncated, self._info(info)

  def _look(self, observation: Any) -> None:
    """Takes a picture."""
    picture: Any = self.env.render()
    if picture is None:
      raise ValueError('expected an environment that shows pictures, got one '
                       'whose render() returns None')
    file = io.BytesIO()
    # Disks are larger than the time of those who wait for an action.
    Image.fromarray(picture).save(file, 'PNG', compress_level=1)
    height, width = images.smart_resize(*picture.shape[:2], **self._pixels)
    self._image_size = width, height
    self._seen = example() | {
        'screenshot': np.array(self._store.put(file.getvalue()), np.int32),
        'size': np.array(picture.shape[1::-1], np.int32),
        'digest': images.digest(
            repr(picture.shape).encode() + picture.tobytes())}
    if _BOXES in observation:
      self._seen[_BOXES] = observation[_BOXES]

  def _info(self, info: dict[str, Any]) -> dict[str, Any]:
    info = dict(info)
    proposal = info.pop('expert_action', None)
    if proposal is not None:
      if not self._parts:
        self._proposal = proposal
        inside: Any = self.unwrapped
        parts = inside.expand(proposal) or (actions.Action(kind='wait'),)
        self._parts = list(map(self._round, parts))
      info['expert_action'] = self._write(self._parts[0])
    return info

  def _write(self, action: actions.Action) -> str:
    return ui_tars.encode(
        action, image_size=self._image_size, **self._form)

  def _round(self, action: actions.Action) -> actions.Action:
    """The action as text can say it."""
    if action.kind == 'scroll':
      action = dataclasses.replace(action, amount=ui_tars.SCROLL_AMOUNT)
    return ui_tars.decode(
        self._write(action), image_size=self._image_size, **self._form)[1]
