"""Tests of the policies that configs name."""
import pytest

from configs import androidworld as androidworld_config
from experiments import policies
from experiments import worlds
from step_jax.policies import element
from step_jax.policies import grid
from step_jax.runs import errors
from tests import fake_config


def _make(config):
  return policies.make_policy(config, worlds.make_world(config))


def _config(name, **arguments):
  config = androidworld_config.get_config()
  config.policy.name = name
  with config.unlocked():
    config.env.arguments.update(arguments)
  return config


def test_a_policy_comes_with_what_its_tokens_mean():
  _, codec = _make(fake_config.get_config())
  assert codec.matches is element.matches and codec.num_tokens == 3
  _, codec = _make(_config('grid'))
  assert codec.matches is grid.matches and codec.num_tokens == 3


@pytest.mark.parametrize('name, has', [
    ('element', 'instruction, picture'), ('grid', 'instruction, element_type')])
def test_a_policy_that_reads_something_else_is_a_user_mistake(name, has):
  config = _config(name)
  if name == 'grid':
    config = fake_config.get_config()
    config.policy.name = name
  with pytest.raises(errors.UserError, match=f'reads {has}.*got .{name}.'):
    _make(config)


def test_the_cells_are_those_of_the_environment():
  _make(_config('grid', picture_size=(20, 10), grid=(4, 2)))
  with pytest.raises(errors.UserError, match='20 x 10 for 3 x 2 cells'):
    _make(_config('grid', picture_size=(20, 10), grid=(3, 2)))
