"""The life of a desktop's processes, and their burial.

The first process is the one that the user started and signals. Below it is a
keeper, and below that the server and the whole desktop. Both are child
subreapers, so all that the desktop starts stays below them. When the first
process has ended, in whatever way, a pipe tells the keeper; when the keeper
has died the first process notices. Whoever is left kills everything below it
and removes the desktop's folder. Where all are killed at once, as a worker's
desktop is that froze, the next desktop of this machine removes the folder: a
lock on it, which ends with the last of the three, says that it is not used.

Linux only (`/proc` and `prctl`); imports the standard library alone.
"""
import contextlib
import ctypes
import fcntl
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

_PREFIX = 'step_jax_desktop_'
_PATIENCE = 5.0   # seconds for killed processes to vanish
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000


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
  remove_abandoned(user)
  folder, _ = make_folder()
  session.copy_code(folder, packages)
  os.mkdir(os.path.join(folder, 'home'))
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


def make_folder() -> tuple[str, int]:
  """Makes the folder of a desktop.

  Returns:
    The folder and the descriptor that has its lock; nobody closes it.
  """
  while True:
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    with contextlib.suppress(FileNotFoundError):
      if _is_ours(lock := os.open(folder, os.O_RDONLY), folder):
        return folder, lock
      os.close(lock)   # Another one takes it for abandoned: a new one.


def remove_abandoned(user: int | None) -> None:
  """Removes the folders of desktops of which no process is left.

  Args:
    user: of these desktops; None: the present one.
  """
  for folder in glob.glob(os.path.join(
      tempfile.gettempdir(), f'{_PREFIX}{"?" * 8}')):
    with contextlib.suppress(OSError):   # It has just gone, or is another's.
      lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
      try:
        if os.fstat(lock).st_uid in (os.getuid(), user) and (
            _is_ours(lock, folder)):
          home.remove(folder)
      finally:
        os.close(lock)


def _is_ours(lock: int, folder: str) -> bool:
  """Locks a folder unless somebody has, or has removed it."""
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  return os.path.exists(folder)


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
        _move_home(folder)
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


def _move_home(folder: str) -> None:
  """Lets what is below this process find the desktop's home at /home/user.

  There OSWorld's tasks look for it. HOME stays what is this desktop's alone, as
  LibreOffice names its socket after it. Where a container forbids it, or the
  desktop's own folder is in /home, they do not find it; all else is as ever.
  """
  if os.path.realpath(folder).startswith('/home/'):
    return
  libc = ctypes.CDLL(None)
  if libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(
      None, b'/', None, _MS_REC | _MS_PRIVATE, None) == 0:
    libc.mount(os.path.join(folder, 'home').encode(), b'/home', None,
               _MS_BIND, None)


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
