"""The tree of processes, as Linux's `/proc` has it."""
from collections.abc import Collection
import contextlib
import ctypes
import os
import selectors
import signal
import time
from typing import Any

SET_PDEATHSIG = 1
SET_CHILD_SUBREAPER = 36


def readable(*files: Any, timeout: float | None = None) -> list[Any]:
  """Returns the files that can be read; waits until one can.

  Unlike `select.select` it knows descriptors above 1,023.

  Args:
    *files: pipes, sockets or processes, or their descriptors.
    timeout: seconds to wait; None waits for ever.
  """
  with selectors.DefaultSelector() as selector:
    for file in files:
      selector.register(file, selectors.EVENT_READ)
    return [key.fileobj for key, _ in selector.select(timeout)]


def _read_all() -> dict[int, list[tuple[int, str]]]:
  """Returns the children of every process that has some, with their states."""
  found: dict[int, list[tuple[int, str]]] = {}
  for name in os.listdir('/proc'):
    if name.isdecimal():
      with contextlib.suppress(OSError), open(f'/proc/{name}/stat', 'rb') as f:
        state, parent = f.read().rpartition(b')')[2].split()[:2]
        found.setdefault(int(parent), []).append((int(name), state.decode()))
  return found


def children(pid: int) -> list[int]:
  """Returns the processes that `pid` has started and not yet seen end."""
  return [child for child, _ in _read_all().get(pid, [])]


def descendants(root: int) -> list[int]:
  """Returns the processes below `root` that have not ended."""
  return [pid for pid, state in _walk(root) if state != 'Z']


def kill(root: int, *, spare: Collection[int] = (), patience: float) -> bool:
  """Kills the processes below `root`, and those that they start meanwhile.

  Args:
    root: a process.
    spare: those that go on; what is below them does not.
    patience: seconds for the processes to vanish.

  Returns:
    Whether all are gone. Those of this process are not waited for.
  """
  deadline = time.monotonic() + patience
  while True:
    below = [(p, state) for p, state in _walk(root) if p not in spare]
    for pid, _ in below:   # Where 'Z' has other threads, this ends them.
      with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    if all(state == 'Z' for _, state in below):
      return True
    if time.monotonic() > deadline:
      return False
    time.sleep(0.005)


def _walk(root: int) -> list[tuple[int, str]]:
  below_of = _read_all()
  found = []
  frontier = [root]
  while frontier:
    below = below_of.get(frontier.pop(), [])
    found += below
    frontier += [pid for pid, _ in below]
  return found


def prctl(option: int, value: int) -> None:
  """Sets an option of this process; that it fails is not told.

  Args:
    option: of prctl(2).
    value: its argument.
  """
  ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
