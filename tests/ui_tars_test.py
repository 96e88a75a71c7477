"""UI-TARS text: every rule of the grammar, every error, and round trips."""

import importlib.util
import os

import hypothesis
from hypothesis import strategies as st
import pytest

from step_jax.codecs import actions
from step_jax.codecs.actions import Action
from step_jax.codecs import ui_tars
from tests import action_strategies
from tests.action_strategies import INJECTION
from tests import ui_tars_table

thousand_cases = hypothesis.settings(
    max_examples=1000, deadline=None, derandomize=True)

SIZE = (1932, 1092)  # 1920 x 1080, resized to multiples of 28
CONVENTIONS = [('thousand', None), ('pixels', SIZE)]


def _decode(call, convention='thousand', image_size=None):
  return ui_tars.decode(
      f'Action: {call}', convention=convention, image_size=image_size)[1]


def _scroll(point=None, direction='down'):
  return Action(kind='scroll', point=point, direction=direction, amount=5)


BOX = '<|box_start|>({},{})<|box_end|>'.format


# What each call is, as it is written in both conventions.
@pytest.mark.parametrize('action, thousand, pixels', [
    (Action(kind='click', point=(.5, .25)),
     f"click(start_box='{BOX(500, 250)}')", "click(start_box='(966,273)')"),
    (Action(kind='double_click', point=(0., 1.)),
     f"left_double(start_box='{BOX(0, 1000)}')",
     "left_double(start_box='(0,1092)')"),
    (Action(kind='right_click', point=(1., 0.)),
     f"right_single(start_box='{BOX(1000, 0)}')",
     "right_single(start_box='(1932,0)')"),
    (Action(kind='drag', point=(.5, .25), end=(.25, .5)),
     f"drag(start_box='{BOX(500, 250)}', end_box='{BOX(250, 500)}')",
     "drag(start_box='(966,273)', end_box='(483,546)')"),
    (_scroll((.5, .25)),
     f"scroll(start_box='{BOX(500, 250)}', direction='down')",
     "scroll(start_box='(966,273)', direction='down')"),
    (_scroll(direction='left'), "scroll(direction='left')",
     "scroll(direction='left')"),
    (Action(kind='hotkey', keys=('ctrl', 'c')), "hotkey(key='ctrl c')",
     "hotkey(key='ctrl c')"),
    (Action(kind='type', text='it\'s "a\\b"\n'),
     r"type(content='it\'s \"a\\b\"\n')", r"type(content='it\'s \"a\\b\"\n')"),
    (Action(kind='wait'), 'wait()', 'wait()'),
    (Action(kind='done'), 'finished()', 'finished()'),
    (Action(kind='done', text='3'), "finished(content='3')",
     "finished(content='3')"),
    (Action(kind='fail'), 'call_user()', 'call_user()'),
])
def test_calls(action, thousand, pixels):
  for (convention, size), call in zip(
      CONVENTIONS, (thousand, pixels), strict=True):
    text = f'Thought: do it\nAction: {call}'
    assert ui_tars.encode(action, thought='do it', convention=convention,
                          image_size=size) == text
    assert ui_tars.decode(text, convention=convention, image_size=size) == (
        'do it', action)


@pytest.mark.parametrize('call, action', [
    # Box tokens may be missing: tokenisers drop special tokens.
    ("click(start_box='(500,250)')", Action(kind='click', point=(.5, .25))),
    ("click(start_box='<|box_start|>(500,250)')",
     Action(kind='click', point=(.5, .25))),
    ('click(start_box="(0500,250)")', Action(kind='click', point=(.5, .25))),
    (" click ( start_box = ' ( 500 ,\t250 ) ' ) \n",
     Action(kind='click', point=(.5, .25))),
    ("drag(end_box='(250,500)', start_box='(500,250)')",
     Action(kind='drag', point=(.5, .25), end=(.25, .5))),
    ("scroll(direction=' Up ', start_box='(500,250)')",
     _scroll((.5, .25), 'up')),
    ("scroll(direction='right')", _scroll(direction='right')),
    ("finished(content='')", Action(kind='done')),
])
def test_calls_may_be_written_in_other_ways(call, action):
  assert _decode(call) == action


def test_box_tokens_are_read_in_both_conventions():
  call = f"click(start_box='{BOX(966, 273)}')"
  assert _decode(call, 'pixels', SIZE).point == (.5, .25)


@pytest.mark.parametrize('written, keys', [
    ('ctrl c', ('ctrl', 'c')),
    (' Ctrl  SHIFT T ', ('ctrl', 'shift', 't')),
    ('ctrl+c', ('ctrl', 'c')),
    ('ctrl +', ('ctrl', '+')),
    ('ctrl+plus', ('ctrl', '+')),
    ('arrowleft', ('left',)),
    ('arrowright', ('right',)),
    ('arrowup', ('up',)),
    ('alt arrowdown', ('alt', 'down')),
    ('return', ('enter',)),
    ('Enter', ('enter',)),
    ('escape', ('esc',)),
    ('page down', ('pagedown',)),
    ('shift Page Up', ('shift', 'pageup')),
    ('page_down', ('pagedown',)),
    ('pgup', ('pageup',)),
    ('command c', ('win', 'c')),
    ('cmd+c', ('win', 'c')),
    ('meta', ('win',)),
    ('super', ('win',)),
    ('win d', ('win', 'd')),
    ('control space', ('ctrl', 'space')),
    ('option f4', ('alt', 'f4')),
    ('del', ('delete',)),
    (r'\'', ("'",)),
])
def test_names_of_keys(written, keys):
  assert _decode(f"hotkey(key='{written}')").keys == keys


@pytest.mark.parametrize('written, text', [
    ('a', 'a'),
    (r"\'", "'"),
    (r'\"', '"'),
    (r'\\', '\\'),
    (r'\n', '\n'),
    (r'\t', '\t'),
    (r'\\n', '\n'),  # a second backslash, as upstream's example has it
    (r'\\n.', '\\n.'),
    (r'\\\n', '\\\n'),
    (r'\d\x41\u0041', r'\d\x41\u0041'),  # no other escape, never code
    ('a\nb', 'a\nb'),
    ('"', '"'),
    ("don't", "don't"),  # a quote that ends nothing
    ("f('a' + 'b'", "f('a' + 'b'"),
    ("'a' ", "'a' "),
    ('a) , (b', 'a) , (b'),
    ("{0} %s $(touch owned) `x`", "{0} %s $(touch owned) `x`"),
    ('<|box_start|>(1,2)<|box_end|>', '<|box_start|>(1,2)<|box_end|>'),
    ('字🙂\u2028', '字🙂\u2028'),
])
def test_texts(written, text):
  assert _decode(f"type(content='{written}')").text == text


def test_a_text_in_double_quotes_may_hold_single_ones():
  assert _decode('''type(content="a', 'b")''').text == "a', 'b"


def test_code_is_typed_and_nothing_else(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  action = Action(kind='type', text=INJECTION)
  text = ui_tars.encode(action, thought=INJECTION, convention='thousand')
  assert ui_tars.decode(text, convention='thousand') == (INJECTION, action)
  assert _decode(f"type(content='a{INJECTION}')").text == 'a' + INJECTION
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('text, thought', [
    ('Action: wait()', ''),
    ('\n Action:wait()', ''),
    ('Thought:\nAction: wait()', ''),
    ('Thought: a\nAction: wait()', 'a'),
    ('\nThought:a b \n\n\nAction: wait()\n', 'a b'),
    ('Thought: a\nb\r\nAction:\nwait()', 'a\nb'),
    ('Thought: Action: click\nAction: wait()', 'Action: click'),
    # The last line that begins with it counts.
    ('Thought: a\nAction: done()\nAction: wait()', 'a\nAction: done()'),
    ('Thought: Thought: a\nAction: wait()', 'Thought: a'),
])
def test_thoughts(text, thought):
  assert ui_tars.decode(text, convention='thousand') == (
      thought, Action(kind='wait'))


def test_an_empty_thought_is_not_written():
  for thought in ('', ' \n'):
    assert ui_tars.encode(Action(kind='wait'), thought=thought,
                          convention='thousand') == 'Action: wait()'


@pytest.mark.parametrize('text, thought', [
    ('I see.\nAction: wait()', 'I see.'),
    ('Thought：a\nAction: wait()', 'a'),
    ('Reflection: a\nAction_Summary: b\nAction: wait()',
     'Reflection: a\nAction_Summary: b'),
    ('Thought: Click it. Action: wait()', 'Click it.'),
    ('**Thought:** a\n**Action:** wait()', 'a'),
    ('Thought: a\nAction: wait()\nAction:', 'a'),  # cut off
])
def test_thoughts_under_other_labels(text, thought):
  assert ui_tars.decode(text, convention='thousand') == (
      thought, Action(kind='wait'))


def _written(text, platform='desktop', size=None, convention='thousand'):
  """What is read from a response, as it is written; '' if it is refused."""
  form = {'convention': convention, 'platform': platform, 'image_size': size}
  action = ui_tars.read(text, **form)
  return '' if action is None else ui_tars.encode(
      action, **form).removeprefix('Action: ')


def test_what_models_write():
  wrong = [(text, expected, found) for text, expected, _ in ui_tars_table.ROWS
           if (found := _written(text)) != expected]
  assert not wrong
  # What docs/vlm.md counts.
  assert len(ui_tars_table.ROWS) == 239
  assert sum(bool(row[1]) for row in ui_tars_table.ROWS) == 202
  assert sum(row[2] for row in ui_tars_table.ROWS) == 163
  assert sum(row[2] and not row[1] for row in ui_tars_table.ROWS) == 15


def test_what_models_write_in_pixels():
  """Of a picture of a thousand pixels, where the numbers are the same."""
  for text, expected, _ in ui_tars_table.ROWS:
    assert _written(text, size=(1000, 1000), convention='pixels') == (
        expected.replace('<|box_start|>', '').replace('<|box_end|>', '')), text


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # of ast.Str
def test_what_the_official_parser_reads():
  """Opt-in: STEP_JAX_UI_TARS is the path of its action_parser.py."""
  path = os.environ.get('STEP_JAX_UI_TARS')
  if not path:
    pytest.skip('STEP_JAX_UI_TARS names no action_parser.py')
  spec = importlib.util.spec_from_file_location('action_parser', path)
  parser = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(parser)

  def is_read(text):
    try:
      calls = parser.parse_action_to_structure_output(
          text, 1000, *SIZE[::-1], model_type='qwen2vl')
      return all(
          call['action_type'] in ('wait', 'call_user')  # its callers do these
          or 'Unrecognized' not in parser.parsing_response_to_pyautogui_code(
              call, *SIZE[::-1]) for call in calls)
    except Exception:
      return False

  assert not [text for text, _, official in ui_tars_table.ROWS
              if is_read(text) is not official]


def test_a_point_in_pixels_is_no_point_in_thousandths():
  """Of bytedance/UI-TARS #119 and #173: what UI-TARS-1.5 writes."""
  call = "click(start_box='(177,549)')"
  assert _decode(call, 'pixels', SIZE).point == (177 / 1932, 549 / 1092)
  assert _decode(call).point == (.177, .549)


def test_what_models_write_on_phones():
  """Some of bytedance/UI-TARS #192, #231, #103 and #104."""
  wrong = [(text, expected, found) for text, expected in ui_tars_table.PHONE
           if (found := _written(
               f'Action: {text}', 'mobile', (1080, 2400))) != expected]
  assert not wrong


CALLS = ('click, left_double, right_single, drag, scroll, hotkey, type, wait, '
         'finished, call_user, left_single, left_click, double_click, '
         'right_click, select, press')


@pytest.mark.parametrize('text, message', [
    ('', 'expected "Action:" and a call at character 0, got the end'),
    ('I will click it', 'expected "Action:" and a call at character 0, got '
     "'I will click it'"),
    ('Action:', f'expected one of {CALLS} at character 7, got the end'),
    ('Action: tap()', f"expected one of {CALLS} at character 8, got 'tap()'"),
    ("Action: __import__('os')", f'expected one of {CALLS} at character 8, '
     'got "__import__(\'os\')"'),
    ('Action: wait', 'expected ( at character 12, got the end'),
    ("Action: hotkey('ctrl', 'c')", 'expected an argument, each once at '
     'character 23, got "\'c\')"'),
    ("Action: click(start_box='(1,2)', point='(1,2)')",
     'expected an argument, each once at character 33, got "point=\'(1,2)\')"'),
    ("Action: click(start_box'(1,2)')",
     'expected = at character 23, got "\'(1,2)\')"'),
    ('Action: click(start_box=1,2)',
     "expected a quote at character 24, got '1,2)'"),
    ("Action: click(start_box='(1001,2)')", 'expected a point from (0,0) to '
     '(1000, 1000) at character 25, got "(1001,2)\')"'),
    *((f"Action: click(start_box='{point}')", 'expected a point such as (1,2) '
       f'at character 25, got {point + chr(39) + ")"!r}')
      for point in ('(,2)', '(1,-2)', '(1,²)', '(1,2,3)', '1', '1e2,3', 'a')),
    ("Action: click(start_box='(1,2",
     "expected the closing ' at character 29, got the end"),
    ("Action: type(content='a)",
     "expected the closing ' at character 24, got the end"),
    ("Action: type(content='a' b)",
     "expected the closing ' at character 27, got the end"),
    ("Action: hotkey(key='ctrl hyper')", 'expected names of keys with spaces '
     'between them at character 20, got "ctrl hyper\')"'),
    # What the record refuses.
    ('Action: click()', 'expected click with point, got none, in the call at '
     'character 8'),
    ("Action: drag(start_box='(1,2)')", 'expected drag with end, got none, in '
     'the call at character 8'),
    ("Action: scroll(start_box='(1,2)')", 'expected scroll with direction, got '
     'none, in the call at character 8'),
    ("Action: scroll(direction='in')", 'expected direction to be one of up, '
     "down, left, right, got 'in', in the call at character 8"),
    ("Action: type(content='\0')", 'expected text to be 1 to 10000 characters '
     "that can be typed, got '\\x00', in the call at character 8"),
    ('Action: hotkey()', 'expected hotkey with keys, got none, in the '
     'call at character 8'),
    ('Action: ' + 'a' * 65_529, 'expected at most 65536 characters, got 65537'),
])
def test_errors_name_the_place_and_what_was_expected(text, message):
  with pytest.raises(ui_tars.UiTarsError) as caught:
    ui_tars.decode(text, convention='thousand')
  assert str(caught.value) == message


def test_the_longest_response_is_read():
  text = 'Thought: ' + 'a' * (65_536 - 9 - 15) + '\nAction: wait()'
  assert len(text) == 65_536
  thought, action = ui_tars.decode(text, convention='thousand')
  assert ui_tars.encode(action, thought=thought, convention='thousand') == text
  with pytest.raises(ui_tars.UiTarsError, match='at most 65536 characters'):
    ui_tars.encode(action, thought=thought + 'a', convention='thousand')


def test_the_longest_text_is_read():
  action = Action(kind='type', text='\\' * 10_000)
  text = ui_tars.encode(action, convention='thousand')
  assert ui_tars.decode(text, convention='thousand') == ('', action)


def test_a_backslash_and_n_at_the_end_cannot_be_said():
  action = Action(kind='type', text='a\\n')
  with pytest.raises(
      ui_tars.UiTarsError, match='expected a text that does not end with a '):
    ui_tars.encode(action, convention='thousand')


def test_a_scroll_of_another_amount_cannot_be_said():
  action = Action(kind='scroll', direction='up', amount=3)
  with pytest.raises(
      ui_tars.UiTarsError, match='expected a scroll of 5 notches, got 3'):
    ui_tars.encode(action, convention='thousand')


@pytest.mark.parametrize('convention, size, message', [
    ('relative', None, "'thousand' or 'pixels', got 'relative'"),
    ('pixels', None, "expected a positive image_size with 'pixels', got None"),
    ('pixels', (0, 28), 'expected a positive image_size'),
])
def test_a_callers_mistake_is_not_the_texts(convention, size, message):
  for call, argument in ((ui_tars.decode, 'Action: wait()'),
                         (ui_tars.encode, Action(kind='wait'))):
    with pytest.raises(ValueError, match=message) as caught:
      call(argument, convention=convention, image_size=size)
    assert not isinstance(caught.value, actions.ActionError)
    with pytest.raises(ValueError, match="'desktop' or 'mobile', got 'tv'"):
      call(argument, convention='thousand', platform='tv')


# What each call of a phone is, as it is written in both conventions.
@pytest.mark.parametrize('action, thousand, pixels', [
    (Action(kind='click', point=(.5, .25)),
     f"click(start_box='{BOX(500, 250)}')", "click(start_box='(966,273)')"),
    (Action(kind='long_press', point=(.5, .25)),
     f"long_press(start_box='{BOX(500, 250)}')",
     "long_press(start_box='(966,273)')"),
    (Action(kind='drag', point=(.5, .25), end=(.25, .5)),
     f"drag(start_box='{BOX(500, 250)}', end_box='{BOX(250, 500)}')",
     "drag(start_box='(966,273)', end_box='(483,546)')"),
    (_scroll((.5, .25), 'up'),
     f"scroll(start_box='{BOX(500, 250)}', direction='up')",
     "scroll(start_box='(966,273)', direction='up')"),
    (Action(kind='type', text="it's\n"), r"type(content='it\'s\n')",
     r"type(content='it\'s\n')"),
    (Action(kind='open_app', text="Ana's 'Clock'"),
     r"open_app(app_name='Ana\'s \'Clock\'')",
     r"open_app(app_name='Ana\'s \'Clock\'')"),
    (Action(kind='press_home'), 'press_home()', 'press_home()'),
    (Action(kind='press_back'), 'press_back()', 'press_back()'),
    (Action(kind='wait'), 'wait()', 'wait()'),
    (Action(kind='done'), 'finished()', 'finished()'),
    (Action(kind='done', text='3'), "finished(content='3')",
     "finished(content='3')"),
])
def test_calls_of_a_phone(action, thousand, pixels):
  for (convention, size), call in zip(
      CONVENTIONS, (thousand, pixels), strict=True):
    text = f'Thought: do it\nAction: {call}'
    assert ui_tars.encode(action, thought='do it', convention=convention,
                          image_size=size, platform='mobile') == text
    assert ui_tars.decode(text, convention=convention, image_size=size,
                          platform='mobile') == ('do it', action)


@pytest.mark.parametrize('call', [
    "long_press(start_box='(500,250)', time='')",
    "long_press(time='2', start_box='(500,250)')"])
def test_the_time_of_a_long_press_is_ignored(call):
  assert _decode_mobile(call) == Action(kind='long_press', point=(.5, .25))


def _decode_mobile(call):
  return ui_tars.decode(
      f'Action: {call}', convention='thousand', platform='mobile')[1]


@pytest.mark.parametrize('call, message', [
    ("hotkey(key='ctrl c')", "expected one of the keys enter and home, got "
     "('ctrl', 'c'), in the call at character 8"),
    ('open_app()', 'expected open_app with text, got none, in the call at '
     'character 8'),
    ("long_press(time='1')", 'expected long_press with point, got none, in '
     'the call at character 8'),
    ("scroll(start_box='(1,2)', end_box='(1,2)')", 'expected scroll with '
     'direction, got none, in the call at character 8'),
])
def test_errors_of_a_phones_calls(call, message):
  with pytest.raises(ui_tars.UiTarsError) as caught:
    _decode_mobile(call)
  assert str(caught.value) == message


def test_each_platform_has_calls_of_its_own():
  for platform, kinds in (('desktop', action_strategies.DESKTOP),
                          ('mobile', action_strategies.MOBILE)):
    said = set()

    @thousand_cases
    @hypothesis.given(action_strategies.some_actions(
        amounts=st.just(5), kinds=actions.KINDS))
    def check(action):
      hypothesis.assume(not action.text.endswith('\\n'))
      try:
        ui_tars.encode(action, convention='thousand', platform=platform)
      except ui_tars.UiTarsError as error:
        assert str(error).endswith(f'on {platform}, got {action.kind}')
        assert action.kind not in said
      else:
        said.add(action.kind)

    check()
    assert said == set(kinds)


# Properties.

SAID = action_strategies.texts.filter(  # see `ui_tars.encode`
    lambda text: not text.endswith('\\n'))
thoughts = st.just('') | action_strategies.texts | st.text(max_size=40)


@pytest.mark.parametrize('platform, kinds', [
    ('desktop', action_strategies.DESKTOP),
    ('mobile', action_strategies.MOBILE)])
@pytest.mark.parametrize('convention, size', CONVENTIONS)
def test_encode_then_decode_is_the_identity(convention, size, platform, kinds):
  grid = size or (1000, 1000)

  @thousand_cases
  @hypothesis.given(
      action=action_strategies.some_actions(
          action_strategies.grid_points(grid), amounts=st.just(5), kinds=kinds,
          typed=SAID),
      thought=thoughts)
  def check(action, thought):
    assert isinstance(action, Action) and isinstance(thought, str)
    for point in filter(None, (action.point, action.end)):
      assert all((fraction * steps) == pytest.approx(round(fraction * steps))
                 for fraction, steps in zip(point, grid, strict=True))
    text = ui_tars.encode(
        action, thought=thought, convention=convention, image_size=size,
        platform=platform)
    assert ui_tars.decode(
        text, convention=convention, image_size=size, platform=platform) == (
            thought.strip(), action)

  check()


@thousand_cases
@hypothesis.given(action=action_strategies.some_actions(
    amounts=st.just(5), typed=SAID))
def test_any_point_moves_by_half_a_step_at_most(action):
  text = ui_tars.encode(action, convention='thousand')
  _, decoded = ui_tars.decode(text, convention='thousand')
  assert actions.matches(action, decoded, tolerance=.001)
  assert ui_tars.encode(decoded, convention='thousand') == text


@pytest.mark.parametrize('platform, kinds, rows', [
    ('desktop', action_strategies.DESKTOP, ui_tars_table.ROWS),
    ('mobile', action_strategies.MOBILE, [
        (f'Action: {row[0]}',) for row in ui_tars_table.PHONE])])
def test_mutated_responses_raise_the_codecs_error_only(platform, kinds, rows):
  """Responses of ours, and those that models write."""
  form = {'convention': 'thousand', 'platform': platform}

  def write(action):
    text = ui_tars.encode(action, thought='a', **form)
    assert text.startswith('Thought: a\nAction: ')
    return text, 0.

  @thousand_cases
  @hypothesis.given(
      response=action_strategies.some_actions(
          amounts=st.just(5), kinds=kinds, typed=SAID).map(write)
      # Whose points may lie between thousandths.
      | st.sampled_from([(row[0], .001) for row in rows]),
      cuts=st.tuples(st.integers(0, 200), st.integers(0, 200)),
      inserted=st.sampled_from(action_strategies.FRAGMENTS) |
      st.text(max_size=5))
  def check(response, cuts, inserted):
    text, tolerance = response
    first, last = (min(cut, len(text)) for cut in cuts)
    mutated = text[:first] + inserted + text[last:]
    try:
      thought, decoded = ui_tars.decode(mutated, **form)
    except ui_tars.UiTarsError as error:
      assert '\n' not in str(error) and str(error).startswith('expected ')
    else:
      assert actions.matches(decoded, decoded)
      again = ui_tars.decode(
          ui_tars.encode(decoded, thought=thought, **form), **form)
      assert again[0] == thought
      assert again[1] == decoded or (
          tolerance and actions.matches(decoded, again[1], tolerance=tolerance))

  check()


@thousand_cases
@hypothesis.given(text=st.text() | st.text().map('Action: {}'.format))
def test_arbitrary_text_raises_the_codecs_error_only(text):
  assert isinstance(text, str)
  for convention, size in CONVENTIONS:
    try:
      _, action = ui_tars.decode(text, convention=convention, image_size=size)
    except ui_tars.UiTarsError:
      continue
    assert isinstance(action, Action)
