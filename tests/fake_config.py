"""A config of the fake world: rounds that take less than a second.

  python experiments/run.py --config=tests/fake_config.py
"""

from configs import common
from step_jax.algorithm import methods


def get_config(arg: str = ''):
  """Returns the config; `arg` is a method, by default 'step'."""
  if arg and arg not in methods.METHODS:
    raise ValueError(
        f'expected a variant of tests/fake_config.py, one of '
        f'{", ".join(methods.METHODS)}, got {arg!r}')
  config = common.base_config()
  config.method = arg or 'step'
  config.env.name = 'tests.fake_world:ButtonEnv'
  config.env.episodes = 'drawn'
  config.group_weight = 'sum'
  config.env.num_workers = 2
  config.num_rounds = 4
  config.num_base_tasks = 4
  config.group_size = 8
  config.max_steps = 4
  config.low_threshold = 0.5
  config.optimizer.learning_rate = 3e-3
  config.optimizer.num_minibatches = 2
  config.policy.width = 16
  config.policy.num_layers = 1
  config.policy.num_heads = 2
  config.policy.vocabulary = 32
  config.warm_start.demonstrations = 6
  config.warm_start.num_steps = 30
  config.warm_start.learning_rate = 3e-3
  config.eval_episodes = 3
  config.trackers = ()
  return config
