"""Actions, texts and mutations for the tests of the codecs."""

import dataclasses
import unicodedata

import hypothesis
from hypothesis import strategies as st

from step_jax.codecs import actions

INJECTION = '\'); import os; os.system("touch owned")'
FRAGMENTS = (
    INJECTION, "'", '"', '\\', '\\\\', "\\'", '\n', '\t', '\\n', '(', ')', ',',
    "')", "',", "', content='", 'Thought:', '\nAction: wait()', '{}', '%s',
    '$(touch owned)', '`touch owned`', '<|box_start|>', '<|im_end|>', 'é', '字',
    '🙂', '\u2028', '\u00a0', '\u200b', ' ', 'a')

DESKTOP = ('click', 'double_click', 'right_click', 'drag', 'scroll', 'type',
           'hotkey', 'wait', 'done', 'fail')
MOBILE = ('click', 'long_press', 'drag', 'scroll', 'type', 'open_app',
          'press_home', 'press_back', 'wait', 'done', 'fail')

thousand_cases = hypothesis.settings(
    max_examples=1000, deadline=None, derandomize=True)

points = st.tuples(st.floats(0, 1), st.floats(0, 1))
texts = st.one_of(
    st.sampled_from(FRAGMENTS),
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=8).map(''.join),
    st.text(st.characters(exclude_categories=('Cc', 'Cs')), min_size=1,
            max_size=80))
keys = st.lists(
    st.sampled_from(sorted(actions.KEYS)), min_size=1,
    max_size=5).map(tuple)


def grid_points(size):
  """Points of a grid of (width, height), both edges included."""
  width, height = size
  return st.tuples(
      st.integers(0, width).map(lambda x: x / width),
      st.integers(0, height).map(lambda y: y / height))


def some_actions(points=points, *, amounts=st.integers(1, actions.MAX_AMOUNT),
                 answers=st.just('') | texts, kinds=DESKTOP, typed=texts):
  """Actions of some kinds, equally often."""
  def kind(name, **arguments):
    return st.builds(actions.Action, kind=st.just(name), **arguments)

  pointed = {'point': points}
  arguments = {
      'click': pointed, 'double_click': pointed, 'right_click': pointed,
      'long_press': pointed, 'drag': {'point': points, 'end': points},
      'scroll': {'point': st.none() | points, 'amount': amounts,
                 'direction': st.sampled_from(actions.DIRECTIONS)},
      'type': {'text': typed}, 'open_app': {'text': texts},
      'hotkey': {'keys': keys}, 'done': {'text': answers}}
  return st.one_of(
      [kind(name, **arguments.get(name, {})) for name in kinds])


def as_androidworld_gets(action):
  """The same action with the text that AndroidWorld's server is given."""
  if action.kind == 'type':
    text = unicodedata.normalize('NFKD', action.text.removesuffix('\n'))
    return dataclasses.replace(action, text=text + '\n')
  if action.kind == 'done':
    text = ''.join(sign for sign in action.text if sign not in '"$`\\')
    return dataclasses.replace(action, text=text)
  return action


def reached(commands, decode, codec_error):
  """Kinds of the actions that a strategy comes to, and 'error'."""
  kinds = set()

  @thousand_cases
  @hypothesis.given(commands)
  def collect(commands):
    try:
      kinds.add(decode(commands).kind)
    except codec_error:
      kinds.add('error')

  collect()
  return kinds
