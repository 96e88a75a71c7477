"""The environment on a real desktop: tasks, hostile text, a desktop's death."""

import json
import os
import pathlib
import signal
import string
import time

import pytest

from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld.desktop import processes
from step_jax.envs.osworld import env as env_lib
from step_jax.envs.osworld import machines
from step_jax.envs.osworld import program

pytestmark = pytest.mark.desktop

HOSTILE = '\'); import os; os.system("touch owned")'
FILE = '{HOME}/Documents/$(touch owned); \'"touch owned.txt'


def _check_end(pids):
  """Waits until none of some processes is left."""
  deadline = time.monotonic() + 10
  while left := [pid for pid in pids if pathlib.Path(f'/proc/{pid}').exists()]:
    assert time.monotonic() < deadline, left
    time.sleep(.05)


def _write(folder, name, solution, **fields):
  (folder / f'{name}.json').write_text(json.dumps({'id': name, **fields}))
  (folder / f'{name}.solution.json').write_text(json.dumps(
      {'steps': solution}))


def _click(kind, text):
  return {'verb': 'click', 'element': {'kind': kind, 'text': text}}


@pytest.fixture(name='folder', scope='module')
def folder_fixture(tmp_path_factory):
  """Two tasks: a file to save, and one whose every text is hostile."""
  folder = tmp_path_factory.mktemp('tasks')
  field = {'kind': 'text'}
  _write(
      folder, 'save', [
          {'verb': 'type', 'element': field, 'word': 'hello'},
          _click('menu', 'File'), _click('menu-item', 'Save As...'),
          _click('list-item', 'Documents'),
          {'verb': 'type', 'element': {'kind': 'text', 'text': 'Name:'},
           'word': 'a.txt'},
          _click('push-button', 'Save'), {'verb': 'done'}],
      instruction='Type hello and save it as a.txt in Documents.',
      config=[{'type': 'launch', 'parameters': {'command': ['mousepad']}}],
      evaluator={
          'func': 'exact_match', 'result': {
              'type': 'vm_command_line',
              'command': ['cat', '{HOME}/Documents/a.txt']},
          'expected': {'type': 'rule', 'rules': {'expected': 'hello'}}})
  (folder / 'owned?.txt').write_text('begin')
  words = ['import', 'os', 'os.system("touch', 'owned']
  _write(
      folder, 'hostile', [
          *({'verb': 'type', 'element': field, 'word': word}
            for word in words),
          _click('menu', 'File'), _click('menu-item', 'Save'),
          {'verb': 'done'}],
      instruction=f'Write {HOSTILE} into the file.',
      config=[
          {'type': 'upload_file', 'parameters': {'files': [
              {'local_path': 'owned?.txt', 'path': FILE}]}},
          {'type': 'launch', 'parameters': {'command': ['mousepad', FILE]}}],
      evaluator={
          'func': 'check_include_exclude', 'result': {
              'type': 'vm_command_line', 'command': ['cat', FILE]},
          'expected': {'type': 'rule', 'rules': {
              'include': [' '.join(['begin', *words])]}}})
  return folder


@pytest.fixture(name='env', scope='module')
def env_fixture(folder):
  env = env_lib.OSWorldEnv(folder)
  yield env
  process = env._machine._local
  below = processes.descendants(process.pid)
  env.close()
  assert process.poll() is not None
  _check_end(below)


def _play(env, task):
  """Rewards of the scripted solution."""
  _, info = env.reset(seed=0, options={
      'task_id': env.tasks.index(task), 'expert': True})
  rewards = []
  while 'expert_action' in info:
    _, reward, _, _, info = env.step(info['expert_action'])
    rewards.append(reward)
  return rewards


def _files(env):
  return env._machine.client.execute(
      ['find', env._machine.client.home, '/', '-xdev', '-name', 'owned',
       '-not', '-path', '/proc/*']).output


@pytest.mark.parametrize('task, steps', [('save', 7), ('hostile', 7)])
def test_a_solution_scores_1_and_doing_nothing_0(env, task, steps):
  assert _play(env, task) == [0.] * (steps - 1) + [1.]
  assert _files(env) == ''
  env.reset(seed=0, options={'task_id': env.tasks.index(task)})
  assert env.step(base.make_action('done'))[1] == 0


@pytest.mark.parametrize('text', [
    string.printable[:95], HOSTILE, '$(touch owned) `touch owned`', '<<a<b>>',
    'Ünï ✓ 日本 «x» €', 'one\ntwo\tthree', '--help'])
def test_text_arrives_as_it_is(env, text):
  env.reset(seed=0, options={'task_id': env.tasks.index('save')})
  env.step(actions.Action(kind='type', text=text))
  typed, = [item.record.value for item in env._tree.items if item.typing]
  if not typed:  # A busy machine pastes later than it looks.
    env.step(actions.Action(kind='wait'))
    typed, = [item.record.value for item in env._tree.items if item.typing]
  assert typed == text
  assert _files(env) == ''


def test_the_argument_of_the_program_is_only_data(env):
  """Even JSON that the codec would never make runs nothing."""
  client = env._machine.client
  for order in ([['__import__', 'os']], [['system', 'touch owned']], HOSTILE):
    output = client.execute(
        ['python', '-c', program.PROGRAM, json.dumps(order)])
    assert output.returncode != 0
  assert _files(env) == ''


@pytest.mark.parametrize('victim', ['server', 'Xvfb'])
def test_a_desktop_that_dies_is_replaced(env, victim):
  env.reset(seed=0, options={'task_id': 0})
  first = env._machine._local.pid
  below = [first, *processes.descendants(first)]
  names = {pid: pathlib.Path(f'/proc/{pid}/comm').read_text().strip()
           for pid in below}
  pid = first if victim == 'server' else next(
      pid for pid, name in names.items() if name == victim)
  os.kill(pid, signal.SIGKILL)
  with pytest.raises(client_lib.DesktopError):
    for _ in range(20):
      env.step(base.make_action('back'))
  _check_end(below)
  assert _play(env, 'save')[-1] == 1


def test_a_desktop_of_its_own_asks_for_its_token(env):
  address = env._machine.client.address
  with client_lib.Client(address) as stranger:
    with pytest.raises(client_lib.DesktopError, match='401'):
      stranger.screenshot()


def test_what_is_missing_is_one_sentence(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(base.MissingProgramError, match='apt-get install'):
    machines.Machine(())
