"""Environment steps per second: our workers beside AsyncVectorEnv.

  python benchmarks/miniwob_throughput.py [--workers=4] [--episodes=160]

Both drive the same MiniWoB++ tasks in the same number of browser processes with
the same policy at the same parameters, in one run, one after the other:
`gymnasium.vector.AsyncVectorEnv` steps all environments together and waits for
the slowest; the worker pool answers whoever is ready. Only actions that reach a
running episode count. Starting the browsers is not timed.
"""

import functools
import itertools
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app
from absl import flags
import gymnasium
import jax
import numpy as np

from configs import miniwob as miniwob_config
from experiments import setups
from experiments import worlds
from step_jax.policies import element
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.rollout.actors import local

_WORKERS = flags.DEFINE_integer('workers', 4, 'processes')
_EPISODES = flags.DEFINE_integer('episodes', 160, 'episodes to play')


class _Episodes(gymnasium.Wrapper):
  """Takes the next episode of its share at every reset."""

  def __init__(self, env, index, count, episodes):
    super().__init__(env)
    self._jobs = itertools.cycle(
        (slot % len(env.tasks), slot) for slot in range(
            index, episodes, count))

  def reset(self, *, seed=None, options=None):
    task_id, seed = next(self._jobs)
    return self.env.reset(seed=seed, options={'task_id': task_id})


def _make(make_env, index, count, episodes):
  return _Episodes(make_env(), index, count, episodes)


def _ours(setup, act):
  jobs = [
      workers.Job(slot, slot % len(setup.world.tasks), slot)
      for slot in range(_EPISODES.value)]
  with worlds.make_pool(setup.world, setup.config) as pool:
    play = functools.partial(
        collect_lib.collect, pool, actor=local.Immediate(act),
        example=setup.world.example,
        codec=setup.codec, num_tokens=element.NUM_TOKENS,
        max_steps=setup.config.max_steps)
    play(jobs[:_WORKERS.value])  # browsers and compilation
    start = time.monotonic()
    steps = play(jobs).environment_steps
    return steps, time.monotonic() - start


def _theirs(setup, act):
  count = _WORKERS.value
  envs = gymnasium.vector.AsyncVectorEnv(
      [functools.partial(_make, setup.world.make_env, index, count,
                         _EPISODES.value)
       for index in range(count)], context='spawn',
      autoreset_mode=gymnasium.vector.AutoresetMode.NEXT_STEP)
  observations, _ = envs.reset()
  history = np.stack([setup.codec.empty_history] * count)
  running = np.ones(count, bool)
  step_ids = np.zeros(count, np.int32)
  steps = episodes = 0
  start = time.monotonic()
  while episodes < _EPISODES.value:
    seen = observations | {'history': history}
    sample = act(collect_lib.Rows(
        np.arange(count), step_ids, seen, [{}] * count))
    tokens = np.asarray(sample.tokens)
    steps += int(running.sum())
    for i in range(count):
      row = jax.tree.map(lambda x: x[i], seen)
      history[i] = (
          setup.codec.remember(history[i], row, tokens[i]) if running[i]
          else setup.codec.empty_history)
    observations, _, terminated, truncated, _ = envs.step(tokens)
    ended = terminated | truncated
    episodes += int(ended.sum())
    # The step after an end is the reset, whose action is ignored.
    step_ids = np.where(running, step_ids + 1, 0).astype(np.int32)
    running = ~ended
  seconds = time.monotonic() - start
  envs.close()
  return steps, seconds


def main(_):
  """Prints both sides and their ratio."""
  config = miniwob_config.get_config()
  config.env.num_workers = _WORKERS.value
  config.policy.acting_batch_size = _WORKERS.value
  setup = setups.make_setup(config, worlds.make_world(config))
  player = collect_lib.Player(
      setup.policy.init(jax.random.key(0)), jax.random.key(1),
      config.temperature)
  act = local.policy_actor(
      setup.policy, player, batch_size=_WORKERS.value)
  rates = {}
  for name, play in (('workers', _ours), ('AsyncVectorEnv', _theirs),
                     ('workers again', _ours)):
    steps, seconds = play(setup, act)
    rates[name] = steps / seconds
    print(f'{name:15s} {steps} steps in {seconds:.1f} s: '
          f'{rates[name]:.1f} steps/s', flush=True)
  ours = (rates['workers'] + rates['workers again']) / 2
  print(f'ratio {ours / rates["AsyncVectorEnv"]:.2f}')


if __name__ == '__main__':
  app.run(main)
