"""Evaluation by OSWorld's own package, desktop-env, in another interpreter.

The package needs old versions of much of what this project uses, so it lives
in a virtual environment of its own:

  python3.11 -m venv DIR; DIR/bin/pip install desktop-env==1.0.2

`evaluate` runs this file there, as a program: it reads a task and an address
as JSON from stdin and answers with a score. All of OSWorld's getters and
metrics are there, and its habit too: a desktop that does not answer is often a
score of 0.
"""

import json
import os
import subprocess
import sys
from typing import Any
from urllib import parse

_SECONDS = 300.0
_EVALUATORS = ('own', 'desktop_env')


def check(evaluator: str, python: str) -> None:
  """Checks the names of an evaluator and of the interpreter it needs.

  Raises:
    ValueError: for an unknown evaluator, or an interpreter without desktop-env.
  """
  if evaluator not in _EVALUATORS:
    raise ValueError(f'expected an evaluator of {", ".join(_EVALUATORS)}, '
                     f'got {evaluator!r}')
  if evaluator == 'own':
    return
  program = "import importlib.util as u; print(u.find_spec('desktop_env'))"
  try:
    found = subprocess.run([python, '-I', '-c', program], capture_output=True,
                           text=True, timeout=60, check=True).stdout
  except (OSError, subprocess.SubprocessError):
    found = 'None'
  if found.strip() == 'None':
    raise ValueError(
        'expected desktop_env_python to be an interpreter that has the package '
        f'desktop-env, got {python!r}')


def evaluate(python: str, task: dict[str, Any], *, address: str, token: str,
             screen_size: tuple[int, int], failed: bool, cache: str,
             password: str) -> float:
  """Returns the score that desktop-env gives to a desktop as it is now.

  Args:
    python: the interpreter.
    task: the JSON of the task file.
    address: of the desktop.
    token: of the desktop, or ''.
    screen_size: width and height in pixels.
    failed: the agent's last action said that the task cannot be done.
    cache: a folder for files that the package downloads.
    password: of the desktop's user.

  Raises:
    RuntimeError: it did not get to a score.
  """
  order = {'task': task, 'address': address, 'token': token, 'failed': failed,
           'screen_size': screen_size, 'cache': cache, 'password': password}
  try:
    done = subprocess.run(
        [python, os.path.abspath(__file__)], input=json.dumps(order),
        capture_output=True, text=True, timeout=_SECONDS, check=True)
    return float(json.loads(done.stdout)['score'])
  except subprocess.CalledProcessError as error:
    lines = error.stderr.strip().splitlines() or ['no reason']
    raise RuntimeError(f'desktop-env failed: {lines[-1][:300]}') from error
  except (OSError, subprocess.TimeoutExpired, ValueError) as error:
    raise RuntimeError(f'desktop-env failed: {error}') from error


# What follows runs in the other interpreter.


class _Provider:
  """A 'virtual machine' that is simply there."""

  def __init__(self, host: str, port: int):
    # The other ports are of Chrome, VNC and VLC.
    self._ports = f'{host}:{port}:9222:8006:8080'

  def get_vm_path(self, **_: Any) -> str:
    return ''

  def start_emulator(self, *_: Any) -> None:
    pass

  def stop_emulator(self, *_: Any) -> None:
    pass

  def get_ip_address(self, *_: Any) -> str:
    return self._ports


def _send_token(address: str, token: str) -> None:
  """Lets `requests` send the token to the desktop, and to nobody else."""
  import requests

  send = requests.Session.send

  def send_with_token(self, request, **kwargs):
    if request.url.startswith(address + '/'):
      request.headers['Authorization'] = f'Bearer {token}'
    return send(self, request, **kwargs)

  setattr(requests.Session, 'send', send_with_token)


def _main() -> None:
  answer = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # the package prints
  order = json.load(sys.stdin)
  from desktop_env import desktop_env

  url = parse.urlsplit(order['address'])
  provider = _Provider(url.hostname, url.port or 80)
  desktop_env.create_vm_manager_and_provider = (
      lambda *_, **__: (provider, provider))
  if order['token']:
    _send_token(order['address'], order['token'])
  env = desktop_env.DesktopEnv(
      provider_name='docker', cache_dir=order['cache'], os_type='Ubuntu',
      screen_size=tuple(order['screen_size']), require_a11y_tree=False,
      client_password=order['password'])
  env._set_task_info(order['task'])
  env.setup_controller.reset_cache_dir(env.cache_dir)
  env.action_history.append('FAIL' if order['failed'] else 'DONE')
  print(json.dumps({'score': float(env.evaluate())}), file=answer)


if __name__ == '__main__':
  _main()
