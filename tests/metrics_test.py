"""Tests of what a run writes down."""
import json
import os
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.runs import metrics


def _filled(directory, num_rounds, num_tasks=3):
  log = metrics.MetricsLog(directory, 0, num_tasks)
  for i in range(num_rounds):
    log.append({'round': i, 'loss': jnp.float32(i) / 4},
               np.full(num_tasks, i / 8))
  return log


def test_a_round_is_one_json_object_and_one_row_of_the_record(tmp_path):
  _filled(tmp_path, 3)
  lines = (tmp_path / 'metrics.jsonl').read_text().split('\n')
  assert lines.pop() == ''
  assert [json.loads(line) for line in lines] == [
      {'round': 0, 'loss': 0.}, {'round': 1, 'loss': .25},
      {'round': 2, 'loss': .5}]
  record = np.load(tmp_path / 'success_rates.npy')
  assert record.dtype == np.float32
  np.testing.assert_array_equal(
      record, np.arange(3)[:, None] / 8 * np.ones((1, 3)))


def test_a_round_is_made_text_once(tmp_path, monkeypatch):
  """Or the thousandth round would take a thousand times as long."""
  log, made = _filled(tmp_path, 3), []
  dumps = json.dumps
  monkeypatch.setattr(json, 'dumps', lambda row, **options: (
      made.append(row['round']), dumps(row, **options))[1])
  for i in (3, 4):
    log.append({'round': i}, np.zeros(3))
  assert made == [3, 4]
  assert [row['round'] for row in metrics.read_metrics(tmp_path)] == [
      0, 1, 2, 3, 4]


def test_the_record_keeps_no_array_of_the_device(tmp_path):
  log, array = metrics.MetricsLog(tmp_path, 0, 3), jnp.arange(3.)
  kept = weakref.ref(array)
  log.append({'round': 0}, np.asarray(array))
  del array
  assert kept() is None


def test_before_the_first_round_the_record_has_no_rows(tmp_path):
  metrics.MetricsLog(tmp_path, 0, 5)
  assert np.load(tmp_path / 'success_rates.npy').shape == (0, 5)
  assert metrics.read_metrics(tmp_path) == []


@pytest.mark.parametrize('kept', [0, 1, 3, 7])
def test_a_resumed_run_cuts_what_is_later_than_its_checkpoint(tmp_path, kept):
  _filled(tmp_path, 3)
  log = metrics.MetricsLog(tmp_path, kept, 3)
  assert [row['round'] for row in log.rows] == list(range(min(kept, 3)))
  assert metrics.read_metrics(tmp_path) == log.rows
  assert np.load(tmp_path / 'success_rates.npy').shape == (min(kept, 3), 3)
  log.append({'round': kept}, np.ones(3))
  assert metrics.read_metrics(tmp_path)[-1] == {'round': kept}
  np.testing.assert_array_equal(
      np.load(tmp_path / 'success_rates.npy')[-1], np.ones(3))


def test_numbers_that_are_not_finite_become_null(tmp_path):
  log = metrics.MetricsLog(tmp_path, 0, 1)
  log.append({
      'nan': float('nan'), 'inf': np.float32(np.inf), 'device': jnp.array(
          [1., np.nan]), 'nested': {'list': [np.int64(3), -np.inf]},
      'text': 'x', 'flag': np.bool_(True), 'none': None}, np.zeros(1))
  line, = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert json.loads(line, parse_constant=pytest.fail) == {
      'nan': None, 'inf': None, 'device': [1., None],
      'nested': {'list': [3, None]}, 'text': 'x', 'flag': True, 'none': None}
  assert log.rows == [json.loads(line)]


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
  log = _filled(tmp_path, 2)
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

  def interrupted(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, 'replace', interrupted)
  with pytest.raises(KeyboardInterrupt):
    log.append({'round': 2}, np.ones(3))
  for name in ('metrics.jsonl', 'success_rates.npy'):
    assert (tmp_path / name).read_bytes() == before[name]
  monkeypatch.undo()
  # What the interrupted write left lying around does no harm.
  assert len(metrics.MetricsLog(tmp_path, 9, 3).rows) == 2


def test_nothing_but_the_two_files_is_left(tmp_path):
  _filled(tmp_path, 2)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
      'metrics.jsonl', 'success_rates.npy']


def test_json_comes_back_as_it_was_written(tmp_path):
  content = {'a': {'success_rate': .5, 'episodes': 4}, 'b': [1, None, 'x']}
  metrics.write_json(tmp_path / 'x.json', content)
  assert metrics.read_json(tmp_path / 'x.json') == content
  assert (tmp_path / 'x.json').read_text().endswith('}\n')


def test_compilations_are_counted():
  counter = metrics.CompilationCounter()
  function = jax.jit(lambda x: x * 3 + 1)
  jax.block_until_ready(function(np.ones(7)))
  assert counter.count == 1
  jax.block_until_ready(function(np.zeros(7)))
  assert counter.count == 1
  jax.block_until_ready(function(np.zeros(8)))
  assert counter.count == 2
