"""The paper's AndroidWorld experiment, and runs with a small network.

  python experiments/run.py --config=configs/androidworld.py
      --config.env.arguments.addresses="('http://10.0.0.1:5000',)"

This has never been run against a real emulator or phone: it is tested against
a fake phone of the same protocol, see docs/androidworld.md. It holds the
paper's constants (43 of 116 tasks, Q = 16, G = 16). Expect success near 0: the
grid policy sees 80 x 36 pixels and has no demonstrations to begin from.

Variants: one for each method, such as `:step_grpo` or `:dapo`;
  `:paper` is the paper's experiment, with a vision-language model that you
     have:
       python experiments/run.py --config=configs/androidworld.py:paper
           --config.policy.checkpoint=DIR
           --config.env.arguments.addresses="('http://10.0.0.1:5000',)"
     Prompt, coordinates, pixels and lengths are those of UI-TARS-DPO for a
     Qwen2-VL, and of UI-TARS-1.5 for a Qwen2.5-VL; `policy.version` and the
     fields of each give others. It was never run with 7B weights; a
     test runs a round of it with a tiny model on the fake phone.
  `:fake_phone` trains on two fake phones, which it starts by itself:
     python experiments/run.py --config=configs/androidworld.py:fake_phone
     It needs pip install -e '.[androidworld,test]'. Measured: greedy success
     over 10 evaluation episodes of each of the 12 tasks went from 62 % after
     the warm start to 88 % after 40 rounds with seed 0, and from 50 to 76 %
     with seed 1; 7 and 10 minutes on two busy cores.
"""

import ml_collections

from configs import common


def get_config(arg: str = ''):
  """Returns the config of a variant.

  Raises:
    ValueError: for an unknown variant.
  """
  config = common.base_config()  # Q = 16, G = 16, kappa = 10, s_0 = 0.6, ...
  if arg == 'fake_phone':
    return _on_fake_phones(config)
  config.num_rounds = 40  # 15 epochs of 43 tasks [choice]
  config.env.name = 'androidworld'
  config.env.description = 'AndroidWorld servers'
  config.env.num_workers = 1  # at most one for each address
  # Above what the requests of a reset may take together.
  config.env.step_timeout = config.env.start_timeout = 830.0
  with config.unlocked():
    config.env.arguments.addresses = ('http://127.0.0.1:5000',)
    config.env.arguments.step_timeout = 90.0  # seconds for a request
    config.env.arguments.task_timeout = 180.0  # to prepare or score a task
  if arg == 'paper':
    common.add_large_model(config)
    config.policy.screen_size = (1080, 2400)
    return config
  _set_grid_policy(config)
  config.optimizer.learning_rate = 3e-4  # of a 0.2 M network
  config.warm_start.demonstrations = 0  # nobody has written any
  config.eval_episodes = 2
  common.set_method(config, arg, 'androidworld.py', 'fake_phone, paper')
  return config


def _set_grid_policy(config: ml_collections.ConfigDict) -> None:
  """A network of 0.2 M parameters that sees pixels."""
  config.policy.name = 'grid'
  config.policy.width = 48
  config.policy.num_layers = 2
  config.optimizer.max_grad_norm = 0.3  # a rare success is no jump


def _on_fake_phones(
    config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A run in miniature: 12 tasks of 3 to 5 steps in three apps."""
  _set_grid_policy(config)
  config.num_rounds = 40
  config.num_base_tasks = 36  # Q, three episodes of each task
  config.group_size = 4  # G: screens are worth more than copies
  config.max_steps = 8  # T
  config.optimizer.learning_rate = 1e-4  # of a 0.2 M network
  config.optimizer.warmup_rounds = 2
  config.optimizer.decay_rounds = 40  # of num_rounds
  config.env.name = 'tests.fake_phone_env:FakePhoneEnv'
  config.env.episodes = 'drawn'  # and groups by sum: what was measured
  config.group_weight = 'sum'
  config.env.description = 'fake phones of this machine, no emulator'
  config.env.num_workers = 2
  config.env.step_timeout = 120.0  # seconds, above those of the requests
  with config.unlocked():
    config.env.arguments.step_timeout = 15.0
    config.env.arguments.task_timeout = 15.0
  config.warm_start.num_steps = 100
  config.eval_every = 10
  config.eval_episodes = 10
  return config
