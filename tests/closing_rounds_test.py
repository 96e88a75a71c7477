"""Tests of a run whose rounds close early: the record, and what is learned."""

import types

import jax
import numpy as np
import pytest

from experiments import checks
from experiments import collectors
from experiments import rounds
from experiments import setups
from experiments import worlds
from step_jax.algorithm import credit
from step_jax.rollout import ahead as ahead_lib
from step_jax.runs import errors
from step_jax.runs import fields
from step_jax.runs import progress as progress_lib
from tests import fake_config
from tests import fake_world


def _config(**changes):
  config = fake_config.get_config('trajectory_grpo')
  config.update_from_flattened_dict({
      'sampler': 'sr_traj', 'close_at': .75, 'close_after': 0.,
      'optimizer.importance_cap': 2., 'num_rounds': 4} | changes)
  checks.check_config(config)
  return config


@pytest.fixture(scope='module', name='setup')
def made_setup(tmp_path_factory):
  config = _config()
  return setups.make_setup(config, worlds.make_world(
      config, workdir=tmp_path_factory.mktemp('closing')))


def _run(setup, killed_before=0, **changes):
  """Rounds without files: collections, rows, records, sampler's states."""
  setup = setup._replace(config=_config(**changes))
  seen, rows, records, states = [], [], [], []
  with (progress_lib.RunProgress(4) as progress, ahead_lib.Ahead() as ahead):
    state = rounds.start(setup, setup.policy.init(jax.random.key(0)))
    for index in range(4):
      if index in (0, killed_before):
        pool = fake_world.LocalPool(setup.world.make_env, num_workers=8)
        collect = collectors._in_processes(
            setup, pool, progress, lambda: False)
      state, row = rounds.play_round(
          setup, state, index, collect,
          lambda number, collection, batch, record: seen.append(collection),
          ahead)
      rows.append(row)
      records.append(np.asarray(state.success_rate))
      states.append(np.asarray(state.sampler))
    assert not pool.pending
  return seen, rows, records, states


def _count(record, ids, won, smoothing):
  """The rule, a task at a time."""
  for task in set(ids.tolist()):
    n, u = (ids == task).sum(), won[ids == task].sum()
    if smoothing == 'ema':
      record[task] = (record[task] + u / n) / 2
    else:
      record[task] = (u + max(8 - n, 0) * record[task]) / max(n, 8)


@pytest.mark.parametrize('lag', [0, 1])
@pytest.mark.parametrize('smoothing', ['adaptive', 'ema'])
def test_the_record_counts_what_is_late_and_nothing_learns_from_it(
    setup, lag, smoothing, monkeypatch):
  assigned, assign = [], credit.assign_credit
  monkeypatch.setattr(
      credit, 'assign_credit',
      lambda trajectory, record, **options: (
          assigned.append((trajectory, record)),
          assign(trajectory, record, **options))[1])
  seen, rows, records, states = _run(setup, lag=lag, smoothing=smoothing)
  closed = [row['closed_slots'] for row in rows]
  late = [row['late_trajectories'] for row in rows]
  assert min(closed[:3]) > 0 == closed[3] and late[0] == 0
  assert sum(late) == sum(closed)  # Long episodes do not vanish.
  record = np.zeros(len(setup.world.tasks), np.float32)
  for collection, row, after, state, (trajectory, before) in zip(
      seen, rows, records, states, assigned, strict=True):
    played = collection.trajectory
    assert trajectory is played and len(played.valid) == 32
    assert row['valid_trajectories'] == 32 - row['closed_slots']
    assert not played.step_mask[~played.valid].any()
    late = collection.late
    _count(record, late.task_ids, late.returns > 0, smoothing)
    np.testing.assert_allclose(before, record, rtol=1e-6)
    _count(record, played.task_ids[played.valid],
           played.successes[played.valid], smoothing)
    np.testing.assert_allclose(after, record, rtol=1e-6)
    np.testing.assert_array_equal(state, after)
  assert {'closed_slots', 'late_trajectories'} <= rows[0].keys() & (
      fields.FIELDS.keys())


def test_before_an_evaluation_all_are_waited_for(setup):
  """So that whoever is killed then, and goes on, is the same run."""
  _, rows, records, _ = _run(setup, eval_every=2)
  closed = [row['closed_slots'] for row in rows]
  assert min(closed[::2]) > 0 == max(closed[1::2])
  assert [row['late_trajectories'] for row in rows] == [
      0, closed[0], 0, closed[2]]
  _, _, again, _ = _run(setup, 2, eval_every=2)
  np.testing.assert_array_equal(records, again)


def test_what_is_left_ends_with_the_process(setup):
  _, rows, _, _ = _run(setup, 2)
  closed, late = ([row[name] for row in rows] for name in (
      'closed_slots', 'late_trajectories'))
  assert closed[1] > 0 == late[2] and sum(late) < sum(closed)


def test_a_method_that_plays_twice_a_round_does_not_close():
  with pytest.raises(errors.UserError, match='close_at to be 1 .* dapo'):
    _config(method='dapo', sampler='')


@pytest.mark.parametrize('process_count, simulator', [(1, object()), (2, None)])
def test_where_nothing_is_late_a_round_does_not_close(
    process_count, simulator, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: process_count)
  setup = types.SimpleNamespace(
      config=_config(), world=types.SimpleNamespace(simulator=simulator))
  with pytest.raises(errors.UserError, match='close_at to be 1 .* got 0.75'):
    with collectors.open_collector(setup, None, None):
      pass
