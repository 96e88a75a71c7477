"""Compares the methods on Desk with many seeds.

  python experiments/study/run.py
      --part=sweep|methods|drawn|groups|samplers|starts|lag|alternatives
          |browsers|report [--workdir=DIR] [--processes=n]

docs/study.md says what each part is for. Every run begins from the same warm
start, takes the same number of trajectories and optimiser steps, and is
evaluated on the same episodes at the same rounds. A run that is done is not
done again, so each part can be interrupted and resumed. `report` writes the
tables and the figures of the parts that are there.
"""

import argparse
from concurrent import futures
import functools
import multiprocessing
import os
import pathlib
import sys
import threading
from typing import Any

if __name__ in ('__main__', '__mp_main__'):  # a script, run from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import numpy as np
from rich import progress as rich_progress

from configs import osworld
from experiments import collectors
from experiments import rounds
from experiments import setups
from experiments import warm_start
from experiments import worlds
from experiments.study import alternatives
from experiments.study import browsers
from experiments.study import plan
from experiments.study import report
import step_jax
from step_jax.envs.desk import simulator
from step_jax.rollout import collect as collect_lib
from step_jax.runs import evaluation

_MASTERED = 0.8


def train_once(run: plan.Run, workdir: pathlib.Path) -> None:
  """Trains and evaluates one run, and writes its numbers."""
  setup, params, collect = make_setup(run, workdir)
  state = rounds.start(setup, params)
  evaluations, rows = [], []
  eval_every = plan.EVAL_EVERY * (2 if run.part == 'sweep' else 1)
  for round_index in range(plan.NUM_ROUNDS + 1):
    record = np.asarray(state.success_rate)
    if round_index % eval_every == 0:
      evaluations.append((
          *_evaluate(setup, state.learner.params, collect), record))
    if round_index == plan.NUM_ROUNDS:
      break
    state, row = rounds.play_round(setup, state, round_index, collect)
    succeeded = row['successes_per_task']
    rows.append([
        succeeded[record > _MASTERED].sum() / max(succeeded.sum(), 1),
        *(float(row[name]) for name in plan.ROUND_FIELDS)])
  greedy, sampled, records = map(np.array, zip(*evaluations))
  draws = _success(collect, state.learner.params, simulator.TASKS.names,
                   setup.config.eval_temperature, plan.GREEDY_EPISODES)
  path = workdir / run.path
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(f'.{os.getpid()}.npz')
  np.savez(partial, greedy=greedy, sampled=sampled, records=records,
           draws=draws, rounds=np.array(rows, np.float32))
  os.replace(partial, path)


def _evaluate(setup: Any, params: Any, collect: Any) -> tuple[Any, Any]:
  """Greedy and sampled success of the training tasks, `[N]` each.

  Of the instances that are trained on, or where there are none of fresh draws.
  """
  config, tasks = setup.config, setup.world.tasks
  fixed = config.env.episodes == 'fixed'
  return (
      _success(collect, params, tasks, config.eval_temperature,
               1 if fixed else plan.GREEDY_EPISODES, fixed=fixed),
      _success(collect, params, tasks, config.temperature,
               plan.SAMPLED_EPISODES, fixed=fixed))


def _success(collect: Any, params: Any, tasks: Any, temperature: float,
             episodes: int, fixed: bool = False) -> np.ndarray:
  """`[N]`: each task's share of solved episodes, the same for all runs."""
  player = collect_lib.Player(params, jax.random.key(0), temperature)
  solved, *_ = evaluation.play(
      tasks, player, functools.partial(collect, name=''), episodes=episodes,
      fixed=fixed)
  return solved.mean(axis=1)


def _config(method: str, seed: int) -> Any:
  config = osworld.get_config(method)
  config.seed = seed
  config.env.episodes = 'fixed'
  config.group_weight = 'sample'
  config.optimizer.decay_rounds = plan.NUM_ROUNDS
  config.optimizer.num_minibatches = plan.NUM_MINIBATCHES
  config.optimizer.entropy_bonus = 0.0
  return config


def make_setup(run: plan.Run, workdir: pathlib.Path) -> tuple[Any, Any, Any]:
  """The run's setup, where every run begins, and the collector.

  What runs have in common is compiled once in a process.
  """
  start = tuple(x for x in run.overrides
                if x[0].startswith(('policy.', 'warm_start.')))
  shared, params, collect = _shared(workdir, start)
  config = _config(run.method, run.seed)
  config.update_from_flattened_dict(dict(run.overrides))
  options = config.optimizer
  learner = _learner(
      workdir, start, options.learning_rate, options.importance_cap)
  return shared._replace(
      config=config, method=step_jax.METHODS[run.method],
      learner=learner), params, collect


@functools.cache
def _learner(workdir: pathlib.Path, start: tuple, learning_rate: float,
             importance_cap: float) -> Any:
  config = _config('step', 0)
  config.optimizer.learning_rate = learning_rate
  config.optimizer.importance_cap = importance_cap
  return setups.make_learner(config, _shared(workdir, start)[0].policy)


@functools.cache
def _shared(workdir: pathlib.Path, start: tuple) -> tuple[Any, Any, Any]:
  config = _config('step', 0)
  config.update_from_flattened_dict(dict(start))
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
  runs = plan.plan_runs(part, workdir)
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
    plan.choose_learning_rates(workdir)


def main() -> None:
  """Runs a part, or writes the report."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--part', required=True, choices=(
      *plan.PARTS, 'alternatives', 'browsers', 'report'))
  parser.add_argument('--workdir', type=pathlib.Path,
                      default=pathlib.Path('runs/study'))
  parser.add_argument('--processes', type=int, default=os.cpu_count())
  arguments = parser.parse_args()
  workdir = arguments.workdir.resolve()
  workdir.mkdir(parents=True, exist_ok=True)
  if arguments.part == 'report':
    report.write(workdir)
  elif arguments.part == 'alternatives':
    alternatives.measure(workdir, make_setup)
  elif arguments.part == 'browsers':
    browsers.run_part(workdir)
  else:
    run_part(arguments.part, workdir, arguments.processes)


if __name__ == '__main__':
  main()
