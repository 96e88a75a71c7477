"""One of several addresses for each process, which nobody else then has.

A lease is a lock on a file that all processes of this user share; it ends with
the process that holds it, however that ends.
"""

from collections.abc import Callable, Sequence
import fcntl
import hashlib
import os
import pathlib
import time
from typing import IO, Any

_PAUSE = 0.2  # seconds between two looks for what is free
_MOMENT = 1.0  # seconds in which a process that is killed gives back its own


class Lease:
  """An address that is held until `close`."""

  def __init__(self, address: str, file: IO[bytes]):
    self.address = address
    self._file = file

  def distrust(self) -> None:
    """Notes that it failed now: others are tried before it from here on."""
    self._file.truncate(0)
    self._file.write(str(time.time()).encode())
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def __enter__(self) -> 'Lease':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()


def lease(addresses: Sequence[str], *, name: str,
          check: Callable[[str], None], error: type[Exception],
          seconds: float = 10.0) -> Lease:
  """Takes the first free address that passes a check.

  Those that failed go last, the latest of them at the very end.

  Args:
    addresses: to choose from; what differs by a '/' at its end is the same.
    name: of what they are, such as 'phones'; other names have other locks.
    check: called with a free address; raises `error` if it is of no use.
    error: what is raised.
    seconds: to wait while all are taken; a process that is being killed holds
      its address for a moment.

  Returns:
    The lease.

  Raises:
    ValueError: addresses is a string or empty.
    Exception: `error`: all are taken, or what is not does not pass the check.
  """
  if isinstance(addresses, str) or not addresses:
    raise ValueError(f'expected a list of addresses, got {addresses!r}')
  addresses = list(dict.fromkeys(
      address.rstrip('/') for address in addresses))
  place = folder(name)
  deadline = time.monotonic() + seconds
  reasons: dict[str, str] = {}
  while True:
    for address in sorted(
        addresses, key=lambda address: _last_failure(place, address)):
      if address in reasons or (taken := _take(place, address)) is None:
        continue
      try:
        check(address)
        return taken
      except error as reason:
        reasons[address] = str(reason)
        deadline = min(deadline, time.monotonic() + _MOMENT)
        taken.close()
      except BaseException:
        taken.close()
        raise
    if len(reasons) == len(addresses) or time.monotonic() > deadline:
      raise error('; '.join(reasons.values()) or (
          f'expected one of {len(addresses)} {name} to be free, got none: use '
          'as many workers as there are addresses, at most'))
    time.sleep(_PAUSE)


def folder(name: str) -> pathlib.Path:
  """Makes a folder that all processes of this user have, and nobody else.

  It is not below TMPDIR, as every worker has one of its own.

  Args:
    name: of what is shared there.

  Raises:
    ValueError: somebody else has made it.
  """
  path = pathlib.Path('/tmp') / f'step_jax_{name}_{os.getuid()}'
  path.mkdir(mode=0o700, exist_ok=True)
  if path.is_symlink() or not path.is_dir() or (
      path.lstat().st_uid != os.getuid()):
    raise ValueError(f'expected {path} to belong to this user')
  return path


def _path(folder: pathlib.Path, address: str) -> pathlib.Path:
  return folder / hashlib.sha256(address.encode()).hexdigest()


def _take(folder: pathlib.Path, address: str) -> Lease | None:
  file = open(_path(folder, address), 'ab')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.close()
    return None
  return Lease(address, file)


def _last_failure(folder: pathlib.Path, address: str) -> float:
  try:
    return float(_path(folder, address).read_text() or 0)
  except (OSError, ValueError):
    return 0.
