"""computer_13: every dictionary, every error, and round trips."""

import math

import hypothesis
from hypothesis import strategies as st
import pytest

from step_jax.codecs import actions
from step_jax.codecs.actions import Action
from step_jax.codecs import computer_13
from tests import action_strategies

thousand_cases = action_strategies.thousand_cases

SIZE = (1920, 1080)


def _command(action_type, **parameters):
  return {'action_type': action_type, 'parameters': parameters}


def _decode(commands):
  return computer_13.decode(commands, screen_size=SIZE)


def _press(*keys):
  return Action(kind='hotkey', keys=keys)


def _scroll(direction, amount, point=None):
  return Action(
      kind='scroll', direction=direction, amount=amount, point=point)


CENTRE = {'x': 960, 'y': 540}


@pytest.mark.parametrize('action, commands', [
    (Action(kind='click', point=(.5, .5)), [_command('CLICK', **CENTRE)]),
    (Action(kind='click', point=(1., 0.)), [_command('CLICK', x=1920, y=0)]),
    (Action(kind='right_click', point=(.5, .5)),
     [_command('RIGHT_CLICK', **CENTRE)]),
    (Action(kind='double_click', point=(.5, .5)),
     [_command('DOUBLE_CLICK', **CENTRE)]),
    (Action(kind='drag', point=(.5, .5), end=(.25, .75)),
     [_command('MOVE_TO', **CENTRE), _command('DRAG_TO', x=480, y=810)]),
    (_scroll('up', 3), [_command('SCROLL', dx=0, dy=3)]),
    (_scroll('down', 5), [_command('SCROLL', dx=0, dy=-5)]),
    (_scroll('left', 1), [_command('SCROLL', dx=-1, dy=0)]),
    (_scroll('right', 100, (.5, .5)),
     [_command('MOVE_TO', **CENTRE), _command('SCROLL', dx=100, dy=0)]),
    (Action(kind='type', text=action_strategies.INJECTION + '\n'),
     [_command('TYPING', text=action_strategies.INJECTION + '\n')]),
    (_press('enter'), [_command('PRESS', key='enter')]),
    (_press('space'), [_command('PRESS', key=' ')]),
    (_press('ctrl', 'space'), [_command('HOTKEY', keys=['ctrl', ' '])]),
    (Action(kind='wait'), ['WAIT']),
    (Action(kind='fail'), ['FAIL']),
    (Action(kind='done'), ['DONE']),
])
def test_actions(action, commands):
  assert computer_13.encode(action, screen_size=SIZE) == commands
  assert _decode(commands) == action
  assert _decode(tuple(commands)) == action


@pytest.mark.parametrize('commands, action', [
    (_command('CLICK', x=960., y=540.), Action(kind='click', point=(.5, .5))),
    (_command('CLICK', button='left', num_clicks=1, **CENTRE),
     Action(kind='click', point=(.5, .5))),
    (_command('CLICK', button='right', **CENTRE),
     Action(kind='right_click', point=(.5, .5))),
    (_command('CLICK', num_clicks=2, **CENTRE),
     Action(kind='double_click', point=(.5, .5))),
    ({'action_type': 'CLICK', **CENTRE}, Action(kind='click', point=(.5, .5))),
    (_command('SCROLL', dy=2), _scroll('up', 2)),
    (_command('SCROLL', dx=2), _scroll('right', 2)),
    (_command('PRESS', key='Return'), _press('enter')),
    (_command('PRESS', key='\n'), _press('enter')),
    (_command('HOTKEY', keys=['ctrlleft', 'c']), _press('ctrl', 'c')),
    (_command('HOTKEY', keys=('f5',)), _press('f5')),
    ('WAIT', Action(kind='wait')),
    ('DONE', Action(kind='done')),
    ('FAIL', Action(kind='fail')),
    ({'action_type': 'WAIT'}, Action(kind='wait')),
    (_command('DONE'), Action(kind='done')),
    (_command('FAIL'), Action(kind='fail')),
])
def test_actions_may_be_written_in_other_ways(commands, action):
  assert _decode(commands) == action


ONE_OR_TWO = 'expected a dictionary or a list of 1 or 2, got '
NUMBERS = 'expected whole numbers dx and dy, one of them 0, got '
CLICKS = ('expected one click of the left or right button or two of the left, '
          'got ')


@pytest.mark.parametrize('commands, message', [
    (None, ONE_OR_TWO + 'None'),
    (7, ONE_OR_TWO + '7'),
    ([], ONE_OR_TWO + '[]'),
    (['WAIT'] * 3, ONE_OR_TWO + "['WAIT', 'WAIT', 'WAIT']"),
    (10**5000, ONE_OR_TWO + 'a huge int'),
    ([None], 'expected a dictionary, got None'),
    ('pyautogui.click()', "expected a dictionary, got 'pyautogui.click()'"),
    ({}, 'expected action_type to be one of MOVE_TO, CLICK, RIGHT_CLICK, '
     'DOUBLE_CLICK, DRAG_TO, SCROLL, TYPING, PRESS, HOTKEY, WAIT, FAIL, DONE, '
     'got None'),
    # Without an action of ours.
    *[(_command(name), f'expected a whole action, got {name}, which has no '
       'equivalent here')
      for name in ('MOUSE_DOWN', 'MOUSE_UP', 'KEY_DOWN', 'KEY_UP')],
    (_command('MOVE_TO', **CENTRE), 'expected DRAG_TO or SCROLL after MOVE_TO, '
     'got MOVE_TO alone'),
    (_command('DRAG_TO', **CENTRE), 'expected MOVE_TO before DRAG_TO, got '
     'DRAG_TO alone'),
    (_command('CLICK'), 'expected a number x, got None'),
    (_command('CLICK', button='middle', **CENTRE), CLICKS + "1 of 'middle'"),
    (_command('CLICK', num_clicks=3, **CENTRE), CLICKS + "3 of 'left'"),
    (_command('CLICK', button='right', num_clicks=2, **CENTRE),
     CLICKS + "2 of 'right'"),
    (_command('SCROLL', dx=1, dy=1), NUMBERS + '1 and 1'),
    (_command('SCROLL', dx=0, dy=0), NUMBERS + '0 and 0'),
    (['WAIT', 'WAIT'], 'expected MOVE_TO and then DRAG_TO or SCROLL, got WAIT '
     'and WAIT'),
    ([_command('MOVE_TO', **CENTRE), _command('CLICK', **CENTRE)],
     'expected MOVE_TO and then DRAG_TO or SCROLL, got MOVE_TO and CLICK'),
    ([_command('CLICK', **CENTRE), _command('DRAG_TO', **CENTRE)],
     'expected MOVE_TO and then DRAG_TO or SCROLL, got CLICK and DRAG_TO'),
    # Ill-typed or out of range.
    (_command('CLICK', num_clicks=True, **CENTRE), CLICKS + "True of 'left'"),
    (_command('CLICK', button=['left'], **CENTRE), CLICKS + "1 of ['left']"),
    (_command('CLICK', x='960', y=540), "expected a number x, got '960'"),
    (_command('CLICK', x=True, y=540), 'expected a number x, got True'),
    (_command('CLICK', x=960), 'expected a number y, got None'),
    (_command('CLICK', x=1921, y=540),
     'expected a coordinate from 0 to 1920, got 1921'),
    (_command('CLICK', x=960, y=-1),
     'expected a coordinate from 0 to 1080, got -1'),
    (_command('CLICK', x=math.nan, y=1),
     'expected a coordinate from 0 to 1920, got nan'),
    (_command('CLICK', x=10**5000, y=1),
     'expected a coordinate from 0 to 1920, got a huge int'),
    (_command('CLICK', keys=['a'], **CENTRE), "expected CLICK with parameters "
     "of ['x', 'y', 'button', 'num_clicks'], got {'keys': ['a'], 'x': 960, "
     "'y': 540}"),
    ({'action_type': 'WAIT', 'parameters': None},
     'expected WAIT with parameters of [], got None'),
    (_command('SCROLL', dx=1.), NUMBERS + '1.0 and 0'),
    (_command('SCROLL', dy=101),
     'expected amount to be a whole number from 1 to 100, got 101'),
    (_command('TYPING'), 'expected type with text, got none'),
    (_command('TYPING', text=1), 'expected text to be 1 to 10000 characters '
     'that can be typed, got 1'),
    (_command('PRESS'), 'expected names of keys, got [None]'),
    (_command('PRESS', key='A'), "expected the name of a key, got 'A'"),
    (_command('PRESS', key="a'); x('"),
     'expected the name of a key, got "a\'); x(\'"'),
    (_command('HOTKEY', keys='ctrl'), "expected names of keys, got 'ctrl'"),
    (_command('HOTKEY', keys=[]), 'expected hotkey with keys, got none'),
    (_command('HOTKEY', keys=['a'] * 17), 'expected keys to be 1 to 16 names '
     "of keys, got ('a', 'a', 'a', 'a', 'a', 'a', ...)"),
], ids=lambda value: None if isinstance(value, str) else 'commands')
def test_errors_say_what_was_expected(commands, message):
  with pytest.raises(computer_13.Computer13Error) as caught:
    _decode(commands)
  assert str(caught.value) == message


@pytest.mark.parametrize('action', [
    Action(kind='long_press', point=(.5, .5)),
    Action(kind='open_app', text='Clock'), Action(kind='press_home'),
    Action(kind='press_back')], ids=lambda action: action.kind)
def test_what_only_a_phone_can_do_has_no_words(action):
  with pytest.raises(
      computer_13.Computer13Error,
      match=f'expected an action of a desktop, got {action.kind}'):
    computer_13.encode(action, screen_size=SIZE)


def test_an_answer_has_no_room():
  with pytest.raises(computer_13.Computer13Error,
                     match="expected done without text, got '42'"):
    computer_13.encode(Action(kind='done', text='42'), screen_size=SIZE)


# Properties.


@pytest.mark.parametrize('size', [SIZE, (1000, 1000), (1366, 768)])
def test_encode_then_decode_is_the_identity(size):
  @thousand_cases
  @hypothesis.given(action_strategies.some_actions(
      action_strategies.grid_points(size), answers=st.just('')))
  def check(action):
    assert isinstance(action, Action)
    for point in filter(None, (action.point, action.end)):
      assert all((fraction * steps) == pytest.approx(round(fraction * steps))
                 for fraction, steps in zip(point, size, strict=True))
    commands = computer_13.encode(action, screen_size=size)
    assert computer_13.decode(commands, screen_size=size) == action

  check()


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() |
    st.sampled_from(sorted(actions.KEYS)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=3), inner, max_size=3), max_leaves=6)
_parameters = {  # mostly as they should be
    'x': st.integers(0, 1080) | _values,
    'y': st.integers(0, 1080) | _values,
    'dx': st.integers(-2, 2) | _values,
    'dy': st.integers(-2, 2) | _values,
    'button': st.sampled_from(['left', 'right', 'middle']) | _values,
    'num_clicks': st.integers(1, 3) | _values,
    'text': action_strategies.texts | _values,
    'key': st.sampled_from(sorted(actions.KEYS)) | _values,
    'keys': action_strategies.keys | _values,
}


def _commands_of(name, needed=(), optional=()):
  return st.fixed_dictionaries({
      'action_type': st.just(name),
      'parameters': st.fixed_dictionaries(
          {key: _parameters[key] for key in needed},
          optional={key: _parameters[key] for key in optional})})


_moves, _drags, _clicks, _right_clicks, _double_clicks = (
    _commands_of(name, ('x', 'y'), optional) for name, optional in [
        ('MOVE_TO', ()), ('DRAG_TO', ()), ('CLICK', ('button', 'num_clicks')),
        ('RIGHT_CLICK', ()), ('DOUBLE_CLICK', ())])
_scrolls = _commands_of('SCROLL', optional=('dx', 'dy'))
_commands = st.one_of(
    _moves, _drags, _clicks, _right_clicks, _double_clicks, _scrolls,
    _commands_of('TYPING', ('text',)), _commands_of('PRESS', ('key',)),
    _commands_of('HOTKEY', ('keys',)), _commands_of('MOUSE_DOWN'),
    _commands_of('WAIT'), _commands_of('FAIL'),
    _commands_of('DONE', optional=('text',)),
    st.fixed_dictionaries({'action_type': _values}, optional=_parameters),
    st.tuples(_moves, _drags | _scrolls), _values)


@thousand_cases
@hypothesis.given(_commands | st.lists(_commands, max_size=3))
def test_anything_raises_the_codecs_error_only(commands):
  try:
    action = _decode(commands)
  except computer_13.Computer13Error as error:
    assert '\n' not in str(error) and str(error).startswith('expected ')
  else:
    assert isinstance(action, Action) and actions.matches(action, action)


def test_the_strategy_of_commands_reaches_actions_and_errors():
  reached = action_strategies.reached(
      _commands, _decode, computer_13.Computer13Error)
  assert reached == {'error', *action_strategies.DESKTOP}
