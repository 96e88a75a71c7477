"""A round on many machines as events; `fleet` asks it what would be.

Environments take their time and break, servers answer so many rows at once, a
learner takes its time, all in the order of `collect`, `Ahead` and `closing`: a
clock jumps from event to event. Nothing of what processes, pictures and sockets
cost is in it.
"""

import collections
import dataclasses
import heapq
from typing import Callable, NamedTuple, Sequence

import numpy as np

_RETRIES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
  """What there is; times are seconds."""
  environments: int
  slots: int  # episodes of a round
  steps: int  # of an episode
  latency: Callable[[int, int], float]  # of (episode, operation); 0 resets
  channels: int = 1  # that answer at the same time, each a batch
  batch: int = 1  # rows of an answer, at most
  is_local: bool = False  # nothing is heard while an answer is computed
  answer: float = 0.  # that a channel is taken by an answer
  delay: float = 0.  # from then on, until the answer is there
  update: float = 0.
  lag: int = 0
  close_at: float = 1.
  close_after: float = 0.
  failure: float = 0.  # probability, of each operation
  restart: float = 0.


class Result(NamedTuple):
  """Seconds of all rounds and of playing, and shares of them without work."""
  seconds: float
  rollout: float
  environments: float  # idle, or waiting for an action
  channels: float
  learner: float
  closed: float  # share of the slots
  lost: float  # share of the slots


@dataclasses.dataclass
class _Episode:
  number: int  # of the run
  operation: int = 0  # that is done next, or is being done
  attempt: int = 0


class _Rounds:
  """The environments and channels of a run; goes on from round to round."""

  def __init__(self, fleet: Fleet):
    self.fleet = fleet
    self.acting = self.answering = 0.  # seconds
    self.closed = self.lost = 0  # episodes
    self._rng = np.random.default_rng(0)
    self._events: list = []  # heap of (time, order, kind, what)
    self._order = 0
    self._queue: collections.deque[_Episode] = collections.deque()
    self._waiting: list = []  # heap of (turns, order, environment, episode)
    self._free = list(range(fleet.environments))
    self._turns = [0] * fleet.environments
    self._channels, self._asked = fleet.channels, 0

  def play(self, number: int, now: float, closes: bool) -> float:
    """Plays a round from `now` on; returns when it is over."""
    fleet = self.fleet
    first = number * fleet.slots
    self._queue.extend(
        _Episode(first + slot) for slot in range(fleet.slots))
    self._turns = [0] * fleet.environments
    self._waiting = [(0, *row[1:]) for row in sorted(self._waiting)]
    playing, closes_at = fleet.slots, np.inf
    while True:
      while self._free and self._queue:
        self._operate(now, self._free.pop(0), self._queue.popleft())
      if closes and fleet.slots - playing >= fleet.close_at * fleet.slots:
        closes_at = min(closes_at, now + fleet.close_after)
      is_closed = closes and (not playing or now >= closes_at)
      # What is due is heard before anything is asked.
      if not self._events or self._events[0][0] > now:
        if not is_closed and self._waiting and self._channels:
          now = self._ask(now)
          continue
        if is_closed and not self._asked or not self._events:
          self.closed += playing
          return now
        if now < closes_at < self._events[0][0]:
          now = closes_at
          continue
      due, _, kind, what = heapq.heappop(self._events)
      now = max(now, due)  # What was due between rounds is heard as one begins.
      if kind == 'read':
        self._channels += 1
        self._push(now + fleet.delay, 'answered', what)
      elif kind == 'answered':
        self._asked -= 1
        self._act(now, what)
      else:
        ended = self._hear(kind, *what)
        playing -= ended is not None and ended.number >= first

  def _push(self, due: float, kind: str, what: object) -> None:
    self._order += 1  # of two at once, the first one first
    heapq.heappush(self._events, (due, self._order, kind, what))

  def _operate(self, now: float, environment: int, episode: _Episode) -> None:
    """Begins a reset or a step."""
    kind, seconds = 'acted', self.fleet.latency(
        episode.number, episode.operation)
    if self._rng.random() < self.fleet.failure:
      kind, seconds = 'broken', self.fleet.restart
    self.acting += seconds
    self._push(now + seconds, kind, (environment, episode))

  def _hear(self, kind: str, environment: int, episode: _Episode
            ) -> _Episode | None:
    """An operation is over; returns an episode that has ended."""
    if kind == 'acted' and episode.operation < self.fleet.steps:
      episode.operation += 1
      self._order += 1
      heapq.heappush(self._waiting, (
          self._turns[environment], self._order, environment, episode))
      return None
    self._free.append(environment)
    if kind == 'broken':
      episode.operation, episode.attempt = 0, episode.attempt + 1
      if episode.attempt <= _RETRIES:
        self._queue.append(episode)
        return None
      self.lost += 1
    return episode

  def _ask(self, now: float) -> float:
    """Asks for those first that have played least; returns when it is done."""
    rows = [heapq.heappop(self._waiting) for _ in range(
        min(self.fleet.batch, len(self._waiting)))]
    self.answering += self.fleet.answer
    if self.fleet.is_local:
      self._act(now + self.fleet.answer, rows)
      return now + self.fleet.answer
    self._channels, self._asked = self._channels - 1, self._asked + 1
    self._push(now + self.fleet.answer, 'read', rows)
    return now

  def _act(self, now: float, rows: list) -> None:
    """Sends actions."""
    for _, _, environment, episode in rows:
      self._turns[environment] += 1
      self._operate(now, environment, episode)


def predict(fleet: Fleet, num_rounds: int) -> Result:
  """Plays and learns `num_rounds` rounds."""
  played = _Rounds(fleet)
  start = learned = rollout = 0.
  for number in range(num_rounds):
    over = played.play(number, start, fleet.close_at < 1 and (
        number + 1 < num_rounds))
    rollout += over - start
    begins = max(over, learned)
    learned = begins + fleet.update
    start = begins if fleet.lag else learned
  total = fleet.slots * num_rounds
  return Result(
      learned, rollout,
      1 - played.acting / (fleet.environments * learned),
      1 - played.answering / (fleet.channels * learned),
      1 - num_rounds * fleet.update / learned, played.closed / total,
      played.lost / total)


def make_latency(
    episodes: int, steps: int, *, step: float, reset: float, sigma: float,
    found: Sequence[float] = ()) -> Callable[[int, int], float]:
  """Seconds of every reset and step: log-normal, or steps as `found`."""
  rng = np.random.default_rng(0)
  times = rng.lognormal(-sigma**2 / 2, sigma, (episodes, steps + 1))
  times *= [reset] + [step] * steps
  if len(found):
    times[:, 1:] = rng.choice(found, (episodes, steps))
  rows = times.tolist()  # of which single numbers are read sooner
  return lambda episode, operation: rows[episode][operation]


def others(fleet: Fleet) -> dict[str, Fleet]:
  """The fleet, and those with more of one thing."""
  changes = {
      'as asked': {},
      'environments': {'environments': 2 * fleet.environments},
      'servers': {'channels': 2 * fleet.channels},
      'learner': {'update': fleet.update / 2},
      'lag 1': {'lag': 1},
      'closing at 0.95': {'close_at': .95}}
  return {name: dataclasses.replace(fleet, **change)
          for name, change in changes.items()}
