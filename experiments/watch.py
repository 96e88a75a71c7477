"""Plays one episode with a run's newest checkpoint, as a moving picture.

  python experiments/watch.py --workdir=DIR [--task=NAME] [--seed=n]

Writes DIR/report/<task>.gif, a frame for each screen. The task can be any that
the environment has, by default the first training task; a seed draws an
instance, without one it is the one that training plays.
"""

from collections.abc import Sequence
import contextlib
import pathlib
import sys

if __name__ == '__main__':  # run as a script, from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
import jax
import ml_collections

from experiments import checks
from experiments import saved
from experiments import setups
from experiments import worlds
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import episodes
from step_jax.rollout.actors import local
from step_jax.runs import commands
from step_jax.runs import errors
from step_jax.runs import files
from step_jax.runs import playing


def watch(config: ml_collections.ConfigDict, workdir: pathlib.Path,
          task: str | None, seed: int | None) -> str:
  """Plays an episode at the evaluation temperature and writes its frames.

  Args:
    config: of the run.
    workdir: of the run.
    task: a name; None is the first training task.
    seed: of the instance; None is the one of `env.episodes='fixed'`.

  Returns:
    What happened, in a line.

  Raises:
    UserError: there is no such task, or no checkpoint yet, or the environment
      shows no pictures.
    WriteError: the picture cannot be written.
  """
  world = worlds.make_world(config, 'all', workdir)  # training tasks come first
  task = task or world.tasks[0]
  if task not in world.tasks:
    raise errors.UserError(
        f'expected --task to be one of {", ".join(world.tasks[:3])}, ..., got '
        f'{task!r}')
  setup = setups.make_setup(config, worlds.make_world(config, workdir=workdir))
  act = local.policy_actor(
      setup.policy, collect_lib.Player(
          saved.newest_params(setup, workdir), jax.random.key(config.seed),
          config.eval_temperature), batch_size=1)
  with contextlib.closing(worlds.with_pictures(config, world)()) as env:
    frames, reward = playing.play(
        env, setup.codec, act, task_id=world.tasks.index(task),
        seed=episodes.fixed_seed(task) if seed is None else seed)
  path = workdir / 'report' / f'{task}.gif'
  with files.writing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
  playing.write_gif(path, frames)
  return (f'{task}: {"success" if reward > 0 else "failure"} after '
          f'{len(frames)} steps; {path}')


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  flags.DEFINE_string('task', None, 'name of a task')
  flags.DEFINE_integer('seed', None, 'of the instance', lower_bound=0)

  def show(workdir):
    config = checks.read_config(workdir / 'config.json')
    return watch(config, workdir, flags.FLAGS.task, flags.FLAGS.seed)

  return commands.of_run(argv, show)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
