"""Tests of task order, seeds and the jobs of a round."""

import numpy as np
import pytest

from step_jax.rollout import episodes


def _seeds(task_ids, base_ids):
  jobs = episodes.make_jobs(3, 7, np.array(task_ids), np.array(base_ids, int))
  assert [job.slot for job in jobs] == list(range(len(task_ids)))
  assert [job.task_id for job in jobs] == list(task_ids)
  return [job.seed for job in jobs]


def test_copies_of_a_task_start_alike_wherever_they_are():
  one, two = (episodes.training_seed(3, 7, task) for task in (1, 2))
  assert _seeds([1, 1, 2, 1], [1, 2]) == [one, one, two, one]
  assert _seeds([1, 2, 1, 1], []) == [one, two, one, one]


def test_a_base_task_that_comes_again_is_another_episode():
  one, again, third = (episodes.training_seed(3, 7, 1, *numbers)
                       for numbers in ((), (1,), (2,)))
  two = episodes.training_seed(3, 7, 2)
  assert len({one, again, third, two}) == 4
  seeds = _seeds([1, 1, 2, 1, 1, 1, 1, 2], [1, 2, 1, 1])
  assert seeds == [one, one, two, one, again, again, third, two]


def _stream(seed, num_base_tasks, num_tasks, num_rounds):
  return np.concatenate([
      episodes.base_task_ids(seed, i, num_base_tasks, num_tasks)
      for i in range(num_rounds)])


@pytest.mark.parametrize('num_base_tasks, num_tasks', [
    (4, 4), (3, 7), (7, 3), (5, 1), (1, 5), (16, 16)])
def test_base_tasks_are_blocks_of_permutations(num_base_tasks, num_tasks):
  stream = _stream(3, num_base_tasks, num_tasks, 3 * num_tasks)
  epochs = stream.reshape(-1, num_tasks)  # 3 * Q whole epochs
  assert len(epochs) == 3 * num_base_tasks
  np.testing.assert_array_equal(
      np.sort(epochs), np.tile(np.arange(num_tasks), (len(epochs), 1)))
  if num_tasks > 4:
    assert len({tuple(epoch) for epoch in epochs}) > 1  # shuffled anew


def test_a_block_spans_two_epochs():
  """verl #5725, #7401: what is resumed at an epoch's end."""
  stream = _stream(0, 3, 7, 7)
  block = episodes.base_task_ids(0, 2, 3, 7)  # positions 6, 7, 8
  np.testing.assert_array_equal(block, stream[6:9])
  np.testing.assert_array_equal(stream[:7][-1], block[0])
  assert block.dtype == np.int32


def test_the_order_is_that_of_seed_and_epoch_whatever_the_block_size():
  streams = [_stream(5, q, 6, 12 // q) for q in (1, 2, 3, 4, 6, 12)]
  for stream in streams[1:]:
    np.testing.assert_array_equal(stream, streams[0])
  assert (streams[0] != _stream(6, 12, 6, 1)).any()


def test_the_order_goes_on_from_a_round():
  stream = _stream(3, 3, 7, 9)
  for first in (0, 2):
    order = episodes.task_order(3, first, 3, 7)
    actual = [next(order) for _ in range(20)]
    assert actual == stream[3 * first:][:20].tolist()


def test_seeds_are_of_seed_round_and_task_alone():
  seeds = {
      (seed, index, task): episodes.training_seed(seed, index, task)
      for seed in range(3) for index in range(20) for task in range(20)}
  assert len(set(seeds.values())) == len(seeds)
  assert episodes.training_seed(2, 7, 11) == seeds[2, 7, 11]


def test_evaluation_seeds_are_disjoint_from_training_seeds():
  training = {
      episodes.training_seed(seed, index, 0)
      for seed in (0, 1, 2**31) for index in range(2000)}
  evaluation = [episodes.eval_seed(i) for i in range(1000)]
  assert len(set(evaluation)) == 1000
  assert min(training) >= 0
  assert max(training) < episodes.FIRST_EVAL_SEED <= min(evaluation)
  assert max(evaluation) < 2**31  # what environments take


def test_a_fixed_task_is_one_instance_of_its_name():
  names = [f'task-{i}' for i in range(369)]
  seeds = [episodes.fixed_seed(name) for name in names]
  assert len(set(seeds)) == len(seeds)
  assert 0 <= min(seeds) and max(seeds) < episodes.FIRST_EVAL_SEED
  jobs = episodes.make_fixed_jobs(np.array([2, 0, 2]), names)
  assert [tuple(job[:3]) for job in jobs] == [
      (0, 2, seeds[2]), (1, 0, seeds[0]), (2, 2, seeds[2])]
  others = episodes.make_fixed_jobs(np.array([0]), names[2:])
  assert others[0].seed == seeds[2], 'whatever its number is'
