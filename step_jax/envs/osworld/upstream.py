"""Setup and evaluation by OSWorld's own package, desktop-env.

The package needs old versions of much of what this project uses, and 7 GB, so
it lives in a virtual environment of its own, which

  python -m step_jax.envs.osworld.upstream DIR [OSWORLD]

makes; `desktop_env_python` is then DIR/bin/python. The code of OSWORLD, a
checkout of its repository, goes before that of the package. It runs as one
service for all environments of this user on this machine, which the first of
them starts and which ends a little after the last one: see
`service/__main__.py`. All of OSWorld's steps, getters and metrics are there.
"""

from collections.abc import Sequence
import fcntl
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import Any

from step_jax.envs import leases

REQUIREMENT = 'desktop-env==1.0.2'
SECONDS = 300.0  # for a setup or an evaluation
EVALUATORS = ('own', 'desktop_env', 'auto')
NUM_PROCESSES = 32  # orders that a service works on at once [choice]

_SERVICE = pathlib.Path(__file__).parent / 'service' / '__main__.py'
_START_SECONDS = 20.0  # until a socket is there; the import comes later
_QUEUE_SECONDS = 600.0  # an order may wait for others, or for the import
_PAUSE = 0.05


def check(evaluator: str, python: str) -> None:
  """Checks the names of an evaluator and of the interpreter it needs.

  Raises:
    ValueError: for an unknown evaluator, or an interpreter without desktop-env.
  """
  if evaluator not in EVALUATORS:
    raise ValueError(f'expected an evaluator of {", ".join(EVALUATORS)}, '
                     f'got {evaluator!r}')
  if evaluator == 'own' or evaluator == 'auto' and not python:
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


class Service:
  """A connection to the service, which is started where there is none.

  Args:
    python: the interpreter that has desktop-env.
    num_processes: orders that the service works on at once.
  """

  def __init__(self, python: str, *, num_processes: int = NUM_PROCESSES):
    self._python = python
    self._num_processes = num_processes
    digest = hashlib.sha256(repr((python, num_processes)).encode())
    for source in sorted(_SERVICE.parent.glob('*.py')):
      digest.update(source.read_bytes())
    self._name = digest.hexdigest()[:16]
    self._socket: socket.socket | None = None

  def __enter__(self) -> 'Service':
    self.connect()
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def close(self) -> None:
    if self._socket is not None:
      self._socket.close()
      self._socket = None

  def connect(self) -> None:
    """Connects, and starts the service if nobody has; it may still import.

    Raises:
      RuntimeError: it cannot be started.
    """
    if self._socket is not None:
      return
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
      self._reach(connection)
    except BaseException:
      connection.close()
      raise
    self._socket = connection

  def ask(self, order: dict[str, Any]) -> dict[str, Any]:
    """Gives an order and returns its answer; see `service/episode.py`.

    Raises:
      RuntimeError: it was not done, for the reason that is told.
    """
    self.connect()
    assert self._socket is not None
    self._socket.settimeout(order['seconds'] + _QUEUE_SECONDS)
    received = b''
    try:
      self._socket.sendall(json.dumps(order).encode() + b'\n')
      while not received.endswith(b'\n'):
        data = self._socket.recv(2**16)
        if not data:
          raise ConnectionError
        received += data
    except ConnectionError as error:
      self.close()
      raise RuntimeError('desktop-env failed: its service ended: '
                         + self._last_words()) from error
    except OSError as error:
      self.close()
      raise RuntimeError(f'desktop-env failed: {error}') from error
    except BaseException:
      self.close()  # an answer that comes later is of no use
      raise
    answer = json.loads(received)
    if 'error' in answer:
      raise RuntimeError(f'desktop-env failed: {answer["error"][:500]}')
    return answer

  def _path(self, kind: str) -> pathlib.Path:
    return leases.folder('desktop_env') / f'{self._name}.{kind}'

  def _reach(self, connection: socket.socket) -> None:
    path = self._path('socket')
    deadline = time.monotonic() + _START_SECONDS
    while True:
      try:
        return connection.connect(str(path))
      except OSError as error:
        if time.monotonic() > deadline:
          raise RuntimeError(
              f'desktop-env cannot be reached: {error}') from error
      with open(self._path('lock'), 'wb') as lock:
        try:
          fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody is starting it
          time.sleep(_PAUSE)
        else:
          self._start(path, lock.fileno())

  def _start(self, path: pathlib.Path, lock: int) -> None:
    """Starts the service on a socket that takes orders from now on."""
    with (socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
          open(self._path('log'), 'wb') as log):
      path.unlink(missing_ok=True)
      listener.bind(str(path))
      listener.listen(1024)
      try:
        subprocess.run(
            [self._python, '-I', str(_SERVICE),
             f'--listener={listener.fileno()}',
             f'--processes={self._num_processes}'],
            pass_fds=[listener.fileno(), lock], stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, check=True, timeout=_START_SECONDS,
            # A worker's own one is gone when the worker is.
            env={**os.environ, 'TMPDIR': '/tmp'})
      except (OSError, subprocess.SubprocessError) as error:
        path.unlink(missing_ok=True)
        raise RuntimeError(f'desktop-env failed to start: {error}') from error

  def _last_words(self) -> str:
    lines = self._path('log').read_text(errors='replace').strip().splitlines()
    return lines[-1] if lines else 'no reason'


def main(argv: Sequence[str]) -> int:
  """Makes the virtual environment; returns the exit code."""
  if not 1 <= len(argv) <= 2 or argv[0].startswith('-'):
    print('usage: python -m step_jax.envs.osworld.upstream DIR [OSWORLD]',
          file=sys.stderr)
    return 2
  folder, *checkout = map(pathlib.Path, argv)
  if checkout and not (checkout[0] / 'desktop_env/evaluators').is_dir():
    print('expected a checkout of OSWorld, which has desktop_env/evaluators, '
          f'got {checkout[0]}', file=sys.stderr)
    return 2
  python = folder.absolute() / 'bin' / 'python'
  try:
    for command in (
        [sys.executable, '-m', 'venv', argv[0]],
        [str(python), '-m', 'pip', 'install', REQUIREMENT]):
      subprocess.run(command, check=True)
    for site in folder.glob('lib/python*/site-packages') if checkout else ():
      (site / 'osworld.pth').write_text(  # before site-packages, so by code
          f'import sys; sys.path.insert(0, {str(checkout[0].absolute())!r})\n')
    check('desktop_env', str(python))
  except (OSError, subprocess.SubprocessError, ValueError) as error:
    print(error, file=sys.stderr)
    return 1
  print(f"--config.env.arguments.desktop_env_python='{python}'")
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
