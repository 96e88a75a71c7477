"""One round: propose tasks, collect trajectories, assign credit, draw, update.

Keys are re-derived from (seed, round), so a resumed run equals an
uninterrupted one wherever the environment is deterministic.
"""

from collections.abc import Callable
import functools
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import collectors
from experiments import serving
from experiments import setups
from step_jax.algorithm import credit
from step_jax.algorithm import samplers
from step_jax.algorithm import types
from step_jax.rollout import ahead as ahead_lib
from step_jax.rollout import closing
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import episodes
from step_jax.rollout import redrawing
from step_jax.runs import errors
from step_jax.runs import rows
from step_jax.runs import signals


class RunState(NamedTuple):
  """What a checkpoint holds, but for the number of completed rounds."""
  learner: types.LearnerState
  success_rate: jax.Array  # [N] s_hat
  sampler: Any  # the sampler's state
  acting: Any = None  # with a lag, the parameters that play the next round


class Played(NamedTuple):
  """A round of which nothing has been learned yet."""
  collection: collect_lib.Collection
  base_ids: np.ndarray  # [Q]
  rollout_key: jax.Array
  seconds: float


def start(setup: setups.Setup, params: Any) -> RunState:
  """The state before the first round; `params` are copied."""
  num_tasks = len(setup.world.tasks)
  acting = jax.tree.map(jnp.copy, params) if setup.config.lag else None
  return setup.placement.place(RunState(
      setup.learner.init(params), jnp.zeros(num_tasks),
      setup.sampler.init(num_tasks), acting))


def play_round(
    setup: setups.Setup,
    state: RunState,
    round_index: int,
    collect: collectors.Collector,
    keep: Callable[..., None] = lambda *seen: None,
    ahead: ahead_lib.Ahead | None = None,
) -> tuple[RunState, dict[str, Any]]:
  """One round; returns the new state and what is written down of it.

  With `config.lag` of 1 a round is played by the parameters that the one before
  it was learned with, not by those that came of it: the same run, whether or
  not it is played meanwhile. What earlier rounds have left (`config.close_at`)
  counts as a small round before this one, of which nothing is learned.

  Args:
    setup: of the run.
    state: before the round; its learner's is donated.
    round_index: from 0.
    collect: plays.
    keep: `(round_index, collection, batch, s_hat)`, is shown all of it.
    ahead: with a lag, begins the next round as soon as this one is credited;
      None if it is not to begin.
  """
  started = time.monotonic()
  config, params = setup.config, state.learner.params
  play = functools.partial(
      _play, setup, params if state.acting is None else state.acting,
      state.sampler, round_index, collect)
  played = play() if ahead is None else ahead.take(round_index, play)
  waited = time.monotonic()
  trajectory = played.collection.trajectory
  total = trajectory.valid.size - played.collection.closed_slots
  valid = int(trajectory.valid.sum())
  if 2 * valid < total:
    raise errors.RunError(
        f'{total - valid} of {total} trajectories of round '
        f'{round_index} were lost to environment failures; see to the '
        'environments, then resume with the same command.')

  state = _count_late(setup, state, played.collection.late)
  sampler_state = _update_sampler(
      setup.sampler, state.sampler, trajectory.task_ids, trajectory.returns,
      trajectory.valid)
  acting = jax.tree.map(jnp.copy, params) if config.lag else None
  begin = functools.partial(
      _begin, ahead, setup, acting, sampler_state, round_index + 1, collect)
  if setup.remote is None:
    begin()
  batch, success_rate, augmented = _assign(
      setup, state, trajectory, played.rollout_key)
  if setup.remote is not None:  # which answers one at a time
    begin()
  keep(round_index, played.collection, batch, success_rate)
  seen = signals.of_round(trajectory, batch)
  new_learner, results = setup.learner.update(state.learner, batch)
  results = jax.device_get(results)
  _tell_skipped(round_index, results)
  now = time.monotonic()
  return RunState(new_learner, success_rate, sampler_state, acting), {
      'round': round_index,
      'seconds': now - started,
      'rollout_seconds': played.seconds,
      'update_seconds': now - waited,
      'lag': int(config.lag and round_index > 0),
      'tasks_above_60': int((success_rate > 0.6).sum()),
      'augmented_steps': augmented,
  } | rows.of_collection(
      played.collection, played.base_ids, group_size=config.group_size,
      num_tasks=len(setup.world.tasks)) | seen | results


def _tell_skipped(round_index: int, results: dict[str, Any]) -> None:
  """Says if an update took fewer steps than it was to take."""
  if skipped := results['skipped_steps']:
    total = skipped + results['optimizer_steps']
    print(f'{skipped} of {total} optimiser steps of round {round_index} were '
          'skipped: a gradient is not finite; parameters and optimiser state '
          'are as before them.', file=sys.stderr)


def _begin(
    ahead: ahead_lib.Ahead | None, setup: setups.Setup, acting: Any,
    sampler_state: Any, round_index: int, collect: collectors.Collector
) -> None:
  """Lets a round be played from now on, unless an evaluation comes first."""
  if setup.config.lag and ahead is not None and not is_evaluated(
      setup.config, round_index):
    ahead.begin(round_index, functools.partial(
        _play, setup, acting, sampler_state, round_index, collect))


def is_evaluated(config: ml_collections.ConfigDict, num_rounds: int) -> bool:
  """Whether there is an evaluation after so many rounds."""
  return num_rounds == config.num_rounds or bool(
      config.eval_every and num_rounds % config.eval_every == 0)


def _play(
    setup: setups.Setup,
    params: Any,
    sampler_state: Any,
    round_index: int,
    collect: collectors.Collector,
) -> Played:
  """The round's Q*G trajectories, of the tasks that the sampler proposes."""
  started = time.monotonic()
  config, method = setup.config, setup.method
  key = jax.random.fold_in(jax.random.key(config.seed), round_index)
  task_key, rollout_key = jax.random.split(key)
  base_ids = episodes.base_task_ids(
      config.seed, round_index, config.num_base_tasks,
      len(setup.world.tasks))

  def play(key, task_ids):
    if config.env.episodes == 'fixed':
      jobs = episodes.make_fixed_jobs(task_ids, setup.world.tasks)
    else:
      jobs = episodes.make_jobs(
          config.seed, round_index, task_ids,
          np.zeros(0, int) if method.redraw else base_ids)
    player = collect_lib.Player(params, key, config.temperature)
    return collect(
        jobs, player, name=f'round {round_index}',
        # An evaluation needs all environments.
        closes=not is_evaluated(config, round_index + 1))

  if method.redraw:
    num_tasks = len(setup.world.tasks)
    later_ids = episodes.task_order(
        config.seed, round_index + 1, config.num_base_tasks, num_tasks)
    collection = redrawing.collect(
        rollout_key, base_ids, later_ids, play,
        group_size=config.group_size, num_tasks=num_tasks)
  else:
    collection = play(rollout_key, np.asarray(_propose(
        setup.sampler, task_key, base_ids, sampler_state,
        group_size=config.group_size)))
  return Played(
      collection, base_ids, rollout_key, time.monotonic() - started)


@functools.partial(jax.jit, static_argnames=('sampler', 'group_size'))
def _propose(sampler, rng_key, base_ids, state, *, group_size):
  return sampler.propose(rng_key, base_ids, state, group_size=group_size)


@functools.partial(jax.jit, static_argnames='sampler')
def _update_sampler(sampler, state, task_ids, returns, where):
  return sampler.update(state, task_ids, returns, where=where)


def _count_late(
    setup: setups.Setup, state: RunState, late: closing.Late) -> RunState:
  """The record and the sampler's state after episodes of earlier rounds."""
  count = len(late.returns)
  if not count:
    return state
  size = setup.config.num_base_tasks * setup.config.group_size
  padding = (0, -count % size)  # so that few shapes are compiled
  seen = (np.pad(late.task_ids, padding), np.pad(late.returns, padding),
          np.arange(count + padding[1]) < count)
  # The record is what SR-Traj keeps, by the run's rule.
  record = setups.make_sampler(setup.config, 'sr_traj')
  return state._replace(
      success_rate=_update_sampler(record, state.success_rate, *seen),
      sampler=_update_sampler(setup.sampler, state.sampler, *seen))


def _assign(
    setup: setups.Setup, state: RunState, trajectory: types.Trajectory,
    rollout_key: jax.Array,
) -> tuple[types.RoundBatch, jax.Array, int]:
  """The round's batch, the new record and the number of augmented steps."""
  config, method = setup.config, setup.method
  singles, low, success_rate = credit.assign_credit(
      trajectory, state.success_rate, method=method,
      group_size=config.group_size, low_threshold=config.low_threshold,
      ema_decay=config.ema_decay if config.smoothing == 'ema' else None,
      by_task=setup.sampler_name != 'uniform',
      values=samplers.tracked_values(state.sampler)
      if setup.sampler_name == 'spo' else None,
      state_fn=setup.codec.state)
  if not method.augment:
    return credit.without_groups(
        singles, method=method, max_steps=config.max_steps), success_rate, 0
  with serving.telling():
    batch = setup.augment(
        rollout_key, state.learner.params, singles, low,
        matches_fn=setup.codec.matches, max_steps=config.max_steps,
        num_candidates=config.group_size // 2,
        group_weight=config.group_weight)
  return batch, success_rate, int(low.sum())
