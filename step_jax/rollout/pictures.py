"""A store of pictures on disk, which trajectories name by number.

An observation carries an int32 instead of a picture. Several processes may
write to one folder: numbers come from a counter in a locked file, and a
picture appears under its name at once and whole.
"""

from collections.abc import Callable
import contextlib
import fcntl
import functools
import io
import os
import pathlib
import sys

from PIL import Image

_ENDINGS = ('png', 'webp')


class ScreenshotStore:
  """The newest pictures of a run.

  Args:
    folder: created if it is missing.
    capacity: pictures that are kept; the oldest are removed.
    max_size: the longer side in pixels above which a picture is made smaller
      and stored as WebP; 0 stores every picture as it came.

  Raises:
    ValueError: for a capacity or size that is none.
  """

  def __init__(self, folder: str | os.PathLike, *, capacity: int = 20_000,
               max_size: int = 0):
    if capacity < 1:
      raise ValueError(f'expected a capacity of at least 1, got {capacity}')
    if max_size < 0:
      raise ValueError(f'expected max_size of at least 0, got {max_size}')
    self.folder = pathlib.Path(folder)
    self.folder.mkdir(parents=True, exist_ok=True)
    self._capacity = capacity
    self._max_size = max_size
    oldest = self._count(0) - capacity
    for path in self.folder.glob('*.*'):
      if path.stem.isdecimal() and int(path.stem) < oldest:
        path.unlink(missing_ok=True)

  def put(self, picture: bytes) -> int:
    """Stores a picture, PNG or JPEG, and returns its number."""
    ending = 'png'
    if self._max_size:
      ending, picture = 'webp', self._shrink(picture)
    number = self._count(1)
    self._write(number, picture, ending)
    return number

  def copy(self, number: int, picture: bytes) -> None:
    """Keeps what `read` gave of another store, under its number there."""
    self._write(number, picture, _ENDINGS[0])

  def get(self, number: int) -> Image.Image:
    """Returns a picture.

    Raises:
      KeyError: there is none of this number, or not any more.
    """
    return Image.open(io.BytesIO(self.read(number)))

  def read(self, number: int) -> bytes:
    """Returns a picture's file.

    Raises:
      KeyError: as of `get`.
    """
    for ending in _ENDINGS:
      with contextlib.suppress(FileNotFoundError):
        return self._path(number, ending).read_bytes()
    raise KeyError(f'expected the number of a picture in {self.folder}, '
                   f'got {number}')

  def _write(self, number: int, picture: bytes, ending: str) -> None:
    """Writes a picture at once and whole, and removes the oldest."""
    draft = self.folder / f'draft{number}'
    draft.write_bytes(picture)
    draft.rename(self._path(number, ending))
    for old in _ENDINGS:
      self._path(number - self._capacity, old).unlink(missing_ok=True)

  def _path(self, number: int, ending: str) -> pathlib.Path:
    return self.folder / f'{number:010d}.{ending}'

  def _count(self, step: int) -> int:
    """Returns the next number, and moves the counter on by `step`."""
    with open(self.folder / 'counter', 'a+') as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      file.seek(0)
      number = int(file.read() or 0)
      if step:
        file.truncate(0)
        file.write(str(number + step))
        file.flush()
    return number

  def _shrink(self, picture: bytes) -> bytes:
    image = Image.open(io.BytesIO(picture)).convert('RGB')
    image.thumbnail((self._max_size, self._max_size))
    content = io.BytesIO()
    image.save(content, 'WEBP', quality=90)
    return content.getvalue()


def reader(folder: str | os.PathLike) -> Callable[[int], Image.Image]:
  """`get` of the store in a folder, which is made when the first is read."""
  @functools.cache
  def store():
    # Those who write pictures remove the oldest.
    return ScreenshotStore(folder, capacity=sys.maxsize)

  def get(number):
    return store().get(number)
  return get
