"""Runs in miniature for several hosts.

  python experiments/run.py --config=tests/hosts_config.py:pictures
"""

from tests import desk_training_test
from tests import vision_language_test


def get_config(arg: str = ''):
  """Returns the config: of Desk, or of what 'pictures' show in processes."""
  if arg == 'pictures':
    return vision_language_test.make_config(**{
        'num_rounds': 3, 'num_base_tasks': 2, 'group_size': 4, 'max_steps': 3,
        'env.num_workers': 2, 'env.tasks': ('click',), 'eval_episodes': 1,
        'warm_start.demonstrations': 8, 'warm_start.num_steps': 150,
        'warm_start.batch_size': 8, 'warm_start.learning_rate': 1e-2,
        'optimizer.num_minibatches': 2, 'optimizer.learning_rate': 1e-3,
        'policy.acting_batch_size': 4})
  config = desk_training_test.make_config()
  config.num_rounds = 3
  return config
