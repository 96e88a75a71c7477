"""Advantages of trajectories and of step-level groups (method 2, 3 and 5)."""

import chex
import jax.numpy as jnp

from step_jax.algorithm import masking


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
  where = _counted(returns, task_ids, success_rate.shape[0], where)
  returns = masking.as_float(returns)
  used = where & (returns > 0)
  weight = 1 - masking.as_float(success_rate)[jnp.where(used, task_ids, 0)]
  return jnp.where(used, weight * jnp.where(used, returns, 0), 0)


def success_rate_advantages(
    returns: chex.Array,
    task_ids: chex.Array,
    success_rate: chex.Array,
    *,
    where: chex.Array | None = None,
) -> chex.Array:
  """A(T) = R(T) - s_hat_i on every valid trajectory, failed ones too.

  For a success the paper's (1 - s_hat) R, for a failure its negative half,
  -s_hat: an extension of this project, never called STEP. It needs no groups
  of equal size and throws no trajectory away. The nearest published relative
  is SPO (arXiv 2509.13232): see `batch_normalised_advantages`.

  >>> import jax.numpy as jnp
  >>> success_rate_advantages(
  ...     jnp.array([1., 0.]), jnp.array([1, 1]), jnp.array([0., .25])).tolist()
  [0.75, -0.25]

  Args:
    returns: `[B]` R, 1 success or 0 failure.
    task_ids: `[B]` int, the task that was run.
    success_rate: `[N]` s_hat, after this round's update as in SR-Adv (before
      it, the baseline would not depend on the trajectory).
    where: `[B]` bool, False = lost trajectory.

  Returns:
    `[B]` advantages; lost trajectories get 0.
  """
  chex.assert_rank([returns, task_ids, success_rate], 1)
  chex.assert_equal_shape([returns, task_ids])
  where = _counted(returns, task_ids, success_rate.shape[0], where)
  rate = masking.as_float(success_rate)[jnp.where(where, task_ids, 0)]
  returns = jnp.where(where, masking.as_float(returns), 0)
  return jnp.where(where, returns - rate, 0)


def batch_normalised_advantages(
    returns: chex.Array,
    task_ids: chex.Array,
    values: chex.Array,
    *,
    where: chex.Array | None = None,
    ddof: int = 1,
) -> chex.Array:
  """SPO: R - v_i, standardised over the batch (arXiv 2509.13232).

  A = (R - v - mean) / std of R - v over all valid trajectories, whatever their
  task; v is the value *before* this round's update, so that no trajectory is
  its own baseline: `samplers.tracked_values` of the state of `samplers.spo`.

  Args:
    returns: `[B]` R.
    task_ids: `[B]` int, the task that was run.
    values: `[N]` v before this round's update.
    where: `[B]` bool, False = lost trajectory.
    ddof: 1 for the sample's standard deviation, as in the authors' trainer, 0
      for the population's.

  Returns:
    `[B]` advantages; a batch without spread, or of one, gives exactly 0
    [choice], where the authors' trainer adds 1e-8 to the deviation.
  """
  centred = success_rate_advantages(returns, task_ids, values, where=where)
  where = _counted(returns, task_ids, values.shape[0], where)
  return group_relative_advantages(
      centred, jnp.zeros(returns.shape, jnp.int32), num_groups=1, where=where,
      ddof=ddof)


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
  # Brought near 1 before squaring, as small squares would be 0. The result
  # does not depend on the scale, so its gradient is 0.
  scale = masking.group_max(
      jnp.abs(centred), ids, num_groups=num_groups, where=where)
  spread &= scale > 0  # by less than any number: none
  scaled = centred / jnp.where(spread, scale, 1)[ids]
  squares = masking.group_sum(
      scaled**2, ids, num_groups=num_groups, where=where)
  variance = squares / jnp.maximum(counts - ddof, 1)
  std = jnp.sqrt(jnp.where(spread, variance, 1))
  return jnp.where(where & spread[ids], scaled / std[ids], 0)


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


def gigpo_advantages(
    returns: chex.Array,
    group_ids: chex.Array,
    state_ids: chex.Array,
    *,
    num_groups: int,
    step_mask: chex.Array,
    discount: float = 0.95,
    step_weight: float = 1.0,
) -> chex.Array:
  """GiGPO: A = A^E + omega A^S (arXiv 2505.10978; method 5).

  A^E is the trajectory's advantage within its group. A^S is the step's within
  the steps of the group that share its state, a trajectory's own repetitions
  included, by the value gamma^(valid steps after it) R. Both are standardised
  as in `group_relative_advantages`.

  Args:
    returns: `[B]` R.
    group_ids: `[B]` int in [0, num_groups).
    state_ids: `[B, T]` int, equal iff the observations without history are;
      any int from 0 on, compared within a group only. A step with a negative
      id shares its state with no other.
    num_groups: number of groups.
    step_mask: `[B, T]` bool; a row without steps is a lost trajectory.
    discount: gamma.
    step_weight: omega.

  Returns:
    `[B, T]` advantages, 0 behind the mask; A^S of a state seen once, and
    either part without spread, is exactly 0.
  """
  chex.assert_rank([returns, group_ids, state_ids, step_mask], [1, 1, 2, 2])
  chex.assert_equal_shape([returns, group_ids])
  chex.assert_equal_shape([state_ids, step_mask])
  chex.assert_equal_shape_prefix([returns, state_ids], 1)
  shape = step_mask.shape
  returns = masking.as_float(returns)
  if not step_mask.size:
    return jnp.zeros(shape, returns.dtype)
  step_mask &= masking.in_range(group_ids, num_groups)[:, None]
  valid = jnp.any(step_mask, axis=1)
  episode = group_relative_advantages(
      returns, group_ids, num_groups=num_groups, where=valid)
  after = jnp.cumsum(step_mask[:, ::-1], axis=1)[:, ::-1] - step_mask.astype(
      int)
  # Read from a table: equal exponents give equal bits.
  powers = (discount ** jnp.arange(shape[1], dtype=returns.dtype))[after]
  values = powers * jnp.where(valid, returns, 0)[:, None]
  where = (step_mask & (state_ids >= 0)).reshape(-1)
  pairs = _pair_ids(
      jnp.repeat(group_ids, shape[1]), jnp.ravel(state_ids), where)
  step = group_relative_advantages(
      values.reshape(-1), pairs, num_groups=where.shape[0], where=where)
  total = episode[:, None] + step_weight * step.reshape(shape)
  return jnp.where(step_mask, total, 0)


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
  mean = masking.masked_mean(agree, where, axis=1)[:, None]
  spread = jnp.any(agree & where, axis=1) & jnp.any(~agree & where, axis=1)
  used = where & spread[:, None]
  std = jnp.sqrt(jnp.where(spread[:, None], mean * (1 - mean), 1))
  z = (agree.astype(mean.dtype) - mean) / std
  # Selected before the product: a state without candidates may hold anything.
  advantages = jnp.where(
      jnp.any(where, axis=1), masking.as_float(advantages), 0)[:, None]
  return jnp.where(used, advantages * z, 0)


def _pair_ids(
    first: chex.Array, second: chex.Array, where: chex.Array) -> chex.Array:
  """Ids in `[0, S)`, equal iff the pairs are, of valid `[S]` pairs of ints.

  Masked rows are sorted behind the valid ones; their ids mean nothing.
  """
  order = jnp.lexsort((second, first, ~where))
  first, second = first[order], second[order]
  is_new = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
  ranks = jnp.concatenate([
      jnp.zeros(1, jnp.int32), jnp.cumsum(is_new, dtype=jnp.int32)])
  return jnp.zeros_like(ranks).at[order].set(ranks)


def _all_true(x: chex.Array) -> chex.Array:
  return jnp.ones(x.shape, bool)


def _counted(
    returns: chex.Array, ids: chex.Array, size: int, where: chex.Array | None
) -> chex.Array:
  """The mask, checked, without what has an id outside `[0, size)`."""
  where = _all_true(returns) if where is None else where
  chex.assert_equal_shape([returns, where])
  return where & masking.in_range(ids, size)


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
  where = _counted(returns, group_ids, num_groups, where)
  ids = jnp.where(where, group_ids, 0)
  statistics = dict(group_ids=ids, num_groups=num_groups, where=where)
  centred = jnp.where(where, masking.as_float(returns), 0)
  counts = masking.group_sum(jnp.ones_like(centred), **statistics)
  # Twice: the first mean is rounded as the returns are, and the second as
  # their differences are.
  for _ in range(2):
    mean = masking.group_sum(centred, **statistics) / jnp.maximum(counts, 1)
    centred = jnp.where(where, centred - mean[ids], 0)
  spread = masking.group_spread(returns, **statistics)
  return centred, counts, spread, ids, where
