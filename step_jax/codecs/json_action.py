"""The dictionaries of AndroidWorld's JSONAction.

  {'action_type': 'click', 'x': 540, 'y': 1200}

Coordinates are pixels of the screenshot. What they are to AndroidWorld's
server (android_world/env/actuation.py):

  click, double_tap, long_press   at x, y
  scroll     of half a screen, from the middle: direction is where the view
             goes. x and y are carried, and ignored by the server
  swipe      a drag over the whole screen, through its middle: 'down' and 'up'
             are where the finger goes; 'left' goes right, and 'right' left.
             A drag is the swipe along its longer axis where it begins at an
             edge and crosses half the screen, and else the scroll
  input_text types, without accents and what is not ASCII, and always presses
             Enter at the end. So it is read as text that ends with '\\n', and
             text without that is written as text with it
  keyboard_enter                  Enter: the text '\\n'
  answer, status                  done with an answer; status alone is done
                                  ('complete') or fail ('infeasible')
  open_app, navigate_home, navigate_back, wait

What no action of ours stands for is an error: an index of an element, a place
or clear_text with input_text, unknown. So is what these dictionaries cannot
say: right clicks, keys, drags to where they began, scrolls of another amount
than `SCROLL_AMOUNT`.

The server hands texts to a shell on the phone. Names of apps it does not
escape: one with other signs than letters, digits, ' .+-', or with what looks
like another argument, is an error. Nor answers: they are written without the
four signs "$`\\. Text to type it escapes, and decomposes only then (NFKD, by
which a full-width semicolon is one): it is written decomposed.
"""

from collections.abc import Mapping
import re
from typing import Any
import unicodedata

from step_jax.codecs import actions
from step_jax.codecs import ui_tars

MAX_LENGTH = 2  # dictionaries of an action
SCROLL_AMOUNT = ui_tars.SCROLL_AMOUNT  # half a screen

Command = dict[str, Any]

_PLACE = ('x', 'y')
_FIELDS: dict[str, tuple[str, ...]] = {
    'click': _PLACE,
    'double_tap': _PLACE,
    'long_press': _PLACE,
    'scroll': ('direction', *_PLACE),
    'swipe': ('direction',),
    'input_text': ('text',),
    'keyboard_enter': (),
    'open_app': ('app_name',),
    'navigate_home': (),
    'navigate_back': (),
    'wait': (),
    'answer': ('text',),
    'status': ('goal_status',),
}
_KINDS = {  # which say no more than where, or nothing
    'click': 'click', 'double_tap': 'double_click', 'long_press': 'long_press',
    'navigate_home': 'press_home', 'navigate_back': 'press_back',
    'wait': 'wait'}
_TYPES = {kind: name for name, kind in _KINDS.items()}
_STATUS = {'complete': 'done', 'infeasible': 'fail'}
_SWIPES: dict[str, tuple[actions.Point, actions.Point]] = {
    'down': ((.5, 0.), (.5, 1.)), 'up': ((.5, 1.), (.5, 0.)),
    'left': ((0., .5), (1., .5)), 'right': ((1., .5), (0., .5))}
# The swipe that draws the view where a scroll of this direction goes.
_DRAWING = {'up': 'down', 'down': 'up', 'left': 'left', 'right': 'right'}
_EDGE = .02  # of the screen: what begins there is drawn in from outside
# After a space no digit, as in a number of events, and no option.
_APP_NAME = re.compile(r'\w(?:[\w.+-]| (?!\d|-\w))*')
_NOT_MISREAD = str.maketrans('', '', '"$`\\')  # in an answer


class JSONActionError(actions.ActionError):
  """Dictionaries that are no JSONAction, or have no action of ours."""


def decode(commands: Any, *, screen_size: tuple[int, int]) -> actions.Action:
  """Reads what a model chose.

  Args:
    commands: a dictionary, or a list of one, or of answer and status. Fields
      that are None count as missing.
    screen_size: (width, height) in pixels.

  Returns:
    The action.

  Raises:
    JSONActionError: for anything else; no other error comes from `commands`.

  >>> decode({'action_type': 'input_text', 'text': 'Ana'},
  ...        screen_size=(1080, 2400)).text
  'Ana\\n'
  """
  if isinstance(commands, Mapping):
    commands = [commands]
  if not isinstance(commands, (list, tuple)) or (
      not 1 <= len(commands) <= MAX_LENGTH):
    raise JSONActionError('expected a dictionary or a list of 1 or 2, '
                          f'got {actions.describe(commands)}')
  try:
    *before, (name, fields) = [_read(command) for command in commands]
    names = tuple(other for other, _ in before)
    if names != (('answer',) if before else ()) or (
        before and fields.get('goal_status') != 'complete') or (
            name == 'answer'):
      raise actions.ActionError(
          "expected answer only before a status of 'complete', "
          f'got {" and ".join((*names, name))}')
    answer = before[0][1].get('text') if before else ''
    if before and not answer:
      raise actions.ActionError('expected answer with text, got none')
    return _decode(name, fields, answer, screen_size)
  except actions.ActionError as error:
    raise JSONActionError(str(error)) from None


def _read(command: Any) -> tuple[str, dict[str, Any]]:
  """Returns the type and the fields, all of which it may have."""
  if not isinstance(command, Mapping):
    raise actions.ActionError(
        f'expected a dictionary, got {actions.describe(command)}')
  name = command.get('action_type')
  if not isinstance(name, str) or name not in _FIELDS:
    raise actions.ActionError(
        f'expected action_type to be one of {", ".join(_FIELDS)}, '
        f'got {actions.describe(name)}')
  fields = {key: value for key, value in command.items()
            if key != 'action_type' and value is not None}
  if not fields.keys() <= set(_FIELDS[name]):
    raise actions.ActionError(
        f'expected {name} with fields of {list(_FIELDS[name])}, '
        f'got {actions.describe(fields)}')
  return name, fields


def _decode(name: str, fields: dict[str, Any], answer: Any,
            screen_size: tuple[int, int]) -> actions.Action:
  point = None
  if 'x' in fields or 'y' in fields or name in ('click', 'double_tap',
                                                'long_press'):
    x, y = (_fraction(fields.get(axis), axis, size)
            for axis, size in zip('xy', screen_size, strict=True))
    point = x, y
  if name == 'scroll':
    return actions.Action(
        kind='scroll', direction=fields.get('direction', ''),
        amount=SCROLL_AMOUNT, point=point)
  if name == 'swipe':
    return _decode_swipe(fields.get('direction'))
  if name == 'input_text':
    return _decode_text(fields.get('text'))
  if name == 'keyboard_enter':
    return actions.Action(kind='type', text='\n')
  if name == 'open_app':
    _check_app_name(fields.get('app_name'))
    return actions.Action(kind='open_app', text=fields['app_name'])
  if name == 'status':
    status = fields.get('goal_status')
    if not isinstance(status, str) or status not in _STATUS:
      raise actions.ActionError(
          f'expected goal_status to be one of {", ".join(_STATUS)}, '
          f'got {actions.describe(status)}')
    return actions.Action(kind=_STATUS[status], text=answer)
  return actions.Action(kind=_KINDS[name], point=point)


def _decode_swipe(direction: Any) -> actions.Action:
  if not isinstance(direction, str) or direction not in _SWIPES:
    raise actions.ActionError(
        f'expected direction to be one of {", ".join(_SWIPES)}, '
        f'got {actions.describe(direction)}')
  point, end = _SWIPES[direction]
  return actions.Action(kind='drag', point=point, end=end)


def _decode_text(text: Any) -> actions.Action:
  if not isinstance(text, str) or not text:
    raise actions.ActionError(
        f'expected input_text with text, got {actions.describe(text)}')
  return actions.Action(kind='type', text=text + '\n')


def _fraction(value: Any, name: str, size: int) -> float:
  if type(value) not in (int, float):
    raise actions.ActionError(
        f'expected a number {name}, got {actions.describe(value)}')
  return actions.from_grid(value, size)


def _check_app_name(name: Any) -> None:
  if not isinstance(name, str) or not _APP_NAME.fullmatch(name):
    raise actions.ActionError(
        "expected app_name to be letters, digits and any of ' .+-', "
        f'got {actions.describe(name)}')


def encode(action: actions.Action, *,
           screen_size: tuple[int, int]) -> list[Command]:
  """Writes what says an action, for AndroidWorld's server to take in turn.

  `decode` reads the same action from it, points being moved to the nearest
  pixel of the screen, drags being swipes or scrolls, text that does not end
  with '\\n' getting it, and texts being what a shell cannot misread; see the
  module. It refuses text that has
  grown beyond `actions.MAX_TEXT` so.

  Args:
    action: what to say.
    screen_size: (width, height) of the screenshot in pixels.

  Returns:
    One dictionary; two for done with an answer.

  Raises:
    JSONActionError: for what these dictionaries cannot say; see the module.
  """
  def command(name: str, **fields: Any) -> Command:
    return {'action_type': name, **fields}

  place = {}
  if action.point is not None:
    x, y = actions.to_pixel(action.point, screen_size)
    place = {'x': x, 'y': y}
  if action.kind in _TYPES:
    return [command(_TYPES[action.kind], **place)]
  if action.kind == 'scroll':
    if action.amount != SCROLL_AMOUNT:
      raise JSONActionError(
          f'expected a scroll of {SCROLL_AMOUNT} notches, half a screen, '
          f'got {action.amount}')
    return [command('scroll', direction=action.direction, **place)]
  if action.kind == 'drag':
    name, direction = _gesture(action, screen_size)
    return [command(name, direction=direction)]
  if action.kind == 'type':
    text = unicodedata.normalize('NFKD', action.text.removesuffix('\n'))
    return [command('input_text', text=text) if text
            else command('keyboard_enter')]
  if action.kind == 'open_app':
    try:
      _check_app_name(action.text)
    except actions.ActionError as error:
      raise JSONActionError(str(error)) from None
    return [command('open_app', app_name=action.text)]
  for status, kind in _STATUS.items():
    if action.kind == kind:
      text = action.text.translate(_NOT_MISREAD)
      answer = [command('answer', text=text)] if text else []
      return [*answer, command('status', goal_status=status)]
  raise JSONActionError(
      f'expected an action that AndroidWorld knows, got {action.kind}')


def received(action: actions.Action | None, *,
             screen_size: tuple[int, int]) -> actions.Action | None:
  """What a phone makes of an action; None if it does nothing.

  Args:
    action: None for none.
    screen_size: (width, height) of the screenshot in pixels.
  """
  if action is None:
    return None
  try:
    return decode(
        encode(action, screen_size=screen_size), screen_size=screen_size)
  except JSONActionError:
    return None


def _gesture(
    action: actions.Action, screen_size: tuple[int, int]) -> tuple[str, str]:
  """The type and direction of a drag."""
  view = actions.finger_direction(action.point, action.end, screen_size)
  if not view or action.point is None or action.end is None:
    raise JSONActionError(
        f'expected a drag to another place, got one to {action.end}')
  axis = int(view in ('up', 'down'))
  start, length = action.point[axis], abs(action.end[axis] - action.point[axis])
  from_edge = start if view in ('up', 'left') else 1 - start
  if from_edge <= _EDGE and length >= .5:
    return 'swipe', _DRAWING[view]
  return 'scroll', view
