"""Tests of every config file, in every variant."""
import importlib
import pathlib
import re

from absl import flags
import jax.numpy as jnp
from ml_collections import config_flags
import numpy as np
import optax
import pytest

from configs import common
from experiments import checks
from experiments import setups
from experiments import worlds
from step_jax.algorithm import methods
from step_jax.envs import worlds as worlds_lib
from step_jax.envs.osworld import machines
from step_jax.envs.osworld import upstream
from step_jax.runs import errors

_ROOT = pathlib.Path(__file__).parent.parent
_FILES = sorted(
    path for path in (_ROOT / 'configs').glob('*.py')
    if path.stem not in ('__init__', 'common'))
_FIELDS = """
    seed num_rounds num_base_tasks group_size method smoothing threshold
    sharpness low_threshold max_steps temperature eval_temperature
    optimizer.learning_rate optimizer.warmup_rounds optimizer.weight_decay
    optimizer.clip_low optimizer.clip_high optimizer.num_epochs
    optimizer.num_minibatches env.name env.tasks env.num_workers
    env.step_timeout checkpoint_every eval_every
""".split()


def _module(path):
  return importlib.import_module(f'configs.{path.stem}')


def _variants(path):
  """The variants that the docstring names, `:name`, and every method."""
  named = re.findall(r'`:(\w+)`', _module(path).__doc__)
  return sorted({'', *named, *methods.METHODS})


_CASES = [(path, arg) for path in _FILES for arg in _variants(path)]
_each = pytest.mark.parametrize(
    'path, arg', _CASES, ids=[f'{path.stem}:{arg}' for path, arg in _CASES])


def test_there_are_configs():
  assert 'miniwob' in [path.stem for path in _FILES]
  assert ('miniwob', 'smoke') in [(path.stem, arg) for path, arg in _CASES]


@_each
def test_a_variant_has_all_fields_and_good_values(path, arg):
  config = _module(path).get_config(arg)
  for field in _FIELDS:
    value = config
    for name in field.split('.'):
      value = value[name]
  lacking = {('osworld', 'paper'): 'policy.checkpoint=DIR',
             ('androidworld', 'paper'): 'policy.checkpoint=DIR',
             ('vlm_tiny', 'trajectory_grpo'): 'a prompt for each step'}
  if (path.stem, arg) in lacking:
    with pytest.raises(errors.UserError, match=lacking[path.stem, arg]):
      checks.check_config(config)
  else:
    checks.check_config(config)
  assert arg not in methods.METHODS or config.method == arg


@_each
def test_a_variant_is_locked(path, arg):
  config = _module(path).get_config(arg)
  for part in (config, config.optimizer, config.env):
    with pytest.raises((AttributeError, KeyError)):
      part.group_sise = 4
  with pytest.raises(TypeError):
    config.num_rounds = 'many'


@_each
def test_numbers_are_of_the_type_that_flags_shall_take(path, arg):
  config = _module(path).get_config(arg)
  for field in ('threshold', 'sharpness', 'low_threshold', 'temperature',
                'eval_temperature'):
    assert type(config[field]) is float, field
  for field in ('learning_rate', 'weight_decay', 'clip_low', 'clip_high'):
    assert type(config.optimizer[field]) is float, field
  assert type(config.env.step_timeout) is float
  assert type(config.env.tasks) is tuple


@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
def test_flags_may_stand_in_a_file(tmp_path):
  """ml_collections #20 and #61: also 1e-4, and tuples of nothing.

  What is None stays None; nobody has to say so, and a sentence tells who does.
  """
  path = tmp_path / 'flags'
  command = ['run.py', f'--config={_ROOT / "configs" / "osworld.py"}:paper',
             f'--flagfile={path}']

  def read(text):
    path.write_text(text)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        'config', flag_values=values, sys_argv=command)
    values(command)
    return values.config

  config = read('--config.optimizer.learning_rate=1e-4\n'
                '--config.env.tasks=()\n--config.trackers=()\n')
  assert config.optimizer.learning_rate == 1e-4
  assert config.policy.min_pixels is None
  assert config.env.tasks == config.trackers == ()
  with pytest.raises(flags.IllegalFlagValueError, match='min_pixels=None'):
    read('--config.policy.min_pixels=None\n')


@pytest.mark.parametrize('path', _FILES, ids=[path.stem for path in _FILES])
def test_the_docstring_gives_the_command(path):
  command = f'python experiments/run.py --config=configs/{path.name}'
  assert command in _module(path).__doc__


@pytest.mark.parametrize('path', _FILES, ids=[path.stem for path in _FILES])
def test_an_unknown_variant_is_refused(path):
  with pytest.raises(ValueError, match='nonsense') as caught:
    _module(path).get_config('nonsense')
  sentence = str(caught.value)
  assert all(variant in sentence for variant in _variants(path))
  assert '\n' not in sentence


@_each
def test_tasks_are_those_of_the_environment(path, arg, monkeypatch):
  config = _module(path).get_config(arg)
  name = worlds_lib.ALIASES.get(config.env.name, config.env.name)
  module = importlib.import_module(name.partition(':')[0])
  monkeypatch.setattr(
      module, 'check_requirements', lambda: None, raising=False)
  if hasattr(module, 'TRAIN_TASKS'):
    known = {*module.TRAIN_TASKS, *module.HELD_OUT_TASKS}
    assert known >= set(worlds.make_world(config).tasks)
  elif config.env.tasks:  # files
    assert len(worlds.make_world(config).tasks) >= 16
  else:
    with pytest.raises(errors.UserError, match='env.tasks'):
      worlds.make_world(config)


@pytest.mark.parametrize('arg', ['servers', 'paper'])
def test_osworlds_machines_have_their_fields_and_their_time(arg):
  config = _module(_ROOT / 'configs' / 'osworld.py').get_config(arg)
  arguments = config.env.arguments
  assert {name: arguments[name] for name in (
      'evaluator', 'desktop_env_python', 'password', 'settle_after_reset',
      'settle_before_evaluation')} == {
          'evaluator': 'auto', 'desktop_env_python': '', 'password': 'password',
          'settle_after_reset': 60., 'settle_before_evaluation': 20.}
  assert config.warm_start.demonstrations == 0
  restore = machines._RESTORE_SECONDS
  assert config.env.start_timeout > restore == 600
  assert config.env.step_timeout > (
      restore + upstream._QUEUE_SECONDS + upstream.SECONDS
      + arguments.settle_after_reset)


def _optimizer(**changes):
  options = common.base_config().optimizer
  with options.unlocked():
    options.update(changes)
  return setups.make_optimizer(options)


def test_the_optimizer_is_the_one_that_is_named():
  """One step of each is optax's own, with the learning rate's schedule."""
  params = gradients = {'w': jnp.arange(1., 5.).reshape(2, 2)}
  for changes, expected in (
      ({}, optax.adamw(1e-6, weight_decay=0.01)),
      ({'name': 'adam', 'mu_dtype': 'bfloat16'},
       optax.adam(1e-6, mu_dtype='bfloat16')),
      ({'name': 'lion', 'arguments': {'b1': 0.5, 'weight_decay': 0.2}},
       optax.lion(1e-6, b1=0.5, weight_decay=0.2)),
      ({'name': 'sgd'}, optax.sgd(1e-6))):
    actual = _optimizer(**changes)
    states = [one.init(params) for one in (actual, expected)]
    one, other = (optimizer.update(gradients, state, params)[0]
                  for optimizer, state in zip((actual, expected), states))
    np.testing.assert_allclose(one['w'], other['w'], rtol=1e-6)
  assert _optimizer(mu_dtype='bfloat16').init(params)[0].mu['w'].dtype == (
      jnp.bfloat16)


@pytest.mark.parametrize('changes', [
    {'name': 'adamv'}, {'arguments': {'beta': 1.}},
    {'name': 'sgd', 'mu_dtype': 'bfloat16'}])
def test_an_optimizer_that_is_none_is_told(changes):
  with pytest.raises(errors.UserError, match='to be of an optimizer of optax'):
    _optimizer(**changes)
