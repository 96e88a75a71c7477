"""What is sent to a desktop for an action: one fixed program and data."""

import ast
import json
import subprocess
import sys
import time
import types

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


@pytest.fixture(name='pasted')
def pasted_fixture(monkeypatch):
  """Runs the program here; xclip has the clipboard some reads after its end."""
  pasted, clipboard = [], ['before']

  def run(command, *, input=b'', late=0, **_):
    if '-o' not in command:
      clipboard[1:] = ['before'] * late + [input.decode()]
    elif len(clipboard) > 1:
      del clipboard[0]
    return types.SimpleNamespace(stdout=clipboard[0].encode())

  def play(text, late):
    monkeypatch.setattr(
        subprocess, 'run',
        lambda command, **options: run(command, late=late, **options))
    monkeypatch.setattr(sys, 'argv', ['', json.dumps([['type', text]])])
    exec(program.PROGRAM, {})  # pylint: disable=exec-used
    return pasted

  names = ('click', 'doubleClick', 'rightClick')
  monkeypatch.setitem(sys.modules, 'pyautogui', types.SimpleNamespace(
      write=pasted.append, hotkey=lambda *_: pasted.append(clipboard[0]),
      **dict.fromkeys(names)))
  return play


@pytest.mark.parametrize('late', [0, 1, 3])
def test_a_text_is_pasted_when_the_clipboard_has_it(pasted, late):
  assert pasted('aü\n日本', late) == ['a', 'ü', '\n', '日本']


def test_a_clipboard_that_takes_no_text_is_the_machines_failure(
    pasted, monkeypatch):
  clock = iter(range(100))
  monkeypatch.setattr(time, 'monotonic', lambda: next(clock))
  with pytest.raises(OSError, match='the clipboard does not take a text'):
    pasted('ü', late=1000)


def test_an_action_that_fails_is_no_action_of_the_agent(fake):
  fake.on_execute = lambda _: ('', 1)
  with pytest.raises(client_lib.DesktopError, match='an action failed'):
    perform(fake, Action(kind='hotkey', keys=('esc',)))
  assert fake.count('/execute') == 1
