"""Single-stream Policy Optimization's tracker of values, and its sampling.

Read: the abstract of arXiv 2509.13232, summaries that give its formulas, and
its authors' trainer (verl-recipe, `spo`).
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from step_jax.algorithm import masking
from step_jax.algorithm.samplers import base


class ValueTracker(NamedTuple):
  """A Beta distribution of each task's value, a return in [0, 1]."""
  successes: chex.Array  # [N] alpha
  failures: chex.Array  # [N] beta


def tracked_values(state: ValueTracker) -> chex.Array:
  """v = alpha / (alpha + beta), the baseline of the next round: `[N]`."""
  return state.successes / (state.successes + state.failures)


def kl_discount(
    divergence: chex.Array,
    *,
    half_life: float = 0.06,
    minimum: float = 0.875,
    maximum: float = 0.96,
) -> chex.Array:
  """rho = clip(2^(-D / D_half), rho_min, rho_max): how much history counts.

  >>> [round(float(kl_discount(d)), 3) for d in (0., .006, 1.)]
  [0.96, 0.933, 0.875]

  The bounds are the paper's, as summarised; the half-life, which the paper is
  said not to give, is that of its authors' trainer, where D is the mean
  |log-ratio| over the tokens of the task's last trajectory.

  Args:
    divergence: `[...]` D between the policy of the task's last trajectory and
      the present one.
    half_life: D_half.
    minimum, maximum: rho_min, rho_max.

  Returns:
    `[...]` discounts for `spo`.
  """
  base.check_positive('half_life', half_life)
  return jnp.clip(jnp.exp2(-divergence / half_life), minimum, maximum)


def spo(
    *,
    exploration: float = 0.05,
    discount: float | chex.Array = 0.9,
    prior: float = 0.5,
) -> base.Sampler:
  """SPO (arXiv 2509.13232): a persistent value, and tasks of uncertain ones.

  Tasks are drawn in proportion to sqrt(v (1 - v)) + epsilon. After a round
    alpha <- rho alpha + sum R,   beta <- rho beta + sum (1 - R)
  for the tasks that ran. With `advantages.batch_normalised_advantages` on
  `tracked_values` of the state *before* the update this is the method.
  [choice]: the history is discounted once a round, not once a trajectory, as
  its trajectories are of one policy; the prior is the authors' trainer's for
  runs without values estimated beforehand (else 8 trajectories a task, scaled
  to 1 / (1 - rho_min) = 8); a constant rho, which that trainer offers too, is
  the default, in the middle of the paper's bounds; the frame (see `base`).

  Args:
    exploration: epsilon.
    discount: rho, a number or `[N]`, such as from `kl_discount`.
    prior: alpha and beta of a task never run.

  Returns:
    The sampler; its state is a `ValueTracker`.

  Raises:
    ValueError: if `prior` or `exploration` is not above 0, or `discount` lies
      outside [0, 1].
  """
  base.check_positive('prior', prior)
  base.check_positive('exploration', exploration)
  base.check('discount', discount, 0, 1)

  def init(num_tasks):
    return ValueTracker(*(jnp.full(num_tasks, prior, float) for _ in range(2)))

  def probabilities(state):
    values = tracked_values(state)
    weights = jnp.sqrt(jnp.maximum(values * (1 - values), 0)) + exploration
    return weights / jnp.sum(weights)

  def update(state, task_ids, returns, *, where=None):
    num_tasks = state.successes.shape[0]
    where = base.counted(task_ids, returns, where, num_tasks)
    returns = jnp.asarray(returns, state.successes.dtype)
    won, lost, ran = (
        masking.group_sum(x, task_ids, num_groups=num_tasks, where=where)
        for x in (returns, 1 - returns, jnp.ones_like(returns)))

    def track(old, new):
      return jnp.where(ran > 0, discount * old + new, old).astype(old.dtype)

    return ValueTracker(
        track(state.successes, won), track(state.failures, lost))

  return base.Sampler(init, base.propose_by(probabilities), update)
