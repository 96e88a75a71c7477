"""Collecting trajectories in a simulator: one jitted loop on the device.

The lanes of a policy call of fixed shape play the round's episodes; a lane
that is free takes the next one, so no row waits for the slowest.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.algorithm import credit
from step_jax.algorithm import types
from step_jax.policies import base
from step_jax.policies import placement as placement_lib
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers


class Simulator(NamedTuple):
  """An environment as pure functions of one episode."""
  reset: Callable[..., Any]  # (key, task) -> (state, observation)
  step: Callable[..., Any]  # (state, tokens) -> (state, obs, reward, done)
  solve: Callable[..., chex.Array]  # state -> tokens, the scripted solution


class _Lanes(NamedTuple):
  """What is being played, a row for each lane."""
  slots: chex.Array  # [W] int32; from the number of slots on: idle
  step_ids: chex.Array  # [W] int32
  states: Any
  observations: Any  # with history


def make_collect(
    simulator: Simulator,
    policy: base.Policy,
    codec: base.Codec,
    *,
    max_steps: int,
    num_lanes: int,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
    should_stop: Callable[[], bool] = lambda: False,
) -> Callable[..., collect_lib.Collection]:
  """Builds the function that plays jobs, as `collect.collect` does.

  Args:
    simulator, policy, codec, max_steps, num_lanes, placement: see
      `make_simulate`.
    should_stop: asked before and after a round; True raises KeyboardInterrupt.

  Returns:
    `collect(jobs, player=None)` -> `Collection`, whose trajectory stays on the
    device; without a player the scripted solution plays.
  """
  by_policy, by_expert = (
      make_simulate(simulator, who, codec, max_steps=max_steps,
                    num_lanes=num_lanes, placement=placement)
      for who in (policy, None))

  def collect(jobs: Sequence[workers.Job],
              player: collect_lib.Player | None = None
              ) -> collect_lib.Collection:
    if should_stop():
      raise KeyboardInterrupt
    simulate = by_policy
    if player is None:
      simulate = by_expert
      player = collect_lib.Player((), jax.random.key(0), 0.)
    _, task_ids, seeds = np.array([job[:3] for job in sorted(jobs)], np.int32).T
    trajectory = simulate(
        player.rng_key, player.params, jnp.asarray(task_ids),
        jnp.asarray(seeds), temperature=player.temperature)
    num_steps = int(trajectory.step_mask.sum())
    if should_stop():
      raise KeyboardInterrupt
    return collect_lib.Collection(
        trajectory, num_steps, 0, notes=collect_lib.make_notes(jobs))

  return collect


def make_simulate(
    simulator: Simulator,
    policy: base.Policy | None,
    codec: base.Codec,
    *,
    max_steps: int,
    num_lanes: int,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> Callable[..., types.Trajectory]:
  """Builds the function that plays one episode a slot.

  Args:
    simulator: the environment; its episodes end within `max_steps`.
    policy: who acts; None for the simulator's scripted solution, whose
      log-probs are 0.
    codec: writes the history.
    max_steps: T.
    num_lanes: rows of a policy call. Keep it for a whole run: other batch
      sizes give other bits.
    placement: of the lanes.

  Returns:
    `simulate(rng_key, params, task_ids [B], seeds [B], *, temperature)` ->
    `Trajectory` `[B, T, ...]`, all of it valid; `rng_key` is of (seed, round),
    `seeds` int32 are the environment's. Jitted; the temperature is static.
  """
  @functools.partial(jax.jit, static_argnames='temperature')
  def simulate(rng_key, params, task_ids, seeds, *, temperature):
    begin = functools.partial(
        _begin, simulator, codec, task_ids=task_ids, seeds=seeds)
    act = functools.partial(
        _act, simulator, policy, rng_key, params, temperature=temperature)

    def play(carry):
      lanes, next_slot, stored = carry
      sample = act(lanes)
      new, rewards, done = _advance(simulator, codec, lanes, sample.tokens)
      where = (lanes.slots, lanes.step_ids)
      stored = jax.tree.map(
          lambda x, row: x.at[where].set(row, mode='drop'),  # not if idle
          stored, (lanes.observations, sample, jnp.ones_like(done), rewards))
      order = jnp.cumsum(done, dtype=jnp.int32)
      following = begin(next_slot + order - 1)
      return placement.rows(jax.tree.map(
          functools.partial(_select, done), following, new)), (
              next_slot + order[-1]), stored

    num_slots = len(task_ids)
    lanes = placement.rows(begin(jnp.arange(num_lanes, dtype=jnp.int32)))
    rows = (lanes.observations, jax.eval_shape(lambda: act(lanes)),
            jnp.zeros(num_lanes, bool), jnp.zeros(num_lanes))
    empty = jax.tree.map(
        lambda x: jnp.zeros((num_slots, max_steps) + x.shape[1:], x.dtype),
        rows)
    _, _, stored = jax.lax.while_loop(
        lambda carry: jnp.any(carry[0].slots < num_slots), play,
        (lanes, jnp.int32(num_lanes), empty))
    return placement.whole(_as_trajectory(task_ids, *stored))

  return simulate


def _begin(simulator: Simulator, codec: base.Codec, slots: chex.Array, *,
           task_ids: chex.Array, seeds: chex.Array) -> _Lanes:
  """The first step of the episodes of some slots."""
  index = jnp.minimum(slots, len(task_ids) - 1)
  states, observations = jax.vmap(
      lambda seed, task: simulator.reset(jax.random.key(seed), task))(
          seeds[index], task_ids[index])
  history = jnp.broadcast_to(
      codec.empty_history, slots.shape + codec.empty_history.shape)
  return _Lanes(slots, jnp.zeros_like(slots), states,
                observations | {'history': history})


def _act(simulator: Simulator, policy: base.Policy | None,
         rng_key: chex.PRNGKey, params: Any, lanes: _Lanes, *,
         temperature: float) -> base.ActionSample:
  """What the policy, or the scripted solution, does in every lane."""
  if policy is None:
    tokens = jax.vmap(simulator.solve)(lanes.states)
    return base.ActionSample(
        tokens, jnp.zeros(tokens.shape), jnp.ones(tokens.shape, bool))
  keys = credit.row_keys(rng_key, lanes.slots, lanes.step_ids, 0)
  return policy.sample(
      params, keys, lanes.observations, temperature=temperature)


def _advance(simulator: Simulator, codec: base.Codec, lanes: _Lanes,
             tokens: chex.Array) -> tuple[_Lanes, chex.Array, chex.Array]:
  """One step of every lane, their rewards `[W]`, and which of them ended."""
  states, observations, rewards, done = jax.vmap(simulator.step)(
      lanes.states, tokens)
  history = jax.vmap(functools.partial(codec.remember, xp=jnp))(
      lanes.observations['history'], lanes.observations, tokens)
  return _Lanes(lanes.slots, lanes.step_ids + 1, states,
                observations | {'history': history}), rewards, done


def _as_trajectory(
    task_ids: chex.Array, observations: Any, sample: base.ActionSample,
    step_mask: chex.Array, rewards: chex.Array) -> types.Trajectory:
  """What was stored, `[B, T, ...]`, as a trajectory."""
  returns = jnp.sum(rewards, axis=1)
  return types.Trajectory(
      task_ids=task_ids, observations=observations, actions=sample.tokens,
      log_probs=sample.log_probs, token_mask=sample.token_mask,
      step_mask=step_mask, returns=returns, successes=returns > 0,
      valid=jnp.ones(len(task_ids), bool))


def _select(done: chex.Array, new: chex.Array, old: chex.Array) -> chex.Array:
  return jnp.where(done.reshape(done.shape + (1,) * (old.ndim - 1)), new, old)
