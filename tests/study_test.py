"""Tests of the study: its plan, one small run, its statistics and report."""
import json

import jax
import numpy as np
import pytest

from configs import osworld
from experiments.study import alternatives
from experiments.study import browsers
from experiments.study import plan
from experiments.study import report
from experiments.study import results as results_lib
from experiments.study import run as run_lib
import step_jax
import step_jax.envs.desk.env  # noqa: F401  (reads all names in time)
from step_jax.envs.desk import simulator
from step_jax.policies import element


@pytest.fixture(name='workdir')
def made_workdir(tmp_path):
  rates = dict.fromkeys(step_jax.METHODS, 3e-4) | {'step': 1e-3}
  (tmp_path / 'learning_rates.json').write_text(json.dumps(rates))
  return tmp_path


def _small_config(method, seed):
  config = osworld.get_config(method)
  config.seed = seed
  config.num_base_tasks = 8
  config.group_size = 16  # as many slots as tasks: one compilation
  config.max_steps = 10
  config.group_weight = 'sample'
  config.env.episodes = 'fixed'
  config.policy.width = 16
  config.policy.num_layers = 1
  config.policy.num_heads = 1
  config.warm_start.demonstrations = 1
  config.warm_start.num_steps = 100  # some episodes succeed
  return config


def test_every_run_has_a_file_of_its_own(workdir):
  runs = [run for part in plan.PARTS for run in plan.plan_runs(part, workdir)]
  assert len({run.path for run in runs}) == len(runs)
  assert {run.method for run in runs} == set(step_jax.METHODS)
  for run in runs:
    assert (run.seed in plan.SWEEP_SEEDS) == (run.part == 'sweep')
  step = [run for run in runs if run.part == 'methods' and run.seed == 3
          and run.method == 'step']
  assert [dict(run.overrides)['optimizer.learning_rate'] for run in step] == [
      1e-3]


def test_every_sampler_meets_every_advantage_once(workdir):
  runs = [run for part in ('methods', 'samplers')
          for run in plan.plan_runs(part, workdir) if run.seed == 0]
  cells = {(method, sampler) for method in plan.CREDITS.values()
           for sampler in plan.SAMPLERS}
  there = {(method, sampler) for method, sampler in cells
           if plan.method_of(method, sampler)}
  assert len(there) == 4  # of the methods themselves
  assert sum(run.part == 'samplers' for run in runs) == len(cells - there)


def test_a_part_without_learning_rates_says_what_to_do(tmp_path):
  with pytest.raises(SystemExit, match='run --part=sweep first'):
    plan.plan_runs('methods', tmp_path)


def test_the_area_is_that_of_a_line():
  # 0, 1, ..., 8 has the mean 4, and so has the first half of its double.
  line = np.arange(9.)
  np.testing.assert_allclose(plan.area(np.stack([line, 2 * line])), [4, 8])
  # A peak counts twice what it would at an end.
  assert plan.area(np.array([0., 6, 0])) == 3
  assert plan.area(np.array([6., 0, 0])) == 1.5


def test_the_rate_with_the_largest_area_is_chosen(workdir):
  for run in plan.plan_runs('sweep', workdir):
    path = workdir / run.path
    path.parent.mkdir(parents=True, exist_ok=True)
    solved = run.overrides[0][1] == (2e-3 if run.method == 'rloo' else 3e-4)
    np.savez(path, sampled=np.full((3, 4), float(solved)))
  plan.choose_learning_rates(workdir)
  chosen = json.loads((workdir / 'learning_rates.json').read_text())
  assert chosen == dict.fromkeys(step_jax.METHODS, 3e-4) | {'rloo': 2e-3}


@pytest.mark.slow
def test_a_run_writes_its_numbers_and_groups_are_looked_at(
    workdir, monkeypatch):
  monkeypatch.setattr(run_lib, '_config', _small_config)
  names = simulator.TASKS.names
  monkeypatch.setattr(
      simulator, 'TASKS', simulator.TASKS._replace(names=names[:128]))
  monkeypatch.setattr(plan, 'NUM_ROUNDS', 1)
  monkeypatch.setattr(plan, 'EVAL_EVERY', 1)
  monkeypatch.setattr(plan, 'GREEDY_EPISODES', 1)
  monkeypatch.setattr(plan, 'SAMPLED_EPISODES', 1)
  monkeypatch.setenv('XDG_CACHE_HOME', str(workdir / 'cache'))
  run, = [run for run in plan.plan_runs('methods', workdir)
          if (run.method, run.seed) == ('step', 0)]
  run_lib.train_once(run, workdir)
  results, = results_lib.load(workdir, 'methods').values()
  assert results.greedy.shape == results.sampled.shape == (1, 2, 128)
  assert results.draws.shape == (1, 128)
  assert results.rounds.shape == (1, 1, 1 + len(plan.ROUND_FIELDS))
  assert not results.records[:, 0].any()  # s_hat begins at 0
  assert (results.field('environment_steps') >= 8).all()
  setup, params, collect = run_lib.make_setup(run, workdir)
  rows = np.array(alternatives._look(setup, params, collect))
  augmented = results.field('augmented_steps')[0, 0]
  assert len(rows) == augmented > 0
  rounds, record, matching, _, original, right, others = rows.T
  assert not rounds.any() and (record <= 0.2).all()
  np.testing.assert_array_equal(matching + others, 16 // 2)
  assert set(original) <= {0, 1} and (right <= others).all()


def test_what_is_right_brings_the_end_nearer():
  task, seed = np.int32(0), np.int32(5)
  solve, step_once = jax.jit(simulator.solve), jax.jit(simulator.step)
  state, _ = jax.jit(simulator.reset)(jax.random.key(seed), task)
  left, solution = int(alternatives.steps_left(state)), []
  for _ in range(left):
    solution.append(np.asarray(solve(state)))
    state, _, reward, done = step_once(state, solution[-1])
  assert done and reward == 1
  actions = np.zeros((simulator.MAX_STEPS, 3), np.int32)
  actions[:left] = solution
  fail = np.array([len(element.VERBS) - 1, 0, 0], np.int32)
  up = np.array([2, 0, 0], np.int32)  # scrolls nothing at the top
  for step in range(left):
    np.testing.assert_array_equal(alternatives.are_right(
        task, seed, actions, np.int32(step),
        np.stack([solution[step], fail, up])), [True, False, False])


def test_the_mean_lies_in_its_interval():
  values = np.array([1., 2., 3., 4.])
  mean, low, high = results_lib.interval(values)
  assert mean == 2.5 and 1 <= low < 2.5 < high <= 4
  assert results_lib.interval(np.full(3, 7.)) == (7., 7., 7.)


def test_differences_are_of_the_same_seed():
  one, other = np.array([1., 5., 9.]), np.array([0., 4., 8., 100.])
  assert results_lib.difference(one, other) == (1., 1., 1.)


def _made_up(num_seeds=2, **changes):
  rng = np.random.default_rng(0)
  evaluations = plan.NUM_ROUNDS // plan.EVAL_EVERY + 1
  numbers = {
      'greedy': rng.random((num_seeds, evaluations, 128)),
      'sampled': rng.random((num_seeds, evaluations, 128)),
      'records': rng.random((num_seeds, evaluations, 128)),
      'draws': rng.random((num_seeds, 369)),
      'rounds': rng.random((
          num_seeds, plan.NUM_ROUNDS, 1 + len(plan.ROUND_FIELDS)))}
  return results_lib.Results(**numbers | changes)


def test_environment_steps_until_a_level_are_interpolated():
  evaluations = plan.NUM_ROUNDS // plan.EVAL_EVERY + 1
  curve = np.minimum(np.arange(evaluations) / 4, 1.)  # 0, .25, .5, ...
  rounds = np.zeros((2, plan.NUM_ROUNDS, 1 + len(plan.ROUND_FIELDS)))
  rounds[..., 1 + plan.ROUND_FIELDS.index('environment_steps')] = 100
  results = _made_up(
      greedy=np.broadcast_to(curve[:, None], (2, evaluations, 128)),
      rounds=rounds)
  # .375 is half way from the first evaluation to the second after training.
  assert results_lib.steps_until(results, 0.375) == pytest.approx(
      100 * plan.EVAL_EVERY * 1.5)
  assert results_lib.steps_until(results, 0.) == 0
  assert results_lib.steps_until(results, 1.1) is None


def test_claims_compare_runs_of_the_same_seed():
  evaluations = plan.NUM_ROUNDS // plan.EVAL_EVERY + 1

  def results(finals):
    greedy = np.zeros((2, evaluations, 128))
    greedy[:, -1] = np.array(finals)[:, None]
    return _made_up(greedy=greedy)

  methods = dict.fromkeys(step_jax.METHODS, results([0.25, 0.5])) | {
      'step': results([0.5, 0.75])}
  lines = report._claims_table(methods).splitlines()
  gain = '| 0.0 [0.0, 0.0] | 25.0 [25.0, 25.0] | 0.0 [0.0, 0.0] |'
  assert [gain in line for line in lines].count(True) == 4
  assert sum('`step_advantage_only` - `step_grpo` | 0.0 [0.0, 0.0]' in line
             for line in lines) == 1


def test_the_report_of_made_up_runs(workdir, capsys):
  with pytest.raises(SystemExit, match='run --part=methods first'):
    report.write(workdir)
  made = _made_up(1)
  for part in plan.PARTS[1:]:
    for run in plan.plan_runs(part, workdir):
      if run.seed < 2:
        path = workdir / run.path
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{
            name: value[0] for name, value in made._asdict().items()})
  np.savez(workdir / 'alternatives.npz', rows=np.ones((3, 7)))
  report.write(workdir)
  tables = (workdir / 'tables.md').read_text()
  for method in step_jax.METHODS:
    assert f'| `{method}` |' in tables
  for claim in report._CLAIMS:
    assert f'| {claim} |' in tables
  for part in ('low_threshold=0.6', 'episodes=drawn', 'A better start', 'lag=1',
               'A larger network', '| `frontier` |', 'not run'):
    assert (part in tables) == (part not in ('episodes=drawn', 'not run'))
  assert len(list(workdir.glob('*.png'))) == 3


def _browser_run(workdir, method, seed, rates):
  folder = workdir / 'browsers' / method / str(seed)
  folder.mkdir(parents=True)
  (folder / 'initial_evaluation.json').write_text(json.dumps({
      'a': {'success_rate': .75, 'episodes': 8},
      'b': {'success_rate': .25, 'episodes': 8}}))
  rows = [{'environment_steps': 10, 'environment_failures': 1}
          for _ in range(browsers.NUM_ROUNDS)]
  for row, rate in zip(rows[7::8], rates):
    row |= {'eval_success_rate': rate, 'eval_tasks_above_60': round(2 * rate)}
  (folder / 'metrics.jsonl').write_text(
      ''.join(json.dumps(row) + '\n' for row in rows))


def test_runs_in_browsers_are_told_once_both_seeds_are_there(tmp_path):
  _browser_run(tmp_path, 'step', 0, (.5, 1., 1.))
  assert browsers.load(tmp_path) == {}
  _browser_run(tmp_path, 'step', 1, (.5, .5, .5))
  found = browsers.load(tmp_path)
  np.testing.assert_array_equal(
      found['step']['above_60'], [[1, 1, 2, 2], [1, 1, 1, 1]])
  np.testing.assert_array_equal(
      found['step']['success'], [[50, 50, 100, 100], [50, 50, 50, 50]])
  # Trapezoids of three equal parts: (1 + 1.5 + 2) / 3, and 1.
  assert '| `step` | 1.5, 1 | 1, 1, 2, 2; 1, 1, 1, 1 |' in (
      report._browsers_table(found))
  assert '| 240, 240 | 24, 24 |' in report._browsers_table(found)
