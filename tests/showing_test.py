"""Tests of what rows and tokens mean to people."""
import functools
import types

import numpy as np
import pytest

from configs import common
from experiments import showing
from step_jax.envs import base
from step_jax.envs.desk import env as desk

_TOLD = 'Press "Save", then type Ana.'


def _reader(policy='element', **setup):
  config = common.base_config()
  config.policy.name = policy
  return showing.make_reader(types.SimpleNamespace(config=config, **setup))


def _screen():
  return base.encode_screen(base.make_screen(_TOLD, [
      base.Element(kind='button', text='Save it', box=(.1, .2, .3, .4)),
      base.Element(kind='input_text', value='Ana', focused=True)]))


@pytest.mark.parametrize('tokens, action', [
    ((0, 0, 0), {'text': 'click button Save …', 'box': [.1, .2, .3, .4]}),
    ((1, 1, 4), {'text': "type 'Ana' into input_text", 'box': [0] * 4}),
    ((2, 1, 1), {'text': 'scroll up'})])
def test_element_actions_in_words(tokens, action):
  found = _reader().action(_screen(), np.array(tokens), _TOLD)
  assert found.keys() == action.keys() and found['text'] == action['text']
  np.testing.assert_allclose(found.get('box', 0), action.get('box', 0))


def test_grid_actions_in_words():
  row = {'instruction': _screen()['instruction']}
  read = functools.partial(_reader('grid').action, row, instruction=_TOLD)
  assert read(np.array([0, 11, 0])) == {
      'text': 'click row 2, column 3', 'box': [2 / 9, 1 / 20, 1 / 9, 1 / 20]}
  assert read(np.array([2, 11, 1])) == {'text': "type 'Save'"}
  assert read(np.array([7, 0, 0])) == {'text': 'done'}


@pytest.mark.parametrize('written, action', [
    ("Thought: x\nAction: click(start_box='(500,250)')",
     {'kind': 'click', 'point': [.5, .25]}),
    ("Thought: x\nAction: drag(start_box='(0,0)', end_box='(100,200)')",
     {'kind': 'drag', 'point': [0, 0], 'end': [.1, .2]}),
    ("Thought: x\nAction: finished()", {'kind': 'done'}),
    ('</script>', {'unread': True})])
def test_what_a_model_wrote_is_read_as_its_environment_reads_it(
    written, action):
  codec = types.SimpleNamespace(decode=lambda row, tokens: written)
  make_env = functools.partial(dict, convention='thousand', platform='desktop',
                               min_pixels=3136, max_pixels=1_003_520)
  read = _reader('qwen_vl', codec=codec, world=types.SimpleNamespace(
      make_env=make_env)).action
  row = {'size': np.array([400, 300], np.int32)}
  assert read(row, np.zeros(3, int), '') == {'text': written} | action


def test_desks_words_are_known_and_others_are_the_instructions():
  env = desk.DeskEnv(['bluetooth-on'])
  row, _ = env.reset(seed=3, options={'task_id': 0})
  assert '…' not in _reader().instruction(row)
  shown = showing.screen(row, '')['elements']
  assert len(shown) == np.count_nonzero(row['element_type'])
  assert shown and not any('…' in one[name] for one in shown for name in (
      'kind', 'text', 'value'))
  first, second = showing.screen(_screen(), _TOLD)['elements']
  assert first | {'box': ()} == {
      'kind': 'button', 'text': 'Save …', 'value': '', 'focused': False,
      'changed': False, 'selected': False, 'editable': False, 'box': ()}
  assert (second['kind'], second['value'], second['focused']) == (
      'input_text', 'Ana', True)
  assert showing.screen({'picture': 1, 'element_text': 2}, '') == {'picture': 1}
  assert showing.screen({'prompt': 1}, '') == {}
