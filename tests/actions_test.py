"""The action record: what it accepts, and when two of them match."""

import dataclasses
import importlib.util
import math
import pathlib

import hypothesis
from hypothesis import strategies as st
import pytest

from step_jax.codecs import actions
from step_jax.codecs.actions import Action
from tests import action_strategies

thousand_cases = action_strategies.thousand_cases

GOOD = {
    'click': {'point': (.5, .25)},
    'double_click': {'point': (0., 1.)},
    'right_click': {'point': (1, 0)},
    'long_press': {'point': (.5, .5)},
    'drag': {'point': (.1, .2), 'end': (.3, .4)},
    'scroll': {'direction': 'down', 'amount': 5},
    'type': {'text': 'a\tb\n'},
    'hotkey': {'keys': ('ctrl', 'shift', 't')},
    'open_app': {'text': 'Clock'},
    'press_home': {},
    'press_back': {},
    'wait': {},
    'done': {},
    'fail': {},
}


def test_every_kind_is_made_frozen_and_keyword_only():
  assert tuple(GOOD) == actions.KINDS
  for kind, arguments in GOOD.items():
    action = Action(kind=kind, **arguments)
    assert action == Action(kind=kind, **arguments)
    assert hash(action) == hash(Action(kind=kind, **arguments))
    with pytest.raises(dataclasses.FrozenInstanceError):
      action.kind = 'wait'
  with pytest.raises(TypeError):
    Action('wait')


@pytest.mark.parametrize('kind', actions.KINDS)
def test_what_is_missing_or_superfluous_is_named(kind):
  optional = {'scroll': {'point'}, 'done': {'text'}}.get(kind, set())
  arguments = {
      'point': (.5, .5), 'end': (.5, .5), 'direction': 'up', 'amount': 1,
      'text': 'a', 'keys': ('a',)}
  for name, value in arguments.items():
    if name in GOOD[kind]:
      less = {key: GOOD[kind][key] for key in GOOD[kind] if key != name}
      with pytest.raises(actions.ActionError) as caught:
        Action(kind=kind, **less)
      assert str(caught.value) == f'expected {kind} with {name}, got none'
    elif name in optional:
      assert getattr(
          Action(kind=kind, **GOOD[kind], **{name: value}), name) == value
    else:
      with pytest.raises(
          actions.ActionError, match=f'expected {kind} without {name}, got '):
        Action(kind=kind, **GOOD[kind], **{name: value})


@pytest.mark.parametrize('kind, name, value', [
    ('click', 'point', (.5,)),
    ('click', 'point', (.5, .5, .5)),
    ('click', 'point', [.5, .5]),
    ('click', 'point', (.5, '0.5')),
    ('click', 'point', (-.001, .5)),
    ('click', 'point', (.5, 1.001)),
    ('click', 'point', (math.nan, .5)),
    ('click', 'point', (math.inf, .5)),
    ('click', 'point', (10**400, .5)),
    ('click', 'point', 0),
    ('drag', 'end', (2, 2)),
    ('scroll', 'direction', 'sideways'),
    ('scroll', 'direction', ['up']),
    ('scroll', 'amount', -1),
    ('scroll', 'amount', 101),
    ('scroll', 'amount', 1.),
    ('scroll', 'amount', True),
    ('type', 'text', b'a'),
    ('type', 'text', 'a\0b'),
    ('type', 'text', '\x1b[2J'),
    ('type', 'text', 'a\r\n'),
    ('type', 'text', '\x7f'),
    ('type', 'text', '\x85'),
    ('type', 'text', '\ud800'),
    ('type', 'text', 'a' * 10_001),
    ('open_app', 'text', 'a\0b'),
    ('hotkey', 'keys', 'a'),
    ('hotkey', 'keys', ['a']),
    ('hotkey', 'keys', ('A',)),
    ('hotkey', 'keys', ('return',)),
    ('hotkey', 'keys', ('é',)),
    ('hotkey', 'keys', (1,)),
    ('hotkey', 'keys', tuple('abcdefghijklmnopq')),
])
def test_bad_values_are_named_in_one_short_line(kind, name, value):
  with pytest.raises(actions.ActionError) as caught:
    Action(kind=kind, **{**GOOD[kind], name: value})
  message = str(caught.value)
  assert message.startswith(f'expected {name} to be ')
  assert '\n' not in message and len(message) < 200


@pytest.mark.parametrize('kind', ['', 'tap', None, 0, ['click']])
def test_other_kinds_are_refused(kind):
  with pytest.raises(actions.ActionError, match='expected an action of click'):
    Action(kind=kind)


def test_the_longest_text_and_the_most_keys_are_accepted():
  assert len(Action(kind='type', text='é' * 10_000).text) == 10_000
  assert len(Action(kind='hotkey', keys=('down',) * 16).keys) == 16


def test_keys_have_one_name_each():
  assert {'ctrl', 'enter', 'f1', 'f24', 'a', '0', '~', 'space'} <= actions.KEYS
  for key in actions.KEYS:
    assert actions.canonical_key(key) == key
  for name, key in [('Return', 'enter'), ('\n', 'enter'), ('ESCAPE', 'esc'),
                    ('pgup', 'pageup'), (' ', 'space'), ('\t', 'tab'),
                    ('ctrlright', 'ctrl'), ('altright', 'altright'),
                    ('F5', 'f5'), ('command', 'win')]:
    assert actions.canonical_key(name) == key
  for name in ['', 'A', 'ctrl c', 'volumeup', 'é']:
    with pytest.raises(actions.ActionError, match='the name of a key'):
      actions.canonical_key(name)


def test_keys_are_as_pyautogui_calls_them():
  spec = importlib.util.find_spec('pyautogui')  # imports with a display only
  if spec is None:
    pytest.skip('pyautogui is not installed')
  source = pathlib.Path(spec.origin).read_text(encoding='utf-8')
  listed = source.split('KEY_NAMES = [')[1].split('\n]')[0]
  assert listed.count('\n') > 150
  for key in actions.KEYS - {'"', '\\'}:  # these two are written in other ways
    assert f'    "{key}",\n' in listed, key


# Grids.


@pytest.mark.parametrize('size', [1, 28, 1000, 1080, 1920, 1932, 4095])
def test_every_position_of_a_grid_is_kept(size):
  for position in range(size + 1):
    fraction = actions.from_grid(position, size)
    assert 0 <= fraction <= 1
    assert actions.to_grid(fraction, size) == position


@pytest.mark.parametrize('position', [-1, 1001, math.nan, math.inf,
                                      pytest.param(10**5000, id='huge')])
def test_positions_outside_are_refused(position):
  with pytest.raises(
      actions.ActionError, match='expected a coordinate from 0 to 1000, got '):
    actions.from_grid(position, 1000)


@pytest.mark.parametrize('point, pixel', [
    ((0., 0.), (0, 0)), ((.5, .5), (960, 540)), ((1., 1.), (1919, 1079)),
    ((1919 / 1920, 1079 / 1080), (1919, 1079)), ((.2501, .4996), (480, 540))])
def test_pixels_are_on_the_screen(point, pixel):
  assert actions.to_pixel(point, (1920, 1080)) == pixel


# Matching.


def _click(x, y, kind='click'):
  return Action(kind=kind, point=(x, y))


def _scroll(point=None, direction='down', amount=5):
  return Action(
      kind='scroll', point=point, direction=direction, amount=amount)


def _drag(point, end):
  return Action(kind='drag', point=point, end=end)


def _type(text):
  return Action(kind='type', text=text)


def _open(name):
  return Action(kind='open_app', text=name)


def _press(*keys):
  return Action(kind='hotkey', keys=keys)


@pytest.mark.parametrize('a, b, expected', [
    (None, None, False),
    (None, Action(kind='wait'), False),
    (Action(kind='wait'), Action(kind='wait'), True),
    (Action(kind='done'), Action(kind='fail'), False),
    (Action(kind='done', text='3 '), Action(kind='done', text=' 3'), True),
    (Action(kind='done', text='3'), Action(kind='done', text='4'), False),
    (_click(.5, .5), _click(.514, .5), True),  # 14 pixels of 1000
    (_click(.5, .5), _click(.515, .5), False),
    (_click(.5, .5), _click(.5, .486), True),
    (_click(.5, .5), _click(.509, .51), True),  # sqrt(9^2 + 10^2) = 13.5
    (_click(.5, .5), _click(.51, .51), False),  # sqrt(200) = 14.1
    (_click(.5, .5), _click(.5, .5, 'double_click'), False),
    (_click(.5, .5), _click(.5, .5, 'right_click'), False),
    (_drag((.1, .1), (.5, .5)), _drag((.11, .1), (.5, .51)), True),
    (_drag((.1, .1), (.5, .5)), _drag((.12, .1), (.5, .5)), False),
    (_drag((.1, .1), (.5, .5)), _drag((.1, .1), (.5, .52)), False),
    (_scroll(), _scroll(), True),
    (_scroll(), _scroll((.5, .5)), False),
    (_scroll((.5, .5)), _scroll((.53, .5)), True),
    (_scroll((.5, .5)), _scroll((.6, .5)), True),  # what scrolls is large
    (_scroll((.5, .5)), _scroll((.61, .5)), False),
    (_scroll((.5, .5)), _scroll((.5, .5), 'up'), False),
    (_scroll(), _scroll(direction='up'), False),
    (_scroll(), _scroll(amount=4), False),
    (_type('Hello  world '), _type(' Hello world'), True),
    (_type('Hello  world \n'), _type(' Hello world\n'), True),
    (_type('abc'), _type('abc\n'), False),  # the second submits
    (_type('a\tb'), _type('a b'), True),
    (_type('ab'), _type('a b'), False),
    (_type('a'), _type('A'), False),
    (_type(' '), _type('\n'), False),
    (_press('ctrl', 'shift', 't'), _press('shift', 'ctrl', 't'), True),
    (_press('ctrl', 't'), _press('t', 'ctrl'), False),
    (_press('a', 'b'), _press('b', 'a'), False),
    (_press('ctrl', 'c'), _press('ctrl', 'v'), False),
    (_click(.5, .5, 'long_press'), _click(.5, .51, 'long_press'), True),
    (_click(.5, .5, 'long_press'), _click(.5, .5), False),
    (_open('Simple  Clock'), _open('Simple Clock'), True),
    (_open('Clock'), _open('Camera'), False),
    (Action(kind='press_home'), Action(kind='press_home'), True),
    (Action(kind='press_home'), Action(kind='press_back'), False),
])
def test_matching(a, b, expected):
  assert actions.matches(a, b) is expected
  assert actions.matches(b, a) is expected


@pytest.mark.parametrize('end, view', [
    ((.8, .6), 'left'), ((.2, .4), 'right'), ((.6, .8), 'up'),
    ((.4, .2), 'down'), ((.7, .6), 'up'),  # of 200 and 240 pixels
    ((.5, .5), ''), (None, '')])
def test_a_finger_draws_the_view_along_its_longer_axis(end, view):
  assert actions.finger_direction((.5, .5), end, (1000, 2400)) == view


@pytest.mark.parametrize('answers', [True, False])
def test_answers_count_where_the_world_reads_them(answers):
  a, b, other = (Action(kind='done', text=text) for text in ('3', '4', ' 3\n'))
  assert actions.matches(a, other, answers=answers)
  assert actions.matches(a, b, answers=answers) is not answers


WINDOW = (0., 0., .5, 1.)
BUTTON = (.1, .1, .2, .05)
NEXT = (.3, .1, .2, .05)  # begins where BUTTON ends
EIGHTHS = [  # as these fractions are exact
    (.25, .25, .125, .125), (.125, .25, .125, .125), (.25, .125, .125, .125)]


@pytest.mark.parametrize('a, b, boxes, expected', [
    ((.11, .11), (.29, .14), [BUTTON, NEXT], True),  # far apart, one button
    ((.11, .11), (.29, .14), [], False),
    ((.299, .12), (.301, .12), [BUTTON, NEXT], False),  # near, two buttons
    ((.299, .12), (.301, .12), [], True),
    ((.25, .3), (.3, .3), EIGHTHS, True),  # an edge is of one only
    ((.25, .3), (.2, .3), EIGHTHS, False),
    ((.3, .25), (.3, .3), EIGHTHS, True),
    ((.3, .25), (.3, .2), EIGHTHS, False),
    ((.2, .12), (.2, .2), [WINDOW, BUTTON], False),  # button, window around it
    ((.2, .12), (.2, .2), [BUTTON, WINDOW], False),
    ((.1, .8), (.4, .3), [WINDOW, BUTTON], True),  # both in the window only
    ((.7, .8), (.71, .8), [WINDOW, BUTTON], True),  # on nothing: tolerance
    ((.7, .8), (.8, .8), [WINDOW, BUTTON], False),
    ((.499, .8), (.501, .8), [WINDOW], False),  # on something and on nothing
    ((.2, .12), (.29, .12), [BUTTON, BUTTON], True),
])
def test_elements_decide_where_they_are_known(a, b, boxes, expected):
  for kind in ('click', 'double_click', 'right_click', 'long_press'):
    for one, other in ((a, b), (b, a)):
      assert actions.matches(_click(*one, kind), _click(*other, kind),
                             boxes=boxes) is expected
  # Far apart in one element or near each other in two: a scroll of the same.
  near = math.dist(a, b) <= .1 + 1e-9
  assert actions.matches(
      _scroll(a), _scroll(b), boxes=boxes) is (expected or near)


def test_drags_are_compared_by_distance_whatever_the_elements():
  a = _drag((.2, .2), (.3, .4))
  for b in (_drag((.2, .3), (.3, .4)), _drag((.2, .2), (.3, .8))):
    assert not actions.matches(a, b, boxes=[WINDOW])
  over_the_edge = _drag((.499, .2), (.3, .4)), _drag((.501, .2), (.3, .4))
  assert actions.matches(*over_the_edge, boxes=[WINDOW])


@pytest.mark.parametrize('tolerance, expected', [
    (0., False), (.04, False), (.05, True), (math.inf, True)])
def test_the_tolerance_counts(tolerance, expected):
  a, b = _click(.5, .5), _click(.55, .5)
  assert actions.matches(a, b, tolerance=tolerance) is expected
  assert actions.matches(a, a, tolerance=tolerance)


@pytest.mark.parametrize('tolerance', [-1., math.nan])
def test_a_tolerance_that_is_none_is_refused(tolerance):
  with pytest.raises(ValueError, match='expected a tolerance of at least 0'):
    actions.matches(None, None, tolerance=tolerance)


@thousand_cases
@hypothesis.given(
    a=action_strategies.some_actions(kinds=actions.KINDS),
    b=action_strategies.some_actions(kinds=actions.KINDS),
    boxes=st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=4))
def test_matching_is_reflexive_and_symmetric(a, b, boxes):
  assert isinstance(a, Action) and isinstance(b, Action)
  for shown in (None, boxes):
    assert actions.matches(a, a, boxes=shown)
    assert actions.matches(a, b, boxes=shown) is (
        actions.matches(b, a, boxes=shown))
    assert not actions.matches(a, None, boxes=shown)
    assert not actions.matches(None, a, boxes=shown)


@thousand_cases
@hypothesis.given(
    action=action_strategies.some_actions(),
    space=st.text(' \t\n', max_size=3), turn=st.integers(0, 4))
def test_white_space_and_the_order_of_modifiers_do_not_matter(
    action, space, turn):
  assert not space.strip()
  count = sum(1 for _ in _leading_modifiers(action.keys))
  moved = action.keys[:count]
  moved = moved[turn:] + moved[:turn] + action.keys[count:]
  assert sorted(moved) == sorted(action.keys)
  other = dataclasses.replace(
      action, keys=moved,
      text=space + action.text + space if action.text else '')
  if action.kind == 'type':  # but for Enter at its end
    assert actions.matches(action, other) is (
        action.text.endswith('\n') == other.text.endswith('\n'))
    return
  assert actions.matches(action, other)


def _leading_modifiers(keys):
  for key in keys:
    if key not in ('ctrl', 'alt', 'altright', 'shift', 'win'):
      return
    yield key
