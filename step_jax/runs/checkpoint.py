"""Atomic checkpoints by orbax, each verified when it is read.

A damaged newest checkpoint is put aside with a sentence, and the one before it
is used.
"""

from collections.abc import Callable
import logging
import pathlib
import shutil
from typing import Any
import zlib

import jax
import numpy as np
import orbax.checkpoint as ocp

_KEPT = 2  # the newest, and one to fall back to


class Checkpoints:
  """The checkpoints of a run, numbered by completed rounds.

  Args:
    directory: made if it is missing.
    warn: told, in one sentence, of a checkpoint that is passed over.
  """

  def __init__(self, directory: pathlib.Path, warn: Callable[[str], None]):
    logging.getLogger('absl').setLevel(logging.ERROR)
    self._directory = directory.absolute()
    self._warn = warn
    self._manager = ocp.CheckpointManager(
        self._directory,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT, create=True, enable_async_checkpointing=False))

  def save(self, num_rounds: int, state: Any) -> None:
    """Writes `state` (a pytree of arrays) as of `num_rounds` rounds."""
    if num_rounds in self._manager.all_steps():
      return
    self._manager.save(num_rounds, args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        digest=ocp.args.JsonSave({'crc32': _digest(state)})))

  def restore(self, template: Any) -> tuple[int, Any] | None:
    """Reads the newest checkpoint that is whole.

    Args:
      template: a pytree of arrays of the right shapes and placement.

    Returns:
      `(num_rounds, state)`, or None if there is none.

    Raises:
      ValueError: if there are some, none of which can be read.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    for num_rounds in sorted(self._manager.all_steps(), reverse=True):
      try:
        found = self._manager.restore(num_rounds, args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract),
            digest=ocp.args.JsonRestore()))
        if found.digest['crc32'] == _digest(found.state):
          return num_rounds, found.state
        reason = 'its digest differs'
      except Exception as error:  # whatever orbax makes of damaged files
        reason = type(error).__name__
      self._put_aside(num_rounds)
      self._warn(
          f'The checkpoint of round {num_rounds} is damaged ({reason}); it was '
          f'moved to {self._aside} and the one before it is used.')
    if self._aside.exists():
      raise ValueError(
          f'No checkpoint in {self._directory} can be read; begin anew with '
          'another --workdir.')
    return None

  @property
  def _aside(self) -> pathlib.Path:
    return self._directory.with_name(self._directory.name + '-damaged')

  def _put_aside(self, num_rounds: int) -> None:
    """Moves a checkpoint away, so that its round can be saved again."""
    self._aside.mkdir(exist_ok=True)
    target = self._aside / str(num_rounds)
    shutil.rmtree(target, ignore_errors=True)
    (self._directory / str(num_rounds)).rename(target)
    self._manager.reload()

  def close(self) -> None:
    """Releases orbax's threads."""
    self._manager.close()


def _digest(state: Any) -> int:
  """A checksum over all values, since a lost chunk would read as zeros."""
  crc = 0
  for leaf in jax.tree.leaves(state):
    crc = zlib.crc32(np.asarray(jax.device_get(leaf)).tobytes(), crc)
  return crc
