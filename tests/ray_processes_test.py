"""Tests of environments on Ray; `workers_test` has what all backends do."""
import functools
import json
import os
import pickle
import subprocess
import sys

import pytest

from experiments import checks
from experiments import serving
from experiments import worlds
from step_jax.envs import worlds as worlds_lib
from step_jax.rollout import ray_processes
from step_jax.runs import errors
from tests import fake_config
from tests import fake_envs


def test_what_is_missing_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ray', None)
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  config = fake_config.get_config()
  config.env.backend = 'ray'
  with pytest.raises(errors.UserError, match=r"install -e '.\[ray\]'"):
    checks.check_config(config)


class _Exceptions:

  class RayError(Exception):
    pass


class _FakeRay:
  """Enough of Ray for the ends of a cluster."""

  exceptions = _Exceptions
  cloudpickle = pickle

  gcs_address = '127.0.0.1:1'

  def __init__(self, num_cpus):
    self.num_cpus = num_cpus
    self.is_on = False

  def init(self, address, **options):
    if not self.num_cpus:
      raise ConnectionError(f'nobody answers at {address}\nand more')
    self.is_on = True

  def shutdown(self):
    self.is_on = False

  def is_initialized(self):
    return self.is_on

  def cluster_resources(self):
    assert self.is_on
    return {'CPU': float(self.num_cpus)}

  def get_runtime_context(self):
    return self

  def remote(self, cls):
    return self

  def options(self, **options):
    return self


@pytest.fixture
def fake_ray(monkeypatch, tmp_path):
  def install(num_cpus):
    ray = _FakeRay(num_cpus)
    monkeypatch.setitem(sys.modules, 'ray', ray)
    return ray
  for name in ray_processes.SETTINGS:
    monkeypatch.setenv(name, '')
  monkeypatch.setenv('RAY_ADDRESS', '')
  monkeypatch.setattr(ray_processes, '_CURRENT', tmp_path / 'none')
  return install


@pytest.mark.parametrize('num_cpus, message', [
    (0, "cluster at 'auto', got none to work with: nobody answers at auto;"),
    (3, 'with 4 CPUs, one for each environment, got 3; see env.ray_address')])
def test_a_cluster_that_will_not_do_is_a_users_mistake(
    fake_ray, num_cpus, message):
  fake_ray(num_cpus)
  config = fake_config.get_config()
  config.env.update({
      'backend': 'ray', 'ray_address': 'auto', 'num_workers': 4})
  world = worlds_lib.World(('count',), fake_envs.CountEnv, None, None, True)
  with pytest.raises(errors.UserError, match=message):
    worlds.make_pool(world, config)


def test_a_head_that_is_gone_is_told(fake_ray):
  fake_ray(2)
  backend = ray_processes.RayProcesses(
      fake_envs.CountEnv, close_timeout=1., num_workers=2)
  assert backend.alive
  with pytest.raises(errors.RunError, match='127.0.0.1:1 is gone'):
    with serving.telling():
      backend.receive(5.)
  backend.close()
  assert not backend.alive


def test_a_cluster_that_was_killed_is_not_waited_for(fake_ray, monkeypatch):
  fake_ray(2)
  monkeypatch.setenv('RAY_ADDRESS', '127.0.0.1:1')
  with pytest.raises(ray_processes.ClusterError, match='to work with: '):
    ray_processes.RayProcesses(
        fake_envs.CountEnv, close_timeout=1., num_workers=2, address='auto')


def test_pictures_are_put_into_the_store_of_the_run(tmp_path):
  make_env = functools.partial(
      fake_envs.CountEnv, folder=str(tmp_path / 'here'), capacity=7)
  world = worlds_lib.World(('a',), make_env, {'screenshot': 0}, None, True)
  carried, store = worlds_lib.carry_pictures(world)
  assert (store.folder, store._capacity) == (tmp_path / 'here', 7)
  assert carried.args == (make_env, 'folder')
  world = world._replace(example={})
  assert worlds_lib.carry_pictures(world) == (make_env, None)


@pytest.mark.parametrize('fault, expected', [
    ('relay', {'kinds': {'finished': 2, 'failed': 1},
               'messages': ['the worker process died'],
               'failures': {'death': 1}}),
    ('node', {'messages': ['the worker process died']}),
    ('head', {})])
def test_what_breaks_in_mid_round(tmp_path, fault, expected):
  """Two nodes of one environment each; the cluster is of this machine."""
  pytest.importorskip('ray')  # an extra that is not in `test`
  printed = subprocess.run(
      [sys.executable, '-m', 'tests.ray_faults', fault, str(tmp_path)],
      check=True, capture_output=True, text=True, timeout=120,
      env={**os.environ, 'RAY_USAGE_STATS_ENABLED': '0'}).stdout
  result = json.loads(printed.splitlines()[-1])
  assert {name: result.get(name) for name in expected} == expected
  if fault == 'head':
    assert 'head of the Ray cluster' in result['error']
    return
  assert result['each_once'] and result['earned']
  if fault == 'node':
    assert result['failures']['death'] == 1 <= result['failures']['start']
    assert any('no CPU is left for one of 2 environments: the Ray cluster has 1'
               in message for message in result['said'])
