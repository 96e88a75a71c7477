"""SR-Traj: sampling effort moves from mastered tasks to tasks being learned.

Paper, section 5.1; method 1.
"""

import chex
import jax
import jax.numpy as jnp

from step_jax.algorithm import masking


def replacement_probability(
    success_rate: chex.Array,
    *,
    threshold: float = 0.6,
    sharpness: float = 10.0,
) -> chex.Array:
  """p_rep(s_hat) = 1 / (1 + exp(-kappa (s_hat - s_0))) (paper, section 5.1).

  >>> round(float(replacement_probability(0.6)), 4)
  0.5

  Args:
    success_rate: `[...]` s_hat.
    threshold: s_0; a traced value is not checked.
    sharpness: kappa, likewise.

  Returns:
    `[...]` probabilities that a slot of the task is given away.

  Raises:
    ValueError: if `threshold` lies outside (0, 1] or `sharpness` is not
      above 0.
  """
  check_rule(threshold, sharpness)
  return jax.nn.sigmoid(sharpness * (jnp.asarray(success_rate) - threshold))


def check_rule(threshold: chex.Numeric, sharpness: chex.Numeric) -> None:
  """Checks the numbers of the replacement rule (method 2) at the door.

  Args:
    threshold: s_0; a traced value is not checked.
    sharpness: kappa; likewise.

  Raises:
    ValueError: unless 0 < threshold <= 1 and sharpness > 0.
  """
  traced = jax.core.Tracer
  if not isinstance(threshold, traced) and not 0 < threshold <= 1:
    raise ValueError(f'expected threshold in (0, 1], got {threshold}')
  if not isinstance(sharpness, traced) and not sharpness > 0:
    raise ValueError(f'expected sharpness > 0, got {sharpness}')


def draw_tasks(
    rng_key: chex.PRNGKey, tickets: chex.Array, *, shape: tuple[int, ...]
) -> chex.Array:
  """Draws tasks in proportion to their tickets, independently of each other.

  A ticket is drawn, and its owner looked up in the running count of tickets:
  exact, and of the size of tasks plus draws, never of their product.

  Args:
    rng_key: key.
    tickets: `[N]` bool or int32, none below 0, fewer than 2^31 together.
    shape: of the draws.

  Returns:
    `shape` int32 tasks; one without tickets is never drawn. If there is no
    ticket at all, they mean nothing, but lie in [0, N).
  """
  chex.assert_rank(tickets, 1)
  owned = jnp.cumsum(tickets, dtype=jnp.int32)
  bits = jax.random.bits(rng_key, shape, jnp.uint32)
  drawn = _high_product(bits, owned[-1].astype(jnp.uint32))
  tasks = jnp.searchsorted(owned, drawn.astype(jnp.int32), side='right')
  return jnp.minimum(tasks, tickets.shape[0] - 1).astype(jnp.int32)


def _high_product(a: chex.Array, b: chex.Array) -> chex.Array:
  """floor(a b / 2^32) of uint32: a number below b, if `a` is 32 random bits.

  Each comes with its probability to 2^-32. `jax.random.randint` takes the
  remainder instead: from 2^16 on its wider draw overflows to nothing, and near
  2^30 some numbers are a third likelier than others (jax 0.10).
  """
  high_a, low_a, high_b, low_b = a >> 16, a & 0xffff, b >> 16, b & 0xffff
  left, right = high_a * low_b, low_a * high_b
  middle = (left & 0xffff) + (right & 0xffff) + ((low_a * low_b) >> 16)
  return high_a * high_b + (left >> 16) + (right >> 16) + (middle >> 16)


def resample_tasks(
    rng_key: chex.PRNGKey,
    base_task_ids: chex.Array,
    success_rate: chex.Array,
    *,
    group_size: int,
    threshold: float = 0.6,
    sharpness: float = 10.0,
) -> chex.Array:
  """Allocates the round's trajectory slots to tasks (SR-Traj, section 5.1).

  Each base task gives G slots. Its first slot always keeps it; each of the
  others is replaced with probability p_rep(s_hat) by a task drawn uniformly,
  with replacement, from the task cache C_Q = {j : 0 < s_hat_j < s_0}. An empty
  cache replaces nothing.

  Args:
    rng_key: key.
    base_task_ids: `[Q]` int; one outside [0, N) keeps all of its slots.
    success_rate: `[N]` s_hat of all tasks.
    group_size: G.
    threshold: s_0.
    sharpness: kappa.

  Returns:
    `[Q*G]` int32 task ids; slot q*G is base task q, slots q*G+1 .. q*G+G-1 may
    be replaced.

  Raises:
    ValueError: if `group_size` is less than 1, or as above.
  """
  chex.assert_rank([base_task_ids, success_rate], 1)
  if group_size < 1:
    raise ValueError(f'expected group_size >= 1, got {group_size}')
  replace_key, draw_key = jax.random.split(rng_key)
  success_rate = jnp.asarray(success_rate)
  shape = (base_task_ids.shape[0], group_size)
  base = jnp.broadcast_to(
      jnp.asarray(base_task_ids)[:, None], shape).astype(jnp.int32)

  in_cache = (0 < success_rate) & (success_rate < threshold)
  drawn = draw_tasks(draw_key, in_cache, shape=shape)
  known = masking.in_range(base_task_ids, success_rate.shape[0])
  probability = jnp.where(known, replacement_probability(
      success_rate[jnp.where(known, base_task_ids, 0)], threshold=threshold,
      sharpness=sharpness), 0)
  replaced = jax.random.uniform(replace_key, shape) < probability[:, None]
  replaced = replaced.at[:, 0].set(False) & jnp.any(in_cache)
  return jnp.where(replaced, drawn, base).reshape(-1)
