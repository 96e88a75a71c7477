"""The success record: one smoothed success rate s_hat per task (method 1)."""

import chex
import jax
import jax.numpy as jnp

from step_jax.algorithm import masking


def count_outcomes(
    task_ids: chex.Array,
    successes: chex.Array,
    *,
    num_tasks: int,
    where: chex.Array | None = None,
) -> tuple[chex.Array, chex.Array]:
  """Counts n_i and u_i for the tasks that were actually run.

  >>> import jax.numpy as jnp
  >>> n, u = count_outcomes(
  ...     jnp.array([0, 0, 2]), jnp.array([True, False, True]), num_tasks=3)
  >>> n.tolist(), u.tolist()
  ([2, 0, 1], [1, 0, 1])

  Args:
    task_ids: `[B]` int, the task run in each slot (a replaced slot counts for
      the task it became); one outside [0, N) counts nowhere.
    successes: `[B]` bool.
    num_tasks: N.
    where: `[B]` bool, False = lost to infrastructure, counted nowhere.

  Returns:
    `(num_collected [N], num_succeeded [N])`, int32.
  """
  chex.assert_rank([task_ids, successes], 1)
  chex.assert_equal_shape([task_ids, successes])
  if where is None:
    where = jnp.ones(task_ids.shape, bool)
  chex.assert_equal_shape([task_ids, where])
  # One row more takes what is masked, so that its ids may be anything.
  where = where & masking.in_range(task_ids, num_tasks)
  ids = jnp.where(where, task_ids, num_tasks)
  zeros = jnp.zeros(num_tasks + 1, jnp.int32)
  num_collected = zeros.at[ids].add(1)
  num_succeeded = zeros.at[ids].add(jnp.asarray(successes, jnp.int32))
  return num_collected[:num_tasks], num_succeeded[:num_tasks]


def update_success_rate(
    success_rate: chex.Array,
    num_collected: chex.Array,
    num_succeeded: chex.Array,
    *,
    group_size: int,
) -> chex.Array:
  """Adaptive smoothing of s_hat (paper, section 5.1).

  s_hat <- (u + a s_hat G) / (n + a G), a = 1 - n/G if n < G else 0: the record
  of a task counts for the trajectories that it lacks of a full group, history
  is dropped at n >= G, and a task that was not run is unchanged.

  Args:
    success_rate: `[N]` s_hat before the round, in [0, 1].
    num_collected: `[N]` int, n.
    num_succeeded: `[N]` int, u.
    group_size: G.

  Returns:
    `[N]` s_hat after the round.

  Raises:
    ValueError: if `group_size` is less than 1.
  """
  chex.assert_rank([success_rate, num_collected, num_succeeded], 1)
  chex.assert_equal_shape([success_rate, num_collected, num_succeeded])
  if group_size < 1:
    raise ValueError(f'expected group_size >= 1, got {group_size}')
  missing = jnp.maximum(group_size - num_collected, 0)
  success_rate = masking.as_float(success_rate)
  succeeded, missing, total = (
      x.astype(success_rate.dtype) for x in (
          num_succeeded, missing, jnp.maximum(num_collected, group_size)))
  blended = (succeeded + missing * success_rate) / total
  return jnp.where(num_collected > 0, blended, success_rate)


def ema_success_rate(
    success_rate: chex.Array,
    num_collected: chex.Array,
    num_succeeded: chex.Array,
    *,
    decay: float,
) -> chex.Array:
  """Fixed-decay smoothing: s_hat <- d s_hat + (1 - d) u/n where n > 0.

  Args:
    success_rate: `[N]` s_hat before the round, in [0, 1].
    num_collected: `[N]` int, n.
    num_succeeded: `[N]` int, u.
    decay: d in [0, 1]; a traced value is not checked.

  Returns:
    `[N]` s_hat after the round.

  Raises:
    ValueError: if `decay` lies outside [0, 1].
  """
  chex.assert_rank([success_rate, num_collected, num_succeeded], 1)
  chex.assert_equal_shape([success_rate, num_collected, num_succeeded])
  check_decay(decay)
  success_rate = masking.as_float(success_rate)
  observed = num_succeeded.astype(success_rate.dtype) / jnp.maximum(
      num_collected, 1).astype(success_rate.dtype)
  blended = decay * success_rate + (1 - decay) * observed
  return jnp.where(num_collected > 0, blended, success_rate)


def check_decay(decay: chex.Numeric) -> None:
  """Raises as `ema_success_rate`; a traced value is not checked."""
  if not isinstance(decay, jax.core.Tracer) and not 0 <= decay <= 1:
    raise ValueError(f'expected decay in [0, 1], got {decay}')
