"""A phone of AndroidWorld's protocol without an emulator.

  python tests/fake_phone.py [--port=0] [--with-parent]

It has the routes and status codes of android_world's server/android_server.py,
a home screen and three apps, twelve tasks, and fails on demand. It prints its
address in one line as soon as it answers; with --with-parent it ends when its
standard input does.
"""

import argparse
import asyncio
import collections
import json
import pathlib
import socket
import sys
import threading
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import fastapi  # noqa: E402
import numpy as np  # noqa: E402
import uvicorn  # noqa: E402

from tests import fake_phone_apps as apps  # noqa: E402
from tests import fake_phone_tasks as tasks  # noqa: E402

FAILURES = ('slow', 'error', 'drop', 'garbage', 'freeze')
SLOW_SECONDS = 1.2

_TYPES = (
    'click', 'double_tap', 'scroll', 'swipe', 'input_text', 'navigate_home',
    'navigate_back', 'keyboard_enter', 'open_app', 'status', 'wait',
    'long_press', 'answer', 'unknown')
_COLOURS = [b'[%d,%d,%d]' % rgb for rgb in apps.PALETTE.values()]


class Phone:
  """The phone behind the routes, and the suite of tasks."""

  def __init__(self):
    self.state = apps.State()
    self.suite = make_suite(2, 42)
    self.is_open = True

  def screenshot(self) -> bytes:
    rows = np.asarray(apps.draw(self.state)).tolist()
    lines = [b','.join([_COLOURS[index] for index in row]) for row in rows]
    return b'{"pixels":[[' + b'],['.join(lines) + b']]}'

  def execute(self, *, action_type=None, index=None, x=None, y=None, text=None,
              direction=None, goal_status=None, app_name=None, keycode=None,
              clear_text=None) -> None:
    """Does what actuation.py does, and refuses what JSONAction refuses."""
    del goal_status
    if action_type not in _TYPES:
      raise ValueError(f'Invalid action type: {action_type}')
    if index is not None and (x is not None or y is not None):
      raise ValueError('Either an index or a <x, y> should be provided.')
    if direction and direction not in ('left', 'right', 'down', 'up'):
      raise ValueError(f'Invalid scroll direction: {direction}')
    if keycode is not None and not keycode.startswith('KEYCODE_'):
      raise ValueError(f'Invalid keycode: {keycode}')
    state = self.state
    if action_type in ('click', 'double_tap', 'long_press'):
      for _ in range(1 + (action_type == 'double_tap')):
        state.touch(*self._point(index, x, y), action_type == 'long_press')
    elif action_type == 'input_text' and text:
      if index is not None or (x is not None and y is not None):
        state.touch(*self._point(index, x, y))
      state.type(text, bool(clear_text))
    elif action_type == 'scroll':
      state.scroll(direction)
    elif action_type == 'swipe':
      state.scroll({'up': 'down', 'down': 'up'}.get(direction, direction))
    elif action_type == 'navigate_home':
      state.open('')
    elif action_type == 'navigate_back':
      state.back()
    elif action_type == 'answer':
      state.answer = text
    elif action_type == 'open_app':
      if not app_name:
        raise ValueError('No app name provided')
      if app_name.lower() not in apps.APPS:
        raise RuntimeError(f'No activity of {app_name}')
      state.open(app_name.lower())

  def _point(self, index, x, y):
    if index is not None:
      places = list(self.state.buttons().values())
      if not 0 <= int(index) < len(places):
        raise ValueError(f'Invalid element index: {index}')
      return apps.centre(places[int(index)])
    if x is None or y is None:
      raise ValueError('Invalid click action')
    return int(x) / apps.WIDTH, int(y) / apps.HEIGHT


def make_suite(n_task_combinations: int, seed: int):
  return {name: [tasks.Task(name, seed, index)
                 for index in range(n_task_combinations)]
          for name in tasks.TASKS}


def make_app(phone: Phone) -> fastapi.FastAPI:
  """The routes, with the names and types of AndroidWorld's."""
  app = fastapi.FastAPI()
  _add_phone_routes(app, phone)
  _add_task_routes(app, phone)
  return app


def _success(message: str) -> dict[str, str]:
  return {'status': 'success', 'message': message}


def _add_phone_routes(app: fastapi.FastAPI, phone: Phone) -> None:

  @app.post('/reset')
  async def reset(go_home: bool):
    if go_home:
      phone.state.open('')
    phone.state.answer = ''
    return _success(f'Environment reset with go_home={go_home}.')

  @app.get('/screenshot')
  async def screenshot(wait_to_stabilize: bool):
    del wait_to_stabilize
    return fastapi.Response(
        phone.screenshot(), media_type='application/json')

  @app.post('/execute_action')
  async def execute_action(action_dict: dict[str, Any]):
    phone.execute(**action_dict)
    return _success(f'Action {action_dict} executed.')

  @app.post('/close')
  async def close():
    phone.is_open = False
    return {'status': 'success'}

  @app.get('/health')
  async def health():
    if phone.is_open:
      return {'status': 'success'}
    raise fastapi.HTTPException(500, 'Environment not initialized')


def _add_task_routes(app: fastapi.FastAPI, phone: Phone) -> None:

  @app.get('/suite/task_list')
  async def task_list(max_index: int):
    names = list(phone.suite)
    if max_index > len(names) or max_index < 0:
      return {'task_list': names}
    return {'task_list': names[:max_index]}

  @app.get('/suite/task_length')
  async def task_length(task_type: str):
    return {'length': len(phone.suite[task_type])}

  @app.get('/suite/reinitialize')
  async def reinitialize(n_task_combinations: int = 2, seed: int = 42,
                         task_family: str = 'android_world'):
    if task_family != 'android_world':
      raise fastapi.HTTPException(400, f'Invalid task family: {task_family}')
    phone.suite = make_suite(n_task_combinations, seed)
    return _success('Task suite re-initialized with n_task_combinations='
                    f'{n_task_combinations}, seed={seed}.')

  @app.post('/task/initialize')
  async def initialize(task_type: str, task_idx: int):
    phone.state = phone.suite[task_type][task_idx].initialize()
    return _success(f'Task {task_type} {task_idx} initialized.')

  @app.post('/task/tear_down')
  async def tear_down(task_type: str, task_idx: int):
    phone.suite[task_type][task_idx].initialized = False
    phone.state = apps.State()
    return _success(f'Task {task_type} {task_idx} torn down.')

  @app.get('/task/score')
  async def score(task_type: str, task_idx: int):
    return {'score': phone.suite[task_type][task_idx].score(phone.state)}

  @app.get('/task/goal')
  async def goal(task_type: str, task_idx: int):
    return {'goal': phone.suite[task_type][task_idx].goal}

  @app.get('/task/template')
  async def template(task_type: str, task_idx: int):
    return {'template': phone.suite[task_type][task_idx].type.template}


class FakePhone:
  """Serves a phone on a port of loopback, in a thread, until it is left.

  `failures[route]` is a list of what its next requests meet: one of FAILURES.
  'slow' answers late, 'error' with status 500, 'drop' ends the connection in
  the middle, 'garbage' is an answer that is none, 'freeze' none at all.
  """

  def __init__(self, port: int = 0):
    self.phone = Phone()
    self.requests: list[str] = []  # routes
    self.failures: dict[str, list[str]] = collections.defaultdict(list)
    self._app = make_app(self.phone)
    self._socket = socket.create_server(('127.0.0.1', port))
    self._server = uvicorn.Server(uvicorn.Config(
        self._answer, interface='asgi3', log_level='critical', lifespan='off',
        ws='none'))
    self._thread = threading.Thread(target=self.serve)

  @property
  def address(self) -> str:
    return f'http://127.0.0.1:{self._socket.getsockname()[1]}'

  @property
  def has_started(self) -> bool:
    return self._server.started

  def serve(self) -> None:
    """Answers until it is stopped."""
    self._server.run(sockets=[self._socket])

  def stop(self) -> None:
    self._server.should_exit = True

  def __enter__(self) -> 'FakePhone':
    self._thread.start()
    while not self.has_started:
      time.sleep(0.01)
    return self

  def __exit__(self, *_) -> None:
    self.stop()
    self._thread.join()
    self._socket.close()

  def count(self, route: str) -> int:
    return self.requests.count(route)

  async def _answer(self, scope, receive, send) -> None:
    route = scope['path']
    self.requests.append(route)
    failure = self.failures[route].pop(0) if self.failures[route] else ''
    if failure == 'slow':
      await asyncio.sleep(SLOW_SECONDS)
    elif failure == 'freeze':
      while not self._server.should_exit:
        await asyncio.sleep(0.01)
      failure = 'drop'
    if failure == 'drop':
      await _send(send, 200, b'{"pixels":[[[', complete=False)
    elif failure == 'error':
      await _send(send, 500, b'Internal Server Error')
    elif failure == 'garbage':
      await _send(send, 200, b'{"pixels":[[[0,0,0],[0,')
    else:
      await self._app(scope, receive, send)


async def _send(send, status: int, body: bytes, complete: bool = True) -> None:
  length = len(body) + (not complete)  # what is promised and never comes
  await send({'type': 'http.response.start', 'status': status, 'headers': [
      (b'content-type', b'application/json'),
      (b'content-length', str(length).encode())]})
  await send({'type': 'http.response.body', 'body': body,
              'more_body': not complete})


def _main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--port', type=int, default=0, help='0 takes any')
  parser.add_argument('--failures', type=json.loads, default={},
                      help='such as {"/screenshot": ["", "error"]}')
  parser.add_argument('--with-parent', action='store_true',
                      help='end with the standard input')
  arguments = parser.parse_args()
  fake = FakePhone(arguments.port)
  fake.failures.update(arguments.failures)

  def announce():
    while not fake.has_started:
      time.sleep(0.01)
    print(f'fake phone at {fake.address}', flush=True)
    if arguments.with_parent:
      sys.stdin.read()
      fake.stop()

  threading.Thread(target=announce, daemon=True).start()
  fake.serve()


if __name__ == '__main__':
  _main()
