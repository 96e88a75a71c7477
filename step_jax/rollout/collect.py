"""Collecting trajectories: what waits for an action is asked of an actor.

The loop never waits for a particular environment, nor for the actor while
environments report. An actor elsewhere is asked for everything that waits, and
its answers are sent on as they come. The policy in this process answers in
calls of a fixed shape: the actions of a call are sent, and what has happened
meanwhile is heard, before the next. Where more wait than a call answers, those
that have played least go first (a round lasts as long as the last of them),
then those that wait longest. Everything is stored by slot, and a retried
episode is the same episode, since keys are a function of (seed, round, slot,
step) alone.
"""

import collections
from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from step_jax.algorithm import types
from step_jax.policies import base
from step_jax.rollout import closing
from step_jax.rollout import workers
from step_jax.rollout.actors import base as actors

POLL_SECONDS = 0.5  # how often a request to stop is looked at
_TURN_SECONDS = 0.005  # for environments, then for the actor, if both may speak

Player = actors.Player
Rows = actors.Rows


class Progress(NamedTuple):
  """What a person wants to see while trajectories are collected."""
  finished: int  # trajectories that ended or were lost
  succeeded: int
  total: int


class Notes(NamedTuple):
  """What people want to know of trajectories, arrays of numpy."""
  seeds: np.ndarray  # [B] int64, the environment's
  instructions: np.ndarray  # [B] str, '' where the environment tells none
  losses: np.ndarray  # [B] str, what a trajectory was lost to, or ''
  # [B] float32, what an evaluator that gives parts of a reward gave, or NaN.
  scores: np.ndarray


def make_notes(
    jobs: Sequence[workers.Job], instructions: dict[int, str] | None = None,
    losses: dict[int, str] | None = None,
    scores: dict[int, float] | None = None) -> Notes:
  """Notes on slots 0 .. B-1, of texts and scores by slot."""
  seeds = np.zeros(len(jobs), np.int64)
  seeds[[job.slot for job in jobs]] = [job.seed for job in jobs]
  told, lost = (
      np.array([(texts or {}).get(slot, '') for slot in range(len(jobs))], str)
      for texts in (instructions, losses))
  given = np.full(len(jobs), np.nan, np.float32)
  for slot, score in (scores or {}).items():
    if slot < len(jobs):
      given[slot] = score
  return Notes(seeds, told, lost, given)


class Collection(NamedTuple):
  """A round of trajectories as numpy arrays, and what it took."""
  trajectory: types.Trajectory
  environment_steps: int  # actions sent, those of lost attempts included
  environment_failures: int
  lost_to: str = ''  # what the last trajectory that was lost was lost to
  notes: Notes | None = None
  closed_slots: int = 0  # that had not ended when the round closed
  late: closing.Late = closing.NONE  # what ended of earlier rounds


def collect(
    pool: workers.WorkerPool,
    jobs: Sequence[workers.Job],
    actor: actors.Actor,
    player: actors.Player = actors.EXPERT,
    *,
    example: Any,
    codec: base.Codec,
    num_tokens: int,
    max_steps: int,
    batch_size: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    stragglers: closing.Stragglers | None = None,
    closes: bool = False,
) -> Collection:
  """Plays every job and stores it by slot.

  Args:
    pool: environments.
    jobs: slots 0 .. B-1, each once.
    actor: chooses actions; it has the parameters already.
    player: the key and the temperature that it draws with.
    example: one observation without history, for shapes.
    codec: makes the rows that are stored, and the environments' actions.
    num_tokens: L.
    max_steps: T; the environments end their episodes by then.
    batch_size: rows that the actor gets at once; by default all that wait.
    should_stop: asked now and then.
    on_progress: told when an episode has ended.
    stragglers: plays on what earlier collections of the pool have left; by
      default nothing is left.
    closes: whether this one may leave something to the next, as `stragglers`
      says; else everything is played to its end.

  Returns:
    The trajectories, `[B, T, ...]`; those lost or left have `valid` False.

  Raises:
    KeyboardInterrupt: when `should_stop()` says so.
    RuntimeError: if an environment outlasts `max_steps`.
  """
  stragglers = stragglers or closing.Stragglers()
  numbers, left = stragglers.begin(jobs)
  play = _Play(numbers, left, codec, lambda jobs: _allocate(
      jobs, example, codec, num_tokens, max_steps))
  failures_before = pool.num_failures
  # By task, since another task can be a page to load or an app to start.
  pool.submit(job._replace(slot=number) for number, job in sorted(
      numbers.items(), key=lambda item: item[1].task_id))
  while pool.pending:
    if should_stop():
      raise KeyboardInterrupt
    remaining = stragglers.remaining(
        play.num_ended, len(jobs)) if closes else math.inf
    is_closed = remaining <= 0
    if is_closed and not play.asked:  # as parameters change after a round
      break
    for event in pool.wait(timeout=0. if play.waiting and not is_closed else (
        _TURN_SECONDS if play.asked else min(POLL_SECONDS, remaining))):
      if play.hear(event):
        on_progress(play.progress())
    if not is_closed:
      batch = sorted(
          play.waiting.values(), key=lambda event: play.turns[event.worker])
      play.ask(actor, player, batch[:batch_size])
    for answer in actor.receive(_TURN_SECONDS if play.asked and (
        is_closed or not play.waiting) else 0.):
      if answer.ticket in play.asked:  # or its environment is gone
        pool.act(*play.take(answer))
  stragglers.leave(play.close())
  return play.collection(pool.num_failures - failures_before)


class _Play:
  """The slots of a round, 0 .. B-1, and after them what others have left."""

  def __init__(
      self, numbers: dict[int, workers.Job], left: Sequence[closing.Left],
      codec: base.Codec,
      allocate: Callable[[Sequence[workers.Job]], types.Trajectory]):
    self._total = len(numbers)
    self._jobs = list(numbers.values()) + [
        one.job._replace(slot=slot) for slot, one in enumerate(
            left, self._total)]
    self._codec = codec
    self._playing = dict(zip([*numbers, *(one.number for one in left)],
                             self._jobs))  # by number
    self._histories: dict[int, Any] = {}  # by slot, as what follows
    self._told: dict[int, str] = {}
    self._losses: dict[int, str] = {}
    self._scores: dict[int, float] = {}
    self._lost_to = ''
    self._store = allocate(self._jobs)
    self.waiting: dict[int, workers.Event] = {}  # in order of arrival
    self.asked: dict[int, _Asked] = {}  # by ticket
    self.turns: collections.Counter[int] = collections.Counter()  # by worker
    self.num_ended = 0
    for slot, one in enumerate(left, self._total):
      self._store.step_mask[slot] = one.step_mask
      if one.history is not None:
        self._histories[slot] = one.history
      if one.shown is not None:
        self.waiting[slot] = one.shown._replace(job=self._jobs[slot])

  def progress(self) -> Progress:
    """Of the round's own episodes."""
    succeeded = self._store.successes[:self._total].sum()
    return Progress(self.num_ended, int(succeeded), self._total)

  def hear(self, event: workers.Event) -> bool:
    """Notes what happened; whether an episode of the round has ended."""
    number = event.job.slot
    event = event._replace(job=self._playing[number])
    slot, store = event.job.slot, self._store
    if event.kind == 'observation':
      self.waiting[slot] = event
      self._told[slot] = str(event.info.get('instruction', ''))
      return False
    self.waiting.pop(slot, None)  # its worker is gone
    self._histories.pop(slot, None)
    self.asked = {ticket: row for ticket, row in self.asked.items()
                  if row.event.job.slot != slot}
    if event.kind in ('failed', 'lost'):
      store.step_mask[slot] = False
      store.token_mask[slot] = False
    if event.kind == 'failed':
      return False
    if event.kind == 'lost':
      self._losses[slot] = self._lost_to = event.message
    else:
      store.valid[slot] = True
      store.returns[slot] = event.reward
      store.successes[slot] = event.reward > 0
      if 'score' in event.info:
        self._scores[slot] = event.info['score']
    del self._playing[number]
    self.num_ended += slot < self._total
    return slot < self._total

  def ask(self, actor: actors.Actor, player: actors.Player,
          events: Sequence[workers.Event]) -> None:
    """Submits what is seen."""
    if not events:
      return
    for event in events:
      del self.waiting[event.job.slot]
    slots = np.array([event.job.slot for event in events], np.int32)
    step_ids = self._store.step_mask[slots].sum(axis=1, dtype=np.int32)
    max_steps = self._store.step_mask.shape[1]
    if step_ids.max() >= max_steps:
      raise RuntimeError(
          f'expected an environment that ends within {max_steps} steps, got '
          f'one that goes on (task {events[step_ids.argmax()].job.task_id})')
    rows = [self._codec.observe(
        event.observation, event.info, self._histories.get(
            event.job.slot, self._codec.empty_history)) for event in events]
    tickets = actor.submit(
        actors.Rows(
            slots, step_ids, jax.tree.map(lambda *x: np.stack(x), *rows),
            [event.info for event in events]),
        rng_key=player.rng_key, temperature=player.temperature)
    self.asked |= {ticket: _Asked(*row) for ticket, *row in zip(
        tickets, events, step_ids.tolist(), rows)}

  def take(self, answer: actors.Answer) -> tuple[int, Any]:
    """Stores a step; returns the worker and the action for it."""
    row, sample = self.asked.pop(answer.ticket), answer.sample
    slot, store = row.event.job.slot, self._store
    where = (slot, row.step_id)
    for stored, seen in zip(
        jax.tree.leaves(store.observations), jax.tree.leaves(row.observation)):
      stored[where] = seen
    store.actions[where], store.log_probs[where], store.token_mask[where] = (
        sample)
    store.step_mask[where] = True
    self._histories[slot] = self._codec.remember(
        self._histories.get(slot, self._codec.empty_history), row.observation,
        sample.tokens)
    self.turns[row.event.worker] += 1
    return row.event.worker, self._codec.decode(row.observation, sample.tokens)

  def close(self) -> list[closing.Left]:
    """Takes out what has not ended."""
    left = []
    for number, job in self._playing.items():
      slot = job.slot
      left.append(closing.Left(
          number, job, self._store.step_mask[slot].copy(),
          self._histories.get(slot), self.waiting.get(slot)))
      self._store.step_mask[slot] = False
      self._store.token_mask[slot] = False
      self._losses[slot] = 'the round closed before it ended'
    return left

  def collection(self, num_failures: int) -> Collection:
    """What there is at the end."""
    total, store = self._total, self._store
    ended = store.valid[total:]
    return Collection(
        jax.tree.map(lambda x: x[:total], store), self.turns.total(),
        num_failures, self._lost_to,
        make_notes(
            self._jobs[:total], self._told, self._losses, self._scores),
        total - self.num_ended, closing.Late(
            store.task_ids[total:][ended], store.returns[total:][ended]))


class _Asked(NamedTuple):
  """A row that the actor has not answered yet."""
  event: workers.Event
  step_id: int
  observation: Any  # with history


def _allocate(
    jobs: Sequence[workers.Job], example: Any, codec: base.Codec,
    num_tokens: int, max_steps: int) -> types.Trajectory:
  shape = (len(jobs), max_steps)
  task_ids = np.zeros(len(jobs), np.int32)
  task_ids[[job.slot for job in jobs]] = [job.task_id for job in jobs]
  example = codec.observe(example, {}, codec.empty_history)
  return types.Trajectory(
      task_ids=task_ids,
      observations=jax.tree.map(
          lambda x: np.zeros(shape + x.shape, x.dtype), example),
      actions=np.zeros(shape + (num_tokens,), np.int32),
      log_probs=np.zeros(shape + (num_tokens,), np.float32),
      token_mask=np.zeros(shape + (num_tokens,), bool),
      step_mask=np.zeros(shape, bool),
      returns=np.zeros(len(jobs), np.float32),
      successes=np.zeros(len(jobs), bool),
      valid=np.zeros(len(jobs), bool))
