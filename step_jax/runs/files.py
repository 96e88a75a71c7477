"""Files of a run: owned by one process, replaced whole, synced before."""

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib

_LOCK = 'lock'


class FolderError(Exception):
  """A folder that a run cannot have; its message is one sentence."""


class WriteError(Exception):
  """A file that cannot be written; its message is one sentence."""


@contextlib.contextmanager
def owned(directory: pathlib.Path) -> Iterator[bool]:
  """Makes a folder, and keeps other processes from owning it meanwhile.

  The lock is the operating system's: it ends with the process, however that
  ends. Readers need none.

  Args:
    directory: made if it is missing, with its parents.

  Yields:
    Whether there was nothing in it.

  Raises:
    FolderError: if another process owns it, or if it is no folder.
    WriteError: if it cannot be written to.
  """
  with writing(directory):
    try:
      directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
      raise FolderError(
          f'expected --workdir to be a folder, got {directory}') from error
    is_new = not set(os.listdir(directory)) - {_LOCK}
    file = (directory / _LOCK).open('a')
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise FolderError(
          f'another process trains in {directory}; wait for its end, or use '
          'another --workdir') from error
    for left in directory.glob('*.partial'):  # by a process that was killed
      left.unlink(missing_ok=True)
    yield is_new


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Makes a sentence of what the operating system says.

  Raises:
    WriteError: in the place of an OSError.
  """
  try:
    yield
  except OSError as error:
    raise WriteError(
        f'{path} cannot be written ({error.strerror or error}); see to the '
        'disk, then resume with the same command') from error


def replace(path: pathlib.Path, content: bytes) -> None:
  """Writes a file so that a reader, or a power cut, sees the old or the new.

  Raises:
    WriteError: if it cannot be written; the old one is still there.
  """
  # A run and its evaluation may write a file of one name.
  partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
  with writing(path):
    try:
      partial.write_bytes(content)
      sync(partial)
      os.replace(partial, path)
    except OSError:
      with contextlib.suppress(OSError):
        partial.unlink()  # what there is of it takes room
      raise
    sync(path.parent)


def sync(path: pathlib.Path) -> None:
  """Waits until a file, or the names in a folder, are on the disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
