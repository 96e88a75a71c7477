"""Advantages of trajectories and of step-level groups (method 2, 3 and 5)."""

import chex
import jax.numpy as jnp

from step_jax import masking


def success_weighted_advantages(
    returns: chex.Array,
    task_ids: chex.Array,
    success_rate: chex.Array,
    *,
    where: chex.Array | None = None,
) -> chex.Array:
  """SR-Adv: Adv(T) = (1 - s_hat_i) R(T) for R(T) > 0 (paper, section 5.2).

  >>> import jax.numpy as jnp
  >>> success_weighted_advantages(
  ...     jnp.array([1., 0.]), jnp.array([1, 1]), jnp.array([0., .25])).tolist()
  [0.75, 0.0]

  Args:
    returns: `[B]` R, 1 success or 0 failure.
    task_ids: `[B]` int, the task that was run.
    success_rate: `[N]` s_hat after this round's update.
    where: `[B]` bool, False = lost trajectory.

  Returns:
    `[B]` advantages; failed and lost trajectories get 0.
  """
  chex.assert_rank([returns, task_ids, success_rate], 1)
  chex.assert_equal_shape([returns, task_ids])
  where = _all_true(returns) if where is None else where
  chex.assert_equal_shape([returns, where])
  used = where & (returns > 0)
  weight = 1 - jnp.asarray(success_rate)[jnp.where(used, task_ids, 0)]
  return jnp.where(used, weight * jnp.where(used, returns, 0), 0)


def group_relative_advantages(
    returns: chex.Array,
    group_ids: chex.Array,
    *,
    num_groups: int,
    where: chex.Array | None = None,
    ddof: int = 1,
) -> chex.Array:
  """GRPO: (R - mean) / std over the group, each trajectory counted once.

  Args:
    returns: `[B]` R.
    group_ids: `[B]` int in [0, num_groups).
    num_groups: number of groups.
    where: `[B]` bool, False = lost trajectory.
    ddof: 1 for the sample's standard deviation, 0 for the population's.

  Returns:
    `[B]` advantages; groups without spread, of any constant value or of one
    member, give exactly 0.
  """
  centred, counts, spread, ids, where = _centre(
      returns, group_ids, num_groups, where)
  squares = masking.group_sum(
      centred**2, ids, num_groups=num_groups, where=where)
  variance = squares / jnp.maximum(counts - ddof, 1)
  std = jnp.sqrt(jnp.where(spread, variance, 1))
  return jnp.where(where & spread[ids], centred / std[ids], 0)


def leave_one_out_advantages(
    returns: chex.Array,
    group_ids: chex.Array,
    *,
    num_groups: int,
    where: chex.Array | None = None,
) -> chex.Array:
  """RLOO: R minus the mean of the others in the group.

  Args:
    returns: `[B]` R.
    group_ids: `[B]` int in [0, num_groups).
    num_groups: number of groups.
    where: `[B]` bool, False = lost trajectory.

  Returns:
    `[B]` advantages; a group of one and a group without spread give exactly 0.
  """
  centred, counts, spread, ids, where = _centre(
      returns, group_ids, num_groups, where)
  # R - (sum - R) / (n - 1) = (R - mean) n / (n - 1).
  scale = counts / jnp.maximum(counts - 1, 1)
  return jnp.where(where & spread[ids], centred * scale[ids], 0)


def step_group_advantages(
    advantages: chex.Array,
    matches: chex.Array,
    *,
    where: chex.Array | None = None,
) -> chex.Array:
  """SL-GRPO: Adv_final(S, A_k) = Adv(S) z_k (paper, section 5.3).

  r_k = 1 if candidate A_k matches the original action A_0 (which matches
  itself), else 0; z = (r - mean r) / population std of r.

  Args:
    advantages: `[S]` Adv(S) of the original step samples.
    matches: `[S, K]` bool, whether candidate k matches candidate 0.
    where: `[S, K]` bool, candidates that exist.

  Returns:
    `[S, K]` advantages; a group in which all candidates match gives exactly 0.
  """
  chex.assert_rank([advantages, matches], [1, 2])
  chex.assert_equal_shape_prefix([advantages, matches], 1)
  where = _all_true(matches) if where is None else where
  chex.assert_equal_shape([matches, where])
  agree = jnp.asarray(matches, bool).at[:, 0].set(True)
  mean = masking.masked_mean(
      agree.astype(jnp.float32), where, axis=1)[:, None]
  spread = jnp.any(agree & where, axis=1) & jnp.any(~agree & where, axis=1)
  used = where & spread[:, None]
  std = jnp.sqrt(jnp.where(spread[:, None], mean * (1 - mean), 1))
  z = (agree - mean) / std
  # Selected before the product: a state without candidates may hold anything.
  advantages = jnp.where(jnp.any(where, axis=1), advantages, 0)[:, None]
  return jnp.where(used, advantages * z, 0)


def _all_true(x: chex.Array) -> chex.Array:
  return jnp.ones(x.shape, bool)


def _centre(
    returns: chex.Array,
    group_ids: chex.Array,
    num_groups: int,
    where: chex.Array | None,
) -> tuple[chex.Array, chex.Array, chex.Array, chex.Array, chex.Array]:
  """Checks the arguments and subtracts each group's mean.

  Returns:
    R - mean `[B]` (0 behind the mask), members `[num_groups]`, spread
    `[num_groups]`, group ids with those behind the mask set to 0 `[B]`, and
    the mask `[B]`.
  """
  chex.assert_rank([returns, group_ids], 1)
  chex.assert_equal_shape([returns, group_ids])
  where = _all_true(returns) if where is None else where
  chex.assert_equal_shape([returns, where])
  ids = jnp.where(where, group_ids, 0)
  statistics = dict(group_ids=ids, num_groups=num_groups, where=where)
  counts = masking.group_sum(jnp.ones(returns.shape), **statistics)
  sums = masking.group_sum(returns, **statistics)
  mean = sums / jnp.maximum(counts, 1)
  centred = jnp.where(where, jnp.where(where, returns, 0) - mean[ids], 0)
  spread = masking.group_spread(returns, **statistics)
  return centred, counts, spread, ids, where
