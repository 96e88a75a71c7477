"""What Ray runs on a machine for a worker: the way between it and the pool.

A relay has a keeper of its own beside it (`step_jax.rollout.keeper`): so a
worker that dies or is killed, and a relay that does, leave nothing behind on
their machine.
"""

import functools
import pickle
from typing import Any

from step_jax.rollout import processes

__all__ = ['Relay']


class Relay:
  """A worker with its keeper, and its channel.

  Args:
    factory: of the environment, pickled.
    close_timeout: seconds for it to close at the end.
  """

  def __init__(self, factory: bytes, close_timeout: float):
    self._processes = processes.Processes(
        functools.partial(_make_env, factory), close_timeout=close_timeout)
    self._worker = self._processes.start()

  def tell(self, message: Any = None) -> bytes | None:
    """Gives the worker a message, if any; its answer, or None if it died."""
    if message is not None:
      self._processes.send(self._worker, message)
    messages: list[Any] | None = []
    while messages == []:
      try:
        messages = self._processes.receive(None)[self._worker]
      except processes.KeeperError:
        return None
    # Ray would hand out arrays that cannot be written to.
    return None if messages is None else pickle.dumps(
        messages, pickle.HIGHEST_PROTOCOL)

  def close(self) -> None:
    """As of the pool, in a thread beside a `tell` that may never return."""
    self._processes.close()


def _make_env(factory: bytes) -> Any:
  """Runs a factory in the worker, whose mistake it is if it does not load."""
  return pickle.loads(factory)()
