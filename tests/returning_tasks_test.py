"""A task that was lost, or mastered and forgotten, comes back.

Public reports of runs in which it does not: surogate #73, prime-rl #2667.
"""
import functools

import jax
import numpy as np

import step_jax
from step_jax.rollout import episodes

_GROUP_SIZE = 8
_BASE = np.arange(4)
_SAMPLER = step_jax.samplers.sr_traj(smoothing=functools.partial(
    step_jax.update_success_rate, group_size=_GROUP_SIZE))
_propose = jax.jit(functools.partial(
    _SAMPLER.propose, group_size=_GROUP_SIZE))
_update = jax.jit(_SAMPLER.update)


def test_a_task_that_is_forgotten_gets_its_slots_back():
  """One failure a round: s_hat 1, 7/8, .77, .67, .59, as (s - s/8) each."""
  record = np.float32([1., .5, .5, .5])
  slots = []
  for i in range(6):
    task_ids = np.asarray(_propose(jax.random.key(i), _BASE, record))
    slots.append((task_ids == 0).sum())
    assert task_ids[0] == 0  # it is always tried, so that it can be seen
    returns = np.where(task_ids == 0, 0., np.arange(task_ids.size) % 2)
    record = np.asarray(_update(
        record, task_ids, returns, where=np.ones(task_ids.size, bool)))
  assert slots[0] <= 2 and slots[-1] >= _GROUP_SIZE - 1
  assert record[0] < .6


def test_a_task_whose_episodes_are_lost_is_as_before_and_comes_again():
  record = np.float32([.3, .5, .5, .5])
  task_ids = np.repeat(_BASE, _GROUP_SIZE)
  after = np.asarray(_update(
      record, task_ids, np.ones(task_ids.size), where=task_ids != 0))
  assert after[0] == record[0] and (after[1:] > record[1:]).all()
  for epoch in range(3):  # of two rounds; what was lost is not remembered
    seen = [episodes.base_task_ids(0, 2 * epoch + i, 2, 4) for i in range(2)]
    assert sorted(np.concatenate(seen)) == [0, 1, 2, 3]
