"""Credit assignment beside writing an [N, L] array at all.

  python benchmarks/credit_assignment.py [--verl]

N = 23,295 step rows of L = 256 tokens. Ours goes from outcomes to the success
record, the advantages of every step sample and the order in which the learner
visits them; it never writes [N, L], since the loss broadcasts: its temporaries
and results together are printed beside the bytes of that array. Both sides are
timed in one run, the median of repeated calls.

Who wants [N, L] should give its buffer: it is written twice, at N and at 2 N
rows, as a fresh array and into a donated one, with the page faults of a call.
glibc maps what is above 32 MB anew at each call, in JAX as in torch.

Then the same half-round, and the proposal before it, at other sizes: N tasks
from 10^2 to 10^6, B trajectories of 15 steps from 10^2 to 10^5.

`--verl` times that half-round and, in turns, what verl calls for the advantages
alone, which it writes as [N, L]; verl 0.9.1 has to be in the environment.
"""

import argparse
import functools
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

import step_jax
from step_jax.learning import learner

_ROWS, _TOKENS, _STEPS, _GROUP, _TASKS = 23_295, 256, 15, 16, 128


def _milliseconds(function, *args, calls=50):
  jax.block_until_ready(function(*args))
  times = []
  for _ in range(calls):
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    times.append(time.perf_counter() - start)
  return 1e3 * float(np.median(times))


@jax.jit
def _credit(task_ids, returns, success_rate, step_mask):
  counts = step_jax.count_outcomes(
      task_ids, returns > 0, num_tasks=success_rate.shape[0])
  success_rate = step_jax.update_success_rate(
      success_rate, *counts, group_size=_GROUP)
  advantages = step_jax.success_weighted_advantages(
      returns, task_ids, success_rate)
  rows = jnp.where(step_mask, advantages[:, None], 0).reshape(-1, 1)
  singles = step_jax.StepBatch(
      observations=None, actions=None, log_probs=None, token_mask=None,
      advantages=rows, mask=rows != 0)
  batch = step_jax.RoundBatch(
      singles=singles, groups=None, single_units=jnp.arange(rows.shape[0]))
  return success_rate, rows, learner.deal_rows(
      jnp.int32(0), jnp.int32(0), batch, num_minibatches=4)


@functools.partial(jax.jit, static_argnames='group_size')
def _propose(rng_key, base_ids, success_rate, *, group_size):
  return step_jax.resample_tasks(
      rng_key, base_ids, success_rate, group_size=group_size)


@jax.jit
def _write(advantages):
  return jnp.broadcast_to(
      advantages[:, None], (advantages.size, _TOKENS)) + 0.0


@functools.partial(jax.jit, donate_argnums=0)
def _write_into(buffer, advantages):
  return buffer.at[:].set(advantages[:, None])


def _write_both_ways(rng, rows):
  """Prints the times and page faults of a fresh [N, L], and of a kept one."""
  advantages = jnp.asarray(rng.random(rows), jnp.float32)
  kept = [_write(advantages)]

  def write_into(advantages):
    kept[0] = _write_into(kept[0], advantages)
    return kept[0]

  for name, write in (('fresh', _write), ('donated', write_into)):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    time_each = _milliseconds(write, advantages)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(f'writing [{rows}, {_TOKENS}] {name}: {time_each:.2f} ms, '
          f'{faults / 51:.0f} page faults')


def _round(rng, tasks, slots):
  return (
      jnp.asarray(rng.integers(tasks, size=slots)),
      jnp.asarray(rng.random(slots) < 0.4, jnp.float32), jnp.zeros(tasks),
      jnp.ones((slots, _STEPS), bool))


def _sweep(rng, tasks, slots):
  """Prints the times of both half-rounds."""
  rates = jnp.asarray(rng.random(tasks), jnp.float32)
  base_ids = jnp.asarray(rng.integers(tasks, size=slots // _GROUP))
  propose = _milliseconds(
      functools.partial(_propose, group_size=_GROUP), jax.random.key(0),
      base_ids, rates, calls=5)
  credit = _milliseconds(_credit, *_round(rng, tasks, slots), calls=5)
  print(f'{tasks:9,d} tasks {slots:8,d} trajectories: propose '
        f'{propose:.2f} ms, credit {credit:.2f} ms')


def _beside_verl(rng, turns=40):
  """Prints the times of both, medians of calls in turns."""
  import torch
  from verl.trainer.ppo import core_algos
  returns = np.repeat(rng.random(_ROWS // _STEPS) < 0.4, _STEPS)
  mask = torch.ones(_ROWS, _TOKENS)
  rewards = torch.zeros(_ROWS, _TOKENS)
  rewards[:, -1] = torch.tensor(returns, dtype=torch.float32)
  groups = np.arange(_ROWS) // (_GROUP * _STEPS)
  arguments = _round(rng, _TASKS, _ROWS // _STEPS)
  times = np.array([
      [_milliseconds(_credit, *arguments, calls=5), _milliseconds(
          core_algos.compute_grpo_vectorized_outcome_advantage, rewards, mask,
          groups, calls=5)] for _ in range(turns)])
  ours, theirs = np.median(times, 0)
  print(f'counts to dealt rows {ours:.2f} ms, verl\'s advantages alone '
        f'{theirs:.2f} ms, ratio {ours / theirs:.2f} '
        f'({turns} turns: {np.median(times[:, 0] / times[:, 1]):.2f})')


def main():
  """Prints both times and their ratio."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--verl', action='store_true')
  rng = np.random.default_rng(0)
  if parser.parse_args().verl:
    return _beside_verl(rng)
  arguments = _round(rng, _TASKS, _ROWS // _STEPS)
  memory = _credit.lower(*arguments).compile().memory_analysis()
  print(f'temporaries and results '
        f'{(memory.temp_size_in_bytes + memory.output_size_in_bytes) / 1e6:.1f}'
        f' MB, [{_ROWS}, {_TOKENS}] {4 * _ROWS * _TOKENS / 1e6:.1f} MB')
  ours = _milliseconds(_credit, *arguments)
  write = _milliseconds(_write, jnp.asarray(rng.random(_ROWS), jnp.float32))
  print(f'credit assignment {ours:.2f} ms, writing [{_ROWS}, {_TOKENS}] '
        f'{write:.2f} ms, ratio {ours / write:.2f}')
  for rows in (_ROWS, 2 * _ROWS):
    _write_both_ways(rng, rows)
  for tasks in (10**2, 10**3, 10**4, 10**5, 10**6):
    _sweep(rng, tasks, 256)
  for slots in (10**2, 10**3, 10**4, 10**5):
    _sweep(rng, _TASKS, slots)


if __name__ == '__main__':
  main()
