"""OSWorld's own client and evaluators against our desktop.

  python benchmarks/osworld_client_check.py --python=VENV/bin/python

VENV is a virtual environment of its own with `pip install desktop-env==1.0.2`,
whose requirements fit nothing else. Three of our tasks are reset, stepped with
pyautogui code and scored by that package, unchanged but for a provider that
names the desktop. Each must score 0 before its scripted solution and 1 after
it; then the exit code is 0.
"""

import argparse
import ast
import importlib.util
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import xml.etree.ElementTree

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PROGRAM = _ROOT / 'step_jax/envs/osworld/desktop/__main__.py'
_TASKS = _ROOT / 'configs/tasks/desktop/train'
_NAMES = ('mousepad-add-word', 'files-rename', 'calc-write-cell')
_NAMESPACE = 'https://accessibility.ubuntu.example.org/ns/'
_COMPONENT = f'{{{_NAMESPACE}component}}'
_STATE = f'{{{_NAMESPACE}state}}'
_PATIENCE = 30.0   # seconds for an element to appear


class _Provider:
  """Names one desktop to the client; a snapshot is the desktop's reset."""

  def __init__(self, address):
    self._address = address

  def start_emulator(self, *_):
    pass

  def get_ip_address(self, _):
    return self._address.removeprefix('http://') + ':9222:8006:8080'

  def save_state(self, *_):
    pass

  def revert_to_snapshot(self, path, _):
    urllib.request.urlopen(f'{self._address}/reset', data=b'').close()
    return path

  def stop_emulator(self, _):
    pass


def _load_task(name, home, cache):
  """A task with its paths filled in, and its expected file in the cache."""
  text = (_TASKS / f'{name}.json').read_text().replace('{HOME}', home)
  task = json.loads(text)
  for step in task['config']:
    for file in step['parameters'].get('files', ()):
      file['local_path'] = str(_TASKS / file['local_path'])
  expected = task['evaluator'].get('expected', {})
  if expected.get('type') == 'cloud_file':   # The client reads no file://.
    target = cache / task['id'] / expected['dest']
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_TASKS / expected['path'].removeprefix('file://'), target)
  return task


def _find(env, kind, text=None):
  """The first such element of the tree that the client gets."""
  deadline = time.monotonic() + _PATIENCE
  while time.monotonic() < deadline:
    tree = xml.etree.ElementTree.fromstring(
        env.controller.get_accessibility_tree())
    for element in tree.iter(kind):
      named = (element.get('name') or element.text or '').strip()
      if text is None or named == text:
        return element
    time.sleep(0.2)
  raise SystemExit(f'expected {kind} {text} on the screen, got none')


def _act(env, step):
  """Does one step of a scripted solution with pyautogui code."""
  kind = step['element']['kind']
  element = _find(env, kind, step['element'].get('text'))
  left, top = ast.literal_eval(element.get(f'{_COMPONENT}screencoord'))
  width, height = ast.literal_eval(element.get(f'{_COMPONENT}size'))
  code = [f'pyautogui.click({left + width // 2}, {top + height // 2})']
  if step['verb'] == 'type':
    if element.get(f'{_STATE}single_line'):
      code.append('pyautogui.hotkey("ctrl", "a")')
    elif kind == 'text':
      code.append('pyautogui.hotkey("ctrl", "end")')
    code.append(f'pyautogui.write({step["word"]!r})')
    if kind == 'table-cell':
      code.append('pyautogui.press("enter")')
  env.step('; '.join(code), pause=0.5)


def _run_tasks(address):
  """Runs the tasks with the package; returns whether all scores are right."""
  from desktop_env import desktop_env
  desktop_env.create_vm_manager_and_provider = (
      lambda *_, **__: (None, _Provider(address)))
  with urllib.request.urlopen(f'{address}/health') as answer:
    home = json.load(answer)['home']
  right = True
  with tempfile.TemporaryDirectory() as folder:
    env = desktop_env.DesktopEnv(
        provider_name='vmware', path_to_vm='desktop', cache_dir=folder,
        screen_size=(1280, 720))
    for name in _NAMES:
      task = _load_task(name, home, pathlib.Path(folder))
      steps = json.loads((_TASKS / f'{name}.solution.json').read_text())
      env.reset(task_config=task)
      before = env.evaluate()
      env.reset(task_config=task)
      for step in steps['steps'][:-1]:
        _act(env, step)
      observation, _, done, _ = env.step('DONE', pause=0.5)
      after = env.evaluate()
      right &= (before, after, done) == (0, 1, True)
      print(f'{name}: {before} before, {after} after, screenshot of '
            f'{len(observation["screenshot"])} bytes', flush=True)
    env.close()
  return right


def main():
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--python', help='of a venv with desktop-env')
  parser.add_argument('--address', help=argparse.SUPPRESS)   # for that Python
  args = parser.parse_args()
  if args.address:
    sys.exit(not _run_tasks(args.address))
  if not args.python:
    parser.error('expected --python, got none')
  packages = pathlib.Path(
      importlib.util.find_spec('pyautogui').origin).parents[1]
  with subprocess.Popen(
      ['/usr/bin/python3', _PROGRAM, f'--packages={packages}', '--port=0'],
      stdout=subprocess.PIPE, text=True) as desktop:
    try:
      address = re.search('http://[^ ]+', desktop.stdout.readline())[0]
      code = subprocess.run(
          [args.python, __file__, '--address', address]).returncode
    finally:
      desktop.terminate()
  sys.exit(code)


if __name__ == '__main__':
  main()
