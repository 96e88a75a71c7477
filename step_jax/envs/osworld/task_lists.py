"""Where task files are: folders of them, and lists of ids as OSWorld has them.

A list lies beside OSWorld's folder `examples`, whose folders are the domains:

  evaluation_examples/test_all.json        {"os": ["<id>", ...], ...}
  evaluation_examples/mine.txt             a line each: <id> or <domain>/<id>
  evaluation_examples/examples/os/<id>.json

In a text, lines that are empty or begin with '#' count for nothing. OSWorld's
older lists have ids that stand in two domains for two tasks.
"""

import collections
from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

from step_jax.envs.osworld import checks

SOLUTION = '.solution.json'


def find(tasks: str | os.PathLike | Sequence[str | os.PathLike]
         ) -> tuple[pathlib.Path, ...]:
  """Returns task files.

  Args:
    tasks: a task file, a list of ids, or a folder of task files or of folders
      of them; or any number of task files, which are returned as they are.

  Returns:
    The files: of a list in its order, of a folder by name.

  Raises:
    TaskError: for a folder without task files, or ids without one file.
  """
  if not isinstance(tasks, (str, os.PathLike)):
    return tuple(pathlib.Path(path) for path in tasks)
  path = pathlib.Path(tasks)
  if path.is_file():
    return _listed(path) or (path,)
  found = _in_folder(path) or [
      file for folder in sorted(path.glob('*/')) for file in _in_folder(folder)]
  if not found:
    raise checks.TaskError(
        f'{path}: expected a folder with task files, <id>.json, got none')
  return tuple(found)


def find_split(given: Sequence[str], split: str) -> tuple[str, ...]:
  """Returns the task files of a split.

  Args:
    given: task files, lists of ids, folders of task files, or folders that hold
      such folders, `train` and `held_out`. What is given directly is for
      training.
    split: 'train', 'held_out' or 'all'.

  Returns:
    The files, in the order given, those of a folder by name.

  Raises:
    TaskError: there are none where some should be.
  """
  if not given:
    raise checks.TaskError(
        'expected env.tasks to name task files, their folder or a list of '
        "their ids, such as ('evaluation_examples/test_all.json',), got none")
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


def read(path: pathlib.Path) -> Any:
  """Returns the JSON of a file; `"shell": "true"` is true, as upstream has it.

  Raises:
    TaskError: when it cannot be read.
  """
  try:
    return json.loads(path.read_text('utf-8'), object_hook=_tolerate)
  except (OSError, ValueError, RecursionError) as error:
    raise checks.TaskError(f'{path}: expected JSON, got {error}') from error


def _tolerate(value: dict[str, Any]) -> dict[str, Any]:
  return {**value, 'shell': True} if value.get('shell') == 'true' else value


def _in_folder(folder: pathlib.Path) -> list[pathlib.Path]:
  return sorted(path for path in folder.glob('*.json')
                if not path.name.endswith(SOLUTION))


def _listed(path: pathlib.Path) -> tuple[pathlib.Path, ...]:
  """The task files that a list names; none if it is a task file itself."""
  names = _names(path)
  folder = path.parent / 'examples'
  if names and not folder.is_dir():
    raise checks.TaskError(
        f'{path}: expected the folder {folder} beside a list of ids, got none')
  files = collections.defaultdict(list)
  for file in folder.glob('*/*.json') if names else ():
    for key in (file.stem, f'{file.parent.name}/{file.stem}'):
      files[key].append(file)
  for name in names:
    if len(files[name]) != 1:
      raise checks.TaskError(
          f'{path}: expected ids of task files in {folder}, with the domain '
          f'where two have it, got {name!r}')
  return tuple(files[name][0] for name in names)


def _names(path: pathlib.Path) -> list[str]:
  if path.suffix == '.txt':
    lines = map(str.strip, path.read_text('utf-8').splitlines())
    names = [line for line in lines if line and not line.startswith('#')]
    if not names:
      raise checks.TaskError(f'{path}: expected ids, a line each, got none')
    return names
  value = read(path)
  if not isinstance(value, dict) or not value or not all(
      isinstance(ids, list) and all(isinstance(x, str) for x in ids)
      for ids in value.values()):
    return []
  return [f'{domain}/{task_id}' for domain, ids in value.items()
          for task_id in ids]
