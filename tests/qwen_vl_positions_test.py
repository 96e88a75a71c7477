"""M-RoPE positions and window layouts against slow oracles."""

import numpy as np
import pytest

from step_jax.policies.qwen_vl import positions

IMAGE = 9
MERGE = 2


def _random_batch(rng):
  """Rows of text and images, padded on a random side."""
  rows, grids = [], []
  for _ in range(3):
    row = []
    for _ in range(rng.integers(0, 3)):
      height, width = rng.integers(1, 5, 2)
      row += [1] * rng.integers(1, 4) + [IMAGE] * (height * width)
      grids.append((1, height * MERGE, width * MERGE))
    rows.append(row + [1] * rng.integers(1, 5))
  length = max(map(len, rows)) + 1
  ids = np.full((3, length), IMAGE)  # padding may look like an image
  where = np.zeros((3, length), bool)
  for index, row in enumerate(rows):
    place = slice(0, len(row)) if rng.integers(2) else slice(
        length - len(row), length)
    ids[index, place], where[index, place] = row, True
  return ids, where, np.array(grids, int).reshape(-1, 3)


def _slow_positions(ids, where, grids):
  """One token after the other, from the definition."""
  result, images = np.zeros((*ids.shape, 3), int), iter(grids)
  for row in range(len(ids)):
    largest, left = -1, []
    for column in np.flatnonzero(where[row]):
      if ids[row, column] != IMAGE:
        place = [largest + 1] * 3
      else:
        if not left:
          _, height, width = next(images)
          left = [
              (largest + 1, largest + 1 + y, largest + 1 + x)
              for y in range(height // MERGE) for x in range(width // MERGE)]
        place = left.pop(0)
      result[row, column] = place
      if not left:
        largest = result[row, where[row]].max()
  return result


def _positions(ids, where, grids):
  return positions.token_positions(
      ids, where, grids, image_token_id=IMAGE, merge_size=MERGE)


@pytest.mark.parametrize('seed', range(8))
def test_token_positions_match_the_oracle(seed):
  batch = _random_batch(np.random.default_rng(seed))
  np.testing.assert_array_equal(_positions(*batch), _slow_positions(*batch))


def test_token_positions_by_hand():
  """Two words, an image of 1 x 2 tokens at time 2, a word after it at 4."""
  ids = np.array([[0, 1, 1, IMAGE, IMAGE, 1]])
  found = _positions(ids, np.array([[False] + [True] * 5]), [[1, 2, 4]])
  np.testing.assert_array_equal(
      found[0], [[0] * 3, [0] * 3, [1] * 3, [2, 2, 2], [2, 2, 3], [4] * 3])


@pytest.mark.parametrize('ids,grids,message', [
    ([IMAGE], [[1, 2, 4]], 'expected 2 image tokens for 1 images, got 1'),
    ([IMAGE, IMAGE, 1, IMAGE, IMAGE], [[1, 4, 4]], 'to be 4 tokens in one'),
    ([IMAGE], [[2, 2, 2]], 'expected grids'),
    ([IMAGE], [[1, 3, 2]], 'expected grids'),
    ([IMAGE], [[1, 2]], 'expected grids'),
])
def test_token_positions_refuse(ids, grids, message):
  ids = np.array([ids])
  with pytest.raises(ValueError, match=message):
    _positions(ids, np.ones_like(ids, bool), grids)


GRIDS = np.array([[1, 2, 2], [1, 10, 6], [1, 4, 12], [1, 8, 8]])


def _layout(window, num_images=5, num_patches=None):
  if num_patches is None:
    num_patches = positions.padded_patches(
        GRIDS, merge_size=MERGE, window=window)
  return positions.layout_images(
      GRIDS, merge_size=MERGE, window=window, num_images=num_images,
      num_patches=num_patches)


def _pixels_places():
  """`[patches, 3]`: image, row and column, in the order of the pixels."""
  return np.array([
      (image, y * MERGE + dy, x * MERGE + dx)
      for image, (_, rows, columns) in enumerate(GRIDS)
      for y in range(rows // MERGE) for x in range(columns // MERGE)
      for dy in range(MERGE) for dx in range(MERGE)])


@pytest.mark.parametrize('window', [0, 1, 2, 4])
def test_layout_keeps_windows_together(window):
  """Two patches share a window iff they do by their rows and columns."""
  layout, places = _layout(window), _pixels_places()
  used = layout.patch_index >= 0
  order = layout.patch_index[used]
  np.testing.assert_array_equal(np.sort(order), np.arange(len(places)))
  np.testing.assert_array_equal(
      layout.patch_positions[used], places[order, 1:])
  side = window * MERGE or 1000
  wanted = [
      (image, row // side, column // side)
      for image, row, column in places[order].tolist()]
  found = list(zip(*(x.tolist() for x in np.nonzero(used)[:2])))
  assert len(set(wanted)) == len(set(found)) == len(
      set(zip(wanted, found)))
  assert (layout.patch_positions[~used] == 0).all()


@pytest.mark.parametrize('window', [0, 2, 4])
def test_token_index_is_reading_order(window):
  """The merged tokens that it names are those of the pixels, in order."""
  layout = _layout(window)
  merged = layout.patch_index.reshape(-1, MERGE**2)[layout.token_index]
  np.testing.assert_array_equal(
      merged.ravel(), np.arange(len(_pixels_places())))


def test_layout_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match='expected at most 3 images'):
    _layout(2, num_images=3)
  with pytest.raises(ValueError, match='got 4 of 64'):
    _layout(0, num_patches=63)
  with pytest.raises(ValueError, match='windows of 16'):
    _layout(2, num_patches=103)
