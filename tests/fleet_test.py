"""Tests of the model of a round, against sums by hand and the loop itself."""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import fleet_check
from benchmarks import fleet_model
from benchmarks import stragglers
from step_jax.rollout import closing
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.rollout.actors import local


def test_one_environment_by_hand():
  """2 episodes of a reset of 4 s and 3 steps of 1 s, answers of 0.5 s."""
  fleet = fleet_model.Fleet(
      environments=1, slots=2, steps=3, answer=.2, delay=.3, update=2.,
      latency=lambda episode, operation: 1. if operation else 4.)
  result = fleet_model.predict(fleet, 2)
  playing = 2 * (4 + 3 * (.5 + 1))
  assert result.rollout == pytest.approx(2 * playing)
  assert result.seconds == pytest.approx(2 * (playing + 2))
  assert result.environments == pytest.approx(1 - 14 / (playing + 2))
  assert result.channels == pytest.approx(1 - 6 * .2 / (playing + 2))
  assert result.learner == pytest.approx(1 - 2 / (playing + 2))
  assert result.closed == result.lost == 0
  overlapped = fleet_model.predict(dataclasses.replace(fleet, lag=1), 2)
  assert overlapped.seconds == pytest.approx(2 * playing + 2)
  slow = dataclasses.replace(fleet, lag=1, update=100.)
  assert fleet_model.predict(slow, 2).seconds == pytest.approx(playing + 200)
  # Both environments wait for one channel; with two they do not.
  both = dataclasses.replace(fleet, environments=2)
  assert fleet_model.predict(both, 1).rollout == pytest.approx(4 + 4.5 + .2)
  both = dataclasses.replace(both, channels=2)
  assert fleet_model.predict(both, 1).rollout == pytest.approx(4 + 4.5)


def test_what_breaks_is_played_again_or_lost():
  fleet = fleet_model.Fleet(
      environments=4, slots=40, steps=3, latency=lambda *_: 1., failure=.1,
      restart=5.)
  result = fleet_model.predict(fleet, 5)
  share = 1 - .9**4  # of attempts; three of them are all there are
  assert result.lost == pytest.approx(share**3, abs=.04)
  whole = dataclasses.replace(fleet, failure=0.)
  assert result.seconds > 1.2 * fleet_model.predict(whole, 5).seconds
  assert fleet_model.predict(whole, 5).lost == 0


class _Clock:
  now = 0.

  def __call__(self):
    return self.now


def _by_the_loop(fleet, times, num_rounds):
  """`collect` by a clock that jumps: seconds, and slots that were left."""
  clock, closed = _Clock(), 0
  pool = stragglers.Pool(fleet.environments, times, clock)
  left = closing.Stragglers(fleet.close_at, fleet.close_after, clock)

  def act(rows):
    clock.now += fleet.answer
    return fleet_check._sample(rows)

  for number in range(num_rounds):
    collection = collect_lib.collect(
        pool, [workers.Job(slot, number * fleet.slots + slot, 0)
               for slot in range(fleet.slots)], local.Immediate(act),
        example=np.zeros(1, np.int32), codec=stragglers.CODEC, num_tokens=1,
        max_steps=fleet.steps, batch_size=fleet.batch, stragglers=left,
        closes=number + 1 < num_rounds)
    closed += collection.closed_slots
    clock.now += fleet.update
  return clock.now, closed / (num_rounds * fleet.slots)


@pytest.mark.parametrize('environments', [6, 24])
@pytest.mark.parametrize('answer', [0., .05, .4])
@pytest.mark.parametrize('close_at, close_after', [(1., 0.), (.9, .5)])
def test_it_takes_what_the_loop_takes(
    environments, answer, close_at, close_after):
  times = np.random.default_rng(1).lognormal(-.5, 1., (3 * 24, 6))
  fleet = fleet_model.Fleet(
      environments=environments, slots=24, steps=5, batch=4, answer=answer,
      update=2., is_local=True,
      latency=lambda episode, operation: times[episode, operation],
      close_at=close_at, close_after=close_after)
  result = fleet_model.predict(fleet, 3)
  seconds, closed = _by_the_loop(fleet, times, 3)
  assert result.seconds == pytest.approx(seconds, rel=.03)
  assert (closed > 0) == (result.closed > 0) == (close_at < 1)
  assert result.closed == pytest.approx(closed, abs=.03)


def test_real_processes_are_not_faster_than_the_model():
  for policy in ({'is_local': True, 'batch': 2, 'answer': .005},
                 {'channels': 2, 'answer': .01}):
    fleet = fleet_check.make_fleet(
        2, mean=.01, update=.02, lag=1, close_at=.7, **policy)
    assert fleet_check.measure(fleet, 2, mean=.01) > .9 * fleet_model.predict(
        fleet, 2).seconds


def test_more_of_a_thing_is_no_loss():
  few = fleet_model.Fleet(
      environments=8, slots=32, steps=4, answer=.1, update=5.,
      latency=fleet_model.make_latency(
          4 * 32, 4, step=1., reset=3., sigma=.5, found=[.5, 1.5]))
  seconds = {name: fleet_model.predict(one, 4).seconds
             for name, one in fleet_model.others(few).items()}
  asked = seconds.pop('as asked')
  assert all(.5 * asked <= one < 1.02 * asked for one in seconds.values())


def test_the_command_prints_a_line_for_each_thing(tmp_path):
  (tmp_path / 'seconds').write_text('1\n1\n')
  table = subprocess.run(
      [sys.executable, pathlib.Path(fleet_model.__file__).with_name('fleet.py'),
       '--environments=2', '--slots=2', '--steps=2', '--rounds=2', '--sigma=0',
       '--reset=5', '--update=3', '--response=0', '--reads=1500',
       f'--latencies={tmp_path / "seconds"}'],
      capture_output=True, text=True, check=True).stdout.splitlines()
  assert len(table) == 2 + 6
  # After resets of 5 s answers of 1 s, one after the other, and steps of 1 s.
  assert table[2].split('|')[1:4] == [' as asked ', ' 13 ', ' 10 ']
