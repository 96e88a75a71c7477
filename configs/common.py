"""The fields of every config, with the paper's values where it gives them."""

import ml_collections
from ml_collections import config_dict

import step_jax


def base_config() -> ml_collections.ConfigDict:
  """Returns the fields every run has; a config file sets what differs.

  Values marked [choice] are the project's: the paper is silent.
  """
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.num_rounds = 50
  config.num_base_tasks = 16  # Q, base tasks a round
  config.group_size = 16  # G, trajectory slots a base task gives
  config.method = 'step'  # a name of step_jax.METHODS
  # A name of step_jax.samplers: 'uniform', 'sr_traj', 'frontier', 'knapsack',
  # 'plr' or 'spo'; empty is the method's own.
  config.sampler = ''
  config.smoothing = 'adaptive'  # of s_hat: 'adaptive', or 'ema' [choice]
  config.ema_decay = 0.5  # d, for smoothing='ema' [choice]
  config.threshold = 0.6  # s_0, tasks below it are in the cache
  config.sharpness = 10.0  # kappa, of the replacement probability
  config.low_threshold = 0.2  # s_low, tasks up to it get step-level groups
  # A step-level group counts as the 'sample' it replaces, or each of its
  # responses as one ('sum', the paper read literally).
  config.group_weight = 'sample'  # [choice]
  config.max_steps = 15  # T, environment steps of an episode
  config.temperature = 0.7  # when training
  config.eval_temperature = 0.0  # 0 is the most likely action

  # 0, or 1: a round is played while the one before it is learned from, by the
  # parameters of then; importance_cap corrects for it.
  config.lag = 0  # [choice]

  # A round ends when this share of its slots has ended and the others have not
  # in another close_after seconds: they go on beside the next one, and count
  # for s_hat, but nothing is learned from them. At 1 all are waited for.
  config.close_at = 1.0
  config.close_after = 30.0  # [choice]

  # Devices: rows are cut along 'data', a large model along both; -1 takes what
  # is left. A mesh of one device is none.
  config.mesh = ml_collections.ConfigDict({'data': -1, 'model': 1})

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.name = 'adamw'  # any optimizer of optax
  config.optimizer.arguments = ml_collections.ConfigDict()  # of it, besides
  config.optimizer.mu_dtype = ''  # of its first moment; empty: the parameters'
  config.optimizer.learning_rate = 1e-6  # of AdamW, for a 7B model [choice]
  config.optimizer.warmup_rounds = 0  # rounds of linear warm-up [choice]
  # The round at which a cosine has taken the rate to a tenth; 0: constant.
  config.optimizer.decay_rounds = 0  # [choice]
  config.optimizer.weight_decay = 0.01  # [choice]
  config.optimizer.max_grad_norm = 1.0  # [choice]
  config.optimizer.clip_low = 0.2  # [choice]
  config.optimizer.clip_high = 0.3  # [choice]
  # C, of the weight that corrects for a sampler of other precision or kernels
  # than the learner's; 0: no weight.
  config.optimizer.importance_cap = 0.0  # [choice]
  config.optimizer.entropy_bonus = 0.0  # a nat's worth in J [choice]
  config.optimizer.num_epochs = 1  # passes over a round [choice]
  config.optimizer.num_minibatches = 4  # optimiser steps a pass [choice]
  config.optimizer.micro_batch_size = 8  # responses computed at once

  config.env = ml_collections.ConfigDict()
  config.env.name = 'miniwob'  # 'desk', 'package.module:EnvClass', ...
  config.env.description = ''  # told in the first line of a run
  config.env.tasks = ()  # names or task files; empty is the training set
  # Task files that cannot be played are an error, or are left out.
  config.env.skip_unsupported = False
  # A task is one instance, the same in every round and in evaluation, as an
  # OSWorld task file is ('fixed'), or drawn anew each round ('drawn').
  config.env.episodes = 'fixed'
  config.env.arguments = ml_collections.ConfigDict()  # of its class, besides
  config.env.num_workers = 4  # processes, one environment each
  config.env.backend = 'processes'  # of this machine; or 'ray', a cluster's
  config.env.ray_address = ''  # 'ray://host:10001', 'auto'; '' starts Ray here
  config.env.step_timeout = 20.0  # seconds for a step or a reset
  config.env.start_timeout = 120.0  # seconds to start an environment

  config.policy = ml_collections.ConfigDict()
  config.policy.name = 'element'  # or 'grid', which reads pictures
  config.policy.width = 96  # D
  config.policy.num_layers = 3
  config.policy.num_heads = 4
  config.policy.vocabulary = 1024  # rows of the hashed word table
  config.policy.acting_batch_size = 4  # rows of a policy call

  # Who answers rows: the policy in this process, in calls ('local') or, if its
  # name is 'qwen_vl', in slots that are free as soon as a response has ended
  # ('continuous'); or inference servers ('sglang' or 'vllm'), if it has a
  # checkpoint, too.
  config.actor = ml_collections.ConfigDict()
  config.actor.name = 'local'
  config.actor.addresses = ()  # such as 'http://10.0.0.1:30000'
  config.actor.timeout = 120.0  # seconds for an answer, or for one to come back
  # Nats by which a server's log-probs of a fixed prompt may differ from our own
  # model's, on average, when it has loaded parameters.
  config.actor.bound = 0.1  # [choice]
  config.actor.dtype = 'bfloat16'  # of the parameters that it loads
  # They are written there, by the same path for all machines; empty: served/ of
  # the run's folder.
  config.actor.folder = ''

  config.warm_start = ml_collections.ConfigDict()
  config.warm_start.demonstrations = 10  # a task; 0 starts from nothing
  config.warm_start.num_steps = 300  # imitation steps
  config.warm_start.batch_size = 32
  config.warm_start.learning_rate = 1e-3

  config.checkpoint_every = 1  # rounds; with k, up to k rounds can be lost
  config.eval_every = 0  # rounds; 0 evaluates at the beginning and the end
  config.eval_episodes = 50  # a task

  # Programs that show the run, see docs/running.md: some of 'tensorboard',
  # 'wandb', 'mlflow', and 'auto': tensorboard if tensorboardX is installed.
  config.trackers = ('auto',)

  # Episodes that are kept to be looked at, see docs/episodes.md, besides each
  # task's first success and latest failure.
  config.episodes = ml_collections.ConfigDict()
  config.episodes.rounds = 10  # of the last rounds; 0 keeps none [choice]
  config.episodes.slots = 4  # of each of these rounds [choice]
  config.episodes.eval_slots = 16  # of each evaluation [choice]
  config.episodes.picture_size = 1280  # pixels of the longer side [choice]
  return config.lock()


def set_method(
    config: ml_collections.ConfigDict, arg: str, file: str, others: str = ''
) -> None:
  """Sets the method that a variant names; without a variant it stays.

  Args:
    config: is changed.
    arg: the variant.
    file: name of the config's file, for the message.
    others: the file's other variants, for the message.

  Raises:
    ValueError: if there is no such method.
  """
  if arg in step_jax.METHODS:
    config.method = arg
  elif arg:
    others = others and f'{others} or '
    raise ValueError(
        f'expected a variant of configs/{file}, {others}one of '
        f'{", ".join(step_jax.METHODS)}, got {arg!r}')


def add_vision_language(config: ml_collections.ConfigDict) -> None:
  """Adds the fields of a policy that reads pictures and writes text."""
  with config.unlocked():
    policy = config.policy
    policy.name = 'qwen_vl'
    # The folder of config.json, safetensors and tokenizer.json. If it is empty,
    # the model is a random Qwen2.5-VL of width, num_layers, num_heads and:
    policy.checkpoint = ''
    policy.vision_layers = 2
    policy.rope_theta = 100.0  # below a real model's: positions are few
    policy.words = ''  # a text whose tokens it knows; others are spelt in bytes
    policy.dtype = 'float32'  # of products; parameters are float32
    policy.remat = False  # recomputes layers in the backward pass
    # Adapters (LoRA) of this rank learn, and nothing else; 0: everything does.
    policy.lora = ml_collections.ConfigDict({
        'rank': 0, 'alpha': 32.0,
        'targets': ('query', 'key', 'value', 'output', 'gate', 'up', 'down'),
        'frozen_dtype': 'bfloat16'})  # of the parameters that do not learn
    # What the model was trained on, see policies/qwen_vl/versions.py:
    # 'ui_tars_dpo', 'ui_tars_1_5', 'qwen2_5_vl', or 'auto', by config.json.
    policy.version = 'auto'
    # The version's, 'ui_tars_dpo', 'ui_tars_1_5', or 'short': nothing but the
    # instruction.
    policy.prompt = 'ui_tars'
    policy.convention = 'thousand'  # of coordinates, or 'pixels'
    policy.screen_size = (1920, 1080)  # pixels of a picture, at most
    policy.min_pixels = 56 * 56  # of a picture as the model sees it
    policy.max_pixels = 28 * 28 * 1280
    policy.prompt_length = 2048  # P, tokens, those of the picture included
    policy.response_length = 128  # L, tokens


def add_large_model(config: ml_collections.ConfigDict) -> None:
  """A vision-language model that you have, and that comes trained."""
  add_vision_language(config)
  with config.unlocked():
    config.policy.checkpoint = config_dict.placeholder(str)
    config.policy.convention = config_dict.placeholder(str)  # the version's
    for name in ('min_pixels', 'max_pixels', 'prompt_length',
                 'response_length'):
      config.policy[name] = config_dict.placeholder(int)  # likewise
  config.policy.dtype = 'bfloat16'
  config.policy.remat = True
  config.optimizer.importance_cap = 2.0  # its sampler rounds otherwise
  config.optimizer.micro_batch_size = 8  # a group of K = 8 is one
  config.warm_start.demonstrations = 0
  config.eval_episodes = 1
