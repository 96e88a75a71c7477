"""Samplers that read a record of success rates: SR-Traj, Frontier Sampling."""

import functools

import chex
import jax.numpy as jnp

from step_jax.algorithm import resampling
from step_jax.algorithm import success_rate as success_rate_lib
from step_jax.algorithm.samplers import base

# The paper's rule at the paper's G; a rule of its own for any other G.
PAPER_RULE = functools.partial(
    success_rate_lib.update_success_rate, group_size=16)


def sr_traj(
    *,
    threshold: float = 0.6,
    sharpness: float = 10.0,
    smoothing: base.Rule | None = None,
) -> base.Sampler:
  """SR-Traj: slots of mastered tasks go to tasks being learned (section 5.1).

  The state is s_hat `[N]`, 0 at first; see `resampling.resample_tasks` and
  `success_rate.update_success_rate`, which do all of it.

  Args:
    threshold: s_0.
    sharpness: kappa.
    smoothing: a rule `(success_rate, collected, succeeded) -> success_rate`;
      None is the paper's at its G = 16. An update does not know G, so with
      another G give `functools.partial(update_success_rate, group_size=G)`.

  Returns:
    The sampler.

  Raises:
    ValueError: as `replacement_probability`.
  """
  resampling.replacement_probability(
      0.0, threshold=threshold, sharpness=sharpness)

  def propose(rng_key, base_task_ids, state, *, group_size):
    return resampling.resample_tasks(
        rng_key, base_task_ids, state, group_size=group_size,
        threshold=threshold, sharpness=sharpness)

  return base.Sampler(jnp.zeros, propose, record_update(smoothing))


def record_update(smoothing: base.Rule | None):
  """The `update` of a sampler whose state is a record s_hat `[N]`."""
  rule = PAPER_RULE if smoothing is None else smoothing

  def update(state, task_ids, returns, *, where=None):
    where = base.counted(task_ids, returns, where, state.shape[0])
    return base.smoothed(rule, state, task_ids, returns, where)

  return update


def frontier(
    *,
    target: float = 0.5,
    width: float = 0.25,
    uniform_share: float = 0.2,
    decay: float = 0.8,
    initial: float = 0.5,
) -> base.Sampler:
  """Frontier Sampling: tasks whose success rate is near a half (SCALE-CUA).

  P(i) = (1 - u) w_i / sum w + u / N, w_i = exp(-(p_i - c)^2 / (2 sigma^2)), p
  an exponential moving average of success (arXiv 2607.11185). The paper itself
  could not be read: two summaries of it give the average, the Gaussian round
  0.5 and the uniform part; the numbers are this project's notes of it. That
  0.2 is the weight of the new round, that a round of several trajectories is
  one observation, the start, and the frame (see `base`) are [choice].

  Args:
    target: c.
    width: sigma.
    uniform_share: u, of the draws that are uniform over all tasks.
    decay: weight of the record in its average with the round's u_i / n_i.
    initial: p of a task never run; at `target` it is as wanted as can be.

  Returns:
    The sampler; its state is p `[N]`.

  Raises:
    ValueError: if `width` is not above 0 or another lies outside [0, 1].
  """
  base.check_positive('width', width)
  for name, value in (('target', target), ('uniform_share', uniform_share),
                      ('decay', decay), ('initial', initial)):
    base.check(name, value, 0, 1)

  def probabilities(state: chex.Array) -> chex.Array:
    exponent = -((state - target) / width)**2 / 2
    # The nearest task weighs 1, however narrow the Gaussian is.
    weight = jnp.exp(exponent - jnp.max(exponent))
    return ((1 - uniform_share) * weight / jnp.sum(weight)
            + uniform_share / state.shape[0])

  return base.Sampler(
      init=lambda num_tasks: jnp.full(num_tasks, initial, float),
      propose=base.propose_by(probabilities),
      update=record_update(functools.partial(
          success_rate_lib.ema_success_rate, decay=decay)))
