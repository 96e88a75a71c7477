"""The grammar of a response of UI-TARS; `ui_tars` says what calls mean.

  response  = thought "Action:" call [more]
  call      = name "(" [argument {"," argument}] [")"]
  argument  = [name "="] (quote value quote | value)
  point     = two numbers, or four, whose middle counts, in or without ( ) [ ]
              and the tags <|box_start|> <|box_end|> <point> <bbox>
  keys      = name {(" " | "+" | "-" | ",") name}

White space may stand around every sign. The thought is what precedes, without
the label "Thought:", the last line that begins with "Action:", signs such as
"**" apart, or else a last "Action:" in a line that stands in no argument. More
calls, a full stop or tokens may follow a call, and are not read. Arguments of
other names are not, either; one without a name is the first that is missing.

In a text a backslash may stand before a backslash, either quote, n or t, and is
itself before anything else. As models forget it, a text is closed by the first
quote that a parenthesis and the end of the response, or another call, follow;
or else by the last that a parenthesis follows. A point needs no quote behind
it, as its own last sign ends it.
"""

from collections.abc import Iterator
import re
from typing import Any, NamedTuple, NoReturn

from step_jax.codecs import actions

# The kind of each call, and the field of each argument.
Calls = dict[str, tuple[str, dict[str, str]]]

_BOX_START, _BOX_END = '<|box_start|>', '<|box_end|>'
_ACTION = re.compile(r'(?:\*\*)?\b(?i:actions?)\**\s?[:：]')
_LINE = re.compile(
    r'^[^\w\n]*(?i:actions?)\**\s?[:：](?=\s*\S)', re.MULTILINE)
_THOUGHT = re.compile(r'[\s`*#]*[Tt]hought\**\s?[:：](?:\*\*)?')
_MAX_MARKERS = 16  # that are tried, from the last one back
_BEFORE_CALL = re.compile(r'[\s*]*(?:`+(?:python\b)?)?\s*')
_NAME = re.compile('[A-Za-z_]+')
_OTHER_ARGUMENTS = {
    'point': 'start_box', 'start_point': 'start_box', 'end_point': 'end_box',
    'hotkey': 'key', 'press': 'key', 'keys': 'key', 'text': 'content',
    'content': 'app_name'}

_QUOTES = {"'": "'", '"': '"', '‘': '’', '“': '”'}
_ESCAPES = {'\\': '\\', "'": "'", '"': '"', 'n': '\n', 't': '\t'}
_ESCAPED = str.maketrans({
    character: '\\' + letter for letter, character in _ESCAPES.items()})
_ESCAPE = re.compile(r'\\([\\\'"nt])')
_CLOSES = re.compile(r'\s*(?:[,)]|\Z)')  # behind the quote of a short value
_CLOSES_TEXT = re.compile(r'\s*(?:\)|\Z)')

_NUMBER = re.compile(r'[0-9]+(?:\.[0-9]+)?')
_SIGNS = '()[],（），、\'" \t\n'  # around and between numbers
_TAG = re.compile(r'<(?:\|box_(?:start|end)\||/?(?:point|bbox))>')
_BARE_POINT = re.compile(
    r'\([^()]*\)|\[[^][]*\]|<[^<>]*>[^<>]*<[^<>]*>')  # each closes itself
_BARE = re.compile(r'[^\s,()\'"]+')

_BETWEEN_KEYS = re.compile(
    r'(?<=\w),\s+|(?<=\S)\s*[-+]\s*(?=\S)|\s+|(?<=\S),(?=\S)')
_ARROW = re.compile(
    r'\b(?:arrow[ _-]?(up|down|left|right)|(up|down|left|right)[ _-]?arrow)\b')
_IN_TWO_WORDS = re.compile(
    r'\b(page|caps|num|scroll|print)[ _-](up|down|lock|screen)\b')
_KEY_NAMES = {
    'control': 'ctrl', 'cmd': 'win', 'meta': 'win', 'super': 'win',
    'windows': 'win', 'spacebar': 'space', 'ins': 'insert', 'menu': 'apps',
    'plus': '+', 'minus': '-', 'equal': '=', 'equals': '=', 'comma': ',',
    'period': '.', 'slash': '/', 'backslash': '\\'}
_SIGN_NAMES = {'+': 'plus', '-': 'minus'}  # before another key


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
  *_, first = 0, *(line.start() for line in _LINE.finditer(text))
  markers = [*_ACTION.finditer(text, first)][-_MAX_MARKERS:]
  if not markers:
    _fail(text, 0, '"Action:" and a call')
  response, error, end = None, None, 0
  for marker in markers:
    if marker.start() < end:  # in an argument
      continue
    parser = _Parser(text, marker.end(), grid, calls)
    try:
      response = parser.parse_call(_thought(text[:marker.start()]))
      end = parser.position
    except UiTarsError as wrong:
      error = wrong
  if response is None:
    assert error is not None
    raise error
  return response


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


def write_keys(keys: tuple[str, ...]) -> str:
  """Writes names of keys, as `parse` reads them."""
  return ' '.join([*(_SIGN_NAMES.get(key, key) for key in keys[:-1]), keys[-1]])


def _thought(text: str) -> str:
  label = _THOUGHT.match(text)
  return text[label.end() if label else 0:].strip()


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
    self.position = position
    self._text = text
    self._grid = grid
    self._calls = calls

  def parse_call(self, thought: str) -> Response:
    self._match(_BEFORE_CALL)
    start = self.position
    name = self._match(_NAME).lower()
    if name not in self._calls:
      _fail(self._text, start, f'one of {", ".join(self._calls)}')
    kind, fields = self._calls[name]
    arguments: dict[str, Any] = {}
    self._expect('(')
    while not self._accept(')') and self.position < len(self._text):
      self._parse_argument(fields, arguments)
      self._accept(',')
    arguments.pop('', None)
    return Response(thought, kind, arguments, start)

  def _parse_argument(self, fields: dict[str, str],
                      arguments: dict[str, Any]) -> None:
    self._skip_space()
    start = self.position
    name = self._match(_NAME).lower()
    if name:
      name = name if name in fields else _OTHER_ARGUMENTS.get(name, name)
      self._expect('=')
      self._skip_space()
    else:
      name = next((x for x in fields if fields[x] not in arguments), '')
    field = fields.get(name, '')
    if (fields and not name) or (field and field in arguments):
      _fail(self._text, start, 'an argument, each once')
    quote = _QUOTES.get(self._text[self.position:self.position + 1], '')
    self.position += len(quote)
    start = self.position
    if quote:
      value = self._read_quoted(quote, field)
    else:
      value = self._match(
          _BARE_POINT if field in ('point', 'end') else _BARE)
      if not value:
        _fail(self._text, start, 'a quote')
    if field in ('point', 'end'):
      if value.strip(_SIGNS):
        arguments[field] = self._read_point(value, start)
    elif field == 'keys':
      arguments[field] = self._read_keys(value, start)
    else:
      arguments[field] = value

  def _read_point(self, value: str, start: int) -> actions.Point:
    value = _TAG.sub(' ', value)
    numbers = [float(number) for number in _NUMBER.findall(value)]
    if len(numbers) not in (2, 4) or _NUMBER.sub('', value).strip(_SIGNS):
      _fail(self._text, start, 'a point such as (1,2)')
    point = []
    for axis, size in enumerate(self._grid):
      ends = numbers[axis::2]
      if max(ends) > size:
        _fail(self._text, start, f'a point from (0,0) to {self._grid}')
      # To a step, as it is written.
      point.append(actions.from_grid(round(sum(ends) / len(ends)), size))
    return point[0], point[1]

  def _read_keys(self, value: str, start: int) -> tuple[str, ...]:
    value = _IN_TWO_WORDS.sub(r'\1\2', _ARROW.sub(r'\1\2', value.lower()))
    keys = []
    for name in filter(None, _BETWEEN_KEYS.split(value)):
      name = name.removesuffix('_l').removesuffix('_r')  # of two
      try:
        keys.append(actions.canonical_key(_KEY_NAMES.get(name, name)))
      except actions.ActionError:
        _fail(self._text, start, 'names of keys with spaces between them')
    return tuple(keys)

  def _read_quoted(self, quote: str, field: str) -> str:
    """Returns the unescaped value and moves behind its closing quote."""
    start, end, is_text = self.position, -1, field == 'text'
    for place in self._quotes(quote):
      if not is_text and _CLOSES.match(self._text, place + 1):
        end = place
        break
      if is_text and _CLOSES_TEXT.match(self._text, place + 1):
        end = place
        if self._ends(place + 1):
          break
    point = self._match(_BARE_POINT) if (
        end < 0 and field in ('point', 'end')) else ''
    if point:
      return point
    if end < 0:
      _fail(self._text, len(self._text), f'the closing {quote}')
    self.position = end + 1
    return _ESCAPE.sub(
        lambda match: _ESCAPES[match[1]], self._text[start:end])

  def _quotes(self, quote: str) -> Iterator[int]:
    """Where the quotes stand that no backslash precedes."""
    for match in re.compile(rf'\\.|{quote}', re.DOTALL).finditer(
        self._text, self.position):
      if match[0] == quote:
        yield match.start()

  def _ends(self, position: int) -> bool:
    """Whether the call ends here, and the response, or another call follows."""
    return re.compile(
        r'\s*\)(?:[\s.`]*(?:\Z|<\||\[EOS\])|[\s*`]*(?i:actions?)\b|'
        rf'[\s;,]*(?:{"|".join(self._calls)})\((?:\w+=|\)))').match(
            self._text, position) is not None

  def _match(self, pattern: re.Pattern[str]) -> str:
    found = pattern.match(self._text, self.position)
    self.position = found.end() if found else self.position
    return found[0] if found else ''

  def _skip_space(self) -> None:
    while self._text[self.position:self.position + 1].isspace():
      self.position += 1

  def _accept(self, sign: str) -> bool:
    self._skip_space()
    found = self._text.startswith(sign, self.position)
    self.position += len(sign) if found else 0
    return found

  def _expect(self, sign: str) -> None:
    if not self._accept(sign):
      _fail(self._text, self.position, sign)
