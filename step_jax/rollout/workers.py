"""One process per environment, none of which waits for another.

`WorkerPool` knows nothing of what the environments are: browsers, desktops or
a counter. It starts processes, gives each the next episode as soon as it is
free, and replaces those that hang, die, raise or report `info['failure']`.
"""
import collections
from collections.abc import Callable, Iterable
import math
import time
from typing import Any, NamedTuple

import gymnasium

from step_jax.rollout import crew
from step_jax.rollout import processes

__all__ = ['Event', 'Job', 'WorkerPool', 'WorkerStartError']

Job = crew.Job


class Event(NamedTuple):
  """What happened to a job.

  `kind` is 'observation': the environment waits for `WorkerPool.act`;
  'finished': the episode ended with `reward`; 'failed': this attempt was lost
  to infrastructure and the job will be played again from its start; or
  'lost': so was the last attempt. After one of the last three the worker's
  earlier observation is void.
  """
  kind: str
  job: Job
  worker: int   # 0 .. num_workers - 1, the number that `act` takes
  attempt: int   # 0 at first; the same again if a failure cost none
  observation: Any = None   # at 'observation' only
  reward: float = 0.0
  info: dict[str, Any] = {}
  message: str = ''   # at 'failed' and 'lost': the reason in a line


class WorkerStartError(RuntimeError):
  """All factories raised before any environment existed; `kind` names what."""

  def __init__(self, message: str, kind: str):
    super().__init__(message)
    self.kind = kind


class WorkerPool:
  """Plays jobs in `num_workers` environment processes.

  What can be neither started nor reset is tried again after a pause that grows.
  That costs the jobs an attempt only while no other worker could play them, or
  before it has failed twice, when the job itself might be what is wrong.

  An answer that breaks the contract is an exception of its environment: a
  reward but 0 before the end, and but 0 or 1 at it; an observation outside
  `observation_space`; an info that is no dictionary; what cannot be pickled.

  Use it as a context manager: no process outlives it, nor, should it be
  killed, the process that made it. Each worker has a temporary folder of its
  own as TMPDIR, removed with it. Workers ignore SIGINT.

  Args:
    make_env: picklable factory of a `gymnasium.Env` whose `reset` takes
      `seed` and `options={'task_id': int, 'expert': bool}`. Importing its
      module must neither start threads nor compute with JAX: workers are
      forked after the import.
    num_workers: number of processes.
    step_timeout: seconds for a step, and for a reset but a worker's first.
    start_timeout: seconds for the factory, and for a worker's first reset.
    max_retries: how often a job is played again after failures that cost it
      an attempt.
    close_timeout: seconds for environments to close at the end.
    backend: of the processes; `ray_processes.RayProcesses` with its arguments
      has them on several machines.

  Raises:
    ValueError: an argument is out of range or not picklable.
  """

  def __init__(self, make_env: Callable[[], gymnasium.Env], *,
               num_workers: int, step_timeout: float,
               start_timeout: float = 60.0, max_retries: int = 2,
               close_timeout: float = 3.0,
               backend: Callable[..., Any] = processes.Processes):
    if num_workers < 1:
      raise ValueError(f'expected num_workers >= 1, got {num_workers}')
    if min(step_timeout, start_timeout) <= 0:
      raise ValueError('expected positive time limits, got step_timeout='
                       f'{step_timeout} and start_timeout={start_timeout}')
    if max_retries < 0:
      raise ValueError(f'expected max_retries >= 0, got {max_retries}')
    self._step_timeout = step_timeout
    self._start_timeout = start_timeout
    self._max_retries = max_retries
    self._queue: collections.deque[tuple[Job, int]] = collections.deque()
    self._events: list[Event] = []
    self._failures: collections.Counter[str] = collections.Counter()
    self._processes = backend(make_env, close_timeout=close_timeout)
    self._crew = crew.Crew(num_workers)
    for index in range(num_workers):
      self._start(index)

  @property
  def pending(self) -> int:
    """Number of jobs neither finished nor lost."""
    return len(self._queue) + sum(
        worker.job is not None for _, worker in self._crew.present())

  @property
  def failures(self) -> dict[str, int]:
    """Failures of each kind: start, hang, death, exception, failure."""
    return dict(self._failures)

  @property
  def num_failures(self) -> int:
    """Number of infrastructure failures so far, of any kind."""
    return self._failures.total()

  @property
  def worker_pids(self) -> tuple[int | None, ...]:
    """Process ids by worker; None while one is being started."""
    return tuple(w.pid if w else None for w in self._crew.workers)

  def submit(self, jobs: Iterable[Job]) -> None:
    """Queues jobs; free workers begin at once."""
    self._check_open()
    self._queue.extend((job, 0) for job in jobs)
    self._assign()

  def wait_for_start(self, timeout: float) -> bool:
    """Whether an environment exists, or none is being started any more.

    Blocks until that is so, or for `timeout` seconds. Where it is not awaited
    the jobs wait for it.

    Raises:
      WorkerStartError: all factories raised before any environment existed.
      KeeperError: what keeps the processes is gone.
    """
    self._check_open()
    end = time.monotonic() + timeout
    while not self._crew.any_ready and any(
        worker.state == 'starting' for _, worker in self._crew.present()):
      if time.monotonic() >= end:
        return False
      self._receive(end)
      self._expire()
    return True

  def act(self, worker: int, action: Any) -> None:
    """Answers the last observation of a worker.

    Raises:
      ValueError: that worker does not wait for an action.
    """
    self._check_open()
    asked = self._crew.workers[worker]
    if asked is None or asked.state != 'waiting':
      state = asked.state if asked else 'down'
      raise ValueError(f'expected a worker that waits for an action, got '
                       f'worker {worker}, which is {state}')
    self._ask(asked, 'step', action, self._step_timeout)

  def wait(self, timeout: float | None = None) -> list[Event]:
    """Returns all that has happened, blocking until something has.

    Nothing ([]) comes back when `timeout` seconds have passed and when no
    environment owes an answer: either no job is pending, or all wait for
    `act`.

    Raises:
      WorkerStartError: all factories raised before any environment existed.
      KeeperError: what keeps the processes is gone.
    """
    self._check_open()
    end = math.inf if timeout is None else time.monotonic() + timeout
    while True:
      self._assign()
      blocking = not self._events and self._owed()
      self._receive(end if blocking else 0.0)
      self._expire()
      self._assign()
      if self._events or not blocking or time.monotonic() >= end:
        events, self._events = self._events, []
        return events

  def close(self) -> None:
    """Ends all processes; environments that answer close themselves."""
    self._processes.close()

  def __enter__(self) -> 'WorkerPool':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  def _check_open(self) -> None:
    if not self._processes.alive:
      raise ValueError('expected an open pool, got a closed one')

  def _owed(self) -> bool:
    owing = {'busy', 'starting'} if self._queue else {'busy'}
    return any(worker.state in owing for _, worker in self._crew.present())

  def _start(self, index: int) -> None:
    worker = crew.Worker(self._processes.start())
    worker.expect(self._start_timeout)
    self._crew.workers[index] = worker

  def _assign(self) -> None:
    """Gives queued jobs to idle workers; starts missing workers for them."""
    if not self._queue:
      return
    for index in self._crew.free():
      if not self._queue:
        return
      worker = self._crew.workers[index]
      if worker is None:
        if self._crew.may_start(index):
          self._start(index)
      else:
        worker.job, worker.attempt = job, _ = self._queue.popleft()
        options = {'task_id': job.task_id, 'expert': job.expert}
        self._ask(worker, 'reset', {'seed': job.seed, 'options': options},
                  self._step_timeout if worker.warm else self._start_timeout)

  def _ask(self, worker: crew.Worker, command: str, argument: Any,
           limit: float) -> None:
    worker.state = 'busy'
    worker.expect(limit)
    self._processes.send(worker.serial, (command, argument))

  def _receive(self, end: float) -> None:
    """Handles all messages that are there; waits for one until `end`."""
    end = min([end, *(worker.deadline for _, worker in self._crew.present())])
    limit = None if end == math.inf else max(0.0, end - time.monotonic())
    received = self._processes.receive(limit)
    for index, worker in self._crew.present():
      if worker.serial not in received:
        continue
      messages = received[worker.serial]
      if messages is None:
        self._fail(index, worker, 'death', 'the worker process died')
      elif not messages:   # One is on its way.
        worker.expect(worker.limit)
      else:
        for message in messages:
          self._handle(index, worker, *message)

  def _handle(self, index: int, worker: crew.Worker, kind: str,
              *content: Any) -> None:
    if kind == 'started':
      worker.pid, = content
      worker.expect(self._start_timeout)
    elif kind == 'ready':
      worker.rest('idle')
      self._crew.any_ready = True
    elif kind == 'result':
      self._handle_result(index, worker, *content)
    else:
      name, message, text = content
      if kind == 'start_error' and not self._crew.any_ready and (
          not self._crew.another_can_play(index)):
        error = WorkerStartError(message, name)
        error.add_note(text)
        raise error
      kind = 'start' if kind == 'start_error' else 'exception'
      self._fail(index, worker, kind, f'{name}: {message}',
                 {'traceback': text})

  def _handle_result(self, index: int, worker: crew.Worker, observation: Any,
                     reward: float, done: bool, info: dict[str, Any]) -> None:
    if info.get('failure'):
      self._fail(index, worker, 'failure', str(info['failure']), info)
      return
    assert worker.job is not None
    kind = 'finished' if done else 'observation'
    self._events.append(Event(kind, worker.job, index, worker.attempt,
                              observation, reward, info))
    worker.warm = True
    worker.rest('idle' if done else 'waiting')
    self._crew.recovered(index)
    if done:
      worker.job = None

  def _expire(self) -> None:
    now = time.monotonic()
    for index, worker in self._crew.present():
      if worker.deadline <= now:
        self._fail(index, worker, 'hang', f'no answer for {worker.limit:g} s')

  def _fail(self, index: int, worker: crew.Worker, kind: str, message: str,
            info: dict[str, Any] | None = None) -> None:
    """Buries a worker; its job, or one that waits for it, is played again.

    If that is free, it comes to an end all the same: a worker that is not sick
    comes to the job at last, and for it the first time is not free.
    """
    self._failures[kind] += 1
    job, attempt = worker.job, worker.attempt
    if worker.state == 'starting' and self._queue and (
        not self._crew.another_can_play(index)):
      job, attempt = self._queue.popleft()
    if job is not None:
      free = not worker.warm and self._crew.is_sick(index) and (
          self._crew.another_is_well(index))
      again = free or attempt < self._max_retries
      if again:
        self._queue.append((job, attempt + (not free)))
      self._events.append(Event('failed' if again else 'lost', job, index,
                                attempt, info=info or {}, message=message))
    self._processes.kill(worker.serial)
    if worker.warm:
      self._start(index)
    else:
      self._crew.workers[index] = None
      self._crew.put_off(index)
