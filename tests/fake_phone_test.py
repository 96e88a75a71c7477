"""The fake phone keeps AndroidWorld's contract, and its tasks can be solved."""

import contextlib
import json
import pathlib
import subprocess
import sys

import httpx
import numpy as np
import pytest

from step_jax.envs.androidworld import client as client_lib
from tests import androidworld_contract as contract
from tests import fake_phone
from tests import fake_phone_apps as apps
from tests import fake_phone_tasks as tasks


@pytest.fixture
def http():
  with fake_phone.FakePhone() as fake, httpx.Client(
      base_url=fake.address, trust_env=False, timeout=20.,
      limits=httpx.Limits(max_keepalive_connections=0)) as client:
    yield client  # uvicorn closes a connection after an error


@pytest.mark.parametrize(
    'method, route, params, body, status', contract.REQUESTS)
def test_routes_and_status_codes(http, method, route, params, body, status):
  response = http.request(method, route, params=params, json=body)
  assert response.status_code == status
  if status == 500:
    assert response.text == 'Internal Server Error'


def test_what_the_routes_answer(http):
  def get(route, **params):
    response = http.get(route, params=params)
    assert response.status_code == 200
    return response.json()

  def post(route, **params):
    response = http.post(route, params=params)
    assert response.status_code == 200
    assert response.json()['status'] == 'success'

  assert get('/health') == {'status': 'success'}
  names = get('/suite/task_list', max_index=-1)['task_list']
  assert names == sorted(tasks.TASKS) and len(names) == 12
  assert get('/suite/task_list', max_index=3)['task_list'] == names[:3]
  assert get('/suite/task_list', max_index=99)['task_list'] == names
  assert get('/suite/task_length', task_type=names[0]) == {'length': 2}
  answer = get('/suite/reinitialize', n_task_combinations=3, seed=7)
  assert set(answer) == {'status', 'message'}
  assert get('/suite/task_length', task_type=names[0]) == {'length': 3}
  assert get('/task/template', **contract.TASK) == {'template': 'Turn wifi on.'}
  assert get('/task/goal', **contract.TASK) == {'goal': 'Turn wifi on.'}
  post('/task/initialize', **contract.TASK)
  assert http.post('/task/initialize', params=contract.TASK).status_code == 500
  assert get('/task/score', **contract.TASK) == {'score': 0.}
  post('/task/tear_down', **contract.TASK)
  assert http.get('/task/score', params=contract.TASK).status_code == 500
  post('/task/initialize', **contract.TASK)
  pixels = get('/screenshot', wait_to_stabilize=False)['pixels']
  assert np.shape(pixels) == (540, 240, 3)
  post('/reset', go_home=True)
  assert set(http.post('/close').json()) == {'status'}
  response = http.get('/health')
  assert response.status_code == 500
  assert response.json() == {'detail': 'Environment not initialized'}


def test_a_score_may_be_a_part(http):
  task = {'task_type': 'SettingsWifiAndBluetoothTurnOn', 'task_idx': 0}
  scores = []
  http.post('/task/initialize', params=task)
  for name in ('', 'wifi', 'bluetooth'):
    if name:
      x, y = apps.centre(apps.switch(name, False))
      http.post('/execute_action', json={
          'action_type': 'open_app', 'app_name': 'Settings'})
      http.post('/execute_action', json={
          'action_type': 'click', 'x': round(240 * x), 'y': round(540 * y)})
    scores.append(http.get('/task/score', params=task).json()['score'])
  assert scores == [0., .5, 1.]


@pytest.mark.parametrize('before, command, after', [
    ({}, {'action_type': 'open_app', 'app_name': 'Notes'}, {'app': 'notes'}),
    ({}, {'action_type': 'click', 'index': 2}, {'app': 'messages'}),
    ({'app': 'notes'}, {'action_type': 'navigate_home'}, {'app': ''}),
    ({'app': 'notes', 'page': 'edit'}, {'action_type': 'navigate_back'},
     {'app': 'notes', 'page': ''}),
    ({'app': 'settings'}, {'action_type': 'scroll', 'direction': 'down'},
     {'scrolled': True}),
    ({'app': 'settings'}, {'action_type': 'swipe', 'direction': 'up'},
     {'scrolled': True}),
    ({'app': 'settings', 'scrolled': True},
     {'action_type': 'swipe', 'direction': 'down'}, {'scrolled': False}),
    ({'app': 'settings', 'wifi': True},
     {'action_type': 'click', 'x': 200, 'y': 120}, {'wifi': False}),
    ({'app': 'settings', 'wifi': True},
     {'action_type': 'double_tap', 'x': 200, 'y': 120}, {'wifi': True}),
    ({'app': 'notes', 'notes': ['a', 'b']},
     {'action_type': 'long_press', 'x': 100, 'y': 120}, {'selected': 0}),
    ({'app': 'notes', 'notes': ['a', 'b'], 'selected': 1},
     {'action_type': 'click', 'x': 40, 'y': 470}, {'notes': ['a']}),
    ({'app': 'notes', 'page': 'edit', 'field': 'a'},
     {'action_type': 'input_text', 'text': 'b'}, {'field': 'ab'}),
    ({'app': 'notes', 'page': 'edit', 'field': 'a'},
     {'action_type': 'input_text', 'text': 'b', 'clear_text': True},
     {'field': 'b'}),
    ({'app': 'notes'}, {'action_type': 'input_text', 'text': 'b'},
     {'field': ''}),
    ({'app': 'messages', 'page': 'Eva', 'field': 'hello'},
     {'action_type': 'click', 'x': 200, 'y': 470},
     {'sent': [('Eva', 'hello')], 'field': ''}),
    ({}, {'action_type': 'answer', 'text': '42'}, {'answer': '42'}),
    ({}, {'action_type': 'status', 'goal_status': 'complete'}, {'app': ''}),
    ({}, {'action_type': 'keyboard_enter'}, {'app': ''}),
])
def test_what_actions_do(before, command, after):
  phone = fake_phone.Phone()
  phone.state = apps.State(**before)
  phone.execute(**command)
  assert {name: getattr(phone.state, name) for name in after} == after


def test_the_screenshot_is_what_is_drawn():
  phone = fake_phone.Phone()
  phone.state.open('settings')
  np.testing.assert_array_equal(
      client_lib.decode_screenshot(phone.screenshot()),
      np.asarray(apps.draw(phone.state).convert('RGB')))
  assert json.loads(phone.screenshot())['pixels'][5][5] == [150, 150, 150]


def test_every_page_looks_different():
  states = [apps.State(), *[apps.State(app=app) for app in apps.APPS],
            apps.State(app='settings', scrolled=True),
            apps.State(app='settings', bluetooth=True),
            apps.State(app='notes', notes=['a']),
            apps.State(app='notes', notes=['a'] * 4),
            apps.State(app='notes', notes=['a'], selected=0),
            apps.State(app='messages', page='Ana', sent=[('Ana', 'a')]),
            apps.State(app='notes', page='edit'),
            apps.State(app='notes', page='edit', field='a'),
            *[apps.State(app='messages', page=name) for name in apps.CONTACTS]]
  assert len({apps.draw(state).tobytes() for state in states}) == len(states)


def test_a_seed_repeats_the_parameters():
  def goals(seed):
    return [task.goal for instances in fake_phone.make_suite(2, seed).values()
            for task in instances]

  assert goals(3) == goals(3) != goals(4)
  assert all(set(goals(seed)[:2]) != set(goals(seed + 1)[:2])
             for seed in range(3))


def test_the_command_serves_until_its_parent_ends():
  script = pathlib.Path(fake_phone.__file__)
  with subprocess.Popen(
      [sys.executable, str(script), '--port=0', '--with-parent',
       '--failures={"/health": ["error"]}'],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
    line = process.stdout.readline()
    address = line.removeprefix('fake phone at ').strip()
    with contextlib.closing(client_lib.Phone(address)) as phone:
      with pytest.raises(client_lib.PhoneError, match='status 500'):
        phone.check_health()
      phone.check_health()
      assert phone.screenshot().shape == (540, 240, 3)
    process.stdin.close()
    assert process.wait(10) == 0
