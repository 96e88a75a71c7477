"""Prioritized Level Replay: tasks whose outcome is not what was expected."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from step_jax.algorithm import masking
from step_jax.algorithm import success_rate as success_rate_lib
from step_jax.algorithm.samplers import base


class ReplayState(NamedTuple):
  """What PLR knows of the tasks."""
  scores: chex.Array  # [N] S_i, of the last round with the task
  success_rate: chex.Array  # [N] the expectation that outcomes are held to
  last_seen: chex.Array  # [N] int32 C_i, 0 = never
  count: chex.Array  # [] int32 c, trajectories so far


def plr(
    *,
    temperature: float = 0.1,
    staleness: float = 0.1,
    decay: float = 0.8,
) -> base.Sampler:
  """PLR (arXiv 2010.03934): replay by rank of score, mixed with staleness.

  P_replay = (1 - rho) P_S + rho P_C over the tasks seen, P_S proportional to
  (1 / rank(S_i))^(1/beta), P_C to c - C_i; a draw is a replay with probability
  seen / N, else uniform over the tasks not seen. The score is the paper's L1
  value loss, the mean |GAE|; with a value that knows the task only, no
  discount and lambda = 1 that is the mean |R - s_hat_i|, s_hat before the
  round. [choice]: that value, as there is no critic; its average over rounds;
  one timestamp a round; tied scores share their ranks' weights evenly, where
  the order of tasks would decide; P_S alone while nothing is stale.

  Args:
    temperature: beta.
    staleness: rho.
    decay: weight of the record s_hat in its average with the round's rate.

  Returns:
    The sampler; its state is a `ReplayState`.

  Raises:
    ValueError: if `temperature` is not above 0 or another lies outside [0, 1].
  """
  base.check_positive('temperature', temperature)
  base.check('staleness', staleness, 0, 1)
  base.check('decay', decay, 0, 1)

  def init(num_tasks):
    return ReplayState(
        scores=jnp.zeros(num_tasks), success_rate=jnp.zeros(num_tasks),
        last_seen=jnp.zeros(num_tasks, jnp.int32), count=jnp.int32(0))

  def probabilities(state):
    seen = state.last_seen > 0
    by_score = _rank_weights(state.scores, seen, temperature)
    by_age = jnp.where(
        seen, state.count - state.last_seen, 0).astype(by_score.dtype)
    total = jnp.sum(by_age)
    by_age = jnp.where(total > 0, by_age / jnp.maximum(total, 1), by_score)
    replay = (1 - staleness) * by_score + staleness * by_age
    return jnp.where(seen, jnp.mean(seen) * replay, 1 / seen.shape[0])

  def update(state, task_ids, returns, *, where=None):
    num_tasks = state.scores.shape[0]
    where = base.counted(task_ids, returns, where, num_tasks)
    collected, _ = success_rate_lib.count_outcomes(
        task_ids, where, num_tasks=num_tasks, where=where)
    surprise = jnp.abs(
        masking.as_float(returns) - masking.as_float(state.success_rate)[
            jnp.where(where, task_ids, 0)])
    total = masking.group_sum(
        surprise, task_ids, num_groups=num_tasks, where=where)
    count = state.count + jnp.sum(collected, dtype=jnp.int32)
    ran = collected > 0
    return ReplayState(
        scores=jnp.where(
            ran, total / jnp.maximum(collected, 1).astype(total.dtype),
            state.scores
        ).astype(state.scores.dtype),
        success_rate=base.smoothed(
            functools.partial(
                success_rate_lib.ema_success_rate, decay=decay),
            state.success_rate, task_ids, returns, where),
        last_seen=jnp.where(ran, count, state.last_seen), count=count)

  return base.Sampler(init, base.propose_by(probabilities), update)


def _rank_weights(
    scores: chex.Array, seen: chex.Array, temperature: float) -> chex.Array:
  """`[N]` P_S: rank^(-1/beta) over the tasks seen, ties evened out, sum 1."""
  num_tasks = scores.shape[0]
  scores = jnp.where(seen, scores, -jnp.inf)
  order = jnp.argsort(-scores)
  ordered = scores[order]
  weights = jnp.exp(-jnp.log(jnp.arange(1, num_tasks + 1)) / temperature)
  ties = jnp.cumsum(jnp.concatenate(
      [jnp.zeros(1, bool), ordered[1:] != ordered[:-1]]), dtype=jnp.int32)
  sums = jax.ops.segment_sum(
      jnp.stack([weights, jnp.ones_like(weights)], axis=1), ties,
      num_segments=num_tasks)[ties]
  weights = jnp.zeros_like(weights).at[order].set(sums[:, 0] / sums[:, 1])
  weights = jnp.where(seen, weights, 0)
  total = jnp.sum(weights)
  return weights / jnp.where(total > 0, total, 1)
