"""What the model reads, built on the host in shapes from a short list."""

from collections.abc import Sequence
import dataclasses

import chex
from flax import struct
import numpy as np

from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import positions


@struct.dataclass(kw_only=True)
class Images:
  """N images of W windows of S patches; without windows W is 1."""
  pixels: chex.Array  # [N, W, S, patch_width] float32
  positions: chex.Array  # [N, W, S, 2] int32
  where: chex.Array  # [N, W, S] bool, False for padding


@struct.dataclass(kw_only=True)
class Inputs:
  """B rows of L tokens, and the images that they show."""
  input_ids: chex.Array  # [B, L] int32
  where: chex.Array  # [B, L] bool, False for padding
  positions: chex.Array  # [B, L, 3] int32
  image_index: chex.Array  # [B, L] int32, which image token, -1 for text
  images: Images | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Buckets:
  """The sizes that are compiled; each list is short and increasing."""
  tokens: Sequence[int]  # L
  images: Sequence[int] = (1,)  # N
  patches: Sequence[int] = ()  # W * S of an image, whole windows


def make_inputs(
    config: config_lib.Config,
    input_ids: np.ndarray,
    where: np.ndarray,
    pixel_values: np.ndarray | None = None,
    grids: np.ndarray | None = None,
    *,
    buckets: Buckets | None = None,
) -> Inputs:
  """Pads a batch to its buckets and works out every index.

  Args:
    config: of the model.
    input_ids: `[B, L]` int.
    where: `[B, L]` bool, False for padding, on either side.
    pixel_values: `[patches, patch_width]` of all images, or None; no rows are
      none.
    grids: `[images, 3]` int, in the order in which the rows show them.
    buckets: sizes to pad to, on the right; by default nothing is padded, which
      compiles once for every size.

  Returns:
    Numpy arrays for the model.

  Raises:
    ValueError: for a batch that is inconsistent or fits no bucket.
  """
  input_ids, where = np.asarray(input_ids), np.asarray(where, bool)
  if input_ids.ndim != 2 or input_ids.shape != where.shape:
    raise ValueError(
        f'expected input_ids and mask [B, L], got {input_ids.shape} and '
        f'{where.shape}')
  valid, most = input_ids[where], config.text.vocabulary
  if valid.size and not 0 <= valid.min() <= valid.max() < most:
    raise ValueError(
        f'expected token ids under {most}, got {valid.min()} to {valid.max()}')
  pad = 0 if buckets is None else (
      fit(input_ids.shape[1], buckets.tokens, 'tokens') - input_ids.shape[1])
  input_ids, where = (
      np.pad(x, ((0, 0), (0, pad))) for x in (input_ids, where))
  vision = config.vision
  if vision is None and pixel_values is not None:
    raise ValueError('expected no images for a text model, got pixel_values')
  grids = np.zeros((0, 3), int) if grids is None else np.asarray(grids)
  if pixel_values is not None and not len(pixel_values) and not len(grids):
    pixel_values = None  # what processors may write where nothing is shown
  place = positions.token_positions(
      input_ids, where, grids, image_token_id=config.image_token_id,
      merge_size=vision.merge_size if vision else 1)
  index = np.full(input_ids.shape, -1, np.int32)
  images = None
  if vision is not None and pixel_values is not None:
    images, token_index = _make_images(vision, pixel_values, grids, buckets)
    index[where & (input_ids == config.image_token_id)] = token_index
  elif len(grids):
    raise ValueError(f'expected pixel_values for {len(grids)} images, got none')
  return Inputs(
      input_ids=input_ids.astype(np.int32), where=where, positions=place,
      image_index=index, images=images)


def _make_images(
    vision: config_lib.VisionConfig,
    pixel_values: np.ndarray,
    grids: np.ndarray,
    buckets: Buckets | None,
) -> tuple[Images, np.ndarray]:
  """The padded images, and where the merged tokens lie in reading order."""
  grids = positions.check_grids(grids, vision.merge_size)
  expected = (int(grids.prod(axis=1).sum()), vision.patch_width)
  if pixel_values.shape != expected:
    raise ValueError(
        f'expected pixel_values {expected} for the grids, got '
        f'{pixel_values.shape}')
  num_images = len(grids)
  num_patches = positions.padded_patches(
      grids, merge_size=vision.merge_size, window=vision.window)
  if buckets is not None:
    num_images = fit(num_images, buckets.images, 'images')
    num_patches = fit(num_patches, buckets.patches, 'patches of an image')
  layout = positions.layout_images(
      grids, merge_size=vision.merge_size, window=vision.window,
      num_images=num_images, num_patches=num_patches)
  where = layout.patch_index >= 0
  pixels = np.where(
      where[..., None], pixel_values[np.maximum(layout.patch_index, 0)], 0)
  return Images(
      pixels=pixels.astype(np.float32), positions=layout.patch_positions,
      where=where), layout.token_index


def fit(size: int, sizes: Sequence[int], what: str) -> int:
  """The smallest of `sizes` that holds `size`.

  Raises:
    ValueError: if none does.
  """
  for candidate in sorted(sizes):
    if size <= candidate:
      return candidate
  raise ValueError(
      f'expected at most {max(sizes, default=0)} {what}, got {size}: add a '
      'larger bucket')
