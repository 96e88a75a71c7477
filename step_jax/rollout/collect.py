"""Collecting trajectories: environments that are ready share a policy call.

The loop never waits for a particular environment. What waits for an action is
answered at once, in policy calls of a fixed shape; idle rows are padding. The
actions of a call are sent, and what has happened meanwhile is heard, before the
next. Where more wait than a call answers, those that have played least go first
(a round lasts as long as the last of them), then those that wait longest.
Everything is stored by slot, and a retried episode is the same episode, since
keys are a function of (seed, round, slot, step) alone.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import chex
import jax
import numpy as np

from step_jax.algorithm import credit
from step_jax.algorithm import types
from step_jax.policies import base
from step_jax.rollout import workers

POLL_SECONDS = 0.5  # how often a request to stop is looked at


class Rows(NamedTuple):
  """The environments that wait for an action."""
  slots: np.ndarray  # [R] int
  step_ids: np.ndarray  # [R] int
  observations: Any  # pytree of [R, ...], history included
  infos: Sequence[dict[str, Any]]  # [R]


class ActFn(Protocol):

  def __call__(self, rows: Rows) -> base.ActionSample:
    """Returns an action for each row, as numpy arrays `[R, L]`."""


class Player(NamedTuple):
  """The policy as it acts in a round."""
  params: Any
  rng_key: chex.PRNGKey  # of (seed, round)
  temperature: float  # 0 for the most likely action


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


def policy_actor(
    policy: base.Policy, player: Player, *, batch_size: int) -> ActFn:
  """Acts by the policy, `batch_size` rows at a call, padded to that number.

  Args:
    policy: the policy.
    player: its parameters, key and temperature.
    batch_size: rows of a call. Keep it for a whole run: other batch sizes give
      other bits.

  Returns:
    The function that `collect` asks for actions.
  """
  def act(rows):
    parts = []
    for start in range(0, len(rows.slots), batch_size):
      real = min(batch_size, len(rows.slots) - start)
      # Idle rows repeat the first one.
      index = np.zeros(batch_size, np.int32)
      index[:real] = np.arange(start, start + real)
      slots, step_ids, observations = jax.tree.map(
          lambda x: x[index], rows[:3])
      if policy.load is not None:
        observations = policy.load(observations)
      keys = credit.row_keys(player.rng_key, slots, step_ids, 0)
      sample = policy.sample(
          player.params, keys, observations, temperature=player.temperature)
      parts.append(jax.tree.map(lambda x: x[:real], jax.device_get(sample)))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)
  return act


def expert_actor(
    rows: Rows, *, encode: base.EncodeFn = base.keep_tokens
) -> base.ActionSample:
  """Acts as `info['expert_action']` says; log-probs are 0."""
  tokens = np.array([
      encode(jax.tree.map(lambda x: x[i], rows.observations),
             info['expert_action'])
      for i, info in enumerate(rows.infos)], np.int32)
  return base.ActionSample(
      tokens, np.zeros(tokens.shape, np.float32), np.ones(tokens.shape, bool))


def collect(
    pool: workers.WorkerPool,
    jobs: Sequence[workers.Job],
    act: ActFn,
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
    act: chooses actions.
    example: one observation without history, for shapes.
    codec: makes the rows that are stored, and the environments' actions.
    num_tokens: L.
    max_steps: T; the environments end their episodes by then.
    batch_size: rows that `act` gets at most; by default all that wait.
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
    for event in pool.wait(timeout=0. if waiting else POLL_SECONDS):
      slot = event.job.slot
      if event.kind == 'observation':
        waiting[slot] = event
        told[slot] = str(event.info.get('instruction', ''))
        continue
      waiting.pop(slot, None)  # its worker is gone
      histories.pop(slot, None)
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
      _answer(pool, batch, act, store, histories, codec)
      turns.update(event.worker for event in batch)
      for event in batch:
        del waiting[event.job.slot]
  return Collection(store, turns.total(), pool.num_failures - failures_before,
                    lost_to, make_notes(jobs, told, losses))


def _answer(pool, waiting, act, store, histories, codec) -> None:
  """Stores what was seen, chooses actions in one call and sends them."""
  slots = np.array([event.job.slot for event in waiting], np.int32)
  step_ids = store.step_mask[slots].sum(axis=1, dtype=np.int32)
  max_steps = store.step_mask.shape[1]
  if step_ids.max() >= max_steps:
    raise RuntimeError(
        f'expected an environment that ends within {max_steps} steps, got '
        f'one that goes on (task {waiting[step_ids.argmax()].job.task_id})')
  past = [histories.get(event.job.slot, codec.empty_history)
          for event in waiting]
  rows = [codec.observe(event.observation, event.info, history)
          for event, history in zip(waiting, past)]
  observations = jax.tree.map(lambda *x: np.stack(x), *rows)
  sample = act(Rows(
      slots, step_ids, observations, [event.info for event in waiting]))
  where = (slots, step_ids)
  for stored, seen in zip(
      jax.tree.leaves(store.observations), jax.tree.leaves(observations)):
    stored[where] = seen
  store.actions[where], store.log_probs[where], store.token_mask[where] = sample
  store.step_mask[where] = True
  for event, history, row, tokens in zip(waiting, past, rows, sample.tokens):
    histories[event.job.slot] = codec.remember(history, row, tokens)
    pool.act(event.worker, codec.decode(row, tokens))


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
