"""Training on fake phones from end to end, and on phones that break."""

import json

import jax
import pytest

from configs import androidworld as config_lib
from experiments import rounds
from experiments import setups as setups_lib
from experiments import train
from step_jax.runs import errors
from tests import fake_phone
from tests import fake_phone_env

_TASKS = ('MessagesSendAna', 'NotesDeleteFirst', 'NotesVisit',
          'SettingsWifiTurnOn')
# What requests meet in the first round; '' is nothing.
_FAILURES = {
    '/screenshot': [''] * 3 + ['drop'] + [''] * 15 + ['slow', '', 'garbage'],
    '/execute_action': [''] * 10 + ['drop'],
    '/task/initialize': [''] * 9 + ['error'],
    '/task/score': [''] * 9 + ['freeze']}
_NUM_FAILURES = 5  # 'slow' is none
_WITHOUT_FAILURES = {
    'seconds', 'rollout_seconds', 'update_seconds', 'compilations',
    'environment_failures', 'environment_steps'}


def _config():
  config = config_lib.get_config('fake_phone')
  config.update_from_flattened_dict({
      'env.num_workers': 1,
      'num_rounds': 2, 'num_base_tasks': 4, 'group_size': 4, 'max_steps': 6,
      'low_threshold': 0.5, 'env.tasks': _TASKS, 'policy.width': 16,
      'policy.num_layers': 1, 'policy.num_heads': 2, 'policy.vocabulary': 64,
      'optimizer.num_minibatches': 2, 'warm_start.demonstrations': 3,
      'warm_start.num_steps': 40, 'warm_start.batch_size': 16,
      'warm_start.learning_rate': 3e-3,
      'eval_episodes': 1})
  with config.unlocked():
    config.env.arguments.step_timeout = 10.0  # 'freeze' takes as long
    config.env.arguments.task_timeout = 10.0
  return config


def _run(workdir, monkeypatch, failures):
  """Trains on one fake phone; `failures` are met in the first round.

  On one, since another would play all of the round while a worker starts anew.
  """
  play_round = rounds.play_round

  def play(setup, state, round_index, *others):
    if round_index == 0:
      phone.failures.update(
          {route: list(met) for route, met in failures.items()})
    result = play_round(setup, state, round_index, *others)
    assert not any(phone.failures.values()), 'each was met'
    return result

  with fake_phone.FakePhone() as phone:
    config = _config()
    with config.unlocked():
      config.env.arguments.addresses = (phone.address,)
    monkeypatch.setattr(rounds, 'play_round', play)
    train.train(config, workdir)
  monkeypatch.setattr(rounds, 'play_round', play_round)
  return [json.loads(line) for line in (
      workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.slow
def test_a_run_on_phones_that_break_equals_one_on_phones_that_do_not(
    tmp_path, monkeypatch):
  """So nothing that broke was counted as the agent's failure, or at all."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  make_setup = setups_lib.make_setup
  setups = []

  def make_setup_once(config, world):  # to compile only once
    if not setups:
      setup = make_setup(config, world)
      setups.append(setup._replace(policy=setup.policy._replace(
          init=jax.jit(setup.policy.init))))
    return setups[0]._replace(config=config, world=world)

  monkeypatch.setattr(setups_lib, 'make_setup', make_setup_once)
  broken = _run(tmp_path / 'broken', monkeypatch, _FAILURES)
  sound = _run(tmp_path / 'sound', monkeypatch, {})
  assert [row['environment_failures'] for row in broken + sound] == [
      _NUM_FAILURES, 0, 0, 0]
  for row in broken + sound:
    assert row['valid_trajectories'] == row['trajectories'] == 16
  assert broken[0]['environment_steps'] > sound[0]['environment_steps']
  for row, expected in zip(broken, sound, strict=True):
    assert {name: x for name, x in row.items()
            if name not in _WITHOUT_FAILURES} == {
                name: x for name, x in expected.items()
                if name not in _WITHOUT_FAILURES}
  # There was something to learn from, and groups of alternatives.
  assert 0 < sound[0]['success_rate'] < 1
  assert sum(row['augmented_steps'] for row in sound) > 0
  assert all(row['grad_norm'] > 0 for row in sound)
  assert (tmp_path / 'sound' / 'evaluation.json').exists()


def test_the_environment_brings_its_own_phone():
  env = fake_phone_env.FakePhoneEnv()
  try:
    _, info = env.reset(seed=0, options={'task_id': 0, 'expert': True})
    rewards = []
    while not any(rewards):
      _, reward, *ends, info = env.step(info['expert_action'])
      rewards.append(reward)
    assert ends == [True, False] and len(rewards) == 5
  finally:
    env.close()
  assert env._server.poll() is not None


def test_phones_that_do_not_answer_are_a_user_mistake(tmp_path, monkeypatch):
  make_setup = setups_lib.make_setup

  def make(config, world):
    setup = make_setup(config, world)
    return setup._replace(policy=setup.policy._replace(
        init=lambda key: pytest.fail('it is told before anything takes long')))

  monkeypatch.setattr(setups_lib, 'make_setup', make)
  config = config_lib.get_config()
  config.policy.width = 16
  with config.unlocked():
    config.env.arguments.addresses = (
        'http://127.0.0.1:9', 'http://127.0.0.1:10')
  with pytest.raises(errors.UserError, match=(
      r'0\.0\.1:9/health failed.*0\.0\.1:10/health failed')) as caught:
    train.train(config, tmp_path / 'run')
  assert '\n' not in str(caught.value)
