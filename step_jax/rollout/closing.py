"""Rounds that close before their last episodes have ended.

What is left goes on: its environment finishes the step that it is at while the
round is learned from, and its further actions are chosen in the next round, by
the policy of then. Nothing is learned from it, but how it ends is told, since
a record of those that end early knows too few of the long ones.
"""

from collections.abc import Callable, Sequence
import math
import time
from typing import Any, NamedTuple

import numpy as np

from step_jax.rollout import crew


class Late(NamedTuple):
  """Episodes that earlier rounds have left, and that ended in this one."""
  task_ids: np.ndarray  # [M] int32
  returns: np.ndarray  # [M] float32


NONE = Late(np.zeros(0, np.int32), np.zeros(0, np.float32))


class Left(NamedTuple):
  """An episode that a round has left in its environment."""
  number: int  # by which the pool knows it
  job: crew.Job
  step_mask: np.ndarray  # [T] bool
  history: Any  # None before the first step
  shown: Any  # the `workers.Event` that waits for an action, or None


class Stragglers:
  """When rounds close, and what they have left.

  Args:
    share: of a round's slots that have to have ended.
    seconds: that it waits for the others from then on.
    clock: seconds.
  """

  def __init__(self, share: float = 1., seconds: float = math.inf,
               clock: Callable[[], float] = time.monotonic):
    self._share, self._seconds, self._clock = share, seconds, clock
    self._left: list[Left] = []
    self._closes_at = math.inf

  def begin(
      self, jobs: Sequence[crew.Job]) -> tuple[dict[int, crew.Job], list[Left]]:
    """Begins a round.

    Args:
      jobs: slots 0 .. B-1.

    Returns:
      The jobs by a number that the pool has for no other, and what is left of
      earlier rounds.
    """
    left, self._left = self._left, []
    self._closes_at = math.inf
    first = max((one.number + 1 for one in left), default=0)
    return {first + job.slot: job for job in jobs}, left

  def remaining(self, ended: int, total: int) -> float:
    """Seconds until the round closes of whose slots so many have ended."""
    if ended == total:
      return 0.
    now = self._clock()
    if ended >= self._share * total:
      self._closes_at = min(self._closes_at, now + self._seconds)
    return max(self._closes_at - now, 0.)

  def leave(self, left: Sequence[Left]) -> None:
    """Keeps what the next round goes on with."""
    self._left = list(left)
