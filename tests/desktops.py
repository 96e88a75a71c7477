"""Real desktops for tests."""

import contextlib
import importlib.util
import json
import pathlib
import re
import subprocess

import coverage
import httpx
import pytest

from step_jax.envs import osworld
from step_jax.envs.osworld.desktop import processes
from tests import desktop_coverage

PROGRAM = pathlib.Path(osworld.__file__).parent / 'desktop' / '__main__.py'
_START = pathlib.Path.cwd()   # A test may go elsewhere.


def get_packages():
  """The folder that holds pyautogui."""
  return str(pathlib.Path(
      importlib.util.find_spec('pyautogui').origin).parents[1])


def _make_counter():
  """The program before the desktop's, if this session counts its lines."""
  counter = coverage.Coverage.current()
  return [] if counter is None else [desktop_coverage.__file__, json.dumps({
      'coverage': str(pathlib.Path(coverage.__file__).parent),
      'data': str(_START / counter.get_option('run:data_file')),
      'branch': bool(counter.get_option('run:branch'))})]


def make_command(*options):
  return ['/usr/bin/python3', *_make_counter(), str(PROGRAM), '--packages',
          get_packages(), '--port=0', *options]


class Desktop:
  """A desktop of its own process, with a client."""

  def __init__(self, *options, token=None, command=None):
    self.process = subprocess.Popen(
        command or make_command(*options), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True)
    self.line = self.process.stdout.readline()
    self.address = re.search('http://[^ ]+', self.line)[0]
    self.display = self.line.split()[-1]
    self.client = httpx.Client(
        base_url=self.address, timeout=30, trust_env=False,
        headers={'Authorization': f'Bearer {token}'} if token else {})
    self.home = pathlib.Path(self.client.get('/health').json()['home'])
    self.folder = self.home.parents[1]

  def execute(self, command, **fields):
    return self.client.post(
        '/execute', json={'command': command, **fields}).json()

  def reset(self):
    assert self.client.post('/reset').status_code == 200

  def list_processes(self):
    """The processes of the desktop, with the first one."""
    first = self.process.pid
    found = {first, *processes.descendants(first)}
    for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
      with contextlib.suppress(OSError):   # They may have moved away.
        if str(self.folder).encode() in path.read_bytes():
          found.add(int(path.parent.name))
    return found

  def find_process(self, name):
    """The number of a process of the desktop."""
    return next(pid for pid in self.list_processes() if pathlib.Path(
        f'/proc/{pid}/comm').read_text().strip() == name)

  def close(self):
    self.client.close()
    self.process.terminate()
    self.process.wait(timeout=20)
    self.process.stdout.close()
    self.process.stderr.close()


@pytest.fixture(scope='session', name='start_desktop')
def start_desktop_fixture():
  """A function that starts a desktop, which the session's end closes."""
  started = []

  def start(*options, **fields):
    started.append(Desktop(*options, **fields))
    return started[-1]

  yield start
  for desktop in started:
    desktop.close()


@pytest.fixture(scope='session', name='session_desktop')
def session_desktop_fixture(start_desktop):
  """One desktop for many tests."""
  return start_desktop()


@pytest.fixture(name='desktop')
def desktop_fixture(session_desktop):
  """The session's desktop, as new."""
  session_desktop.reset()
  return session_desktop
