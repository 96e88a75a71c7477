"""STEP on 16 MiniWoB++ tasks in real Chromium browsers.

  python experiments/run.py --config=configs/miniwob.py

Expect, with seed 0, greedy success over 50 evaluation episodes a task to go
from 48 % after the warm start to 92 %: 78 % after 40 rounds, 90 % after 80.
Measured once: 32 minutes, evaluations included, on 2 cores shared with
other work (load 15 to 20). The warm start is cut short on purpose: imitation
alone gets further, see docs/miniwob.md.

Variants: `:smoke`, a run in miniature (four tasks, 55 % to 75 % in a minute and
a half), and one for each method, such as `:rloo` or `:step_no_resampling`.
"""

from configs import common


def get_config(arg: str = ''):
  """Returns the config of a variant.

  Raises:
    ValueError: for an unknown variant.
  """
  config = common.base_config()
  config.num_rounds = 120
  config.env.episodes = 'drawn'  # and groups by sum: what was measured
  config.group_weight = 'sum'
  config.group_size = 8  # G: new episodes matter more than copies here
  config.optimizer.learning_rate = 3e-4  # of a 0.2 M network
  config.optimizer.warmup_rounds = 1
  config.optimizer.decay_rounds = 120  # of num_rounds: tasks settle together
  config.optimizer.max_grad_norm = 0.3  # a rare success is no jump
  config.optimizer.num_minibatches = 4
  config.policy.width = 64
  config.warm_start.num_steps = 11  # few, so that most is left to learn
  config.eval_every = 40
  if arg == 'smoke':
    config.num_rounds = 10
    config.num_base_tasks = 4
    config.optimizer.learning_rate = 1e-3
    config.env.tasks = (
        'click-button', 'click-link', 'enter-text', 'click-dialog-2')
    config.warm_start.demonstrations = 5
    config.warm_start.num_steps = 8
    config.eval_episodes = 5
  else:
    common.set_method(config, arg, 'miniwob.py', 'smoke')
  return config
