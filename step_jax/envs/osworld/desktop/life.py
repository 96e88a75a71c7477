"""The life of a desktop's processes, and their burial.

The first process is the one that the user started and signals. Below it is a
keeper, and below that the server and the whole desktop. Both are child
subreapers, so all that the desktop starts stays below them. When the first
process has ended, in whatever way, a pipe tells the keeper; when the keeper
has died the first process notices. Whoever is left kills everything below it
and removes the desktop's folder.

Linux only (`/proc` and `prctl`); imports the standard library alone.
"""
import contextlib
import glob
import os
import signal
import socket
import tempfile
import time
import traceback
from typing import Any

from step_jax.envs.osworld.desktop import home
from step_jax.envs.osworld.desktop import processes
from step_jax.envs.osworld.desktop import server
from step_jax.envs.osworld.desktop import session

_PATIENCE = 5.0   # seconds for killed processes to vanish


def run(listener: socket.socket, *, user: int | None, with_parent: bool,
        packages: str, **settings: Any) -> int:
  """Runs the server below a keeper until one of the three ends.

  Args:
    listener: the socket that the server listens on.
    user: the user id that the server and the desktop take; None: the present.
    with_parent: whether to end when this process' parent has ended.
    packages: the folder that holds pyautogui.
    **settings: keyword arguments of `server.serve`.

  Returns:
    The exit code: 0 after a signal or the parent's end, else 1.
  """
  parent = os.getppid()
  wake = _wake_on(
      signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
  processes.prctl(processes.SET_CHILD_SUBREAPER, 1)
  folder = tempfile.mkdtemp(prefix='step_jax_desktop_')
  session.copy_code(folder, packages)
  if user is not None:
    for path, _, files in os.walk(folder):
      for name in ('', *files):
        os.chown(os.path.join(path, name), user, user)
  life, life_end = os.pipe()
  keeper = os.fork()
  if keeper == 0:
    os.close(life_end)
    try:
      _keep(life, listener, folder, user, settings)
    finally:
      os._exit(0)
  os.close(life)
  listener.close()
  code = None
  while code is None:
    processes.readable(wake, timeout=1 if with_parent else None)
    code = _read_signals(wake, keeper)
    if with_parent and os.getppid() != parent:
      code = 0
  os.close(life_end)
  _await_end(keeper)
  _bury(folder, user)   # if the keeper could not
  return code


def _wake_on(*signals: int) -> int:
  """Returns a descriptor from which the numbers of `signals` can be read."""
  wake, wake_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
  signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
  for number in signals:
    signal.signal(number, lambda *_: None)
  return wake


def _read_signals(wake: int, keeper: int) -> int | None:
  """Returns the exit code if a signal asks for the end, else None."""
  with contextlib.suppress(BlockingIOError):
    if any(number != signal.SIGCHLD for number in os.read(wake, 4096)):
      return 0
  return None if keeper not in _reap() else 1


def _reap() -> set[int]:
  """Returns the children that have died."""
  dead = set()
  with contextlib.suppress(ChildProcessError):
    while pid := os.waitpid(-1, os.WNOHANG)[0]:
      dead.add(pid)
  return dead


def _await_end(keeper: int) -> None:
  """Gives the keeper time to bury the desktop."""
  deadline = time.monotonic() + _PATIENCE + 1
  while os.path.exists(f'/proc/{keeper}') and time.monotonic() < deadline:
    time.sleep(0.005)
    _reap()


def _keep(life: int, listener: socket.socket, folder: str, user: int | None,
          settings: dict[str, Any]) -> None:
  """The keeper: starts the server, and buries it when it or `life` ends."""
  processes.prctl(processes.SET_CHILD_SUBREAPER, 1)
  os.setsid()   # A terminal's Ctrl-C is the first process' affair.
  for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
  wake = _wake_on(signal.SIGCHLD)
  keeper = os.getpid()
  child = os.fork()
  if child == 0:
    try:
      signal.set_wakeup_fd(-1)
      signal.signal(signal.SIGCHLD, signal.SIG_DFL)
      os.close(life)
      if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
      processes.prctl(processes.SET_PDEATHSIG, signal.SIGKILL)
      if os.getppid() == keeper:
        server.serve(listener, folder=folder, **settings)
    except BaseException:
      traceback.print_exc()
    finally:
      os._exit(1)
  listener.close()
  while True:
    ready = processes.readable(life, wake)
    with contextlib.suppress(BlockingIOError):
      os.read(wake, 4096)
    if life in ready or child in _reap():
      break
  _bury(folder, user)


def _bury(folder: str, user: int | None) -> None:
  """Kills every process below this one and removes what they left."""
  processes.kill(os.getpid(), patience=_PATIENCE)
  with contextlib.suppress(OSError):
    home.remove(folder)
  _remove_office_sockets(os.getuid() if user is None else user)


def _remove_office_sockets(user: int) -> None:
  """Removes the sockets that killed LibreOffices of `user` left in /tmp.

  It puts them there whatever TMPDIR says.
  """
  with open('/proc/net/unix') as file:
    alive = file.read().split()
  for path in glob.glob(f'/tmp/OSL_PIPE_{user}_*'):
    with contextlib.suppress(OSError):
      if path not in alive and os.lstat(path).st_uid == user:
        os.unlink(path)
