"""The environments that configs name."""

import collections
from collections.abc import Callable, Mapping
import contextlib
import functools
import inspect
import pathlib
import sys
from typing import Any, ContextManager, NamedTuple

import gymnasium
import ml_collections

from experiments import checks
from step_jax.envs import base
from step_jax.envs import picture_env
from step_jax.policies.qwen_vl import versions
from step_jax.rollout import carrying
from step_jax.rollout import pictures
from step_jax.rollout import ray_processes
from step_jax.rollout import simulation
from step_jax.rollout import workers
from step_jax.runs import errors
from step_jax.runs import metrics

_ALIASES = {
    'androidworld': 'step_jax.envs.androidworld.env:AndroidWorldEnv',
    'desk': 'step_jax.envs.desk.env:DeskEnv',
    'miniwob': 'step_jax.envs.miniwob.env:MiniWobEnv',
    'osworld': 'step_jax.envs.osworld.env:OSWorldEnv',
}


class World(NamedTuple):
  """An environment as a run sees it."""
  tasks: tuple[str, ...]  # N names; a task id is an index
  make_env: Callable[[], gymnasium.Env]  # picklable
  example: Any  # an observation without history, for shapes
  simulator: simulation.Simulator | None  # the same as pure functions
  draws: bool  # whether a seed draws an instance of a task
  domains: tuple[str, ...] = ()  # of the tasks, where they are files
  skipped: Mapping[str, str] = {}  # task files that are left out, and why
  notes: tuple[str, ...] = ()  # what to tell at the start of a run
  # What all environments share and somebody has to keep open.
  open_services: Callable[[], ContextManager[None]] = contextlib.nullcontext


def make_world(
    config: ml_collections.ConfigDict, split: str = 'train',
    workdir: pathlib.Path = pathlib.Path()) -> World:
  """Returns the world of a config.

  `env.name` names a `gymnasium.Env` that yields what a policy reads and takes
  `tasks`, `max_steps` and what `env.arguments` holds; its module lists
  TRAIN_TASKS and HELD_OUT_TASKS, or finds task files with
  `find_tasks(env.tasks, split)`. It may say with `examine_tasks` which of them
  cannot be played, keep with `open_services` what all environments share, both
  as of the arguments, and have `example`, which takes the same
  arguments, if its observations have other sizes, `check_requirements` and
  `make_simulator`. Where a seed draws nothing, the class says
  `draws_episodes = False`. A vision-language policy drives it by
  `picture_env.PictureEnv`, which says what else it has to have.

  Args:
    config: the run's config.
    split: 'train' (`env.tasks`, or the training set), 'held_out' (what else the
      environment has) or 'all'.
    workdir: of the run; pictures lie in a folder of it.

  Raises:
    UserError: for an unknown environment, programs that are missing, or task
      files that cannot be played and that `env.skip_unsupported` keeps.
  """
  env_class = checks.load_attribute(
      _ALIASES.get(config.env.name, config.env.name))
  module = sys.modules[env_class.__module__]
  arguments = config.env.arguments.to_dict()
  tasks = names = _find_tasks(module, tuple(config.env.tasks), split)
  if not tasks:
    raise errors.UserError(f'{config.env.name} has no tasks in split {split}')
  domains: tuple[str, ...] = ()
  skipped, notes = _examine(module, tasks, config, arguments)
  if hasattr(module, 'find_tasks'):  # they are files
    tasks = tuple(task for task in tasks if task not in skipped)
    domains, names = _domains_and_names(tasks)
  if len(set(names)) < len(names):
    raise errors.UserError('expected every task once in env.tasks')
  if hasattr(module, 'check_requirements'):
    try:
      module.check_requirements()
    except base.MissingProgramError as error:
      raise errors.UserError(str(error)) from error
  make_env = functools.partial(
      env_class, tasks=tasks, max_steps=config.max_steps, **arguments)
  draws = getattr(env_class, 'draws_episodes', True)
  world = World(names, make_env, None, None, draws, domains, skipped, notes)
  if hasattr(module, 'open_services'):
    world = world._replace(open_services=functools.partial(
        module.open_services, **arguments))
  if config.policy.name == 'qwen_vl':
    return world._replace(
        make_env=_show_pictures(config, make_env, len(names), workdir),
        example=picture_env.example())
  example = getattr(module, 'example', base.example)(**arguments)
  make_simulator = getattr(module, 'make_simulator', None)
  try:
    simulator = make_simulator and make_simulator(tasks, config.max_steps)
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  return world._replace(example=example, simulator=simulator)


def with_pictures(config: ml_collections.ConfigDict, world: World
                  ) -> Callable[[], gymnasium.Env]:
  """`make_env` of a world, with a `render` that returns pictures.

  Raises:
    UserError: if its class cannot be asked for them.
  """
  if config.policy.name == 'qwen_vl':  # whose environments are pictures anyway
    return world.make_env
  options = {'render_mode': 'rgb_array'}
  try:
    inspect.signature(world.make_env).bind(**options)
  except TypeError as error:
    raise errors.UserError(
        f'expected an environment that can be watched, got {config.env.name}, '
        'whose class takes no render_mode') from error
  return functools.partial(world.make_env, **options)


def _examine(
    module: Any, tasks: tuple[str, ...], config: ml_collections.ConfigDict,
    arguments: dict[str, Any]) -> tuple[Mapping[str, str], tuple[str, ...]]:
  """What cannot be played and is left out, and what to tell."""
  if not hasattr(module, 'examine_tasks'):
    return {}, ()
  try:
    wrong, notes = module.examine_tasks(tasks, **arguments)
  except (ValueError, base.MissingProgramError) as error:
    raise errors.UserError(str(error)) from error
  if not wrong:
    return {}, tuple(notes)
  sentence = module.summarise(wrong, len(tasks))
  if not config.env.skip_unsupported or len(wrong) == len(tasks):
    raise errors.UserError(
        f'{sentence}; --config.env.skip_unsupported=True goes on with the '
        f'other {len(tasks) - len(wrong)}')
  return wrong, (f'left out: {sentence}', *notes)


def _show_pictures(
    config: ml_collections.ConfigDict,
    make_env: functools.partial,
    num_tasks: int,
    workdir: pathlib.Path,
) -> functools.partial:
  """The environments of `make_env`, as a vision-language model drives them."""
  if not hasattr(make_env.func, 'expand'):
    raise errors.UserError(
        "expected env.name of an environment with pictures and real clicks, "
        f"such as 'miniwob', 'osworld' or 'androidworld', for policy.name "
        f"'qwen_vl', got {config.env.name!r}")
  episodes = max(config.num_base_tasks * config.group_size,
                 num_tasks * config.warm_start.demonstrations)
  settings = choose_settings(config)
  options = {name: getattr(settings, name) for name in (
      'convention', 'min_pixels', 'max_pixels')}
  return functools.partial(
      picture_env.PictureEnv,
      make_env=functools.partial(make_env, render_mode='rgb_array'),
      folder=str(workdir / 'screenshots'),
      platform=getattr(make_env.func, 'platform', 'desktop'),
      # Twice what is used together, as lost episodes leave pictures, too.
      capacity=2 * episodes * config.max_steps, **options)


def choose_settings(
    config: ml_collections.ConfigDict) -> versions.Settings:
  """What the model of a vision-language config reads and writes."""
  options = config.policy
  return versions.settings(
      options.version,
      pathlib.Path(options.checkpoint) if options.checkpoint else None,
      {name: options[name] for name in (
          'convention', 'min_pixels', 'max_pixels', 'prompt_length',
          'response_length')},
      prompt=options.prompt,
      screen_size=tuple(options.screen_size))


def _find_tasks(
    module: Any, given: tuple[str, ...], split: str) -> tuple[str, ...]:
  if hasattr(module, 'find_tasks'):
    try:
      return module.find_tasks(given, split)
    except ValueError as error:
      raise errors.UserError(str(error)) from error
  train = given or tuple(module.TRAIN_TASKS)
  held_out = tuple(
      name for name in (*module.TRAIN_TASKS, *module.HELD_OUT_TASKS)
      if name not in train)
  return {'train': train, 'held_out': held_out, 'all': train + held_out}[split]


def _domains_and_names(
    tasks: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Of task files; a name has its domain where two have it."""
  paths = [pathlib.Path(task) for task in tasks]
  counts = collections.Counter(path.stem for path in paths)
  return (tuple(path.parent.name for path in paths),
          tuple(path.stem if counts[path.stem] == 1 else
                f'{path.parent.name}/{path.stem}' for path in paths))


def tell_tasks(
    world: World, path: pathlib.Path, say: Callable[[str], None]) -> None:
  """Says what there is to know of the tasks; lists what is left out."""
  for note in world.notes:
    say(note)
  if world.skipped:
    metrics.write_json(path, dict(world.skipped))


def make_pool(
    world: World, config: ml_collections.ConfigDict) -> workers.WorkerPool:
  """Starts the environments of a world.

  Raises:
    UserError: there is no such Ray cluster, or it is too small.
  """
  make_env, options = world.make_env, dict[str, Any]()
  if config.env.backend == 'ray':
    make_env, store = _carry_pictures(world)
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


def picture_field(world: World) -> str | None:
  """The argument of `make_env` that is a folder of pictures, if it has one."""
  if 'screenshot' not in (world.example or {}):
    return None
  drive: Any = world.make_env
  return 'folder' if 'folder' in drive.keywords else 'screenshots'


def _carry_pictures(world: World) -> tuple[
    Callable[[], gymnasium.Env], pictures.ScreenshotStore | None]:
  """`make_env` for another machine, and the store of what comes from there."""
  drive: Any = world.make_env
  field = picture_field(world)
  if field is None:
    return drive, None
  capacity = {name: value for name, value in drive.keywords.items()
              if name == 'capacity'}
  return functools.partial(carrying.CarriedPictures, drive, field), (
      pictures.ScreenshotStore(drive.keywords[field], **capacity))
