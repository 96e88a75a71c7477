"""What is sent to a desktop for an action: one fixed program and data."""

import ast
import json

import pytest

from step_jax.codecs import actions
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import program
from tests import fake_desktop

Action = actions.Action
HOSTILE = '\'); import os; os.system("touch owned")'


@pytest.fixture
def fake():
  with fake_desktop.FakeDesktop() as fake:
    yield fake


def perform(fake, *parts):
  with client_lib.Client(fake.address) as client:
    program.perform(client, parts, screen_size=(1280, 720), pause=.5)


@pytest.mark.parametrize('action, order', [
    (Action(kind='click', point=(.5, .5)), ['click', 640, 360]),
    (Action(kind='click', point=(1., 1.)), ['click', 1279, 719]),
    (Action(kind='double_click', point=(0., .5)), ['double_click', 0, 360]),
    (Action(kind='right_click', point=(.5, 0.)), ['right_click', 640, 0]),
    (Action(kind='drag', point=(0., 0.), end=(.5, .5)),
     ['drag', 0, 0, 640, 360]),
    (Action(kind='scroll', direction='up', amount=3),
     ['scroll', 3, False, None]),
    (Action(kind='scroll', direction='down', amount=3, point=(.5, .5)),
     ['scroll', -3, False, [640, 360]]),
    (Action(kind='scroll', direction='left', amount=1),
     ['scroll', -1, True, None]),
    (Action(kind='scroll', direction='right', amount=1),
     ['scroll', 1, True, None]),
    (Action(kind='hotkey', keys=('ctrl', 's')), ['hotkey', 'ctrl', 's']),
    (Action(kind='type', text='a\n'), ['type', 'a\n']),
    (Action(kind='wait'), ['wait', .5]),
])
def test_orders(fake, action, order):
  perform(fake, action)
  assert fake.orders() == [[order]]


def test_parts_go_together_in_one_request(fake):
  perform(fake, Action(kind='click', point=(0., 0.)),
          Action(kind='type', text='x'), Action(kind='done'))
  assert fake.orders() == [[['click', 0, 0], ['type', 'x']]]


def test_the_end_of_an_episode_sends_nothing(fake):
  perform(fake, Action(kind='done'), Action(kind='fail'))
  assert not fake.requests


@pytest.mark.parametrize('text', [HOSTILE, '$(touch owned)', '"; touch owned #',
                                  '`touch owned`', '\\', "'''", '日本', '--'])
def test_text_travels_as_data(fake, text):
  """Whatever it says, only the last argument differs."""
  perform(fake, Action(kind='type', text='harmless'))
  perform(fake, Action(kind='type', text=text))
  (_, first), (_, second) = fake.requests
  assert second['shell'] is False
  assert second['command'][:3] == first['command'][:3] == [
      'python', '-c', program.PROGRAM]
  assert json.loads(second['command'][3]) == [['type', text]]
  assert len(second['command']) == 4


def test_the_program_evaluates_nothing():
  tree = ast.parse(program.PROGRAM)
  called = {node.func.id for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
  assert not called & {'eval', 'exec', 'compile', '__import__', 'open'}
  shells = [keyword.arg for node in ast.walk(tree)
            if isinstance(node, ast.Call) for keyword in node.keywords]
  assert 'shell' not in shells


def test_an_action_that_fails_is_no_action_of_the_agent(fake):
  fake.on_execute = lambda _: ('', 1)
  with pytest.raises(client_lib.DesktopError, match='an action failed'):
    perform(fake, Action(kind='hotkey', keys=('esc',)))
  assert fake.count('/execute') == 1
