"""Batches that are loaded while the one before is being used.

What a row names (a picture on disk) is fetched shortly before it is needed, and
only so many loaded batches exist at a time: host memory stays bounded, however
many rows there are.
"""

import collections
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from typing import Any

LoadBatches = Callable[[Iterable[Any]], Generator[Any, None, None]]


def prefetch(
    load: Callable[[Any], Any], batches: Iterable[Any], *, depth: int = 2
) -> Generator[Any, None, None]:
  """Loads batches in a thread, in their order.

  The thread ends when the last batch has been handed out, when an exception
  is, and when the generator is closed or dropped; what is being loaded then is
  waited for, what has not been begun is not loaded.

  Args:
    load: called in the thread, one batch at a time.
    batches: what it is given; read by the consumer, `depth` batches ahead.
    depth: loaded batches that wait while the consumer has another.

  Returns:
    A generator of loaded batches. An exception of `load` or of `batches`
    comes out of it.

  Raises:
    ValueError: for a depth below 1.
  """
  if depth < 1:
    raise ValueError(f'expected depth >= 1, got {depth}')
  return _prefetch(load, batches, depth)


def _prefetch(
    load: Callable[[Any], Any], batches: Iterable[Any], depth: int
) -> Generator[Any, None, None]:
  thread = futures.ThreadPoolExecutor(1, thread_name_prefix='loader')
  waiting: collections.deque[futures.Future] = collections.deque()
  try:
    for batch in batches:
      waiting.append(thread.submit(load, batch))
      if len(waiting) > depth:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    thread.shutdown(cancel_futures=True)
