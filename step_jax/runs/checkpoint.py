"""Atomic checkpoints by orbax, each verified when it is written and read.

A newest checkpoint that is proven to be damaged is put aside with a sentence,
and the one before it is used.
"""

from collections.abc import Callable
import errno
import json
import logging
import os
import pathlib
import re
import shutil
from typing import Any
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from step_jax.runs import files

_KEPT = 2  # the newest, and one to fall back to
_PARTIAL = '-tmp'  # in names of what is being written or removed
_MANIFEST = 'files.json'  # of a checkpoint: the checksum of each other file


class CheckpointError(Exception):
  """Checkpoints that cannot be used; its message is one sentence."""


class Checkpoints:
  """The checkpoints of a run, numbered by completed rounds.

  Args:
    directory: made if it is missing, but by a reader.
    warn: told, in one sentence, of a checkpoint that is passed over.
    read_only: for whoever does not own the run, which may be going on: nothing
      is written, moved or removed.
  """

  def __init__(self, directory: pathlib.Path, warn: Callable[[str], None], *,
               read_only: bool = False):
    logging.getLogger('absl').setLevel(logging.ERROR)
    self._directory = directory.absolute()
    self._warn = warn
    self._read_only = read_only
    self._checkpointer = _make_checkpointer()
    if not read_only:
      with files.writing(self._directory):
        self._directory.mkdir(exist_ok=True)
        for left in self._directory.glob(f'*{_PARTIAL}*'):
          shutil.rmtree(left)  # by a process that was killed

  @property
  def rounds(self) -> list[int]:
    """Of which numbers of rounds there are checkpoints now, in order."""
    if not self._directory.exists():
      return []
    return sorted(int(name) for name in os.listdir(self._directory)
                  if name.isdecimal())

  def save(self, num_rounds: int, state: Any) -> None:
    """Writes `state` (a pytree of arrays) as of `num_rounds` rounds.

    It is read back, to the host, before older ones are removed.

    Raises:
      WriteError: if it cannot be written; what there was is still there.
    """
    if num_rounds in self.rounds:
      return
    partial = self._directory / f'{num_rounds}{_PARTIAL}'
    try:
      with files.writing(self._directory / str(num_rounds)):
        self._write(partial, state)
        partial.rename(self._directory / str(num_rounds))
        files.sync(self._directory)
    except files.WriteError:
      for left in self._directory.glob(f'{partial.name}*'):
        shutil.rmtree(left, ignore_errors=True)  # it takes room
      raise
    for old in self.rounds[:-_KEPT]:
      self._remove(old)

  def _write(self, partial: pathlib.Path, state: Any) -> None:
    digest = _digest(state)
    # A full disk is told here: orbax prints a traceback for each array.
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    if shutil.disk_usage(self._directory).free < size:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    try:
      self._checkpointer.save(partial, force=True, args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          digest=ocp.args.JsonSave(
              {'crc32': digest, 'leaves': _leaves(state)})))
    except ValueError as error:  # as TensorStore tells of the system's errors
      code = re.search("os_error_code='(\\d+)'", str(error))
      if code is None:
        raise
      number = int(code[1])
      raise OSError(number, os.strerror(number)) from error
    manifest = _checksums(partial)
    for path in (partial, *partial.rglob('*')):
      files.sync(path)
    files.replace(partial / _MANIFEST, json.dumps(manifest).encode())
    host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), state)
    if _digest(self._read(partial, host)) != digest:
      raise OSError('what was written reads otherwise')

  def restore(self, template: Any) -> tuple[int, Any] | None:
    """Reads the newest checkpoint that is whole.

    Args:
      template: a pytree of arrays, or of `jax.ShapeDtypeStruct`, of the right
        shapes and placement; without a placement, it is the first device, and
        for arrays of numpy the host.

    Returns:
      `(num_rounds, state)`, or None if there is none.

    Raises:
      CheckpointError: if the newest is of another structure, or if there are
        some, none of which can be read.
    """
    template = jax.tree.map(_place, template)
    damaged: set[int] = set()
    while rounds := [x for x in self.rounds if x not in damaged]:
      num_rounds = rounds[-1]
      folder = self._directory / str(num_rounds)
      try:
        saved = json.loads((folder / 'digest' / 'metadata').read_text())
        self._check_leaves(folder, saved, template)
        state = self._read(folder, template)
        is_whole = saved['crc32'] == _digest(state)
        reason = '' if is_whole else 'its digest differs'
      except CheckpointError:
        raise
      except Exception as error:  # whatever orbax makes of damaged files
        reason = type(error).__name__
        if not _is_damaged(folder):
          raise
      if not reason:
        return num_rounds, state
      if not folder.exists():
        continue  # removed by its owner, who has a newer one
      damaged.add(num_rounds)
      told = 'and'
      if not self._read_only:
        self._put_aside(num_rounds)
        told = f'was moved to {self._aside}, and'
      self._warn(f'The checkpoint of round {num_rounds} is damaged ({reason}), '
                 f'{told} the one before it is used.')
    if damaged or self._aside.exists():
      raise CheckpointError(
          f'No checkpoint in {self._directory} can be read; begin anew with '
          'another --workdir.')
    return None

  def _read(self, folder: pathlib.Path, template: Any) -> Any:
    return self._checkpointer.restore(folder, args=ocp.args.Composite(
        state=ocp.args.StandardRestore(template))).state

  def _check_leaves(
      self, folder: pathlib.Path, saved: dict[str, Any], template: Any) -> None:
    """Tells another structure from damage."""
    there, here = saved.get('leaves'), _leaves(template)
    if there is None or there == here:  # None: of an earlier version
      return
    names = [name for name in {**there, **here}
             if there.get(name) != here.get(name)]
    listed = ', '.join(
        f'{name} ({there.get(name, "none")} there, {here.get(name, "none")} '
        'now)' for name in names[:5])
    more = f' and {len(names) - 5} more' if len(names) > 5 else ''
    raise CheckpointError(
        f'The checkpoint in {folder} is of another model or version: '
        f'{listed}{more}; use what it was made with, or another --workdir.')

  @property
  def _aside(self) -> pathlib.Path:
    return self._directory.with_name(self._directory.name + '-damaged')

  def _put_aside(self, num_rounds: int) -> None:
    """Moves a checkpoint away, so that its round can be saved again."""
    with files.writing(self._aside):
      self._aside.mkdir(exist_ok=True)
      target = self._aside / str(num_rounds)
      shutil.rmtree(target, ignore_errors=True)
      (self._directory / str(num_rounds)).rename(target)

  def _remove(self, num_rounds: int) -> None:
    """At once, so that a reader does not take half of one for a damaged."""
    gone = self._directory / f'{num_rounds}{_PARTIAL}'
    with files.writing(gone):
      (self._directory / str(num_rounds)).rename(gone)
      shutil.rmtree(gone)

  def close(self) -> None:
    """Releases orbax's threads."""
    self._checkpointer.close()


def _make_checkpointer() -> ocp.Checkpointer:
  """Of several hosts one writes and reads, and waits for no other."""
  own = jax.process_index()
  options: dict[str, Any] = {
      'multiprocessing_options': ocp.options.MultiprocessingOptions(
          primary_host=own, active_processes={own})}
  return ocp.Checkpointer(ocp.CompositeCheckpointHandler(
      state=ocp.StandardCheckpointHandler(**options),
      digest=ocp.JsonCheckpointHandler(**options),
      composite_options=ocp.CompositeOptions(**options)), **options)


def _is_damaged(folder: pathlib.Path) -> bool:
  """Whether a checkpoint's files are not those that were written.

  Anything else can fail while they are read: memory, the machine, a mistake.
  """
  try:
    manifest = json.loads((folder / _MANIFEST).read_text())
    return manifest != {
        name: checksum for name, checksum in _checksums(folder).items()
        if name != _MANIFEST}
  except FileNotFoundError:  # of an earlier version, if the rest is there
    return not (folder / 'digest' / 'metadata').exists()
  except ValueError:
    return True


def _checksums(folder: pathlib.Path) -> dict[str, int]:
  return {
      str(path.relative_to(folder)): zlib.crc32(path.read_bytes())
      for path in sorted(folder.rglob('*')) if path.is_file()}


def _leaves(state: Any) -> dict[str, str]:
  """The shape and type of each leaf, by its path."""
  return {
      jax.tree_util.keystr(path): f'{leaf.dtype}{list(leaf.shape)}'
      for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _place(leaf: Any) -> Any:
  if isinstance(leaf, np.ndarray):
    return leaf  # it is read to the host
  sharding = getattr(leaf, 'sharding', None)
  return jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
      or jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))


def _digest(state: Any) -> int:
  """A checksum over all values, since a lost chunk would read as zeros."""
  crc = 0
  for leaf in jax.tree.leaves(state):
    crc = zlib.crc32(np.asarray(jax.device_get(leaf)).tobytes(), crc)
  return crc
