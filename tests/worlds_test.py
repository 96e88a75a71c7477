"""Tests of the environments that configs name."""
import importlib.util

import gymnasium
import pytest

from configs import androidworld as androidworld_config
from experiments import worlds
from step_jax.envs.androidworld import tokens as androidworld_tokens
from step_jax.envs import base
from step_jax.runs import errors
from tests import fake_config


@pytest.mark.parametrize('split, names', [
    ('train', ('press-1', 'press-2', 'press-3', 'type-1')),
    ('held_out', ('press-4',)),
    ('all', ('press-1', 'press-2', 'press-3', 'type-1', 'press-4'))])
def test_splits(split, names):
  world = worlds.make_world(fake_config.get_config(), split)
  assert world.tasks == names
  env = world.make_env()
  assert isinstance(env, gymnasium.Env) and env.tasks == names


def test_tasks_of_the_config_are_the_training_tasks():
  config = fake_config.get_config()
  config.env.tasks = ('press-4', 'press-1')
  assert worlds.make_world(config).tasks == ('press-4', 'press-1')
  others = ('press-2', 'press-3', 'type-1')
  assert worlds.make_world(config, 'held_out').tasks == others
  assert worlds.make_world(config, 'all').tasks == (
      'press-4', 'press-1', *others)


def test_the_example_is_an_observation():
  world = worlds.make_world(fake_config.get_config())
  seen, _ = world.make_env().reset(seed=0, options={'task_id': 0})
  assert base.observation_space().contains(seen)
  assert {name: (x.shape, x.dtype) for name, x in world.example.items()} == {
      name: (x.shape, x.dtype) for name, x in seen.items()}


@pytest.mark.parametrize('name', [
    'nonsense', 'no.such.module:Env', 'tests.fake_world:NoSuchEnv', ':', ''])
def test_an_unknown_environment_is_a_user_mistake(name):
  config = fake_config.get_config()
  config.env.name = name
  with pytest.raises(errors.UserError, match='env.name') as caught:
    worlds.make_world(config)
  assert '\n' not in str(caught.value)


def test_a_missing_package_is_named(monkeypatch, tmp_path):
  (tmp_path / 'needing.py').write_text('import no_such_package.of_ours\n')
  monkeypatch.syspath_prepend(tmp_path)
  config = fake_config.get_config()
  config.env.name = 'needing:Env'
  with pytest.raises(errors.UserError, match=(
      'needing:Env needs the Python package no_such_package, .*pip install')):
    worlds.make_world(config)


def test_androidworld_trains_on_43_of_116_tasks():
  config = androidworld_config.get_config()
  splits = [worlds.make_world(config, split).tasks
            for split in ('train', 'held_out', 'all')]
  assert [len(tasks) for tasks in splits] == [43, 73, 116]
  assert set(splits[0]) | set(splits[1]) == set(splits[2])
  example = worlds.make_world(config).example
  assert androidworld_tokens.observation_space().contains(example)


def test_the_size_of_pictures_is_that_of_the_config():
  config = androidworld_config.get_config()
  with config.unlocked():
    config.env.arguments.picture_size = (160, 72)
  assert worlds.make_world(config).example['picture'].shape == (160, 72, 3)


@pytest.mark.parametrize('lacking', ['fastapi', 'uvicorn'])
def test_what_the_fake_phone_needs_is_named(monkeypatch, lacking):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: (
      None if name == lacking else find_spec(name)))
  with pytest.raises(errors.UserError, match=(
      rf"needs {lacking}; install with pip install -e '\.\[androidworld,test")):
    worlds.make_world(androidworld_config.get_config('fake_phone'))


def test_a_task_given_twice_is_a_user_mistake():
  config = fake_config.get_config()
  config.env.tasks = ('press-1', 'press-1')
  with pytest.raises(errors.UserError, match='env.tasks'):
    worlds.make_world(config)


def test_a_missing_program_is_a_user_mistake(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  config = fake_config.get_config()
  config.env.name = 'miniwob'
  with pytest.raises(errors.UserError, match='apt-get install'):
    worlds.make_world(config)
