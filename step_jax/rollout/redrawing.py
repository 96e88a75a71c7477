"""Dynamic sampling within a round's budget of trajectories (`dapo`, method 5).

DAPO (arXiv 2503.14476) samples until its batch is full of groups with spread,
at whatever cost. Here a round costs Q*G trajectories, those without a signal
included, as for every other method.
"""

from collections.abc import Callable, Iterable

import chex
import jax
import numpy as np

from step_jax.algorithm import types
from step_jax.rollout import collect as collect_lib


def collect(
    rng_key: chex.PRNGKey,
    base_ids: np.ndarray,
    later_ids: Iterable[int],
    play: Callable[[chex.PRNGKey, np.ndarray], collect_lib.Collection],
    *,
    group_size: int,
    num_tasks: int,
) -> collect_lib.Collection:
  """Collects a round in two waves of Q*G/2 trajectories.

  Every base task plays half of its G slots; a task whose outcomes so far are
  all equal gives up the other half, and every two halves that are given up
  become a group of the next task of the task order that was not.

  Args:
    rng_key: key of the round.
    base_ids: `[Q]` int.
    later_ids: the task order from the next round on, without end. What is
      taken from it is not used up: the next round begins there all the same.
    play: `(key, task_ids [Q*G/2])` -> `Collection`, one slot for each.
    group_size: G, even.
    num_tasks: N.

  Returns:
    Q*G trajectories; slots q*G .. q*G + G/2 - 1 are the first half of base
    task q, those up to (q+1)*G - 1 are its second half or were redrawn.
  """
  first_key, second_key = jax.random.split(rng_key)
  copies = group_size // 2
  first = play(first_key, np.repeat(base_ids, copies))
  redrawn_ids = redraw_tasks(
      base_ids, tasks_with_spread(first.trajectory), later_ids, num_tasks)
  second = play(second_key, np.repeat(redrawn_ids, copies))

  def join(*halves):
    joined = np.concatenate(
        [x.reshape((-1, copies) + x.shape[1:]) for x in halves], axis=1)
    return joined.reshape((-1,) + joined.shape[2:])

  return collect_lib.Collection(
      jax.tree.map(join, first.trajectory, second.trajectory),
      first.environment_steps + second.environment_steps,
      first.environment_failures + second.environment_failures,
      second.lost_to or first.lost_to,
      first.notes and second.notes
      and jax.tree.map(join, first.notes, second.notes))


def tasks_with_spread(trajectory: types.Trajectory) -> set[int]:
  """Tasks of which two valid trajectories have different returns."""
  outcomes = set(zip(
      trajectory.task_ids[trajectory.valid].tolist(),
      trajectory.returns[trajectory.valid].tolist()))
  tasks = [task for task, _ in outcomes]
  return {task for task in tasks if tasks.count(task) > 1}


def redraw_tasks(
    base_ids: np.ndarray,
    kept: set[int],
    later_ids: Iterable[int],
    num_tasks: int,
) -> np.ndarray:
  """Tasks of the second halves; see `collect`.

  Args:
    base_ids: `[Q]` int.
    kept: tasks that keep their second half.
    later_ids: the task order from the next round on, without end.
    num_tasks: N.

  Returns:
    `[Q]`; all of `base_ids` if every one of the N tasks was given up.
  """
  task_ids = base_ids.copy()
  given_up = set(base_ids.tolist()) - kept
  if len(given_up) == num_tasks:
    return task_ids
  free = [q for q, task in enumerate(base_ids.tolist()) if task in given_up]
  others = (task for task in later_ids if task not in given_up)
  for start, task in zip(range(0, len(free), 2), others):
    task_ids[free[start:start + 2]] = task
  return task_ids
