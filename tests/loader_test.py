"""The loader: order, bounds, exceptions, and threads that end."""

import itertools
import threading

import pytest

from step_jax.learning import loader

SECONDS = 30  # far more than anything here takes


def _threads():
  return [x for x in threading.enumerate() if x.name.startswith('loader')]


class _Loads:
  """Doubles numbers; remembers which, and wakes who waits for them."""

  def __init__(self):
    self.begun = []
    self.threads = set()
    self._changed = threading.Condition()

  def __call__(self, number):
    with self._changed:
      self.begun.append(number)
      self.threads.add(threading.current_thread())
      self._changed.notify_all()
    if number < 0:
      raise OSError(f'no picture {number}')
    return 2 * number

  def wait_for(self, count):
    with self._changed:
      return self._changed.wait_for(
          lambda: len(self.begun) >= count, timeout=SECONDS)


@pytest.mark.parametrize('count', [0, 1, 2, 3, 20])
@pytest.mark.parametrize('depth', [1, 2, 5])
def test_all_batches_in_their_order(count, depth):
  loads = _Loads()
  assert list(loader.prefetch(loads, range(count), depth=depth)) == [
      2 * i for i in range(count)]
  assert loads.begun == list(range(count))
  assert not _threads()


def test_one_thread_loads_which_is_not_the_consumer():
  loads = _Loads()
  list(loader.prefetch(loads, range(20), depth=3))
  assert len(loads.threads) == 1
  assert threading.current_thread() not in loads.threads


@pytest.mark.parametrize('depth', [1, 3])
def test_depth_batches_are_loaded_while_the_consumer_works(depth):
  """And no more: the batches themselves come without end."""
  loads = _Loads()
  batches = loader.prefetch(loads, itertools.count(), depth=depth)
  assert not loads.begun  # nothing before the first is asked for
  for taken in range(1, 6):
    assert next(batches) == 2 * (taken - 1)
    # The consumer has one and does not ask: the others are loaded meanwhile.
    assert loads.wait_for(taken + depth)
    assert len(loads.begun) == taken + depth
  batches.close()


def test_a_consumer_that_stops_ends_the_thread():
  """What has not been begun is not loaded."""
  begun, go_on = threading.Event(), threading.Event()
  loaded = []

  def load(number):
    if number == 1:
      begun.set()
      go_on.wait(SECONDS)
    loaded.append(number)

  batches = loader.prefetch(load, range(10), depth=4)
  next(batches)
  assert begun.wait(SECONDS)
  assert _threads()
  threading.Timer(0.05, go_on.set).start()
  batches.close()
  assert loaded == [0, 1] and not _threads()
  with pytest.raises(StopIteration):
    next(batches)


def test_a_generator_that_is_dropped_ends_the_thread():
  for number in loader.prefetch(_Loads(), itertools.count(), depth=2):
    if number == 6:
      break
  assert not _threads()


def test_an_exception_of_load_arrives_in_its_place():
  loads = _Loads()
  batches = loader.prefetch(loads, [1, 2, -3, 4, 5, 6, 7], depth=2)
  assert [next(batches), next(batches)] == [2, 4]
  with pytest.raises(OSError, match='no picture -3') as error:
    next(batches)
  assert error.traceback[-1].name == '__call__'  # where it was raised
  assert not _threads() and 7 not in loads.begun
  with pytest.raises(StopIteration):
    next(batches)


def test_an_exception_of_the_batches_arrives():
  def numbers():
    yield 1
    yield 2
    raise RuntimeError('no more rows')

  with pytest.raises(RuntimeError, match='no more rows'):
    list(loader.prefetch(_Loads(), numbers(), depth=1))
  assert not _threads()


def test_the_consumer_s_own_exception_ends_the_thread():
  with pytest.raises(ZeroDivisionError):
    for number in loader.prefetch(_Loads(), range(9), depth=2):
      1 / (number - 4)
  assert not _threads()


def test_a_generator_that_is_closed_before_it_began():
  loads = _Loads()
  loader.prefetch(loads, range(3), depth=2).close()
  assert not loads.begun


@pytest.mark.parametrize('depth', [0, -1])
def test_refuses_a_depth_below_one(depth):
  with pytest.raises(ValueError, match=f'expected depth >= 1, got {depth}'):
    loader.prefetch(_Loads(), range(3), depth=depth)
