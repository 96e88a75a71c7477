"""The dictionaries of OSWorld's action space computer_13.

  {'action_type': 'CLICK', 'parameters': {'x': 640, 'y': 360}}

Coordinates are pixels of the screen, from 0 to its width or height. These
dictionaries know a pointer that stays where it is, an `Action` names its
points: a drag, and a scroll at a point, are a list of MOVE_TO and DRAG_TO or
SCROLL. What no action of ours stands for is an error: presses and releases
(MOUSE_DOWN, KEY_UP, ...), MOVE_TO or DRAG_TO alone, clicks without a place, the
middle button, three clicks, a scroll in two directions.

WAIT, FAIL and DONE are read as dictionaries and as the words alone; they are
written as words, because OSWorld's `step` and `evaluate` heed nothing else.
"""

from collections.abc import Mapping
from typing import Any

from step_jax.codecs import actions

MAX_LENGTH = 2  # dictionaries of an action

_WORDS = ('WAIT', 'FAIL', 'DONE')
_PARAMETERS: dict[str, tuple[str, ...]] = {
    'MOVE_TO': ('x', 'y'),
    'CLICK': ('x', 'y', 'button', 'num_clicks'),
    'RIGHT_CLICK': ('x', 'y'),
    'DOUBLE_CLICK': ('x', 'y'),
    'DRAG_TO': ('x', 'y'),
    'SCROLL': ('dx', 'dy'),
    'TYPING': ('text',),
    'PRESS': ('key',),
    'HOTKEY': ('keys',),
    **dict.fromkeys(_WORDS, ()),
}
_ALONE = ('MOUSE_DOWN', 'MOUSE_UP', 'KEY_DOWN', 'KEY_UP')
_CLICKS = {
    ('left', 1): 'click', ('left', 2): 'double_click',
    ('right', 1): 'right_click'}
_WHEEL = {  # pyautogui: up and right are positive
    'up': ('dy', 1), 'down': ('dy', -1),
    'right': ('dx', 1), 'left': ('dx', -1)}
_KEYS = {'space': ' '}  # which OSWorld's list does not call by its name

Command = dict[str, Any] | str


class Computer13Error(actions.ActionError):
  """Dictionaries that are none of computer_13, or have no action of ours."""


def decode(commands: Any, *, screen_size: tuple[int, int]) -> actions.Action:
  """Reads what a model chose.

  Args:
    commands: a dictionary of 'action_type' and 'parameters' or a word, or a
      list of one or two of them that are one action. Without 'parameters' they
      are read from the dictionary itself, as OSWorld does.
    screen_size: (width, height) in pixels.

  Returns:
    The action.

  Raises:
    Computer13Error: for anything else; no other error comes from `commands`.

  >>> decode({'action_type': 'PRESS', 'parameters': {'key': 'return'}},
  ...        screen_size=(1920, 1080)).keys
  ('enter',)
  """
  if isinstance(commands, (Mapping, str)):
    commands = [commands]
  if not isinstance(commands, (list, tuple)) or (
      not 1 <= len(commands) <= MAX_LENGTH):
    raise Computer13Error('expected a dictionary or a list of 1 or 2, '
                          f'got {actions.describe(commands)}')
  try:
    *before, (kind, parameters) = [_read(command) for command in commands]
    point = None
    if before:
      if before[0][0] != 'MOVE_TO' or kind not in ('DRAG_TO', 'SCROLL'):
        raise actions.ActionError(
            'expected MOVE_TO and then DRAG_TO or SCROLL, '
            f'got {before[0][0]} and {kind}')
      point = _point(before[0][1], screen_size)
    return _decode(kind, parameters, point, screen_size)
  except actions.ActionError as error:
    raise Computer13Error(str(error)) from None


def _read(command: Any) -> tuple[str, Mapping[str, Any]]:
  """Returns the type and the parameters, all of which it may have."""
  if isinstance(command, str) and command in _WORDS:
    return command, {}
  if not isinstance(command, Mapping):
    raise actions.ActionError(
        f'expected a dictionary, got {actions.describe(command)}')
  kind = command.get('action_type')
  if isinstance(kind, str) and kind in _ALONE:
    raise actions.ActionError(
        f'expected a whole action, got {kind}, which has no equivalent here')
  if not isinstance(kind, str) or kind not in _PARAMETERS:
    raise actions.ActionError(
        f'expected action_type to be one of {", ".join(_PARAMETERS)}, '
        f'got {actions.describe(kind)}')
  parameters = command.get('parameters', {
      name: value for name, value in command.items() if name != 'action_type'})
  if not isinstance(parameters, Mapping) or (
      not parameters.keys() <= set(_PARAMETERS[kind])):
    raise actions.ActionError(
        f'expected {kind} with parameters of {list(_PARAMETERS[kind])}, '
        f'got {actions.describe(parameters)}')
  return kind, parameters


def _decode(kind: str, parameters: Mapping[str, Any],
            point: actions.Point | None,
            screen_size: tuple[int, int]) -> actions.Action:
  if kind == 'SCROLL':
    return _decode_scroll(parameters, point)
  if kind == 'DRAG_TO':
    if point is None:
      raise actions.ActionError(
          'expected MOVE_TO before DRAG_TO, got DRAG_TO alone')
    return actions.Action(
        kind='drag', point=point, end=_point(parameters, screen_size))
  if kind == 'MOVE_TO':
    raise actions.ActionError(
        'expected DRAG_TO or SCROLL after MOVE_TO, got MOVE_TO alone')
  if kind in ('CLICK', 'RIGHT_CLICK', 'DOUBLE_CLICK'):
    return actions.Action(
        kind=_click(parameters) if kind == 'CLICK' else kind.lower(),
        point=_point(parameters, screen_size))
  if kind == 'TYPING':
    return actions.Action(kind='type', text=parameters.get('text', ''))
  if kind == 'PRESS':
    return actions.Action(
        kind='hotkey', keys=_keys([parameters.get('key')]))
  if kind == 'HOTKEY':
    return actions.Action(
        kind='hotkey', keys=_keys(parameters.get('keys')))
  return actions.Action(kind=kind.lower())


def _click(parameters: Mapping[str, Any]) -> str:
  button = parameters.get('button', 'left')
  count = parameters.get('num_clicks', 1)
  if isinstance(button, str) and type(count) is int and (
      (button, count) in _CLICKS):
    return _CLICKS[button, count]
  raise actions.ActionError(
      'expected one click of the left or right button or two of the left, '
      f'got {actions.describe(count)} of {actions.describe(button)}')


def _decode_scroll(parameters: Mapping[str, Any],
                   point: actions.Point | None) -> actions.Action:
  dx, dy = parameters.get('dx', 0), parameters.get('dy', 0)
  if type(dx) is not int or type(dy) is not int or (dx == 0) == (dy == 0):
    raise actions.ActionError(
        'expected whole numbers dx and dy, one of them 0, '
        f'got {actions.describe(dx)} and {actions.describe(dy)}')
  if dx:
    direction = 'right' if dx > 0 else 'left'
  else:
    direction = 'up' if dy > 0 else 'down'
  return actions.Action(
      kind='scroll', direction=direction, amount=abs(dx + dy), point=point)


def _point(parameters: Mapping[str, Any],
           screen_size: tuple[int, int]) -> actions.Point:
  x, y = (_fraction(parameters.get(name), name, size)
          for name, size in zip('xy', screen_size, strict=True))
  return x, y


def _fraction(value: Any, name: str, size: int) -> float:
  if type(value) not in (int, float):
    raise actions.ActionError(
        f'expected a number {name}, got {actions.describe(value)}')
  return actions.from_grid(value, size)


def _keys(names: Any) -> tuple[str, ...]:
  if not isinstance(names, (list, tuple)) or (
      not all(isinstance(name, str) for name in names)):
    raise actions.ActionError(
        f'expected names of keys, got {actions.describe(names)}')
  return tuple(actions.canonical_key(name) for name in names)


def encode(action: actions.Action, *,
           screen_size: tuple[int, int]) -> list[Command]:
  """Writes what says an action, for OSWorld's `step` to take in turn.

  Args:
    action: what to say.
    screen_size: (width, height); coordinates are the nearest pixel of these.

  Returns:
    One dictionary or word; two for a drag or a scroll at a point.

  Raises:
    Computer13Error: for what they have no words for: what only a phone can do,
      and a done with an answer.
  """
  def command(action_type: str, **parameters: Any) -> Command:
    return {'action_type': action_type, 'parameters': parameters}

  def at(action_type: str, point: actions.Point) -> Command:
    x, y = (actions.to_grid(fraction, size)
            for fraction, size in zip(point, screen_size, strict=True))
    return command(action_type, x=x, y=y)

  if action.kind in actions.PHONE_KINDS:
    raise Computer13Error(
        f'expected an action of a desktop, got {action.kind}')
  if action.text and action.kind == 'done':
    raise Computer13Error(
        f'expected done without text, got {actions.describe(action.text)}')
  if action.kind == 'type':
    return [command('TYPING', text=action.text)]
  if action.kind == 'hotkey':
    keys = [_KEYS.get(key, key) for key in action.keys]
    return [command('HOTKEY', keys=keys) if len(keys) > 1
            else command('PRESS', key=keys[0])]
  before = []
  if action.point is not None:
    if action.end is None and action.kind != 'scroll':
      return [at(action.kind.upper(), action.point)]
    before = [at('MOVE_TO', action.point)]
  if action.end is not None:
    return [*before, at('DRAG_TO', action.end)]
  if action.kind == 'scroll':
    axis, sign = _WHEEL[action.direction]
    wheel = {'dx': 0, 'dy': 0, axis: sign * action.amount}
    return [*before, command('SCROLL', **wheel)]
  return [action.kind.upper()]
