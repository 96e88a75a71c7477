"""Tests of the commands, as processes: exit codes, signals, sudden deaths."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest

from benchmarks import signal_storm
from step_jax.runs import files
from tests import fake_world

_ROOT = pathlib.Path(__file__).parent.parent
_RUN = (sys.executable, str(_ROOT / 'experiments' / 'run.py'))
_EVALUATE = (sys.executable, str(_ROOT / 'experiments' / 'evaluate.py'))
_CONFIG = f'--config={_ROOT / "tests" / "fake_config.py"}'
_NUM_ROUNDS = 6
_LIMIT = 300.  # seconds; for what must happen at last, on busy machines
_CLOCKS = {'seconds', 'rollout_seconds', 'update_seconds', 'compilations'}

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='the tests look for processes in /proc')


@pytest.fixture(scope='module', name='place')
def made_place(tmp_path_factory):
  """A folder to work in; `place / 'fake'` steers the fake world."""
  place = tmp_path_factory.mktemp('place')
  for name in ('fake', 'tmp', 'empty'):
    (place / name).mkdir()
  return place


@pytest.fixture(scope='module', name='environ')
def made_environ(place):
  """The user's caches are left alone; compilations are shared."""
  return os.environ | {
      'XDG_CACHE_HOME': str(place / 'cache'),
      'STEP_JAX_FAKE': str(place / 'fake'),
      'STEP_JAX_TEST': uuid.uuid4().hex,
      'TMPDIR': str(place / 'tmp'),
      'COLUMNS': '200'}


@pytest.fixture(scope='module', name='launch')
def made_launch(place, environ):
  """`launch(*command)` starts a process in `place`; none is left over."""
  started = []

  def launch(*command, **changes):
    started.append(subprocess.Popen(
        command, env=environ | changes, cwd=place, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE))
    return started[-1]

  yield launch
  for process in started:
    process.kill()
    process.communicate()


def _train(workdir):
  return (
      *_RUN, _CONFIG, f'--workdir={workdir}', '--config.group_size=4',
      '--config.eval_episodes=1', '--config.eval_every=1',
      f'--config.num_rounds={_NUM_ROUNDS}')


def _until(condition, process=None):
  deadline = time.monotonic() + _LIMIT
  while not condition():
    assert time.monotonic() < deadline, 'it never happened'
    assert process is None or process.poll() is None, process.communicate()
    time.sleep(.002)


def _left_over(environ):
  """Processes, zombies excepted, that were started in this environment."""
  token, found = environ['STEP_JAX_TEST'].encode(), []
  for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit() and int(entry.name) != os.getpid():
      with contextlib.suppress(OSError):
        if token in (entry / 'environ').read_bytes():
          found.append((entry / 'cmdline').read_bytes())
  return found


def _rows(workdir):
  with contextlib.suppress(FileNotFoundError):
    return [json.loads(line) for line in (
        workdir / 'metrics.jsonl').read_text().splitlines()]
  return []


def _digest(workdir):
  """Checksum of all that the last checkpoint holds."""
  path = workdir / 'checkpoints' / str(_NUM_ROUNDS) / 'digest' / 'metadata'
  return json.loads(path.read_text())['crc32']


@pytest.fixture(scope='module', name='reference')
def made_reference(place, launch, environ):
  """The folder and the output of a run without interruption."""
  process = launch(*_train(place / 'reference'))
  output = process.communicate(timeout=_LIMIT)
  assert process.returncode == 0, output
  assert not _left_over(environ)
  assert not list((place / 'tmp').iterdir())
  return place / 'reference', *output


def test_a_run_ends_well_and_says_what_it_did(reference):
  workdir, output, errors = reference
  assert errors == ''
  assert [row['round'] for row in _rows(workdir)] == list(range(_NUM_ROUNDS))
  lines = output.splitlines()
  assert lines[0].endswith("method: step, the paper's")
  assert lines[-3:] == [
      'curves, tasks and episodes as pages: python experiments/view.py '
      f'--workdir={workdir}',
      'other tasks: python experiments/evaluate.py --split=held_out '
      f'--workdir={workdir}',
      f'an episode to watch: python experiments/watch.py --workdir={workdir}']
  for i in range(_NUM_ROUNDS):
    line, = [line for line in lines if line.startswith(f'round {i:3d} ')]
    for part in ('success', 'tasks > 60 %', 'replaced', 'step samples',
                 'failures', 'rollout', 'update', 'evaluation', 'left'):
      assert part in line
  for name in fake_world.TRAIN_TASKS:
    assert any(name in line and '%' in line for line in lines)
  for name in ('learning_curve', 'signals', 'slots_per_task'):
    assert str(workdir / 'report' / f'{name}.png') in output
    assert (workdir / 'report' / f'{name}.png').stat().st_size > 10_000


def test_a_run_survives_signals_and_sudden_deaths(
    place, launch, environ, reference):
  """One run, stopped six times; each time it goes on by the same command.

  spd #677.
  """
  workdir, hold = place / 'run', place / 'fake' / 'hold'
  completed = []

  def rounds():
    completed.append([row['round'] for row in _rows(workdir)])
    return len(completed[-1])

  def hold_in(phase, process):
    hold.write_text(phase)
    _until((place / 'fake' / 'held').exists, process)

  def workers(process):
    return sum(signal_storm.victims(process.pid).values(), [])

  def end(process, number):
    process.send_signal(number)
    output = process.communicate(timeout=_LIMIT)
    hold.unlink(missing_ok=True)
    (place / 'fake' / 'held').unlink(missing_ok=True)
    _until(lambda: not _left_over(environ))
    return process.returncode, *output

  def interrupt(process, number):
    code, _, errors = end(process, number)
    assert code == 130, errors
    assert 'interrupted and saved' in errors and 'Traceback' not in errors
    assert f'--workdir={workdir}' in errors

  # SIGTERM while something is compiled.
  process = launch(*_train(workdir), JAX_LOG_COMPILES='1')
  while 'Compiling' not in (line := process.stderr.readline()):
    assert line, 'it has ended'
  interrupt(process, signal.SIGTERM)
  assert not _rows(workdir)

  # Ctrl-C while trajectories are collected.
  process = launch(*_train(workdir))
  _until(lambda: rounds() >= 1, process)
  hold_in('training', process)
  interrupt(process, signal.SIGINT)
  after_interrupt = rounds()
  assert 1 <= after_interrupt < _NUM_ROUNDS - 2, 'too late for the rest'

  # SIGKILL of a worker, then of all, while trajectories are collected.
  hold.write_text('training')
  process = launch(*_train(workdir))
  hold_in('training', process)
  worker = workers(process)[0]
  os.kill(worker, signal.SIGKILL)
  _until(lambda: len({*workers(process)} - {worker}) == 2, process)
  assert end(process, signal.SIGKILL)[0] == -signal.SIGKILL
  assert rounds() == after_interrupt  # nothing was lost by the interrupt

  # SIGKILL between an update and the checkpoint after it.
  hold.write_text('evaluation')
  process = launch(*_train(workdir))
  hold_in('evaluation', process)
  assert end(process, signal.SIGKILL)[0] == -signal.SIGKILL
  assert rounds() == after_interrupt

  # SIGKILL while a checkpoint is written.
  process = launch(*_train(workdir))
  _until(lambda: list((workdir / 'checkpoints').glob('*-tmp*')), process)
  assert end(process, signal.SIGKILL)[0] == -signal.SIGKILL
  assert rounds() < _NUM_ROUNDS

  # SIGTERM in the last evaluation.
  process = launch(*_train(workdir))
  _until(lambda: rounds() == _NUM_ROUNDS - 1, process)
  hold_in('evaluation', process)
  interrupt(process, signal.SIGTERM)
  assert rounds() == _NUM_ROUNDS - 1

  # SIGTERM in the report, which is soon done.
  process = launch(*_train(workdir))
  report = workdir / 'report'
  _until((report / 'learning_curve.png').exists, process)
  assert not (report / 'slots_per_task.png').exists(), 'too late'
  code, _, errors = end(process, signal.SIGTERM)
  assert (code, errors) == (0, 'stopping; once more to stop at once\n')
  assert (report / 'slots_per_task.png').exists()
  assert all(seen == list(range(len(seen))) for seen in completed)
  _assert_same_run(workdir, reference[0])


def _assert_same_run(actual, expected):
  rows = [[
      {name: x for name, x in row.items() if name not in _CLOCKS}
      for row in _rows(workdir)] for workdir in (actual, expected)]
  assert [row['round'] for row in rows[0]] == list(range(_NUM_ROUNDS))
  assert rows[0] == rows[1]
  records = [np.load(workdir / 'success_rates.npy')
             for workdir in (actual, expected)]
  assert records[0].shape == (_NUM_ROUNDS, len(fake_world.TRAIN_TASKS))
  np.testing.assert_array_equal(*records)
  assert _digest(actual) == _digest(expected)
  for name in ('initial_evaluation.json', 'evaluation.json'):
    assert (actual / name).read_text() == (expected / name).read_text()


def test_a_full_disk_and_a_failing_worker_change_nothing_but_the_counts(
    place, launch, reference):
  command = *_train(place / 'again')[:-1], '--config.num_rounds=1'
  process = launch('sh', '-c', 'ulimit -f 8; exec "$@"', 'sh', *command)
  _, errors = process.communicate(timeout=_LIMIT)  # no file above 4 KiB
  assert process.returncode == 1
  assert 'checkpoints/0 cannot be written (File too large)' in errors

  (place / 'fake' / 'once').touch()
  process = launch(*command)
  output = process.communicate(timeout=_LIMIT)
  assert process.returncode == 0, output
  assert not (place / 'fake' / 'once').exists()
  row, first = _rows(place / 'again')[0], _rows(reference[0])[0]
  assert row['success_rate'] == first['success_rate']
  assert row['loss'] == first['loss']


@pytest.mark.parametrize('split, tasks, episodes', [
    ('held_out', fake_world.HELD_OUT_TASKS, 3),
    ('train', fake_world.TRAIN_TASKS, 1)])
def test_evaluate(place, launch, environ, reference, split, tasks, episodes):
  workdir = place / f'evaluate_{split}'
  shutil.copytree(reference[0], workdir)
  process = launch(*_EVALUATE, f'--workdir={workdir}', f'--split={split}',
                   f'--episodes={episodes}')
  output, errors = process.communicate(timeout=_LIMIT)
  assert (process.returncode, errors) == (0, '')
  name = 'evaluation' if split == 'train' else f'evaluation_{split}'
  found = json.loads((workdir / f'{name}.json').read_text())
  assert tuple(found) == tasks
  for task, row in found.items():
    assert row.keys() == {'success_rate', 'episodes'}
    assert row['episodes'] == episodes and task in output
  assert (workdir / 'evaluation.json').read_text() == (
      reference[0] / 'evaluation.json').read_text()
  assert not _left_over(environ)


_BAD = {  # name: (command, what the sentence says)
    'unknown config file': (
        (*_RUN, '--config=configs/no_such.py'), 'no_such.py'),
    'no config': (_RUN, '--config=configs/<name>.py'),
    'something more': ((*_RUN, _CONFIG, 'more'), 'got more'),
    'unknown flag': ((*_RUN, _CONFIG, '--wrokdir=x'), 'wrokdir'),
    'unknown variant': ((*_RUN, f'{_CONFIG}:nonsense'), 'nonsense'),
    'unknown field': (
        (*_RUN, _CONFIG, '--config.group_sise=4'),
        "the config has no field 'group_sise' Did you mean \"group_size\""),
    'unknown field of a part': (
        (*_RUN, _CONFIG, '--config.optimizer.learning_rat=4'),
        'learning_rat'),
    'unknown argument of an environment': (
        (*_RUN, _CONFIG, '--config.env.arguments.speed=4'),
        "the config has no field 'speed'"),
    'wrong type': ((*_RUN, _CONFIG, '--config.group_size=many'), 'group_size'),
    'number for a group': (
        (*_RUN, _CONFIG, '--config.optimizer=3'), 'optimizer'),
    'number for tasks': ((*_RUN, _CONFIG, '--config.env.tasks=3'), 'tasks'),
    'bad value': (
        (*_RUN, _CONFIG, '--config.threshold=1.5', '--workdir=bad'),
        'expected threshold to be above 0 and at most 1, got 1.5'),
    'bad value without a folder': (
        (*_RUN, _CONFIG, '--config.seed=-1'), 'expected seed'),
    'unknown environment': (
        (*_RUN, _CONFIG, '--config.env.name=nonsense', '--workdir=bad'),
        'env.name'),
    'unknown task': (
        (*_RUN, _CONFIG, "--config.env.tasks=('press-1', 'fly')",
         '--workdir=worse'), 'fly'),
    'unknown task of Desk': (
        (*_RUN, f'--config={_ROOT / "configs" / "osworld.py"}',
         "--config.env.tasks=('fly',)", '--workdir=bad'), 'fly'),
    'folder is a file': ((*_RUN, _CONFIG, '--workdir=file'), 'file'),
    'folder in use': (
        (*_RUN, _CONFIG, '--workdir=used'), 'another process trains in used'),
    'folder that nobody can make': (
        (*_RUN, _CONFIG, '--workdir=/proc/run'), '/proc/run cannot be written'),
    'changed config': (
        (*_RUN, _CONFIG, '--workdir=changed', '--config.group_size=4'),
        'group_size (8 there, 4 now)'),
    'damaged config': ((*_RUN, _CONFIG, '--workdir=damaged'), 'config.json'),
    'missing Chromium': (
        (*_RUN, f'--config={_ROOT / "configs" / "miniwob.py"}',
         '--workdir=bad'), 'apt-get install'),
    'nothing to evaluate': ((*_EVALUATE, '--workdir=nowhere'), 'nowhere'),
    'nothing to evaluate yet': ((*_EVALUATE, '--workdir=changed'), 'changed'),
    'unknown split': (
        (*_EVALUATE, '--workdir=changed', '--split=most'), 'held_out'),
    'no episodes': (
        (*_EVALUATE, '--workdir=changed', '--episodes=0'), 'episodes'),
    'no folder': (_EVALUATE, 'workdir'),
    'a config without a model': (
        (*_EVALUATE, _CONFIG, '--workdir=bad'), 'with --checkpoint=MODEL only'),
    'a model of a run without one': (
        (*_EVALUATE, '--workdir=changed', '--checkpoint=empty'),
        'a config of a vision-language model'),
    'an unknown variant': (
        (*_EVALUATE, f'--config={_ROOT / "configs" / "osworld.py"}:nonsense',
         '--workdir=bad', '--checkpoint=none'), 'nonsense'),
    'a model that is not there': (
        (*_EVALUATE, f'--config={_ROOT / "configs" / "vlm_tiny.py"}',
         '--workdir=bad', '--checkpoint=none'), 'policy.checkpoint'),
}


# Imports once, then is each command in a process of its own.
_FORKS = """
import json, os, runpy, sys, time
from experiments import evaluate, run, train
for name, (command, path) in json.loads(sys.argv[1]).items():
  started = time.monotonic()
  if not (child := os.fork()):
    os.environ['PATH'] = path
    for number, stream in ((1, 'output'), (2, 'errors')):
      os.dup2(os.open(f'{name}.{stream}', os.O_WRONLY | os.O_CREAT), number)
    sys.argv = command[1:]
    from absl import flags
    for flag in list(flags.FLAGS):
      delattr(flags.FLAGS, flag)
    flags.FLAGS.unparse_flags()
    runpy.run_path(command[1], run_name='__main__')
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  print(json.dumps([name, code, time.monotonic() - started]), flush=True)
"""


@pytest.fixture(scope='module', name='mistakes')
def made_mistakes(place, launch):
  """What all bad commands give."""
  from tests import fake_config
  for name in ('changed', 'damaged'):
    (place / name).mkdir()
  (place / 'changed' / 'config.json').write_text(
      fake_config.get_config().to_json())
  (place / 'damaged' / 'config.json').write_text('{"seed": ')
  (place / 'file').touch()
  commands = {
      name: (command, str(place / 'empty') if 'Chromium' in name
             else os.environ['PATH'])
      for name, (command, _) in _BAD.items()}
  with files.owned(place / 'used'):
    process = launch(sys.executable, '-c', _FORKS, json.dumps(commands),
                     PYTHONPATH=str(_ROOT))
    output, errors = process.communicate(timeout=_LIMIT)
  assert process.returncode == 0, errors
  return {
      name: (code, *((place / f'{name}.{stream}').read_text()
                     for stream in ('output', 'errors')), seconds)
      for name, code, seconds in map(json.loads, output.splitlines())}


@pytest.mark.parametrize('name', _BAD)
def test_a_mistake_is_told_in_one_sentence(mistakes, name):
  code, output, errors, seconds = mistakes[name]
  assert code == (1 if name == 'folder that nobody can make' else 2), errors
  sentence, = errors.splitlines()
  assert _BAD[name][1] in sentence
  assert not {'Traceback', 'Error:'} & set(sentence.split())
  assert not re.sub(
      r'environment: .+\n|workdir: runs/fake_config-[-\d]+\n', '', output)
  assert seconds < 60.


def test_a_mistake_leaves_nothing_behind(mistakes, place, environ):
  assert mistakes
  assert not (place / 'bad').exists()  # where the right command will go
  assert not (place / 'worse').exists()
  assert not (place / 'runs').exists()
  assert not _left_over(environ)


def test_a_run_without_a_folder_says_where_it_is(mistakes):
  output = mistakes['bad value without a folder'][1]
  assert output.splitlines()[1].startswith('workdir: runs/fake_config-')
