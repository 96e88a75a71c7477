"""AndroidWorld's own server on a phone that is files of a folder.

For `androidworld_server_check`, which says what Python `serve` needs. What
`make_phone` writes as `adb` hands what it is told to `sh`, as a phone's adb
does, with a path on which every program is this file: it notes its arguments,
and keeps the settings.
"""

import json
import pathlib
import stat
import sys

SIZE = (540, 1200)  # (width, height), a quarter of a phone's: JSON is slow
SWITCH = (270, 600)  # where a touch turns the wireless network on and off
_NO_ACTIVITY = 252  # what monkey exits with

_ADB = '''#!/bin/sh
while [ $# -gt 0 ] && [ "$1" != shell ]; do shift; done
[ $# -eq 0 ] && exit 0  # devices, root, start-server
shift
exec /usr/bin/env -i PATH={bin} {bin}/sh -c "$*"
'''
_PROGRAMS = (  # of a phone, that upstream's code may call
    'am', 'cat', 'chmod', 'chown', 'cmd', 'content', 'cp', 'date', 'dumpsys',
    'find', 'getprop', 'input', 'ls', 'mkdir', 'monkey', 'pm', 'restorecon',
    'rm', 'service', 'setprop', 'settings', 'svc', 'whoami', 'wm')


def make_phone(folder):
  """Writes its programs, and an empty log of what is done with them."""
  folder.joinpath('bin').mkdir()
  for name in ('sh', 'grep'):
    folder.joinpath('bin', name).symlink_to(f'/bin/{name}')
  _write(folder / 'adb', _ADB.format(bin=folder / 'bin'))
  for name in _PROGRAMS:
    _write(folder / 'bin' / name,
           f'#!/bin/sh\nexec {sys.executable} -IS {__file__} '
           f'{folder} {name} "$@"\n')
  folder.joinpath('log').touch()


def _write(path, text):
  path.write_text(text)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


def settings(folder):
  path = folder / 'settings'
  return json.loads(path.read_text()) if path.exists() else {}


def _set(folder, name, value):
  path = folder / 'settings.new'
  path.write_text(json.dumps(settings(folder) | {name: value}))
  path.replace(folder / 'settings')


def run_program(folder, words):
  """Does what a program of the phone does; returns its exit code."""
  with open(folder / 'log', 'a') as log:
    log.write(json.dumps(words) + '\n')
  match words:
    case ['settings', 'put', _, name, value]:
      _set(folder, name, value)
    case ['settings', 'get', _, name]:
      print(settings(folder).get(name, 'null'))
    case ['svc', 'wifi', 'enable' | 'disable' as state]:
      _set(folder, 'wifi_on', str(int(state == 'enable')))
    case ['input', 'tap', x, y] if (int(x), int(y)) == SWITCH:
      _set(folder, 'wifi_on',
           str(int(settings(folder).get('wifi_on') != '1')))
    case ['monkey', *_]:
      print('** No activities found to run, monkey aborted.')
      return _NO_ACTIVITY
    case ['dumpsys', 'input']:
      print('logicalFrame=[0, 0, {}, {}]\nSurfaceOrientation: 0'.format(*SIZE))
    case ['service', 'check', name]:
      print(f'Service {name}: found')
    case ['whoami']:
      print('root')
    case ['wm', 'size']:
      print('Physical size: {}x{}'.format(*SIZE))
  return 0


def commands(folder, *programs):
  """What has reached some of its programs since the last call."""
  path = folder / 'log'
  lines = path.read_text().splitlines()
  path.write_text('')
  return [words for words in map(json.loads, lines) if words[0] in programs]


def screen(folder):
  """A picture [H, W, 3] of many digits, half of it green if wifi is on."""
  import numpy as np   # which the phone's programs do without
  width, height = SIZE
  y, x = np.mgrid[:height, :width]
  picture = np.stack([x % 251, y % 241, (x + y) % 256], -1).astype(np.uint8)
  if settings(folder).get('wifi_on') == '1':
    picture[:height // 2] = (0, 200, 0)
  return picture


def serve(folder, port, android_world):
  """Runs upstream's server; only its way to an emulator is replaced."""
  sys.path[:0] = [android_world, f'{android_world}/server']
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
      return screen(folder)

  def load(**_):
    task = task_manager.TaskManager(loader._load_task(
        config_classes.FilesystemTaskConfig(
            path=controller_lib._write_default_task_proto())))
    simulator = Simulator(config_classes.FakeSimulatorConfig(
        screen_dimensions=SIZE[::-1]))
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


if __name__ == '__main__':
  if sys.argv[1] == '--serve':
    serve(pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
  else:
    sys.exit(run_program(pathlib.Path(sys.argv[1]), sys.argv[2:]))
