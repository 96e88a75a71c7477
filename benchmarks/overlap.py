"""What rounds that overlap, and that close early, gain by the wall's clock.

  python benchmarks/overlap.py

Rounds of 256 episodes of 5 steps in slow environments (a reset or step takes a
log-normal time of mean 20 ms, a policy call of 32 rows 2 ms), each of which is
then learned from for a fixed time, which is slept: what is measured is the
loop of `config.lag` itself, `collect` and `Ahead`, not a device that playing
and learning share. Closing, a round waits for 95 % of its slots and no second
longer (`close_at=0.95`, `close_after=0`), and the last round for all.

`ideal` is the longer of playing, all of it, and learning in every round, as
lag 0 took for them; `busy` the longer of learning and what playing takes of
environments that never stand still, all their seconds by their number. All else
are shares of the ideal that are reached, all sides measured in one run; with
closing they may be above 1. `closed` is the share of slots that were left, with
a lag.
"""

import functools
import pathlib
import sys
import time
from typing import NamedTuple

from absl import app
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import stragglers  # noqa: E402
from step_jax.policies import base  # noqa: E402
from step_jax.rollout import ahead as ahead_lib  # noqa: E402
from step_jax.rollout import closing  # noqa: E402
from step_jax.rollout import collect as collect_lib  # noqa: E402
from step_jax.rollout import workers  # noqa: E402
from step_jax.rollout.actors import local  # noqa: E402

_EPISODES = 256
_LENGTH = 5
_MEAN = 0.02  # seconds
_CALL = 0.002  # seconds
_ROUNDS = 20
_CLOSE_AT = .95


class _Clock:
  """The wall's; to set it is to wait."""

  @property
  def now(self) -> float:
    return time.monotonic()

  @now.setter
  def now(self, due: float) -> None:
    time.sleep(max(0., due - time.monotonic()))


def _act(rows):
  time.sleep(_CALL)
  shape = (len(rows.slots), 1)
  return base.ActionSample(np.zeros(shape, np.int32), np.zeros(
      shape, np.float32), np.ones(shape, bool))


class Result(NamedTuple):
  """All rounds."""
  seconds: float
  ideal: float  # of these, the longer part of each round
  busy: float  # seconds, if no environment ever stood still
  closed: float  # share of the slots


def run(num_workers: int, update: float, lag: int, close_at: float = 1.
        ) -> Result:
  """Plays all rounds and learns from them."""
  times = _MEAN * np.random.default_rng(0).lognormal(
      -.5, 1., (_ROUNDS * _EPISODES, _LENGTH + 1))
  pool = stragglers.Pool(num_workers, times, _Clock())
  left = closing.Stragglers(close_at, 0.)

  def play(index):
    started = time.monotonic()
    collection = collect_lib.collect(
        pool, [workers.Job(slot, index * _EPISODES + slot, 0)
               for slot in range(_EPISODES)],
        local.Immediate(_act), example=np.zeros(1, np.int32),
        codec=stragglers.CODEC, num_tokens=1, max_steps=_LENGTH, batch_size=32,
        stragglers=left, closes=index + 1 < _ROUNDS)
    return time.monotonic() - started, collection.closed_slots

  started, ideal, closed = time.monotonic(), 0., 0
  with ahead_lib.Ahead() as ahead:
    for index in range(_ROUNDS):
      played, open_slots = ahead.take(index, functools.partial(play, index))
      if lag and index + 1 < _ROUNDS:
        ahead.begin(index + 1, functools.partial(play, index + 1))
      time.sleep(update)
      ideal += max(played, update)
      closed += open_slots
  of_rounds = times.reshape(_ROUNDS, -1).sum(axis=1) / num_workers
  return Result(
      time.monotonic() - started, ideal, np.maximum(of_rounds, update).sum(),
      closed / (_ROUNDS * _EPISODES))


def main(_):
  print('| environments | update, s | busy, s | ideal, s | lag 0 | lag 1 '
        '| lag 0, closing | lag 1, closing | closed |')
  print('|---|---|---|---|---|---|---|---|---|')
  for num_workers in (64, 128):
    for update in (.25, .5, .75):
      results = [run(num_workers, update, lag, close_at)
                 for close_at in (1., _CLOSE_AT) for lag in (0, 1)]
      ideal = results[0].ideal
      shares = ' | '.join(f'{ideal / one.seconds:.2f}' for one in results)
      print(f'| {num_workers} | {update} | {results[0].busy:.1f} '
            f'| {ideal:.1f} | {shares} | {results[-1].closed:.3f} |',
            flush=True)


if __name__ == '__main__':
  app.run(main)
