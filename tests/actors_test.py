"""Tests of acting by inference servers: our own, and fakes that fail."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments import serving
from experiments import setups
from experiments import worlds
from step_jax.algorithm import types
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.rollout.actors import alternatives
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import engine as engine_lib
from step_jax.rollout.actors import local
from step_jax.rollout.actors import server as server_lib
from tests import fake_servers
from tests import fake_world
from tests import vision_language_test
from tests import vision_language_training_test

_JOBS = [workers.Job(slot, 0, 100 + slot) for slot in range(6)]
_STEPS = 2
_KEY = jax.random.key(7)
_LENGTH = 8  # of a response


@pytest.fixture(scope='module', name='folder')
def made_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('actors')
  vision_language_training_test._save_tiny_checkpoint(folder / 'model')
  return folder


@pytest.fixture(scope='module', name='setup')
def made_setup(folder):
  config = vision_language_test.make_config(**{
      'actor.name': 'sglang', 'actor.addresses': ('http://127.0.0.1:1',),
      'actor.dtype': 'float32', 'actor.bound': 1e-4,
      'policy.checkpoint': str(folder / 'model'), 'policy.min_pixels': 56 * 56,
      'policy.response_length': _LENGTH, 'max_steps': _STEPS,
      'env.tasks': ('click',)})
  return setups.make_setup(config, worlds.make_world(config, workdir=folder))


@pytest.fixture(scope='module', name='params')
def made_params(setup):
  """Parameters that prefer some tokens, unlike those of the checkpoint."""
  return jax.tree.map(lambda x: 5 * x, setup.policy.init(jax.random.key(0)))


@pytest.fixture(scope='module', name='engine')
def made_engine(folder):
  engine = engine_lib.Engine(
      folder / 'model', batch_size=3, dtype='float32')
  yield engine
  engine.close()


@pytest.fixture(name='servers')
def made_servers(engine, folder, monkeypatch):
  """Two servers of one engine, and their addresses."""
  monkeypatch.setattr(server_lib, '_MIN_PAUSE', .01)
  fakes = [fake_servers.FakeSGLang(engine, folder / 'model') for _ in range(2)]
  with (fake_servers.serving(fakes[0]) as first,
        fake_servers.serving(fakes[1]) as second):
    yield fakes, (first, second)


def _remote(setup, addresses, **changes):
  config = setup.config.copy_and_resolve_references()
  with config.unlocked():
    config.actor.addresses = addresses
    config.actor.update(changes)
  return serving.make_remote(config, setup.policy, setup.world)


def _collect(setup, actor, temperature):
  player = actors.Player(None, _KEY, temperature)
  with fake_world.LocalPool(setup.world.make_env, num_workers=4) as pool:
    return collect_lib.collect(
        pool, _JOBS, actor, player, example=setup.world.example,
        codec=setup.codec, num_tokens=_LENGTH, max_steps=_STEPS)


def _comparable(trajectory):
  """Pictures have other numbers where they come in another order."""
  observations = trajectory.observations | {'screenshot': 0}
  return jax.tree.leaves(trajectory.replace(observations=observations))


def _own_log_probs(setup, params, observations, tokens, temperature=.7):
  """Our model's, two rows at a time."""
  parts = [np.asarray(setup.policy.log_prob(
      params, setup.policy.load(jax.tree.map(
          lambda x: x[start:start + 2], observations)),
      tokens[start:start + 2], temperature=temperature)[0])
           for start in range(0, len(tokens), 2)]
  return np.concatenate(parts)


def _check_log_probs(setup, params, trajectory):
  """Every step's are our own model's, to 1e-4."""
  where = trajectory.step_mask
  tokens = trajectory.token_mask[where]
  own = _own_log_probs(setup, params, jax.tree.map(
      lambda x: x[where], trajectory.observations), trajectory.actions[where])
  assert tokens[:, 0].all() and own[tokens].std() > .1
  np.testing.assert_allclose(
      trajectory.log_probs[where][tokens], own[tokens], atol=1e-4)


def _check_counts(collection):
  trajectory = collection.trajectory
  assert trajectory.valid.all() and trajectory.step_mask.all()
  assert collection.environment_steps == len(_JOBS) * _STEPS
  assert collection.environment_failures == 0


def test_at_temperature_0_it_plays_what_the_local_policy_plays(
    setup, params, servers):
  fakes, addresses = servers
  policy = local.Local(setup.policy, batch_size=2)
  policy.publish(params, 1)
  expected = _collect(setup, policy, 0.)
  with _remote(setup, addresses) as remote:
    remote.publish(params, 1)
    collection = _collect(setup, remote, 0.)
  _check_counts(collection)
  for one, other in zip(*map(
      _comparable, (collection.trajectory, expected.trajectory)), strict=True):
    np.testing.assert_array_equal(one, other)
  assert not collection.trajectory.log_probs.any()
  for fake in fakes:  # both are used, and each was proven
    assert len([route for route, _ in fake.seen if route == '/generate']) > 2
  body = fakes[0].seen[-1][1]
  assert body['sampling_params'] | {'logit_bias': 0, 'sampling_seed': 0} == {
      'temperature': 0., 'n': 1, 'max_new_tokens': _LENGTH, 'sampling_seed': 0,
      'stop_token_ids': list(setup.policy.served.stop_ids), 'logit_bias': 0,
      'top_p': 1., 'top_k': -1, 'min_p': 0., 'frequency_penalty': 0.,
      'presence_penalty': 0., 'repetition_penalty': 1.}
  kept = [path.name for path in (
      setup.world.make_env.keywords['folder'].rpartition('/')[0],)
          if False] or sorted(remote._folder.iterdir())
  assert 1 <= len(kept) <= 2
