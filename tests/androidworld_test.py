"""AndroidWorld's environment on the fake phone, and on one that breaks."""

import functools
import time

import gymnasium
import numpy as np
import pytest

from step_jax.codecs.actions import Action
from step_jax.codecs import json_action
from step_jax.envs.androidworld import client as client_lib
from step_jax.envs.androidworld import env as androidworld
from step_jax.envs.androidworld import tasks as androidworld_tasks
from step_jax.envs.androidworld import tokens as tokens_lib
from step_jax.rollout import workers
from tests import fake_phone
from tests import fake_phone_tasks as tasks

pytestmark = pytest.mark.usefixtures('own_leases')

MAX_STEPS = 6


@pytest.fixture
def fake():
  with fake_phone.FakePhone() as phone:
    yield phone


@pytest.fixture
def make_env(fake):
  """Makes environments of the fake phone, and closes them."""
  made = []

  def make(names=tasks.TASKS, addresses=None, **kwargs):
    kwargs = {'max_steps': MAX_STEPS, 'solver': tasks.solve, **kwargs}
    made.append(androidworld.AndroidWorldEnv(
        names, addresses=addresses or [fake.address], **kwargs))
    return made[-1]

  yield make
  for env in made:
    env.close()


def _start(env, task, seed=0, expert=False):
  return env.reset(seed=seed, options={
      'task_id': env.tasks.index(task), 'expert': expert})


def _click(verb, cell):
  return tokens_lib.make_action(verb, cell)


# Episodes.


def test_the_solver_succeeds_at_every_task(make_env):
  env = make_env()
  for task in env.tasks:
    for seed in range(3):
      observation, info = _start(env, task, seed, expert=True)
      assert info['task'] == task
      rewards, ended = [], False
      while not ended:
        assert env.observation_space.contains(observation)
        assert env.action_space.contains(info['expert_action'])
        observation, reward, terminated, truncated, info = env.step(
            info['expert_action'])
        rewards.append(reward)
        ended = terminated or truncated
      assert terminated and rewards == [0.] * (len(rewards) - 1) + [1.], task


def test_doing_nothing_succeeds_at_no_task(make_env):
  """android_world #315."""
  env = make_env()
  for task in env.tasks:
    _start(env, task)
    _, reward, terminated, truncated, _ = env.step(
        tokens_lib.make_action('done'))
    assert (reward, terminated, truncated) == (0., True, False)


def test_an_episode_asks_what_androidworlds_own_runner_does(fake, make_env):
  env = make_env()
  fake.requests.clear()
  _start(env, 'SettingsWifiTurnOn')
  assert fake.requests == [
      '/suite/reinitialize', '/task/initialize', '/task/goal', '/reset',
      '/screenshot']
  fake.requests.clear()
  env.step(_click('click', 0))
  assert fake.requests == ['/execute_action', '/screenshot']
  fake.requests.clear()
  env.step(Action(kind='done', text='42'))
  assert fake.requests == [
      '/execute_action', '/execute_action', '/task/score', '/task/tear_down']
  fake.requests.clear()
  env.close()
  assert fake.requests == []


def test_an_answer_arrives_before_the_score(fake, make_env):
  env = make_env()
  _start(env, 'NotesVisit')
  seen = []
  score = tasks.Task.score
  fake.phone.suite['NotesVisit'][0].score = lambda state: (
      seen.append(state.answer) or score(
          fake.phone.suite['NotesVisit'][0], state))
  env.step(Action(kind='done', text='42'))
  assert seen == ['42']


def test_a_part_of_a_task_is_no_success(make_env):
  env = make_env()
  _, info = _start(env, 'SettingsWifiAndBluetoothTurnOn', expert=True)
  for _ in range(2):  # the app, and one switch of two
    *_, info = env.step(info['expert_action'])
  assert env.step(tokens_lib.make_action('done'))[1] == 0.


def test_the_last_step_is_scored_and_truncated(make_env):
  env = make_env(max_steps=2)
  _, info = _start(env, 'SettingsWifiTurnOn', expert=True)
  *_, info = env.step(info['expert_action'])
  _, reward, terminated, truncated, info = env.step(info['expert_action'])
  assert (reward, terminated, truncated) == (1., False, True)
  # What comes after the end changes nothing.
  assert env.step(_click('click', 0))[1:4] == (0., True, False)


def test_failing_ends_an_episode(make_env):
  env = make_env()
  _start(env, 'NotesVisit')
  assert env.step(Action(kind='fail'))[1:4] == (0., True, False)


@pytest.mark.parametrize('action', [
    None, (8, 0, 0), tokens_lib.make_action('type', word=31),
    Action(kind='hotkey', keys=('ctrl', 'c')),
    Action(kind='open_app', text='$(reboot)'),
    Action(kind='drag', point=(.1, .1), end=(.1, .1))])
def test_an_illegal_action_does_nothing_and_counts(fake, make_env, action):
  env = make_env(max_steps=2)
  before, _ = _start(env, 'NotesVisit')
  fake.requests.clear()
  after, *rest, _ = env.step(action)
  assert fake.requests == [] and rest == [0., False, False]
  np.testing.assert_array_equal(before['picture'], after['picture'])
  assert env.step(action)[3]


def test_an_action_that_the_phone_refuses_does_nothing_and_counts(
    fake, make_env):
  env = make_env(max_steps=3)
  _, info = _start(env, 'SettingsWifiTurnOn', expert=True)
  for _ in range(2):
    *_, info = env.step(info['expert_action'])
  _, reward, terminated, truncated, _ = env.step(
      Action(kind='open_app', text='Nowhere'))
  assert (reward, terminated, truncated) == (1., False, True)
  _start(env, 'SettingsWifiTurnOn')
  fake.failures['/execute_action'] = ['error', 'error']
  assert env.step(Action(kind='done', text='42'))[1:3] == (0., True)
  assert fake.requests[-3:] == ['/screenshot', '/task/score', '/task/tear_down']


@pytest.mark.parametrize('action', [
    Action(kind='click', point=(.5, .5)), Action(kind='done')])
def test_a_phone_that_refuses_and_shows_nothing_is_broken(
    fake, make_env, action):
  env = make_env()
  _start(env, 'NotesVisit')
  fake.failures['/execute_action'] = ['error']
  fake.failures['/screenshot'] = ['error']
  with pytest.raises(client_lib.PhoneError, match='/screenshot failed'):
    env.step(action)


@pytest.mark.parametrize('family, go_home', [
    ('android_world', True), ('miniwob', False), ('miniwob_subset', False)])
def test_a_page_of_miniwob_is_not_left_for_the_home_screen(
    make_env, monkeypatch, family, go_home):
  monkeypatch.setattr(client_lib.Phone, 'reinitialize',
                      lambda self, *, seed, task_family: None)
  seen = []
  monkeypatch.setattr(client_lib.Phone, 'reset',
                      lambda self, go_home: seen.append(go_home))
  _start(make_env(task_family=family), 'NotesVisit')
  assert seen == [go_home]


def test_a_step_takes_actions_of_a_model(fake, make_env):
  env = make_env()
  _start(env, 'NotesCreate', seed=1)
  goal = env.step(Action(kind='open_app', text='Notes'))[-1]['instruction']
  for action in tasks.solve('NotesCreate', goal)[1:-1]:
    assert env.step(action)[1] == 0.
  assert fake.phone.state.notes[-1] == goal.split()[-1].strip('.')
  assert env.step(Action(kind='done'))[1] == 1.


def test_a_click_reaches_the_pixel_of_its_cell(fake, make_env, monkeypatch):
  env = make_env()
  _start(env, 'NotesVisit')
  commands = []
  monkeypatch.setattr(
      client_lib.Phone, 'execute',
      lambda self, command: commands.append(command))
  env.step(_click('click', 4 * 9 + 8))
  # The centre of row 4 of 20 and column 8 of 9 on 240 x 540 pixels.
  assert commands == [{'action_type': 'click', 'x': 227, 'y': 122}]


def test_a_seed_is_an_episode_whatever_was_played_before(make_env):
  env = make_env()
  first, info = _start(env, 'MessagesSend', seed=5)
  env.step(_click('click', 36))
  other, other_info = _start(env, 'MessagesSend', seed=6)
  again, again_info = _start(env, 'MessagesSend', seed=5)
  assert info == again_info and info['instruction'] != other_info['instruction']
  for name in first:
    np.testing.assert_array_equal(first[name], again[name])
  assert (first['instruction'] != other['instruction']).any()


def test_the_expert_waits_for_its_proposal_to_be_followed(make_env):
  env = make_env()
  _, info = _start(env, 'SettingsWifiTurnOn', expert=True)
  *_, after = env.step(_click('click', 0))
  np.testing.assert_array_equal(info['expert_action'], after['expert_action'])
  *_, after = env.step(info['expert_action'])
  assert (info['expert_action'] != after['expert_action']).any()


def test_the_picture_has_the_size_that_was_asked_for(make_env):
  env = make_env(picture_size=(20, 10), grid=(2, 3),
                 render_mode='rgb_array')
  observation, _ = _start(env, 'NotesVisit')
  assert observation['picture'].shape == (20, 10, 3)
  assert env.observation_space.contains(observation)
  assert env.action_space.nvec.tolist() == [8, 6, 32]
  assert env.render().shape == (540, 240, 3)


# Mistakes of the caller.


@pytest.mark.parametrize('kwargs, message', [
    ({'max_steps': 0}, 'of at least 1, got 0, '),
    ({'grid': (0, 9)}, 'of at least 1, got 6, '),
    ({'render_mode': 'human'}, "expected render_mode 'rgb_array'"),
    ({'names': 'NotesVisit'}, 'expected a sequence of task names'),
    ({'names': ()}, 'expected a sequence of task names'),
    ({'names': ['NotesVisits']}, 'such as NotesVisit, .*got .NotesVisits.'),
    ({'addresses': 'http://127.0.0.1:1'}, 'expected a list of addresses'),
    ({'addresses': ['phone']}, "a phone's address such as"),
])
def test_mistakes_are_told_at_once(make_env, kwargs, message):
  with pytest.raises(ValueError, match=message):
    make_env(**kwargs)
  make_env().reset(seed=0)  # and hold no phone


def test_the_paper_trains_on_43_tasks(make_env):
  with pytest.raises(ValueError, match='got .AudioRecorder'):
    make_env(names=None)  # which the fake phone does not have
  assert len(androidworld_tasks.training_split()) == 43


def test_a_reset_comes_first_and_needs_a_task(make_env):
  env = make_env(solver=None)
  with pytest.raises(gymnasium.error.ResetNeeded):
    env.step(tokens_lib.make_action('done'))
  with pytest.raises(ValueError, match='expected a task_id below 12, got 12'):
    env.reset(seed=0, options={'task_id': 12})
  with pytest.raises(ValueError, match='expected an environment with a solver'):
    env.reset(seed=0, options={'expert': True})


# Phones.


def test_each_environment_has_a_phone_of_its_own(fake, make_env):
  with fake_phone.FakePhone() as second:
    addresses = [fake.address, second.address]
    envs = [make_env(addresses=addresses) for _ in range(2)]
    for env, task in zip(envs, ('NotesVisit', 'NotesCreate'), strict=True):
      _start(env, task)
    assert [phone.count('/task/initialize')
            for phone in (fake, second)] == [1, 1]
    envs[0].close()
    make_env(addresses=addresses).reset(seed=0)
    assert fake.count('/task/initialize') == 2


def test_a_phone_that_is_taken_is_waited_for_and_then_an_error(
    make_env, monkeypatch):
  make_env()
  lease = androidworld.leases.lease
  monkeypatch.setattr(androidworld.leases, 'lease', functools.partial(
      lease, seconds=0.1))
  with pytest.raises(client_lib.PhoneError, match='expected one of 1 phones'):
    make_env()


def test_a_phone_that_does_not_answer_is_passed_over(fake, make_env):
  with fake_phone.FakePhone() as broken:
    broken.phone.is_open = False
    addresses = ['http://127.0.0.1:9', broken.address, fake.address]
    make_env(addresses=addresses).reset(seed=0)
    assert fake.count('/task/initialize') == 1
    with pytest.raises(client_lib.PhoneError, match='/health failed'):
      make_env(addresses=addresses[:2])


def test_closing_tears_down_what_is_open(fake, make_env):
  env = make_env()
  _start(env, 'NotesVisit')
  env.close()
  env.close()
  assert fake.count('/task/tear_down') == 1
  assert fake.count('/close') == 0  # that would end the phone
  with pytest.raises(client_lib.PhoneError, match='got a closed one'):
    env.reset(seed=0)


def test_a_reset_tears_down_what_is_open(fake, make_env):
  env = make_env()
  _start(env, 'NotesVisit')
  fake.requests.clear()
  _start(env, 'NotesCreate')
  assert fake.requests[:2] == ['/task/tear_down', '/suite/reinitialize']


# Failures.

ENDS = ('error', 'drop', 'garbage', 'freeze')


def _limits(failure):
  """As short as the failure needs, as a busy machine is slow itself."""
  seconds = 1. if failure in ('freeze', 'slow') else 60.
  return {'step_timeout': seconds, 'task_timeout': seconds}


@pytest.mark.parametrize('route, failure', [
    *[('/screenshot', failure) for failure in (*ENDS, 'slow')],
    *[(route, failure) for failure in ('error', 'drop', 'freeze')
      for route in ('/suite/reinitialize', '/task/initialize', '/reset')],
    *[('/task/goal', failure) for failure in ENDS],
])
def test_a_failure_of_a_reset_is_raised(fake, make_env, route, failure):
  env = make_env(**_limits(failure))
  fake.failures[route] = [failure]
  with pytest.raises(client_lib.PhoneError, match=f'{route} failed: '):
    _start(env, 'NotesVisit')
  with pytest.raises(gymnasium.error.ResetNeeded):
    env.step(tokens_lib.make_action('done'))
  opened = fake.count('/task/initialize')
  assert fake.count('/task/tear_down') == opened == (
      route != '/suite/reinitialize')
  _start(env, 'NotesVisit')  # and the phone is as good as before


@pytest.mark.parametrize('route, failure', [
    *[('/screenshot', failure) for failure in (*ENDS, 'slow')],
    *[('/execute_action', failure) for failure in ('drop', 'freeze')],
    *[('/task/score', failure) for failure in ENDS],
])
def test_a_failure_of_a_step_is_raised(fake, make_env, route, failure):
  env = make_env(max_steps=2, **_limits(failure))
  _, info = _start(env, 'SettingsWifiTurnOn', expert=True)
  fake.failures[route] = [failure]
  with pytest.raises(client_lib.PhoneError, match=f'{route} failed: '):
    for _ in range(2):
      *_, info = env.step(info['expert_action'])
  assert fake.count('/task/tear_down') == 1
  with pytest.raises(gymnasium.error.ResetNeeded):
    env.step(info['expert_action'])


def test_slowness_within_the_limit_is_none(fake, make_env):
  env = make_env(step_timeout=60.)
  fake.failures['/screenshot'] = ['slow']
  fake.failures['/task/score'] = ['slow']
  start = time.monotonic()
  _start(env, 'NotesVisit')
  assert env.step(tokens_lib.make_action('done'))[1:3] == (0., True)
  assert time.monotonic() - start >= 2 * fake_phone.SLOW_SECONDS


def test_an_episode_counts_although_its_tear_down_fails(fake, make_env):
  env = make_env()
  _, info = _start(env, 'SettingsWifiTurnOn', expert=True)
  fake.failures['/task/tear_down'] = ['error', 'error']
  for _ in range(3):
    _, reward, terminated, _, info = env.step(info['expert_action'])
  assert (reward, terminated) == (1., True)
  # The next one does not begin on what it left.
  with pytest.raises(client_lib.PhoneError, match='/task/tear_down failed'):
    _start(env, 'SettingsWifiTurnOn')
  _start(env, 'SettingsWifiTurnOn')


def test_a_phone_that_broke_is_the_last_choice(fake, make_env):
  with fake_phone.FakePhone() as second:
    addresses = [fake.address, second.address]
    env = make_env(addresses=addresses)
    fake.failures['/screenshot'] = ['error']
    with pytest.raises(client_lib.PhoneError):
      _start(env, 'NotesVisit')
    env.close()
    _start(make_env(addresses=addresses), 'NotesVisit')
    assert second.count('/task/initialize') == 1


def _play(pool, jobs):
  """Plays jobs as the expert does; returns the events by kind and slot."""
  pool.submit(jobs)
  events = {'observation': [], 'finished': [], 'failed': [], 'lost': []}
  while pool.pending:
    for event in pool.wait(timeout=10.):
      events[event.kind].append(event)
      if event.kind == 'observation':
        pool.act(event.worker, event.info['expert_action'])
  return events


def test_a_round_completes_whatever_breaks_in_the_middle():
  """Two workers on two phones, and every failure in the middle of a round."""
  with fake_phone.FakePhone() as first, fake_phone.FakePhone() as second:
    make_env = functools.partial(
        androidworld.AndroidWorldEnv, tasks.TASKS, max_steps=MAX_STEPS,
        addresses=[first.address, second.address], solver=tasks.solve,
        step_timeout=5., task_timeout=5.)
    first.failures['/screenshot'] = [
        '', '', 'drop', '', '', '', 'garbage', '', '', '', 'slow']
    second.failures['/execute_action'] = ['', 'drop']
    second.failures['/task/score'] = ['', 'freeze']
    jobs = [workers.Job(slot, slot % len(tasks.TASKS), 7 + slot, True)
            for slot in range(2 * len(tasks.TASKS))]
    with workers.WorkerPool(make_env, num_workers=2, step_timeout=60.,
                            max_retries=4) as pool:
      events = _play(pool, jobs)
      failures = pool.failures
    assert not any(first.failures.values()) and not any(
        second.failures.values()), 'each failure was met'
  assert failures == {'exception': 4}
  assert len(events['failed']) == 4 and not events['lost']
  assert all('PhoneError' in event.message for event in events['failed'])
  # Every slot ended once, and none of the failures counts as the agent's.
  assert sorted(event.job.slot for event in events['finished']) == list(
      range(len(jobs)))
  assert {event.reward for event in events['finished']} == {1.}


def test_a_job_that_always_breaks_is_lost_and_no_reward(fake):
  make_env = functools.partial(
      androidworld.AndroidWorldEnv, ['NotesVisit'], addresses=[fake.address],
      solver=tasks.solve)
  fake.failures['/task/score'] = ['error'] * 2
  with workers.WorkerPool(make_env, num_workers=1, step_timeout=60.,
                          max_retries=1) as pool:
    events = _play(pool, [workers.Job(0, 0, 1, True)])
  assert len(events['failed']) == len(events['lost']) == 1
  assert events['finished'] == []


def test_commands_are_those_of_the_codec(fake, make_env):
  env = make_env()
  _start(env, 'NotesVisit')
  seen = []
  execute = fake.phone.execute
  fake.phone.execute = lambda **command: seen.append(command) or execute(
      **command)
  env.step(tokens_lib.make_action('scroll_down'))
  env.step(tokens_lib.make_action('type', word=0))
  assert seen == [
      *json_action.encode(Action(kind='scroll', direction='down', amount=5),
                          screen_size=(240, 540)),
      {'action_type': 'input_text', 'text': 'Look'}]


def test_a_tear_down_that_fails_does_not_stop_what_comes_next(make_env, fake):
  env = make_env()
  _start(env, 'NotesVisit')
  fake.failures['/task/tear_down'] = ['error'] * 9
  with pytest.raises(client_lib.PhoneError, match='/task/tear_down failed'):
    _start(env, 'NotesCreate')
  _, info = _start(env, 'NotesCreate')
  assert info['task'] == 'NotesCreate'
