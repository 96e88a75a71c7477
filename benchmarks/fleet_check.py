"""Small rounds in real processes beside what `fleet_model` predicts.

  python benchmarks/fleet.py --check
"""

from concurrent import futures
import functools
import time

import gymnasium
import numpy as np

from benchmarks import fleet_model
from benchmarks import stragglers
from step_jax.policies import base
from step_jax.rollout import ahead as ahead_lib
from step_jax.rollout import closing
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import local

_STEPS = 5
_ROUNDS = 4
_MEAN = .1  # seconds of a reset or step


def seconds(mean: float, seed: int, operation: int) -> float:
  """What a reset (0) or a step of the episode of a seed takes."""
  rng = np.random.default_rng([seed, operation])
  return mean * rng.lognormal(-.5, 1.)


class SleepingEnv(gymnasium.Env):
  """Takes its time; seed 0 takes none."""
  observation_space = gymnasium.spaces.Box(0, 1, [1], np.int32)
  action_space = gymnasium.spaces.Discrete(1)

  def __init__(self, mean: float):
    self._mean = mean

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._seed, self._operation = seed, 0
    return self._wait(), {}

  def step(self, action):
    self._operation += 1
    done = self._operation == _STEPS
    return self._wait(), 0., done, False, {}

  def _wait(self):
    if self._seed:
      time.sleep(seconds(self._mean, self._seed, self._operation))
    return np.zeros(1, np.int32)


def _sample(rows):
  shape = (len(rows.slots), 1)
  return base.ActionSample(np.zeros(shape, np.int32), np.zeros(
      shape, np.float32), np.ones(shape, bool))


class _Servers(local.Immediate):
  """An actor elsewhere, which answers so many rows at once."""

  def __init__(self, channels: int, answer: float):
    super().__init__(_sample)
    self._pool = futures.ThreadPoolExecutor(channels)
    self._answer_seconds = answer
    self._asked: list = []

  def submit(self, rows: actors.Rows, **options):
    """See `Actor`."""
    tickets = super().submit(rows, **options)
    answers, self._answers = self._answers, []
    self._asked += [(self._pool.submit(time.sleep, self._answer_seconds), one)
                    for one in answers]
    return tickets

  def receive(self, timeout: float):
    """See `Actor`."""
    futures.wait([future for future, _ in self._asked], timeout,
                 futures.FIRST_COMPLETED)
    done = [one for future, one in self._asked if future.done()]
    self._asked = [one for one in self._asked if not one[0].done()]
    return done


def measure(fleet: fleet_model.Fleet, num_rounds: int = _ROUNDS,
            mean: float = _MEAN) -> float:
  """Seconds of rounds of `SleepingEnv` by `collect`, `Ahead` and processes."""
  def act(rows):
    time.sleep(fleet.answer)
    return _sample(rows)

  actor = local.Immediate(act) if fleet.is_local else _Servers(
      fleet.channels, fleet.answer)
  left = closing.Stragglers(fleet.close_at, fleet.close_after)
  with workers.WorkerPool(
      functools.partial(SleepingEnv, mean), num_workers=fleet.environments,
      step_timeout=60.) as pool:
    play = functools.partial(
        collect_lib.collect, pool, example=np.zeros(1, np.int32),
        codec=stragglers.CODEC, num_tokens=1, max_steps=_STEPS,
        batch_size=fleet.batch if fleet.is_local else None)
    play([workers.Job(slot, 0, 0) for slot in range(4 * fleet.environments)],
         local.Immediate(_sample))  # all have started then

    def play_round(index):
      return play(
          [workers.Job(slot, 0, 1 + index * fleet.slots + slot)
           for slot in range(fleet.slots)], actor, stragglers=left,
          closes=index + 1 < num_rounds)

    started = time.monotonic()
    with ahead_lib.Ahead() as ahead:
      for index in range(num_rounds):
        ahead.take(index, functools.partial(play_round, index))
        if fleet.lag and index + 1 < num_rounds:
          ahead.begin(index + 1, functools.partial(play_round, index + 1))
        time.sleep(fleet.update)
    return time.monotonic() - started


def make_fleet(
    environments: int, mean: float = _MEAN, **changes) -> fleet_model.Fleet:
  """Two episodes a round for each environment, learned from for 1 s."""
  return fleet_model.Fleet(**{
      'environments': environments, 'slots': 2 * environments,
      'steps': _STEPS, 'update': 1.,
      'latency': lambda episode, operation: seconds(
          mean, 1 + episode, operation)
  } | changes)


def show() -> None:
  """Prints both sides."""
  print('| environments | policy | lag | close_at | measured, s | predicted, s '
        '| predicted / measured |')
  print('|---|---|---|---|---|---|---|')
  calls = {'is_local': True, 'batch': 8, 'answer': .02}
  servers = {'channels': 4, 'answer': .1}
  for environments in (8, 32):
    for name, policy in (('calls of 8 rows, 20 ms', calls),
                         ('4 servers, 100 ms a row', servers)):
      for lag in (0, 1):
        for close_at in (1., .9):
          fleet = make_fleet(
              environments, lag=lag, close_at=close_at, **policy)
          measured = measure(fleet)
          predicted = fleet_model.predict(fleet, _ROUNDS).seconds
          print(f'| {environments} | {name} | {lag} | {close_at} '
                f'| {measured:.1f} | {predicted:.1f} '
                f'| {predicted / measured:.2f} |', flush=True)
