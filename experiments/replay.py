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
import pathlib
import sys

if __name__ == '__main__':  # run as a script, from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
import ml_collections

from experiments import checks
from experiments import setups
from experiments import worlds
from step_jax.runs import commands
from step_jax.runs import dump
from step_jax.runs import episodes as episodes_lib
from step_jax.runs import errors
from step_jax.runs import playing


def replay(config: ml_collections.ConfigDict, workdir: pathlib.Path,
           episode: episodes_lib.Episodes, *, draw: bool = False
           ) -> playing.Replay:
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
  with world.open_services(), contextlib.closing(make_env()) as env:
    return playing.replay(env, setup.codec, episode, draw=draw,
                          task_id=world.tasks.index(about['task']))


def _show(workdir: pathlib.Path, name: str | None, gif: str | None,
          dump_path: str | None) -> str:
  config = checks.read_config(workdir / 'config.json')
  if dump_path is not None:
    number = dump.write(pathlib.Path(dump_path), playing.find(workdir, name))
    return f'{number} steps; {dump_path}'
  if name is None:
    raise errors.UserError('expected --episode=ID, or --dump=FILE.jsonl')
  episode = playing.find(workdir, name)[0]
  about, = episode.about
  if not about['steps']:
    raise errors.UserError(f'episode {name} was lost to {about["failure"]}')
  played = replay(config, workdir, episode, draw=gif is not None)
  if gif is not None:
    playing.write_gif(pathlib.Path(gif), played.frames)
  came = 'the same'
  if played.diverged:
    came = f'it diverges: {played.diverged}'
  return (f'{name}, {about["task"]}: {came}, reward {played.reward:g}'
          f'{"; " + gif if gif else ""}')


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  flags.DEFINE_string('episode', None, 'id of an episode')
  flags.DEFINE_string('gif', None, 'file of a moving picture')
  flags.DEFINE_string('dump', None, 'file of steps, a line each')

  return commands.of_run(argv, lambda workdir: _show(
      workdir, flags.FLAGS.episode, flags.FLAGS.gif, flags.FLAGS.dump))


if __name__ == '__main__':
  sys.exit(main(sys.argv))
