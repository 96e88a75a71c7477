"""Plays one episode for people: a kept one again, or a policy's; its frames."""

from collections.abc import Sequence
import io
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from step_jax.policies import base
from step_jax.rollout.actors import base as actors
from step_jax.runs import episodes as episodes_lib
from step_jax.runs import errors
from step_jax.runs import files
from step_jax.runs import sheets

_FRAME = 700  # milliseconds


class Replay(NamedTuple):
  """What came of an episode that was played again."""
  diverged: str  # where it was another one, and in what; '' if nowhere
  reward: float
  frames: list[Image.Image]  # if they were asked for


def find(workdir: pathlib.Path, name: str | None) -> list[Any]:
  """The kept episodes of a name, or all.

  Raises:
    UserError: there is none.
  """
  parts = episodes_lib.load_all(workdir / 'episodes')
  if name is not None:
    parts = [part.take([place]) for part in parts
             for place, about in enumerate(part.about) if about['id'] == name]
  if not parts:
    raise errors.UserError(
        f'expected --episode to be the id of an episode in '
        f'{workdir / "episodes"}, as view.py lists them, got {name}')
  return parts


def replay(env: Any, codec: base.Codec, episode: episodes_lib.Episodes, *,
           task_id: int, draw: bool = False) -> Replay:
  """Plays an episode again.

  Args:
    env: a `gymnasium.Env` as it was played in; with `draw`, one that renders.
    codec: of the policy that played it.
    episode: one, whose seed is known; described, if it is drawn.
    task_id: of its task in `env`.
    draw: takes frames, with the actions on them.

  Raises:
    UserError: the environment shows no pictures.
  """
  about, = episode.about
  arrays = {name: x[0] for name, x in episode.arrays.items()}
  observation, info = env.reset(
      seed=about['seed'], options={'task_id': task_id})
  history, diverged, reward = codec.empty_history, '', 0.
  frames: list[Image.Image] = []
  for step in range(about['steps']):
    row = codec.observe(observation, info, history)
    then = episodes_lib.observation(arrays, step)
    differs = _difference(codec.state(then), codec.state(row))
    if differs and not diverged:
      diverged = f'step {step + 1} shows another {differs}'
    tokens = arrays['actions'][step]
    if draw:
      frames.append(_frame(env, about['actions'][step], tokens))
    history = codec.remember(history, row, tokens)
    observation, reward, *ends, info = env.step(codec.decode(row, tokens))
    is_last = step + 1 == about['steps']
    if any(ends) != is_last and not diverged:
      diverged = f'step {step + 1} {"is not" if is_last else "is"} the last'
    if any(ends):
      break
  if not diverged and reward != about['reward']:
    diverged = f'the reward is {reward:g}, it was {about["reward"]:g}'
  return Replay(diverged, float(reward), frames)


def _difference(then: Any, now: Any) -> str:
  """Names what differs, or ''."""
  leaves = zip(jax.tree_util.tree_leaves_with_path(then), jax.tree.leaves(now),
               strict=True)
  return ', '.join(
      jax.tree_util.keystr(path, simple=True) or 'state'
      for (path, one), other in leaves if not np.array_equal(one, other))


def _frame(env: Any, action: dict[str, Any], tokens: np.ndarray
           ) -> Image.Image:
  """What is seen, with an action on it."""
  if hasattr(env.unwrapped, 'show'):  # whose pictures are more than the screen
    return Image.fromarray(env.unwrapped.show(tokens))
  frame = _screen(env).convert('RGB')
  sheets.mark(frame, action, radius=6)
  return frame


def _screen(env: Any) -> Image.Image:
  pixels = getattr(env, 'env', env).render()
  if pixels is None:
    raise errors.UserError(
        'expected an environment that shows pictures for a GIF, got one that '
        'does not')
  return Image.fromarray(pixels)


def play(env: Any, codec: base.Codec, act: actors.ActFn, *,
         task_id: int, seed: int) -> tuple[list[Image.Image], float]:
  """Plays an episode.

  Args:
    env: a `gymnasium.Env` that renders.
    codec: of the policy.
    act: chooses actions, such as `local.policy_actor`.
    task_id: of the task in `env`.
    seed: of the instance.

  Returns:
    The screens, each before its action, and the reward.

  Raises:
    UserError: the environment shows no pictures.
  """
  frames: list[Image.Image] = []
  observation, info = env.reset(seed=seed, options={'task_id': task_id})
  history, done = codec.empty_history, False
  while not done:
    row = codec.observe(observation, info, history)
    sample = act(actors.Rows(
        np.zeros(1, np.int32), np.full(1, len(frames), np.int32),
        jax.tree.map(lambda x: np.asarray(x)[None], row), [info]))
    frames.append(_screen(env))
    tokens = sample.tokens[0]
    history = codec.remember(history, row, tokens)
    observation, reward, *ends, info = env.step(codec.decode(row, tokens))
    done = any(ends)
  return frames, float(reward)


def write_gif(path: pathlib.Path, frames: Sequence[Image.Image]) -> None:
  """Writes frames as a moving picture.

  Raises:
    WriteError: it cannot be written.
  """
  picture = io.BytesIO()
  frames[0].save(picture, 'GIF', save_all=True, append_images=frames[1:],
                 duration=_FRAME, loop=0)
  files.replace(path, picture.getvalue())
