"""How a person asks a run to stop: by a signal."""

from collections.abc import Iterator
import contextlib
import signal
import sys
import threading
from typing import Any


_NUMBERS = (signal.SIGINT, signal.SIGTERM)
# Signals that came; the lock of an Event would keep a second one waiting.
_interrupted: list[int] = []


@contextlib.contextmanager
def signals_interrupt() -> Iterator[None]:
  """SIGINT and SIGTERM raise KeyboardInterrupt in this context.

  What is raised while Python collects garbage is dropped, and jax has a
  callback there; so a `StopRequest` that follows is told of the signal, too.
  """
  previous = {number: signal.signal(number, _interrupt) for number in _NUMBERS}
  try:
    yield
  finally:
    _interrupted.clear()
    for number, handler in previous.items():
      signal.signal(number, handler)


def _interrupt(number: int, frame: Any) -> None:
  del frame
  _interrupted.append(number)
  raise KeyboardInterrupt


class StopRequest:
  """Turns SIGINT and SIGTERM into a request; a second SIGINT is immediate."""

  def __init__(self):
    self._requested = bool(_interrupted)
    self._previous: dict[int, Any] = {}

  def __call__(self) -> bool:
    return self._requested

  def __enter__(self) -> 'StopRequest':
    if threading.current_thread() is threading.main_thread():
      for number in _NUMBERS:
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: Any) -> None:
    del number, frame
    if self._requested:
      raise KeyboardInterrupt
    self._requested = True
    print('stopping; once more to stop at once', file=sys.stderr)
