"""A tiny vision-language model that clicks in real browsers, from pixels.

  python experiments/run.py --config=configs/vlm_tiny.py

Needs pip install -e '.[miniwob,vlm]' and Chromium. A random Qwen2.5-VL of
0.4 M parameters with Qwen's tokenizer, cut to the tokens that occur, sees
160 x 210 pixels of two MiniWoB++ tasks of one step and writes UI-TARS text.

Measured once, seed 0: greedy success over 50 evaluation episodes of each task
was 39 % after the warm start and 46 % after 120 rounds (between: 42, 42, 48 %;
100 episodes: give or take 5 %), in 13 minutes on two cores beside other work.
See docs/vlm.md for what it does not learn.

Variants: one for each method of steps, such as `:step_grpo`.
"""

from configs import common


def get_config(arg: str = ''):
  """Returns the config of a variant.

  Raises:
    ValueError: for an unknown variant.
  """
  config = common.base_config()
  common.add_vision_language(config)
  config.num_rounds = 120
  config.num_base_tasks = 16  # Q, each task eight times
  config.group_size = 4  # G: screens are worth more than copies
  config.max_steps = 2  # T
  config.optimizer.learning_rate = 3e-4  # of a 0.4 M network
  config.optimizer.decay_rounds = 120  # of num_rounds
  config.optimizer.max_grad_norm = 0.3  # a rare success is no jump
  config.optimizer.num_minibatches = 2
  config.env.name = 'miniwob'
  config.env.episodes = 'drawn'  # and groups by sum: what was measured
  config.group_weight = 'sum'
  config.env.tasks = ('identify-shape', 'click-test')
  config.env.num_workers = 2
  config.policy.width = 64
  config.policy.num_layers = 2
  config.policy.words = (
      'Click the button that best describes the figure below.')
  config.policy.prompt = 'short'
  config.policy.screen_size = (160, 210)
  config.policy.prompt_length = 96
  config.policy.response_length = 24
  config.policy.acting_batch_size = 2
  config.warm_start.demonstrations = 300  # of one click each
  config.warm_start.num_steps = 250  # few: exploring needs entropy
  config.warm_start.learning_rate = 2e-3
  config.checkpoint_every = 5  # a round takes seconds
  config.eval_every = 30
  common.set_method(config, arg, 'vlm_tiny.py')
  return config
