"""Tests of the numbers that a run's page draws."""
import base64

import numpy as np
import pytest

from step_jax.runs import charts

_TASKS = ('one', 'two', 'three')


def _rows(*slots, **changed):
  return [{
      'round': i, 'seconds': 2., 'trajectories': 9, 'valid_trajectories': 8,
      'environment_failures': 1, 'environment_steps': 1500, 'entropy': None,
      'tasks_above_60': 1, 'success_rate': .5, 'out_of_steps': 2,
      'slots_per_task': list(x), 'successes_per_task': [1, 1, 1],
  } | changed for i, x in enumerate(slots)]


def _cells(map_, layer):
  return np.frombuffer(base64.b64decode(
      map_['layers'][layer]['cells']), np.uint8).reshape(
          len(map_['tasks']), map_['columns'])


def test_the_map_has_the_best_task_on_top_and_a_cell_a_round():
  record = np.array([[0, .2, .4], [0, 1, .5]])
  found = charts.task_map(_rows([4, 0, 0], [0, 4, 1]), record, _TASKS)
  assert found['tasks'] == ['two', 'three', 'one']
  assert (found['step'], found['window']) == (1, 1)
  np.testing.assert_array_equal(
      _cells(found, 0), [[51, 255], [102, 128], [0, 0]])
  np.testing.assert_array_equal(  # 255 log(1 + x) / log(1 + 4)
      _cells(found, 1), [[0, 255], [0, 110], [255, 0]])


def test_many_rounds_are_smoothed_and_have_few_columns():
  record = np.tile(np.arange(1700) % 2., (3, 1)).T
  found = charts.task_map(_rows(*[[1, 1, 1]] * 1700), record, _TASKS)
  assert (found['columns'], found['step'], found['window']) == (567, 3, 42)
  assert abs(_cells(found, 0).astype(int) - 127).max() <= 6


def test_slots_lie_in_the_band_of_what_was_known_before_the_round():
  record = np.array([[.2, .6, .7], [1, 1, 1]])
  found = charts.charts(_rows([1, 2, 4], [1, 2, 4]), record, {})
  shown = {chart['title']: [series['values'] for series in chart['series']]
           for chart in found}
  assert shown['Where slots went'] == [
      [[1, 7], [2, 1]], [[1, 0], [2, 2]], [[1, 0], [2, 4]]]
  assert shown['Failures by kind'] == [  # 8 - 3 failed, 2 of them late
      [[1, 3], [2, 3]], [[1, 2], [2, 2]], [[1, 1], [2, 1]]]
  assert 'Entropy' not in shown  # of which there is none


@pytest.mark.parametrize('rows, before, value, note', [
    ([], {}, '–', ''),
    (_rows([1, 1, 1], eval_success_rate=.504),
     {'a': {'success_rate': .25}, 'b': {'success_rate': None}}, '50 %',
     '25 % before training')])
def test_the_first_number_is_the_evaluation(rows, before, value, note):
  record = np.zeros((len(rows), 3))
  assert charts.tiles(rows, record, before)[0] == ('evaluation', value, note)
  assert charts.charts(rows, record, before) or not rows
