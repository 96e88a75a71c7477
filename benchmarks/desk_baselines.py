"""What can be had on Desk without reading: success by chance, DONE and FAIL.

  python benchmarks/desk_baselines.py [--episodes=64]

Prints success rates over feasible and infeasible tasks. 'random' takes legal
verbs, elements and words, each equally likely; 'random to the end' never says
DONE or FAIL and acts until the limit of steps.
"""

import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.envs.desk import simulator
from step_jax.envs.desk import tasks as tasks_lib
from step_jax.policies import element

_DONE, _FAIL = map(element.VERBS.index, ('done', 'fail'))


def random_action(key, observation):
  """Legal tokens `[3]`: every verb, element and word is equally likely."""
  bits = jax.random.bits(key, (2,), jnp.uint32)
  verb = _pick(bits[0] >> 16, observation['verb_mask'])
  place = _pick(bits[1] >> 16, observation['target_mask'][verb])
  word = _pick(bits[0] & 0xFFFF, observation['instruction'] > 0)
  return jnp.stack([verb, place, word])


def _pick(bits, mask):
  """An index where the mask is True, by 16 random bits."""
  count = jnp.cumsum(mask, dtype=jnp.int32)
  chosen = (bits * count[-1].astype(jnp.uint32)) >> 16
  return jnp.sum(count <= chosen.astype(jnp.int32))


def _random_to_the_end(key, observation):
  legal = observation['verb_mask'].at[jnp.array([_DONE, _FAIL])].set(False)
  return random_action(key, observation | {'verb_mask': legal})


def _always(verb, key, observation):
  del key, observation
  return jnp.array([verb, 0, 0])


POLICIES = {
    'random': random_action,
    'random to the end': _random_to_the_end,
    'always DONE': functools.partial(_always, _DONE),
    'always FAIL': functools.partial(_always, _FAIL),
}


@functools.partial(jax.jit, static_argnames=('policy', 'episodes'))
def success_rates(rng_key, *, policy, episodes):
  """Success rates `[N]` of a policy `(key, observation) -> tokens`."""
  num_tasks = len(simulator.TASKS.names)
  keys = jax.random.split(rng_key, num_tasks * episodes)

  def play(carry, step):
    states, seen = carry
    actions = jax.vmap(lambda key, row: policy(
        jax.random.fold_in(key, step), row))(keys, seen)
    states, seen, rewards, _ = jax.vmap(simulator.step)(states, actions)
    return (states, seen), rewards

  begun = jax.vmap(simulator.reset)(
      keys, jnp.arange(num_tasks * episodes) % num_tasks)
  _, rewards = jax.lax.scan(play, begun, jnp.arange(simulator.MAX_STEPS))
  return jnp.sum(rewards, axis=0).reshape(episodes, -1).mean(axis=0)


def main(_):
  """Prints a line for each policy."""
  episodes = flags.FLAGS.episodes
  feasible = simulator.TASKS.tables.is_feasible
  in_training = np.arange(len(feasible)) < tasks_lib.NUM_TRAIN
  print(f'success %, {episodes} episodes a task\n'
        f'{"":18s} feasible infeasible training      all')
  for name, policy in POLICIES.items():
    rates = 100 * np.asarray(success_rates(
        jax.random.key(0), policy=policy, episodes=episodes))
    print(f'{name:18s} {rates[feasible].mean():8.2f}'
          f'{rates[~feasible].mean():11.2f} {rates[in_training].mean():8.2f} '
          f'{rates.mean():8.2f}', flush=True)


if __name__ == '__main__':
  flags.DEFINE_integer('episodes', 64, 'episodes a task')
  app.run(main)
