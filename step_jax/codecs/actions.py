"""What an agent can do to a screen, whatever words it writes it in.

`Action` is the one record between codecs (UI-TARS text, the dictionaries of
computer_13 and AndroidWorld, elements) and whatever executes it. A point is
(x, y) in fractions of the screen: 0 is its left or top edge, 1 its right or
bottom edge.
On a grid of `size` steps, such as the pixels of a screen or UI-TARS' 1000, the
fraction of position p is p / size, so that `to_grid` returns every p of 0 to
`size` unchanged. Position `size` lies one beyond the last pixel: `to_pixel`,
for those who click, moves it onto the screen.
"""

from collections.abc import Sequence
import dataclasses
import math
import re
import reprlib
import string
from typing import Any

Point = tuple[float, float]  # x, y
Box = tuple[float, float, float, float]  # left, top, width, height

MAX_TEXT = 10_000  # characters
MAX_KEYS = 16
MAX_AMOUNT = 100
DIRECTIONS = ('up', 'down', 'left', 'right')
TOLERANCE = .014  # 14 pixels where the screen has 1000
SCROLL_TOLERANCE = .1  # what scrolls is large

MODIFIERS = ('ctrl', 'alt', 'altright', 'shift', 'win')
KEYS = frozenset((
    *MODIFIERS, 'enter', 'esc', 'tab', 'space', 'backspace', 'delete', 'insert',
    'up', 'down', 'left', 'right', 'home', 'end', 'pageup', 'pagedown',
    'capslock', 'numlock', 'scrolllock', 'printscreen', 'pause', 'apps',
    'select', 'execute', 'help', 'multiply', 'add', 'separator', 'subtract',
    'decimal', 'divide', *(f'num{digit}' for digit in range(10)),
    *(f'f{number}' for number in range(1, 25)),
    *string.digits, *string.ascii_lowercase, *string.punctuation))
_OTHER_NAMES = {
    'return': 'enter', '\n': 'enter', '\r': 'enter', '\t': 'tab', ' ': 'space',
    'escape': 'esc', 'del': 'delete', 'pgup': 'pageup', 'pgdn': 'pagedown',
    'print': 'printscreen', 'prtsc': 'printscreen', 'prtscr': 'printscreen',
    'prntscrn': 'printscreen', 'ctrlleft': 'ctrl', 'ctrlright': 'ctrl',
    'shiftleft': 'shift', 'shiftright': 'shift', 'altleft': 'alt',
    'winleft': 'win', 'winright': 'win', 'command': 'win', 'option': 'alt',
    'optionleft': 'alt', 'optionright': 'altright'}

# The arguments that each kind of action needs, and those that it may have.
_ARGUMENTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    'click': (('point',), ()),
    'double_click': (('point',), ()),
    'right_click': (('point',), ()),
    'long_press': (('point',), ()),
    'drag': (('point', 'end'), ()),
    'scroll': (('direction', 'amount'), ('point',)),
    'type': (('text',), ()),
    'hotkey': (('keys',), ()),
    'open_app': (('text',), ()),
    'press_home': ((), ()),
    'press_back': ((), ()),
    'wait': ((), ()),
    'done': ((), ('text',)),
    'fail': ((), ()),
}
PHONE_KINDS = ('long_press', 'open_app', 'press_home', 'press_back')
KINDS = tuple(_ARGUMENTS)
_UNTYPEABLE = re.compile('[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]')


class ActionError(ValueError):
  """What was given is not an action; says what was expected."""


def describe(value: Any) -> str:
  """Returns a short `repr` of anything that came from outside."""
  try:
    return reprlib.repr(value)
  except ValueError:  # a whole number of thousands of digits
    return f'a huge {type(value).__name__}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Action:
  """One action, checked when it is made; what its kind lacks is left out.

  Raises:
    ActionError: for an unknown kind, or arguments that are missing, superfluous
      or out of range.

  >>> Action(kind='click', point=(.5, .25)).point
  (0.5, 0.25)
  """
  kind: str  # one of KINDS
  point: Point | None = None  # where; scroll: None is at the pointer
  end: Point | None = None  # drag
  direction: str = ''  # scroll: one of DIRECTIONS, where the view goes
  amount: int = 0  # scroll: notches of the wheel
  text: str = ''  # type: '\n' is Enter; open_app: its name; done: an answer
  # hotkey: of KEYS, held in this order; one that comes again is pressed again.
  keys: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if not isinstance(self.kind, str) or self.kind not in _ARGUMENTS:
      raise ActionError(f'expected an action of {", ".join(KINDS)}, '
                        f'got {describe(self.kind)}')
    needed, optional = _ARGUMENTS[self.kind]
    for field in dataclasses.fields(self)[1:]:
      value = getattr(self, field.name)
      given = type(value) is not type(field.default) or value != field.default
      if given and field.name in needed + optional:
        _check_argument(field.name, value)
      elif given:
        raise ActionError(f'expected {self.kind} without {field.name}, '
                          f'got {describe(value)}')
      elif field.name in needed:
        raise ActionError(f'expected {self.kind} with {field.name}, got none')


def _check_argument(name: str, value: Any) -> None:
  expected = {
      'point': 'two numbers from 0 to 1',
      'end': 'two numbers from 0 to 1',
      'direction': f'one of {", ".join(DIRECTIONS)}',
      'amount': f'a whole number from 1 to {MAX_AMOUNT}',
      'text': f'1 to {MAX_TEXT} characters that can be typed',
      'keys': f'1 to {MAX_KEYS} names of keys',
  }[name]
  if name in ('point', 'end'):
    good = isinstance(value, tuple) and len(value) == 2 and all(
        isinstance(x, (int, float)) and 0 <= x <= 1 for x in value)
  elif name == 'direction':
    good = value in DIRECTIONS
  elif name == 'amount':
    good = type(value) is int and 1 <= value <= MAX_AMOUNT
  elif name == 'text':
    good = isinstance(value, str) and (
        len(value) <= MAX_TEXT and not _UNTYPEABLE.search(value))
  else:
    good = isinstance(value, tuple) and len(value) <= MAX_KEYS and all(
        isinstance(key, str) and key in KEYS for key in value)
  if not good:
    raise ActionError(
        f'expected {name} to be {expected}, got {describe(value)}')


def canonical_key(name: str) -> str:
  """Returns the name in KEYS of a key by pyautogui's name, case apart.

  A single letter has to be lower-case: 'A' is shift and 'a'.

  Raises:
    ActionError: for a name that no key has.

  >>> canonical_key('PgDn'), canonical_key(' '), canonical_key('a')
  ('pagedown', 'space', 'a')
  """
  lower = name.lower() if len(name) > 1 else name
  key = _OTHER_NAMES.get(lower, lower)
  if key not in KEYS:
    raise ActionError(f'expected the name of a key, got {describe(name)}')
  return key


def from_grid(position: float, size: int) -> float:
  """Returns the fraction of a position of 0 to size.

  Raises:
    ActionError: for a position outside, or not a number.
  """
  if not 0 <= position <= size:
    raise ActionError(
        f'expected a coordinate from 0 to {size}, got {describe(position)}')
  return position / size


def to_grid(fraction: float, size: int) -> int:
  """Returns the position, 0 to size, that is nearest to a fraction.

  >>> to_grid(from_grid(1919, 1920), 1920)
  1919
  """
  return round(fraction * size)


def to_pixel(point: Point, screen_size: tuple[int, int]) -> tuple[int, int]:
  """Returns the pixel of a point on a screen of (width, height).

  >>> to_pixel((.5, 1.), (1920, 1080))
  (960, 1079)
  """
  x, y = (min(to_grid(fraction, size), size - 1)
          for fraction, size in zip(point, screen_size, strict=True))
  return x, y


def finger_direction(
    start: Point | None, end: Point | None, size: tuple[int, int]) -> str:
  """Returns where the view goes when a finger draws it; '' is nowhere.

  Args:
    start: where the finger goes down; None is nowhere.
    end: where it goes up, likewise.
    size: (width, height), by which the longer axis decides.

  >>> finger_direction((.5, .9), (.6, .3), (1080, 2400))
  'down'
  """
  if start is None or end is None or start == end:
    return ''
  across, down = ((b - a) * side for a, b, side in zip(
      start, end, size, strict=True))
  if abs(across) > abs(down):
    return 'left' if across > 0 else 'right'
  return 'up' if down > 0 else 'down'


def matches(a: Action | None, b: Action | None, *,
            tolerance: float = TOLERANCE,
            boxes: Sequence[Box] | None = None,
            answers: bool = True) -> bool:
  """Whether two answers to one screen are the same action to the world.

  They are if kind and canonical arguments are equal: text with white space
  trimmed and collapsed but for an Enter at its end, the modifiers that a hotkey
  begins with in any order. The points of clicks and presses are equal if they
  fall on the same element; where neither falls on one, and for both ends of a
  drag, if they are no further apart than the tolerance. Those of scrolls are if
  they fall on the same element or are no further apart than SCROLL_TOLERANCE.

  Args:
    a: None, for an answer that does not parse, matches nothing.
    b: the other.
    tolerance: distance in fractions of the screen.
    boxes: of the elements, in such fractions; of several that hold a point
      the smallest counts, of equal ones the last.
    answers: whether the world reads the text of `done`.

  Returns:
    True if they match. This is symmetric, but not transitive.

  Raises:
    ValueError: for a tolerance that is negative or not a number.

  >>> matches(Action(kind='click', point=(.5, .5)),
  ...         Action(kind='click', point=(.51, .5)))
  True
  """
  if not tolerance >= 0:
    raise ValueError(f'expected a tolerance of at least 0, got {tolerance}')
  if a is None or b is None or (
      _canonical(a, answers) != _canonical(b, answers)):
    return False
  shown = () if a.kind == 'drag' or boxes is None else boxes
  if a.kind == 'scroll' and _same_place(
      a.point, b.point, max(tolerance, SCROLL_TOLERANCE), ()):
    return True
  return _same_place(a.point, b.point, tolerance, shown) and (
      _same_place(a.end, b.end, tolerance, ()))


def _canonical(action: Action, answers: bool) -> tuple[Any, ...]:
  count = 0
  while count < len(action.keys) and action.keys[count] in MODIFIERS:
    count += 1
  keys = (*sorted(action.keys[:count]), *action.keys[count:])
  text = ' '.join(action.text.split())
  if action.kind == 'done' and not answers:
    text = ''
  enters = action.kind == 'type' and action.text.endswith('\n')
  return action.kind, action.direction, action.amount, text, enters, keys


def _same_place(a: Point | None, b: Point | None, tolerance: float,
                boxes: Sequence[Box]) -> bool:
  if a is None or b is None:
    return a is b
  element, other = _element_at(a, boxes), _element_at(b, boxes)
  if element is not None or other is not None:
    return element == other
  # The rounding of a fraction must not decide about 14 pixels exactly.
  return math.hypot(a[0] - b[0], a[1] - b[1]) <= tolerance + 1e-9


def _element_at(point: Point, boxes: Sequence[Box]) -> int | None:
  found = [
      (width * height, -index)
      for index, (left, top, width, height) in enumerate(boxes)
      if left <= point[0] < left + width and top <= point[1] < top + height]
  return -min(found)[1] if found else None
