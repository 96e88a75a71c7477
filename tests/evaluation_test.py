"""Tests of evaluations: which episodes there are, and what is counted."""

import io

import jax
import numpy as np
from rich import console

from step_jax.algorithm import types
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import episodes as episodes_lib
from step_jax.runs import evaluation

_PLAYER = collect_lib.Player({}, jax.random.key(0), 0.)


def _evaluate(successes, valid, tasks=('a', 'b', 'c'), scores=None):
  """The evaluation of outcomes `[N, episodes]`, and the jobs it asked for."""
  asked = []

  def collect(jobs, player):
    assert player is _PLAYER
    asked.extend(jobs)
    size = len(jobs)
    return collect_lib.Collection(types.Trajectory(
        task_ids=np.array([job.task_id for job in jobs]), observations={},
        actions=np.zeros((size, 1, 1), np.int32),
        log_probs=np.zeros((size, 1, 1)),
        token_mask=np.ones((size, 1, 1), bool),
        step_mask=np.ones((size, 1), bool), returns=np.zeros(size),
        successes=np.array(successes, bool).ravel(),
        valid=np.array(valid, bool).ravel()), size, 0,
        notes=scores and collect_lib.make_notes(jobs, scores=scores))

  result = evaluation.evaluate(
      tasks, _PLAYER, collect, draws=np.shape(valid)[1])
  return result, asked


def test_every_task_is_played_from_the_same_seeds():
  _, jobs = _evaluate(np.zeros((3, 2)), np.ones((3, 2)))
  first = episodes_lib.FIRST_EVAL_SEED
  assert [tuple(job) for job in jobs] == [
      (0, 0, first, False), (1, 0, first + 1, False),
      (2, 1, first, False), (3, 1, first + 1, False),
      (4, 2, first, False), (5, 2, first + 1, False)]


def test_lost_episodes_are_neither_solved_nor_counted():
  # a: 2 of 4; b: 1 of the 2 that were not lost, although a lost one says that
  # it was solved; c: all are lost.
  result, _ = _evaluate(
      [[1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]],
      [[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]])
  assert result == {
      'a': {'success_rate': .5, 'episodes': 4},
      'b': {'success_rate': .5, 'episodes': 2},
      'c': {'success_rate': None, 'episodes': 0}}
  np.testing.assert_array_equal(evaluation.success_rates(result), [.5, .5])


def test_results_are_laid_out_as_osworld_s(tmp_path):
  for valid, found in (([[1, 1], [1, 0]], {'os/a': .5, 'vlc/b': 1.}),
                       ([[1, 1], [0, 0]], {'os/a': .5})):
    result, _ = _evaluate([[1, 0], [1, 0]], valid, tasks=('a', 'b'))
    evaluation.write_results(tmp_path / 'model', result, ('os', 'vlc'))
    assert {str(path.parent.relative_to(tmp_path / 'model')):
            float(path.read_text())
            for path in tmp_path.glob('*/*/*/result.txt')} == found


def test_results_have_parts_of_a_score(tmp_path):
  # a: (1 + .25) / 2, of which one was solved; b: one of two was lost, and the
  # score of a lost episode counts as little as its reward; c: none has a score.
  result, _ = _evaluate(
      [[1, 0], [0, 0], [1, 0]], [[1, 1], [1, 0], [1, 1]],
      scores={0: 1., 1: .25, 2: .5, 3: 1.})
  assert [row['success_rate'] for row in result.values()] == [.5, 0., .5]
  assert [row.get('score') for row in result.values()] == [.625, .5, None]
  result['vlc/c'] = result.pop('c')  # where another domain has its id, too
  evaluation.write_results(tmp_path, result, ('os', 'os', 'vlc'))
  assert {str(path.parent.relative_to(tmp_path)): path.read_text()
          for path in tmp_path.rglob('result.txt')} == {
              'os/a': '0.625\n', 'os/b': '0.5\n', 'vlc/c': '0.5\n'}


def test_tasks_above_60_are_above():
  # 3 of 5 is 60 %, and not above; 4 of 5 is; the third task was lost.
  result, _ = _evaluate(
      [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [0] * 5], [[1] * 5, [1] * 5, [0] * 5])
  file = io.StringIO()
  console.Console(file=file, width=80).print(
      evaluation.make_table(None, result))
  rows = [[cell.strip() for cell in line.split('│')[1:-1]]
          for line in file.getvalue().splitlines() if line.count('│') == 4]
  assert {name: cells for name, *cells in rows} == {
      'a': ['60 %', '5'], 'b': ['80 %', '5'], 'c': ['-', '0'],
      'tasks above 60 %': ['1 of 2', ''], 'mean': ['70 %', '10']}
