"""Looks at a desktop's screen, and the spaces of what they show."""

from collections.abc import Callable
import itertools
import os
import time
from typing import Any

from gymnasium import spaces
import numpy as np

from step_jax.envs import base
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import elements

_START_SECONDS = 30.0  # for the first window of what a task starts
_MAX_READS = 3  # of a screen of which the desktop tells only a part,
_ANSWER_SECONDS = 10.0  # or nothing at all, since an application hangs


def example(screenshots: str | os.PathLike = '', **_: Any
            ) -> base.Observation:
  """An empty screen, for shapes.

  Args:
    screenshots: as `OSWorldEnv` has it; so is the rest, which changes no shape.

  Returns:
    An observation.
  """
  observation = base.example()
  if screenshots:
    observation['screenshot'] = np.array(-1, np.int32)
  return observation


def observation_space(screenshots: bool = False) -> spaces.Dict:
  """`base.observation_space`, with `screenshot` where there is a store."""
  space = base.observation_space()
  if screenshots:
    space = spaces.Dict({**space.spaces, 'screenshot': spaces.Box(
        -1, np.iinfo(np.int32).max, (), np.int32)})
  return space


def read(client: client_lib.Client, size: tuple[int, int]) -> elements.Tree:
  """Reads the screen, again where the desktop told only a part of it.

  Args:
    client: of the desktop.
    size: width and height of the screen in pixels.

  Raises:
    DesktopError: the answer is no tree, or an application does not answer.
  """
  deadline = time.monotonic() + _ANSWER_SECONDS
  for count in itertools.count(1):
    try:
      tree = elements.parse(client.accessibility(), size)
    except ValueError as error:
      raise client_lib.DesktopError(f'{client.address}: {error}') from error
    if tree.is_complete or tree.items and count >= _MAX_READS:
      return tree
    if time.monotonic() > deadline:
      raise client_lib.DesktopError(
          f'{client.address}: an application does not answer')
  raise AssertionError


def settle(look: Callable[[], elements.Tree], *, starts: bool, pause: float
           ) -> bool:
  """Looks until what was started is there, and stands still.

  Args:
    look: reads the screen.
    starts: something was started, so that a window has to appear.
    pause: seconds between two looks.

  Returns:
    False where no window appears; a screen that always moves is there, too.
  """
  deadline = time.monotonic() + _START_SECONDS
  before = None
  while True:
    tree = look()
    is_there = bool(tree.items) or not starts
    if is_there and tree == before:
      return True
    if time.monotonic() > deadline:
      return is_there
    before = tree
    time.sleep(pause)
