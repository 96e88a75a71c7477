"""Tests of the episodes of a round."""

import numpy as np

from experiments import collectors
from experiments import worlds


def _seeds(task_ids, base_ids):
  jobs = collectors.make_jobs(3, 7, np.array(task_ids), np.array(base_ids, int))
  assert [job.slot for job in jobs] == list(range(len(task_ids)))
  assert [job.task_id for job in jobs] == list(task_ids)
  return [job.seed for job in jobs]


def test_copies_of_a_task_start_alike_wherever_they_are():
  one, two = (worlds.training_seed(3, 7, task) for task in (1, 2))
  assert _seeds([1, 1, 2, 1], [1, 2]) == [one, one, two, one]
  assert _seeds([1, 2, 1, 1], []) == [one, two, one, one]


def test_a_base_task_that_comes_again_is_another_episode():
  one, again, third = (worlds.training_seed(3, 7, 1, *numbers)
                       for numbers in ((), (1,), (2,)))
  two = worlds.training_seed(3, 7, 2)
  assert len({one, again, third, two}) == 4
  seeds = _seeds([1, 1, 2, 1, 1, 1, 1, 2], [1, 2, 1, 1])
  assert seeds == [one, one, two, one, again, again, third, two]
