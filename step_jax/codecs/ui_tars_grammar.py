"""The grammar of a response of UI-TARS; `ui_tars` says what calls mean.

  response  = ["Thought:" thought line-break] "Action:" call
  call      = name "(" [argument {"," argument}] ")"
  argument  = name "=" quote value quote
  point     = ["<|box_start|>"] "(" number "," number ")" ["<|box_end|>"]
  keys      = name {(" " | "+") name}

White space may stand around every sign. The action is what follows the last
line that begins with "Action:". In a text a backslash may stand before a
backslash, either quote, n or t, and is itself before anything else. As models
forget it, a quote that neither "," nor ")" follows is part of the text.
"""

import string
from typing import Any, NamedTuple, NoReturn

from step_jax.codecs import actions

# The kind of each call, and the field of each argument, '' for none.
Calls = dict[str, tuple[str, dict[str, str]]]

_BOX_START, _BOX_END = '<|box_start|>', '<|box_end|>'
_DIGITS = frozenset(string.digits)
_LETTERS = frozenset(string.ascii_lowercase + '_')
_ESCAPES = {'\\': '\\', "'": "'", '"': '"', 'n': '\n', 't': '\t'}
_ESCAPED = str.maketrans({
    character: '\\' + letter for letter, character in _ESCAPES.items()})
_KEY_NAMES = {
    'arrowup': 'up', 'arrowdown': 'down', 'arrowleft': 'left',
    'arrowright': 'right', 'control': 'ctrl', 'cmd': 'win', 'meta': 'win',
    'super': 'win', 'windows': 'win', 'page_up': 'pageup',
    'page_down': 'pagedown', 'spacebar': 'space', 'caps_lock': 'capslock',
    'plus': '+'}


class UiTarsError(actions.ActionError):
  """Text that is not a response of UI-TARS, or an action it cannot say."""


class Response(NamedTuple):
  """What stands in a response."""
  thought: str  # trimmed; '' if there is none
  kind: str  # of the call
  fields: dict[str, Any]  # of the action, as far as arguments give them
  position: int  # where the call begins


def parse(text: str, grid: tuple[int, int], calls: Calls) -> Response:
  """Reads a response.

  Args:
    text: what the model wrote.
    grid: the largest x and y of a point.
    calls: what may be called.

  Returns:
    What stands there, with points in fractions of `grid`.

  Raises:
    UiTarsError: names the character and what was expected there.
  """
  thought, start = _split(text)
  return _Parser(text, start, grid, calls).parse_call(thought)


def write_point(x: int, y: int, *, boxed: bool) -> str:
  """Writes a point.

  Args:
    x: to the right, in cells of the grid.
    y: downward.
    boxed: whether in box tokens.

  Returns:
    The text, as `parse` reads it.
  """
  written = f'({x},{y})'
  return _BOX_START + written + _BOX_END if boxed else written


def escape(text: str) -> str:
  """Returns a text as it stands between quotes."""
  return text.translate(_ESCAPED)


def _split(text: str) -> tuple[str, int]:
  """Returns the thought and where the call begins."""
  start = len(text) - len(text.lstrip())
  line = text.rfind('\nAction:', start)
  if line >= 0:
    if not text.startswith('Thought:', start):
      _fail(text, start, '"Thought:" before the line "Action:"')
    thought = text[start + len('Thought:'):line].strip()
    return thought, line + len('\nAction:')
  if not text.startswith('Action:', start):
    _fail(text, start, 'a line that begins with "Action:"')
  return '', start + len('Action:')


def _fail(text: str, position: int, expected: str) -> NoReturn:
  found = text[position:position + 20]
  raise UiTarsError(f'expected {expected} at character {position}, '
                    f'got {found!r}' if found else
                    f'expected {expected} at character {position}, '
                    'got the end')


class _Parser:
  """Reads a call by recursive descent; every method moves `position` on."""

  def __init__(self, text: str, position: int, grid: tuple[int, int],
               calls: Calls):
    self._text = text
    self._position = position
    self._grid = grid
    self._calls = calls

  def parse_call(self, thought: str) -> Response:
    self._skip_space()
    start = self._position
    name = self._read_while(_LETTERS)
    if name not in self._calls:
      _fail(self._text, start, f'one of {", ".join(self._calls)}')
    kind, fields = self._calls[name]
    arguments: dict[str, Any] = {}
    self._expect('(')
    while not self._accept(')'):
      if arguments:
        self._expect(',')
      self._skip_space()
      self._parse_argument(fields, arguments)
    self._skip_space()
    if self._position < len(self._text):
      _fail(self._text, self._position, 'the end of the response')
    arguments.pop('', None)
    return Response(thought, kind, arguments, start)

  def _parse_argument(self, fields: dict[str, str],
                      arguments: dict[str, Any]) -> None:
    start = self._position
    name = self._read_while(_LETTERS)
    if name not in fields or fields[name] in arguments:
      free = [other for other, field in fields.items()
              if field not in arguments]
      _fail(self._text, start, f'one of {", ".join(free)}' if free else '")"')
    field = fields[name]
    self._expect('=')
    self._skip_space()
    quote = self._text[self._position:self._position + 1]
    if quote not in ("'", '"'):
      _fail(self._text, self._position, 'a quote')
    self._position += 1
    if field in ('point', 'end'):
      arguments[field] = self._parse_point()
      self._expect(quote)
      return
    start = self._position
    value = self._read_text(quote)
    if field == 'direction':
      arguments[field] = value.strip().lower()
    elif field == 'keys':
      arguments[field] = self._parse_keys(value, start)
    else:
      arguments[field] = value

  def _parse_point(self) -> actions.Point:
    self._accept(_BOX_START)
    self._expect('(')
    x = self._parse_number(self._grid[0])
    self._expect(',')
    y = self._parse_number(self._grid[1])
    self._expect(')')
    self._accept(_BOX_END)
    return x, y

  def _parse_number(self, size: int) -> float:
    self._skip_space()
    start = self._position
    digits = self._read_while(_DIGITS)
    # As many digits as the largest has, as `int` has a limit of its own.
    if not digits or len(digits) > len(str(size)) or int(digits) > size:
      _fail(self._text, start, f'a whole number from 0 to {size}')
    return actions.from_grid(int(digits), size)

  def _parse_keys(self, value: str, start: int) -> tuple[str, ...]:
    value = value.lower().replace('page up', 'pageup')
    value = value.replace('page down', 'pagedown')
    keys = []
    for word in value.split():
      for name in [word] if len(word) == 1 else word.split('+'):
        try:
          keys.append(actions.canonical_key(_KEY_NAMES.get(name, name)))
        except actions.ActionError:
          _fail(self._text, start,
                'names of keys with spaces between them')
    return tuple(keys)

  def _read_text(self, quote: str) -> str:
    """Returns the unescaped text and moves behind its closing quote."""
    characters: list[str] = []
    while self._position < len(self._text):
      character = self._text[self._position]
      self._position += 1
      if character == quote and self._closes():
        return ''.join(characters)
      following = self._text[self._position:self._position + 1]
      if character == '\\' and following in _ESCAPES:
        character = _ESCAPES[following]
        self._position += 1
      characters.append(character)
    _fail(self._text, self._position, f'the closing {quote}')

  def _closes(self) -> bool:
    """Whether a quote just read is followed by what follows an argument."""
    position = self._position
    while self._text[position:position + 1].isspace():
      position += 1
    return self._text[position:position + 1] in (',', ')')

  def _read_while(self, allowed: frozenset[str]) -> str:
    start = self._position
    while self._text[self._position:self._position + 1] in allowed:
      self._position += 1
    return self._text[start:self._position]

  def _skip_space(self) -> None:
    while self._text[self._position:self._position + 1].isspace():
      self._position += 1

  def _accept(self, sign: str) -> bool:
    self._skip_space()
    found = self._text.startswith(sign, self._position)
    self._position += len(sign) if found else 0
    return found

  def _expect(self, sign: str) -> None:
    if not self._accept(sign):
      _fail(self._text, self._position, sign)
