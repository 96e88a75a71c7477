"""AndroidWorld's own server, tasks and adb calls against our environment.

  python benchmarks/androidworld_server_check.py --python=VENV/bin/python
      --android_world=DIR

DIR is a checkout of github.com/google-research/android_world after `VENV/bin/
python setup.py generate_protos`; VENV is a virtual environment of its own with
what DIR/requirements.txt names, fastapi and uvicorn. Server, suite of tasks and
adb calls are upstream's, unchanged; what stands in for the emulator and for the
program `adb` is `stand_in_phone`. Two of our episodes are played, every kind of
action is followed to the arguments that a phone's programs get, the names and
goals of all tasks are read, and each status that the fake phone of the tests
gives is compared. The exit code is 0 if all was as it should be.
"""

import argparse
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import stand_in_phone  # noqa: E402

_PATIENCE = 120.0  # seconds for the server to answer
_TASKS = {  # in the place of the fake phone's
    'SettingsWifiTurnOn': 'SystemWifiTurnOn', 'NotesCreate': 'MarkorCreateNote'}


# The server, in upstream's Python.


def serve(android_world, folder, port):
  """Runs upstream's server; only its way to an emulator is replaced."""
  sys.path[:0] = [android_world, os.path.join(android_world, 'server')]
  from android_env import environment
  from android_env import loader
  from android_env.components import adb_controller
  from android_env.components import config_classes
  from android_env.components import coordinator
  from android_env.components import device_settings
  from android_env.components import log_stream
  from android_env.components import task_manager
  from android_env.components.simulators.fake import fake_simulator
  from android_world.env import android_world_controller as controller_lib
  from android_world.env import env_launcher
  from android_world.env import interface
  import numpy as np
  import uvicorn

  class Silence(log_stream.LogStream):
    """No log: that of the fake simulator draws from `random`, as tasks do."""

    def _get_stream_output(self):
      return iter(())

    def stop_stream(self):
      pass

  class Simulator(fake_simulator.FakeSimulator):
    """Draws the switch, and calls our adb as it would call the real one."""

    def create_adb_controller(self):
      return adb_controller.AdbController(config_classes.AdbControllerConfig(
          adb_path=str(folder / 'adb'), device_name='phone'))

    def create_log_stream(self):
      return Silence()

    def _get_screenshot_impl(self):
      return stand_in_phone.screen(np, folder)

  def load(**_):
    task = task_manager.TaskManager(loader._load_task(
        config_classes.FilesystemTaskConfig(
            path=controller_lib._write_default_task_proto())))
    simulator = Simulator(config_classes.FakeSimulatorConfig(
        screen_dimensions=stand_in_phone.SIZE[::-1]))
    env = environment.AndroidEnv(
        simulator=simulator, task_manager=task,
        coordinator=coordinator.Coordinator(
            simulator, task, device_settings.DeviceSettings(simulator)))
    return interface.AsyncAndroidEnv(controller_lib.AndroidWorldController(
        env, controller_lib.A11yMethod.NONE))

  env_launcher.load_and_setup_env = load
  import android_server
  uvicorn.run(android_server.app, host='127.0.0.1', port=port,
              log_level='warning')


# The environment, in ours.


def check(address, folder):
  """Yields what was checked and whether it was as expected."""
  import numpy as np
  from step_jax.envs import androidworld
  from step_jax.envs import androidworld_client as client_lib
  from step_jax.envs import androidworld_tasks
  from step_jax.envs.actions import Action

  phone = client_lib.Phone(address)
  yield '116 names of tasks', set(phone.task_list()) == set(
      androidworld_tasks.TASKS)

  def goals(seed):
    phone.reinitialize(seed=seed, task_family='android_world')
    return {(task, phone.goal(task)) for task in androidworld_tasks.TASKS}

  first, other = goals(1), goals(2)
  yield f'{len(first - other)} of 116 goals change with the seed', (
      len(first - other) > 58)
  changed = {task for task, _ in first - goals(1)}
  yield 'a seed gives the same goals again, but for one named by the clock', (
      changed <= {'MarkorCreateFolder'} or print(f'got {changed}'))
  start = time.monotonic()
  picture = phone.screenshot()
  yield f'screenshot, in {time.monotonic() - start:.1f} s', np.array_equal(
      picture, stand_in_phone.screen(np, folder))

  def commands():
    return stand_in_phone.commands(folder, 'input', 'am', 'monkey')

  env = androidworld.AndroidWorldEnv(
      ['SystemWifiTurnOn'], addresses=[address], max_steps=40)
  centre = tuple(p / size for p, size in zip(
      stand_in_phone.SWITCH, stand_in_phone.SIZE, strict=True))
  touch, done = Action(kind='click', point=centre), Action(kind='done')

  def play(*actions):
    env.reset(seed=0)
    steps = [env.step(action) for action in actions]
    return [step[1] for step in steps], steps[-1][2:4]

  yield 'doing nothing is no success', play(done) == ([0.], (True, False))
  start = time.monotonic()
  yield 'what is asked for is one', play(touch, done) == (
      [0., 1.], (True, False))
  print(f'an episode of two steps took {time.monotonic() - start:.1f} s')
  yield 'an app that is not there is a step without effect', play(
      Action(kind='open_app', text='Nowhere'), touch, done) == (
          [0., 0., 1.], (True, False))

  env.reset(seed=0)
  commands()
  for action, expected in _expected(Action):
    env.step(action)
    seen = commands()
    yield f'{action.kind} {action.text!r}'.removesuffix(" ''"), (
        expected == seen or print(f'expected {expected}, got {seen}'))
  env.step(Action(kind='done', text='$4.50 "(reboot)"'))
  seen = [words[-1] for words in commands() if words[0] == 'am']
  yield 'an answer', '4.50 (reboot)' in seen or print(f'got {seen}')
  env.close()
  yield from _check_contract(address)


def _check_contract(address):
  """Asks what the tests ask the fake phone."""
  import httpx
  from tests import androidworld_contract as contract
  wrong, count = [], 0
  for method, route, params, body, status in contract.REQUESTS:
    task = params.get('task_type')
    params = params | ({'task_type': _TASKS[task]} if task in _TASKS else {})
    if body == {'action_type': 'click', 'index': 0}:
      continue  # the stand-in has no elements
    count += 1
    answer = httpx.request(
        method, address + route, params=params, json=body, timeout=60.,
        trust_env=False)
    if answer.status_code != status:
      wrong.append((method, route, params, body, answer.status_code))
  yield f'{count} statuses are those of the fake phone', (
      not wrong or print(f'got {wrong}'))


def _expected(Action):
  """Actions, and what programs they should call with what arguments."""
  def typed(*words):
    return [*[['input', 'text', word] for word in words],
            ['input', 'keyevent', 'KEYCODE_ENTER']]

  width, height = stand_in_phone.SIZE
  middle, bottom = (str(width // 2), str(height // 2)), str(height)
  return [
      (Action(kind='click', point=(.25, .25)),
       [['input', 'tap', '135', '300']]),
      (Action(kind='double_click', point=(.25, .25)),
       [['input', 'tap', '135', '300']] * 2),
      (Action(kind='long_press', point=(.25, .25)),
       [['input', 'swipe', '135', '300', '135', '300', '1000']]),
      (Action(kind='scroll', direction='down', amount=5),
       [['input', 'swipe', *middle, middle[0], '0']]),
      (Action(kind='drag', point=(.5, 0.), end=(.5, 1.)),
       [['input', 'swipe', middle[0], '0', middle[0], bottom, '500']]),
      (Action(kind='type', text='two words'), typed('two', '%s', 'words')),
      (Action(kind='type', text='\n'), typed()),
      (Action(kind='type', text='a;b|c&d(e)<f>#g"h\'i`j$k\\l~m*'),
       typed('a;b|c&d(e)<f>#g"h\'i`j$k\\l~m*')),
      (Action(kind='type', text='a\uff1breboot\uff04\uff08x\uff09'),
       typed('a;reboot$(x)')),
      (Action(kind='press_home'), [['input', 'keyevent', 'KEYCODE_HOME']]),
      (Action(kind='press_back'), [['input', 'keyevent', 'KEYCODE_BACK']]),
      (Action(kind='wait'), []),
      (Action(kind='open_app', text='Nowhere'),
       [['monkey', '-p', 'Nowhere', '1']] * 2),
  ]


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--python', help="with upstream's requirements")
  parser.add_argument('--android_world', required=True, help='the checkout')
  parser.add_argument('--serve', help=argparse.SUPPRESS)  # for that Python
  args = parser.parse_args()
  if args.serve:
    folder, port = args.serve.rsplit(':', 1)
    serve(args.android_world, pathlib.Path(folder), int(port))
    return
  if not args.python:
    parser.error('expected --python, got none')
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  with tempfile.TemporaryDirectory() as name, open(
      pathlib.Path(name) / 'server.log', 'w+') as log:
    folder = pathlib.Path(name)
    stand_in_phone.make_phone(folder)
    right = False
    with subprocess.Popen(
        [args.python, __file__, f'--android_world={args.android_world}',
         f'--serve={folder}:{port}'], stdout=log, stderr=log) as server:
      try:
        right = _wait(server, port) and all([
            _tell(what, good)
            for what, good in check(f'http://127.0.0.1:{port}', folder)])
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


def _tell(what, good):
  print(f'{"ok  " if good else "BAD "} {what}', flush=True)
  return bool(good)


if __name__ == '__main__':
  main()
