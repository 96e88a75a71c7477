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
from typing import Any, NamedTuple

import jax
import numpy as np

from step_jax.algorithm import types
from step_jax.policies import base
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


def make_notes(
    jobs: Sequence[workers.Job], instructions: dict[int, str] | None = None,
    losses: dict[int, str] | None = None) -> Notes:
  """Notes on slots 0 .. B-1, of texts by slot."""
  seeds = np.zeros(len(jobs), np.int64)
  seeds[[job.slot for job in jobs]] = [job.seed for job in jobs]
  told, lost = (
      np.array([(texts or {}).get(slot, '') for slot in range(len(jobs))], str)
      for texts in (instructions, losses))
  return Notes(seeds, told, lost)


class Collection(NamedTuple):
  """A round of trajectories as numpy arrays, and what it took."""
  trajectory: types.Trajectory
  environment_steps: int  # actions sent, those of lost attempts included
  environment_failures: int
  lost_to: str = ''  # what the last trajectory that was lost was lost to
  notes: Notes | None = None


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

  Returns:
    The trajectories, `[B, T, ...]`; lost ones have `valid` False.

  Raises:
    KeyboardInterrupt: when `should_stop()` says so.
    RuntimeError: if an environment outlasts `max_steps`.
  """
  store = _allocate(jobs, example, codec, num_tokens, max_steps)
  histories: dict[int, Any] = {}
  waiting: dict[int, workers.Event] = {}  # by slot, in order of arrival
  asked: dict[int, _Asked] = {}  # by ticket
  turns: collections.Counter[int] = collections.Counter()  # by worker
  finished, lost_to = 0, ''
  told: dict[int, str] = {}
  losses: dict[int, str] = {}
  failures_before = pool.num_failures
  # By task, since another task can be a page to load or an app to start.
  pool.submit(sorted(jobs, key=lambda job: job.task_id))
  while pool.pending:
    if should_stop():
      raise KeyboardInterrupt
    for event in pool.wait(timeout=0. if waiting else (
        _TURN_SECONDS if asked else POLL_SECONDS)):
      slot = event.job.slot
      if event.kind == 'observation':
        waiting[slot] = event
        told[slot] = str(event.info.get('instruction', ''))
        continue
      waiting.pop(slot, None)  # its worker is gone
      histories.pop(slot, None)
      asked = {ticket: row for ticket, row in asked.items()
               if row.event.job.slot != slot}
      if event.kind in ('failed', 'lost'):
        store.step_mask[slot] = False
        store.token_mask[slot] = False
      if event.kind == 'lost':
        losses[slot] = lost_to = event.message
      if event.kind == 'finished':
        store.valid[slot] = True
        store.returns[slot] = event.reward
        store.successes[slot] = event.reward > 0
      if event.kind in ('finished', 'lost'):
        finished += 1
        on_progress(Progress(finished, int(store.successes.sum()), len(jobs)))
    batch = sorted(waiting.values(), key=lambda event: turns[event.worker])
    batch = batch[:batch_size]
    if batch:
      asked |= _ask(actor, player, batch, store, histories, codec)
      for event in batch:
        del waiting[event.job.slot]
    for answer in actor.receive(
        _TURN_SECONDS if asked and not waiting else 0.):
      if answer.ticket in asked:  # or its environment is gone
        row = asked.pop(answer.ticket)
        _store(store, row, answer.sample)
        history = histories.get(row.event.job.slot, codec.empty_history)
        histories[row.event.job.slot] = codec.remember(
            history, row.observation, answer.sample.tokens)
        pool.act(row.event.worker, codec.decode(
            row.observation, answer.sample.tokens))
        turns[row.event.worker] += 1
  return Collection(store, turns.total(), pool.num_failures - failures_before,
                    lost_to, make_notes(jobs, told, losses))


class _Asked(NamedTuple):
  """A row that the actor has not answered yet."""
  event: workers.Event
  step_id: int
  observation: Any  # with history


def _ask(
    actor: actors.Actor, player: actors.Player, waiting: list[workers.Event],
    store: types.Trajectory, histories: dict[int, Any], codec: base.Codec
) -> dict[int, _Asked]:
  """Submits what is seen; returns it by ticket."""
  slots = np.array([event.job.slot for event in waiting], np.int32)
  step_ids = store.step_mask[slots].sum(axis=1, dtype=np.int32)
  max_steps = store.step_mask.shape[1]
  if step_ids.max() >= max_steps:
    raise RuntimeError(
        f'expected an environment that ends within {max_steps} steps, got '
        f'one that goes on (task {waiting[step_ids.argmax()].job.task_id})')
  rows = [codec.observe(
      event.observation, event.info,
      histories.get(event.job.slot, codec.empty_history)) for event in waiting]
  tickets = actor.submit(
      actors.Rows(slots, step_ids, jax.tree.map(lambda *x: np.stack(x), *rows),
                  [event.info for event in waiting]),
      rng_key=player.rng_key, temperature=player.temperature)
  return {ticket: _Asked(*row) for ticket, *row in zip(
      tickets, waiting, step_ids.tolist(), rows)}


def _store(
    store: types.Trajectory, row: _Asked, sample: base.ActionSample) -> None:
  """Stores one step."""
  where = (row.event.job.slot, row.step_id)
  for stored, seen in zip(
      jax.tree.leaves(store.observations), jax.tree.leaves(row.observation)):
    stored[where] = seen
  store.actions[where], store.log_probs[where], store.token_mask[where] = sample
  store.step_mask[where] = True


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
