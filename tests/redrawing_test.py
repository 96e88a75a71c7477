"""Tests of rounds that are collected in two waves, for `dapo`."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.rollout import collect as collect_lib
from step_jax.rollout import episodes
from step_jax.rollout import redrawing
from tests import examples

TASKS, BASE, GROUP, STEPS = 6, 4, 4, 3


def _redraw(base_ids, kept, later_ids, num_tasks=TASKS):
  return redrawing.redraw_tasks(
      np.array(base_ids, np.int32), set(kept), iter(later_ids),
      num_tasks).tolist()


def _play(rates, waves, seed=0, lost=0.):
  """Plays by success rates; lists (key, task ids) of the waves."""
  def play(key, task_ids):
    waves.append((jax.random.key_data(key).tolist(), task_ids.tolist()))
    rng = np.random.default_rng([seed, len(waves)])
    trajectory = examples.trajectory(len(waves), task_ids, STEPS, lost=lost)
    successes = rng.random(len(task_ids)) < np.asarray(rates)[task_ids]
    return collect_lib.Collection(trajectory.replace(
        successes=successes, returns=successes.astype(np.float32)),
        100 * len(waves), len(waves), f'wave {len(waves)}' if lost else '')
  return play


def _collect(base_ids, play, key=0):
  return redrawing.collect(
      jax.random.key(key), np.array(base_ids, np.int32),
      episodes.task_order(3, 1, BASE, TASKS), play, group_size=GROUP,
      num_tasks=TASKS)


def test_redraw_golden():
  # Tasks 3, 4, 0 and 2 give up a half each: two groups. Next in the order is
  # 4, which was given up, then 5 and 1.
  assert _redraw([3, 1, 4, 0, 2], {1}, [4, 5, 3, 1, 5]) == [5, 1, 5, 1, 1]
  # Three halves are a group and a half.
  assert _redraw([3, 1, 4, 0], {1}, [5, 2]) == [5, 1, 5, 2]
  # With whole groups for all, nothing is redrawn.
  assert _redraw([3, 1], {1, 3}, [5]) == [3, 1]


def test_redrawn_tasks_may_be_of_the_round():
  """Where a round holds every task, those that have spread get more."""
  assert _redraw([0, 1, 2], {1}, [2, 0, 1, 1], num_tasks=3) == [1, 1, 1]


def test_without_any_other_task_nothing_is_redrawn():
  assert _redraw([0, 1, 2, 0], {}, itertools.cycle([0, 1, 2]), 3) == [
      0, 1, 2, 0]
  assert _redraw([0], {}, itertools.repeat(0), 1) == [0]


def test_a_task_that_comes_twice_is_given_up_as_one():
  assert _redraw([2, 0, 2], {0}, [2, 4]) == [4, 0, 4]


@pytest.mark.parametrize('seed', range(20))
def test_redraw_by_hand(seed):
  """The rule once more, slot by slot."""
  rng = np.random.default_rng(seed)
  base_ids = rng.integers(TASKS, size=7)
  kept = {task for task in range(TASKS) if rng.random() < .4}
  later = rng.integers(TASKS, size=400).tolist()
  given_up = [task for task in base_ids.tolist() if task not in kept]
  expected, position, free = [], 0, 0
  for task in base_ids.tolist():
    if task in kept or len(set(given_up)) == TASKS:
      expected.append(task)
      continue
    if free % 2 == 0:
      while later[position] in given_up:
        position += 1
      drawn = later[position]
      position += 1
    free += 1
    expected.append(drawn)
  assert _redraw(base_ids, kept, later) == expected


def test_spread_is_of_valid_trajectories():
  trajectory = examples.trajectory(
      0, [0, 0, 1, 1, 2, 2, 3, 3, 0, 4, 5, 5], STEPS).replace(
          returns=np.array(
              [1, 1, 0, 1, 0, 1, 0, 0, 0, 1, .95, .95], np.float32),
          valid=np.array([1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool))
  # Task 0 differs between two places; of 2 one is lost; 4 was run once.
  assert redrawing.tasks_with_spread(trajectory) == {0, 1}
  nothing = trajectory.replace(valid=np.zeros(12, bool))
  assert redrawing.tasks_with_spread(nothing) == set()


@pytest.mark.parametrize('lost', [0., .3])
@pytest.mark.parametrize('seed', range(5))
def test_a_round_is_two_waves_of_the_same_size(seed, lost):
  base_ids = np.random.default_rng(seed).permutation(TASKS)[:BASE]
  waves = []
  collection = _collect(
      base_ids, _play([0, .5, 1, .5, .5, .5], waves, seed, lost))
  (first_key, first), (second_key, second) = waves
  assert first_key != second_key  # the same task is not played alike
  trajectory = collection.trajectory
  assert len(first) == len(second) == BASE * GROUP // 2
  assert collection[1:5] == (
      100 + 200, 1 + 2, 'wave 2' if lost else '', None)
  # By slots: the first half of base task q, then what its second half became.
  slots = trajectory.task_ids.reshape(BASE, GROUP)
  np.testing.assert_array_equal(
      slots[:, :2], np.repeat(base_ids[:, None], 2, axis=1))
  np.testing.assert_array_equal(slots[:, :2].ravel(), first)
  np.testing.assert_array_equal(slots[:, 2:].ravel(), second)
  halves = trajectory.returns.reshape(BASE, GROUP)[:, :2]
  where = trajectory.valid.reshape(BASE, GROUP)[:, :2]
  given_up = set()
  for q, task in enumerate(base_ids.tolist()):
    if len(set(halves[q][where[q]])) > 1:
      assert (slots[q] == task).all()
    else:
      given_up.add(task)
  assert given_up and not given_up & set(second)


def test_every_array_is_joined_by_slots():
  """What slot q*G + k holds was played in its wave at place q*G/2 + k."""
  played = []

  def play(key, task_ids):
    del key
    number = 1000. * len(played) + np.arange(len(task_ids))
    trajectory = examples.trajectory(0, task_ids, STEPS, observations={
        'x': np.tile(number[:, None, None], (1, STEPS, 2))})
    played.append(trajectory.replace(returns=number))
    return collect_lib.Collection(played[-1], 0, 0)

  trajectory = _collect([0, 1, 2, 3], play).trajectory
  expected = [0, 1, 1000, 1001, 2, 3, 1002, 1003, 4, 5, 1004, 1005,
              6, 7, 1006, 1007]
  np.testing.assert_array_equal(trajectory.returns, expected)
  np.testing.assert_array_equal(
      trajectory.observations['x'][:, 2, 1], expected)
  for actual, first in zip(
      jax.tree.leaves(trajectory), jax.tree.leaves(played[0])):
    assert actual.shape == (BASE * GROUP,) + first.shape[1:]
    assert actual.dtype == first.dtype


def test_a_round_is_a_function_of_its_key_and_the_outcomes():
  rounds = [_collect([5, 1, 0, 2], _play(TASKS * [.5], [])) for _ in range(2)]
  assert all(x.tobytes() == y.tobytes() for x, y in zip(
      *(jax.tree.leaves(x.trajectory) for x in rounds), strict=True))


def test_a_jitted_simulator_compiles_once_for_both_waves():
  traces = []

  @jax.jit
  def simulate(key, task_ids):
    traces.append(task_ids.shape)
    keys = jax.random.split(key, task_ids.shape[0])
    return jax.vmap(lambda k, task: jax.random.uniform(k) < task / TASKS)(
        keys, task_ids)

  def play(key, task_ids):
    successes = simulate(key, jnp.asarray(task_ids))
    return collect_lib.Collection(examples.trajectory(
        0, task_ids, STEPS, lost=0).replace(
            successes=successes, returns=successes.astype(jnp.float32)), 0, 0)

  redrawn = 0
  for key in range(4):
    trajectory = _collect([0, 1, 4, 5], play, key).trajectory
    assert isinstance(trajectory.successes, np.ndarray)
    redrawn += (trajectory.task_ids != np.repeat([0, 1, 4, 5], GROUP)).sum()
  assert traces == [(BASE * GROUP // 2,)] and redrawn > 0
