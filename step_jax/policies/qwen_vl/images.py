"""Screenshots to patches, as the checkpoints' own processor makes them."""

import hashlib
import math

import numpy as np
from PIL import Image

from step_jax.policies.qwen_vl import config as config_lib

MIN_PIXELS = 56 * 56
MAX_PIXELS = 28 * 28 * 1280
DIGEST_LENGTH = 4

_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_MAX_RATIO = 200


def smart_resize(
    height: int,
    width: int,
    *,
    factor: int = 28,
    min_pixels: int = MIN_PIXELS,
    max_pixels: int = MAX_PIXELS,
) -> tuple[int, int]:
  """The size at which the model sees an image.

  >>> smart_resize(1080, 1920)
  (728, 1316)

  Args:
    height: of the image.
    width: of the image.
    factor: divides both sides of the result.
    min_pixels: the result has no fewer.
    max_pixels: the result has no more, a side of `factor` apart.

  Returns:
    `(height, width)`, of about the same ratio.

  Raises:
    ValueError: for an empty image or one that is 200 times as long as wide.
  """
  if min(height, width) < 1 or max(height, width) > _MAX_RATIO * min(
      height, width):
    raise ValueError(
        f'expected sides of at most {_MAX_RATIO}:1, got {height} x {width}')
  sides = [round(side / factor) * factor for side in (height, width)]
  if math.prod(sides) > max_pixels:
    scale = math.sqrt(height * width / max_pixels)
    sides = [
        max(factor, math.floor(side / scale / factor) * factor)
        for side in (height, width)]
  elif math.prod(sides) < min_pixels:
    scale = math.sqrt(min_pixels / (height * width))
    sides = [
        math.ceil(side * scale / factor) * factor for side in (height, width)]
  return sides[0], sides[1]


def to_patches(
    image: np.ndarray,
    vision: config_lib.VisionConfig,
    *,
    min_pixels: int = MIN_PIXELS,
    max_pixels: int = MAX_PIXELS,
) -> tuple[np.ndarray, np.ndarray]:
  """Resizes, normalises and cuts an image.

  Args:
    image: `[H, W, 3]` uint8.
    vision: of the model that reads it.
    min_pixels: see `smart_resize`.
    max_pixels: see `smart_resize`.

  Returns:
    Pixels `[patches, patch_width]` float32, and the grid `[3]`.

  Raises:
    ValueError: for another kind of array, or a shape that no size fits.
  """
  size, merge = vision.patch_size, vision.merge_size
  resized = resize(
      image, size * merge, min_pixels=min_pixels, max_pixels=max_pixels)
  height, width = resized.shape[:2]
  pixels = (resized.astype(np.float32) / 255 - _MEAN) / _DEVIATION
  rows, columns = height // size, width // size
  blocks = pixels.reshape(
      rows // merge, merge, size, columns // merge, merge, size, 3)
  # Merged token by merged token; then channel, and a still image's frames.
  blocks = blocks.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
  frames = np.repeat(blocks, vision.temporal_size, axis=5)
  return (
      frames.reshape(rows * columns, vision.patch_width),
      np.array([1, rows, columns]))


def resize(
    image: np.ndarray, factor: int, *, min_pixels: int, max_pixels: int
) -> np.ndarray:
  """An image as large as the model sees it.

  Args:
    image: `[H, W, 3]` uint8.
    factor: see `smart_resize`.
    min_pixels: see `smart_resize`.
    max_pixels: see `smart_resize`.

  Returns:
    The same kind of array; what has that size already stays as it is.

  Raises:
    ValueError: for another kind of array, or a shape that no size fits.
  """
  image = np.asarray(image)
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
        f'expected an image [H, W, 3] of uint8, got {image.shape} of '
        f'{image.dtype}')
  height, width = smart_resize(
      *image.shape[:2], factor=factor, min_pixels=min_pixels,
      max_pixels=max_pixels)
  return np.asarray(Image.fromarray(image).resize(
      (width, height), Image.Resampling.BICUBIC))


def num_tokens(grid: np.ndarray, merge_size: int) -> int:
  """Text tokens that an image takes."""
  return int(np.prod(grid)) // merge_size**2


def digest(content: bytes) -> np.ndarray:
  """`[4]` int32, the same for the same bytes and, in effect, for no others."""
  return np.frombuffer(hashlib.blake2b(
      content, digest_size=4 * DIGEST_LENGTH).digest(), np.int32)
