"""Tests of collecting by two benchmarks, made small."""

from benchmarks import fault_storm
from benchmarks import stragglers
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
