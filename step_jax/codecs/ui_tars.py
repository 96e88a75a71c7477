"""The text that UI-TARS writes, parsed by a grammar and written again.

  response  = ["Thought:" thought line-break] "Action:" call
  call      = name "(" [argument {"," argument}] ")"
  argument  = name "=" quote value quote
  point     = ["<|box_start|>"] "(" number "," number ")" ["<|box_end|>"]
  keys      = name {(" " | "+") name}

with these calls on a desktop, of arguments in any order:

  click(start_box=point)                      click
  left_double(start_box=point)                double_click
  right_single(start_box=point)               right_click
  drag(start_box=point, end_box=point)        drag
  scroll(direction=word[, start_box=point])   scroll, 5 notches as upstream does
  hotkey(key=keys)                            hotkey
  type(content=text)                          type; a last \\n is Enter
  wait()                                      wait
  finished([content=text])                    done
  call_user()                                 fail: OSWorld's agent of UI-TARS
                                              answers FAIL, "infeasible", to it

and these on a phone (platform 'mobile'), where nothing says fail:

  click, drag, scroll, type, wait, finished   as above
  long_press(start_box=point[, time=text])    long_press; its time is ignored
  open_app(app_name=text)                     open_app
  press_home()                                press_home
  press_back()                                press_back

White space may stand around every sign. The action is what follows the last
line that begins with "Action:". In a text a backslash may stand before a
backslash, either quote, n or t, and is itself before anything else. As models
forget it, a quote that neither "," nor ")" follows is part of the text.

UI-TARS-DPO counts coordinates in thousandths of the screen and wraps them in
box tokens (convention 'thousand'); UI-TARS 1.5 counts pixels of the picture
that it is shown (convention 'pixels'). Both are read with or without tokens.
"""

import string
from typing import Any, Literal, NoReturn

from step_jax.codecs import actions

Convention = Literal['thousand', 'pixels']
Platform = Literal['desktop', 'mobile']

MAX_LENGTH = 65_536  # characters of a response
SCROLL_AMOUNT = 5  # wheel notches

_BOX_START, _BOX_END = '<|box_start|>', '<|box_end|>'
# The kind of each call, and the field of each argument, '' for none.
_Calls = dict[str, tuple[str, dict[str, str]]]
_DESKTOP: _Calls = {
    'click': ('click', {'start_box': 'point'}),
    'left_double': ('double_click', {'start_box': 'point'}),
    'right_single': ('right_click', {'start_box': 'point'}),
    'drag': ('drag', {'start_box': 'point', 'end_box': 'end'}),
    'scroll': ('scroll', {'start_box': 'point', 'direction': 'direction'}),
    'hotkey': ('hotkey', {'key': 'keys'}),
    'type': ('type', {'content': 'text'}),
    'wait': ('wait', {}),
    'finished': ('done', {'content': 'text'}),
    'call_user': ('fail', {}),
}
_MOBILE: _Calls = {
    'click': _DESKTOP['click'],
    'long_press': ('long_press', {'start_box': 'point', 'time': ''}),
    'drag': _DESKTOP['drag'],
    'scroll': _DESKTOP['scroll'],
    'type': _DESKTOP['type'],
    'open_app': ('open_app', {'app_name': 'text'}),
    'press_home': ('press_home', {}),
    'press_back': ('press_back', {}),
    'wait': _DESKTOP['wait'],
    'finished': _DESKTOP['finished'],
}
_CALLS = {'desktop': _DESKTOP, 'mobile': _MOBILE}
_DIGITS = frozenset(string.digits)
_LETTERS = frozenset(string.ascii_lowercase + '_')
_NAMES = {
    platform: {kind: (name, names) for name, (kind, names) in calls.items()}
    for platform, calls in _CALLS.items()}
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


def decode(text: str, *, convention: Convention,
           image_size: tuple[int, int] | None = None,
           platform: Platform = 'desktop') -> tuple[str, actions.Action]:
  """Reads a response.

  Args:
    text: what the model wrote.
    convention: how it counts coordinates.
    image_size: (width, height) of the picture it saw, for 'pixels'.
    platform: whose calls it knows.

  Returns:
    `(thought, action)`; the thought is trimmed, and '' if there is none.

  Raises:
    UiTarsError: names the character and what was expected there. No other
      error comes from the text.
    ValueError: for another convention or platform, or a missing image_size.

  >>> decode("Action: click(start_box='(250,500)')", convention='thousand')[1]
  ... # doctest: +ELLIPSIS
  Action(kind='click', point=(0.25, 0.5), ...)
  """
  grid = _grid(convention, image_size, platform)
  if len(text) > MAX_LENGTH:
    raise UiTarsError(
        f'expected at most {MAX_LENGTH} characters, got {len(text)}')
  thought, start = _split(text)
  return thought, _Parser(text, start, grid, _CALLS[platform]).parse_call()


def read(text: str, **form: Any) -> actions.Action | None:
  """The action of a response of a form of `decode`; None if it has none."""
  try:
    return decode(text, **form)[1]
  except UiTarsError:
    return None


def encode(action: actions.Action, *, thought: str = '',
           convention: Convention,
           image_size: tuple[int, int] | None = None,
           platform: Platform = 'desktop') -> str:
  """Writes a response that `decode` reads as the same thought and action.

  Coordinates are rounded to the nearest thousandth or pixel.

  Args:
    action: what to say.
    thought: in words; white space around it is lost.
    convention: how to count coordinates.
    image_size: (width, height) of the picture, for 'pixels'.
    platform: whose calls to write.

  Returns:
    `Thought: ...` unless it is empty, and a line `Action: ...`.

  Raises:
    UiTarsError: for a kind that the platform has no call for, a scroll of
      another amount than 5, or a thought with which the response is too long.
    ValueError: for another convention or platform, or a missing image_size.
  """
  grid = _grid(convention, image_size, platform)
  if action.kind not in _NAMES[platform]:
    raise UiTarsError(f'expected an action of {", ".join(_NAMES[platform])} '
                      f'on {platform}, got {action.kind}')
  if action.kind == 'scroll' and action.amount != SCROLL_AMOUNT:
    raise UiTarsError(f'expected a scroll of {SCROLL_AMOUNT} notches, '
                      f'got {action.amount}')
  name, fields = _NAMES[platform][action.kind]
  arguments = []
  for argument, field in fields.items():
    value = getattr(action, field) if field else None
    if value:
      written = _write(value, field, grid, convention)
      arguments.append(f"{argument}='{written}'")
  thought = thought.strip()
  text = f'Thought: {thought}\n' if thought else ''
  text += f'Action: {name}({", ".join(arguments)})'
  if len(text) > MAX_LENGTH:
    raise UiTarsError(
        f'expected at most {MAX_LENGTH} characters, got {len(text)}')
  return text


def _grid(convention: str, image_size: tuple[int, int] | None,
          platform: str) -> tuple[int, int]:
  if platform not in _CALLS:
    raise ValueError(
        f"expected platform 'desktop' or 'mobile', got {platform!r}")
  if convention == 'thousand':
    return 1000, 1000
  if convention != 'pixels':
    raise ValueError(
        f"expected convention 'thousand' or 'pixels', got {convention!r}")
  if image_size is None or min(image_size) < 1:
    raise ValueError(
        f"expected a positive image_size with 'pixels', got {image_size}")
  return image_size


def _write(value: Any, field: str, grid: tuple[int, int],
           convention: str) -> str:
  if field in ('point', 'end'):
    x, y = (actions.to_grid(fraction, size)
            for fraction, size in zip(value, grid, strict=True))
    written = f'({x},{y})'
    return (_BOX_START + written + _BOX_END if convention == 'thousand'
            else written)
  text = ' '.join(value) if field == 'keys' else value
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
               calls: _Calls):
    self._text = text
    self._position = position
    self._grid = grid
    self._calls = calls

  def parse_call(self) -> actions.Action:
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
    if kind == 'scroll':
      arguments['amount'] = SCROLL_AMOUNT
    try:
      return actions.Action(kind=kind, **arguments)
    except actions.ActionError as error:
      raise UiTarsError(f'{error}, in the call at character {start}') from None

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
