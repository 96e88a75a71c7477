"""Tests of imitation in a loop without configs; `train_test` has whole runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.policies import base
from step_jax.rollout import collect as collect_lib
from step_jax.runs import warm_start
from tests import examples
from tests import fake_world


def _log_prob(params, observation, tokens, *, temperature):
  logits = observation['features'] @ params / temperature
  log_probs = jax.nn.log_softmax(logits)[..., None, :]
  return jnp.take_along_axis(
      log_probs, tokens[..., None], axis=-1)[..., 0], tokens * 0.


_POLICY = base.Policy(
    init=lambda key: jnp.zeros((examples.FEATURES, examples.VOCABULARY)),
    sample=pytest.fail, log_prob=_log_prob)


@pytest.fixture(name='said')
def made_said():
  return []


def _start(path, said, solved=(True, False, True, True)):
  def collect(jobs, player):
    assert player is None
    assert [(job.slot, job.task_id, job.expert) for job in jobs] == [
        (0, 0, True), (1, 0, True), (2, 1, True), (3, 1, True)]
    trajectory = examples.trajectory(0, [0, 0, 1, 1], 3, lost=0.).replace(
        successes=np.array(solved), step_mask=np.ones((4, 3), bool))
    return collect_lib.Collection(trajectory, 12, 0)

  return warm_start.warm_start(
      _POLICY, _POLICY.init(None), collect, path, num_tasks=2,
      demonstrations=2, num_steps=20, batch_size=4, learning_rate=.1,
      temperature=1., seed=0, say=said.append)


def test_what_was_solved_is_imitated_once(tmp_path, said):
  path = tmp_path / 'cache' / 'start.npz'
  params = _start(path, said)
  assert '3 of 4 demonstrations solved their task, 9 steps' in said[0]
  before, after = map(float, said[1].split('loss ')[1].split(' -> '))
  assert after < before and len(said) == 2
  assert [file.name for file in path.parent.iterdir()] == ['start.npz']
  np.testing.assert_array_equal(_start(path, said), params)
  assert said[2:] == [f'warm start: read from {path}']


def test_nothing_solved_is_nothing_learned_or_kept(tmp_path, said):
  assert not _start(tmp_path / 'start.npz', said, solved=[False] * 4).any()
  assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_told(tmp_path, said):
  (tmp_path / 'file').touch()
  assert _start(tmp_path / 'file' / 'start.npz', said).any()
  assert f'not kept in {tmp_path}/file/start.npz: ' in said[-1]


def test_a_cache_is_of_settings_code_and_task_files(tmp_path):
  task, code = tmp_path / 'one.json', tmp_path / 'code.py'
  for path in (task, code):
    path.write_text('1')
  make_env = functools.partial(fake_world.ButtonEnv, tasks=(str(task),))
  pictured = functools.partial(pytest.fail, make_env=make_env)
  seen = [warm_start.cache_path(*args) for args in (
      (1, make_env), (1, pictured), (2, make_env), (1, make_env, [code]))]
  assert seen[0] == seen[1] and len(set(seen)) == 3
  task.with_suffix('.txt').write_text('a solution')
  seen.append(warm_start.cache_path(1, make_env))
  code.write_text('2')
  seen.append(warm_start.cache_path(1, make_env, [code]))
  assert len(set(seen)) == 5
