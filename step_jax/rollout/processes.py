"""Worker processes, started and killed through a keeper of their own.

This is the side of `step_jax.rollout.keeper` that runs in the main process.
"""
from collections.abc import Callable
import contextlib
import os
import pickle
import selectors
import socket
import subprocess
import sys
from typing import Any
import weakref

from step_jax.rollout import keeper

__all__ = ['KeeperError', 'Processes', 'dump']


class KeeperError(RuntimeError):
  """What keeps the workers is gone; the message says what that was."""


class Processes:
  """The worker processes of one pool, by serial number.

  All of them, and whatever they started, end with `close`, with this object
  or with the process that made it, whichever comes first.

  Args:
    make_env: picklable factory of environments.
    close_timeout: seconds for environments to close at the end.

  Raises:
    ValueError: the factory is not picklable.
    RuntimeError: a script makes its pool while it is being imported.
  """

  def __init__(self, make_env: Callable[[], Any], *, close_timeout: float):
    script = sys.modules['__main__']
    if hasattr(script, '__keeper__'):
      raise RuntimeError("expected a script that makes its pool under "
                         "if __name__ == '__main__', got one that does not")
    factory = dump(make_env)
    main = os.path.abspath(getattr(script, '__file__', None) or '')
    process, self._control = _launch()
    self._control.send(('factory', {
        'factory': factory, 'path': sys.path, 'argv': sys.argv,
        'main': main if os.path.isfile(main) else None,
        'close_timeout': close_timeout}))
    self._channels: dict[int, keeper.Channel] = {}
    self._selector = selectors.DefaultSelector()
    self._selector.register(self._control, selectors.EVENT_READ)
    self._num_started = 0
    self._finalizer = weakref.finalize(
        self, _end, process, self._control, self._channels, self._selector)

  @property
  def alive(self) -> bool:
    """False from `close` on."""
    return self._finalizer.alive

  def start(self) -> int:
    """Starts a worker and returns its serial number."""
    serial = self._num_started
    self._num_started += 1
    ours, theirs = socket.socketpair()
    channel = self._channels[serial] = keeper.Channel(ours)
    self._selector.register(channel, selectors.EVENT_READ, serial)
    with theirs, contextlib.suppress(OSError):   # `receive` tells of it.
      self._control.send(('start', serial), fd=theirs.fileno())
    return serial

  def send(self, serial: int, message: Any) -> None:
    """Sends a message to a worker."""
    with contextlib.suppress(OSError):   # `receive` tells of it.
      self._channels[serial].send(message)

  def receive(self, timeout: float | None) -> dict[int, list[Any] | None]:
    """Returns what the workers sent, waiting for the first to send something.

    Args:
      timeout: seconds to wait; None waits for ever.

    Returns:
      By serial number: messages, perhaps none if one is still on its way, or
      None if the worker has died. What cannot be unpickled comes as an error.

    Raises:
      KeeperError: the keeper was killed.
    """
    ready = [key.data for key, _ in self._selector.select(timeout)]
    if None in ready:
      raise KeeperError('the process that keeps the workers was killed')
    received: dict[int, list[Any] | None] = {}
    for serial in ready:
      try:
        received[serial] = self._channels[serial].receive()
      except (EOFError, OSError):
        received[serial] = None
      except keeper.MessageError as error:
        received[serial] = [('error', *keeper.describe(error))]
    return received

  def kill(self, serial: int) -> None:
    """Kills a worker with all that it started."""
    channel = self._channels.pop(serial)
    self._selector.unregister(channel)
    channel.close()
    with contextlib.suppress(OSError):   # `receive` tells of it.
      self._control.send(('kill', serial))

  def close(self) -> None:
    """Ends all processes; environments that answer close themselves."""
    self._finalizer()


def dump(make_env: Callable[[], Any]) -> bytes:
  """A factory of environments, pickled.

  Raises:
    ValueError: it cannot be.
  """
  try:
    return pickle.dumps(make_env)
  except (pickle.PicklingError, AttributeError, TypeError) as error:
    raise ValueError(f'expected a picklable make_env, got {make_env!r}: '
                     f'{error}') from error


def _launch() -> tuple[subprocess.Popen, keeper.Channel]:
  ours, theirs = socket.socketpair()
  with theirs:
    process = subprocess.Popen(
        [sys.executable, '-P', keeper.__file__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
        start_new_session=True)
  return process, keeper.Channel(ours)


def _end(process: subprocess.Popen, control: keeper.Channel,
         channels: dict[int, keeper.Channel],
         selector: selectors.BaseSelector) -> None:
  selector.close()
  for channel in channels.values():
    channel.close()
  control.close()
  process.wait()
