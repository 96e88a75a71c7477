"""Compares the methods on Desk with many seeds.

  python experiments/study.py --part=sweep|methods|thresholds|sampling|report
      [--workdir=DIR] [--processes=n]

`sweep` tunes the learning rate of every method with the same budget, on seeds
that nothing else uses, and `methods` trains each with ten seeds; `thresholds`
varies s_low, and `sampling` kappa, s_0 and the smoothing of s_hat. Every run
begins from the same warm start, takes the same number of trajectories and
optimiser steps, and is evaluated on the same episodes at the same rounds. A run
that is done is not done again, so each part can be interrupted and resumed.
`report` writes the tables and the figures.
"""

import argparse
from concurrent import futures
import functools
import itertools
import json
import multiprocessing
import os
import pathlib
import sys
import threading
from typing import Any, NamedTuple

if __name__ in ('__main__', '__mp_main__'):  # a script, run from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
from rich import progress as rich_progress

LEARNING_RATES = (3e-4, 1e-3, 2e-3)
SWEEP_SEEDS = (100, 101)
SEEDS = tuple(range(10))
FEWER_SEEDS = SEEDS[:5]
NUM_ROUNDS = 80  # 10 epochs of 128 tasks
NUM_MINIBATCHES = 4  # optimiser steps a round
EVAL_EVERY = 10  # rounds
GREEDY_EPISODES = 4  # a task, of all 369
SAMPLED_EPISODES = 8  # a training task, at the training temperature
LOW_THRESHOLDS = (0.6, 1.0)  # beside the 0.2 of `methods`
SAMPLING: tuple[dict[str, Any], ...] = (
    # beside kappa = 10, s_0 = 0.6 and adaptive smoothing
    {'sharpness': 5.0}, {'sharpness': 20.0}, {'threshold': 0.4},
    {'threshold': 0.8}, {'smoothing': 'ema', 'ema_decay': 0.5},
    {'smoothing': 'ema', 'ema_decay': 0.9})
ROUND_FIELDS = (  # columns of `rounds`, after the mastered share
    'success_rate', 'replaced_fraction', 'step_samples', 'augmented_steps',
    'environment_steps', 'optimizer_steps', 'rollout_seconds',
    'update_seconds', 'entropy', 'mean_abs_advantage')
_MASTERED = 0.8
_RATE = 'optimizer.learning_rate'


class Run(NamedTuple):
  """One training run and what differs from the config."""
  part: str
  method: str
  seed: int
  overrides: tuple[tuple[str, Any], ...]

  @property
  def path(self) -> str:
    changed = [f'{k.split(".")[-1]}={v:g}' if isinstance(v, float)
               else f'{k}={v}' for k, v in self.overrides]
    return os.path.join(
        self.part, ','.join([self.method, *changed]), f'{self.seed}.npz')


def plan(part: str, workdir: pathlib.Path) -> list[Run]:
  """The runs of a part, in the order in which they are done."""
  from step_jax.algorithm import credit
  if part == 'sweep':
    return [
        Run(part, method, seed, ((_RATE, rate),)) for method, rate, seed
        in itertools.product(credit.METHODS, LEARNING_RATES, SWEEP_SEEDS)]
  path = workdir / 'learning_rates.json'
  if not path.exists():
    sys.exit(f'{path} is missing; run --part=sweep first')
  rates = json.loads(path.read_text())
  if part == 'methods':
    return [Run(part, method, seed, ((_RATE, rates[method]),))
            for method, seed in itertools.product(credit.METHODS, SEEDS)]
  tuned = ((_RATE, rates['step']),)
  if part == 'thresholds':
    return [Run(part, 'step', seed, tuned + (('low_threshold', low),))
            for low, seed in itertools.product(LOW_THRESHOLDS, SEEDS)]
  return [Run(part, 'step', seed, tuned + tuple(changes.items()))
          for changes, seed in itertools.product(SAMPLING, FEWER_SEEDS)]


def train_once(run: Run, workdir: pathlib.Path) -> None:
  """Trains and evaluates one run, and writes its numbers."""
  import jax.numpy as jnp

  from experiments import rounds

  setup, params, collect = _setup(run, workdir)
  state = rounds.RunState(
      setup.learner.init(params), jnp.zeros(len(setup.world.tasks)))
  evaluations, rows = [], []
  eval_every = NUM_ROUNDS if run.part == 'sweep' else EVAL_EVERY
  for round_index in range(NUM_ROUNDS + 1):
    record = np.asarray(state.success_rate)
    if round_index % eval_every == 0:
      evaluations.append((
          *_evaluate(setup, state.learner.params, collect), record))
    if round_index == NUM_ROUNDS:
      break
    state, row = rounds.play_round(setup, state, round_index, collect)
    succeeded = row['successes_per_task']
    rows.append([
        succeeded[record > _MASTERED].sum() / max(succeeded.sum(), 1),
        *(float(row[name]) for name in ROUND_FIELDS)])
  greedy, sampled, records = map(np.array, zip(*evaluations))
  path = workdir / run.path
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(f'.{os.getpid()}.npz')
  np.savez(partial, greedy=greedy, sampled=sampled, records=records,
           rounds=np.array(rows, np.float32))
  os.replace(partial, path)


def _evaluate(setup: Any, params: Any, collect: Any) -> tuple[Any, Any]:
  """Greedy success of all 369 tasks, sampled success of the training tasks."""
  import jax

  from experiments import evaluate
  from step_jax.rollout import collect as collect_lib

  def success(num_tasks, episodes, temperature):
    player = collect_lib.Player(params, jax.random.key(0), temperature)
    solved, _ = evaluate.play(
        num_tasks, player, functools.partial(collect, name=''),
        episodes=episodes)
    return solved.mean(axis=1)

  return (
      success(_num_all_tasks(), GREEDY_EPISODES, setup.config.eval_temperature),
      success(len(setup.world.tasks), SAMPLED_EPISODES,
              setup.config.temperature))


def _config(method: str, seed: int) -> Any:
  from configs import osworld
  config = osworld.get_config(method)
  config.seed = seed
  config.optimizer.decay_rounds = NUM_ROUNDS
  config.optimizer.num_minibatches = NUM_MINIBATCHES
  return config


def _setup(run: Run, workdir: pathlib.Path) -> tuple[Any, Any, Any]:
  """The run's setup, where every run begins, and the collector.

  What runs have in common is compiled once in a process.
  """
  from step_jax.algorithm import credit

  shared, params, collect = _shared(workdir)
  config = _config(run.method, run.seed)
  config.update_from_flattened_dict(dict(run.overrides))
  learner = _learner(workdir, config.optimizer.learning_rate)
  return shared._replace(
      config=config, method=credit.METHODS[run.method],
      learner=learner), params, collect


@functools.cache
def _learner(workdir: pathlib.Path, learning_rate: float) -> Any:
  from experiments import setups
  config = _config('step', 0)
  config.optimizer.learning_rate = learning_rate
  return setups.make_learner(config, _shared(workdir)[0].policy)


@functools.cache
def _shared(workdir: pathlib.Path) -> tuple[Any, Any, Any]:
  import jax

  from experiments import collectors
  from experiments import setups
  from experiments import warm_start
  from experiments import worlds

  config = _config('step', 0)
  world = worlds.make_world(config)
  # Training tasks come first among all, so one simulator plays both.
  everything = worlds.make_world(config, 'all')
  setup = setups.make_setup(
      config, world._replace(simulator=everything.simulator))
  collect = collectors.simulated(setup)
  os.environ['XDG_CACHE_HOME'] = str(workdir / 'cache')
  params = warm_start.warm_start(
      config, setup.world, setup.policy,
      setup.policy.init(jax.random.key(config.seed)),
      functools.partial(collect, name=''),
      lambda line: None)
  return setup, jax.device_get(params), collect


def _num_all_tasks() -> int:
  from step_jax.envs.desk import simulator
  return len(simulator.TASKS.names)


def _begin(counter: Any) -> None:
  """Gives a process a core of its own, and ends it with the study."""
  with counter.get_lock():
    index, counter.value = counter.value, counter.value + 1
  cores = sorted(os.sched_getaffinity(0))
  os.sched_setaffinity(0, {cores[index % len(cores)]})  # before JAX starts
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def run_part(part: str, workdir: pathlib.Path, processes: int) -> None:
  """Does the runs of a part that are not done yet."""
  runs = plan(part, workdir)
  left = [run for run in runs if not (workdir / run.path).exists()]
  os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(workdir / 'cache'))
  context = multiprocessing.get_context('spawn')
  counter = context.Value('i', 0)
  with (futures.ProcessPoolExecutor(
            processes, context, _begin, (counter,)) as pool,
        rich_progress.Progress(
            *rich_progress.Progress.get_default_columns(),
            rich_progress.MofNCompleteColumn()) as bars):
    bar = bars.add_task(part, total=len(runs),
                        completed=len(runs) - len(left))
    try:
      for done in futures.as_completed(
          [pool.submit(train_once, run, workdir) for run in left]):
        done.result()
        bars.advance(bar)
    except BaseException:
      pool.shutdown(wait=False, cancel_futures=True)
      raise
  if part == 'sweep':
    choose_learning_rates(workdir)


def choose_learning_rates(workdir: pathlib.Path) -> None:
  """Writes the learning rate with the best final success for each method."""
  finals: dict[str, dict[float, list[float]]] = {}
  for run in plan('sweep', workdir):
    with np.load(workdir / run.path) as saved:
      final = saved['greedy'][-1, :saved['sampled'].shape[1]].mean()
    rates = finals.setdefault(run.method, {})
    rates.setdefault(run.overrides[0][1], []).append(float(final))
  best = {method: max(rates, key=lambda rate: np.mean(rates[rate]))
          for method, rates in finals.items()}
  (workdir / 'learning_rates.json').write_text(json.dumps(best, indent=2))
  (workdir / 'sweep.json').write_text(json.dumps(finals, indent=2))


def main() -> None:
  """Runs a part, or writes the report."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--part', required=True, choices=(
      'sweep', 'methods', 'thresholds', 'sampling', 'report'))
  parser.add_argument('--workdir', type=pathlib.Path,
                      default=pathlib.Path('runs/study'))
  parser.add_argument('--processes', type=int, default=os.cpu_count())
  arguments = parser.parse_args()
  workdir = arguments.workdir.resolve()
  workdir.mkdir(parents=True, exist_ok=True)
  if arguments.part == 'report':
    from experiments import study_report
    study_report.write(workdir)
  else:
    run_part(arguments.part, workdir, arguments.processes)


if __name__ == '__main__':
  main()
