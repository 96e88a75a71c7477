"""Environment steps per second: Desk on the CPU beside minigrid.

  pip install minigrid==3.2.0
  python benchmarks/desk_speed.py [--devices=2] [--batch=512] [--repeats=5]

Both play episodes by chance in one run, in turn, and consume every field of
every observation. Desk: all 369 tasks, random legal actions with a key for each
slot, an episode that ended is replaced by one of another task; a jitted scan
on each device. minigrid: MiniGrid-Empty-8x8-v0 in one process, as a gymnasium
user steps it. The other rows leave out a part of Desk's loop, which tells what
the part costs.

Other programs slow down both sides, so each rate is given twice: by the clock,
and by processor time, which is what a core would do that has nothing else to
do. The best of the repeats counts.
"""

import functools
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app
from absl import flags
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import desk_baselines
from step_jax.envs.desk import simulator

_DEVICES = flags.DEFINE_integer('devices', 2, 'CPU devices, one scan each')
_BATCH = flags.DEFINE_integer('batch', 512, 'desktops of a device')
_STEPS = flags.DEFINE_integer('steps', 100, 'steps of a desktop in a scan')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'measurements; the best counts')
_PARTS = ('resets', 'observations', 'random actions')


def _begin(key):
  task = jax.random.randint(
      jax.random.fold_in(key, 1), (), 0, len(simulator.TASKS.names))
  return simulator.reset(key, task)[0]


def _select(done, new, old):
  return jnp.where(done.reshape(-1, *[1] * (old.ndim - 1)), new, old)


def _play(key, *, batch, steps, without=''):
  """A sum of all that was observed and paid, and the number of episodes."""
  def one_step(carry, step):
    states, seen, total, episodes = carry
    step_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
    if without == 'random actions':
      actions = jnp.tile((step % 7) * jnp.array([1, 0, 0]), (batch, 1))
    else:
      actions = jax.vmap(desk_baselines.random_action)(step_keys, seen)
    states, _, rewards, done = jax.vmap(simulator.step)(states, actions)
    if without != 'resets':
      states = jax.tree.map(
          functools.partial(_select, done), jax.vmap(_begin)(step_keys),
          states)
    if without != 'observations':
      seen = jax.vmap(simulator.observe)(states)
    total += rewards + sum(
        jnp.sum(x.reshape(batch, -1).astype(jnp.float32), axis=1)
        for x in jax.tree.leaves(seen))
    return (states, seen, total, episodes + jnp.sum(done)), None

  keys = jax.random.split(key, batch)
  states = jax.vmap(_begin)(keys)
  carry = states, jax.vmap(simulator.observe)(states), jnp.zeros(batch), 0
  _, _, total, episodes = jax.lax.scan(one_step, carry, jnp.arange(steps))[0]
  return jnp.sum(total), episodes


def _make_desk(without=''):
  """`run(seed)` plays on all devices and returns the number of steps."""
  play = jax.pmap(functools.partial(
      _play, batch=_BATCH.value, steps=_STEPS.value, without=without))

  def run(seed):
    jax.block_until_ready(play(
        jax.random.split(jax.random.key(seed), _DEVICES.value)))
    return _DEVICES.value * _BATCH.value * _STEPS.value
  return run


def _make_minigrid(steps=3000):
  """`run(seed)` steps one environment and returns the number of steps."""
  env = gymnasium.make('MiniGrid-Empty-8x8-v0')

  def run(seed):
    actions = np.random.default_rng(seed).integers(
        env.action_space.n, size=steps).tolist()
    env.reset(seed=seed)
    total = 0
    for action in actions:
      seen, reward, terminated, truncated, _ = env.step(action)
      total += seen['image'].sum() + seen['direction'] + len(
          seen['mission']) + reward
      if terminated or truncated:
        env.reset()
    return steps
  return run


def main(_):
  """Prints all rates, the ratio, and what the parts of Desk's loop cost."""
  try:
    import minigrid  # registers its environments
  except ImportError as error:
    raise SystemExit(
        'minigrid is missing: pip install minigrid==3.2.0') from error
  del minigrid
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', _DEVICES.value)
  runs = {'Desk': _make_desk(), 'minigrid': _make_minigrid()} | {
      f'Desk without {part}': _make_desk(part) for part in _PARTS}
  rates = {name: np.zeros(2) for name in runs}
  for repeat in range(-1, _REPEATS.value):  # the first compiles
    for name, run in runs.items():
      start = time.perf_counter(), time.process_time()
      steps = run(repeat + 1)
      wall = time.perf_counter() - start[0]
      # Of one core, times the cores that are used.
      cpu = time.process_time() - start[1]
      cores = 1 if name == 'minigrid' else _DEVICES.value
      if repeat >= 0:
        rates[name] = np.maximum(
            rates[name], [steps / wall, cores * steps / cpu])
    print(f'{repeat + 1} of {_REPEATS.value}: load {os.getloadavg()[0]:.1f} on '
          f'{os.cpu_count()} cores', flush=True)
  print(f'{"steps per second":28s} {"clock":>12s} {"processor":>12s}')
  for name, (wall, cpu) in rates.items():
    print(f'{name:28s} {wall:12,.0f} {cpu:12,.0f}')
  wall, cpu = rates['Desk'] / rates['minigrid']
  print(f'{"Desk / minigrid":28s} {wall:12.0f} {cpu:12.0f}')
  for part in _PARTS:
    share = 1 - rates['Desk'][1] / rates[f'Desk without {part}'][1]
    print(f'{part}: {100 * share:.0f} % of the processor time of a step')


if __name__ == '__main__':
  app.run(main)
