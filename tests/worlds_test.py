"""Tests of the environments that configs name."""
import functools
import importlib.util
import pickle

import gymnasium
import pytest

from configs import androidworld as androidworld_config
from experiments import worlds
from step_jax.envs.androidworld import tokens as androidworld_tokens
from step_jax.envs import picture_env
from step_jax.envs import worlds as worlds_lib
from step_jax.runs import errors
from tests import fake_config
from tests import fake_world


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
  env = world.make_env()
  seen, _ = env.reset(seed=0, options={'task_id': 0})
  assert env.observation_space.contains(seen)
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


def test_load_attribute():
  assert worlds_lib.load_attribute('tests.fake_config:get_config') is (
      fake_config.get_config)


def test_a_loop_without_configs_makes_a_world():
  world = worlds_lib.make_world('tests.fake_world:ButtonEnv', max_steps=5)
  make_env = pickle.loads(pickle.dumps(world.make_env))
  assert make_env.func is fake_world.ButtonEnv
  assert make_env.keywords == {
      'tasks': fake_world.TRAIN_TASKS, 'max_steps': 5}
  desk = worlds_lib.make_world(
      'desk', tasks=['bluetooth-on'], split='all', max_steps=9)
  assert desk.tasks[0] == 'bluetooth-on' and len(desk.tasks) > 40
  assert desk.simulator is not None and desk.draws


@pytest.mark.parametrize('name, options, message', [
    ('nonsense', {}, 'package.module:EnvClass'),
    ('desk', {'tasks': ('calc-add',) * 2}, 'every task once'),
    ('desk', {'pictures': {'folder': 'x'}}, "such as 'miniwob'"),
    ('osworld', {'tasks': ('no/such/file.json',)}, 'no/such/file.json')])
def test_a_world_that_there_is_not_is_told(name, options, message):
  with pytest.raises(worlds_lib.WorldError, match=message) as caught:
    worlds_lib.make_world(name, max_steps=5, **options)
  assert isinstance(caught.value, ValueError)
  assert '\n' not in str(caught.value)


def test_a_vision_language_policy_drives_pictures(tmp_path):
  make_world = functools.partial(
      worlds_lib.make_world, 'tests.fake_pictures:PaintedEnv', max_steps=3)
  world = make_world(pictures={'folder': str(tmp_path), 'capacity': 2})
  env = world.make_env()
  assert isinstance(env, picture_env.PictureEnv)
  observation, _ = env.reset(seed=0, options={'task_id': 0})
  assert {name: x.shape for name, x in observation.items()} == {
      name: x.shape for name, x in world.example.items()}
  assert worlds_lib.picture_field(world) == 'folder'
  assert worlds_lib.picture_field(make_world()) is None
