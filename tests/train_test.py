"""Tests of the host loop, in this process, on the fake world."""
import contextlib
import errno
import functools
import gc
import json
import math
import os
import pathlib
import re
import shutil
import signal
import sys
import threading

import chex
import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest

from experiments import checks
from experiments import evaluating
from experiments import replay
from experiments import rounds as rounds_lib
from experiments import setups as setups_lib
from experiments import train
from experiments import view
from experiments import warm_start
from experiments import worlds
from step_jax.algorithm import methods
from step_jax.rollout import ahead as ahead_lib
from step_jax.rollout import episodes
from step_jax.rollout import keeper
from step_jax.rollout import redrawing
from step_jax.rollout import workers
from step_jax.runs import episodes as episodes_lib
from step_jax.runs import errors
from step_jax.runs import evaluation as evaluation_lib
from step_jax.runs import fields
from step_jax.runs import files
from step_jax.runs import metrics
from step_jax.runs import playing
from step_jax.runs import report
from step_jax.runs import stopping
from tests import fake_config
from tests import fake_world
from tests import trackers_test

_ROOT = pathlib.Path(__file__).parents[1]
_NUM_TASKS = len(fake_world.TRAIN_TASKS)
_NUM_SLOTS = 4 * 8
# Of a run that was interrupted and one that was not, these differ.
_CLOCKS = {'seconds', 'rollout_seconds', 'update_seconds', 'compilations'}
_FIELDS = _CLOCKS | set("""
    round lag success_rate tasks_above_60 replaced_fraction trajectories
    valid_trajectories out_of_steps environment_failures environment_steps
    step_samples augmented_steps rows_computed optimizer_steps skipped_steps
    loss grad_norm entropy clip_fraction approx_kl mean_abs_advantage
""".split())
_EVALUATED = {'eval_success_rate', 'eval_tasks_above_60', 'record_error'}


class _Pool(fake_world.LocalPool):
  """Breaks as the test says: `faults(job, attempt, step)`."""
  faults = staticmethod(lambda job, attempt, step: False)

  def breaks(self, job, attempt, step):
    return self.faults(job, attempt, step)


@pytest.fixture(scope='module', autouse=True, name='host')
def prepared_host(tmp_path_factory):
  """Plays in this process, and compiles what runs share only once."""
  setups = {}
  make_setup, start = setups_lib.make_setup, train._start

  def make_shared_setup(config, world):
    shared = json.dumps([
        config.optimizer.to_dict(), config.policy.to_dict(),
        config.temperature])
    if shared not in setups:
      setup = make_setup(config, world)
      setups[shared] = setup._replace(policy=setup.policy._replace(
          init=jax.jit(setup.policy.init)))
    return setups[shared]._replace(
        config=config, world=world, method=methods.METHODS[config.method])

  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
    patch.setattr(setups_lib, 'make_setup', make_shared_setup)
    patch.setattr(train, '_start', lambda *args: jax.device_put(
        start(*args), jax.devices()[0]))  # as a restored state is placed
    patch.setattr(worlds, 'make_pool', lambda world, config: _Pool(
        world.make_env, num_workers=config.env.num_workers))
    yield


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
  """Pictures take longer than rounds; those of `run` are looked at."""
  monkeypatch.setattr(report, 'write_report', lambda *_, **__: [])


def _config(method='', **changes):
  config = fake_config.get_config(method)
  config.update_from_flattened_dict(changes)
  return config


def _rows(workdir):
  return [json.loads(line, parse_constant=pytest.fail) for line in (
      workdir / 'metrics.jsonl').read_text().splitlines()]


def _digests(workdir):
  """Checksums of all that the checkpoints hold, by number of rounds."""
  return {
      int(path.parts[-3]): json.loads(path.read_text())['crc32']
      for path in (workdir / 'checkpoints').glob('*/digest/metadata')}


def _assert_same_run(actual, expected, but=()):
  """Compares all rounds and the last checkpoint bit for bit."""
  ignored = _CLOCKS | set(but)
  rows = [[
      {name: x for name, x in row.items() if name not in ignored}
      for row in _rows(workdir)] for workdir in (actual, expected)]
  assert rows[0] == rows[1]
  records = [(workdir / 'success_rates.npy').read_bytes()
             for workdir in (actual, expected)]
  assert records[0] == records[1]
  num_rounds = len(rows[0])
  assert _digests(actual)[num_rounds] == _digests(expected)[num_rounds]
  assert metrics.read_json(actual / 'evaluation.json') == (
      metrics.read_json(expected / 'evaluation.json'))
  kept = [_episodes(workdir) for workdir in (actual, expected)]
  assert len(kept[0]) > num_rounds and kept[0] == kept[1]


def _episodes(workdir):
  """What is kept of each episode, by its id."""
  return {
      about['id']: (about, {name: x[place].tobytes()
                            for name, x in part.arrays.items()})
      for part in episodes_lib.load_all(workdir / 'episodes')
      for place, about in enumerate(part.about)}


@pytest.fixture(scope='module', name='run')
def made_run(tmp_path_factory):
  """Five rounds without interruption."""
  workdir = tmp_path_factory.mktemp('runs') / 'new' / 'run'
  train.train(_config(
      num_rounds=5, eval_every=2, trackers=('tensorboard',)), workdir)
  return workdir


@pytest.fixture(name='faults')
def made_faults(monkeypatch):
  """`faults(function)` says which attempts break."""
  return lambda function: monkeypatch.setattr(
      _Pool, 'faults', staticmethod(function))


def _in_training(job):
  return job.seed < episodes.FIRST_EVAL_SEED and not job.expert


def test_every_round_has_the_fields_of_the_contract(run):
  rows = _rows(run)
  assert [row['round'] for row in rows] == list(range(5))
  assert {name for row in rows for name in row} == (
      fields.FIELDS.keys() - {'eval_drawn_success_rate'})
  for row in rows:
    assert row.keys() >= _FIELDS
    assert all(isinstance(row[name], (int, float)) for name in _FIELDS)
    assert all(math.isfinite(row[name]) for name in _FIELDS)


def test_the_numbers_of_a_round_agree(run):
  rows = _rows(run)
  for row in rows:
    assert row['trajectories'] == row['valid_trajectories'] == _NUM_SLOTS
    assert row['environment_failures'] == 0
    assert _NUM_SLOTS <= row['environment_steps'] <= 4 * _NUM_SLOTS
    parts = row['rollout_seconds'] + row['update_seconds']
    assert row['seconds'] > .999 * parts  # numbers are written rounded
    assert min(row['rollout_seconds'], row['update_seconds']) > 0
    for name in ('success_rate', 'replaced_fraction', 'clip_fraction'):
      assert 0 <= row[name] <= 1
    assert row['success_rate'] * _NUM_SLOTS % 1 == 0
    assert row['replaced_fraction'] * _NUM_SLOTS % 1 == 0
    assert sum(row['slots_per_task']) == _NUM_SLOTS
    assert row['augmented_steps'] <= row['environment_steps']
    assert row['step_samples'] <= row['environment_steps']
    assert row['optimizer_steps'] <= 2
    assert (row['optimizer_steps'] > 0) == (row['step_samples'] > 0)
    assert (row['grad_norm'] > 0) == (row['step_samples'] > 0)
    assert (row['entropy'] > 0) == (row['step_samples'] > 0)
    assert row['rows_computed'] >= row['step_samples']
    assert 0 <= row['mean_abs_advantage'] <= 1
    base = episodes.base_task_ids(0, row['round'], 4, _NUM_TASKS)
    replaced = _NUM_SLOTS * row['replaced_fraction']
    kept = np.minimum(
        row['slots_per_task'], 8 * np.bincount(base, minlength=_NUM_TASKS))
    assert _NUM_SLOTS - kept.sum() <= replaced
  # Of what the method does, something is seen in this run.
  for name in ('augmented_steps', 'step_samples', 'replaced_fraction'):
    assert any(row[name] > 0 for row in rows), name
  assert len({row['loss'] for row in rows}) > 1


def test_the_update_is_compiled_in_the_first_rounds_only(run):
  compilations = [row['compilations'] for row in _rows(run)]
  assert compilations[0] > 0
  assert compilations[2:] == [0, 0, 0]


def test_the_record_has_a_row_for_each_round(run):
  record = np.load(run / 'success_rates.npy')
  assert record.shape == (5, _NUM_TASKS) and record.dtype == np.float32
  assert record.min() >= 0 and record.max() <= 1 and record.max() > 0
  np.testing.assert_array_equal(
      (record > .6).sum(axis=1), [row['tasks_above_60'] for row in _rows(run)])


def test_evaluations_come_every_second_round_and_last(run):
  evaluated = [_EVALUATED <= row.keys() for row in _rows(run)]
  assert evaluated == [False, True, False, True, True]
  evaluation = metrics.read_json(run / 'evaluation.json')
  assert tuple(evaluation) == fake_world.TRAIN_TASKS
  for row in evaluation.values():
    assert row.keys() == {'success_rate', 'episodes'}
    assert row['episodes'] == 3 and row['success_rate'] * 3 % 1 < 1e-9
  rates = [row['success_rate'] for row in evaluation.values()]
  last = _rows(run)[-1]
  assert last['eval_success_rate'] == pytest.approx(np.mean(rates))
  assert last['eval_tasks_above_60'] == sum(rate > .6 for rate in rates)
  assert metrics.read_json(run / 'initial_evaluation.json').keys() == (
      evaluation.keys())


def test_the_folder_holds_what_was_promised(run):
  assert {path.name for path in run.iterdir()} == {
      'config.json', 'metrics.jsonl', 'success_rates.npy', 'evaluation.json',
      'initial_evaluation.json', 'checkpoints', 'report', 'lock', 'episodes',
      'tensorboard'}
  assert sorted(_digests(run)) == [4, 5]
  assert json.loads((run / 'config.json').read_text())['group_size'] == 8
  for name in ('learning_curve', 'signals', 'slots_per_task'):
    pixels = matplotlib.image.imread(run / 'report' / f'{name}.png')
    assert pixels.std() > .01


def test_tensorboard_has_the_numbers_of_the_rows_and_ten_episodes(run):
  scalars, pictures = trackers_test.read_events(run / 'tensorboard')
  rows = _rows(run)
  numbers = {name for row in rows for name in row} - {
      'round', 'slots_per_task', 'successes_per_task'}
  assert scalars.keys() == numbers
  for row in rows:
    for name in numbers & row.keys():
      assert scalars[name][row['round']] == pytest.approx(row[name])
  assert pictures.keys() == {
      f'{name}/{i}' for name in ('before_training', 'episodes')
      for i in range(10)}
  assert list(pictures['episodes/9']) == [1, 3, 4]
  assert pictures['before_training/0'][0].convert('L').getextrema()[0] < 90


def test_a_run_is_shown_and_stays_as_it_is(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  before = {path: path.read_bytes() for path in tmp_path.rglob('*')
            if path.is_file() and 'report' not in path.parts}
  page = view.view(checks.read_config(tmp_path / 'config.json'), tmp_path)
  assert '5 of 5 rounds' in page.read_text()
  text = ''.join(path.read_text() for path in page.parent.glob('*/*.html'))
  assert len(list(page.parent.glob('*/*.html'))) == len(_episodes(run))
  assert '"elements"' in text and '"others": [' in text
  assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize('change, sentence', [
    (lambda about, arrays: None, ''),
    (lambda about, arrays: arrays['observations.element_text'][0, 1].fill(7),
     'step 2 shows another element_text'),
    (lambda about, arrays: about.update(reward=.5), 'it was 0.5'),
    (lambda about, arrays: about.update(steps=about['steps'] - 1),
     'is not the last')])
def test_an_episode_is_played_again(run, change, sentence):
  config = checks.read_config(run / 'config.json')
  name = next(about['id'] for part in playing.find(run, None)
              for about in part.about if about['steps'] > 2)
  episode, = playing.find(run, name)
  change(episode.about[0], episode.arrays)
  assert sentence in replay.replay(config, run, episode).diverged
  assert bool(replay.replay(config, run, episode).diverged) == bool(sentence)
  with pytest.raises(errors.UserError, match='an episode in .*, got r9-99'):
    playing.find(run, 'r9-99')


def test_rounds_that_are_added_equal_those_of_one_run(run, tmp_path, capsys):
  """verl #5725, #7401: what is resumed at its end does nothing."""
  train.train(_config(num_rounds=2, eval_every=2), tmp_path)
  assert len(_rows(tmp_path)) == 2
  train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  _assert_same_run(tmp_path, run)
  assert capsys.readouterr().out.count('before training') == 1
  assert json.loads((tmp_path / 'config.json').read_text())['num_rounds'] == 5


@pytest.mark.parametrize('phase, num_rounds, checkpoint_every', [
    ('training', 3, 1), ('training', 3, 3), ('evaluation', 3, 1),
    ('evaluation', 3, 3), ('evaluation', 0, 1)])
def test_an_interrupted_run_goes_on_where_it_was(
    run, tmp_path, monkeypatch, phase, num_rounds, checkpoint_every):
  """In round 3, in the evaluation after it, and in the first one."""
  config = _config(
      num_rounds=5, eval_every=2, checkpoint_every=checkpoint_every)
  with monkeypatch.context() as patch:
    _interrupt(patch, tmp_path, num_rounds, phase)
    with pytest.raises(KeyboardInterrupt):
      train.train(config, tmp_path)
  assert [row['round'] for row in _rows(tmp_path)] == list(range(num_rounds))
  assert max(_digests(tmp_path)) == num_rounds  # all that were completed
  train.train(config, tmp_path)
  _assert_same_run(tmp_path, run)


def _interrupt(patch, workdir, num_rounds, phase):
  """Sends SIGTERM when three episodes of a phase have ended."""
  ended = []
  advance = _Pool._advance

  def spy(self, worker):
    event = advance(self, worker)
    is_training = event.job.seed < episodes.FIRST_EVAL_SEED
    if event.kind == 'finished' and is_training == (phase == 'training') and (
        len(metrics.read_metrics(workdir)) == num_rounds):
      ended.append(event)
      if len(ended) == 3:
        signal.raise_signal(signal.SIGTERM)
    return event

  patch.setattr(_Pool, '_advance', spy)


def test_rounds_later_than_the_checkpoint_are_played_again(run, tmp_path):
  """With k rounds a checkpoint, up to k are lost by a sudden death."""
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / 'checkpoints' / '5')
  train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  _assert_same_run(tmp_path, run)


# Reads of other chunks fail after orbax has given up on the first.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.usefixtures('clean_up')
def test_a_damaged_checkpoint_is_passed_over(run, tmp_path, capsys):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  shutil.rmtree(tmp_path / 'checkpoints' / '5' / 'state' / 'd')
  config = _config(num_rounds=5, eval_every=2)
  for is_owner in (False, True):
    if is_owner:
      train.train(config, tmp_path)
    else:
      evaluating.evaluate_run(config, tmp_path, split='train', episodes=1)
    sentence, = capsys.readouterr().err.splitlines()
    assert 'round 5 is damaged' in sentence
    assert (tmp_path / 'checkpoints-damaged').exists() == is_owner
  _assert_same_run(tmp_path, run)


def test_without_a_whole_checkpoint_there_is_a_sentence(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  for path in (tmp_path / 'checkpoints').glob('*/digest'):
    shutil.rmtree(path)
  with pytest.raises(errors.UserError, match='--workdir'):
    train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  assert _rows(tmp_path) == _rows(run)  # nothing is lost for that


def test_a_finished_run_stays_as_it_is(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  _assert_same_run(tmp_path, run)
  assert _rows(tmp_path) == _rows(run)
  with pytest.raises(errors.UserError, match='5 rounds already'):
    train.train(_config(num_rounds=4, eval_every=2), tmp_path)
  assert _rows(tmp_path) == _rows(run)


def test_a_full_disk_is_a_sentence_and_nothing_is_lost(
    run, tmp_path, monkeypatch):
  """Full after three rounds; after room is made the same command goes on."""
  config, replace = _config(num_rounds=5, eval_every=2), os.replace

  def fill(source, target):
    if len(metrics.read_metrics(tmp_path)) == 3:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
    replace(source, target)

  with monkeypatch.context() as patch:
    patch.setattr(os, 'replace', fill)
    with pytest.raises(files.WriteError, match='No space left on device'):
      train.train(config, tmp_path)
  train.train(config, tmp_path)
  _assert_same_run(tmp_path, run)


def test_a_folder_in_use_is_refused_and_stays(run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  with files.owned(tmp_path):
    with pytest.raises(files.FolderError, match='another process'):
      train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  assert _rows(tmp_path) == _rows(run)
  assert _digests(tmp_path) == _digests(run)


def test_a_run_of_before_a_field_existed_is_resumed_and_evaluated(
    run, tmp_path):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  path = tmp_path / 'config.json'
  saved = json.loads(path.read_text())
  del saved['optimizer']['importance_cap'], saved['optimizer']['entropy_bonus']
  del saved['sampler'], saved['episodes']
  path.write_text(json.dumps(saved))
  config = checks.read_config(path)
  assert config.optimizer.importance_cap == 0 and config.sampler == ''
  evaluating.evaluate_run(config, tmp_path, split='train', episodes=3)
  train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  _assert_same_run(tmp_path, run)


def test_another_config_is_refused(run):
  before = (run / 'config.json').read_bytes()
  with pytest.raises(errors.UserError, match='group_size') as caught:
    train.train(_config(num_rounds=9, group_size=4), run)
  assert 'num_rounds' not in str(caught.value)
  assert (run / 'config.json').read_bytes() == before


def test_another_seed_is_another_run(run, tmp_path):
  train.train(_config(num_rounds=1, seed=1), tmp_path)
  assert not _rows(tmp_path)[0].items() <= _rows(run)[0].items()
  assert (np.load(tmp_path / 'success_rates.npy')[0] != np.load(
      run / 'success_rates.npy')[0]).any()


def test_worker_counts_change_nothing(run, tmp_path):
  train.train(_config(
      num_rounds=5, eval_every=2, **{'env.num_workers': 5}), tmp_path)
  _assert_same_run(tmp_path, run)


@pytest.fixture(scope='module', name='method_runs')
def made_method_runs(tmp_path_factory):
  """`method_runs(method)`: the folder of two rounds, played once."""
  @functools.cache
  def play(method):
    workdir = tmp_path_factory.mktemp(method)
    train.train(_config(method, num_rounds=2), workdir)
    return workdir
  return play


@pytest.mark.parametrize('method', methods.METHODS)
def test_every_method_runs(run, method_runs, method):
  workdir = method_runs(method)
  rows = _rows(workdir)
  assert len(rows) == 2
  for row in rows:
    assert _FIELDS <= row.keys() <= fields.FIELDS.keys()
    assert None not in row.values()
    if methods.METHODS[method].sampler == 'uniform' and method != 'dapo':
      assert row['replaced_fraction'] == 0
      assert row['slots_per_task'] == [8] * _NUM_TASKS
    if not methods.METHODS[method].augment:
      assert row['augmented_steps'] == 0
  assert sum(row['optimizer_steps'] for row in rows) > 0
  assert [_EVALUATED <= row.keys() for row in rows] == [False, True]
  # Every method begins with the same parameters and the same episodes.
  assert (workdir / 'initial_evaluation.json').read_text() == (
      run / 'initial_evaluation.json').read_text()


def test_methods_differ_in_what_they_learn(method_runs):
  losses = {method: _rows(method_runs(method))[0]['loss']
            for method in methods.METHODS}
  # In the first round there is nothing to resample by.
  assert losses['step'] == losses['step_no_resampling']
  assert losses['step_no_augmentation'] == losses['step_advantage_only']
  assert len(set(losses.values())) == len(methods.METHODS) - 2


def _dapo(**changes):
  """Rounds of half of the tasks, so that others can be drawn."""
  return _config('dapo', num_rounds=3, num_base_tasks=2, **changes)


@pytest.mark.parametrize('sampler', checks.SAMPLERS)
def test_every_sampler_runs_and_is_resumed(tmp_path, sampler):
  options = {'sampler': sampler, 'eval_every': 1, 'eval_episodes': 1}
  train.train(_config('step_grpo', num_rounds=3, **options), tmp_path / 'one')
  for rounds in (1, 3):
    train.train(
        _config('step_grpo', num_rounds=rounds, **options), tmp_path / 'two')
  _assert_same_run(tmp_path / 'two', tmp_path / 'one')
  replaced = [row['replaced_fraction'] for row in _rows(tmp_path / 'one')]
  assert (max(replaced) > 0) == (sampler != 'uniform')


_LAGGED = {
    'lag': 1, 'optimizer.importance_cap': 2., 'optimizer.warmup_rounds': 1,
    'optimizer.decay_rounds': 4}


def test_with_a_lag_a_round_is_played_by_the_parameters_before(
    tmp_path, monkeypatch):
  """Meanwhile or not: it is the same run, also when it is resumed.

  prime-rl #3299, slime #1547, maxdiffusion #484.
  """
  options = _LAGGED | {'num_rounds': 4, 'eval_every': 2, 'eval_episodes': 1}
  playing, began = [], ahead_lib.Ahead.begin
  learned, play = [], rounds_lib._play

  def spy(setup, params, *args):
    playing.append(jax.tree.map(np.array, params))
    return play(setup, params, *args)

  def keep(self, *args):
    learned.append(args)
    return began(self, *args)

  with monkeypatch.context() as patch:
    patch.setattr(rounds_lib, '_play', spy)
    patch.setattr(ahead_lib.Ahead, 'begin', keep)
    train.train(_config(**options), tmp_path / 'ahead')
  # An evaluation needs the environments that a round would have.
  assert [args[0] for args in learned] == [1, 3]
  chex.assert_trees_all_equal(playing[0], playing[1])  # of the warm start
  assert len(playing) == 4
  for one, other in zip(playing[1:], playing[2:]):
    assert not jax.tree.all(jax.tree.map(np.array_equal, one, other))
  assert [row['lag'] for row in _rows(tmp_path / 'ahead')] == [0, 1, 1, 1]

  with monkeypatch.context() as patch:  # by themselves, in two parts
    patch.setattr(ahead_lib.Ahead, 'begin', lambda *args: None)
    for num_rounds in (2, 4):
      train.train(_config(**options | {'num_rounds': num_rounds}),
                  tmp_path / 'alone')
  _assert_same_run(tmp_path / 'alone', tmp_path / 'ahead')


def test_what_is_played_ahead_ends_with_the_run(tmp_path, monkeypatch):
  """A disk that is full ends a run although the next round is played."""
  threads = threading.active_count()
  append = metrics.MetricsLog.append

  def fail(self, row, record):
    append(self, row, record)
    raise files.WriteError('the disk is full')

  monkeypatch.setattr(metrics.MetricsLog, 'append', fail)
  with pytest.raises(files.WriteError):
    train.train(_config(num_rounds=3, **_LAGGED), tmp_path)
  assert threading.active_count() == threads


def test_fixed_tasks_are_one_instance_and_draws_are_told_besides(
    tmp_path, monkeypatch):
  seen, make_env = [], worlds.make_pool

  def make_pool(world, config):
    pool = make_env(world, config)
    submit = pool.submit
    pool.submit = lambda jobs: (seen.append(list(jobs)), submit(seen[-1]))
    return pool

  monkeypatch.setattr(worlds, 'make_pool', make_pool)
  train.train(_config(num_rounds=2, **{'env.episodes': 'fixed'}), tmp_path)
  jobs = [job for round_jobs in seen for job in round_jobs if not job.expert]
  instances = {episodes.fixed_seed(name) for name in fake_world.TRAIN_TASKS}
  draws = {job.seed for job in jobs} - instances
  assert instances <= {job.seed for job in jobs}
  assert draws == {episodes.eval_seed(k) for k in range(3)}
  evaluation = metrics.read_json(tmp_path / 'evaluation.json')
  for row in evaluation.values():
    assert row['episodes'] == row['drawn_episodes'] == 3
  drawn = evaluation_lib.success_rates(evaluation, 'drawn_')
  last = _rows(tmp_path)[-1]
  assert last['eval_drawn_success_rate'] == pytest.approx(drawn.mean())
  assert last.keys() == fields.FIELDS.keys()


@pytest.fixture(scope='module', name='dapo_run')
def made_dapo_run(tmp_path_factory):
  """The folder and the rounds of a run without interruption."""
  workdir = tmp_path_factory.mktemp('dapo')
  with pytest.MonkeyPatch.context() as patch:
    rounds = _spy_on_rounds(patch)
    train.train(_dapo(), workdir)
  return workdir, rounds


def test_dapo_redraws_tasks_without_spread(dapo_run):
  workdir, rounds = dapo_run
  redrawn = 0
  for index, (row, (_, trajectory)) in enumerate(
      zip(_rows(workdir), rounds, strict=True)):
    base = episodes.base_task_ids(0, index, 2, _NUM_TASKS)
    slots = trajectory.task_ids.reshape(2, 8)
    halves = trajectory.returns.reshape(2, 8)[:, :4]
    spread = np.ptp(halves, axis=1) > 0
    np.testing.assert_array_equal(
        slots[:, :4], np.repeat(base[:, None], 4, axis=1))
    order = episodes.task_order(0, index + 1, 2, _NUM_TASKS)
    other = next(task for task in order if task not in base[~spread])
    np.testing.assert_array_equal(
        slots[:, 4:], np.repeat(np.where(spread, base, other)[:, None], 4, 1))
    redrawn += (~spread).sum()
    assert row['trajectories'] == row['valid_trajectories'] == 16
    assert row['replaced_fraction'] == (
        slots != base[:, None]).sum() / 16
    np.testing.assert_array_equal(
        row['slots_per_task'], np.bincount(slots.ravel(), minlength=4))
    assert (row['step_samples'] > 0) == any(
        np.ptp(trajectory.returns[trajectory.task_ids == task]) > 0
        for task in slots.ravel())
    # Copies start alike, in both waves, and are not played alike.
    words = trajectory.observations['instruction'][:, 0].reshape(2, 8, -1)
    for q in np.flatnonzero(spread):
      assert (words[q] == words[q, 0]).all()
      log_probs = trajectory.log_probs.reshape(2, 8, -1)[q]
      assert (log_probs[:4] != log_probs[4:]).any()
  assert 0 < redrawn < 6


def test_dapo_stopped_between_its_waves_goes_on_where_it_was(
    dapo_run, tmp_path, monkeypatch):
  redraw, calls = redrawing.redraw_tasks, []

  def spy(*args):
    calls.append(args)
    return redraw(*args)

  with monkeypatch.context() as patch:
    patch.setattr(redrawing, 'redraw_tasks', spy)
    patch.setattr(stopping.StopRequest, '__call__', lambda _: len(calls) == 2)
    with pytest.raises(KeyboardInterrupt):
      train.train(_dapo(), tmp_path)
  assert len(_rows(tmp_path)) == 1
  train.train(_dapo(**{'env.num_workers': 3}), tmp_path)
  _assert_same_run(tmp_path, dapo_run[0])


def test_smoothing_by_ema(tmp_path, monkeypatch):
  rounds = _spy_on_rounds(monkeypatch)
  train.train(_config(num_rounds=3, smoothing='ema', ema_decay=.75), tmp_path)
  expected = np.zeros(_NUM_TASKS)
  for _, trajectory in rounds:
    for task in range(_NUM_TASKS):
      outcomes = trajectory.successes[trajectory.task_ids == task]
      if outcomes.size:
        expected[task] = .75 * expected[task] + .25 * outcomes.mean()
  assert expected.any()
  np.testing.assert_allclose(
      np.load(tmp_path / 'success_rates.npy')[-1], expected, rtol=1e-5)


def test_the_tutorials_world_is_learned(tmp_path, monkeypatch):
  """The page's files, but for what the fake world has compiled otherwise."""
  page = (_ROOT / 'docs' / 'tutorial.md').read_text()
  world, config = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
  assert len(world.split('\n')) <= 42 and 'in 40 lines' in page
  (tmp_path / 'lights.py').write_text(world)
  monkeypatch.syspath_prepend(str(tmp_path))
  names: dict = {}
  exec(config, names)  # our own page
  config = names['get_config']()
  config.trackers, config.group_weight, config.max_steps = (), 'sum', 4
  train.train(config, tmp_path / 'run')
  for name, low, high in (('initial_evaluation', 0, .5), ('evaluation', .8, 1)):
    rates = evaluation_lib.success_rates(
        metrics.read_json(tmp_path / 'run' / f'{name}.json'))
    assert low <= rates.mean() <= high, name


def _spy_on_rounds(monkeypatch, change=None):
  """Lists (learner state, trajectory) of each round; may change a batch."""
  rounds = []
  assign = rounds_lib._assign

  def spy(setup, state, trajectory, key):
    rounds.append((jax.device_get(state.learner), trajectory))
    batch, *rest = assign(setup, state, trajectory, key)
    if change is not None:
      batch = change(len(rounds) - 1, batch)
    return batch, *rest

  monkeypatch.setattr(rounds_lib, '_assign', spy)
  return rounds


def test_a_round_has_keys_of_its_own_and_groups_of_half_a_group(
    tmp_path, monkeypatch):
  """K = G / 2 = 4 responses; keys are of (seed, round)."""
  keys, batches = [], []
  assign = rounds_lib._assign

  def spy(setup, state, trajectory, key):
    keys.append(key)
    batch, *rest = assign(setup, state, trajectory, key)
    batches.append(batch)
    return batch, *rest

  monkeypatch.setattr(rounds_lib, '_assign', spy)
  train.train(_config(num_rounds=2, seed=3), tmp_path)
  for index, (key, batch) in enumerate(zip(keys, batches, strict=True)):
    _, expected = jax.random.split(
        jax.random.fold_in(jax.random.key(3), index))
    np.testing.assert_array_equal(
        jax.random.key_data(key), jax.random.key_data(expected))
    assert batch.groups.mask.shape == (_NUM_SLOTS * 4, 4)
  assert any(np.asarray(batch.groups.mask).any() for batch in batches)


def _same(a, b):
  return all(x.tobytes() == y.tobytes() for x, y in zip(
      jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_rounds_without_a_success_teach_nothing(tmp_path, monkeypatch):
  """cua-lite #32: all but the first; the run ends well all the same."""
  step = fake_world.ButtonEnv.step

  def fail(self, action):
    observation, reward, *rest = step(self, action)
    if self._phase == 'training' and metrics.read_metrics(tmp_path):
      reward = 0.
    return observation, reward, *rest

  monkeypatch.setattr(fake_world.ButtonEnv, 'step', fail)
  rounds = _spy_on_rounds(monkeypatch)
  train.train(_config(num_rounds=4), tmp_path)
  first, *rows = _rows(tmp_path)
  assert first['success_rate'] > 0 and first['optimizer_steps'] > 0
  for row in rows:
    assert row['success_rate'] == row['optimizer_steps'] == row['loss'] == 0
  assert not _same(rounds[0][0], rounds[1][0])
  assert _same(rounds[1][0], rounds[3][0])
  record = np.load(tmp_path / 'success_rates.npy')
  seen = np.array([row['slots_per_task'] for row in rows]) > 0
  falls = np.diff(record, axis=0) < 0
  np.testing.assert_array_equal(falls, seen & (record[:-1] > 0))
  assert falls.any() and (tmp_path / 'evaluation.json').exists()


def test_steps_that_are_not_finite_are_skipped(
    tmp_path, monkeypatch, capsys):
  def break_round_1(index, batch):
    if index != 1:
      return batch
    return batch.replace(singles=batch.singles.replace(
        advantages=jnp.where(batch.singles.mask, jnp.inf, 0.)))

  rounds = _spy_on_rounds(monkeypatch, break_round_1)
  train.train(_config('rloo', num_rounds=4), tmp_path)
  sentence, = capsys.readouterr().err.splitlines()
  assert sentence.startswith('2 of 2 optimiser steps of round 1 were skipped')
  states = [state for state, _ in rounds]
  assert _same(states[1], states[2])
  assert not _same(states[0], states[1])
  assert not _same(states[2], states[3])
  rows = _rows(tmp_path)
  assert rows[1]['optimizer_steps'] == 0 and rows[1]['step_samples'] > 0
  assert [row['skipped_steps'] for row in rows] == [0, 2, 0, 0]
  assert rows[2]['optimizer_steps'] > 0
  assert all(row['compilations'] == 0 for row in rows[2:])


def test_a_run_with_most_trajectories_lost_stops(tmp_path, faults, capsys):
  faults(lambda job, attempt, step: _in_training(job) and job.slot < 17)
  with pytest.raises(errors.RunError) as caught:
    train.train(_config(num_rounds=2), tmp_path)
  assert str(caught.value).startswith('17 of 32 trajectories of round 0')
  assert '\n' not in str(caught.value) and _rows(tmp_path) == []
  assert re.search(r'round 0: 17 of 32 episodes were lost, the last one to \w',
                   capsys.readouterr().out)


def test_a_run_with_half_of_its_trajectories_goes_on(
    run, tmp_path, faults, monkeypatch):
  assert run.exists()
  faults(lambda job, attempt, step: _in_training(job) and job.slot % 2 == 1)
  rounds = _spy_on_rounds(monkeypatch)
  train.train(_config(num_rounds=2), tmp_path)
  for row, (_, trajectory) in zip(_rows(tmp_path), rounds, strict=True):
    assert row['trajectories'] == 32 and row['valid_trajectories'] == 16
    assert row['environment_failures'] == 48
    assert row['success_rate'] == trajectory.successes.sum() / 16
    assert row['step_samples'] <= row['environment_steps']


def test_a_run_that_broke_goes_on_when_the_world_is_whole(
    run, tmp_path, faults):
  faults(lambda job, attempt, step: _in_training(job) and len(
      metrics.read_metrics(tmp_path)) == 2)
  with pytest.raises(errors.RunError, match='round 2'):
    train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  faults(lambda job, attempt, step: False)
  train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  _assert_same_run(tmp_path, run)


def test_retried_episodes_change_nothing_but_the_counts(
    run, tmp_path, faults):
  faults(lambda job, attempt, step: step == 1 and attempt < (
      job.task_id + job.slot) % 3)
  train.train(_config(num_rounds=5, eval_every=2), tmp_path)
  counts = ('environment_failures', 'environment_steps')
  _assert_same_run(tmp_path, run, but=counts)
  for name in counts:
    assert sum(row[name] for row in _rows(tmp_path)) > sum(
        row[name] for row in _rows(run))


def test_lost_evaluation_episodes_are_not_counted(run, tmp_path, faults):
  """All of the first task's are lost, and one of the second's."""
  faults(lambda job, attempt, step: not _in_training(job) and (
      job.task_id == 0 or job.slot == 5) and not job.expert)
  train.train(_config(num_rounds=1), tmp_path)
  evaluation = metrics.read_json(tmp_path / 'evaluation.json')
  whole = metrics.read_json(run / 'initial_evaluation.json')
  before = metrics.read_json(tmp_path / 'initial_evaluation.json')
  for found in (evaluation, before):
    rows = list(found.values())
    assert rows[0] == {'success_rate': None, 'episodes': 0}
    assert [row['episodes'] for row in rows] == [0, 2, 3, 3]
  assert list(before.values())[2:] == list(whole.values())[2:]
  rates = [row['success_rate'] for row in evaluation.values()][1:]
  assert _rows(tmp_path)[-1]['eval_success_rate'] == pytest.approx(
      np.mean(rates))


def test_an_evaluation_that_is_lost_stops_the_run(tmp_path, faults):
  faults(lambda job, attempt, step: not _in_training(job) and (
      not job.expert and len(metrics.read_metrics(tmp_path)) == 1))
  with pytest.raises(errors.RunError, match='valuation'):
    train.train(_config(num_rounds=2), tmp_path)
  # The update is made again from the round's beginning.
  faults(lambda job, attempt, step: False)
  train.train(_config(num_rounds=2), tmp_path)
  assert [row['round'] for row in _rows(tmp_path)] == [0, 1]


@pytest.mark.parametrize('split, tasks', [
    ('train', fake_world.TRAIN_TASKS),
    ('held_out', fake_world.HELD_OUT_TASKS),
    ('all', fake_world.TRAIN_TASKS + fake_world.HELD_OUT_TASKS)])
def test_a_run_is_evaluated_on_other_tasks(run, tmp_path, split, tasks):
  shutil.copytree(run, tmp_path, dirs_exist_ok=True)
  config = _config(num_rounds=5, eval_every=2)
  found = evaluating.evaluate_run(config, tmp_path, split=split, episodes=3)
  assert tuple(found) == tasks
  name = 'evaluation' if split == 'train' else f'evaluation_{split}'
  assert metrics.read_json(tmp_path / f'{name}.json') == found
  before = metrics.read_json(run / 'evaluation.json')
  assert metrics.read_json(tmp_path / 'evaluation.json') == before
  assert before.items() >= {
      task: row for task, row in found.items() if task in before}.items()


def test_a_policy_that_is_not_trained_is_evaluated(tmp_path, monkeypatch):
  made = worlds.make_world(_config())
  monkeypatch.setattr(worlds, 'make_world', lambda *_, **__: made._replace(
      domains=('os',) * _NUM_TASKS, skipped={'x.json': 'why'}))
  found = evaluating.evaluate_run(
      _config(), tmp_path, split='train', episodes=1, fresh=True)
  results = tmp_path / 'results' / 'pyautogui' / 'a11y_tree' / 'step_jax'
  assert {path.parent.name for path in results.glob('os/*/result.txt')} == set(
      found)
  assert metrics.read_json(tmp_path / 'skipped_tasks_train.json') == {
      'x.json': 'why'}


def test_a_run_without_a_checkpoint_cannot_be_evaluated(tmp_path):
  with pytest.raises(errors.UserError, match='no checkpoint'):
    evaluating.evaluate_run(_config(), tmp_path, split='train', episodes=1)


def test_the_table_has_a_row_for_each_task(run, capsys):
  evaluations = [metrics.read_json(run / f'{name}.json')
                 for name in ('initial_evaluation', 'evaluation')]
  from rich import console
  console.Console(width=80).print(evaluation_lib.make_table(*evaluations))
  lines = capsys.readouterr().out.splitlines()
  for task in fake_world.TRAIN_TASKS:
    line, = [line for line in lines if task in line]
    for evaluation in evaluations:
      assert f'{100 * evaluation[task]["success_rate"]:.0f} %' in line


def test_a_warm_start_is_read_from_its_cache(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  for name in ('a', 'b'):
    train.train(_config(num_rounds=1, eval_episodes=1), tmp_path / name)
  first, second = [
      part for part in capsys.readouterr().out.split('before training')][:2]
  assert '24 of 24 demonstrations solved' in first and 'read from' not in first
  assert 'read from' in second and 'demonstrations' not in second
  _assert_same_run(tmp_path / 'a', tmp_path / 'b')
  assert len(list((tmp_path / 'cache').rglob('*.npz'))) == 1


def test_the_cache_is_of_what_the_warm_start_depends_on():
  config = _config()
  world = worlds.make_world(config)
  path = warm_start._cache_path(config, world)
  for changes in ({'num_rounds': 9}, {'method': 'rloo'}, {'group_size': 4},
                  {'optimizer.learning_rate': 1.}, {'env.num_workers': 9}):
    assert warm_start._cache_path(_config(**changes), world) == path
  for changes in ({'seed': 9}, {'max_steps': 9}, {'policy.width': 8},
                  {'warm_start.demonstrations': 9},
                  {'warm_start.learning_rate': 1.}):
    assert warm_start._cache_path(_config(**changes), world) != path
  assert warm_start._cache_path(config, world._replace(
      tasks=world.tasks[:2])) != path


def test_imitation_helps(tmp_path):
  solved = {}
  for demonstrations in (0, 6):
    workdir = tmp_path / str(demonstrations)
    train.train(_config(num_rounds=1, eval_episodes=12, **{
        'warm_start.demonstrations': demonstrations}), workdir)
    solved[demonstrations] = evaluation_lib.success_rates(
        metrics.read_json(workdir / 'initial_evaluation.json')).mean()
  assert solved[6] > solved[0] + .1


def test_a_mistake_in_the_world_is_the_users(tmp_path, monkeypatch):
  class Pool(_Pool):

    def wait_for_start(self, timeout):
      raise workers.WorkerStartError('expected a known task', 'ValueError')

  monkeypatch.setattr(
      worlds, 'make_pool', lambda world, config: Pool(world.make_env))
  with pytest.raises(errors.UserError, match='expected a known task'):
    train.train(_config(), tmp_path)


def test_a_keeper_that_does_not_start_is_told(tmp_path, monkeypatch):
  """As where TMPDIR takes no folder."""
  monkeypatch.setattr(keeper, '__file__', os.devnull)
  monkeypatch.setattr(
      worlds, 'make_pool', lambda world, config: workers.WorkerPool(
          world.make_env, num_workers=1, step_timeout=20.))
  with pytest.raises(errors.RunError, match='keeps the workers was killed'):
    train.train(_config(), tmp_path)


@pytest.mark.parametrize('decay_rounds, last', [(0, 1e-3), (5, 1e-4)])
def test_the_learning_rate_over_the_rounds(decay_rounds, last):
  """Two steps a round: warm-up for one, the cosine over the other four."""
  config = _config(**{
      'optimizer.learning_rate': 1e-3, 'optimizer.warmup_rounds': 1,
      'optimizer.decay_rounds': decay_rounds})
  assert config.optimizer.num_minibatches == 2
  schedule = setups_lib.make_schedule(config.optimizer)
  np.testing.assert_allclose(
      [schedule(step) for step in (0, 1, 2, 10, 100)],
      [1e-3 / 3, 2e-3 / 3, 1e-3, last, last], rtol=1e-5)
  # Half-way of the cosine is half-way of the fall.
  np.testing.assert_allclose(schedule(6), (1e-3 + last) / 2, rtol=1e-5)


def test_signals_are_requests_and_the_second_is_immediate(capsys):
  previous = signal.getsignal(signal.SIGINT)
  with stopping.StopRequest() as stop:
    assert not stop()
    signal.raise_signal(signal.SIGINT)
    assert stop()
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is previous
  assert capsys.readouterr().err.count('\n') == 1
  with contextlib.suppress(KeyboardInterrupt), stopping.StopRequest() as stop:
    signal.raise_signal(signal.SIGTERM)
    assert stop()


def test_sigterm_is_heeded_before_a_run_begins(monkeypatch, capsys):
  from experiments import run as run_script
  previous = signal.getsignal(signal.SIGTERM)
  monkeypatch.setattr(
      run_script, '_run', lambda _: signal.raise_signal(signal.SIGTERM))
  assert run_script.main([]) == 130
  assert signal.getsignal(signal.SIGTERM) is previous
  assert capsys.readouterr().err.count('\n') == 1


@pytest.mark.parametrize('place', range(4))
def test_a_signal_amid_the_handling_of_another_does_not_wait(place):
  """The second comes in the call of that number; an alarm ends a wait."""
  def wait_no_longer(*_):
    raise TimeoutError

  def call(*_):
    calls.append(place)
    if len(calls) == place + 1:
      sys.settrace(None)
      signal.raise_signal(signal.SIGTERM)

  calls, tracing = [], sys.gettrace()
  previous = {
      number: signal.signal(number, handler) for number, handler in (
          (signal.SIGALRM, wait_no_longer),
          (signal.SIGTERM, signal.default_int_handler))}
  signal.setitimer(signal.ITIMER_REAL, 5.)
  try:
    with pytest.raises(KeyboardInterrupt), stopping.signals_interrupt():
      sys.settrace(call)
      signal.raise_signal(signal.SIGTERM)
  finally:
    sys.settrace(tracing)
    signal.setitimer(signal.ITIMER_REAL, 0.)
    for number, handler in previous.items():
      signal.signal(number, handler)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_signal_that_python_drops_stops_the_run_all_the_same():
  """As what is raised in a callback of the garbage collector is."""
  def while_collecting(phase, _):
    if phase == 'start':
      gc.callbacks.remove(while_collecting)
      signal.raise_signal(signal.SIGTERM)

  with stopping.signals_interrupt():
    gc.callbacks.append(while_collecting)
    gc.collect()
    with stopping.StopRequest() as stop:
      assert stop()
  with stopping.StopRequest() as stop:
    assert not stop()


def test_sigterm_among_the_demonstrations_is_heeded(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  workdir = tmp_path / 'run'
  _interrupt(monkeypatch, workdir, 0, 'training')
  with pytest.raises(KeyboardInterrupt):
    train.train(_config(), workdir)
  assert not _digests(workdir) and not (tmp_path / 'cache').exists()


def test_sigterm_in_the_warm_start_is_heeded(run, tmp_path, monkeypatch):
  """It is over before the first evaluation; nothing of it is lost."""
  start, played = train._start, []

  def interrupted(*args):
    signal.raise_signal(signal.SIGTERM)
    return start(*args)

  config = _config(num_rounds=5, eval_every=2)
  with monkeypatch.context() as patch:
    patch.setattr(train, '_start', interrupted)
    patch.setattr(rounds_lib, 'play_round', lambda *args: played.append(args))
    with pytest.raises(KeyboardInterrupt):
      train.train(config, tmp_path)
  assert not played and not (tmp_path / 'initial_evaluation.json').exists()
  train.train(config, tmp_path)
  _assert_same_run(tmp_path, run)
