"""Checks of what a task file says; every error names the file and the field."""

from collections.abc import Mapping
import pathlib
import reprlib
from typing import Any

_KINDS: dict[str, str] = {
    'text': 'a text that is not empty',
    'texts': 'a list of texts',
    'command': 'a text, or a list of texts, that is not empty',
    'flag': 'true or false',
    'number': 'a number of at least 0',
    'whole': 'a whole number',
    'list': 'a list',
    'object': 'an object',
    'any': 'anything',
}
_WEB = ('http://', 'https://')
FILE = 'file://'
SOURCES = (*_WEB, FILE)


class TaskError(ValueError):
  """A task file is wrong; says which field of which file, and how."""


class Field:
  """A place in a task file, for error messages.

  Args:
    path: of the file.
    name: such as 'evaluator.result[0]'.
  """

  def __init__(self, path: pathlib.Path, name: str = ''):
    self.path = path
    self.name = name

  def __getitem__(self, key: str | int) -> 'Field':
    inner = f'[{key}]' if isinstance(key, int) else (
        f'.{key}' if self.name else key)
    return Field(self.path, self.name + inner)

  def error(self, expected: str, value: Any) -> TaskError:
    """Makes the error that the caller raises.

    Args:
      expected: in words, after 'expected'.
      value: what the file has in this place.
    """
    return TaskError(f'{self.path}: {self.name or "file"}: expected '
                     f'{expected}, got {reprlib.repr(value)}')


def check_kind(value: Any, kind: str, field: Field) -> None:
  """Checks the kind of a value.

  Args:
    value: as read from JSON.
    kind: a key of `_KINDS`, which tells what each allows.
    field: where the value stands.

  Raises:
    TaskError: for a value of another kind.
  """
  good = {
      'text': lambda: isinstance(value, str) and value != '',
      'texts': lambda: _is_texts(value),
      'command': lambda: bool(value) and (
          isinstance(value, str) or _is_texts(value)),
      'flag': lambda: isinstance(value, bool),
      'number': lambda: _is_number(value) and value >= 0,
      'whole': lambda: _is_number(value) and isinstance(value, int),
      'list': lambda: isinstance(value, list),
      'object': lambda: isinstance(value, dict),
      'any': lambda: True,
  }[kind]
  if not good():
    raise field.error(_KINDS[kind], value)


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and all(isinstance(x, str) for x in value)


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_fields(value: Any, field: Field, *,
                 required: Mapping[str, str] | None = None,
                 optional: Mapping[str, str] | None = None) -> None:
  """Checks an object whose fields are all known.

  Args:
    value: as read from JSON.
    field: where the value stands.
    required: `{name: kind}`, kinds as in `check_kind`.
    optional: likewise, of the fields that may be missing.

  Raises:
    TaskError: for a field that is missing, unknown, or of another kind.
  """
  required, optional = required or {}, optional or {}
  check_kind(value, 'object', field)
  known = {**required, **optional}
  for name in value:
    if name not in known:
      raise field[name].error(
          f'no such field, but {" or ".join(known) or "none"}', value[name])
  for name in required:
    if name not in value:
      raise field.error(f'a field {name}', value)
  for name, inner in value.items():
    check_kind(inner, known[name], field[name])


def check_choice(value: Any, choices: Mapping[str, Any] | tuple[str, ...],
                 field: Field) -> None:
  """Checks that a value is one of some texts.

  Args:
    value: as read from JSON.
    choices: the texts; those of a mapping are its keys.
    field: where the value stands.

  Raises:
    TaskError: for anything else.
  """
  if not isinstance(value, str) or value not in choices:
    raise field.error(f'one of {", ".join(choices)}', value)


def check_source(value: Any, field: Field) -> None:
  """Checks a URL to read from.

  Args:
    value: http://..., https://..., or file://NAME with a NAME as in
      `check_local`.
    field: where the value stands.

  Raises:
    TaskError: for anything else, or a file that is not there.
  """
  check_kind(value, 'text', field)
  if value.startswith(FILE):
    check_local(value.removeprefix(FILE), field)
  elif not value.startswith(_WEB):
    raise field.error('http://..., https://... or file://NAME', value)


def check_local(value: Any, field: Field) -> None:
  """Checks the name of a file in the folder of the task file, or below.

  Args:
    value: a path relative to that folder.
    field: where the value stands; its `path` is the task file.

  Raises:
    TaskError: for anything else, or a file that is not there.
  """
  check_kind(value, 'text', field)
  folder = field.path.parent.resolve()
  path = (folder / value).resolve()
  if not path.is_relative_to(folder):
    raise field.error(f'a file in the folder {folder}', value)
  if not path.is_file():
    raise field.error(f'a file that exists in {folder}', value)
