"""A million random and broken strings into the codecs of actions.

  python benchmarks/fuzz_codecs.py [--strings=1000000] [--seed=0]

Three in four are good responses that were broken in one to three places, the
others random characters and pieces of its grammar. Each is read in one of the
conventions in turn, as a desktop's and a phone's, and for computer_13 and
JSONAction as it is, as JSON, and as texts, keys and types of a dictionary. What
raises anything but the codec's own error ends the run with the string and exit
code 1; what parses has to match itself and be written and read again as the
same. Every string is a function of the seed and its number.
"""

import collections
import json
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app
from absl import flags
import numpy as np

from step_jax.codecs import actions
from step_jax.codecs import computer_13
from step_jax.codecs import json_action
from step_jax.codecs import ui_tars
from tests import action_strategies

_STRINGS = flags.DEFINE_integer(
    'strings', 1_000_000, 'how many', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'of everything', lower_bound=0)

_CONVENTIONS = (('thousand', None), ('pixels', (1932, 1092)))
_SCREEN = (1920, 1080)
_ERRORS = (ui_tars.UiTarsError, computer_13.Computer13Error,
           json_action.JSONActionError)
_SHARD = 10_000  # strings of one generator
_RESPONSES = (
    "Thought: a\nAction: click(start_box='(12,345)')",
    "Action: click(start_box='<|box_start|>(500,999)<|box_end|>')",
    "Thought: two\nlines\nAction: left_double(start_box='(0,1000)')",
    "Action: right_single(start_box='(7,7)')",
    "Action: drag(start_box='(1,2)', end_box='(30,40)')",
    "Thought: b\nAction: hotkey(key='ctrl shift arrowleft')",
    r"Action: type(content='it\'s \"so\" \\ and\n')",
    "Action: type(content='\\'); import os; os.system(\"touch owned\")')",
    "Action: scroll(start_box='(400,400)', direction='down')",
    'Thought: c\nAction: wait()',
    "Action: finished(content='42')",
    'Action: call_user()',
    "Action: long_press(start_box='(12,345)', time='1')",
    "Thought: d\nAction: open_app(app_name='Clock')",
    'Action: press_home()',
    "I see.\nAction: click(point='<point>12 345</point>')",
    "Thought: e. Action: left_single(start_box='[12, 34, 56, 78]').",
    "**Action:** type(content='=F('a', 'b')')\n\nhotkey(hotkey='ctrl+c')",
    "Action: scroll(start_box='(1,2)', end_box='(3,400)')",
    "Action: drag(start_point=(1,2), end_point='30.5,40')",
    r"Action: type(content='it's\\n')",
    'Action: press_enter()',
    '{"action_type": "CLICK", "parameters": {"x": 1, "y": 2}}',
    '[{"action_type": "MOVE_TO", "parameters": {"x": 1, "y": 2}},'
    ' {"action_type": "DRAG_TO", "parameters": {"x": 3, "y": 4}}]',
    '{"action_type": "SCROLL", "parameters": {"dx": 0, "dy": -3}}',
    '{"action_type": "HOTKEY", "parameters": {"keys": ["ctrl", "c"]}}',
    '{"action_type": "TYPING", "parameters": {"text": "a"}}',
    '{"action_type": "click", "x": 1, "y": 2}',
    '{"action_type": "scroll", "direction": "up"}',
    '{"action_type": "swipe", "direction": "left"}',
    '[{"action_type": "answer", "text": "42"},'
    ' {"action_type": "status", "goal_status": "complete"}]',
)
_PIECES = (
    'Thought:', '\nAction:', 'Action: ', 'click(', 'type(', 'hotkey(', 'wait()',
    'finished(', 'start_box=', 'end_box=', 'content=', 'key=', 'direction=',
    'point=', '<point>', '</point>', '<bbox>', '“', '”', 'Action：', '**', '```',
    "'", '"', '\\', '\\n', "\\'", '(', ')', ',', '=', '(1,2)', '9' * 30, '٣',
    '²', '-1', '1e9', 'NaN', 'ctrl ', '+', '<|box_start|>', '<|box_end|>', '{',
    '}', '[', ']', ':', '"x":', '\0', '\r\n', '\x1b', '\ud800', '\udfff',
    '\u2028', '\xa0', 'é', 'İ', '字', '🙂', ' ' * 40, 'a' * 300)


def _random_character(rng):
  limit = (128, 0x3000, 0x110000)[int(rng.integers(3))]
  return chr(int(rng.integers(limit)))


def _random_piece(rng):
  if rng.random() < .5:
    return _PIECES[int(rng.integers(len(_PIECES)))]
  return _random_character(rng)


def _mutate(rng, text):
  """Deletes, doubles, replaces, inserts or swaps in one to three places."""
  for _ in range(int(rng.integers(1, 4))):
    first, last = sorted(rng.integers(0, len(text) + 1, 2).tolist())
    last = min(last, first + int(rng.integers(12)))
    inserted = (
        '', text[first:last] * 2, _random_piece(rng),
        text[first:last] + _random_piece(rng), text[first:last][::-1],
    )[int(rng.integers(5))]
    text = text[:first] + inserted + text[last:]
  return text


def _make(rng):
  if rng.random() < .75:
    return _mutate(rng, _RESPONSES[int(rng.integers(len(_RESPONSES)))])
  return ''.join(_random_piece(rng) for _ in range(int(rng.integers(24))))


def _as_ui_tars(text, convention, size, platform):
  form = {'convention': convention, 'image_size': size, 'platform': platform}
  thought, action = ui_tars.decode(text, **form)
  again = ui_tars.encode(action, thought=thought, **form)
  return action, ui_tars.decode(again, **form) == (thought, action)


def _as_computer_13(commands):
  action = computer_13.decode(commands, screen_size=_SCREEN)
  again = computer_13.encode(action, screen_size=_SCREEN)
  return action, computer_13.decode(again, screen_size=_SCREEN) == action


def _as_json_action(commands):
  def say(action):
    return json_action.decode(json_action.encode(
        action, screen_size=_SCREEN), screen_size=_SCREEN)

  action = json_action.decode(commands, screen_size=_SCREEN)
  again = say(action)
  # What lies between two pixels is moved to one, and the edge onto the screen.
  return action, say(again) == again and actions.matches(
      action_strategies.as_androidworld_gets(action), again,
      tolerance=2 / min(_SCREEN))


def _commands(text):
  """What a dictionary codec may be given when a model writes this text."""
  try:
    yield json.loads(text)
  except (ValueError, RecursionError):  # JSON's own business
    pass
  yield text
  yield {'action_type': 'TYPING', 'parameters': {'text': text}}
  yield {'action_type': 'PRESS', 'parameters': {'key': text}}
  yield {'action_type': text, 'x': text}
  yield {'action_type': 'input_text', 'text': text}
  yield {'action_type': 'open_app', 'app_name': text}


def _try(read, counts, *arguments):
  """Counts what one input came to; raises what a codec must not raise."""
  name = read.__name__.removeprefix('_as_')
  try:
    action, same = read(*arguments)
  except _ERRORS as error:
    counts[name, type(error).__name__] += 1
    return
  if not same or not actions.matches(action, action):
    raise AssertionError('what was read is not what is written and read again')
  counts[name, action.kind] += 1


def main(argv):
  del argv
  counts: collections.Counter[tuple[str, str]] = collections.Counter()
  start = time.perf_counter()
  for number in range(_STRINGS.value):
    if number % _SHARD == 0:
      rng = np.random.default_rng((_SEED.value, number // _SHARD))
    text = _make(rng)
    try:
      for platform in ('desktop', 'mobile'):
        _try(_as_ui_tars, counts, text, *_CONVENTIONS[number % 2], platform)
      for commands in _commands(text):
        _try(_as_computer_13, counts, commands)
        _try(_as_json_action, counts, commands)
    except Exception as error:
      sys.exit(f'string {number} of seed {_SEED.value}, {text!r}: '
               f'{type(error).__name__}: {error}')
  seconds = time.perf_counter() - start
  print(f'{_STRINGS.value} strings, {sum(counts.values())} inputs, '
        f'{seconds:.0f} s, seed {_SEED.value}')
  for (name, result), count in sorted(counts.items()):
    print(f'{name:12} {result:16} {count:9}')


if __name__ == '__main__':
  app.run(main)
