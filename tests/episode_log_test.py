"""Tests of which episodes a run keeps, and of their files."""
import json
import os
import shutil

import chex
import jax
import numpy as np
from PIL import Image
import pytest

from step_jax.algorithm import types
from step_jax.rollout import collect
from step_jax.rollout import workers
from step_jax.runs import dump
from step_jax.runs import episode_log
from step_jax.runs import episodes

_TASKS = ('a', 'b', 'c')
_BOUNDS = episode_log.Bounds(2, 2, 3, 8)
_READER = episodes.Reader(
    lambda row, tokens, told: {'text': f'{told}:{row["seen"]}{tokens[0]}'},
    lambda row: f'see {row["seen"]}')
_T, _L, _K = 3, 2, 2


def _round(outcomes, *, losses=(), groups=True, seed=0):
  """A collection and its batch; `outcomes` are (task id, success)."""
  rng = np.random.default_rng(seed)
  ids, successes = np.array(outcomes, np.int32).T
  size = len(ids)
  valid = ~np.isin(np.arange(size), losses)
  mask = np.arange(_T) < np.where(valid, 2, 0)[:, None]
  trajectory = types.Trajectory(
      task_ids=ids, observations={'seen': rng.integers(9, size=(size, _T))},
      actions=rng.integers(9, size=(size, _T, _L)),
      log_probs=rng.normal(size=(size, _T, _L)).astype(np.float32),
      token_mask=np.repeat(mask[..., None], _L, axis=2), step_mask=mask,
      returns=successes.astype(np.float32), successes=successes > 0,
      valid=valid)
  agree = rng.random((size * _T, _K)) < .5
  agree[:, 0] = True
  spread = ~agree.all(axis=1, keepdims=True)
  low = np.arange(size * _T) % _T == 1
  single = types.StepBatch(
      observations=None, actions=None, log_probs=None, token_mask=None,
      advantages=rng.normal(size=(size * _T, 1)), mask=None)
  group = types.StepBatch(
      observations=None, actions=rng.integers(9, size=(size * _T, _K, _L)),
      log_probs=rng.normal(size=(size * _T, _K, _L)),
      token_mask=np.ones((size * _T, _K, _L), bool),
      advantages=np.where(agree, 1., -1.) * spread,
      mask=np.repeat(low[:, None], _K, axis=1))
  batch = types.RoundBatch(
      singles=single, groups=group if groups else None, single_units=None)
  jobs = [workers.Job(slot, task, 70 + slot)
          for slot, task in enumerate(ids.tolist())]
  notes = collect.make_notes(jobs, {0: 'do it'}, {s: 'fire' for s in losses})
  return collect.Collection(trajectory, 0, 0, notes=notes), batch


def _log(folder, done=0, bounds=_BOUNDS, **options):
  return episode_log.EpisodeLog(
      folder, done, _TASKS, bounds, _READER, **options)


# Of rounds 0 to 5: which tasks end well; b is solved in round 1, a in 3.
_ROUNDS = ['a- b- b- c-', 'a- b+ b- c-', 'a- a- b+ b-', 'a+ a- b+ b+',
           'a+ a+ b+ b+', 'a+ a+ b+ b+']


def _play(log, rounds):
  for index in rounds:
    outcomes = [(_TASKS.index(x[0]), x[1] == '+')
                for x in _ROUNDS[index].split()]
    log.add_round(index, *_round(outcomes, seed=index), np.array([.5, .25, 0]))
    if index % 2:
      log.add_evaluation(index + 1, _round([(0, 1)] * 9, seed=9)[0])


def _kept(folder):
  return {about['id']: (about, {name: x[place] for name, x in
                                part.arrays.items()})
          for part in episodes.load_all(folder / 'episodes')
          for place, about in enumerate(part.about)}


def test_an_episode_is_what_was_seen_done_and_learned(tmp_path):
  collection, batch = _round([(0, 0), (1, 1), (2, 1)], losses=[2])
  chosen = episodes.select(
      collection, np.array([0, 1, 2]), _TASKS, kind='round', rounds=7,
      batch=batch, success_rate=np.array([.5, .25, 0]))
  episodes.describe(chosen, _READER)
  episodes.save(tmp_path / 'x.npz', chosen)
  read, = episodes.load_all(tmp_path)
  assert read.about == chosen.about == episodes.read_about(tmp_path / 'x.npz')
  chex.assert_trees_all_equal_shapes_and_dtypes(
      episodes.as_trajectory(read), collection.trajectory)
  chex.assert_trees_all_equal(
      episodes.as_trajectory(read), collection.trajectory)
  first, second, lost = read.about
  seen = collection.trajectory.observations['seen']
  tokens = collection.trajectory.actions
  alternatives = first.pop('alternatives')
  assert first == {
      'id': 'r7-0', 'kind': 'round', 'round': 7, 'slot': 0, 'task': 'a',
      'seed': 70, 'instruction': 'do it', 'reward': 0., 'success': False,
      'steps': 2, 's_hat': .5, 'failure': '', 'actions': [
          {'text': f'do it:{seen[0, t]}{tokens[0, t, 0]}'} for t in (0, 1)]}
  assert alternatives == [None, [
      {'text': f'do it:{seen[0, 1]}{x}'}
      for x in batch.groups.actions[1, :, 0]]]
  assert second['instruction'] == f'see {seen[1, 0]}' and second['success']
  assert lost['failure'] == 'fire' and not lost['actions']
  np.testing.assert_array_equal(
      read.arrays['advantages'].ravel(), batch.singles.advantages.ravel())
  np.testing.assert_array_equal(
      read.arrays['grouped'], [[False, True, False]] * 3)
  matches = read.arrays['candidate_matches'][:, 1]
  assert matches[:, 0].all() and not matches.all()
  np.testing.assert_array_equal(
      matches[:, 1], batch.groups.advantages.reshape(3, _T, _K)[:, 1, 1] >= 0)


def test_last_rounds_firsts_latest_failures_and_evaluations_are_kept(tmp_path):
  log = _log(tmp_path)
  _play(log, range(6))
  log.write(6)
  log.prune(6)
  assert set(_kept(tmp_path)) == {
      *'r4-0 r4-2 r5-1 r5-3'.split(),  # two slots of each of two rounds
      'r3-0', 'r1-1', 'r3-1', 'r2-3', 'r1-3',  # first and latest of a, b, c
      *(f'e{n}-{slot}' for n in (2, 4, 6) for slot in (0, 3, 6))}


@pytest.mark.parametrize('stops', [(1,), (2, 3, 5), (5,), tuple(range(1, 6))])
def test_a_resumed_run_keeps_what_an_uninterrupted_one_does(tmp_path, stops):
  for name, ends in (('whole', (6,)), ('parts', (*stops, 6))):
    done = 0
    for end in ends:
      log = _log(tmp_path / name, done)
      _play(log, range(done, end))
      log.write(end)
      log.prune(end)
      if end < 6:  # killed before the next checkpoint, but after this
        _play(log, range(end, end + 1))
        log.write(end + 1)
        log = None
      done = end
  chex.assert_trees_all_equal(
      *({key: arrays for key, (_, arrays) in _kept(tmp_path / name).items()}
        for name in ('whole', 'parts')))
  whole, parts = ({key: about for key, (about, _) in
                   _kept(tmp_path / name).items()} for name in (
                       'whole', 'parts'))
  assert whole == parts


def test_what_is_not_done_is_not_written_and_what_is_later_is_cut(tmp_path):
  log = _log(tmp_path)
  _play(log, range(4))
  log.write(3)  # interrupted in round 3: its evaluation goes, too
  assert max(about['round'] for about, _ in _kept(tmp_path).values()) == 2
  again = _log(tmp_path, 1)
  assert not _kept(tmp_path)  # round 0 is none of the last, and tells nothing
  _play(again, [1])  # 'b' is solved for the first time again
  again.write(2)
  again.prune(2)
  assert {'r1-1', 'e2-0'} <= set(_kept(tmp_path))
  (tmp_path / 'episodes' / 'until_000001_rounds.npz').write_bytes(b'PK damaged')
  _log(tmp_path, 2)
  assert set(_kept(tmp_path)) == {'e2-0', 'e2-3', 'e2-6'}


def test_a_reader_goes_on_when_the_run_does(tmp_path, monkeypatch):
  """What it has listed is written anew, a part in another file."""
  load = episodes.load
  log = _log(tmp_path, bounds=_BOUNDS._replace(rounds=1))
  _play(log, range(5))
  log.write(5)
  folder = tmp_path / 'episodes'
  twice = [folder / f'until_{name}_rounds.npz' for name in ('000004', '000000')]
  shutil.copy(*twice)  # as one that was killed has left it

  def load_late(path):
    if load_late is episodes.load:
      monkeypatch.setattr(episodes, 'load', load)
      _play(log, [5])
      log.write(6)
      log.prune(6)
      assert not twice[0].exists()
    return load(path)

  monkeypatch.setattr(episodes, 'load', load_late)
  ids = [about['id'] for part in episodes.load_all(folder)
         for about in part.about]
  twice[1].unlink()
  assert {'r1-1', 'r5-1'} <= set(ids) and len(ids) == len(set(ids))
  assert set(_kept(tmp_path)) <= set(ids)


def test_nothing_is_kept_where_it_is_off(tmp_path):
  log = _log(tmp_path, bounds=_BOUNDS._replace(rounds=0))
  _play(log, range(6))
  log.write(6)
  log.prune(6)
  assert not os.listdir(tmp_path)


def test_pictures_are_copied_smaller_and_go_with_their_episodes(tmp_path):
  def get(number):
    if number == 5:
      raise KeyError(number)
    return Image.new('RGBA', (16, 4), (number, 0, 0))

  log = _log(tmp_path, bounds=_BOUNDS._replace(rounds=1, slots=1),
             get_picture=get)
  for index in range(2):
    collection, batch = _round([(0, 1), (0, 1)])
    numbers = 10 * index + np.arange(2 * _T, dtype=np.int32).reshape(2, _T)
    numbers[numbers == 0] = 5
    trajectory = collection.trajectory.replace(observations={
        'seen': numbers, 'screenshot': numbers})
    log.add_round(index, collection._replace(trajectory=trajectory), batch,
                  np.zeros(3))
    log.write(index + 1)
    log.prune(index + 1)
  kept = {key: about['pictures'] for key, (about, _) in _kept(tmp_path).items()}
  assert kept == {'r0-0': ['', '0000000001.jpg'],
                  'r1-1': ['0000000013.jpg', '0000000014.jpg']}
  pictures = tmp_path / 'episodes' / 'pictures'
  assert sorted(os.listdir(pictures)) == sorted({*kept['r0-0'][1:],
                                                 *kept['r1-1']})
  with Image.open(pictures / '0000000013.jpg') as picture:
    assert (picture.format, picture.size) == ('JPEG', (8, 2))


def test_files_have_no_pickle_and_the_list_is_json(tmp_path):
  log = _log(tmp_path)
  _play(log, [0])
  log.write(1)
  path, = (tmp_path / 'episodes').glob('*.npz')
  with np.load(path, allow_pickle=False) as file:
    assert all(file[name].dtype != object for name in file.files)
    assert len(json.loads(str(file['about']))) == len(file['actions'])
  jax.tree.map(np.asarray, episodes.load(path).arrays)


def test_a_dump_is_a_step_a_line_and_reads_back_as_it_was(tmp_path):
  collection, batch = _round([(0, 0), (1, 1), (2, 1)], losses=[1])
  chosen = episodes.select(
      collection, np.arange(3), _TASKS, kind='round', rounds=7, batch=batch)
  episodes.describe(chosen, _READER)
  path = tmp_path / 'x.jsonl'
  assert dump.write(path, [chosen.take([0, 1]), chosen.take([2])]) == 4
  header, *lines = map(json.loads, path.read_text().splitlines())
  assert header['format'] == dump.FORMAT and header['max_steps'] == _T
  assert [(line['id'], line['step'], line['text']) for line in lines[:2]] == [
      ('r7-0', step, chosen.about[0]['actions'][step]['text'])
      for step in (0, 1)]
  kept = np.array([0, 2])
  expected = jax.tree.map(lambda x: x[kept].copy(), collection.trajectory)
  for x in (expected.actions, expected.log_probs, expected.token_mask,
            expected.observations['seen']):
    x[~expected.step_mask] = 0
  chex.assert_trees_all_equal(dump.read(path), expected)
  chex.assert_trees_all_equal_dtypes(dump.read(path), expected)
  path.write_text('{"format": "another"}\n{}\n')
  with pytest.raises(ValueError, match='expected a file of'):
    dump.read(path)
