"""Several processes as one run: the first leads, the others follow.

All of them run the same program over one mesh, and so the same computations in
the same order. What is not a computation happens in one place: the leader
drives the environments, reads checkpoints, writes files and speaks. Followers
are sent what its environments show, rows and pictures, since a policy call
needs every device of the mesh; the trajectories, once they are whole; and
requests to stop. In a run of one process all of this is the identity.
"""

from collections.abc import Callable, Sequence
import dataclasses
import io
import os
import sys
import time
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from step_jax.algorithm import types
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import pictures as pictures_lib
from step_jax.rollout.actors import base as actors

_BEAT, _ROWS, _END, _FAILURE = range(4)  # kinds of messages
_SMALLEST = 1 << 16  # bytes of a message; longer ones double it


class HostError(Exception):
  """The hosts do not come together, or the leader gave up; one sentence."""


def are_announced() -> bool:
  """Whether SLURM or a TPU pod started this as one of several processes."""
  return int(os.environ.get('SLURM_NTASKS', 1)) > 1 or (
      ',' in os.environ.get('TPU_WORKER_HOSTNAMES', ''))


def initialize() -> None:
  """Finds the other processes; before anything else is asked of JAX.

  SLURM, MPI, Kubernetes and TPU pods say who they are. Elsewhere three
  variables do: JAX_COORDINATOR_ADDRESS (host:port of the first process),
  JAX_NUM_PROCESSES and JAX_PROCESS_ID.

  Raises:
    HostError: if nobody says, or if the others do not come.
  """
  numbers: dict[str, Any] = {
      name: int(os.environ[variable]) for name, variable in (
          ('num_processes', 'JAX_NUM_PROCESSES'),
          ('process_id', 'JAX_PROCESS_ID')) if variable in os.environ}
  # On processors, programs that run at once could meet in other orders.
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  try:
    jax.distributed.initialize(**numbers)
  except (ValueError, RuntimeError) as error:
    reason = str(error).splitlines()[0].rstrip('.')
    raise HostError(
        f'the hosts did not come together: {reason}; expected a cluster that '
        'JAX knows, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and '
        'JAX_PROCESS_ID') from error
  sys.excepthook = _end


def _end(*error: Any) -> None:
  """As an error that nobody catches ends one of several processes."""
  sys.__excepthook__(*error)
  print('a host that stops stops all of them; the same command resumes',
        file=sys.stderr)
  leave(1)


def leave(code: int) -> None:
  """Ends this process; one that failed does not wait for the others.

  They end, too, as soon as they hear of it.
  """
  if code and jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_leader() -> bool:
  """Whether this process drives environments and writes files."""
  return jax.process_index() == 0


def agreed(flag: Callable[[], bool]) -> Callable[[], bool]:
  """Whether it is true on any host; all of them ask at the same place."""
  if jax.process_count() == 1:
    return flag
  return lambda: bool(
      multihost_utils.process_allgather(np.array(flag())).any())


def from_leader(tree: Any) -> Any:
  """The leader's arrays, on every host; the others give the shapes."""
  if jax.process_count() == 1:
    return tree
  make = np.asarray if is_leader() else lambda x: np.zeros(x.shape, x.dtype)
  return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(
      jax.tree.map(make, tree)))


def whole(tree: Any) -> Any:
  """Arrays of the mesh as arrays of this host, each of them whole."""
  if jax.process_count() == 1:
    return tree
  return jax.tree.map(
      lambda x: np.asarray(x) if x.is_fully_replicated else
      multihost_utils.process_allgather(x, tiled=True), tree)


class Channel:
  """How collections are led and followed.

  Args:
    row: an observation with its history, for its structure.
    pictures: the store that `observation['screenshot']` names, if there is
      one; followers keep a copy.
    should_stop: of this host; True on any stops all.
  """

  def __init__(self, row: Any, should_stop: Callable[[], bool],
               pictures: pictures_lib.ScreenshotStore | None = None):
    self._row: Any = jax.tree.structure(row)
    names = {field.name for field in dataclasses.fields(types.Trajectory)}
    fields: dict[str, Any] = dict.fromkeys(names, 0)
    self._collection = jax.tree.structure(collect_lib.Collection(
        types.Trajectory(**fields | {'observations': row}), 0, 0, '',
        collect_lib.Notes(*[np.zeros(0)] * 4)))
    self._should_stop = should_stop
    self._pictures = pictures
    self._beaten = 0.0

  def leading(
      self, collect: Callable[..., collect_lib.Collection]
  ) -> Callable[..., collect_lib.Collection]:
    """`collect.collect` of a pool, as the followers are told of it."""
    def lead(jobs, actor, player, *, should_stop, **options):
      del should_stop  # `_exchange` asks it, for all hosts
      try:
        collection = collect(
            jobs, _Leading(actor, self._send_rows), player,
            should_stop=self._beat, **options)
      except Exception as error:  # whatever it is: told, and raised
        self._exchange(_FAILURE, str(error).encode())
        raise
      self._exchange(_END, _pack(jax.tree.leaves(collection)))
      return collection
    return lead

  def follow(
      self, actor: actors.Actor, player: actors.Player
  ) -> collect_lib.Collection:
    """Takes part in policy calls; returns what the leader collected.

    Args:
      actor: the leader's, here.
      player: the leader's.

    Raises:
      HostError: the leader gave up.
      KeyboardInterrupt: one of the hosts is to stop.
    """
    while True:
      kind, content = self._exchange(_BEAT)
      if kind == _ROWS:
        slots, step_ids, *rest = _unpack(content)
        size = self._row.num_leaves
        self._keep_pictures(*rest[size:])
        if player is actors.EXPERT:
          continue  # the leader asks it alone
        actor.submit(
            actors.Rows(slots, step_ids, jax.tree.unflatten(
                self._row, rest[:size]), ()),
            rng_key=player.rng_key, temperature=player.temperature)
        actor.receive(0.)
      elif kind == _FAILURE:
        raise HostError(f'the first host gave up: {content.decode()}')
      elif kind == _END:
        return jax.tree.unflatten(self._collection, _unpack(content))

  def _send_rows(self, rows: actors.Rows) -> None:
    self._exchange(_ROWS, _pack([
        rows.slots, rows.step_ids, *jax.tree.leaves(rows.observations),
        *self._shown(rows.observations)]))

  def _shown(self, observations: Any) -> list[np.ndarray]:
    """Numbers and contents of what the rows show."""
    if self._pictures is None:
      return []
    numbers = sorted(set(observations['screenshot'].tolist()))
    contents = [np.frombuffer(self._pictures.read(number), np.uint8)
                for number in numbers]
    return [np.array(numbers, np.int32), *contents]

  def _keep_pictures(self, numbers: Sequence[int] = (),
                     *contents: np.ndarray) -> None:
    for number, content in zip(numbers, contents):
      assert self._pictures is not None
      self._pictures.copy(int(number), content.tobytes())

  def _beat(self) -> bool:
    """The leader's `should_stop`; followers hear of it now and then."""
    if time.monotonic() - self._beaten > collect_lib.POLL_SECONDS:
      self._exchange(_BEAT)
    return False

  def _exchange(self, kind: int, content: bytes = b'') -> tuple[int, bytes]:
    """The leader's message; the others give none.

    Raises:
      KeyboardInterrupt: one of the hosts is to stop.
    """
    told = multihost_utils.process_allgather(np.array(
        [kind, len(content), self._should_stop()], np.int32))
    self._beaten = time.monotonic()
    if told[:, 2].any():
      raise KeyboardInterrupt
    kind, size = told[0, :2].tolist()
    if not size:
      return kind, b''
    # A power of two, since every other size is another compilation.
    padded = np.zeros(max(_SMALLEST, 1 << (size - 1).bit_length()), np.uint8)
    padded[:len(content)] = np.frombuffer(content, np.uint8)
    return kind, np.asarray(from_leader(padded))[:size].tobytes()


class _Leading:
  """An actor whose rows are told before it answers them."""

  def __init__(
      self, actor: actors.Actor, tell: Callable[[actors.Rows], None]):
    self._actor, self._tell = actor, tell
    self.publish, self.receive = actor.publish, actor.receive

  def submit(self, rows: actors.Rows, **options: Any) -> Sequence[int]:
    """See `Actor`."""
    self._tell(rows)
    return self._actor.submit(rows, **options)


def _pack(arrays: Sequence[Any]) -> bytes:
  file = io.BytesIO()
  np.savez(file, **{f'{i}': x for i, x in enumerate(arrays)})
  return file.getvalue()


def _unpack(content: bytes) -> list[Any]:
  with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
    loaded = [arrays[f'{i}'] for i in range(len(arrays.files))]
  return [x if x.ndim else x.item() for x in loaded]
