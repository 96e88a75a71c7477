"""What a sampler is, and what several of them share.

A round has Q*G slots whatever the sampler: slot q*G is base task q, and the
sampler decides about the other G-1 slots of each base task. [choice]: papers
that draw whole batches, or budgets, are fitted into this frame.
"""

from typing import Any, Callable, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.algorithm import masking
from step_jax.algorithm import resampling
from step_jax.algorithm import success_rate as success_rate_lib

Rule = Callable[[chex.Array, chex.Array, chex.Array], chex.Array]

# A probability becomes this many of 2^30 tickets: at N = 10^6, 1/N is kept to
# a part in 2000, where the float32 sums of probabilities would blur it.
_TICKETS = 2**30


class Sampler(NamedTuple):
  """Which tasks fill the slots of a round: pure functions, as optax's pairs.

  Attributes:
    init: `(num_tasks) -> state`, a pytree of arrays, saved with the run.
    propose: `(rng_key, base_task_ids [Q], state, *, group_size) -> task_ids
      [Q*G]` int32; slot q*G is always base task q.
    update: `(state, task_ids [B], returns [B], *, where [B]) -> state` after
      the round, of the same types. Trajectories behind the mask, and those of
      tasks outside [0, N), count for nothing; a task without any is unchanged.
  """
  init: Callable[[int], Any]
  propose: Callable[..., chex.Array]
  update: Callable[..., Any]


def uniform() -> Sampler:
  """G copies of each base task: the sampling of all methods but STEP.

  Returns:
    A sampler without a state.
  """
  def propose(rng_key, base_task_ids, state, *, group_size):
    del rng_key, state
    chex.assert_rank(base_task_ids, 1)
    return jnp.repeat(
        jnp.asarray(base_task_ids, jnp.int32), group_size)

  def update(state, task_ids, returns, *, where=None):
    del task_ids, returns, where
    return state

  return Sampler(lambda num_tasks: (), propose, update)


def propose_by(
    probabilities: Callable[[Any], chex.Array]) -> Callable[..., chex.Array]:
  """A `propose` that draws the slots from one distribution over all tasks.

  Args:
    probabilities: `state -> [N]`, with sum 1.

  Returns:
    The function: draws are independent, with replacement.
  """
  def propose(rng_key, base_task_ids, state, *, group_size):
    chex.assert_rank(base_task_ids, 1)
    tickets = jnp.round(probabilities(state) * _TICKETS).astype(jnp.int32)
    tasks = resampling.draw_tasks(
        rng_key, tickets, shape=(base_task_ids.shape[0], group_size))
    return tasks.at[:, 0].set(
        jnp.asarray(base_task_ids, jnp.int32)).reshape(-1)

  return propose


def counted(
    task_ids: chex.Array, returns: chex.Array, where: chex.Array | None,
    num_tasks: int,
) -> chex.Array:
  """Checks a round's arrays, and says which of its trajectories count.

  Args:
    task_ids, returns: `[B]`.
    where: `[B]` bool, False = lost trajectory; None if none was.
    num_tasks: N.

  Returns:
    `[B]` bool: not lost, and of a task in [0, N).
  """
  chex.assert_rank([task_ids, returns], 1)
  chex.assert_equal_shape([task_ids, returns])
  known = masking.in_range(task_ids, num_tasks)
  if where is None:
    return known
  chex.assert_equal_shape([task_ids, where])
  return known & where


def smoothed(
    rule: Rule, record: chex.Array, task_ids: chex.Array, returns: chex.Array,
    where: chex.Array,
) -> chex.Array:
  """A record of success rates after a round; a success is a return above 0.

  Args:
    rule: `(success_rate, collected, succeeded) -> success_rate`.
    record: `[N]` before the round.
    task_ids, returns, where: `[B]`, from `counted`.

  Returns:
    `[N]` after the round, of the same type.
  """
  collected, succeeded = success_rate_lib.count_outcomes(
      task_ids, jnp.asarray(returns) > 0, num_tasks=record.shape[0],
      where=where)
  return rule(record, collected, succeeded).astype(record.dtype)


def check(name: str, value: Any, low: float, high: float) -> None:
  """Checks a number, or an array of them, at the door.

  Args:
    name: of the argument, for the message.
    value: what was given; a traced value is not checked.
    low: the smallest that is right.
    high: the largest.

  Raises:
    ValueError: unless low <= value <= high.
  """
  if isinstance(value, jax.core.Tracer):
    return
  if not np.all((low <= np.asarray(value)) & (np.asarray(value) <= high)):
    raise ValueError(f'expected {name} in [{low}, {high}], got {value}')


def check_positive(name: str, value: Any) -> None:
  """Checks a number at the door.

  Args:
    name: of the argument, for the message.
    value: what was given; a traced value is not checked.

  Raises:
    ValueError: unless value > 0.
  """
  if not isinstance(value, jax.core.Tracer) and not value > 0:
    raise ValueError(f'expected {name} > 0, got {value}')
