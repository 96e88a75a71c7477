"""Where step-level groups help: alternatives replayed from the saved state.

Desk can tell whether an action was right: its scripted solution, which goes on
from any state, is then one step nearer to its end.
"""

from collections.abc import Callable
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import rounds
from experiments.study import plan
from step_jax.envs.desk import simulator
from step_jax.rollout import episodes

ROUNDS = (0, 10, 20, 40, 79)  # that are looked at


@jax.jit
def steps_left(state: Any) -> jax.Array:
  """`[]` steps until the scripted solution has succeeded; more than T: never.

  Args:
    state: of an episode, ended or not.
  """
  def body(carry):
    state, count, _ = carry
    state, _, reward, _ = simulator.step(
        state._replace(num_steps=jnp.int32(0)), simulator.solve(state))
    return state, count + 1, reward

  _, count, reward = jax.lax.while_loop(
      lambda carry: ~carry[0].done & (carry[1] < simulator.MAX_STEPS), body,
      (state, jnp.int32(0), jnp.float32(0)))
  return jnp.where(reward > 0, count, simulator.MAX_STEPS + 1)


@jax.jit
def are_right(task: jax.Array, seed: jax.Array, actions: jax.Array,
              step: jax.Array, candidates: jax.Array) -> jax.Array:
  """Which candidates bring the scripted solution nearer to its end.

  Args:
    task: `[]` int.
    seed: `[]` int, of the episode.
    actions: `[T, L]`, what was done in it.
    step: `[]` int, where the candidates were drawn.
    candidates: `[K, L]`.

  Returns:
    `[K]` bool; an action that ends the episode is right if it succeeds.
  """
  state, _ = simulator.reset(jax.random.key(seed), task)
  state = jax.lax.fori_loop(
      0, step, lambda t, state: simulator.step(state, actions[t])[0], state)
  before = steps_left(state)

  def is_right(candidate):
    after, _, reward, done = simulator.step(
        state._replace(num_steps=jnp.int32(0)), candidate)
    return jnp.where(done, reward > 0, steps_left(after) < before)
  return jax.vmap(is_right)(candidates)


def measure(workdir: pathlib.Path, make_setup: Callable[..., Any]) -> None:
  """Trains `step` with each of five seeds, and writes `alternatives.npz`.

  It holds a row for each step-level group: the round, s_hat of its task, the
  number m of candidates that match the original, the sum of A over those over
  1 - s_hat, whether the original was right, how many of the others were, and
  how many of the others there are.
  """
  rows = []
  for run in plan.plan_runs('methods', workdir):
    if run.method == 'step' and run.seed in plan.FEWER_SEEDS:
      rows += _look(*make_setup(run, workdir))
  np.savez(workdir / 'alternatives.npz', rows=np.array(rows, np.float32))
  print(f'written: {workdir / "alternatives.npz"}, {len(rows)} groups')


def _look(setup: Any, params: Any, collect: Any) -> list[tuple[float, ...]]:
  seen: list[Any] = []

  def collect_and_keep(jobs, player, name, **options):
    collection = collect(jobs, player, name, **options)
    seen.append(collection.trajectory)
    return collection

  def update_and_keep(state, batch):
    seen.append(jax.device_get(batch.groups))
    return setup.learner.update(state, batch)

  watched = setup._replace(
      learner=setup.learner._replace(update=update_and_keep))
  state, rows = rounds.start(setup, params), []
  for round_index in range(plan.NUM_ROUNDS):
    seen.clear()
    state, _ = rounds.play_round(watched, state, round_index, collect_and_keep)
    if round_index in ROUNDS:
      record = np.asarray(state.success_rate)
      rows += _look_at_round(setup, round_index, record, *seen)
  return rows


def _look_at_round(
    setup: Any, round_index: int, record: np.ndarray, trajectory: Any,
    groups: Any) -> list[tuple[float, ...]]:
  samples = np.flatnonzero(groups.mask.any(axis=1))
  slots, steps = np.divmod(samples, setup.config.max_steps)
  if not samples.size:
    return []
  task_ids = np.asarray(trajectory.task_ids)[slots]
  seeds = np.array([
      episodes.fixed_seed(setup.world.tasks[task]) for task in task_ids])
  right = np.asarray(jax.vmap(are_right)(
      task_ids, seeds, trajectory.actions[slots], steps,
      groups.actions[samples]))
  # A group's candidates are the original and what is drawn beside it.
  observations = jax.tree.map(lambda x: x[samples], groups.observations)
  agree = np.asarray(_agree(setup.codec.matches, observations,
                            groups.actions[samples]))
  matching = agree.sum(axis=1)
  pull = np.where(agree, groups.advantages[samples], 0).sum(axis=1)
  return list(zip(
      np.full(len(samples), round_index), record[task_ids], matching,
      pull / (1 - record[task_ids]), right[:, 0],
      (right & ~agree).sum(axis=1), (~agree).sum(axis=1)))


@functools.partial(jax.jit, static_argnums=0)
def _agree(matches: Any, observations: Any, actions: Any) -> jax.Array:
  return matches(observations, actions)
