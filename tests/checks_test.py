"""Tests of the sentences that users get."""
import sys

import jax
import ml_collections
import pytest

from configs import vlm_tiny
from experiments import checks
from experiments import serving
from step_jax.algorithm import methods
from step_jax.rollout import actors
from step_jax.runs import errors
from tests import fake_config

_NAN = float('nan')
_INF = float('inf')


def _config(**changes):
  config = fake_config.get_config()
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


@pytest.mark.parametrize('field, value', [
    ('seed', -1),
    ('close_at', .4),
    ('close_at', 1.1),
    ('close_at', _NAN),
    ('close_after', -1.),
    ('close_after', _INF),
    ('method', 'ppo'),
    ('smoothing', 'none'),
    ('num_rounds', 0),
    ('num_base_tasks', 0),
    ('group_size', 5),
    ('group_size', 2),
    ('max_steps', 0),
    ('eval_episodes', 0),
    ('checkpoint_every', 0),
    ('trackers', ('tensorbord',)),
    ('eval_every', -1),
    ('threshold', 0.),
    ('threshold', 1.01),
    ('threshold', _NAN),
    ('sharpness', 0.),
    ('sharpness', _INF),
    ('low_threshold', -.1),
    ('low_threshold', 1.1),
    ('ema_decay', 2.),
    ('temperature', 0.),
    ('temperature', _NAN),
    ('temperature', _INF),
    ('eval_temperature', -1.),
    ('eval_temperature', _INF),
    ('optimizer.learning_rate', 0.),
    ('optimizer.learning_rate', _NAN),
    ('optimizer.learning_rate', _INF),
    ('optimizer.warmup_rounds', -1),
    ('optimizer.decay_rounds', -1),
    ('optimizer.weight_decay', -1.),
    ('optimizer.max_grad_norm', 0.),
    ('optimizer.clip_low', -.1),
    ('optimizer.clip_low', 1.5),
    ('optimizer.clip_high', -.1),
    ('optimizer.importance_cap', -.1),
    ('optimizer.importance_cap', _INF),
    ('optimizer.num_epochs', 0),
    ('optimizer.num_minibatches', 0),
    ('optimizer.micro_batch_size', 0),
    ('actor.name', 'tgi'),
    ('actor.name', 'continuous'),
    ('actor.dtype', 'int8'),
    ('actor.timeout', 0.),
    ('actor.bound', _NAN),
    ('env.num_workers', 0),
    ('env.backend', 'dask'),
    ('env.ray_address', '10.0.0.1:6379'),
    ('env.step_timeout', 0.),
    ('env.step_timeout', _NAN),
    ('env.start_timeout', -1.),
    ('policy.num_heads', 3),
    ('policy.num_heads', 0),
    ('policy.width', 0),
    ('policy.num_layers', -1),
    ('policy.vocabulary', 0),
    ('policy.acting_batch_size', 0),
    ('warm_start.demonstrations', -1),
    ('warm_start.num_steps', 0),
    ('warm_start.batch_size', 0),
    ('warm_start.learning_rate', 0.),
])
def test_a_bad_value_is_named(field, value):
  checks.check_config(_config())
  with pytest.raises(errors.UserError) as caught:
    checks.check_config(_config(**{field: value}))
  message = str(caught.value)
  assert message.startswith(f'expected {field} to be ')
  assert message.endswith(f', got {value!r}')
  assert '\n' not in message


@pytest.mark.parametrize('addresses, checkpoint, field', [
    ((), '.', 'actor.addresses'), (('10.0.0.1:30000',), '.', 'actor.addresses'),
    (('http://10.0.0.1:30000', 7), '.', 'actor.addresses'),
    (['http://10.0.0.1:30000'], '', 'actor.name'),
    (['http://10.0.0.1:30000'], '.', None)])
def test_inference_servers_have_addresses_and_a_checkpoint(
    addresses, checkpoint, field):
  config = vlm_tiny.get_config()
  with config.unlocked():
    config.actor.name, config.actor.addresses = 'sglang', addresses
  config.policy.checkpoint = checkpoint
  if field is None:
    checks.check_config(config)
    return
  with pytest.raises(errors.UserError, match=f'^expected {field} to be '):
    checks.check_config(config)


def test_several_hosts_draw_themselves(monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with pytest.raises(errors.UserError, match="actor.name to be 'local' on se"):
    serving.make_remote(_config(**{'actor.name': 'vllm'}), None, None)
  assert serving.make_remote(_config(), None, None) is None


def test_servers_need_a_package(monkeypatch):
  monkeypatch.setitem(sys.modules, 'step_jax.rollout.actors.server', None)
  monkeypatch.delattr(actors, 'server', raising=False)  # of another test
  with pytest.raises(errors.UserError, match='pip install -e .*server'):
    serving.make_remote(_config(**{'actor.name': 'vllm'}), None, None)


@pytest.mark.parametrize('method', methods.METHODS)
def test_group_sizes_of_methods(method):
  in_halves = methods.METHODS[method].augment or method == 'dapo'
  smallest = 4 if in_halves else 2
  for size in range(1, 6):
    good = size >= smallest and (
        size % 2 == 0 or not in_halves)
    config = _config(method=method, group_size=size)
    if good:
      checks.check_config(config)
    elif size > 1 or method not in (  # these can do without groups
        'step_advantage_only', 'step_no_augmentation', 'step_signed', 'spo'):
      with pytest.raises(errors.UserError, match='group_size'):
        checks.check_config(config)


def test_boundary_values_are_accepted():
  checks.check_config(_config(
      threshold=1., low_threshold=0., eval_temperature=0., eval_every=0,
      ema_decay=0., smoothing='ema', **{
          'optimizer.warmup_rounds': 0, 'optimizer.weight_decay': 0.,
          'optimizer.clip_low': 0., 'optimizer.clip_high': 0.,
          'warm_start.demonstrations': 0}))
  checks.check_config(_config(low_threshold=1.))


def test_the_decay_ends_after_the_warm_up():
  for rounds, good in ((0, True), (2, False), (3, True)):
    config = _config(**{
        'optimizer.warmup_rounds': 2, 'optimizer.decay_rounds': rounds})
    if good:
      checks.check_config(config)
    else:
      with pytest.raises(errors.UserError, match='decay_rounds'):
        checks.check_config(config)


def _saved(tmp_path, **changes):
  path = tmp_path / 'config.json'
  path.write_text(_config(**changes).to_json(indent=2))
  return path


def test_the_same_config_is_accepted(tmp_path):
  checks.check_same_config(_saved(tmp_path), _config())


def test_lists_and_tuples_of_tasks_are_the_same(tmp_path):
  path = _saved(tmp_path, **{'env.tasks': ('press-1', 'press-2')})
  checks.check_same_config(
      path, _config(**{'env.tasks': ('press-1', 'press-2')}))
  with pytest.raises(errors.UserError, match='env.tasks'):
    checks.check_same_config(path, _config(**{'env.tasks': ('press-1',)}))


def test_free_fields_may_change(tmp_path):
  checks.check_same_config(
      _saved(tmp_path), _config(num_rounds=99, **{'env.num_workers': 7}))


@pytest.mark.parametrize('field, value', [
    ('seed', 1), ('method', 'rloo'), ('group_size', 16), ('max_steps', 9),
    ('optimizer.learning_rate', 2e-3), ('env.tasks', ('press-1',)),
    ('policy.width', 64), ('warm_start.demonstrations', 3),
    ('temperature', .8), ('threshold', .5)])
def test_other_fields_may_not(tmp_path, field, value):
  with pytest.raises(errors.UserError) as caught:
    checks.check_same_config(
        _saved(tmp_path), _config(num_rounds=9, **{field: value}))
  message = str(caught.value)
  assert f'{field} (' in message and repr(value).strip('()').strip(
      ',') in message
  assert 'num_rounds' not in message and '\n' not in message
  assert message.count(' there, ') == 1


def test_all_differing_fields_are_named(tmp_path):
  path = _saved(tmp_path, seed=4, **{'policy.width': 24})
  with pytest.raises(errors.UserError) as caught:
    checks.check_same_config(path, _config(seed=5))
  assert 'seed (4 there, 5 now)' in str(caught.value)
  assert 'policy.width (24 there, 16 now)' in str(caught.value)


def test_a_field_that_is_new_or_gone_is_a_difference(tmp_path):
  extra = ml_collections.ConfigDict(_config())
  with extra.unlocked():
    extra.flavour = 'new'
  with pytest.raises(errors.UserError, match='flavour'):
    checks.check_same_config(_saved(tmp_path), extra)
  (tmp_path / 'config.json').write_text(extra.to_json())
  with pytest.raises(errors.UserError, match='flavour'):
    checks.check_same_config(tmp_path / 'config.json', _config())


def test_a_damaged_config_file_is_a_sentence(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text('{"seed": ')
  with pytest.raises(errors.UserError, match='config.json'):
    checks.check_same_config(path, _config())


def test_machines_of_a_cluster_have_the_same_addresses(monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: True)
  config = _config(**{'env.num_workers': 2})
  with config.unlocked():
    config.env.arguments.addresses = ('http://127.0.0.1:5000',)
  with pytest.raises(errors.UserError, match='at most 1, the number of'):
    checks.check_config(config)
  config.env.backend = 'ray'
  checks.check_config(config)
