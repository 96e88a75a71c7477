"""The store of pictures: numbers, bounds, processes."""

import multiprocessing

import pytest

from step_jax.rollout import pictures
from tests import fake_desktop

PICTURE = fake_desktop.picture((64, 36))


def test_a_picture_comes_back_as_it_was(tmp_path):
  store = pictures.ScreenshotStore(tmp_path / 'a' / 'b')
  numbers = [store.put(PICTURE), store.put(fake_desktop.picture((8, 8)))]
  assert numbers == [0, 1]
  assert store.get(0).size == (64, 36) and store.get(1).size == (8, 8)
  assert (store.folder / '0000000000.png').read_bytes() == PICTURE


def test_pictures_can_be_made_smaller(tmp_path):
  store = pictures.ScreenshotStore(tmp_path, max_size=32)
  assert store.get(store.put(PICTURE)).size == (32, 18)
  small = store.get(store.put(fake_desktop.picture((8, 8))))
  assert small.size == (8, 8) and small.format == 'WEBP'


def test_the_oldest_are_removed(tmp_path):
  store = pictures.ScreenshotStore(tmp_path, capacity=3)
  for number in range(5):
    assert store.put(PICTURE) == number
  assert sorted(path.name for path in tmp_path.glob('*.png')) == [
      f'{number:010d}.png' for number in (2, 3, 4)]
  with pytest.raises(KeyError, match='expected the number of a picture'):
    store.get(1)


def test_numbers_go_on_in_another_run(tmp_path):
  pictures.ScreenshotStore(tmp_path).put(PICTURE)
  assert pictures.ScreenshotStore(tmp_path).put(PICTURE) == 1
  for _ in range(4):
    pictures.ScreenshotStore(tmp_path).put(PICTURE)
  smaller = pictures.ScreenshotStore(tmp_path, capacity=2)
  assert len(list(tmp_path.glob('*.png'))) == 2
  assert smaller.put(PICTURE) == 6
  assert len(list(tmp_path.glob('*.png'))) == 2


@pytest.mark.parametrize('number', [-1, 7])
def test_unknown_numbers(tmp_path, number):
  with pytest.raises(KeyError):
    pictures.ScreenshotStore(tmp_path).get(number)


@pytest.mark.parametrize('fields', [{'capacity': 0}, {'max_size': -1}])
def test_arguments_are_checked(tmp_path, fields):
  with pytest.raises(ValueError, match='expected'):
    pictures.ScreenshotStore(tmp_path, **fields)


def _write(folder, queue):
  store = pictures.ScreenshotStore(folder, capacity=50)
  queue.put([store.put(PICTURE) for _ in range(40)])


def test_processes_share_a_store(tmp_path):
  context = multiprocessing.get_context('spawn')
  queue = context.Queue()
  writers = [context.Process(target=_write, args=(tmp_path, queue))
             for _ in range(3)]
  for writer in writers:
    writer.start()
  numbers = [number for _ in writers for number in queue.get(timeout=60)]
  for writer in writers:
    writer.join()
  assert sorted(numbers) == list(range(120))
  assert sorted(int(path.stem) for path in tmp_path.glob('*.png')) == list(
      range(70, 120))
  assert not list(tmp_path.glob('draft*'))
