"""What a step costs: in the environment, and as an augmented sample.

  python benchmarks/step_cost.py [--config=configs/osworld.py]
      [--methods=all] [--rounds=5]

Both sides in one run, from the same parameters: the seconds of a round's
rollout for each step taken in the environment, and the seconds of SL-GRPO for
each alternative drawn at the stored observations of all those steps (the
paper's Table 3 compares the same: 8.5 times). Then the seconds of a round by
method, each from the warm start, the methods taking turns; the first round of
each, which compiles, is left out.
"""

import functools
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np

from experiments import collectors
from experiments import rounds
from experiments import setups
from experiments import warm_start
from experiments import worlds
from step_jax.algorithm import credit
from step_jax.algorithm import methods
from step_jax.algorithm import steps
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.runs import progress as progress_lib

_CONFIG = config_flags.DEFINE_config_file('config', 'configs/osworld.py')
_METHODS = flags.DEFINE_list('methods', list(methods.METHODS), 'to be timed')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'timed rounds of each method')


def _step_costs(setup, params, collect):
  """Seconds for an environment step and for an alternative."""
  config = setup.config
  num_slots = config.num_base_tasks * config.group_size
  jobs = [workers.Job(slot, slot % len(setup.world.tasks), slot)
          for slot in range(num_slots)]
  player = collect_lib.Player(params, jax.random.key(1), config.temperature)
  num_candidates = config.group_size // 2

  def augment(trajectory):
    singles = steps.flatten_steps(trajectory, jnp.ones(num_slots))
    return jax.block_until_ready(credit.augment_steps(
        player.rng_key, params, singles, singles.mask[:, 0],
        sample_fn=sample_fn, matches_fn=setup.codec.matches,
        max_steps=config.max_steps, num_candidates=num_candidates))

  sample_fn = functools.partial(
      setup.policy.sample, temperature=config.temperature)
  seconds = []
  for _ in range(4):  # the first one compiles
    start = time.monotonic()
    collection = collect(jobs, player, name='rollout')
    collected = time.monotonic()
    augment(collection.trajectory)
    seconds.append((collected - start, time.monotonic() - collected))
  rollout_seconds, augment_seconds = np.median(seconds[1:], axis=0)
  num_steps = int(collection.trajectory.step_mask.sum())
  alternatives = num_steps * (num_candidates - 1)
  environment = rollout_seconds / collection.environment_steps
  augmented = augment_seconds / alternatives
  print(f'environment: {collection.environment_steps} steps in '
        f'{rollout_seconds:.3f} s, {1e3 * environment:.4f} ms each')
  print(f'augmented: {alternatives} alternatives in {augment_seconds:.3f} s, '
        f'{1e3 * augmented:.4f} ms each')
  print(f'ratio {environment / augmented:.1f}', flush=True)


def _round_seconds(setup, params, collect):
  """Prints a line for each method."""
  chosen = {name: setup._replace(method=methods.METHODS[name])
            for name in _METHODS.value}
  states = {
      name: rounds.start(its, params) for name, its in chosen.items()}
  rows = {name: [] for name in chosen}
  for round_index in range(_ROUNDS.value + 1):
    for name, its in chosen.items():
      states[name], row = rounds.play_round(
          its, states[name], round_index, collect)
      rows[name].append((
          row['rollout_seconds'], row['update_seconds'],
          row['environment_steps'], row['step_samples']))
  print(f'{"method":22s} rollout s  update s  environment steps  step samples')
  for name, numbers in rows.items():
    timed = np.array(numbers[1:])
    rollout_seconds, update_seconds = np.median(timed[:, :2], axis=0)
    num_steps, samples = timed[:, 2:].mean(axis=0)
    print(f'{name:22s} {rollout_seconds:9.3f} {update_seconds:9.3f} '
          f'{num_steps:18.0f} {samples:13.0f}')


def main(_):
  """Prints the costs of steps, then the seconds of rounds."""
  config = _CONFIG.value
  setup = setups.make_setup(config, worlds.make_world(config))
  progress = progress_lib.RunProgress(0)
  with collectors.open_collector(setup, progress, lambda: False) as collect:
    params = warm_start.warm_start(
        config, setup.world, setup.policy,
        setup.policy.init(jax.random.key(config.seed)),
        functools.partial(collect, name='warm start'), print)
    _step_costs(setup, params, collect)
    if _METHODS.value:
      _round_seconds(setup, params, collect)


if __name__ == '__main__':
  app.run(main)
