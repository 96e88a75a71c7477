"""Who can play: the workers of a pool, and what each place has failed at.

The state alone, without processes or jobs waiting: `workers` acts on it.
"""

from collections.abc import Iterator
import dataclasses
import math
import time
from typing import NamedTuple

_MIN_PAUSE, _MAX_PAUSE = 1.0, 60.0  # seconds before a start is tried again


class Job(NamedTuple):
  """One episode to be played; `slot` is the caller's own number for it."""
  slot: int
  task_id: int
  seed: int
  expert: bool = False   # Ask the environment for info['expert_action'].


@dataclasses.dataclass
class Worker:
  """A process: starting -> idle -> busy -> waiting -> busy -> ... -> idle."""
  serial: int
  state: str = 'starting'
  pid: int | None = None
  warm: bool = False   # a reset has succeeded
  limit: float = math.inf   # seconds for the current operation
  deadline: float = math.inf
  job: Job | None = None
  attempt: int = 0

  def expect(self, limit: float) -> None:
    """Starts the clock of an answer due within `limit` seconds."""
    self.limit = limit
    self.deadline = time.monotonic() + limit

  def rest(self, state: str) -> None:
    """Owes no answer: 'idle', or 'waiting' for an action."""
    self.state = state
    self.deadline = math.inf


class Crew:
  """The places of a pool, each with a worker or None.

  A place is sick if a start or a first reset failed there, and no reset came
  since. It is started again after a pause that grows, or at once while nobody
  else can play.

  Args:
    size: number of places.
  """

  def __init__(self, size: int):
    self.workers: list[Worker | None] = [None] * size
    self.any_ready = False   # an environment has existed
    self._pauses = [_MIN_PAUSE] * size
    self._retry_at = [0.0] * size

  def present(self) -> Iterator[tuple[int, Worker]]:
    """The workers that there are, with their places."""
    return ((index, worker) for index, worker in enumerate(self.workers)
            if worker is not None)

  def free(self) -> list[int]:
    """Places that are empty or whose worker is idle, those sick last."""
    return sorted(
        (index for index, worker in enumerate(self.workers)
         if worker is None or worker.state == 'idle'), key=self.is_sick)

  def is_sick(self, index: int) -> bool:
    """Whether a start or a first reset failed, and no reset came since."""
    return self._pauses[index] > _MIN_PAUSE

  def another_is_well(self, index: int) -> bool:
    """Whether there is another worker, in a place that is not sick."""
    return any(not self.is_sick(other) for other, _ in self._others(index))

  def another_can_play(self, index: int) -> bool:
    """Whether another is well, has started, or is among the first to start."""
    return self.another_is_well(index) or any(
        worker.state != 'starting' or not self.any_ready
        for _, worker in self._others(index))

  def may_start(self, index: int) -> bool:
    """Whether an empty place is to be tried by now."""
    return not self.another_can_play(index) or (
        time.monotonic() >= self._retry_at[index])

  def recovered(self, index: int) -> None:
    """Notes a reset."""
    self._pauses[index] = _MIN_PAUSE

  def put_off(self, index: int) -> None:
    """Notes a failure before any reset; the next pause is twice as long."""
    self._retry_at[index] = time.monotonic() + self._pauses[index]
    self._pauses[index] = min(2 * self._pauses[index], _MAX_PAUSE)

  def _others(self, index: int) -> Iterator[tuple[int, Worker]]:
    return (pair for pair in self.present() if pair[0] != index)
