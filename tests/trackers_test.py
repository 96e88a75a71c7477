"""Tests of what trackers are told, of resuming, and that none stops a run."""
import io
import struct
import types

import numpy as np
from PIL import Image
import pytest

from experiments import checks
from step_jax.runs import episodes
from step_jax.runs import errors
from step_jax.runs import metrics
from step_jax.runs import sheets
from step_jax.runs import trackers
from tests import fake_config

_CONFIG = {'seed': 3, 'env': {'name': 'x'}}


def _row(i, **more):
  return {'round': i, 'loss': i / 4, 'rows': 7, 'entropy': None,
          'slots_per_task': [1, 2]} | more


def _play(workdir, name, rounds, done=0):
  """Rounds of a session, the second of them with an evaluation."""
  said = []
  tracked = trackers.Trackers((name,), workdir, done, _CONFIG, said.append)
  if not done:
    tracked.show(0, lambda: [Image.new('RGB', (3, 2), 'red')])
  for i in rounds:
    if i == 1:
      tracked.show(2, lambda: [
          Image.new('RGB', (4 + j, 2), 'blue') for j in range(2)])
    tracked.add(_row(i, attempt=done))
  tracked.close()
  assert not said


def read_events(folder):
  """(scalars, pictures) by name and step, as TensorBoard would show them."""
  from tensorboardX.proto import event_pb2
  events = []
  paths = sorted(folder.glob('events*'), key=lambda path: path.stat().st_ctime)
  for content in (path.read_bytes() for path in paths):
    while content:
      size, = struct.unpack('<Q', content[:8])
      event = event_pb2.Event.FromString(content[12:12 + size])
      content = content[12 + size + 4:]
      if event.HasField('session_log'):
        events = [other for other in events if other.step < event.step]
      events.append(event)
  scalars, pictures = {}, {}
  for event in events:
    for value in event.summary.value:
      found = pictures if value.HasField('image') else scalars
      of_name = found.setdefault(value.tag, {})
      assert event.step not in of_name  # or it would be doubled
      of_name[event.step] = (
          Image.open(io.BytesIO(value.image.encoded_image_string))
          if value.HasField('image') else value.simple_value)
  return scalars, pictures


def test_tensorboard_has_each_round_once(tmp_path):
  """Also those that are played again after the run was killed."""
  _play(tmp_path, 'auto', [0, 1, 2])
  _play(tmp_path, 'tensorboard', [1, 2, 3], done=1)
  scalars, pictures = read_events(tmp_path / 'tensorboard')
  assert scalars == {
      'loss': {0: 0, 1: .25, 2: .5, 3: .75}, 'rows': dict.fromkeys(range(4), 7),
      'attempt': {0: 0, 1: 1, 2: 1, 3: 1}}
  assert {name: [(step, one.size) for step, one in of_name.items()]
          for name, of_name in pictures.items()} == {
      'before_training/0': [(0, (3, 2))],
      'episodes/0': [(1, (4, 2))], 'episodes/1': [(1, (5, 2))]}
  assert pictures['episodes/0'][1].getpixel((0, 0)) == (0, 0, 255)


def _wandb_records(content):
  """LevelDB's log: after 7 bytes, blocks of 32 KiB of whole or cut records."""
  place, record = 7, b''
  while place + 7 <= len(content):
    if 32768 - place % 32768 < 7:  # no header fits in
      place += 32768 - place % 32768
    _, size, kind = struct.unpack('<IHB', content[place:place + 7])
    record += content[place + 7:place + 7 + size]
    place += 7 + size
    if kind in (1, 4):  # whole, or its last part
      yield record
      record = b''


def test_wandb_has_each_round_once(tmp_path, monkeypatch):
  wandb = pytest.importorskip('wandb')  # an extra that is not in `test`
  from wandb.proto import wandb_internal_pb2
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  _play(tmp_path, 'wandb', [0, 1, 2])
  _play(tmp_path, 'wandb', [1, 2, 3], done=1)
  wandb.teardown()  # whose process has then written all
  ids, losses, pictures = set(), {}, {}
  for path in sorted(tmp_path.glob('wandb/offline-run-*/*.wandb'),
                     key=lambda path: path.stat().st_mtime):
    for content in _wandb_records(path.read_bytes()):
      record = wandb_internal_pb2.Record.FromString(content)
      if record.HasField('run'):
        ids.add(record.run.run_id)
      row = {'/'.join(item.nested_key) or item.key: item.value_json
             for item in record.history.item}
      if 'loss' in row:
        assert record.history.step.num not in losses
        losses[record.history.step.num] = float(row['loss'])
      pictures |= {name.removesuffix('/width'): (
          record.history.step.num, int(row[name]))
          for name in row if name.endswith('/width')}
  assert ids == {metrics.read_json(tmp_path / 'wandb.json')['run']}
  assert losses == {0: 0, 1: .25, 2: .5, 3: .75}
  assert pictures == {'before_training/0': (0, 3), 'episodes/0': (1, 4),
                      'episodes/1': (1, 5)}


@pytest.mark.filterwarnings('ignore')  # of what it imports
def test_mlflow_has_each_round_once(tmp_path, monkeypatch):
  mlflow = pytest.importorskip('mlflow')  # an extra that is not in `test`
  monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/all.db')
  monkeypatch.chdir(tmp_path)
  _play(tmp_path, 'mlflow', [0, 1, 2])
  _play(tmp_path, 'mlflow', [1, 2, 3], done=1)
  client = mlflow.MlflowClient()
  run = client.get_run(metrics.read_json(tmp_path / 'mlflow.json')['run'])
  history = client.get_metric_history(run.info.run_id, 'loss')
  assert [(one.step, one.value) for one in history] == [
      (0, 0), (1, .25), (2, .5), (3, .75)]
  assert run.info.status == 'FINISHED' and run.data.metrics['rows'] == 7
  names = [one.path for one in client.list_artifacts(
      run.info.run_id, 'images')]
  assert sorted(path.partition('+timestamp')[0] for path in names
                if path.endswith('.png')) == [
      'images/before_training~0+step+0', 'images/episodes~0+step+1',
      'images/episodes~1+step+1']


@pytest.mark.parametrize('method', ['start', 'add', 'show', 'close'])
def test_a_tracker_that_fails_says_so_once(tmp_path, monkeypatch, method):
  told = {'good': [], 'bad': []}

  def make(name):
    def tell(what, *args):
      told[name].append(what)
      if name == 'bad' and what == method:
        raise BrokenPipeError('the network\nis gone')
    tell('start')
    return types.SimpleNamespace(
        add=lambda *args: tell('add'), show=lambda *args: tell('show'),
        close=lambda: tell('close'))

  monkeypatch.setattr(trackers, '_MAKE', {
      name: lambda *args, name=name: make(name) for name in told})
  said = []
  tracked = trackers.Trackers(('bad', 'good'), tmp_path, 0, {}, said.append)
  for i in range(2):
    tracked.add(_row(i))
    tracked.show(i, list)
  tracked.close()
  assert said == [
      'the tracker bad failed and is told no more of this run, metrics.jsonl '
      'has all of it (BrokenPipeError: the network is gone)']
  everything = ['start', 'add', 'show', 'add', 'show', 'close']
  assert told['good'] == everything
  assert told['bad'] == everything[:everything.index(method) + 1]


def test_a_disk_without_room_is_no_failure_of_the_run(tmp_path):
  said = []
  (tmp_path / 'tensorboard').touch()
  tracked = trackers.Trackers(('auto',), tmp_path, 0, {}, said.append)
  tracked.add(_row(0))
  assert len(said) == 1 and 'tensorboard failed' in said[0]


def test_what_is_not_installed_is_told_by_its_extra(monkeypatch, tmp_path):
  config = fake_config.get_config()
  monkeypatch.setattr(
      trackers.importlib.util, 'find_spec',
      lambda name: types.SimpleNamespace(origin=None) if name == 'wandb'
      else None)  # a folder that runs of wandb left
  config.trackers = ('wandb', 'mlflow')
  with pytest.raises(errors.UserError) as caught:
    checks.check_config(config)
  assert "pip install -e '.[wandb,mlflow]'" in str(caught.value)
  config.trackers = ('auto',)
  checks.check_config(config)
  assert not trackers.Trackers(('auto',), tmp_path, 0, {}, pytest.fail)._open


@pytest.mark.parametrize('shown, steps, size', [
    ({'elements': [{'kind': 'button', 'text': 'Ünïx', 'value': 'a',
                    'focused': True, 'selected': True,
                    'box': [.5, .5, .25, .25]}]}, 2, (480, 228)),
    ({'picture': np.full((9, 7, 3), 60, np.uint8)}, 11, (1920, 228)),
    ({}, 1, (240, 228)), ({}, 0, (240, 228))])
def test_an_episode_is_a_sheet_of_screens(tmp_path, shown, steps, size):
  Image.new('RGB', (8, 8), 'green').save(tmp_path / 'x.jpg')
  about = {
      'id': 'e2-0', 'task': 't', 'failure': '', 'reward': 1., 'steps': steps,
      'instruction': 'do', 'pictures': ['x.jpg'] * steps,
      'actions': [{'text': 'drag\nit', 'box': [.5, .5, .25, .25],
                   'end': [.1, .1]}] * steps}
  sheet = sheets.draw(
      episodes.Episodes([about], {'observations.x': np.zeros((1, steps))}),
      lambda row, told: {} if 'elements' in shown else shown, tmp_path)
  assert sheet.size == size
  if steps:  # framed in red, on what was seen
    assert sheet.getpixel((120, 14 + 125)) == (216, 40, 28)
    seen = sheet.getpixel((60, 14 + 180))
    expected = (60,) * 3 if 'picture' in shown else (0, 128, 0)
    assert np.abs(np.subtract(seen, expected)).max() < 5
