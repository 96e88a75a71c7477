"""What `actions.Action` says, done with a browser's own mouse and keys.

The events are trusted: the page cannot tell them from a person's. What a
browser has no input for is not done: keys such as printscreen, and what only a
phone or the one who judges an episode understands.
"""

from step_jax.codecs import actions
from step_jax.envs.miniwob import browser as browser_lib

KINDS = frozenset((
    'click', 'double_click', 'right_click', 'drag', 'scroll', 'type', 'hotkey',
    'wait'))
NOTCH = 20  # pixels that a notch of the wheel scrolls

_DRAG_MOVES = 5  # of the pointer on its way
_KEYS = {  # WebDriver's names
    'backspace': '\ue003', 'tab': '\ue004', 'enter': '\ue007',
    'shift': '\ue008', 'ctrl': '\ue009', 'alt': '\ue00a', 'pause': '\ue00b',
    'esc': '\ue00c', 'space': ' ', 'pageup': '\ue00e', 'pagedown': '\ue00f',
    'end': '\ue010', 'home': '\ue011', 'left': '\ue012', 'up': '\ue013',
    'right': '\ue014', 'down': '\ue015', 'insert': '\ue016',
    'delete': '\ue017', 'win': '\ue03d',
    **{f'num{i}': chr(0xe01a + i) for i in range(10)},
    'multiply': '\ue024', 'add': '\ue025', 'separator': '\ue026',
    'subtract': '\ue027', 'decimal': '\ue028', 'divide': '\ue029',
    **{f'f{i}': chr(0xe030 + i) for i in range(1, 13)}}
_TYPED = {'\n': _KEYS['enter'], '\t': _KEYS['tab']}
_PRIVATE = range(0xe000, 0xe05e)  # characters that WebDriver takes for keys


def is_legal(action: actions.Action) -> bool:
  """Whether `perform` can do it."""
  if action.kind == 'type':
    return not any(ord(character) in _PRIVATE for character in action.text)
  return action.kind in KINDS and all(
      len(key) == 1 or key in _KEYS for key in action.keys)


def perform(
    browser: browser_lib.Browser,
    action: actions.Action,
    *,
    screen_size: tuple[int, int],
    pointer: actions.Point,
) -> None:
  """Does a legal action; a wait is over at once.

  Args:
    browser: shows the page.
    action: see `is_legal`.
    screen_size: width and height of the page in pixels.
    pointer: where the pointer is, for a scroll that says no point.

  Raises:
    BrowserError: the browser broke.
  """
  point = actions.to_pixel(action.point or pointer, screen_size)
  if action.kind == 'click':
    browser.click(*point)
  elif action.kind == 'double_click':
    browser.click(*point)
    browser.click(*point, count=2)
  elif action.kind == 'right_click':
    browser.click(*point, button='right')
  elif action.kind == 'drag':
    assert action.end is not None
    browser.drag(point, actions.to_pixel(action.end, screen_size),
                 num_moves=_DRAG_MOVES)
  elif action.kind == 'scroll':
    sign = 1 if action.direction in ('down', 'right') else -1
    turn = sign * action.amount * NOTCH
    is_sideways = action.direction in ('left', 'right')
    browser.turn_wheel(*point, *((turn, 0) if is_sideways else (0, turn)))
  elif action.kind == 'type':
    browser.press(*(
        [_TYPED.get(character, character)] for character in action.text))
  elif action.kind == 'hotkey':
    browser.press([_KEYS.get(key, key) for key in action.keys])
