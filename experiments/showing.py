"""What a run shows to people of its episodes, as its config says."""

from collections.abc import Callable
import functools
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from experiments import setups
from step_jax.envs import reading
from step_jax.envs import worlds
from step_jax.policies import grid
from step_jax.rollout import pictures
from step_jax.runs import episode_log
from step_jax.runs import episodes
from step_jax.runs import sheets

_MOST_SHEETS = 10  # that trackers get at an evaluation


def open_log(
    setup: setups.Setup, workdir: pathlib.Path, done: int
) -> episode_log.EpisodeLog:
  """The episodes of a run of which `done` rounds are done."""
  bounds = episode_log.Bounds(**setup.config.episodes)
  get_picture: Callable[[int], Image.Image] | None = None
  field = worlds.picture_field(setup.world)
  if field is not None and bounds.rounds:
    drive: Any = setup.world.make_env
    get_picture = pictures.reader(drive.keywords[field])
  return episode_log.EpisodeLog(
      workdir, done, setup.world.tasks, bounds, make_reader(setup), get_picture)


def draw_evaluation(kept: episode_log.EpisodeLog, workdir: pathlib.Path,
                    num_rounds: int) -> list[Image.Image]:
  """Some episodes of an evaluation, a picture each."""
  folder = workdir / 'episodes' / 'pictures'
  return [sheets.draw(episode, reading.screen, folder)
          for episode in kept.of_evaluation(num_rounds)[:_MOST_SHEETS]]


def make_reader(setup: setups.Setup) -> episodes.Reader:
  """What says of tokens what they do, and where."""
  config = setup.config
  if config.policy.name == 'element':
    return episodes.Reader(reading.element_action, reading.instruction_of)
  if config.policy.name == 'grid':
    cells = tuple(config.env.arguments.get('grid', grid.GRID))
    return episodes.Reader(
        functools.partial(reading.grid_action, cells=cells),
        reading.instruction_of)
  return episodes.Reader(
      functools.partial(_written_action, setup), lambda row: '')


def _written_action(setup: setups.Setup, row: Any, tokens: np.ndarray,
                    instruction: str) -> dict[str, Any]:
  del instruction
  drive: Any = setup.world.make_env
  return reading.written_action(
      setup.codec.decode(row, tokens), row['size'], **{
          name: drive.keywords[name] for name in (
              'convention', 'platform', 'min_pixels', 'max_pixels')})
