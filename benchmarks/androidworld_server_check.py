"""AndroidWorld's own server, tasks and adb calls against our environment.

  python benchmarks/androidworld_server_check.py --python=VENV/bin/python
      --android_world=DIR

DIR is a checkout of github.com/google-research/android_world after `VENV/bin/
python setup.py generate_protos`; VENV is a virtual environment of its own with
what DIR/requirements.txt names, fastapi and uvicorn. Server, suite of tasks and
adb calls are upstream's, unchanged; what stands in for the emulator and for the
program `adb` is `stand_in_phone`. The names and goals of all tasks are read, a
task is played, every kind of action is followed to the arguments that a phone's
programs get, and statuses are compared with those of the tests' fake phone. The
exit code is 0 if all was as it should be; it takes four minutes.
"""

import argparse
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import httpx
import numpy as np

from benchmarks import stand_in_phone
from step_jax.codecs.actions import Action
from step_jax.envs.androidworld import client as client_lib
from step_jax.envs.androidworld import env as androidworld
from step_jax.envs.androidworld import tasks as androidworld_tasks
from tests import androidworld_contract as contract

_PATIENCE = 120.0  # seconds for the server to answer
_TASKS = {  # in the place of the fake phone's
    'SettingsWifiTurnOn': 'SystemWifiTurnOn', 'NotesCreate': 'MarkorCreateNote'}


def check(address, folder):
  """Yields what is checked, what came of it, and what should have."""
  yield from _check_tasks(client_lib.Phone(address), folder)
  env = androidworld.AndroidWorldEnv(
      ['SystemWifiTurnOn'], addresses=[address], max_steps=40)
  yield from _check_episodes(env)
  yield from _check_actions(env, folder)
  env.close()
  yield from _check_contract(address)


def _check_tasks(phone, folder):
  def goals(seed):
    phone.reinitialize(seed=seed, task_family='android_world')
    return {(task, phone.goal(task)) for task in androidworld_tasks.TASKS}

  yield 'the names of all tasks', set(phone.task_list()), set(
      androidworld_tasks.TASKS)
  first, other, again = goals(1), goals(2), goals(1)
  count = len(first - other)
  yield f'{count} of 116 goals change with the seed', count > 58, True
  yield ('a seed gives the same goals again, but for one named by the clock',
         {task for task, _ in first - again} - {'MarkorCreateFolder'}, set())
  start = time.monotonic()
  picture = phone.screenshot()
  yield (f'a screenshot, in {time.monotonic() - start:.1f} s',
         np.array_equal(picture, stand_in_phone.screen(folder)), True)


def _check_episodes(env):
  def play(*actions):
    env.reset(seed=0)
    steps = [env.step(action) for action in actions]
    return [step[1] for step in steps], steps[-1][2]

  centre = tuple(p / size for p, size in zip(
      stand_in_phone.SWITCH, stand_in_phone.SIZE, strict=True))
  touch, done = Action(kind='click', point=centre), Action(kind='done')
  yield 'nothing is no success', play(done), ([0.], True)
  start = time.monotonic()
  yield 'what is asked for is one', play(touch, done), ([0., 1.], True)
  print(f'an episode of two steps took {time.monotonic() - start:.1f} s')
  yield ('an app that is not there counts as a step',
         play(Action(kind='open_app', text='Nowhere'), touch, done),
         ([0., 0., 1.], True))


def _check_actions(env, folder):
  def commands():
    return stand_in_phone.commands(folder, 'input', 'am', 'monkey')

  env.reset(seed=0)
  commands()
  for action, expected in _expected():
    env.step(action)
    words = f'{action.kind} {action.text or action.direction!r}'
    yield words.removesuffix(" ''"), commands(), expected
  env.step(Action(kind='done', text='$4.50 "(reboot)"'))
  yield 'an answer', commands()[0][-1], '4.50 (reboot)'
  env.reset(seed=0)
  commands()
  env.step(Action(kind='fail'))
  yield 'fail', commands(), [['am', 'force-stop', 'com.android.settings']]


def _expected():
  """Actions, and what programs they should call with what arguments."""
  width, height = stand_in_phone.SIZE
  x, y, right, bottom = map(str, (width // 2, height // 2, width, height))
  quarter = str(width // 4), str(height // 4)

  def swipe(*places):
    return [['input', 'swipe', *places]]

  def typed(*words):
    return [*[['input', 'text', word] for word in words],
            ['input', 'keyevent', 'KEYCODE_ENTER']]

  def drag(point, end):
    return Action(kind='drag', point=point, end=end)

  return [
      (Action(kind='click', point=(.25, .25)), [['input', 'tap', *quarter]]),
      (Action(kind='double_click', point=(.25, .25)),
       [['input', 'tap', *quarter]] * 2),
      (Action(kind='long_press', point=(.25, .25)),
       swipe(*quarter, *quarter, '1000')),
      *[(Action(kind='scroll', direction=direction, amount=5),
         swipe(x, y, *place)) for direction, place in {
             'down': (x, '0'), 'up': (x, bottom), 'right': ('0', y),
             'left': (right, y)}.items()],
      (drag((.5, 0.), (.5, 1.)), swipe(x, '0', x, bottom, '500')),
      (drag((.5, 1.), (.5, 0.)), swipe(x, bottom, x, '0', '500')),
      (drag((0., .5), (1., .5)), swipe('0', y, right, y, '500')),
      (drag((1., .5), (0., .5)), swipe(right, y, '0', y, '500')),
      (Action(kind='type', text='two words'), typed('two', '%s', 'words')),
      (Action(kind='type', text='\n'), typed()),
      (Action(kind='type', text='a;b|c&d(e)<f>#g"h\'i`j$k\\l~m*'),
       typed('a;b|c&d(e)<f>#g"h\'i`j$k\\l~m*')),
      (Action(kind='type', text='a\uff1breboot\uff04\uff08x\uff09'),
       typed('a;reboot$(x)')),
      (Action(kind='press_home'), [['input', 'keyevent', 'KEYCODE_HOME']]),
      (Action(kind='press_back'), [['input', 'keyevent', 'KEYCODE_BACK']]),
      (Action(kind='wait'), []),
      (Action(kind='open_app', text='Settings'), [
          ['am', 'start', '-W', '-n', 'com.android.settings/.Settings']]),
      (Action(kind='open_app', text='Nowhere'),
       [['monkey', '-p', 'Nowhere', '1']] * 2),
  ]


def _check_contract(address):
  """Asks what the tests ask the fake phone."""
  answers = []
  for method, route, params, body, status in contract.REQUESTS:
    if body == {'action_type': 'click', 'index': 0}:
      continue  # the stand-in has no elements
    task = params.get('task_type')
    params = params | ({'task_type': _TASKS[task]} if task in _TASKS else {})
    answer = httpx.request(
        method, address + route, params=params, json=body, timeout=60.,
        trust_env=False)
    answers.append((method, route, params, body, answer.status_code, status))
  yield (f'{len(answers)} statuses are those of the fake phone',
         [answer for answer in answers if answer[-2] != answer[-1]], [])


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--python', required=True, help='of VENV')
  parser.add_argument('--android_world', required=True, help='the checkout')
  args = parser.parse_args()
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  with tempfile.TemporaryDirectory() as name, open(
      pathlib.Path(name) / 'server.log', 'w+') as log:
    folder = pathlib.Path(name)
    stand_in_phone.make_phone(folder)
    right = False
    with subprocess.Popen(
        [args.python, stand_in_phone.__file__, '--serve', folder, str(port),
         args.android_world], stdout=log, stderr=log) as server:
      try:
        right = _wait(server, port) and all([
            _tell(*checked)
            for checked in check(f'http://127.0.0.1:{port}', folder)])
      finally:
        server.terminate()
        if not right:
          log.seek(0)
          print(''.join(log.readlines()[-40:]))
  sys.exit(not right)


def _wait(server, port):
  deadline = time.monotonic() + _PATIENCE
  while server.poll() is None and time.monotonic() < deadline:
    try:
      socket.create_connection(('127.0.0.1', port)).close()
      return True
    except OSError:
      time.sleep(0.2)
  return False


def _tell(what, got, expected):
  print(f'{"ok  " if got == expected else "BAD "} {what}', flush=True)
  if got != expected:
    print(f'expected {expected}, got {got}', flush=True)
  return got == expected


if __name__ == '__main__':
  main()
