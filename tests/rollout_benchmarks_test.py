"""Tests of collecting by two benchmarks, made small."""

from benchmarks import fault_storm
from benchmarks import overlap
from benchmarks import stragglers
from step_jax.rollout import ahead as ahead_lib
from step_jax.rollout import crew


def test_a_round_survives_a_storm(monkeypatch):
  """It compares counts, s_hat and advantages with those of survivors alone."""
  monkeypatch.setattr(crew, '_MIN_PAUSE', .01)
  monkeypatch.setattr(crew, '_MAX_PAUSE', .02)
  result = fault_storm.fake(1)
  assert 0 < result['survived'] <= result['trajectories'] == 24
  assert result['failures']['exception'] > 3


def test_slow_environments_are_near_what_they_allow():
  """By a clock that jumps: these are not times of this machine."""
  seconds, *bounds = stragglers.measure(128, .1, 8)
  assert .9 < max(bounds) / seconds <= 1


def test_overlapping_rounds_take_less_than_one_after_the_other(monkeypatch):
  """By counts, not by the clock: what is played begins before it is taken."""
  events, begin = [], ahead_lib.Ahead.begin
  monkeypatch.setattr(overlap, '_ROUNDS', 3)
  monkeypatch.setattr(overlap, '_EPISODES', 4)
  monkeypatch.setattr(
      ahead_lib.Ahead, 'begin',
      lambda self, index, play: (events.append(index), begin(
          self, index, play)))
  monkeypatch.setattr(overlap, '_MEAN', .002)
  for lag, begun in ((0, []), (1, [1, 2])):
    for close_at in (1., .5):
      events.clear()
      result = overlap.run(2, 0., lag, close_at)
      assert events == begun and 0 < result.ideal <= result.seconds
      assert (result.closed > 0) == (close_at < 1)
      assert result.seconds > result.busy > 0  # All of it was played.
