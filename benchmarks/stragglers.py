"""How near collecting comes to what slow environments allow, by our own clock.

  python benchmarks/stragglers.py

Episodes of 15 steps; a reset or step takes a log-normal time of mean 1 s and
the policy a fixed time a call of eight rows. Environments and policy are played
by a clock that jumps from event to event, so the numbers are those of the order
of events alone: no noise, no idle machine needed, nothing of what processes,
pickles and sockets cost.

The greedy bound gives each episode to the environment that is free first, each
action the time of a call and no waiting for one. Where the policy is too slow
for that many environments, all rows in full calls one after the other take
longer, and are the bound. 'together' answers all that wait before any action is
sent, as it once was; 'by call' sends the actions of each call, to those first
that have played least.
"""

import heapq
import pathlib
import sys

from absl import app
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from step_jax.policies import base  # noqa: E402
from step_jax.rollout import collect as collect_lib  # noqa: E402
from step_jax.rollout import workers  # noqa: E402
from step_jax.rollout.actors import local  # noqa: E402

_BATCH_SIZE = 8
_LENGTH = 15  # steps of an episode, about the paper's
_EPISODES = 2  # of each environment
_SIGMA = 1.  # of the logarithm of a time


class _Clock:
  now = 0.


class Pool:
  """Stands for a `WorkerPool` whose environments take their time."""

  num_failures = 0

  def __init__(self, num_workers, times, clock):
    self._times = times  # [task, reset and steps] seconds
    self._clock = clock
    self._queue = []
    self._idle = list(range(num_workers))
    self._due = []  # heap of (time, worker, job, steps)
    self._waiting = {}

  @property
  def pending(self):
    return len(self._queue) + len(self._due) + len(self._waiting)

  def submit(self, jobs):
    self._queue = list(jobs)[::-1] + self._queue

  def act(self, worker, action):
    del action
    job, steps = self._waiting.pop(worker)
    self._begin(worker, job, steps + 1)

  def wait(self, timeout):
    while self._idle and self._queue:
      self._begin(self._idle.pop(), self._queue.pop(), 0)
    if timeout and self._due:
      self._clock.now = max(self._clock.now, min(
          self._due[0][0], self._clock.now + timeout))
    events = []
    while self._due and self._due[0][0] <= self._clock.now:
      _, worker, job, steps = heapq.heappop(self._due)
      if steps == self._times.shape[1] - 1:
        self._idle.append(worker)
        events.append(workers.Event('finished', job, worker, 0))
      else:
        self._waiting[worker] = job, steps
        events.append(workers.Event(
            'observation', job, worker, 0, np.zeros(1, np.int32)))
    return events

  def _begin(self, worker, job, steps):
    due = self._clock.now + self._times[job.task_id, steps]
    heapq.heappush(self._due, (due, worker, job, steps))


def measure(num_workers: int, call_seconds: float, batch_size: int | None
            ) -> tuple[float, float, float]:
  """Seconds of a round, of the greedy bound, and of the policy alone."""
  rng = np.random.default_rng(0)
  shape = (num_workers * _EPISODES, _LENGTH + 1)
  times = rng.lognormal(-_SIGMA**2 / 2, _SIGMA, shape)
  clock = _Clock()

  def act(rows):
    clock.now += call_seconds * -(-len(rows.slots) // _BATCH_SIZE)
    shape = (len(rows.slots), 1)
    return base.ActionSample(np.zeros(shape, np.int32), np.zeros(
        shape, np.float32), np.ones(shape, bool))

  collect_lib.collect(
      Pool(num_workers, times, clock),
      [workers.Job(slot, slot, 0) for slot in range(len(times))],
      local.Immediate(act),
      example=np.zeros(1, np.int32), codec=CODEC, num_tokens=1,
      max_steps=_LENGTH, batch_size=batch_size)
  free = [0.] * num_workers
  for row in times:
    heapq.heapreplace(free, free[0] + row.sum() + _LENGTH * call_seconds)
  policy = -(-len(times) * _LENGTH // _BATCH_SIZE) * call_seconds
  return clock.now, max(free), policy


class CODEC:
  """Shows what is seen, remembers nothing."""

  empty_history = 0
  observe = staticmethod(lambda observation, info, history: observation)
  remember = staticmethod(lambda history, row, tokens: 0)
  decode = staticmethod(lambda row, tokens: tokens)


def main(_):
  print('| environments | policy, ms | greedy, s | policy alone, s '
        '| together, share of the larger | by call |')
  print('|---|---|---|---|---|---|')
  for num_workers in (8, 32, 128):
    for call_seconds in (0., .04, .1):
      together, greedy, policy = measure(num_workers, call_seconds, None)
      by_call, _, _ = measure(num_workers, call_seconds, _BATCH_SIZE)
      bound = max(greedy, policy)
      print(f'| {num_workers} | {1000 * call_seconds:.0f} | {greedy:.1f} '
            f'| {policy:.1f} | {bound / together:.2f} '
            f'| {bound / by_call:.2f} |', flush=True)


if __name__ == '__main__':
  app.run(main)
