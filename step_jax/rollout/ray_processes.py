"""Worker processes on the machines of a Ray cluster.

`RayProcesses` is to a `WorkerPool` what `processes.Processes` is. Each of its
workers is a Ray actor, which takes one CPU; see `relay`.
"""

from collections.abc import Callable
import contextlib
import importlib
import logging
import math
import os
import pathlib
import pickle
import socket
import time
from typing import Any
import urllib.parse
import weakref

from step_jax.rollout import carrying
from step_jax.rollout import pictures
from step_jax.rollout import processes
from step_jax.rollout import relay

__all__ = ['ClusterError', 'RayProcesses', 'SETTINGS']

SETTINGS = {  # of Ray, where the user has none
    'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',  # It warns that this will be so.
    'RAY_USAGE_STATS_ENABLED': '0',
    # It ends this process where the head is away for longer; we say so instead.
    'RAY_gcs_rpc_server_reconnect_timeout_s': '3600'}
_CURRENT = pathlib.Path('/tmp/ray/ray_current_cluster')  # Ray's note of it
_LOOK = 2.0  # seconds between two looks at the cluster


class ClusterError(ValueError):
  """There is no such cluster, or it is too small."""


class RayProcesses:
  """The worker processes of one pool, by serial number, on Ray's machines.

  The same code is installed on all of them. All workers end with `close`, with
  this object, or with the process that made it.

  Args:
    make_env: picklable factory of environments.
    close_timeout: seconds for environments to close at the end.
    num_workers: how many there will be at a time, for each of which the
      cluster needs a CPU.
    address: 'ray://host:port' or 'auto'; '' starts Ray on this machine, with
      `num_workers` CPUs, however many it has, unless Ray has been started.
    store: of pictures that environments carry, see `carrying`.

  Raises:
    ValueError: the factory is not picklable.
    ClusterError: there is no such cluster, or it has fewer CPUs than workers.
    ImportError: Ray is not installed.
  """

  def __init__(self, make_env: Callable[[], Any], *, close_timeout: float,
               num_workers: int, address: str = '',
               store: pictures.ScreenshotStore | None = None):
    for name, value in SETTINGS.items():
      os.environ.setdefault(name, value)
    self._ray: Any = importlib.import_module('ray')
    processes.dump(make_env)  # As `Processes` takes it; Ray's takes more.
    starts = not self._ray.is_initialized()
    if starts:
      _connect(self._ray, address, num_workers)
    self._head = _find_head(self._ray, address)
    self._store = store
    self._factory = self._ray.cloudpickle.dumps(make_env)
    self._relay = self._ray.remote(relay.Relay).options(
        num_cpus=1, max_concurrency=2, scheduling_strategy='SPREAD',
        # Else it takes the relay's keeper with the relay, and leaves the rest.
        runtime_env={'env_vars': {
            'RAY_kill_child_processes_on_worker_exit': 'false'}})
    self._close_timeout = close_timeout
    self._actors: dict[int, Any] = {}
    self._answers: dict[Any, int] = {}  # awaited, of which worker
    self._started: set[int] = set()
    self._num_started = 0
    self._next_look = 0.0
    self._said = ''
    self._finalizer = weakref.finalize(
        self, _end, self._ray, self._actors, self._started, close_timeout,
        starts)
    if (num_cpus := self._num_cpus()) < num_workers:
      self.close()
      raise ClusterError(
          f'expected a Ray cluster with {num_workers} CPUs, one for each '
          f'environment, got {num_cpus}')

  @property
  def alive(self) -> bool:
    """False from `close` on."""
    return self._finalizer.alive

  def start(self) -> int:
    """Starts a worker and returns its serial number."""
    serial = self._num_started
    self._num_started += 1
    actor = self._actors[serial] = self._relay.remote(
        self._factory, self._close_timeout)
    self._answers[actor.tell.remote()] = serial
    return serial

  def send(self, serial: int, message: Any) -> None:
    """Sends a message to a worker."""
    self._answers[self._actors[serial].tell.remote(message)] = serial

  def receive(self, timeout: float | None) -> dict[int, list[Any] | None]:
    """Returns what the workers sent, waiting for the first to send something.

    Args:
      timeout: seconds to wait; None waits for ever.

    Returns:
      By serial number: messages, or None if the worker or its machine has
      died. One for which there is no CPU any more sends a start_error.

    Raises:
      KeeperError: the head of the cluster is gone.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout
    while True:
      left = max(0.0, min(end, self._next_look) - time.monotonic())
      received = self._take(left)
      if time.monotonic() >= self._next_look:
        received |= self._look()
        self._next_look = time.monotonic() + _LOOK
      if received or time.monotonic() >= end:
        return received

  def kill(self, serial: int) -> None:
    """Kills a worker with all that it started."""
    self._ray.kill(self._actors.pop(serial))  # Its keeper notices.
    self._started.discard(serial)
    for answer in [a for a, s in self._answers.items() if s == serial]:
      del self._answers[answer]

  def close(self) -> None:
    """Ends all processes; environments that answer close themselves."""
    self._finalizer()

  def _take(self, timeout: float) -> dict[int, list[Any] | None]:
    """What has been answered, waiting for the first."""
    if not self._answers:
      time.sleep(timeout)
      return {}
    awaited = [*self._answers]
    ready, _ = self._ray.wait(awaited, num_returns=1, timeout=timeout)
    if ready:  # Perhaps there are more.
      ready, _ = self._ray.wait(awaited, num_returns=len(awaited), timeout=0)
    return {self._answers[answer]: self._read(answer) for answer in ready}

  def _read(self, answer: Any) -> list[Any] | None:
    serial = self._answers.pop(answer)
    try:
      content = self._ray.get(answer)
    except self._ray.exceptions.RayError as error:
      # The relay, its machine or what it said is lost.
      return None if serial in self._started else [self._fail_start(
          'Ray did not start an environment: '
          f'{str(error).strip().splitlines()[-1]}')]
    if content is None:
      return None
    messages = pickle.loads(content)
    self._started.add(serial)
    if messages[-1][0] == 'started':  # It will say more unasked.
      self._answers[self._actors[serial].tell.remote()] = serial
    return [carrying.put_down(message, self._store) for message in messages]

  def _look(self) -> dict[int, list[Any] | None]:
    """Those that wait for a CPU in vain; Ray would let them wait for ever."""
    try:
      _knock(self._head)
    except OSError as error:
      raise processes.KeeperError(
          f'the head of the Ray cluster at {self._head[0]}:{self._head[1]} is '
          f'gone: {error}') from error
    num_cpus = self._num_cpus()
    num_lacking = max(0, len(self._actors) - num_cpus)
    waiting = [serial for serial in self._actors if serial not in self._started]
    return {serial: [self._fail_start(
        f'no CPU is left for one of {len(self._actors)} environments: the Ray '
        f'cluster has {num_cpus}')] for serial in waiting[::-1][:num_lacking]}

  def _fail_start(self, message: str) -> tuple[str, str, str, str]:
    if message != self._said:  # While others play a pool tells nobody.
      logging.warning('%s', message)
    self._said = message
    return 'start_error', ClusterError.__name__, message, ''

  def _num_cpus(self) -> int:
    return int(self._ray.cluster_resources().get('CPU', 0))


def _connect(ray: Any, address: str, num_workers: int) -> None:
  options = {'logging_level': logging.WARNING}
  if not address:
    options |= {'num_cpus': num_workers, 'include_dashboard': False}
  try:
    if address == 'auto':  # Ray waits for minutes for one that was killed.
      with contextlib.suppress(FileNotFoundError):
        _knock(_parse(os.environ.get('RAY_ADDRESS') or _CURRENT.read_text()))
    ray.init(address or 'local', **options)
  except (OSError, RuntimeError) as error:  # or it has another version
    raise ClusterError(
        f"expected a Ray cluster at '{address}', got none to work with: "
        f'{str(error).strip().splitlines()[0]}') from error


def _find_head(ray: Any, address: str) -> tuple[str, int]:
  """Where something listens for as long as the cluster lives."""
  return _parse(address if address.startswith('ray://')
                else ray.get_runtime_context().gcs_address)


def _parse(address: str) -> tuple[str, int]:
  parts = urllib.parse.urlsplit(f"//{address.rpartition('://')[-1]}")
  return parts.hostname or '', parts.port or 10001


def _knock(address: tuple[str, int]) -> None:
  socket.create_connection(address, timeout=_LOOK).close()


def _end(ray: Any, actors: dict[int, Any], started: set[int],
         close_timeout: float, shut_down: bool) -> None:
  if not ray.is_initialized():
    return  # It has ended, and its actors with it.
  if closing := [actor.close.remote() for serial, actor in actors.items()
                 if serial in started]:
    ray.wait(closing, num_returns=len(closing), timeout=close_timeout + _LOOK)
  for actor in actors.values():
    ray.kill(actor)
  if shut_down:
    ray.shutdown()
