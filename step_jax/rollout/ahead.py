"""The next round, played while the last one is learned from."""

from collections.abc import Callable
from concurrent import futures
from typing import Any


class Ahead:
  """One round at a time, played in a thread; a context manager.

  What a round gives does not depend on when it is played, so whoever takes one
  that was not begun plays it himself. Leaving the context gives up what is
  being played.
  """

  def __init__(self) -> None:
    self._thread = futures.ThreadPoolExecutor(1, 'ahead')
    self._begun: tuple[int, futures.Future] | None = None
    self._is_left = False

  def __enter__(self) -> 'Ahead':
    return self

  def __exit__(self, *_: Any) -> None:
    self._is_left = True
    self._thread.shutdown()

  def gives_up(self) -> bool:
    """For `should_stop` of who plays: nobody will take the round."""
    return self._is_left

  def begin(self, round_index: int, play: Callable[[], Any]) -> None:
    """Plays a round from now on."""
    self._begun = round_index, self._thread.submit(play)

  def take(self, round_index: int, play: Callable[[], Any]) -> Any:
    """Waits for a round.

    Args:
      round_index: of the round.
      play: plays it, if it has not been begun.

    Raises:
      Whatever `play` does.
    """
    begun, self._begun = self._begun, None
    if begun is None or begun[0] != round_index:
      return play()
    return begun[1].result()
