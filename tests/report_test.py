"""Tests of the pictures: they are there, and they show something."""
import matplotlib.image
import numpy as np
import pytest

from step_jax.runs import report

_TASKS = ('one', 'two', 'three')


def _rows(num_rounds, **changed):
  return [
      {'round': i, 'success_rate': i / 9, 'slots_per_task': [i, 4 - i, 2]}
      | changed for i in range(num_rounds)]


def _pixels(path):
  pixels = matplotlib.image.imread(path)
  assert min(pixels.shape[:2]) > 200
  return pixels


@pytest.mark.parametrize('rows', [
    _rows(1), _rows(4), _rows(3, success_rate=None, eval_success_rate=None)])
def test_pictures_are_drawn(tmp_path, rows):
  paths = report.write_report(tmp_path / 'report', rows, _TASKS)
  assert [path.name for path in paths] == [
      'learning_curve.png', 'signals.png', 'slots_per_task.png']
  for path in paths:
    assert np.std(_pixels(path)) > .01


def test_the_curve_shows_evaluations(tmp_path):
  without = report.write_report(tmp_path / 'a', _rows(4), _TASKS)
  rows = _rows(4)
  rows[1]['eval_success_rate'] = rows[3]['eval_success_rate'] = .5
  given = report.write_report(
      tmp_path / 'b', rows, _TASKS, initial_success_rate=.25)
  pixels = [_pixels(paths[0]) for paths in (without, given)]
  assert (pixels[0] != pixels[1]).any()
  # Three blue points on the line of evaluations, which is blue as well.
  blue = np.isclose(pixels[1][..., :3], [31/255, 119/255, 180/255], atol=.01)
  assert blue.all(axis=-1).sum() > 1000
  np.testing.assert_array_equal(_pixels(without[2]), _pixels(given[2]))


def test_evaluations_stand_behind_the_rounds_that_led_to_them():
  rows = _rows(4)
  rows[1]['eval_success_rate'], rows[3]['eval_success_rate'] = .5, .75
  figure = report._learning_curve(rows, '', .25)
  sampled, evaluated = figure.axes[0].lines
  np.testing.assert_allclose(sampled.get_xdata(), [.5, 1.5, 2.5, 3.5])
  np.testing.assert_allclose(evaluated.get_xdata(), [0, 2, 4])
  np.testing.assert_allclose(evaluated.get_ydata(), [25, 50, 75])


def test_the_signals_are_drawn_where_there_are_any():
  rows = _rows(3, tasks_without_spread=.5, groups_without_spread=0.)
  rows[0]['entropy'], rows[2]['entropy'] = 1.5, .25  # none of round 1
  rows[1]['record_error'] = .125
  entropy, shares = report._signals(rows).axes
  line, = entropy.lines
  np.testing.assert_array_equal(line.get_xydata(), [[1, 1.5], [3, .25]])
  np.testing.assert_array_equal(
      [line.get_ydata().tolist() for line in shares.lines[:2]],
      [[.5] * 3, [0.] * 3])
  np.testing.assert_array_equal(shares.lines[2].get_xydata(), [[2, .125]])


def test_the_slots_show_where_the_effort_went(tmp_path):
  even = report.write_report(
      tmp_path / 'a', _rows(3, slots_per_task=[2, 2, 2]), _TASKS)
  uneven = report.write_report(
      tmp_path / 'b', _rows(3, slots_per_task=[6, 0, 0]), _TASKS)
  assert (_pixels(even[2]) != _pixels(uneven[2])).any()
