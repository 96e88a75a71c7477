"""Credit assignment beside writing an [N, L] array at all.

  python benchmarks/credit_assignment.py

N = 23,295 step rows of L = 256 tokens. Ours goes from outcomes to the success
record, the advantages of every step sample and the order in which the learner
visits them; it never writes [N, L], since the loss broadcasts. Both sides are
timed in one run, the median of repeated calls.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

import step_jax
from step_jax.algorithm import steps

_ROWS, _TOKENS, _STEPS, _GROUP, _TASKS = 23_295, 256, 15, 16, 128


def _milliseconds(function, *args):
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(50):
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - start)
  return 1e3 * float(np.median(times))


@jax.jit
def _credit(task_ids, returns, success_rate, step_mask):
  counts = step_jax.count_outcomes(task_ids, returns > 0, num_tasks=_TASKS)
  success_rate = step_jax.update_success_rate(
      success_rate, *counts, group_size=_GROUP)
  advantages = step_jax.success_weighted_advantages(
      returns, task_ids, success_rate)
  rows = jnp.where(step_mask, advantages[:, None], 0).reshape(-1)
  return (success_rate, rows, *steps.partition(rows != 0))


@jax.jit
def _write(advantages):
  return jnp.broadcast_to(advantages[:, None], (_ROWS, _TOKENS)) + 0.0


def main():
  """Prints both times and their ratio."""
  rng = np.random.default_rng(0)
  slots = _ROWS // _STEPS
  arguments = (
      jnp.asarray(rng.integers(_TASKS, size=slots)),
      jnp.asarray(rng.random(slots) < 0.4, jnp.float32), jnp.zeros(_TASKS),
      jnp.ones((slots, _STEPS), bool))
  ours = _milliseconds(_credit, *arguments)
  write = _milliseconds(_write, jnp.asarray(rng.random(_ROWS), jnp.float32))
  print(f'credit assignment {ours:.2f} ms, writing [{_ROWS}, {_TOKENS}] '
        f'{write:.2f} ms, ratio {ours / write:.2f}')


if __name__ == '__main__':
  main()
