"""Tests of the study: its plan, one small run, its statistics and report."""
import json

import numpy as np
import pytest

from configs import osworld
from experiments.study import plan
from experiments.study import report
from experiments.study import run as run_lib
import step_jax


@pytest.fixture(name='workdir')
def made_workdir(tmp_path):
  rates = dict.fromkeys(step_jax.METHODS, 3e-4) | {'step': 1e-3}
  (tmp_path / 'learning_rates.json').write_text(json.dumps(rates))
  return tmp_path


def _small_config(method, seed):
  config = osworld.get_config(method)
  config.seed = seed
  config.num_base_tasks = 2
  config.group_size = 4
  config.max_steps = 4
  config.policy.width = 8
  config.policy.num_layers = 1
  config.policy.num_heads = 1
  config.warm_start.demonstrations = 1
  config.warm_start.num_steps = 2
  return config


def test_every_run_has_a_file_of_its_own(workdir):
  runs = [run for part in ('sweep', 'methods', 'thresholds', 'sampling')
          for run in plan.plan_runs(part, workdir)]
  assert len({run.path for run in runs}) == len(runs)
  assert {run.method for run in runs} == set(step_jax.METHODS)
  for run in runs:
    assert (run.seed in plan.SWEEP_SEEDS) == (run.part == 'sweep')
  step = [run for run in runs if run.part == 'methods' and run.seed == 3
          and run.method == 'step']
  assert [dict(run.overrides)['optimizer.learning_rate'] for run in step] == [
      1e-3]


def test_a_part_without_learning_rates_says_what_to_do(tmp_path):
  with pytest.raises(SystemExit, match='run --part=sweep first'):
    plan.plan_runs('methods', tmp_path)


def test_a_run_writes_its_numbers_and_starts_where_all_start(
    workdir, monkeypatch):
  monkeypatch.setattr(run_lib, '_config', _small_config)
  monkeypatch.setattr(plan, 'NUM_ROUNDS', 2)
  monkeypatch.setattr(plan, 'EVAL_EVERY', 1)
  monkeypatch.setattr(plan, 'GREEDY_EPISODES', 1)
  monkeypatch.setattr(plan, 'SAMPLED_EPISODES', 1)
  monkeypatch.setenv('XDG_CACHE_HOME', str(workdir / 'cache'))
  runs = [plan.Run('methods', 'step_advantage_only', seed, (
      ('optimizer.learning_rate', 0.01),)) for seed in (0, 1)]
  for run in runs:
    run_lib.train_once(run, workdir)
  results, = report.load(workdir, 'methods').values()
  assert results.greedy.shape == (2, 3, 369)
  assert results.sampled.shape == results.records.shape == (2, 3, 128)
  assert results.rounds.shape == (2, 2, 1 + len(plan.ROUND_FIELDS))
  np.testing.assert_array_equal(results.greedy[0, 0], results.greedy[1, 0])
  assert not results.records[:, 0].any()  # s_hat begins at 0
  assert (results.field('environment_steps') >= 8).all()
  assert (results.field('replaced_fraction') == 0).all()


def test_the_mean_lies_in_its_interval():
  values = np.array([1., 2., 3., 4.])
  mean, low, high = report.interval(values)
  assert mean == 2.5 and 1 <= low < 2.5 < high <= 4
  assert report.interval(np.full(3, 7.)) == (7., 7., 7.)


def test_probability_of_improvement():
  # Pairs (3, 2), (3, 3), (1, 2), (1, 3): one win and one tie of four.
  found, low, high = report.probability_of_improvement(
      np.array([3., 1.]), np.array([2., 3.]))
  assert found == 1.5 / 4 and 0 <= low <= found <= high <= 1
  assert report.probability_of_improvement(
      np.array([2., 2.]), np.array([1., 0.])) == (1., 1., 1.)


def test_rounds_to_reach_are_interpolated():
  curve = np.array([0.2, 0.4, 0.3, 0.8])
  # Half way from the first evaluation to the second.
  assert report.rounds_to_reach(curve, 0.3) == pytest.approx(
      0.5 * plan.EVAL_EVERY)
  assert report.rounds_to_reach(curve, 0.1) == 0
  assert report.rounds_to_reach(curve, 0.9) is None


def test_claims_compare_runs_of_the_same_seed():
  def results(final):
    greedy = np.stack([np.zeros((2, 4)), np.repeat([final], 4, 0).T], axis=1)
    return report.Results(
        '', greedy, greedy[..., :2], greedy[..., :2], np.zeros((2, 3, 5)))

  one, other = results([0.5, 0.75]), results([0.25, 0.5])
  methods = dict.fromkeys(step_jax.METHODS, other) | {'step': one}
  lines = report._claims_table(
      methods, {'0.2': one, '0.6': other}).splitlines()
  # Every seed gains 25 points at the end, and half of it over two evaluations.
  gain = '25.0 [25.0, 25.0] | 25.0 [25.0, 25.0] | 12.5 [12.5, 12.5]'
  assert sum(gain in line for line in lines) == 5
  assert sum('`step_advantage_only` - `step_grpo` | 0.0 [0.0, 0.0]' in line
             for line in lines) == 1


def test_the_report_of_made_up_runs(workdir):
  rng = np.random.default_rng(0)
  evaluations = plan.NUM_ROUNDS // plan.EVAL_EVERY + 1
  for part in ('methods', 'thresholds', 'sampling'):
    for run in plan.plan_runs(part, workdir):
      path = workdir / run.path
      path.parent.mkdir(parents=True, exist_ok=True)
      np.savez(
          path, greedy=rng.random((evaluations, 369)),
          sampled=rng.random((evaluations, 128)),
          records=rng.random((evaluations, 128)),
          rounds=rng.random((plan.NUM_ROUNDS, 1 + len(plan.ROUND_FIELDS))))
  report.write(workdir)
  tables = (workdir / 'tables.md').read_text()
  for method in step_jax.METHODS:
    assert f'| `{method}` |' in tables
  for claim in report._CLAIMS:
    assert f'| {claim} |' in tables
  assert 'low_threshold=0.6' in tables and 'sharpness=20' in tables
  assert len(list(workdir.glob('*.png'))) == 5
