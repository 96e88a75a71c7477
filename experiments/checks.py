"""What a user can get wrong, told in one sentence within seconds."""

from collections.abc import Callable
import importlib.util
import json
import math
import operator
import pathlib
from typing import Any
import urllib.parse

import ml_collections

from configs import common
from step_jax.algorithm import methods
from step_jax.policies.qwen_vl import text as text_lib
from step_jax.policies.qwen_vl import versions
from step_jax.runs import errors
from step_jax.runs import metrics
from step_jax.runs import trackers

SAMPLERS = ('uniform', 'sr_traj', 'frontier', 'knapsack', 'plr', 'spo')

# A resumed run may change these: they do not touch what is learned.
FREE_FIELDS = (
    'num_rounds', 'close_after', 'checkpoint_every', 'eval_every',
    'eval_episodes', 'trackers', 'episodes.rounds', 'episodes.slots',
    'episodes.eval_slots', 'episodes.picture_size', 'mesh.data', 'mesh.model',
    'actor.addresses', 'actor.timeout', 'actor.folder',
    'env.num_workers', 'env.description', 'env.step_timeout',
    'env.backend', 'env.ray_address',
    'env.start_timeout', 'env.arguments.addresses', 'env.arguments.address',
    'env.arguments.step_timeout', 'env.arguments.reset_timeout',
    'env.arguments.desktop_env_python', 'env.arguments.evaluator_processes',
    'env.arguments.task_timeout')

_COUNTS = (
    'num_rounds', 'num_base_tasks', 'group_size', 'max_steps',
    'eval_episodes', 'episodes.picture_size', 'checkpoint_every',
    'optimizer.num_epochs', 'optimizer.num_minibatches',
    'optimizer.micro_batch_size',
    'env.num_workers', 'policy.width', 'policy.num_layers',
    'policy.num_heads', 'policy.vocabulary', 'policy.acting_batch_size',
    'warm_start.num_steps', 'warm_start.batch_size')
_NOT_NEGATIVE = (
    'seed', 'close_after', 'eval_every', 'episodes.rounds', 'episodes.slots',
    'episodes.eval_slots', 'eval_temperature', 'optimizer.warmup_rounds',
    'optimizer.decay_rounds', 'optimizer.weight_decay', 'optimizer.clip_high',
    'optimizer.importance_cap', 'optimizer.entropy_bonus',
    'warm_start.demonstrations')
_POSITIVE = (
    'sharpness', 'temperature', 'optimizer.learning_rate',
    'optimizer.max_grad_norm', 'actor.timeout', 'actor.bound',
    'env.step_timeout', 'env.start_timeout',
    'warm_start.learning_rate')
_SHARES = ('low_threshold', 'ema_decay', 'optimizer.clip_low')


def check_config(config: ml_collections.ConfigDict) -> None:
  """Checks the values of a config.

  Raises:
    UserError: naming the field, what is expected and what was given.
  """
  def value(field: str) -> Any:
    return operator.attrgetter(field)(config)

  def expect(field: str, good: bool, expected: str) -> None:
    if not good:
      raise errors.UserError(
          f'expected {field} to be {expected}, got {value(field)!r}')

  expect('method', config.method in methods.METHODS,
         f'one of {", ".join(methods.METHODS)}')
  expect('sampler', config.sampler in ('', *SAMPLERS),
         f'empty or one of {", ".join(SAMPLERS)}')
  expect('sampler', not methods.METHODS[config.method].redraw
         or config.sampler in ('', 'uniform'),
         f'empty or uniform with method {config.method}')
  expect('smoothing', config.smoothing in ('adaptive', 'ema'),
         "'adaptive' or 'ema'")
  expect('group_weight', config.group_weight in ('sum', 'sample'),
         "'sum' or 'sample'")
  for field in _COUNTS:
    expect(field, value(field) >= 1, 'at least 1')
  for field in _NOT_NEGATIVE:
    expect(field, 0 <= value(field) < math.inf, 'a number of at least 0')
  for field in _POSITIVE:
    expect(field, 0 < value(field) < math.inf, 'a number above 0')
  for field in _SHARES:
    expect(field, 0 <= value(field) <= 1, 'from 0 to 1')
  _check_environment(config.env, expect)
  expect('lag', config.lag in (0, 1), '0 or 1')
  expect('close_at', .5 <= config.close_at <= 1, 'from 0.5 to 1')
  expect('close_at', config.close_at == 1
         or not methods.METHODS[config.method].redraw,
         f'1 with method {config.method}, which waits for half of a round')
  expect('optimizer.importance_cap',
         not config.lag or config.optimizer.importance_cap > 0,
         'above 0 with lag, whose trajectories are of older parameters')
  expect('threshold', 0 < config.threshold <= 1, 'above 0 and at most 1')
  rounds = config.optimizer.decay_rounds
  expect('optimizer.decay_rounds',
         rounds == 0 or rounds > config.optimizer.warmup_rounds,
         '0 or above optimizer.warmup_rounds')
  expect('policy.name', config.policy.name in ('element', 'grid', 'qwen_vl'),
         "'element', 'grid' or 'qwen_vl'")
  if config.policy.name == 'qwen_vl':
    _check_vision_language(config, expect)
  _check_actor(config, expect)
  expect('policy.num_heads', config.policy.width % config.policy.num_heads
         == 0, 'a divisor of policy.width')
  expect('trackers', set(config.trackers) <= {*trackers.NAMES},
         f'a tuple of some of {", ".join(trackers.NAMES)}')
  if lacking := ','.join(trackers.missing(config.trackers)):
    raise errors.UserError(
        f'trackers {lacking} need what is not installed; try pip install -e '
        f"'.[{lacking}]'")
  method = methods.METHODS[config.method]
  if method.augment or method.redraw:
    expect('group_size', config.group_size >= 4 and config.group_size % 2 == 0,
           f'even and at least 4, as method {config.method} needs')
  elif config.method in ('trajectory_grpo', 'step_grpo', 'rloo', 'gigpo'):
    expect('group_size', config.group_size >= 2, 'at least 2')


def _check_environment(
    env: ml_collections.ConfigDict,
    expect: Callable[[str, bool, str], None]) -> None:
  """Environments: what they play, how many there are, and where."""
  expect('env.episodes', env.episodes in ('fixed', 'drawn'),
         "'fixed' or 'drawn'")
  expect('env.tasks', all(x and isinstance(x, str) for x in env.tasks),
         'a tuple of names')
  addresses = env.arguments.get('addresses', ())
  # A machine of a cluster takes them as its own.
  expect('env.num_workers', not addresses or env.backend == 'ray'
         or env.num_workers <= len(addresses),
         f'at most {len(addresses)}, the number of env.arguments.addresses')
  expect('env.backend', env.backend in ('processes', 'ray'),
         "'processes' or 'ray'")
  address = env.ray_address
  expect('env.ray_address', address in ('', 'auto')
         or address.startswith('ray://'), "'', 'auto' or 'ray://host:port'")
  if env.backend == 'ray' and not importlib.util.find_spec('ray'):
    raise errors.UserError(
        "env.backend 'ray' needs what is not installed; try pip install -e "
        "'.[ray]'")


def _check_actor(
    config: ml_collections.ConfigDict,
    expect: Callable[[str, bool, str], None]) -> None:
  """Inference servers: which ones, and of what they can be."""
  actor = config.actor
  expect('actor.name',
         actor.name in ('local', 'continuous', 'sglang', 'vllm'),
         "'local', 'continuous', 'sglang' or 'vllm'")
  expect('actor.dtype', actor.dtype in ('float32', 'bfloat16'),
         "'float32' or 'bfloat16'")
  is_large = config.policy.name == 'qwen_vl'
  if actor.name == 'continuous':
    expect('actor.name', is_large and not config.policy.lora.rank,
           "'local' without a vision-language model, or with adapters")
  if actor.name in ('local', 'continuous'):
    return
  expect('actor.addresses', len(actor.addresses) > 0 and all(
      isinstance(address, str) and urllib.parse.urlsplit(address).scheme in (
          'http', 'https') for address in actor.addresses),
         "a tuple of addresses such as 'http://10.0.0.1:30000'")
  expect('actor.name', is_large and bool(config.policy.checkpoint),
         "'local' without a policy.checkpoint, which servers load")


def _check_vision_language(
    config: ml_collections.ConfigDict,
    expect: Callable[[str, bool, str], None]) -> None:
  """The fields that `configs.common.add_vision_language` adds."""
  policy = config.policy
  if 'checkpoint' not in policy:
    raise errors.UserError(
        "expected policy.name to be 'qwen_vl' in a config that has its fields, "
        'such as configs/vlm_tiny.py')
  if policy.checkpoint is None:
    raise errors.UserError(
        'expected a checkpoint: give the folder of config.json, safetensors '
        'and tokenizer.json with --config.policy.checkpoint=DIR')
  lora = policy.lora
  expect('policy.lora.rank', lora.rank >= 0, 'at least 0')
  expect('policy.lora.alpha', 0 < lora.alpha < math.inf, 'a number above 0')
  expect('policy.lora.targets',
         lora.targets and set(lora.targets) <= {*text_lib.KERNELS},
         f'some of {", ".join(sorted(text_lib.KERNELS))}')
  expect('policy.lora.frozen_dtype',
         lora.frozen_dtype in ('float32', 'bfloat16'),
         "'float32' or 'bfloat16'")
  expect('policy.checkpoint',
         not policy.checkpoint or pathlib.Path(policy.checkpoint).is_dir(),
         'the folder of a checkpoint')
  # The whole history in one prompt is what makes it another method.
  expect('method', config.method != 'trajectory_grpo',
         'a method of steps, as a vision-language policy has a prompt for each '
         'step')
  for field, choices in (
      ('version', ('auto', *versions.VERSIONS)),
      ('prompt', ('ui_tars', 'short', 'ui_tars_dpo', 'ui_tars_1_5')),
      ('convention', ('thousand', 'pixels')),
      ('dtype', ('float32', 'bfloat16'))):
    expect(f'policy.{field}', policy[field] in choices or (
        policy[field] is None and field == 'convention'),
           f'one of {", ".join(choices)}')
  for field in ('prompt_length', 'response_length', 'min_pixels', 'max_pixels',
                'vision_layers'):
    expect(f'policy.{field}', policy[field] is None or policy[field] >= 1,
           'at least 1')
  expect('policy.screen_size', len(policy.screen_size) == 2 and all(
      side >= 1 for side in policy.screen_size), 'width and height in pixels')
  expect('policy.num_heads', policy.width % (4 * policy.num_heads) == 0,
         'so that 4 x num_heads divides policy.width')


def read_config(path: pathlib.Path) -> ml_collections.ConfigDict:
  """Reads a run's config.json; what it lacks has its default.

  Raises:
    UserError: if it is missing or damaged.
  """
  if not path.exists():
    raise errors.UserError(f'there is no run in {path.parent}: no {path.name}')
  try:
    return _with_defaults(path.read_text())
  except (ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
        f'{path} is damaged ({error}); use another --workdir') from error


def _with_defaults(text: str) -> ml_collections.ConfigDict:
  """A config from JSON, with the fields that came later."""
  config, saved = common.base_config(), json.loads(text)
  if saved['policy']['name'] == 'qwen_vl':
    common.add_vision_language(config)
  with config.unlocked(), config.ignore_type():  # tuples are lists in JSON
    config.update(saved)
  return config


def check_same_config(
    path: pathlib.Path, config: ml_collections.ConfigDict) -> None:
  """Refuses to resume a run under another config.

  Raises:
    UserError: naming the fields that differ.
  """
  saved, given = (
      metrics.flatten(json.loads(one.to_json()))
      for one in (read_config(path), _with_defaults(config.to_json())))
  different = sorted(
      name for name in saved.keys() | given.keys()
      if saved.get(name) != given.get(name) and name not in FREE_FIELDS)
  if different:
    listed = ', '.join(
        f'{name} ({saved.get(name)!r} there, {given.get(name)!r} now)'
        for name in different)
    raise errors.UserError(
        f'the run in {path.parent} was begun with another config: {listed}; '
        'use the same one, or another --workdir')
