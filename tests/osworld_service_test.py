"""The service: setup and evaluation by a package that stands for OSWorld's."""

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import time
import types

import pytest

from step_jax.envs import base
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import env as env_lib
from step_jax.envs.osworld import judge as judge_lib
from step_jax.envs.osworld import machines
from step_jax.envs.osworld import tasks
from step_jax.envs.osworld import upstream
from tests import fake_desktop
from tests import fake_venv

requests = pytest.importorskip('requests')
DesktopError = client_lib.DesktopError
GOLD = b'the content that is wanted'
FILE = {'type': 'vm_file', 'path': '/a'}


@pytest.fixture(scope='module')
def python(tmp_path_factory):
  """An 'interpreter of a virtual environment' with the package."""
  path = fake_venv.make(tmp_path_factory.mktemp('venv'))
  with upstream.Service(path, num_processes=2):  # for all tests
    yield path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache' / 'step_jax' / 'osworld'


class FileServer:
  """Serves GOLD, slowly; `status` 404 says that it is not there."""

  def __init__(self):
    self.count = 0
    self.status = 200
    files = self

    class Handler(http.server.BaseHTTPRequestHandler):

      def do_GET(self):  # noqa: N802
        files.count += 1
        self.send_response(files.status)
        self.send_header('Content-Length', str(len(GOLD)))
        self.end_headers()
        self.wfile.write(GOLD[:5])
        time.sleep(.05)
        self.wfile.write(GOLD[5:])

      def log_message(self, *_):
        pass

    self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self.url = f'http://127.0.0.1:{self._server.server_port}/gold file.txt'

  def __enter__(self):
    self._thread = threading.Thread(
        target=self._server.serve_forever, args=(.02,))
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._server.shutdown()
    self._server.server_close()
    self._thread.join()


@pytest.fixture
def files():
  with FileServer() as files:
    yield files


@pytest.fixture
def fake():
  with fake_desktop.FakeDesktop() as fake:
    yield fake


@pytest.fixture
def task(tmp_path, files):
  """Makes a task that compares a file with GOLD."""
  def make(config=(), **fields):
    path = tmp_path / 'one.json'
    path.write_text(json.dumps({
        'id': 'one', 'instruction': 'In {HOME}', 'config': list(config),
        'evaluator': {
            'func': 'exact_match', 'result': FILE,
            'expected': {'type': 'cloud_file', 'path': files.url,
                         'dest': 'gold.txt'}, **fields}}))
    return tasks.load(path, evaluator='desktop_env')

  return make


def make_judge(python, fake, **fields):
  url, ports = machines.split(fake.address + fields.pop('ports', ''))
  return contextlib.closing(judge_lib.Judge(
      types.SimpleNamespace(
          client=client_lib.Client(url, token=fake.token, retry_pause=0.),
          token=fake.token, ports=ports, screen_size=(1280, 720)),
      python=python, num_processes=2, password='secret', **{
          'proxies': '', 'settle_after_reset': 0.,
          'settle_before_evaluation': 0., **fields}))


def play(python, fake, task, *, failed=False, **fields):
  """Prepares a task and evaluates it."""
  with make_judge(python, fake, **fields) as judge:
    judge.prepare(task)
    return judge.evaluate(task, failed=failed)


def test_two_machines_at_once_on_one_task(python, task, files, cache):
  """Gold is downloaded slowly by both, and each is scored by its own file."""
  with fake_desktop.FakeDesktop() as good, fake_desktop.FakeDesktop() as bad:
    good.files, bad.files = {'/a': GOLD}, {'/a': b'else'}
    scores, made = {}, task()  # written once, as both read it
    threads = [threading.Thread(target=lambda fake=fake: scores.update({
        fake: play(python, fake, made)[0]})) for fake in (good, bad)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert (scores[good], scores[bad]) == (1, 0)
    count = files.count
    assert count in (1, 2)  # 1 if the second came late
    assert play(python, good, made) == (1, '')
    assert files.count == count  # from the cache that all share
    kept, = cache.iterdir()
    assert kept.read_bytes() == GOLD and kept.stat().st_mode & 0o777 == 0o444


def test_setup_reaches_the_machine_by_its_ports(python, fake, task, files):
  (task().path.parent / 'near.txt').write_text('near')
  with fake_desktop.FakeDesktop() as chrome, fake_desktop.FakeDesktop() as vlc:
    chrome_port, vlc_port = (
        one.address.rpartition(':')[2] for one in (chrome, vlc))
    made = task([
        {'type': 'download', 'parameters': {'files': [
            {'url': files.url, 'path': '/a'},
            {'url': 'file://near.txt', 'path': '{HOME}/near'}]}},
        {'type': 'execute', 'parameters': {'command': 'ls', 'shell': 'true'}},
        {'type': 'chrome_open_tabs', 'parameters': {'urls_to_open': ['x']}}])
    assert play(python, fake, made,
                ports=f'#chrome={chrome_port}&vlc={vlc_port}') == (1, '')
    assert [one.requests for one in (chrome, vlc)] == [
        [('/setup/tab', {'url': 'x'})]] * 2
  assert fake.files == {'/a': GOLD, '/home/user/near': b'near'}
  assert ('/execute', {'command': 'ls', 'shell': True}) in fake.requests
  assert files.count == 1  # the setup's file is the expected one, too


def test_a_token_and_a_proxy_go_to_the_desktop(python, task, tmp_path):
  made = task()
  value = json.loads(made.path.read_text())
  made.path.write_text(json.dumps({**value, 'proxy': True}))
  proxies = tmp_path / 'proxies.json'
  with fake_desktop.FakeDesktop(token='t') as fake:
    fake.files = {'/a': GOLD}
    assert play(python, fake, made) == (1, '')
    assert fake.count('/execute') == 0
    play(python, fake, made, proxies=str(proxies))
    assert [body['command'] for route, body in fake.requests
            if route == '/execute'] == [['proxy', str(proxies), 'secret']]


def test_a_task_of_ours_that_asks_for_a_proxy_has_it(python, fake, task):
  """'auto' leaves it to the package where there are proxies."""
  path = task(func='infeasible').path
  path.write_text(json.dumps({**json.loads(path.read_text()), 'proxy': True}))
  for proxies, commands in (
      ('', []), ('/proxies.json', [['proxy', '/proxies.json', 'secret']])):
    fields = {'evaluator': 'auto', 'desktop_env_python': python,
              'evaluator_processes': 2, 'proxies': proxies}
    assert env_lib.examine_tasks([str(path)], **fields)[0] == {}
    with contextlib.closing(env_lib.OSWorldEnv(
        [path], addresses=[fake.address], pause=0., password='secret',
        **fields)) as env:
      env.reset()
      assert env.step(base.make_action('fail'))[1] == 1
    assert [body['command'] for route, body in fake.requests
            if route == '/execute'] == commands
  for evaluator in ('own', 'auto'):  # without the interpreter
    wrong, _ = env_lib.examine_tasks(
        [str(path)], evaluator=evaluator, proxies='/proxies.json')
    assert wrong == {str(path): (
        f"{path}: asks for a proxy: expected evaluator 'auto' or 'desktop_env' "
        "with desktop_env_python, as only OSWorld's package uses proxies, got "
        "'own'")}


def test_only_saying_so_solves_an_infeasible_task(python, fake, task):
  fake.files = {'/a': GOLD}
  for fields, failed, score in (
      ({'func': 'infeasible'}, True, 1), ({'func': 'infeasible'}, False, 0),
      ({}, True, 0), ({}, False, 1)):
    assert play(python, fake, task(**fields), failed=failed)[0] == score


def open_step(path='/x'):
  return {'type': 'open', 'parameters': {'path': path}}


# What the agent can cause scores 0, and says why where it was an error.
AGENTS = {
    'no file': ({}, {}, ''),
    'no file, and a metric that does not expect that': (
        {'func': 'length'}, {}, 'TypeError'),
    'a program of the agent that ends what runs it': (
        {'func': 'exit'}, {}, 'SystemExit: done'),
    '/file of a folder': ({}, {'/file': ['error'] * 9}, ''),
    'a post-configuration that opens what is gone': (
        {'postconfig': [open_step()]}, {'/setup/open_file': [404]},
        'HTTPError'),
    'a post-configuration that cannot open what is there': (
        {'postconfig': [open_step()]}, {'/setup/open_file': [500]},
        'HTTPError'),
    'a program that is not there': (
        {'postconfig': [{'type': 'execute', 'parameters': {'command': 'x'}}]},
        {'/execute': ['error']}, ''),
    'a program to launch that is not there': (
        {'postconfig': [{'type': 'launch', 'parameters': {'command': 'x'}}]},
        {'/setup/launch': [500]}, ''),
    'output that is not UTF-8': (
        {'result': {'type': 'vm_command_line', 'command': 'x'}},
        {'/execute': [500]}, ''),
    'no file to compare with': (
        {'result': {**FILE, 'path': '/b'}, 'expected': FILE}, {}, ''),
}
# What only the machine can cause is an error.
MACHINES = {
    'the desktop drops connections': (
        {}, {'/file': ['drop'] * 9}, '/file failed'),
    'the desktop drops one, and the agent failed': (
        {}, {'/file': ['drop', 'drop']}, '/file failed'),
    'a package is missing': ({'func': 'import_nothing'}, {}, 'no_such_package'),
    'an unknown metric': ({'func': 'nothing'}, {}, "KeyError: 'nothing'"),
    'its process dies': ({'func': 'die'}, {}, 'died: out of memory'),
    'no end': ({'func': 'hang'}, {}, 'no end after 0.3 s'),
}


@pytest.mark.parametrize('row', AGENTS)
def test_what_the_agent_can_cause_scores_0(python, fake, task, row):
  fields, failures, note = AGENTS[row]
  fake.files = {'/b': GOLD}
  with make_judge(python, fake) as judge:
    made = task(**fields)
    judge.prepare(made)
    fake.failures.update(failures)
    score, told = judge.evaluate(made, failed=False)
  assert score == 0 and note in told and bool(note) == bool(told)


@pytest.mark.parametrize('row', MACHINES)
def test_what_only_the_machine_can_cause_is_an_error(
    python, fake, task, row):
  fields, failures, message = MACHINES[row]
  fake.failures.update(failures)
  with pytest.MonkeyPatch.context() as patch:
    if row == 'no end':
      patch.setattr(upstream, 'SECONDS', .3)
    with pytest.raises(DesktopError, match=f'desktop-env failed.*{message}'):
      play(python, fake, task(**fields))
  fake.failures.clear()
  assert play(python, fake, task())[0] == 0  # the service goes on


def test_what_the_web_lacks_is_an_error(python, fake, task, files, cache):
  files.status = 404
  with pytest.raises(DesktopError, match='404'):
    play(python, fake, task())
  with pytest.raises(DesktopError, match='404'):
    play(python, fake, task([{'type': 'download', 'parameters': {'files': [
        {'url': files.url, 'path': '/a'}]}}]))
  assert not cache.exists() or not list(cache.iterdir())


def test_a_setup_that_fails_is_an_error(python, fake, task):
  fake.failures['/setup/open_file'] = [500]
  with pytest.raises(DesktopError, match='desktop-env failed: HTTPError'):
    play(python, fake, task([open_step()]))


def test_https_is_refused(python, fake, task):
  with pytest.raises(DesktopError, match='ValueError: expected http://HOST'):
    with make_judge(python, fake) as judge:
      judge._machine.client.address = 'https://h'
      judge.prepare(task())


def test_a_dead_desktop_is_told_at_once(python, fake, task):
  with make_judge(python, fake) as judge:
    made = task()
    judge.prepare(made)
    fake.failures['/screen_size'] = ['drop'] * 9
    with pytest.raises(DesktopError, match='/screen_size'):
      judge.evaluate(made, failed=False)


def test_orders_wait_for_a_free_process(python, task, files):
  """Four at once, of which two may work: all are answered."""
  working, counts, lock = [], [], threading.Lock()

  def work(command):
    with lock:
      working.append(command)
      counts.append(len(working))
    time.sleep(.3)
    with lock:
      working.pop()
    return ''

  with contextlib.ExitStack() as stack:
    fakes = [stack.enter_context(fake_desktop.FakeDesktop()) for _ in range(4)]
    scores = []
    for fake in fakes:
      fake.files, fake.on_execute = {'/a': GOLD}, work
    made = task([{'type': 'execute', 'parameters': {
        'command': 'x'}}])  # written once, as all read it
    threads = [threading.Thread(target=lambda fake=fake: scores.append(
        play(python, fake, made)[0])) for fake in fakes]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert scores == [1] * 4
    assert len(counts) == 4 and max(counts) <= 2


def test_an_environment_with_two_sorts_of_tasks(python, fake, task, tmp_path):
  """'auto' takes our own evaluators where they cover a task."""
  task(func='length')
  (tmp_path / 'two.json').write_text(json.dumps({
      'id': 'two', 'instruction': 'Fly.', 'evaluator': {'func': 'infeasible'}}))
  paths = [str(tmp_path / f'{name}.json') for name in ('one', 'two')]
  wrong, notes = env_lib.examine_tasks(
      paths, evaluator='auto', desktop_env_python=python)
  assert (wrong, notes) == ({}, [
      '1 of 2 tasks are prepared and evaluated by desktop-env, the others by '
      'ours'])
  task(func='newer', expected={'type': 'newer_file'})
  wrong, _ = env_lib.examine_tasks(
      paths, evaluator='auto', desktop_env_python=python)
  assert wrong == {paths[0]: f'{paths[0]}: desktop-env lacks metric newer, '
                             'getter newer_file'}
  task(func='length')
  wrong, notes = env_lib.examine_tasks(paths, evaluator='auto')
  assert list(wrong) == paths[:1] and not notes
  slept = []
  with contextlib.closing(env_lib.OSWorldEnv(
      paths, addresses=[fake.address], pause=0., evaluator='auto',
      desktop_env_python=python, evaluator_processes=2)) as env:
    env._judge._settle_after_reset, env._judge._settle_before_evaluation = 1, 2
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(judge_lib.time, 'sleep', slept.append)
      for content, reward, note in (
          (GOLD, 1, None), (b'', 0, None),
          (None, 0, "TypeError: object of type 'NoneType' has no len()")):
        fake.files = {} if content is None else {'/a': content}
        env.reset(options={'task_id': 0})
        *_, info = result = env.step(base.make_action('done'))
        assert result[1] == reward and info.get('evaluation') == note
      env.reset(options={'task_id': 1})
      assert env.step(base.make_action('fail'))[1] == 1
  assert {1, 2} <= set(slept)


def test_a_service_that_cannot_import_says_why(tmp_path, fake, task):
  broken = fake_venv.make(tmp_path, tmp_path / 'empty')
  with pytest.raises(DesktopError, match="service ended: .*'desktop_env'"):
    play(broken, fake, task())
  with pytest.raises(ValueError, match='an interpreter that has the package'):
    upstream.check('auto', broken)
  with pytest.raises(DesktopError, match='failed to start'):
    play(str(tmp_path / 'none'), fake, task())


def test_the_command_makes_the_virtual_environment(
    monkeypatch, capsys, tmp_path):
  commands = []
  monkeypatch.setattr(upstream, 'check', lambda *_: None)
  monkeypatch.setattr(upstream.subprocess, 'run',
                      lambda command, check: commands.append(command))
  assert upstream.main([str(tmp_path)]) == 0
  python = str(tmp_path / 'bin/python')
  assert commands == [
      [sys.executable, '-m', 'venv', str(tmp_path)],
      [python, '-m', 'pip', 'install', 'desktop-env==1.0.2']]
  assert capsys.readouterr().out == (
      f"--config.env.arguments.desktop_env_python='{python}'\n")
  assert upstream.main([]) == 2


def test_a_checkout_goes_before_the_package(monkeypatch, capsys, tmp_path):
  monkeypatch.setattr(upstream, 'check', lambda *_: None)
  monkeypatch.setattr(upstream.subprocess, 'run', lambda *_, **__: None)
  site, checkout = tmp_path / 'lib/python3/site-packages', tmp_path / "it's"
  for folder in (site, checkout):
    (folder / 'desktop_env/evaluators').mkdir(parents=True)
    (folder / 'desktop_env/__init__.py').touch()
  assert upstream.main([str(tmp_path), str(site / 'desktop_env')]) == 2
  assert 'desktop_env/evaluators, got' in capsys.readouterr().err
  assert upstream.main([str(tmp_path), str(checkout)]) == 0
  monkeypatch.undo()
  program = ('import site, sys; site.addsitedir(sys.argv[1]); '
             'import desktop_env; print(desktop_env.__file__)')
  found = subprocess.run([sys.executable, '-I', '-c', program, str(site)],
                         check=True, capture_output=True, text=True).stdout
  assert found.strip() == str(checkout / 'desktop_env/__init__.py')
