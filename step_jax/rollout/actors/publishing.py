"""Versions of parameters in a folder that inference servers read."""

from collections.abc import Callable
import pathlib
import shutil

_KEPT = 2  # a server may still read the one before


def write(
    folder: pathlib.Path, version: str,
    save: Callable[[pathlib.Path], None]) -> pathlib.Path:
  """Writes a version; it appears at once and whole, and two are kept.

  Args:
    folder: of all versions, and of nothing else; made if it is missing.
    version: a name that no other has.
    save: writes into a folder that it makes.

  Returns:
    The version's own folder.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for left in folder.glob('*.partial'):  # by a process that was killed
    shutil.rmtree(left)
  partial = folder / f'{version}.partial'
  save(partial)
  partial.rename(folder / version)
  versions = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
  for old in versions[:-_KEPT]:
    shutil.rmtree(old)
  return folder / version
