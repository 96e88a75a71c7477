"""How a person asks a run to stop: by a signal."""

import signal
import sys
import threading
from typing import Any


class StopRequest:
  """Turns SIGINT and SIGTERM into a request; a second SIGINT is immediate."""

  def __init__(self):
    self._requested = False
    self._previous: dict[int, Any] = {}

  def __call__(self) -> bool:
    return self._requested

  def __enter__(self) -> 'StopRequest':
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
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
