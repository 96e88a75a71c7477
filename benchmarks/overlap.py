"""What rounds that overlap gain, by the clock of the wall.

  python benchmarks/overlap.py

Rounds of 256 episodes of 5 steps in slow environments (a reset or step takes a
log-normal time of mean 20 ms, a policy call of 32 rows 2 ms), each of which is
then learned from for a fixed time, which is slept: what is measured is the
loop of `config.lag` itself, `collect` and `Ahead`, not a device that playing
and learning share. `ideal` is the longer of the two in every round; `lag 0`
and `lag 1` are its share that is reached, both sides measured in one run.
"""

import functools
import pathlib
import sys
import time

from absl import app
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks import stragglers  # noqa: E402
from experiments import ahead as ahead_lib  # noqa: E402
from step_jax.policies import base  # noqa: E402
from step_jax.rollout import collect as collect_lib  # noqa: E402
from step_jax.rollout import workers  # noqa: E402
from step_jax.rollout.actors import local  # noqa: E402

_EPISODES = 256
_LENGTH = 5
_MEAN = 0.02  # seconds
_CALL = 0.002  # seconds
_ROUNDS = 20


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


def play(num_workers: int, round_index: int) -> float:
  """Plays a round; returns its seconds."""
  started = time.monotonic()
  rng = np.random.default_rng(round_index)
  times = _MEAN * rng.lognormal(-.5, 1., (_EPISODES, _LENGTH + 1))
  collect_lib.collect(
      stragglers.Pool(num_workers, times, _Clock()),
      [workers.Job(slot, slot, 0) for slot in range(_EPISODES)],
      local.Immediate(_act), example=np.zeros(1, np.int32),
      codec=stragglers.CODEC, num_tokens=1, max_steps=_LENGTH, batch_size=32)
  return time.monotonic() - started


def run(num_workers: int, update: float, lag: int) -> tuple[float, float]:
  """Seconds of all rounds, and the longer part of each, summed."""
  started, ideal = time.monotonic(), 0.
  with ahead_lib.Ahead() as ahead:
    for index in range(_ROUNDS):
      played = ahead.take(index, functools.partial(play, num_workers, index))
      if lag and index + 1 < _ROUNDS:
        ahead.begin(index + 1, functools.partial(play, num_workers, index + 1))
      time.sleep(update)
      ideal += max(played, update)
  return time.monotonic() - started, ideal


def main(_):
  print('| environments | update, s | ideal, s | lag 0 | lag 1 |')
  print('|---|---|---|---|---|')
  for num_workers in (64, 128):
    for update in (.25, .5, .75):
      together, ideal = run(num_workers, update, 0)
      overlapped, _ = run(num_workers, update, 1)
      print(f'| {num_workers} | {update} | {ideal:.1f} '
            f'| {ideal / together:.2f} | {ideal / overlapped:.2f} |',
            flush=True)


if __name__ == '__main__':
  app.run(main)
