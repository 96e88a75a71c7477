"""Requests to AndroidWorld's server, and the statuses that it answers.

Every route of server/android_server.py, each with every status by which it
answers mistakes.
The tests ask the fake phone; `benchmarks/androidworld_server_check.py` asks the
server itself, in this order, with names of its own tasks.
"""

TASK = {'task_type': 'SettingsWifiTurnOn', 'task_idx': 0}
NOBODY = {'task_type': 'Nobody', 'task_idx': 0}
CLICK = {'action_type': 'click', 'x': 1, 'y': 1}

# Method, route, parameters, JSON and status.
REQUESTS = [
    ('POST', '/reset', {'go_home': True}, None, 200),
    ('POST', '/reset', {'go_home': 'false'}, None, 200),
    ('POST', '/reset', {}, None, 422),
    ('GET', '/reset', {'go_home': True}, None, 405),
    ('GET', '/screenshot', {'wait_to_stabilize': True}, None, 200),
    ('GET', '/screenshot', {}, None, 422),
    ('GET', '/screenshot', {'wait_to_stabilize': 'perhaps'}, None, 422),
    ('POST', '/execute_action', {}, CLICK, 200),
    ('POST', '/execute_action', {}, {'action_type': 'wait'}, 200),
    ('POST', '/execute_action', {}, {'action_type': 'unknown'}, 200),
    ('POST', '/execute_action', {}, {'action_type': 'click', 'index': 0}, 200),
    ('POST', '/execute_action', {}, None, 422),
    ('POST', '/execute_action', {}, [CLICK], 422),
    ('POST', '/execute_action', {}, {}, 500),
    ('POST', '/execute_action', {}, {'action_type': 'tap'}, 500),
    ('POST', '/execute_action', {}, {'action_type': 'click'}, 500),
    ('POST', '/execute_action', {}, {**CLICK, 'index': 0}, 500),
    ('POST', '/execute_action', {}, {'action_type': 'click', 'index': 99}, 500),
    ('POST', '/execute_action', {}, {**CLICK, 'more': 0}, 500),
    ('POST', '/execute_action', {}, {**CLICK, 'keycode': 'ENTER'}, 500),
    ('POST', '/execute_action', {}, {**CLICK, 'direction': 'in'}, 500),
    ('POST', '/execute_action', {}, {'action_type': 'open_app'}, 500),
    ('POST', '/execute_action', {},
     {'action_type': 'open_app', 'app_name': 'Nowhere'}, 500),
    ('GET', '/suite/task_list', {'max_index': -1}, None, 200),
    ('GET', '/suite/task_list', {}, None, 422),
    ('GET', '/suite/task_length', {'task_type': 'NotesCreate'}, None, 200),
    ('GET', '/suite/task_length', {'task_type': 'Nobody'}, None, 500),
    ('GET', '/suite/task_length', {}, None, 422),
    ('GET', '/suite/reinitialize', {}, None, 200),
    ('GET', '/suite/reinitialize', {'seed': 'one'}, None, 422),
    ('GET', '/suite/reinitialize', {'task_family': 'web'}, None, 400),
    ('POST', '/suite/reinitialize', {}, None, 405),
    *[(method, f'/task/{name}', params, None, status)
      for method, name in (
          ('POST', 'initialize'), ('POST', 'tear_down'), ('GET', 'goal'),
          ('GET', 'template'))
      for params, status in (
          (TASK, 200), (NOBODY, 500), ({**TASK, 'task_idx': 2}, 500),
          ({}, 422), ({**TASK, 'task_idx': 'a'}, 422))],
    ('GET', '/task/score', TASK, None, 500),  # not initialised
    ('GET', '/task/score', NOBODY, None, 500),
    ('GET', '/task/score', {}, None, 422),
    ('GET', '/health', {}, None, 200),
    ('POST', '/close', {}, None, 200),
    ('GET', '/', {}, None, 404),
]
