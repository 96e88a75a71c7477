"""The process that starts environment workers and buries them.

One keeper serves one `WorkerPool`; `rollout.processes` runs this file as a
program. It holds nothing but the standard library and what the factory of the
environments imports, so it forks a worker in milliseconds, away from the
threads of JAX. It obeys ('factory', arguments), ('start', serial number),
which comes with a socket for the worker, and ('kill', serial number).

Everything that a worker starts, however deep, in whatever session (Chromium's
crash handlers move to their own), stays below the keeper in the process tree:
keeper and workers are child subreapers. When a worker has died the keeper
kills all that is left of it; when the pool's process has ended, in whatever
way, the socket closes and the keeper kills everything and goes. A keeper that
is killed takes its workers along.

Linux is needed for that (`/proc` and `prctl`). On other systems only the
worker's own process group is killed.
"""
import collections
from collections.abc import Callable, Collection
import contextlib
import ctypes
import os
import pickle
import runpy
import selectors
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
import types
from typing import Any
import warnings

_HEADER = struct.Struct('!Q')
_LINUX = sys.platform == 'linux'
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_PATIENCE = 5.0   # seconds for killed processes to vanish


class MessageError(Exception):
  """A message cannot be unpickled here; the cause says why."""


class Channel:
  """Pickled messages over a stream socket, whole or not at all."""

  def __init__(self, connection: socket.socket):
    self._socket = connection
    self._buffer = bytearray()
    self._fds: collections.deque[int] = collections.deque()

  def fileno(self) -> int:
    return self._socket.fileno()

  def send(self, message: Any, *, fd: int | None = None) -> None:
    """Sends a message, with a file descriptor if the receiver expects one."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    data = _HEADER.pack(len(data)) + data
    if fd is not None:   # The descriptor travels with the first byte.
      socket.send_fds(self._socket, [data[:1]], [fd])
      data = data[1:]
    self._socket.sendall(data)

  def receive(self) -> list[Any]:
    """Reads once; returns the messages that are complete, perhaps none.

    After the socket has become readable this does not block, even when the
    sender stopped in the middle of a message.

    Raises:
      EOFError: the other side has closed.
      MessageError: a message cannot be unpickled here.
      OSError: the connection was lost.
    """
    data, fds, _, _ = socket.recv_fds(self._socket, 1 << 20, 1)
    self._fds.extend(fds)
    if not data:
      raise EOFError('the other side has closed')
    self._buffer += data
    messages = []
    while len(self._buffer) >= _HEADER.size:
      end = _HEADER.size + _HEADER.unpack_from(self._buffer)[0]
      if len(self._buffer) < end:
        break
      message = self._buffer[_HEADER.size:end]
      del self._buffer[:end]
      try:
        messages.append(pickle.loads(message))
      except Exception as error:   # Its classes may raise whatever they like.
        raise MessageError(f'{type(error).__name__}: {error}') from error
    return messages

  def take_fd(self) -> int:
    """Returns the oldest file descriptor that came with a message."""
    fd = self._fds.popleft()
    os.set_inheritable(fd, False)
    return fd

  def close(self) -> None:
    """Closes the socket and the file descriptors that nobody took."""
    self._socket.close()
    while self._fds:
      os.close(self._fds.popleft())


class _Keeper:
  """Starts, kills and buries workers as the pool commands."""

  def __init__(self, control: Channel):
    self._control = control
    self._live: dict[int, int] = {}   # serial number -> process id
    self._make_env: Callable[[], Any] = lambda: None   # until told
    self._close_timeout = 0.0
    self._base = tempfile.mkdtemp(prefix='step_jax_')
    self._wake, wake_end = os.pipe()
    os.set_blocking(self._wake, False)
    os.set_blocking(wake_end, False)
    # Not `select`: a busy host's descriptors have numbers above its 1,024.
    self._selector = selectors.DefaultSelector()
    self._selector.register(control, selectors.EVENT_READ)
    self._selector.register(self._wake, selectors.EVENT_READ)
    signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)   # It only wakes.

  def run(self) -> None:
    try:
      while True:
        ready = {key.fileobj for key, _ in self._selector.select()}
        if self._wake in ready:
          os.read(self._wake, 4096)
          self._sweep()
        if self._control in ready:
          for command, argument in self._control.receive():
            self._obey(command, argument)
    except (EOFError, ConnectionError):
      pass   # The pool's process has ended or closed the socket.
    finally:
      self._close()

  def _obey(self, command: str, argument: Any) -> None:
    if command == 'factory':
      self._close_timeout = argument.pop('close_timeout')
      self._make_env = _load(**argument)
    elif command == 'start':
      self._start(argument, self._control.take_fd())
    elif command == 'kill' and argument in self._live:
      _kill(self._live[argument])

  def _start(self, serial: int, fd: int) -> None:
    directory = os.path.join(self._base, str(serial))
    with contextlib.suppress(OSError):
      os.makedirs(directory)
      with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        pid = os.fork()
      if pid == 0:
        # Others have threads, too, but numpy's bear it.
        if any('JAX' in str(warning.message) for warning in told):
          self._make_env = _refuse(RuntimeError(
              'expected a module that does not compute with JAX while it is '
              'imported, since a worker is forked after that and would wait '
              'for ever; compute in the environment'))
        self._become_worker(fd, directory)
      self._live[serial] = pid
    os.close(fd)

  def _become_worker(self, fd: int, directory: str) -> None:
    """Runs a worker in a forked process and never returns."""
    try:
      signal.set_wakeup_fd(-1)
      for name in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
      os.setsid()
      _prctl(_PR_SET_CHILD_SUBREAPER, 1)
      # That of the thread that forked, which is the keeper's only lasting one.
      _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
      self._selector.close()
      self._control.close()   # and the sockets of workers to come
      os.environ['TMPDIR'] = directory
      tempfile.tempdir = None
      _work(self._make_env, Channel(socket.socket(fileno=fd)))
    except BaseException:
      traceback.print_exc()
    finally:
      with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
      os._exit(0)

  def _sweep(self) -> None:
    """Kills whatever dead workers left behind, processes and folders."""
    deadline = time.monotonic() + _PATIENCE
    while True:
      self._reap()
      doomed = _descendants(os.getpid(), spare=self._live.values())
      if not doomed or time.monotonic() > deadline:
        break
      for pid in doomed:
        _kill(pid)
      time.sleep(0.005)
    with contextlib.suppress(FileNotFoundError):
      for name in os.listdir(self._base):
        if int(name) not in self._live:
          shutil.rmtree(os.path.join(self._base, name), ignore_errors=True)

  def _reap(self) -> None:
    with contextlib.suppress(ChildProcessError):
      while pid := os.waitpid(-1, os.WNOHANG)[0]:
        if not _LINUX:
          _kill(pid)   # It is dead; the rest of its group may not be.
        self._live = {s: p for s, p in self._live.items() if p != pid}

  def _close(self) -> None:
    """Lets the workers close their environments, then kills all."""
    deadline = time.monotonic() + self._close_timeout
    while self._live and time.monotonic() < deadline:
      time.sleep(0.005)
      self._reap()
    for pid in self._live.values():
      _kill(pid)
    self._live.clear()   # Nothing is spared any more.
    self._sweep()
    shutil.rmtree(self._base, ignore_errors=True)


def _load(factory: bytes, path: list[str], argv: list[str],
          main: str | None) -> Any:
  """Unpickles the factory; one that fails gives workers that say so."""
  sys.path[:] = path
  sys.argv[:] = argv
  script = sys.modules['__main__'] = types.ModuleType('__main__')
  try:
    try:
      return pickle.loads(factory)
    except AttributeError:   # It may live in the script that was started.
      if main is None:
        raise
      script.__dict__['__keeper__'] = True   # It must make no pool now.
      script.__dict__.update(runpy.run_path(main, run_name='__mp_main__'))
      return pickle.loads(factory)
  except Exception as error:
    return _refuse(error)


def _refuse(failure: Exception) -> Callable[[], Any]:
  """A factory that fails."""
  def make_env() -> Any:
    raise failure
  return make_env


def _prctl(option: int, value: int) -> None:
  if _LINUX:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _kill(pid: int) -> None:
  with contextlib.suppress(ProcessLookupError, PermissionError):
    (os.kill if _LINUX else os.killpg)(pid, signal.SIGKILL)


def _descendants(root: int, *, spare: Collection[int]) -> list[int]:
  """Returns the processes below `root`, without those spared and theirs."""
  children = collections.defaultdict(list)
  for name in os.listdir('/proc') if _LINUX else ():
    if name.isdigit():
      with contextlib.suppress(OSError), open(f'/proc/{name}/stat', 'rb') as f:
        parent = int(f.read().rpartition(b')')[2].split()[1])
        children[parent].append(int(name))
  found = []
  frontier = [root]
  while frontier:
    below = [p for p in children[frontier.pop()] if p not in spare]
    found += below
    frontier += below
  return found


def _work(make_env: Callable[[], Any], channel: Channel) -> None:
  """Serves one environment until the pool's process closes the channel."""
  env, dead = None, None
  try:
    channel.send(('started', os.getpid()))
    try:
      env = make_env()
    except Exception as error:
      channel.send(('start_error', *describe(error)))
      return
    channel.send(('ready',))
    while True:
      for command, argument in channel.receive():
        if command == 'reset':
          dead = _reap_orphan(dead)
        try:   # That it cannot be pickled is the environment's fault, too.
          channel.send(('result', *_execute(env, command, argument)))
        except Exception as error:
          channel.send(('error', *describe(error)))
  except (EOFError, ConnectionError):
    if env is not None:
      env.close()


def _reap_orphan(dead: int | None) -> int | None:
  """Reaps a dead child that nobody asked about: an orphan, adopted here.

  An environment waits for its own children itself; they have an episode for it.

  Args:
    dead: what this returned an episode ago.

  Returns:
    The first child that is dead now, None if there is none.
  """
  if not _LINUX:
    return None   # Nothing was adopted.
  with contextlib.suppress(ChildProcessError):
    while child := os.waitid(
        os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
      if child.si_pid != dead:
        return child.si_pid
      os.waitpid(child.si_pid, 0)
  return None


def _execute(env: Any, command: str, argument: Any) -> tuple[Any, ...]:
  """Resets or steps; raises for what breaks an environment's contract."""
  reward, done = 0.0, False
  if command == 'reset':
    observation, info = env.reset(**argument)
  else:
    observation, reward, terminated, truncated, info = env.step(argument)
    reward, done = float(reward), bool(terminated or truncated)
  if not isinstance(info, dict):
    raise ValueError(f'expected info as a dictionary, got {info!r}')
  if info.get('failure'):
    return None, 0.0, done, info   # It promises nothing.
  if reward not in ((0.0, 1.0) if done else (0.0,)):
    raise ValueError(f'expected reward 0 until the end, then 0 or 1, got '
                     f'{reward} {"at" if done else "before"} the end')
  space = getattr(env, 'observation_space', None)
  if not (done or space is None or space.contains(observation)):
    raise ValueError('expected an observation of the observation_space, got '
                     f'a {type(observation).__name__} that is none')
  return None if done else observation, reward, done, info


def describe(error: Exception) -> tuple[str, str, str]:
  return (type(error).__name__, str(error),
          ''.join(traceback.format_exception(error)))


if __name__ == '__main__':
  for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(ignored, signal.SIG_IGN)
  _prctl(_PR_SET_CHILD_SUBREAPER, 1)
  _Keeper(Channel(socket.socket(fileno=int(sys.argv[1])))).run()
