"""What the study runs: its settings, and the runs of each part."""

import itertools
import json
import os
import pathlib
import sys
from typing import Any, NamedTuple

import numpy as np

import step_jax

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


def plan_runs(part: str, workdir: pathlib.Path) -> list[Run]:
  """The runs of a part, in the order in which they are done."""
  if part == 'sweep':
    return [
        Run(part, method, seed, ((_RATE, rate),)) for method, rate, seed
        in itertools.product(step_jax.METHODS, LEARNING_RATES, SWEEP_SEEDS)]
  path = workdir / 'learning_rates.json'
  if not path.exists():
    sys.exit(f'{path} is missing; run --part=sweep first')
  rates = json.loads(path.read_text())
  if part == 'methods':
    return [Run(part, method, seed, ((_RATE, rates[method]),))
            for method, seed in itertools.product(step_jax.METHODS, SEEDS)]
  tuned = ((_RATE, rates['step']),)
  if part == 'thresholds':
    return [Run(part, 'step', seed, tuned + (('low_threshold', low),))
            for low, seed in itertools.product(LOW_THRESHOLDS, SEEDS)]
  return [Run(part, 'step', seed, tuned + tuple(changes.items()))
          for changes, seed in itertools.product(SAMPLING, FEWER_SEEDS)]


def choose_learning_rates(workdir: pathlib.Path) -> None:
  """Writes the learning rate with the best final success for each method."""
  finals: dict[str, dict[float, list[float]]] = {}
  for run in plan_runs('sweep', workdir):
    with np.load(workdir / run.path) as saved:
      final = saved['greedy'][-1, :saved['sampled'].shape[1]].mean()
    rates = finals.setdefault(run.method, {})
    rates.setdefault(run.overrides[0][1], []).append(float(final))
  best = {method: max(rates, key=lambda rate: np.mean(rates[rate]))
          for method, rates in finals.items()}
  (workdir / 'learning_rates.json').write_text(json.dumps(best, indent=2))
  (workdir / 'sweep.json').write_text(json.dumps(finals, indent=2))
