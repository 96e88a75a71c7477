"""Where tokens and patches stand: index work on the host, in numpy.

A grid is `(1, rows, columns)` in patches, as the checkpoints' processors give
it; `merge_size` x `merge_size` patches become one text token. Patches come
merged token by merged token, in reading order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class ImageLayout(NamedTuple):
  """Images as padded windows: N images, W windows, S patches.

  Without windows an image is one window. Attention inside a window and inside
  an image are then both plain batched attention, and no image ever meets
  another.
  """
  patch_index: np.ndarray  # [N, W, S] int32, row of the pixels, -1 padding
  patch_positions: np.ndarray  # [N, W, S, 2] int32, row and column
  token_index: np.ndarray  # [merged tokens] int32, into N * W * S / merge^2


def token_positions(
    input_ids: np.ndarray,
    where: np.ndarray,
    grids: np.ndarray,
    *,
    image_token_id: int | None,
    merge_size: int,
) -> np.ndarray:
  """Positions in time, row and column of every token (M-RoPE).

  A text token stands one after whatever came before it, in all three; the
  tokens of an image share their time and stand by row and column. The position
  of the next token is the row's largest plus one.

  Args:
    input_ids: `[B, L]` int.
    where: `[B, L]` bool, False for padding, on either side.
    grids: `[images, 3]` int, in the order in which the batch shows them.
    image_token_id: marks the tokens of an image; None for a text model.
    merge_size: patches a side that make a token.

  Returns:
    `[B, L, 3]` int32, 0 at padding.

  Raises:
    ValueError: if the image tokens and the grids do not agree.
  """
  where = np.asarray(where, bool)
  is_image = np.zeros_like(where)
  if image_token_id is not None:
    is_image = (np.asarray(input_ids) == image_token_id) & where
  grids = check_grids(grids, merge_size)
  expected = int(_num_tokens(grids, merge_size).sum())
  if is_image.sum() != expected:
    raise ValueError(
        f'expected {expected} image tokens for {len(grids)} images, got '
        f'{int(is_image.sum())}')
  positions = np.zeros((*where.shape, 3), np.int32)
  used = 0
  for row, valid in enumerate(where):
    flags = is_image[row, valid]
    placed = np.zeros((len(flags), 3), np.int32)
    start, index = 0, 0
    while index < len(flags):
      if not flags[index]:
        placed[index] = start
        start, index = start + 1, index + 1
        continue
      _, rows, columns = grids[used] // (1, merge_size, merge_size)
      end = index + rows * columns
      if not flags[index:end].all() or end > len(flags):
        raise ValueError(
            f'expected image {used} to be {rows * columns} tokens in one row, '
            'got fewer')
      grid = np.indices((1, rows, columns)).reshape(3, -1).T
      placed[index:end] = start + grid
      start, index, used = start + max(rows, columns), end, used + 1
    positions[row, valid] = placed
  return positions


def check_grids(grids: np.ndarray, merge_size: int) -> np.ndarray:
  """`[images, 3]` int64 of still images whose sides merge.

  Raises:
    ValueError: for anything else.
  """
  grids = np.asarray(grids, np.int64)
  if (grids.ndim != 2 or grids.shape[1] != 3 or (grids[:, 0] != 1).any()
      or (grids[:, 1:] % merge_size).any() or (grids <= 0).any()):
    raise ValueError(
        f'expected grids [images, 3] of still images, (1, rows, columns) in '
        f'multiples of {merge_size}, got {grids.tolist()}')
  return grids


def _num_tokens(grids: np.ndarray, merge_size: int) -> np.ndarray:
  return grids[:, 1] * grids[:, 2] // merge_size**2


def padded_patches(
    grids: np.ndarray, *, merge_size: int, window: int) -> int:
  """Patches that the largest image takes once its windows are padded."""
  slots = [_token_slots(grid, merge_size, window)[1] for grid in grids]
  return max(slots, default=0) * merge_size**2


def _token_slots(
    grid: Sequence[int], merge_size: int, window: int,
) -> tuple[np.ndarray, int]:
  """Place of each merged token in reading order, and the number of places."""
  _, rows, columns = np.asarray(grid) // (1, merge_size, merge_size)
  if not window:
    return np.arange(rows * columns), rows * columns
  row, column = np.indices((rows, columns))
  across, down = -(-columns // window), -(-rows // window)
  number = row // window * across + column // window
  inside = row % window * window + column % window
  return (number * window**2 + inside).ravel(), across * down * window**2


def layout_images(
    grids: np.ndarray,
    *,
    merge_size: int,
    window: int,
    num_images: int,
    num_patches: int,
) -> ImageLayout:
  """Places every patch in its window.

  Args:
    grids: `[images, 3]` int.
    merge_size: patches a side that make a token.
    window: side of a window in merged tokens; 0 for no windows.
    num_images: N, at least the number of images.
    num_patches: W * S, at least `padded_patches(grids)`.

  Returns:
    The layout; places that no patch takes have index -1 and position 0.

  Raises:
    ValueError: if an image does not fit, or windows do not fill `num_patches`.
  """
  grids = check_grids(grids, merge_size)
  unit = merge_size**2
  size = window**2 * unit or num_patches
  needed = padded_patches(grids, merge_size=merge_size, window=window)
  if len(grids) > num_images or needed > num_patches or num_patches % size:
    raise ValueError(
        f'expected at most {num_images} images of {num_patches} patches, in '
        f'windows of {size}, got {len(grids)} of {needed}')
  index = np.full((num_images, num_patches), -1, np.int32)
  positions = np.zeros((num_images, num_patches, 2), np.int32)
  token_index, first = [], 0
  for image, grid in enumerate(grids):
    slots, _ = _token_slots(grid, merge_size, window)
    places = (slots[:, None] * unit + np.arange(unit)).ravel()
    index[image, places] = first + np.arange(len(places))
    positions[image, places] = _patch_positions(grid, merge_size)
    token_index.append(image * (num_patches // unit) + slots)
    first += len(places)
  return ImageLayout(
      index.reshape(num_images, -1, size),
      positions.reshape(num_images, -1, size, 2),
      np.concatenate(token_index or [np.zeros(0)]).astype(np.int32))


def _patch_positions(grid: Sequence[int], merge_size: int) -> np.ndarray:
  """`[patches, 2]` row and column, in the order of the pixels."""
  _, rows, columns = grid
  places = np.indices((rows, columns)).transpose(1, 2, 0)
  blocks = places.reshape(
      rows // merge_size, merge_size, columns // merge_size, merge_size, 2)
  return blocks.transpose(0, 2, 1, 3, 4).reshape(-1, 2)
