"""Knapsack RL: the round's trajectories as a budget to be spent on its tasks.

Read: the abstract and summaries of arXiv 2509.25849, and its authors' public
code, whose rules for tasks that always or never succeed are followed here.
"""

import chex
import jax
import jax.numpy as jnp

from step_jax.algorithm import masking
from step_jax.algorithm.samplers import base
from step_jax.algorithm.samplers import rates


def knapsack_budgets(
    rng_key: chex.PRNGKey,
    success_rate: chex.Array,
    *,
    group_size: int,
    minimum: int = 2,
    maximum: int = 128,
    confidence: float = 0.9,
) -> chex.Array:
  """Trajectories for each task of a round, by what they may teach.

  The value of n trajectories at success rate p is the probability that they
  differ, times the expected gain of a gradient step (arXiv 2509.25849):
    V(n) = (1 - p^n - (1-p)^n) p (1-p)^2.
  V is concave from n = 1 on, so giving each further trajectory to the largest
  V(n+1) - V(n) solves the knapsack that the authors' dynamic programme solves.
  Tasks at p = 0 or 1 have no value. Of the former each gets an equal part of
  what is left when all others have what makes them differ with probability
  `confidence`, n = log(1 - confidence) / log(max(p, 1-p)), beyond `minimum`.
  [choice]: equal claims are met at random; if no task is at p = 0, the rest
  goes on by value, and to tasks at p = 1 last.

  Args:
    rng_key: key.
    success_rate: `[Q]` p of the round's base tasks.
    group_size: G; Q*G trajectories are spent.
    minimum: least budget of a task, G if that is less.
    maximum: largest budget of a task.
    confidence: see above, in [0, 1]; a traced value is not checked.

  Returns:
    `[Q]` int32 budgets with sum Q*G.

  Raises:
    ValueError: if not 1 <= minimum, group_size <= maximum, or if `confidence`
      lies outside [0, 1].
  """
  chex.assert_rank(success_rate, 1)
  if not (1 <= minimum and 1 <= group_size <= maximum):
    raise ValueError(
        'expected 1 <= minimum and 1 <= group_size <= maximum, got '
        f'{minimum}, {group_size} and {maximum}')
  base.check('confidence', confidence, 0, 1)
  p, num_tasks = masking.as_float(success_rate), success_rate.shape[0]
  learnable = (0 < p) & (p < 1)
  minimum = min(minimum, group_size)

  before, gain = _gains(p, maximum)
  claim = jnp.where(learnable[None], gain, -before)
  lot = jnp.broadcast_to(
      jax.random.uniform(rng_key, (1, num_tasks)), gain.shape)
  kind = jnp.where(learnable, 1, jnp.where(p > 0, 4, 2))[None]
  kind = jnp.where(before < minimum, 0, kind)
  order = jnp.lexsort(tuple(x.reshape(-1) for x in (lot, -claim, kind)))
  # What goes beyond `enough` is claimed behind the tasks never solved.
  needed = jnp.log1p(-confidence) / jnp.log1p(
      -jnp.where(learnable, jnp.minimum(p, 1 - p), 0.5))
  enough = jnp.sum(jnp.where(learnable, jnp.floor(
      jnp.minimum(needed, maximum)), 0))
  kind = kind.reshape(-1)[order]
  place = jnp.arange(kind.shape[0]) - num_tasks * (minimum - 1)
  kind = jnp.where(
      (kind == 1) & (place.astype(enough.dtype) >= enough), 3, kind)
  order = order[jnp.argsort(kind, stable=True)]
  spent = order[:num_tasks * (group_size - 1)] % max(num_tasks, 1)
  return jnp.ones(num_tasks, jnp.int32).at[spent].add(1)


def _gains(p: chex.Array, maximum: int) -> tuple[chex.Array, chex.Array]:
  """n and V(n+1) - V(n), both `[maximum - 1, Q]`, for n = 1 .. maximum-1."""
  p = p[None]
  before = jnp.broadcast_to(
      jnp.arange(1, maximum, dtype=p.dtype)[:, None],
      (maximum - 1, p.shape[1]))
  differ = p**before * (1 - p) + (1 - p)**before * p
  return before, differ * p * (1 - p)**2


def knapsack(
    *,
    minimum: int = 2,
    maximum: int = 128,
    confidence: float = 0.9,
    smoothing: base.Rule | None = None,
) -> base.Sampler:
  """Knapsack RL (arXiv 2509.25849): budgets by the value of exploration.

  The budgets are those of `knapsack_budgets` for the round's base tasks, as
  the paper's are for its batch. A task keeps its slots as far as its budget
  goes; those it leaves are filled by tasks whose budget exceeds G, so no task
  from outside the round is run. A base task that occurs twice is two. [choice]

  Args:
    minimum, maximum, confidence: as in `knapsack_budgets`; the defaults are
      those of the authors' scripts.
    smoothing: as in `sr_traj`. The authors take the last epoch's success rate,
      filled up with earlier trajectories where they were few; the default,
      the adaptive rule, is that but for weights. [choice]

  Returns:
    The sampler; its state is s_hat `[N]`, 0 at first.
  """
  def propose(rng_key, base_task_ids, state, *, group_size):
    chex.assert_rank([base_task_ids, state], 1)
    tasks = jnp.asarray(base_task_ids, jnp.int32)
    budgets = knapsack_budgets(
        rng_key, jnp.asarray(state)[tasks], group_size=group_size,
        minimum=minimum, maximum=maximum, confidence=confidence)
    kept = jnp.arange(group_size)[None] < budgets[:, None]
    vacancy = jnp.cumsum(~kept.reshape(-1)) - 1
    surplus = jnp.cumsum(jnp.maximum(budgets - group_size, 0))
    donor = jnp.searchsorted(surplus, vacancy, side='right')
    return jnp.where(
        kept.reshape(-1), jnp.repeat(tasks, group_size),
        tasks.at[donor].get(mode='clip'))

  return base.Sampler(jnp.zeros, propose, rates.record_update(smoothing))
