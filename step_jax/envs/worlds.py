"""Worlds by the name of an environment: its class, its tasks, its pictures.

A name is one of ALIASES or 'package.module:Class', of a `gymnasium.Env` that
yields what a policy reads and takes `tasks`, `max_steps` and arguments of its
own. Its module lists TRAIN_TASKS and HELD_OUT_TASKS, or finds task files with
`find_tasks(tasks, split)`. It may say with `examine_tasks` which of them cannot
be played, keep with `open_services` what all environments share, both as of the
arguments, and have `example`, which takes the same arguments, if its
observations have other sizes, `check_requirements` and `make_simulator`. Where
a seed draws nothing, the class says `draws_episodes = False`. A vision-language
policy drives it by `picture_env.PictureEnv`, which says what else it has to
have.
"""

import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import functools
import importlib
import inspect
import pathlib
import sys
from typing import Any, ContextManager, NamedTuple

import gymnasium

from step_jax.envs import base
from step_jax.envs import picture_env
from step_jax.rollout import carrying
from step_jax.rollout import pictures as pictures_lib
from step_jax.rollout import simulation

ALIASES = {
    'androidworld': 'step_jax.envs.androidworld.env:AndroidWorldEnv',
    'desk': 'step_jax.envs.desk.env:DeskEnv',
    'miniwob': 'step_jax.envs.miniwob.env:MiniWobEnv',
    'osworld': 'step_jax.envs.osworld.env:OSWorldEnv',
}


class WorldError(ValueError):
  """A world that cannot be made as it is asked for; one sentence says why."""


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
    name: str,
    *,
    max_steps: int,
    tasks: Sequence[str] = (),
    split: str = 'train',
    arguments: Mapping[str, Any] | None = None,
    skip_unsupported: bool = False,
    pictures: Mapping[str, Any] | None = None,
) -> World:
  """Returns the world of a name; see the module for what has one.

  Args:
    name: of an environment.
    max_steps: T, of an episode.
    tasks: names or task files; none are the training set.
    split: 'train' (`tasks`), 'held_out' (what else the environment has) or
      'all'.
    arguments: of the class, besides.
    skip_unsupported: leaves out task files that cannot be played, if there are
      others.
    pictures: for a vision-language policy, `folder` and what else `PictureEnv`
      takes; its `platform` is the class's.

  Raises:
    WorldError: for an unknown environment, programs that are missing, or task
      files that cannot be played.
  """
  env_class = load_attribute(ALIASES.get(name, name))
  module, options = sys.modules[env_class.__module__], dict(arguments or {})
  found = names = _find_tasks(module, tuple(tasks), split)
  if not found:
    raise WorldError(f'{name} has no tasks in split {split}')
  domains: tuple[str, ...] = ()
  skipped, notes = _examine(module, found, options, skip_unsupported)
  if hasattr(module, 'find_tasks'):  # they are files
    found = tuple(task for task in found if task not in skipped)
    domains, names = _domains_and_names(found)
  if len(set(names)) < len(names):
    raise WorldError('expected every task once in env.tasks')
  if hasattr(module, 'check_requirements'):
    with _telling(base.MissingProgramError):
      module.check_requirements()
  make_env = functools.partial(
      env_class, tasks=found, max_steps=max_steps, **options)
  draws = getattr(env_class, 'draws_episodes', True)
  world = World(names, make_env, None, None, draws, domains, skipped, notes)
  if hasattr(module, 'open_services'):
    world = world._replace(open_services=functools.partial(
        module.open_services, **options))
  if pictures is not None:
    return world._replace(make_env=_show_pictures(name, make_env, pictures),
                          example=picture_env.example())
  example = getattr(module, 'example', base.example)(**options)
  make_simulator = getattr(module, 'make_simulator', None)
  with _telling(ValueError):
    simulator = make_simulator and make_simulator(found, max_steps)
  return world._replace(example=example, simulator=simulator)


def load_attribute(path: str) -> Any:
  """Imports 'package.module:name'.

  Raises:
    WorldError: if there is no such thing.
  """
  module_name, _, name = path.partition(':')
  try:
    return getattr(importlib.import_module(module_name), name)
  except (ImportError, AttributeError, ValueError) as error:
    missing = getattr(error, 'name', None) or module_name.partition('.')[0]
    if isinstance(error, ModuleNotFoundError) and not (
        f'{module_name}.'.startswith(f'{missing}.')):
      raise WorldError(
          f'{path} needs the Python package {missing}, which is not installed; '
          "try pip install -e '.[androidworld,miniwob,osworld]'") from error
    raise WorldError(
        "expected env.name to be 'androidworld', 'desk', 'miniwob', "
        "'osworld' or "
        f"'package.module:EnvClass', got {path!r} ({error})") from error


def with_pictures(name: str, make_env: Callable[..., gymnasium.Env]
                  ) -> Callable[[], gymnasium.Env]:
  """`make_env` of a world, with a `render` that returns pictures.

  Args:
    name: of the environment.
    make_env: of a world without `pictures`, which has one anyway.

  Raises:
    WorldError: if its class cannot be asked for them.
  """
  options = {'render_mode': 'rgb_array'}
  try:
    inspect.signature(make_env).bind(**options)
  except TypeError as error:
    raise WorldError(
        f'expected an environment that can be watched, got {name}, '
        'whose class takes no render_mode') from error
  return functools.partial(make_env, **options)


def picture_field(world: World) -> str | None:
  """The argument of `make_env` that is a folder of pictures, if it has one."""
  if 'screenshot' not in (world.example or {}):
    return None
  drive: Any = world.make_env
  return 'folder' if 'folder' in drive.keywords else 'screenshots'


def carry_pictures(world: World) -> tuple[
    Callable[[], gymnasium.Env], pictures_lib.ScreenshotStore | None]:
  """`make_env` for another machine, and the store of what comes from there."""
  drive: Any = world.make_env
  field = picture_field(world)
  if field is None:
    return drive, None
  capacity = {name: value for name, value in drive.keywords.items()
              if name == 'capacity'}
  return functools.partial(carrying.CarriedPictures, drive, field), (
      pictures_lib.ScreenshotStore(drive.keywords[field], **capacity))


@contextlib.contextmanager
def _telling(*kinds: type[Exception]) -> Iterator[None]:
  """What these errors say is why there is no such world."""
  try:
    yield
  except kinds as error:
    raise WorldError(str(error)) from error


def _find_tasks(
    module: Any, given: tuple[str, ...], split: str) -> tuple[str, ...]:
  if hasattr(module, 'find_tasks'):
    with _telling(ValueError):
      return module.find_tasks(given, split)
  train = given or tuple(module.TRAIN_TASKS)
  held_out = tuple(
      name for name in (*module.TRAIN_TASKS, *module.HELD_OUT_TASKS)
      if name not in train)
  return {'train': train, 'held_out': held_out, 'all': train + held_out}[split]


def _examine(
    module: Any, tasks: tuple[str, ...], arguments: dict[str, Any],
    skip_unsupported: bool) -> tuple[Mapping[str, str], tuple[str, ...]]:
  """What cannot be played and is left out, and what to tell."""
  if not hasattr(module, 'examine_tasks'):
    return {}, ()
  with _telling(ValueError, base.MissingProgramError):
    wrong, notes = module.examine_tasks(tasks, **arguments)
  if not wrong:
    return {}, tuple(notes)
  sentence = module.summarise(wrong, len(tasks))
  if not skip_unsupported or len(wrong) == len(tasks):
    raise WorldError(
        f'{sentence}; --config.env.skip_unsupported=True goes on with the '
        f'other {len(tasks) - len(wrong)}')
  return wrong, (f'left out: {sentence}', *notes)


def _domains_and_names(
    tasks: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Of task files; a name has its domain where two have it."""
  paths = [pathlib.Path(task) for task in tasks]
  counts = collections.Counter(path.stem for path in paths)
  return (tuple(path.parent.name for path in paths),
          tuple(path.stem if counts[path.stem] == 1 else
                f'{path.parent.name}/{path.stem}' for path in paths))


def _show_pictures(
    name: str, make_env: functools.partial, options: Mapping[str, Any]
) -> functools.partial:
  """The environments of `make_env`, as a vision-language model drives them."""
  if not hasattr(make_env.func, 'expand'):
    raise WorldError(
        "expected env.name of an environment with pictures and real clicks, "
        f"such as 'miniwob', 'osworld' or 'androidworld', for policy.name "
        f"'qwen_vl', got {name!r}")
  return functools.partial(
      picture_env.PictureEnv,
      make_env=functools.partial(make_env, render_mode='rgb_array'),
      platform=getattr(make_env.func, 'platform', 'desktop'), **options)
