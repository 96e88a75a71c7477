"""Tests of what rows and tokens mean to people."""
import numpy as np
import pytest

from step_jax.envs import base
from step_jax.envs import reading
from step_jax.envs.desk import env as desk

_TOLD = 'Press "Save", then type Ana.'


def _screen():
  return base.encode_screen(base.make_screen(_TOLD, [
      base.Element(kind='button', text='Save it', box=(.1, .2, .3, .4)),
      base.Element(kind='input_text', value='Ana', focused=True)]))


@pytest.mark.parametrize('tokens, action', [
    ((0, 0, 0), {'text': 'click button Save …', 'box': [.1, .2, .3, .4]}),
    ((1, 1, 4), {'text': "type 'Ana' into input_text", 'box': [0] * 4}),
    ((2, 1, 1), {'text': 'scroll up'})])
def test_element_actions_in_words(tokens, action):
  found = reading.element_action(_screen(), np.array(tokens), _TOLD)
  assert found.keys() == action.keys() and found['text'] == action['text']
  np.testing.assert_allclose(found.get('box', 0), action.get('box', 0))


def test_grid_actions_in_words():
  row = {'instruction': _screen()['instruction']}

  def read(*tokens, **cells):
    return reading.grid_action(row, np.array(tokens), _TOLD, **cells)

  assert read(0, 11, 0) == {
      'text': 'click row 2, column 3', 'box': [2 / 9, 1 / 20, 1 / 9, 1 / 20]}
  assert read(0, 11, 0, cells=(5, 8)) == {
      'text': 'click row 2, column 4', 'box': [3 / 8, 1 / 5, 1 / 8, 1 / 5]}
  assert read(2, 11, 1) == {'text': "type 'Save'"}
  assert read(7, 0, 0) == {'text': 'done'}


@pytest.mark.parametrize('written, action, convention', [
    ("Thought: x\nAction: click(start_box='(500,250)')",
     {'kind': 'click', 'point': [.5, .25]}, 'thousand'),
    ("Thought: x\nAction: click(start_box='(196,77)')",  # of 392 x 308
     {'kind': 'click', 'point': [.5, .25]}, 'pixels'),
    ("Thought: x\nAction: drag(start_box='(0,0)', end_box='(100,200)')",
     {'kind': 'drag', 'point': [0, 0], 'end': [.1, .2]},
     'thousand'),
    ("Thought: x\nAction: finished()", {'kind': 'done'}, 'thousand'),
    ('</script>', {'unread': True}, 'thousand')])
def test_what_a_model_wrote_is_read_as_its_environment_reads_it(
    written, action, convention):
  assert reading.written_action(
      written, np.array([400, 300], np.int32), convention=convention,
      platform='desktop', min_pixels=3136, max_pixels=1_003_520) == {
          'text': written} | action


def test_desks_words_are_known_and_others_are_the_instructions():
  env = desk.DeskEnv(['bluetooth-on'])
  row, _ = env.reset(seed=3, options={'task_id': 0})
  assert '…' not in reading.instruction_of(row)
  shown = reading.screen(row, '')['elements']
  assert len(shown) == np.count_nonzero(row['element_type'])
  assert shown and not any('…' in one[name] for one in shown for name in (
      'kind', 'text', 'value'))
  first, second = reading.screen(_screen(), _TOLD)['elements']
  assert first | {'box': ()} == {
      'kind': 'button', 'text': 'Save …', 'value': '', 'focused': False,
      'changed': False, 'selected': False, 'editable': False, 'box': ()}
  assert (second['kind'], second['value'], second['focused']) == (
      'input_text', 'Ana', True)
  assert reading.screen({'picture': 1, 'element_text': 2}, '') == {'picture': 1}
  assert reading.screen({'prompt': 1}, '') == {}
