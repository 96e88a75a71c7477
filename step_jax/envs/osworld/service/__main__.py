"""Prepares and evaluates OSWorld's tasks by its own package, desktop-env.

`step_jax.envs.osworld.upstream` runs this file with the interpreter of a
virtual environment that has the package; nothing of step_jax is imported. It
imports the package once, which takes 20 s, and then forks a process for each
order: orders and answers are lines of JSON over a Unix socket that it is given.

Every order is answered: the answer of its process, or an error when that died
or took too long. The service ends when nobody has been connected for a while.
"""

import argparse
import collections
import contextlib
import ctypes
import dataclasses
import gc
import importlib.util
import json
import os
import selectors
import signal
import socket
import tempfile
import time
from typing import Any, IO

_IDLE_SECONDS = 10.0
_TICK = 0.5  # seconds between two looks at the clock
_PR_SET_PDEATHSIG = 1
_MAX_FDS = 65536


@dataclasses.dataclass
class _Child:
  """A process that works on an order."""
  pid: int
  pipe: int  # where its answer comes from
  log: IO[bytes]
  seconds: float
  deadline: float
  answer: bytes = b''


@dataclasses.dataclass
class _Client:
  """A connection, which has one order at a time."""
  socket: socket.socket
  received: bytes = b''
  child: _Child | None = None


class Server:
  """Accepts orders and answers them; see `run`.

  Args:
    listener: a socket that listens.
    work: `order -> answer`, called in a process of its own.
    num_processes: that may work at once.
  """

  def __init__(self, listener: socket.socket, work: Any, num_processes: int):
    self._listener = listener
    self._work = work
    self._num_processes = num_processes
    self._clients: set[int] = set()
    self._waiting: collections.deque[tuple[_Client, dict[str, Any]]] = (
        collections.deque())
    self._working: list[_Client] = []
    self._selector = selectors.DefaultSelector()
    self._selector.register(listener, selectors.EVENT_READ, self._accept)

  def run(self) -> None:
    """Serves until nobody has been connected for `_IDLE_SECONDS`."""
    last = time.monotonic()
    while time.monotonic() - last < _IDLE_SECONDS:
      for key, _ in self._selector.select(_TICK):
        key.data()
      for client in list(self._working):
        child = client.child
        if child and time.monotonic() > child.deadline:
          self._end(client, {
              'error': f'no end after {child.seconds:g} s: {_tail(child.log)}'})
      while self._waiting and len(self._working) < self._num_processes:
        self._start(*self._waiting.popleft())
      if self._clients:
        last = time.monotonic()

  def _accept(self) -> None:
    connection, _ = self._listener.accept()
    connection.settimeout(_TICK)
    client = _Client(connection)
    self._clients.add(id(client))
    self._selector.register(
        connection, selectors.EVENT_READ, lambda: self._receive(client))

  def _receive(self, client: _Client) -> None:
    try:
      data = client.socket.recv(2**20)
    except OSError:
      data = b''
    if not data:
      return self._forget(client)
    client.received += data
    if client.received.endswith(b'\n'):
      order, client.received = json.loads(client.received), b''
      self._waiting.append((client, order))
    return None

  def _forget(self, client: _Client) -> None:
    """Nobody waits for the answer: what works for it must not go on."""
    self._clients.discard(id(client))
    self._selector.unregister(client.socket)
    client.socket.close()
    self._waiting = collections.deque(
        pair for pair in self._waiting if pair[0] is not client)
    if client.child:
      self._bury(client)

  def _start(self, client: _Client, order: dict[str, Any]) -> None:
    receiving, sending = os.pipe()
    log = tempfile.TemporaryFile()
    pid = os.fork()
    if not pid:
      _work_in_child(self._work, order, sending, log)
    os.close(sending)
    client.child = _Child(pid, receiving, log, order['seconds'],
                          time.monotonic() + order['seconds'])
    self._working.append(client)
    self._selector.register(
        receiving, selectors.EVENT_READ, lambda: self._hear(client))

  def _hear(self, client: _Client) -> None:
    child = client.child
    if child is None:
      return
    data = os.read(child.pipe, 2**16)
    child.answer += data
    if child.answer.endswith(b'\n'):
      self._end(client, json.loads(child.answer))
    elif not data:
      self._end(client, {'error': f'its process died: {_tail(child.log)}'})

  def _end(self, client: _Client, answer: dict[str, Any]) -> None:
    self._bury(client)
    with contextlib.suppress(OSError):  # `_receive` tells of it
      client.socket.sendall(json.dumps(answer).encode() + b'\n')

  def _bury(self, client: _Client) -> None:
    child, client.child = client.child, None
    assert child is not None
    self._working.remove(client)
    self._selector.unregister(child.pipe)
    os.close(child.pipe)
    child.log.close()
    for kill in (os.killpg, os.kill):  # with all that it started
      with contextlib.suppress(ProcessLookupError):
        kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)


def _work_in_child(work: Any, order: dict[str, Any], sending: int,
                   log: IO[bytes]) -> None:
  """Answers an order; does not return."""
  try:
    os.setsid()
    with contextlib.suppress(AttributeError, OSError):  # not on Linux
      ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for fd in (1, 2):
      os.dup2(log.fileno(), fd)
    os.closerange(3, sending)
    os.closerange(sending + 1, _MAX_FDS)
    try:
      answer = work(order)
    except BaseException as error:
      answer = {'error': f'{type(error).__name__}: {error}'}
    line = json.dumps(answer).encode() + b'\n'
    while line:
      line = line[os.write(sending, line):]
  finally:
    os._exit(0)


def _tail(log: IO[bytes]) -> str:
  """The last line that a process wrote."""
  log.seek(max(log.seek(0, os.SEEK_END) - 2000, 0))
  lines = log.read().decode(errors='replace').strip().splitlines()
  return lines[-1] if lines else 'no reason'


def main() -> None:
  """Serves; the process that was called returns at once."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--listener', type=int, required=True)
  parser.add_argument('--processes', type=int, required=True)
  args = parser.parse_args()
  if os.fork():
    os._exit(0)
  os.setsid()
  path = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'episode.py')
  spec = importlib.util.spec_from_file_location('episode', path)
  assert spec is not None and spec.loader is not None
  episode = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(episode)
  episode.import_package()
  gc.collect()
  gc.freeze()  # so that forked processes share what they do not change
  Server(socket.socket(fileno=args.listener), episode.work,
         args.processes).run()


if __name__ == '__main__':
  main()
