"""Which episodes a round plays: base tasks, seeds, and one job for each slot.

All are functions of the run's seed and the round, so that a resumed run plays
what an uninterrupted one does. A task is 'fixed', one instance wherever it is
played, or 'drawn' anew each round; evaluation draws have seeds of their own.
"""

from collections.abc import Iterator, Sequence
import hashlib
import itertools

import numpy as np

from step_jax.rollout import workers

# Training episodes have seeds below, evaluation episodes from here on.
FIRST_EVAL_SEED = 2**30


def base_task_ids(
    seed: int, round_index: int, num_base_tasks: int, num_tasks: int
) -> np.ndarray:
  """Base tasks of a round: a block of an endless run of permutations.

  Args:
    seed: of the run.
    round_index: counted from 0.
    num_base_tasks: Q.
    num_tasks: N.

  Returns:
    `[Q]` int32; each epoch's permutation is derived from (seed, epoch).
  """
  positions = round_index * num_base_tasks + np.arange(num_base_tasks)
  epochs, index = np.divmod(positions, num_tasks)
  orders = {
      epoch: np.random.default_rng([seed, epoch]).permutation(num_tasks)
      for epoch in set(epochs.tolist())}
  return np.array(
      [orders[epoch][i] for epoch, i in zip(epochs.tolist(), index)], np.int32)


def task_order(
    seed: int, round_index: int, num_base_tasks: int, num_tasks: int
) -> Iterator[int]:
  """The base tasks of a round and of all that follow, one by one."""
  for later in itertools.count(round_index):
    yield from base_task_ids(seed, later, num_base_tasks, num_tasks).tolist()


def training_seed(seed: int, *numbers: int) -> int:
  """Environment seed of (seed, round, task): all copies start alike."""
  state = np.random.SeedSequence([seed, *numbers]).generate_state(1)
  return int(state[0]) % FIRST_EVAL_SEED


def eval_seed(episode: int) -> int:
  """Environment seed of an evaluation episode, the same for every run."""
  return FIRST_EVAL_SEED + episode


def fixed_seed(task: str) -> int:
  """Environment seed of a task that is one instance: of its name alone."""
  digest = hashlib.blake2b(task.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'big') % FIRST_EVAL_SEED


def make_fixed_jobs(
    task_ids: np.ndarray, tasks: Sequence[str]) -> list[workers.Job]:
  """A round's episodes where a task is one instance.

  Args:
    task_ids: `[B]` int.
    tasks: the names of all tasks.
  """
  seeds = [fixed_seed(task) for task in tasks]
  return [workers.Job(slot, task_id, seeds[task_id])
          for slot, task_id in enumerate(task_ids.tolist())]


def make_jobs(
    seed: int, round_index: int, task_ids: np.ndarray, base_ids: np.ndarray
) -> list[workers.Job]:
  """A round's episodes, drawn anew: all copies of a task start alike.

  But where a task is a base task of the round again, as there are fewer tasks
  than Q, the slots which that gives are copies of another episode.

  Args:
    seed: of the run.
    round_index: counted from 0.
    task_ids: `[B]` int.
    base_ids: `[Q]` int, each of which gives B / Q slots; `[0]` if there is to
      be one episode for each task.
  """
  repeats = [int(np.sum(base_ids[:q] == task))
             for q, task in enumerate(base_ids)]
  jobs = []
  for slot, task_id in enumerate(task_ids.tolist()):
    q = slot * len(base_ids) // len(task_ids)
    numbers = [task_id]
    if len(base_ids) and base_ids[q] == task_id and repeats[q]:
      numbers.append(repeats[q])
    jobs.append(workers.Job(
        slot, task_id, training_seed(seed, round_index, *numbers)))
  return jobs
