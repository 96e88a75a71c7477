"""Plays an episode that a run has kept again, or writes episodes as text.

  python experiments/replay.py --workdir=DIR --episode=ID [--gif=FILE]
  python experiments/replay.py --workdir=DIR --dump=FILE.jsonl [--episode=ID]

The ids are in the pages that view.py writes. The episode's actions are sent to
its environment, and it is told where that shows something else than it did;
--gif writes what is seen as a moving picture. --dump writes the steps of the
episode, or of all; step_jax/runs/dump.py says how and reads them.
"""

from collections.abc import Sequence
import contextlib
import io
import pathlib
import sys
from typing import Any, NamedTuple

if __name__ == '__main__':  # run as a script, from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
import jax
import ml_collections
import numpy as np
from PIL import Image
from PIL import ImageDraw

from experiments import checks
from experiments import setups
from experiments import worlds
from step_jax.runs import commands
from step_jax.runs import dump
from step_jax.runs import episodes as episodes_lib
from step_jax.runs import errors
from step_jax.runs import files

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


def replay(config: ml_collections.ConfigDict, workdir: pathlib.Path,
           episode: episodes_lib.Episodes, *, draw: bool = False) -> Replay:
  """Plays an episode again.

  Args:
    config: of the run.
    workdir: of the run.
    episode: one.
    draw: takes frames, with the actions on them.

  Raises:
    UserError: its task is not there any more, or nobody knows its seed, or the
      environment shows no pictures.
  """
  about, = episode.about
  world = worlds.make_world(config, 'all', workdir)
  if about['task'] not in world.tasks or about['seed'] is None:
    raise errors.UserError(
        f'expected an episode whose task and seed are known, got '
        f'{about["task"]!r} and {about["seed"]}')
  setup = setups.make_setup(config, worlds.make_world(config, workdir=workdir))
  make_env = worlds.with_pictures(config, world) if draw else world.make_env
  arrays = {name: x[0] for name, x in episode.arrays.items()}
  with world.open_services(), contextlib.closing(make_env()) as env:
    return _play(env, setup.codec, about, arrays,
                 world.tasks.index(about['task']), draw)


def _play(env: Any, codec: Any, about: dict[str, Any],
          arrays: dict[str, np.ndarray], task_id: int, draw: bool) -> Replay:
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
  if hasattr(env.unwrapped, 'show'):  # whose pictures are more than the screen
    return Image.fromarray(env.unwrapped.show(tokens))
  pixels = getattr(env, 'env', env).render()
  if pixels is None:
    raise errors.UserError(
        'expected an environment that shows pictures for --gif, got one that '
        'does not')
  frame = Image.fromarray(pixels).convert('RGB')
  pen = ImageDraw.Draw(frame)
  size = np.array(frame.size)
  if 'box' in action:
    corner, extent = np.split(np.array(action['box']), 2)
    pen.rectangle((*(corner * size), *((corner + extent) * size)),
                  outline='#d8281c', width=2)
  for name in ('point', 'end'):
    if name in action:
      x, y = np.array(action[name]) * size
      pen.ellipse((x - 6, y - 6, x + 6, y + 6), outline='#d8281c', width=2)
  return frame


def _write_gif(path: pathlib.Path, frames: Sequence[Image.Image]) -> None:
  picture = io.BytesIO()
  frames[0].save(picture, 'GIF', save_all=True, append_images=frames[1:],
                 duration=_FRAME, loop=0)
  files.replace(path, picture.getvalue())


def _show(workdir: pathlib.Path, name: str | None, gif: str | None,
          dump_path: str | None) -> None:
  config = checks.read_config(workdir / 'config.json')
  if dump_path is not None:
    number = dump.write(pathlib.Path(dump_path), find(workdir, name))
    print(f'{number} steps; {dump_path}')
    return
  if name is None:
    raise errors.UserError('expected --episode=ID, or --dump=FILE.jsonl')
  episode = find(workdir, name)[0]
  about, = episode.about
  if not about['steps']:
    raise errors.UserError(f'episode {name} was lost to {about["failure"]}')
  played = replay(config, workdir, episode, draw=gif is not None)
  if gif is not None:
    _write_gif(pathlib.Path(gif), played.frames)
  came = 'the same'
  if played.diverged:
    came = f'it diverges: {played.diverged}'
  print(f'{name}, {about["task"]}: {came}, reward {played.reward:g}'
        f'{"; " + gif if gif else ""}')


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  flags.DEFINE_string('workdir', None, 'folder of the run', required=True)
  flags.DEFINE_string('episode', None, 'id of an episode')
  flags.DEFINE_string('gif', None, 'file of a moving picture')
  flags.DEFINE_string('dump', None, 'file of steps, a line each')

  def show():
    flags.FLAGS(argv)
    given = flags.FLAGS
    _show(pathlib.Path(given.workdir), given.episode, given.gif, given.dump)

  return commands.exit_code(show)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
