"""Tests of what a run's config says of how its actions are read."""
import functools
import types

import numpy as np
import pytest

from configs import common
from experiments import showing
from step_jax.envs import base


def _reader(policy, arguments, **setup):
  config = common.base_config()
  config.policy.name, config.env.arguments = policy, arguments
  return showing.make_reader(types.SimpleNamespace(config=config, **setup))


@pytest.mark.parametrize('policy, arguments, said, size', [
    ('element', {}, 'click button ok', [.3, .4]),
    ('grid', {}, 'click row 1, column 1', [1 / 9, 1 / 20]),
    ('grid', {'grid': (5, 8)}, 'click row 1, column 1', [1 / 8, 1 / 5])])
def test_tokens_are_read_as_those_of_the_policy(policy, arguments, said, size):
  row = base.encode_screen(base.make_screen('ok', [
      base.Element(kind='button', text='ok', box=(.1, .2, .3, .4))]))
  reader = _reader(policy, arguments)
  action = reader.action(row, np.zeros(3, int), '')
  assert (reader.instruction(row), action['text']) == ('ok', said)
  assert action['box'][2:] == pytest.approx(size)


def test_what_a_model_wrote_is_read_as_its_environment_reads_it():
  written = "Thought: x\nAction: click(start_box='(500,250)')"
  codec = types.SimpleNamespace(decode=lambda row, tokens: written)
  make_env = functools.partial(dict, convention='thousand', platform='desktop',
                               min_pixels=3136, max_pixels=1_003_520)
  read = _reader('qwen_vl', {}, codec=codec, world=types.SimpleNamespace(
      make_env=make_env)).action
  row = {'size': np.array([400, 300], np.int32)}
  assert read(row, np.zeros(3, int), '') == {
      'text': written, 'kind': 'click', 'point': [.5, .25]}
