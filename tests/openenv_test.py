"""Tests of the adapter: OpenEnv's messages, time limits and failures."""
import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

import gymnasium
from gymnasium.utils import env_checker
import pytest
from websockets.sync import server as websocket_server

from step_jax.envs import base

_PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'openenv.md'
_SAY_KITCHEN = base.make_action('type', 1, 1)


def _echo_class():
  """The page's."""
  code, = re.findall(r'```python\n(.*?)```', _PAGE.read_text(), re.DOTALL)
  names: dict = {}
  exec(code, names)  # our own page
  return names['EchoEnv'], names['TRAIN_TASKS']


_ECHO, _TASKS = _echo_class()


class _Server:
  """Says what an echo server says, or what `answers` says instead."""

  def __init__(self):
    self.asked, self.sessions, self.answers, self.is_full = [], 0, [], False
    self._ended = threading.Event()
    self._server = websocket_server.serve(self._serve, '127.0.0.1', 0)
    self.address = 'http://127.0.0.1:%d' % self._server.socket.getsockname()[1]
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def _serve(self, connection):
    assert connection.request.path == '/ws'
    self.sessions += 1
    if self.is_full:
      connection.send(_FULL)
      return
    for text in connection:
      message = json.loads(text)
      self.asked.append((message['type'], message['data']))
      answer = self.answers.pop(0) if self.answers else 'echo'
      if answer == 'hang':
        self._ended.wait()
      if answer == 'close':
        return
      said = message['data'].get('message', '')
      connection.send(answer if answer != 'echo' else _observation(
          said, .1 * len(said)))

  def close(self):
    self._ended.set()
    self._server.shutdown()


def _observation(said, reward=None, done=False):
  return json.dumps({'type': 'observation', 'data': {
      'observation': {'echoed_message': said, 'message_length': len(said)},
      'reward': reward, 'done': done}})


def _error(code):
  return json.dumps({'type': 'error', 'data': {'message': 'no', 'code': code}})


_FULL = _error('CAPACITY_REACHED')


@pytest.fixture(name='server')
def made_server():
  server = _Server()
  yield server
  server.close()


def _make(address, max_steps=2, **options):
  return _ECHO(_TASKS, max_steps, **{
      'address': address, 'solved_at': .6, 'step_timeout': .1,
      'reset_timeout': 5.} | options)


def test_an_episode_is_a_reset_and_steps_of_one_session(server):
  with contextlib.closing(_make(server.address)) as env:
    for task_id, reward in ((0, 1.), (1, 0.)):
      first, info = env.reset(seed=7, options={'task_id': task_id})
      assert info == {'task': _TASKS[task_id]}
      assert first['instruction'][1] == base.word_id(
          ('kitchen', 'garden')[task_id])
      seen, *rest = env.step(_SAY_KITCHEN)
      assert rest == [0., False, False, info]
      assert seen['element_text'][0, 0] == first['instruction'][1]
      assert env.observation_space.contains(seen)
      act = (_SAY_KITCHEN, base.make_action('click', 0))[task_id]
      assert env.step(act)[1:4] == (reward, False, True)
  assert server.sessions == 1 and server.asked == [
      ('reset', {'seed': 7, 'task_name': 'say-kitchen'}),
      ('step', {'message': 'kitchen'}), ('step', {'message': 'kitchen'}),
      ('reset', {'seed': 7, 'task_name': 'say-garden'}),
      ('step', {'message': 'garden'}), ('step', {'message': ''})]


@pytest.mark.parametrize('answer, ends, asked', [
    (_observation('x', 1, True), (1., True, False), 1),
    (_observation('x', .5, True), (0., True, False), 1),
    (_observation('x', None), (0., False, False), 1),
    (_error('VALIDATION_ERROR'), (0., False, False), 1),
    (None, (0., False, False), 0)])  # an illegal action asks nobody
def test_an_end_is_the_servers_and_a_refusal_is_a_step(
    server, answer, ends, asked):
  with contextlib.closing(_make(server.address, max_steps=3)) as env:
    env.reset(seed=0)
    server.answers = [answer] if answer else []
    *found, info = env.step(
        _SAY_KITCHEN if answer else base.make_action('type', 0, 1))[1:]
    assert tuple(found) == ends and 'failure' not in info
    assert len(server.asked) == 1 + asked


@pytest.mark.parametrize('kind', ['reset', 'step'])
@pytest.mark.parametrize('answer, said', [
    ('hang', 'no answer to {} within 0.1 s'),
    ('close', 'received 1000'),
    ('{"type"', 'expected JSON'),
    ('[]', 'expected an observation, got []'),
    ('{"type": "state", "data": {}}', 'expected an observation'),
    ('{"type": "observation", "data": 3}', 'expected an observation'),
    (_observation('x', 'much'), 'expected an observation'),
    (_observation('x', float('nan')), 'expected an observation'),
    (_observation('x', None, True), "'reward': None, 'done': True"),  # #1025
    (_observation('x', done=None), 'expected an observation'),
    (_error('EXECUTION_ERROR'), 'no (EXECUTION_ERROR)'),
    (_FULL, 'no (CAPACITY_REACHED)')],
    ids='hang close cut list state data reward nan none done raised full'
    .split())
def test_what_breaks_is_a_failure_and_the_next_session_is_new(
    server, kind, answer, said):
  """OpenEnv #1036: also rewards that are not finite or no numbers."""
  with contextlib.closing(_make(server.address)) as env:
    env.reset(seed=0)
    env._limits = (.1, .1)
    server.answers = [answer]
    started = time.monotonic()
    *_, info = env.reset(seed=0) if kind == 'reset' else env.step(_SAY_KITCHEN)
    assert said.format(kind) in info['failure']
    assert server.address[4:] in info['failure']
    assert time.monotonic() - started < 2
    env._limits = (5., 5.)
    assert 'failure' not in env.reset(seed=0)[1]
    assert 'failure' not in env.step(_SAY_KITCHEN)[-1]
  assert server.sessions == 2


def test_a_server_that_is_full_is_heard_although_it_has_closed(
    server, monkeypatch):
  dumps = json.dumps
  monkeypatch.setattr(json, 'dumps', lambda message: (
      time.sleep(.1), dumps(message))[1])  # until the close is there
  server.is_full = True
  env = _make(server.address)
  assert 'no (CAPACITY_REACHED)' in env.reset(seed=0)[1]['failure']


def test_a_server_that_is_gone_is_a_failure_and_an_address_that_is_none_not():
  with socket.socket() as closed:
    closed.bind(('127.0.0.1', 0))
    env = _make('http://127.0.0.1:%d' % closed.getsockname()[1])
    assert 'refused' in env.reset(seed=0)[1]['failure']
  for address in ('127.0.0.1:8000', 'ftp://there', 'http://'):
    with pytest.raises(ValueError, match="server's address"):
      _make(address)


def test_it_is_an_environment(server):
  class Ended(_ECHO):
    """Random actions say anything; the checker wants no rewards of ours."""

  with contextlib.closing(Ended(
      _TASKS, 3, address=server.address)) as env:
    env.spec = gymnasium.envs.registration.EnvSpec('x-v0')
    env_checker.check_env(env, skip_render_check=True, skip_close_check=True)


def test_the_echo_server_of_openenv(tmp_path):
  """Its template, as `openenv init` makes it; needs openenv-core."""
  openenv_cli = pytest.importorskip('openenv.cli')
  pytest.importorskip('fastmcp')
  template = pathlib.Path(openenv_cli.__file__).parent / 'templates'
  folder = tmp_path / 'echo'
  shutil.copytree(template / 'openenv_env', folder)
  names = {'__ENV_NAME__': 'echo', '__ENV_CLASS_NAME__': 'Echo',
           '__ENV_TITLE_NAME__': 'Echo'}
  for path in [*folder.rglob('*.py')]:
    text, name = path.read_text(), path.name
    for old, new in names.items():
      text, name = text.replace(old, new), name.replace(old, new)
    path.unlink()
    path.with_name(name).write_text(text)
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  server = subprocess.Popen(
      [sys.executable, '-m', 'uvicorn', 'echo.server.app:app', '--port',
       str(port)], cwd=tmp_path, stderr=subprocess.DEVNULL)
  try:
    env = _make(f'http://127.0.0.1:{port}', step_timeout=10.)
    for _ in range(600):
      if 'failure' not in (info := env.reset(seed=0)[1]):
        break
      time.sleep(.1)
    assert 'failure' not in info, info
    assert env.step(_SAY_KITCHEN)[1:4] == (0., False, False)
    assert env.step(_SAY_KITCHEN)[1:4] == (1., False, True)
    env.action = lambda act, screen: {'no': 'field'}  # its schema refuses that
    env.reset(seed=0, options={'task_id': 1})
    assert env.step(_SAY_KITCHEN)[1:4] == (0., False, False)
    other = _make(f'http://127.0.0.1:{port}', step_timeout=10.)
    assert 'CAPACITY_REACHED' in other.reset(seed=0)[1]['failure']
    env.close()
  finally:
    server.terminate()
    server.wait()
