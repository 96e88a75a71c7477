"""Pictures that travel with an observation from another machine.

There an environment writes them to a folder of its own, here they are put into
the run's store; so a number stands for a picture of the store of whoever reads
it.
"""

from collections.abc import Callable
import pathlib
import tempfile
from typing import Any

import gymnasium
import numpy as np

from step_jax.rollout import pictures

_NUMBER = 'screenshot'  # in an observation
_CARRIED = 'carried_picture'  # in an info, under way only


class CarriedPictures(gymnasium.Wrapper):
  """An environment whose pictures travel with its observations.

  Args:
    make_env: makes it; an observation's 'screenshot' is the number of a picture
      in the store in `folder`, or -1.
    folder: the argument of `make_env` for that; it gets a temporary one.
  """

  def __init__(self, make_env: Callable[..., gymnasium.Env], folder: str):
    self._folder = pathlib.Path(tempfile.mkdtemp())  # The worker's: it goes.
    super().__init__(make_env(**{folder: str(self._folder)}))
    self._store = pictures.ScreenshotStore(self._folder)

  def reset(self, *, seed: int | None = None,
            options: dict[str, Any] | None = None
            ) -> tuple[Any, dict[str, Any]]:
    observation, info = self.env.reset(seed=seed, options=options)
    return observation, self._carry(observation, info)

  def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
    observation, reward, terminated, truncated, info = self.env.step(action)
    if not (terminated or truncated):  # Else nobody looks at it.
      info = self._carry(observation, info)
    return observation, reward, terminated, truncated, info

  def _carry(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
    if info.get('failure') or observation[_NUMBER] < 0:
      return info
    number = int(observation[_NUMBER])
    for path in self._folder.glob('*.*'):
      if path.stem.isdecimal() and int(path.stem) < number:
        path.unlink()  # It has arrived.
    return {**info, _CARRIED: self._store.read(number)}


def put_down(
    message: tuple[Any, ...], store: pictures.ScreenshotStore | None
) -> tuple[Any, ...]:
  """A worker's message, with a picture that came with it in `store`."""
  if store is None or message[0] != 'result' or _CARRIED not in message[-1]:
    return message
  kind, observation, reward, done, info = message
  info = dict(info)
  number = np.array(store.put(info.pop(_CARRIED)), np.int32)
  return kind, {**observation, _NUMBER: number}, reward, done, info
