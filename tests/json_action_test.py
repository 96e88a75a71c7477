"""AndroidWorld's JSONAction: every type, every error, and round trips."""

import math

import hypothesis
from hypothesis import strategies as st
import pytest

from step_jax.codecs import actions
from step_jax.codecs.actions import Action
from step_jax.codecs import json_action
from step_jax.codecs import ui_tars
from tests import action_strategies

thousand_cases = action_strategies.thousand_cases

SIZE = (1080, 2400)
CENTRE = {'x': 540, 'y': 1200}


def _command(action_type, **fields):
  return {'action_type': action_type, **fields}


def _decode(commands):
  return json_action.decode(commands, screen_size=SIZE)


def _scroll(direction, point=None):
  return Action(kind='scroll', direction=direction, amount=5, point=point)


@pytest.mark.parametrize('action, commands', [
    (Action(kind='click', point=(.5, .5)), [_command('click', **CENTRE)]),
    (Action(kind='double_click', point=(0., .5)),
     [_command('double_tap', x=0, y=1200)]),
    (Action(kind='long_press', point=(.5, .5)),
     [_command('long_press', **CENTRE)]),
    # The view goes down in both; AndroidWorld moves the finger up for it.
    (_scroll('down'), [_command('scroll', direction='down')]),
    (_scroll('left', (.5, .5)),
     [_command('scroll', direction='left', **CENTRE)]),
    # Where the finger goes, but for left and right, which AndroidWorld swaps.
    (Action(kind='drag', point=(.5, 0.), end=(.5, 1.)),
     [_command('swipe', direction='down')]),
    (Action(kind='drag', point=(.5, 1.), end=(.5, 0.)),
     [_command('swipe', direction='up')]),
    (Action(kind='drag', point=(0., .5), end=(1., .5)),
     [_command('swipe', direction='left')]),
    (Action(kind='drag', point=(1., .5), end=(0., .5)),
     [_command('swipe', direction='right')]),
    (Action(kind='type', text=action_strategies.INJECTION + '\n'),
     [_command('input_text', text=action_strategies.INJECTION)]),
    (Action(kind='type', text='a\nb\n\n'),
     [_command('input_text', text='a\nb\n')]),
    (Action(kind='type', text='\n'), [_command('keyboard_enter')]),
    (Action(kind='open_app', text='Simple Calendar Pro'),
     [_command('open_app', app_name='Simple Calendar Pro')]),
    (Action(kind='press_home'), [_command('navigate_home')]),
    (Action(kind='press_back'), [_command('navigate_back')]),
    (Action(kind='wait'), [_command('wait')]),
    (Action(kind='done'), [_command('status', goal_status='complete')]),
    (Action(kind='done', text='42'),
     [_command('answer', text='42'), _command('status',
                                              goal_status='complete')]),
    (Action(kind='fail'), [_command('status', goal_status='infeasible')]),
])
def test_actions(action, commands):
  assert json_action.encode(action, screen_size=SIZE) == commands
  assert _decode(commands) == action
  assert _decode(tuple(commands)) == action
  if len(commands) == 1:
    assert _decode(commands[0] | {'index': None, 'keycode': None}) == action


def test_text_gets_the_enter_that_androidworld_presses():
  commands = json_action.encode(
      Action(kind='type', text='a'), screen_size=SIZE)
  assert commands == [_command('input_text', text='a')]
  assert _decode(commands) == Action(kind='type', text='a\n')


@pytest.mark.parametrize('text, typed', [
    ('Za\u0308hne', 'Za\u0308hne'),
    ('Z\xe4hne', 'Za\u0308hne'),  # the server drops the dots in both
    # Full-width signs would be a shell's by the time they reach it.
    ('a\uff1breboot\uff04\uff08x\uff09', 'a;reboot$(x)'),
])
def test_text_is_typed_as_plain_as_it_ends_up(text, typed):
  assert json_action.encode(
      Action(kind='type', text=text), screen_size=SIZE) == [
          _command('input_text', text=typed)]


@pytest.mark.parametrize('text, answers', [
    ('$5.99', [_command('answer', text='5.99')]),
    ('4" $(reboot)', [_command('answer', text='4 (reboot)')]),
    ('"$`\\', []),
])
def test_an_answer_loses_what_a_shell_could_misread(text, answers):
  assert json_action.encode(
      Action(kind='done', text=text), screen_size=SIZE) == [
          *answers, _command('status', goal_status='complete')]


def test_the_last_pixel_is_the_edge():
  action = Action(kind='click', point=(1., 1.))
  assert json_action.encode(action, screen_size=SIZE) == [
      _command('click', x=1079, y=2399)]


TYPES = ('expected action_type to be one of click, double_tap, long_press, '
         'scroll, swipe, input_text, keyboard_enter, open_app, navigate_home, '
         'navigate_back, wait, answer, status, got ')
ANSWER = "expected answer only before a status of 'complete', got "
NAME = "expected app_name to be letters, digits and any of ' .+-', got "


@pytest.mark.parametrize('commands, message', [
    (None, 'expected a dictionary or a list of 1 or 2, got None'),
    ('wait', "expected a dictionary or a list of 1 or 2, got 'wait'"),
    ([], 'expected a dictionary or a list of 1 or 2, got []'),
    ([1], 'expected a dictionary, got 1'),
    ({}, TYPES + 'None'),
    (_command('tap', **CENTRE), TYPES + "'tap'"),
    (_command('unknown'), TYPES + "'unknown'"),
    (_command(['click']), TYPES + "['click']"),
    (_command('click'), 'expected a number x, got None'),
    (_command('click', x=5), 'expected a number y, got None'),
    (_command('scroll', direction='up', x=5), 'expected a number y, got None'),
    (_command('click', x='5', y=5), "expected a number x, got '5'"),
    (_command('click', x=True, y=5), 'expected a number x, got True'),
    (_command('click', x=1081, y=5),
     'expected a coordinate from 0 to 1080, got 1081'),
    (_command('click', x=math.nan, y=5),
     'expected a coordinate from 0 to 1080, got nan'),
    (_command('click', index=3),
     "expected click with fields of ['x', 'y'], got {'index': 3}"),
    (_command('input_text', text='a', **CENTRE), 'expected input_text with '
     "fields of ['text'], got {'text': 'a', 'x': 540, 'y': 1200}"),
    (_command('input_text', text='a', clear_text=True), 'expected input_text '
     "with fields of ['text'], got {'clear_text': True, 'text': 'a'}"),
    (_command('input_text'), 'expected input_text with text, got None'),
    (_command('input_text', text=''), "expected input_text with text, got ''"),
    (_command('input_text', text=5), 'expected input_text with text, got 5'),
    (_command('scroll'), 'expected scroll with direction, got none'),
    (_command('scroll', direction='in'), 'expected direction to be one of up, '
     "down, left, right, got 'in'"),
    (_command('swipe'), 'expected direction to be one of down, up, left, '
     'right, got None'),
    (_command('swipe', direction=['up']), 'expected direction to be one of '
     "down, up, left, right, got ['up']"),
    (_command('open_app'), NAME + 'None'),
    (_command('open_app', app_name='Clock; reboot'), NAME + "'Clock; reboot'"),
    (_command('status'), 'expected goal_status to be one of complete, '
     'infeasible, got None'),
    (_command('status', goal_status=['complete']), 'expected goal_status to be '
     "one of complete, infeasible, got ['complete']"),
    (_command('answer', text='42'), ANSWER + 'answer'),
    ([_command('answer', text='42'), _command('wait')],
     ANSWER + 'answer and wait'),
    ([_command('answer', text='42'),
      _command('status', goal_status='infeasible')],
     ANSWER + 'answer and status'),
    ([_command('wait'), _command('wait')], ANSWER + 'wait and wait'),
    ([_command('answer'), _command('status', goal_status='complete')],
     'expected answer with text, got none'),
    ([_command('answer', text='\0'), _command('status',
                                              goal_status='complete')],
     'expected text to be 1 to 10000 characters that can be typed, '
     "got '\\x00'"),
], ids=lambda value: None if isinstance(value, str) else 'commands')
def test_errors_say_what_was_expected(commands, message):
  with pytest.raises(json_action.JSONActionError) as caught:
    _decode(commands)
  assert str(caught.value) == message


@pytest.mark.parametrize('start, end, name, direction', [
    ((.5, .9), (.5, .3), 'scroll', 'down'),  # the finger draws it up
    ((.5, .3), (.5, .9), 'scroll', 'up'),
    ((.9, .5), (.2, .5), 'scroll', 'right'),
    ((.2, .5), (.9, .5), 'scroll', 'left'),
    ((.2, .5), (.9, .2), 'scroll', 'left'),  # 756 pixels, not 720
    ((.2, .5), (.8, .2), 'scroll', 'down'),  # 648 pixels
    ((.3, .01), (.4, .6), 'swipe', 'down'),  # from the edge: what lies outside
    ((.5, .99), (.5, .4), 'swipe', 'up'),
    ((.01, .3), (.6, .3), 'swipe', 'left'),  # AndroidWorld's name for it
    ((.99, .3), (.4, .3), 'swipe', 'right'),
    ((.5, .01), (.5, .4), 'scroll', 'up'),  # too short
    ((.5, .03), (.5, .9), 'scroll', 'up'),
    ((.5, .99), (.6, 1.), 'scroll', 'left'),
])
def test_drags_are_swipes_or_scrolls(start, end, name, direction):
  """Of bytedance/UI-TARS #192 and #231: whatever models draw on phones."""
  assert json_action.encode(
      Action(kind='drag', point=start, end=end), screen_size=(1080, 2400)) == [
          _command(name, direction=direction)]


@pytest.mark.parametrize('action, message', [
    (Action(kind='right_click', point=(.5, .5)),
     'expected an action that AndroidWorld knows, got right_click'),
    (Action(kind='hotkey', keys=('enter',)),
     'expected an action that AndroidWorld knows, got hotkey'),
    (Action(kind='scroll', direction='up', amount=3),
     'expected a scroll of 5 notches, half a screen, got 3'),
    (Action(kind='drag', point=(.5, .25), end=(.5, .25)),
     'expected a drag to another place, got one to (0.5, 0.25)'),
    (Action(kind='open_app', text='$(reboot)'), NAME + "'$(reboot)'"),
    (Action(kind='open_app', text=' Clock'), NAME + "' Clock'"),
    (Action(kind='open_app', text='Clock 100000'), NAME + "'Clock 100000'"),
    (Action(kind='open_app', text='Clock -p'), NAME + "'Clock -p'"),
])
def test_what_cannot_be_said_is_an_error(action, message):
  with pytest.raises(json_action.JSONActionError) as caught:
    json_action.encode(action, screen_size=SIZE)
  assert str(caught.value) == message


# Properties.


def _pixels(size):
  width, height = size
  return st.tuples(st.integers(0, width - 1).map(lambda x: x / width),
                   st.integers(0, height - 1).map(lambda y: y / height))


@pytest.mark.parametrize('size', [SIZE, (240, 540), (1440, 3120)])
def test_encode_then_decode_is_the_identity(size):
  said = set()

  @thousand_cases
  @hypothesis.given(action_strategies.some_actions(
      _pixels(size), amounts=st.just(5), kinds=actions.KINDS))
  def check(action):
    for point in filter(None, (action.point, action.end)):
      assert actions.to_pixel(point, size) == tuple(
          pytest.approx(fraction * steps)
          for fraction, steps in zip(point, size, strict=True))
    try:
      commands = json_action.encode(action, screen_size=size)
    except json_action.JSONActionError as error:
      assert action.kind in ('right_click', 'hotkey', 'open_app') or (
          action.kind == 'drag' and action.point == action.end)
      assert str(error).startswith('expected ')
      return
    said.add(action.kind)
    found = json_action.decode(commands, screen_size=size)
    assert found == json_action.received(action, screen_size=size)
    assert found == action_strategies.as_androidworld_gets(action) or (
        action.kind == 'drag' and found.kind in ('drag', 'scroll'))

  check()
  assert said == set(actions.KINDS) - {'right_click', 'hotkey'}


@thousand_cases
@hypothesis.given(action_strategies.some_actions(
    amounts=st.just(5), kinds=action_strategies.MOBILE))
def test_what_is_read_can_be_said_in_ui_tars(action):
  try:
    commands = json_action.encode(action, screen_size=SIZE)
  except json_action.JSONActionError:
    return
  decoded = _decode(commands)
  assert action.kind == 'drag' or actions.matches(
      decoded, action_strategies.as_androidworld_gets(action), tolerance=.0015)
  text = ui_tars.encode(decoded, convention='thousand', platform='mobile')
  _, read = ui_tars.decode(text, convention='thousand', platform='mobile')
  assert actions.matches(decoded, read, tolerance=.001)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=3), inner, max_size=3), max_leaves=6)
_fields = {  # mostly as they should be
    'x': st.integers(0, 1080) | _values,
    'y': st.integers(0, 1080) | _values,
    'text': action_strategies.texts | _values,
    'direction': st.sampled_from(actions.DIRECTIONS) | _values,
    'goal_status': st.sampled_from(['complete', 'infeasible']) | _values,
    'app_name': st.sampled_from(['clock', 'Clock;']) | _values,
}
_types = {
    'click': 'xy', 'double_tap': 'xy', 'long_press': 'xy',
    'scroll': ['direction'], 'swipe': ['direction'], 'input_text': ['text'],
    'keyboard_enter': [], 'open_app': ['app_name'], 'navigate_home': [],
    'navigate_back': [], 'wait': [], 'unknown': []}


def _commands_of(name, fields):
  return st.fixed_dictionaries({
      'action_type': st.just(name), **{key: _fields[key] for key in fields}})


_commands = st.one_of(
    *[_commands_of(name, fields) for name, fields in _types.items()],
    _commands_of('status', ['goal_status']),
    st.fixed_dictionaries({'action_type': _values}, optional=_fields),
    st.tuples(_commands_of('answer', ['text']),
              _commands_of('status', ['goal_status'])), _values)


@thousand_cases
@hypothesis.given(_commands | st.lists(_commands, max_size=3))
def test_anything_raises_the_codecs_error_only(commands):
  try:
    action = _decode(commands)
  except json_action.JSONActionError as error:
    assert '\n' not in str(error) and str(error).startswith('expected ')
  else:
    again = json_action.encode(action, screen_size=SIZE)
    assert actions.matches(
        _decode(again), action_strategies.as_androidworld_gets(action),
        tolerance=.001)


def test_the_strategy_of_commands_reaches_actions_and_errors():
  reached = action_strategies.reached(
      _commands, _decode, json_action.JSONActionError)
  assert reached == {'error', *actions.KINDS} - {'right_click', 'hotkey'}
