"""The environments that configs name."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import pathlib
from typing import Any

import gymnasium
import ml_collections

from experiments import policies
from step_jax.envs import worlds
from step_jax.rollout import ray_processes
from step_jax.rollout import workers
from step_jax.runs import errors
from step_jax.runs import metrics


@contextlib.contextmanager
def _telling() -> Iterator[None]:
  """A world that cannot be made is a mistake in the config."""
  try:
    yield
  except worlds.WorldError as error:
    raise errors.UserError(str(error)) from error


@_telling()
def make_world(
    config: ml_collections.ConfigDict, split: str = 'train',
    workdir: pathlib.Path = pathlib.Path()) -> worlds.World:
  """Returns the world of a config, by its fields `env`.

  Args:
    config: the run's config.
    split: 'train' (`env.tasks`, or the training set), 'held_out' (what else the
      environment has) or 'all'.
    workdir: of the run; pictures lie in a folder of it.

  Raises:
    UserError: for an unknown environment, programs that are missing, or task
      files that cannot be played and that `env.skip_unsupported` keeps.
  """
  make: Callable[..., worlds.World] = functools.partial(
      worlds.make_world, config.env.name, max_steps=config.max_steps,
      tasks=tuple(config.env.tasks), split=split,
      arguments=config.env.arguments.to_dict(),
      skip_unsupported=config.env.skip_unsupported)
  if config.policy.name != 'qwen_vl':
    return make()
  settings = policies.choose_settings(config)
  world = make(pictures={'folder': str(workdir / 'screenshots')} | {
      name: getattr(settings, name) for name in (
          'convention', 'min_pixels', 'max_pixels')})
  episodes = max(config.num_base_tasks * config.group_size,
                 len(world.tasks) * config.warm_start.demonstrations)
  drive: Any = world.make_env
  # Twice what is used together, as lost episodes leave pictures, too.
  return world._replace(make_env=functools.partial(
      drive, capacity=2 * episodes * config.max_steps))


@_telling()
def with_pictures(config: ml_collections.ConfigDict, world: worlds.World
                  ) -> Callable[[], gymnasium.Env]:
  """`make_env` of a world, with a `render` that returns pictures.

  Raises:
    UserError: if its class cannot be asked for them.
  """
  if config.policy.name == 'qwen_vl':  # whose environments are pictures anyway
    return world.make_env
  return worlds.with_pictures(config.env.name, world.make_env)


def tell_tasks(world: worlds.World, path: pathlib.Path,
               say: Callable[[str], None]) -> None:
  """Says what there is to know of the tasks; lists what is left out."""
  for note in world.notes:
    say(note)
  if world.skipped:
    metrics.write_json(path, dict(world.skipped))


def make_pool(
    world: worlds.World, config: ml_collections.ConfigDict
) -> workers.WorkerPool:
  """Starts the environments of a world.

  Raises:
    UserError: there is no such Ray cluster, or it is too small.
  """
  make_env, options = world.make_env, dict[str, Any]()
  if config.env.backend == 'ray':
    make_env, store = worlds.carry_pictures(world)
    options['backend'] = functools.partial(
        ray_processes.RayProcesses, num_workers=config.env.num_workers,
        address=config.env.ray_address, store=store)
  try:
    return workers.WorkerPool(
        make_env, num_workers=config.env.num_workers,
        step_timeout=config.env.step_timeout,
        start_timeout=config.env.start_timeout, **options)
  except ray_processes.ClusterError as error:
    raise errors.UserError(
        f'{error}; see env.ray_address and env.num_workers') from error
