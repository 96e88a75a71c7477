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


@pytest.fixture(scope='module', name='launch')
def made_launch(tmp_path_factory):
  """`launch(workdir, variant, num_hosts, ...)` -> its processes."""
  place, started = tmp_path_factory.mktemp('place'), []

  def launch(workdir, variant='', num_hosts=2, **changes):
    with socket.create_server(('127.0.0.1', 0)) as free:
      port = free.getsockname()[1]
    environ = os.environ | {
        'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
        'JAX_NUM_PROCESSES': str(num_hosts), 'NPROC': '4', 'COLUMNS': '200',
        'JAX_PLATFORMS': 'cpu', 'XDG_CACHE_HOME': str(place), 'XLA_FLAGS':
        '--xla_cpu_use_fusion_emitters=false '
        f'--xla_force_host_platform_device_count={4 // num_hosts}'}
    command = [
        sys.executable, str(_ROOT / 'experiments' / 'run.py'),
        f'--config={_ROOT}/tests/hosts_config.py:{variant}'.removesuffix(':'),
        f'--workdir={workdir}',
        *(f'--config.{name}={value}' for name, value in changes.items()),
        *(['--distributed'] if num_hosts > 1 else [])]
    new = [subprocess.Popen(
        command, env=environ | {'JAX_PROCESS_ID': str(i)}, cwd=place,
        text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE) for i in range(num_hosts)]
    started.extend(new)
    return new

  yield launch
  for process in started:
    process.kill()
    process.communicate()


def _end(processes, code):
  """What they said, once they have ended."""
  said = [process.communicate(timeout=_LIMIT) for process in processes]
  assert [process.returncode for process in processes] == (
      [code] * len(processes)), said
  assert all(line.startswith('[Gloo]')  # the first speaks for all
             for output, _ in said[1:] for line in output.splitlines())
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


@pytest.mark.parametrize('variant', ['', 'pictures'])
def test_two_hosts_equal_one(launch, tmp_path, variant):
  """Also after a request to stop, and a sudden death, of either."""
  workdir = tmp_path / 'two'
  processes = launch(workdir, variant)
  _until(lambda: _rows(workdir), processes)
  processes[1].send_signal(signal.SIGTERM)  # the one that only follows
  said = _end(processes, 130)
  assert 'interrupted and saved' in said[0][1]
  num_rounds = len(_rows(workdir))
  assert 1 <= num_rounds < 3, 'too late'

  processes = launch(workdir, variant)
  while 'Gloo' not in processes[0].stdout.readline():  # they have met
    assert processes[0].poll() is None
  processes[len(variant) > 0].kill()
  for process in processes:
    process.communicate(timeout=_LIMIT)
    assert process.returncode != 0

  _end(launch(workdir, variant), 0)
  assert {path.name for path in workdir.iterdir()} >= {
      'report', 'episodes', 'evaluation.json'}
  rows = _rows(workdir)
  assert sum(row['step_samples'] for row in rows) > 0
  _end(launch(tmp_path / 'one', variant, num_hosts=1), 0)
  _assert_same_run(workdir, tmp_path / 'one')


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
