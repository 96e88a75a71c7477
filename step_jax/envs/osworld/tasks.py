"""Task files in OSWorld's own format, checked when they are loaded.

  python -m step_jax.envs.osworld.tasks FOLDER

says what is wrong with the files of a folder, or how many are right. With
`--download` it also fetches what they name by URL into the cache, so that a
run needs no network; with `--evaluator=auto` it counts who evaluates them. A
task file is `<id>.json`; `<id>.solution.json`, if it is there, is its scripted
solution. Local files that a task names lie in its folder or below.
"""

import argparse
import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import os
import pathlib
import re
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
from step_jax.envs.osworld import task_lists
from step_jax.envs.osworld import upstream

# What else OSWorld's files say; none of it changes how a task is played here.
_NOTES = ('snapshot', 'source', 'trajectory', 'related_apps', 'proxy',
          'fixed_ip', 'possibility_of_env_change', 'comment', 'hint',
          'env_may_change')
_MAX_KINDS = 3  # of what is wrong, in a summary
_GOOGLE = "a Google account of somebody's"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """A checked task file."""
  path: pathlib.Path
  id: str
  instruction: str
  config: tuple[setup.Step, ...]
  # None: desktop-env prepares the task and evaluates it.
  evaluator: evaluators.Evaluator | None
  solution: solutions.Solution | None
  needs: str = ''  # what nobody has who only has machines; '': nothing
  proxy: bool = False  # it asks for one


def load(path: str | os.PathLike, *, evaluator: str = 'own',
         proxies: bool = False) -> Task:
  """Reads and checks a task file and its solution.

  Args:
    path: of the file.
    evaluator: 'own'; 'desktop_env', which leaves steps, getters and metrics to
      that package: only the kinds of the steps are checked; or 'auto', our own
      where every part of the task is covered, and the package for the others.
    proxies: whether there are some for the tasks that ask for one, which only
      the package can use.

  Returns:
    The task.

  Raises:
    TaskError: naming file and field.
    MissingProgramError: for a package that its metrics need.
  """
  path = pathlib.Path(path)
  field = checks.Field(path)
  value = task_lists.read(path)
  checks.check_fields(
      value, field, optional={**dict.fromkeys(_NOTES, 'any'), 'config': 'list'},
      required={'id': 'text', 'instruction': 'text', 'evaluator': 'object'})
  _check_instruction(value['instruction'], field['instruction'])
  config = value.get('config', [])
  own = None
  by_proxy = proxies and value.get('proxy') is True
  if by_proxy and evaluator == 'own':
    raise checks.TaskError(
        f"{path}: asks for a proxy: expected evaluator 'auto' or 'desktop_env' "
        "with desktop_env_python, as only OSWorld's package uses proxies, got "
        "'own'")
  if evaluator != 'desktop_env' and not by_proxy:
    try:
      setup.check_steps(config, field['config'])
      own = evaluators.load(value['evaluator'], field['evaluator'])
    except (checks.TaskError, base.MissingProgramError):
      if evaluator == 'own':
        raise
  if own is None:
    _check_theirs(value, field)
  solution = path.with_suffix(task_lists.SOLUTION)
  return Task(
      path=path, id=value['id'], instruction=value['instruction'],
      config=tuple(config), evaluator=own,
      solution=solutions.load(solution, value['instruction'])
      if solution.is_file() else None,
      needs=_GOOGLE if 'googledrive' in _types(value) else '',
      proxy=value.get('proxy') is True)


def _check_theirs(value: Mapping[str, Any], field: checks.Field) -> None:
  """Checks what can be known of a task without desktop-env."""
  setup.check_kinds(value.get('config', []), field['config'])
  judge, place = value['evaluator'], field['evaluator']
  if not judge.get('func'):
    raise place.error('a field func', judge)
  setup.check_kinds(judge.get('postconfig', []), place['postconfig'])


def _types(value: Any) -> set[str]:
  """The types of all steps and getters of a task file's JSON."""
  inner = value.values() if isinstance(value, dict) else (
      value if isinstance(value, list) else ())
  found = set().union(*map(_types, inner))
  kind = value.get('type') if isinstance(value, dict) else None
  return found | {kind.removesuffix('_file')} if isinstance(
      kind, str) else found


def _check_instruction(instruction: str, field: checks.Field) -> None:
  words = elements.typed_words(instruction)
  try:
    for word in words:
      actions.Action(kind='type', text=word)
  except actions.ActionError:
    words = []
  if not words:
    raise field.error('words that can be typed', instruction)


def load_all(
    tasks: str | os.PathLike | Sequence[str | os.PathLike], *,
    evaluator: str = 'own', proxies: bool = False) -> tuple[Task, ...]:
  """Loads task files.

  Args:
    tasks: see `task_lists.find`.
    evaluator, proxies: see `load`.

  Returns:
    The tasks, in the order of `task_lists.find`.

  Raises:
    TaskError: as of `load` and `find`, and where two of a folder have the same
      id, or one cannot be played; with a summary where several are wrong.
    MissingProgramError: as of `load`.
  """
  loaded, wrong = survey(
      task_lists.find(tasks), evaluator=evaluator, proxies=proxies)
  if wrong:
    raise checks.TaskError(summary(wrong, len(wrong) + len(loaded)))
  if not loaded:
    raise checks.TaskError('expected at least one task file, got none')
  ids = [(task.path.parent, task.id) for task in loaded]
  for task in loaded:
    if ids.count((task.path.parent, task.id)) > 1:
      raise checks.TaskError(
          f'{task.path}: id: expected one of its own, got {task.id!r} twice')
  return loaded


def survey(paths: Iterable[str | os.PathLike], *, evaluator: str = 'own',
           proxies: bool = False) -> tuple[tuple[Task, ...], dict[str, str]]:
  """Loads what can be played, and says of the rest why not.

  Args:
    paths: of task files.
    evaluator, proxies: see `load`.

  Returns:
    The tasks, and `{path: reason}` of the others.

  Raises:
    MissingProgramError: as of `load`.
  """
  loaded, wrong = [], {}
  for path in paths:
    try:
      task = load(path, evaluator=evaluator, proxies=proxies)
    except checks.TaskError as error:
      wrong[str(path)] = str(error)
      continue
    if task.needs:
      wrong[str(path)] = f'{path}: needs {task.needs}'
    else:
      loaded.append(task)
  return tuple(loaded), wrong


def summary(wrong: Mapping[str, str], total: int) -> str:
  """How many of some task files cannot be played, and why, in one sentence.

  Args:
    wrong: from `survey`, at least one.
    total: the number of files.
  """
  if len(wrong) == 1:
    return next(iter(wrong.values()))
  kinds = collections.Counter(
      re.sub(r'\[\d+\]', '', reason.removeprefix(f'{path}: '))
      for path, reason in wrong.items()).most_common()
  listed = '; '.join(f'{count} x {kind}' for kind, count in kinds[:_MAX_KINDS])
  more = f'; {len(kinds) - _MAX_KINDS} more kinds' if (
      len(kinds) > _MAX_KINDS) else ''
  return f'{len(wrong)} of {total} task files cannot be played: {listed}{more}'


def default_cache() -> pathlib.Path:
  """The folder of downloads: of the user, not of a run."""
  root = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(root) / 'step_jax' / 'osworld'


def urls(value: Any) -> Iterator[str]:
  """What a task file's JSON downloads, at whatever depth."""
  if isinstance(value, dict):
    sources: list[Any] = []
    if value.get('type') == 'cloud_file':
      path = value.get('path')
      sources = path if isinstance(path, list) else [path]
    elif 'url' in value and 'path' in value:  # a file of a step
      sources = [value['url']]
    yield from (source for source in sources
                if str(source).startswith(checks.SOURCES))
    value = list(value.values())
  if isinstance(value, list):
    for inner in value:
      yield from urls(inner)


def main(argv: Sequence[str]) -> int:
  """Checks the task files of a folder; returns the exit code."""
  parser = argparse.ArgumentParser(prog='step_jax.envs.osworld.tasks')
  parser.add_argument('folder', nargs='+', help='or a list of ids, or a file')
  parser.add_argument('--download', action='store_true')
  parser.add_argument(
      '--evaluator', choices=upstream.EVALUATORS, default='own')
  args = parser.parse_args(argv)
  try:
    paths = [path for given in args.folder for path in task_lists.find(given)]
    loaded, wrong = survey(paths, evaluator=args.evaluator)
    if args.download:
      for task in loaded:
        for url in urls(task_lists.read(task.path)):
          if not url.startswith(checks.FILE):
            client.download(url, default_cache())
  except (checks.TaskError, base.MissingProgramError,
          client.DesktopError) as error:
    print(error, file=sys.stderr)
    return 2
  for reason in wrong.values():
    print(reason, file=sys.stderr)
  solved = sum(task.solution is not None for task in loaded)
  theirs = sum(task.evaluator is None for task in loaded)
  print(f'{len(loaded)} tasks are right, {solved} have a solution'
        + (f', {theirs} are for desktop-env' if theirs else ''))
  if wrong:
    print(summary(wrong, len(paths)), file=sys.stderr)
  return 2 if wrong else 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
