"""Task files in OSWorld's own format, checked when they are loaded.

  python -m step_jax.envs.osworld.tasks FOLDER

says what is wrong with the files of a folder, or how many are right. With
`--download` it also fetches what they name by URL into the cache, so that a
run needs no network. A task file is `<id>.json`; `<id>.solution.json`, if it
is there, is its scripted solution. Local files that a task names lie in its
folder or below.
"""

import argparse
from collections.abc import Iterator, Sequence
import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.osworld import checks
from step_jax.envs.osworld import client
from step_jax.envs.osworld import elements
from step_jax.envs.osworld import evaluators
from step_jax.envs.osworld import setup
from step_jax.envs.osworld import solutions

_SOLUTION = '.solution.json'
# What else OSWorld's files say; none of it changes how a task is played here.
_NOTES = ('snapshot', 'source', 'trajectory', 'related_apps', 'proxy',
          'fixed_ip', 'possibility_of_env_change', 'comment')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A checked task file."""
  path: pathlib.Path
  id: str
  instruction: str
  config: tuple[setup.Step, ...]
  evaluator: evaluators.Evaluator | None  # None: handed to desktop-env
  solution: solutions.Solution | None


def find(tasks: str | os.PathLike | Sequence[str | os.PathLike]
         ) -> tuple[pathlib.Path, ...]:
  """Returns the task files of a folder, by name, or the files as given.

  Raises:
    TaskError: for a folder without task files.
  """
  if not isinstance(tasks, (str, os.PathLike)):
    return tuple(pathlib.Path(path) for path in tasks)
  folder = pathlib.Path(tasks)
  if folder.is_file():
    return (folder,)
  found = sorted(path for path in folder.glob('*.json')
                 if not path.name.endswith(_SOLUTION))
  if not found:
    raise checks.TaskError(
        f'{folder}: expected a folder with task files, <id>.json, got none')
  return tuple(found)


def find_split(given: Sequence[str], split: str) -> tuple[str, ...]:
  """Returns the task files of a split.

  Args:
    given: task files, folders of them, or folders that hold such folders,
      `train` and `held_out`. What is given directly is for training.
    split: 'train', 'held_out' or 'all'.

  Returns:
    The files, in the order given, those of a folder by name.

  Raises:
    TaskError: there are none where some should be.
  """
  if not given:
    raise checks.TaskError(
        'expected env.tasks to name task files or their folder, such as '
        "('configs/tasks/desktop',), got none")
  splits = ('train', 'held_out') if split == 'all' else (split,)
  found: list[str] = []
  for name in splits:
    for path in map(pathlib.Path, given):
      inner = path / name
      if (path / 'train').is_dir():
        found += map(str, find(inner) if inner.is_dir() else ())
      elif name == 'train':
        found += map(str, find(path))
  return tuple(found)


def load(path: str | os.PathLike, *, evaluator: str = 'own') -> Task:
  """Reads and checks a task file and its solution.

  Args:
    path: of the file.
    evaluator: 'own', or 'desktop_env', which leaves getters and metrics to
      that package: they are not checked.

  Returns:
    The task.

  Raises:
    TaskError: naming file and field.
    MissingProgramError: for a package that its metrics need.
  """
  path = pathlib.Path(path)
  field = checks.Field(path)
  value = read(path)
  checks.check_fields(
      value, field, optional=dict.fromkeys(_NOTES, 'any'), required={
          'id': 'text', 'instruction': 'text', 'config': 'list',
          'evaluator': 'object'})
  _check_instruction(value['instruction'], field['instruction'])
  setup.check_steps(value['config'], field['config'])
  solution = path.with_suffix(_SOLUTION)
  return Task(
      path=path, id=value['id'], instruction=value['instruction'],
      config=tuple(value['config']),
      evaluator=None if evaluator == 'desktop_env' else evaluators.load(
          value['evaluator'], field['evaluator']),
      solution=solutions.load(solution, value['instruction'])
      if solution.is_file() else None)


def _check_instruction(instruction: str, field: checks.Field) -> None:
  words = elements.typed_words(instruction)
  try:
    for word in words:
      actions.Action(kind='type', text=word)
  except actions.ActionError:
    words = []
  if not words:
    raise field.error('words that can be typed', instruction)


def read(path: pathlib.Path) -> Any:
  """Returns the JSON of a file.

  Raises:
    TaskError: when it cannot be read.
  """
  try:
    return json.loads(path.read_text('utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    raise checks.TaskError(f'{path}: expected JSON, got {error}') from error


def load_all(
    tasks: str | os.PathLike | Sequence[str | os.PathLike], *,
    evaluator: str = 'own') -> tuple[Task, ...]:
  """Loads task files.

  Args:
    tasks: a folder of them, or the files.
    evaluator: see `load`.

  Returns:
    The tasks, in the order of `find`.

  Raises:
    TaskError: as of `load` and `find`, and where two have the same id.
    MissingProgramError: as of `load`.
  """
  loaded = tuple(load(path, evaluator=evaluator) for path in find(tasks))
  if not loaded:
    raise checks.TaskError('expected at least one task file, got none')
  ids = [task.id for task in loaded]
  for task in loaded:
    if ids.count(task.id) > 1:
      raise checks.TaskError(
          f'{task.path}: id: expected one of its own, got {task.id!r} twice')
  return loaded


def default_cache() -> pathlib.Path:
  """The folder of downloads: of the user, not of a run."""
  root = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(root) / 'step_jax' / 'osworld'


def urls(value: Any) -> Iterator[str]:
  """What a task file's JSON downloads from the web, at whatever depth."""
  if isinstance(value, dict):
    name = 'path' if value.get('type') == 'cloud_file' else 'url'
    if str(value.get(name)).startswith(('http://', 'https://')):
      yield value[name]
    value = list(value.values())
  if isinstance(value, list):
    for inner in value:
      yield from urls(inner)


def main(argv: Sequence[str]) -> int:
  """Checks the task files of a folder; returns the exit code."""
  parser = argparse.ArgumentParser(prog='step_jax.envs.osworld.tasks')
  parser.add_argument('folder', nargs='+')
  parser.add_argument('--download', action='store_true')
  parser.add_argument('--evaluator', choices=('own', 'desktop_env'),
                      default='own')
  args = parser.parse_args(argv)
  try:
    loaded = [task for folder in args.folder
              for task in load_all(folder, evaluator=args.evaluator)]
    if args.download:
      for task in loaded:
        for url in urls(read(task.path)):
          client.download(url, default_cache())
  except (checks.TaskError, base.MissingProgramError,
          client.DesktopError) as error:
    print(error, file=sys.stderr)
    return 2
  solved = sum(task.solution is not None for task in loaded)
  print(f'{len(loaded)} tasks are right, {solved} have a solution')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
