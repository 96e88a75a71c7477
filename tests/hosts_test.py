"""One run of two hosts, as two processes of two devices each, with gloo."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_CLOCKS = {'seconds', 'rollout_seconds', 'update_seconds', 'compilations'}
_LIMIT = 150.  # seconds, on busy machines


def _start(command, num_hosts, num_devices, **environ):
  """Processes of as many hosts, with as many devices each."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  environ = os.environ | {
      'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
      'JAX_NUM_PROCESSES': str(num_hosts), 'NPROC': '4', 'COLUMNS': '200',
      'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS':
      '--xla_cpu_use_fusion_emitters=false '
      f'--xla_force_host_platform_device_count={num_devices}'} | environ
  return [subprocess.Popen(
      command, env=environ | {'JAX_PROCESS_ID': str(i)}, cwd=_ROOT, text=True,
      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE) for i in range(num_hosts)]


@pytest.fixture(scope='module', name='launch')
def made_launch(tmp_path_factory):
  """`launch(workdir, variant, num_hosts)` -> its processes."""
  place, started = tmp_path_factory.mktemp('place'), []

  def launch(workdir, variant='', num_hosts=2):
    command = [
        sys.executable, str(_ROOT / 'experiments' / 'run.py'),
        f'--config={_ROOT}/tests/hosts_config.py:{variant}'.removesuffix(':'),
        f'--workdir={workdir}', *(['--distributed'] if num_hosts > 1 else [])]
    new = _start(command, num_hosts, 4 // num_hosts,
                 XDG_CACHE_HOME=str(place))
    started.extend(new)
    return new

  yield launch
  for process in started:
    process.kill()
    process.communicate()


def _end(processes, code, is_quiet=True):
  """What they said, once they have ended."""
  said = [process.communicate(timeout=_LIMIT) for process in processes]
  assert [process.returncode for process in processes] == (
      [code] * len(processes)), said
  assert not is_quiet or all(  # the first speaks for all
      output == '' for output, _ in said[1:])
  return said


def _rows(workdir):
  path = workdir / 'metrics.jsonl'
  return [json.loads(line) for line in (
      path.read_text().splitlines() if path.exists() else ())]


def _assert_same_run(actual, expected):
  """To 1e-5: sums over devices come in another order."""
  for one, other in zip(_rows(actual), _rows(expected), strict=True):
    for name in one.keys() - _CLOCKS:
      np.testing.assert_allclose(
          np.array(one[name], float), np.array(other[name], float),
          rtol=1e-5, atol=1e-5, err_msg=name)
  assert (actual / 'evaluation.json').read_text() == (
      expected / 'evaluation.json').read_text()


def test_what_hosts_tell_each_other(tmp_path):
  said = _end(_start([
      sys.executable, '-m', 'tests.hosts_examples', str(tmp_path)], 2, 1), 0,
      is_quiet=False)
  assert all(output.endswith('told\n') for output, _ in said)


@pytest.mark.slow
def test_two_hosts_equal_one(launch, tmp_path):
  """Also after a request to stop, at the host that only follows."""
  workdir = tmp_path / 'two'
  processes = launch(workdir)
  _until(lambda: _rows(workdir), processes)
  processes[1].send_signal(signal.SIGTERM)
  said = _end(processes, 130)
  assert 'interrupted and saved' in said[0][1]
  assert 1 <= len(_rows(workdir)) < 3, 'too late'
  _compare(launch, tmp_path)


def _compare(launch, tmp_path, variant=''):
  """A run of two hosts, begun or not, and one of one."""
  _end(launch(tmp_path / 'two', variant), 0)
  assert {path.name for path in (tmp_path / 'two').iterdir()} >= {
      'report', 'episodes', 'evaluation.json'}
  assert sum(row['step_samples'] for row in _rows(tmp_path / 'two')) > 0
  _end(launch(tmp_path / 'one', variant, num_hosts=1), 0)
  _assert_same_run(tmp_path / 'two', tmp_path / 'one')


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['', 'pictures'])
@pytest.mark.parametrize('dies', [0, 1])
def test_a_host_dies(launch, tmp_path, variant, dies):
  """The other ends as soon as it hears of it; the same command resumes."""
  processes = launch(tmp_path / 'two', variant)
  while 'Gloo' not in processes[0].stdout.readline():  # they have met
    assert processes[0].poll() is None
  processes[dies].kill()
  for process in processes:
    process.communicate(timeout=_LIMIT)
    assert process.returncode != 0
  _compare(launch, tmp_path, variant)


def test_a_mistake_ends_all(launch, tmp_path):
  """The first has the folder, and so the mistake; nobody waits for minutes."""
  (tmp_path / 'file').touch()
  first, other = launch(tmp_path / 'file')
  _, errors = first.communicate(timeout=_LIMIT)
  assert first.returncode == 2 and 'to be a folder' in errors
  other.communicate(timeout=60)
  assert other.returncode != 0


def test_nobody_says_who_the_others_are(tmp_path):
  environ = {name: value for name, value in os.environ.items()
             if not name.startswith(('JAX_', 'SLURM_'))}
  done = subprocess.run(
      [sys.executable, str(_ROOT / 'experiments' / 'run.py'), '--distributed',
       f'--config={_ROOT}/tests/hosts_config.py', f'--workdir={tmp_path}'],
      env=environ, capture_output=True, text=True, timeout=_LIMIT, check=False)
  assert done.returncode == 2 and done.stderr.count('\n') == 1, done
  assert 'JAX_COORDINATOR_ADDRESS' in done.stderr


def _until(condition, processes):
  deadline = time.monotonic() + _LIMIT
  while not condition():
    assert all(process.poll() is None for process in processes)
    assert time.monotonic() < deadline
    time.sleep(0.05)
