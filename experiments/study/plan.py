"""What the study runs: its settings, and the runs of each part."""

from collections.abc import Iterator
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
SAMPLED_EPISODES = 8  # a training task, at the training temperature
GREEDY_EPISODES = 4  # fresh draws of a task
ROUND_FIELDS = (  # columns of `rounds`, after the mastered share
    'success_rate', 'replaced_fraction', 'step_samples', 'augmented_steps',
    'environment_steps', 'optimizer_steps', 'rollout_seconds',
    'update_seconds', 'entropy', 'tasks_without_spread',
    'groups_without_spread')
# In the second world, and at other starting points.
MAIN_METHODS = ('trajectory_grpo', 'dapo', 'step', 'step_signed')
DRAWN_METHODS = (*MAIN_METHODS, 'step_no_augmentation')
SAMPLERS = ('uniform', 'sr_traj', 'frontier', 'knapsack', 'plr', 'spo')
# Advantages that every sampler is tried with, by a method that has them.
CREDITS = {'step': 'step_advantage_only', 'signed': 'step_signed',
           'GRPO by task': 'step_grpo'}
_DRAWN = ('env.episodes', 'drawn')
_STRONG = ('warm_start.num_steps', 300)
_LARGE = (('policy.width', 112), ('policy.num_layers', 3))
_RATE = 'optimizer.learning_rate'
PARTS = ('sweep', 'methods', 'drawn', 'groups', 'samplers', 'starts', 'lag')
_CAP = ('optimizer.importance_cap', 2.0)


class Run(NamedTuple):
  """One training run and what differs from the config."""
  part: str
  method: str
  seed: int
  overrides: tuple[tuple[str, Any], ...]

  @property
  def name(self) -> str:
    """The method and what differs, but for the learning rate in its place."""
    changed = [f'{k.split(".")[-1]}={v:g}' if isinstance(v, float)
               else f'{k.split(".")[-1]}={v}' for k, v in self.overrides]
    return ','.join([self.method, *changed])

  @property
  def path(self) -> str:
    """Of its numbers, below the study's folder."""
    return os.path.join(self.part, self.name, f'{self.seed}.npz')


def _settings(part: str) -> Iterator[tuple[str, tuple, tuple[int, ...]]]:
  """`(method, overrides, seeds)` of a part whose learning rates are tuned."""
  if part == 'methods':
    for method in step_jax.METHODS:
      yield method, (), SEEDS
  elif part == 'drawn':
    for method in DRAWN_METHODS:
      yield method, (_DRAWN,), SEEDS
  elif part == 'groups':
    yield 'step', (('group_weight', 'sum'),), SEEDS
    for low in (0.6, 1.0):
      yield 'step', (('low_threshold', low),), FEWER_SEEDS
  elif part == 'samplers':
    for method, sampler in itertools.product(CREDITS.values(), SAMPLERS):
      if method_of(method, sampler) is None:
        yield method, (('sampler', sampler),), FEWER_SEEDS
  elif part == 'starts':
    for method in MAIN_METHODS:
      yield method, (_STRONG,), FEWER_SEEDS
    for method in ('trajectory_grpo', 'step', 'step_signed'):
      yield method, _LARGE, FEWER_SEEDS
  elif part == 'lag':
    for lag in (0, 1):
      yield 'step_signed', (_CAP, ('lag', lag)), SEEDS


def method_of(method: str, sampler: str) -> str | None:
  """The method that is another with a sampler, if part `methods` has it."""
  return {('step_advantage_only', 'sr_traj'): 'step_no_augmentation'}.get(
      (method, sampler),
      method if step_jax.METHODS[method].sampler == sampler else None)


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
  runs = [Run(part, method, seed, ((_RATE, rates[method]), *overrides))
          for method, overrides, seeds in _settings(part) for seed in seeds]
  return sorted(runs, key=lambda run: run.seed)  # what is there is comparable


def area(above_60: np.ndarray) -> np.ndarray:
  """The primary number: the mean of a curve over its evaluations.

  Args:
    above_60: `[..., E]` tasks above 60 %, at evenly spaced trajectories.

  Returns:
    `[...]`: its area by trapezoids, divided by its length.
  """
  return (above_60[..., 1:] + above_60[..., :-1]).mean(axis=-1) / 2


def choose_learning_rates(workdir: pathlib.Path) -> None:
  """Writes the learning rate with the best primary number of each method."""
  found: dict[str, dict[float, list[float]]] = {}
  for run in plan_runs('sweep', workdir):
    with np.load(workdir / run.path) as saved:
      value = area((saved['sampled'] > 0.6).sum(axis=-1))
    rates = found.setdefault(run.method, {})
    rates.setdefault(run.overrides[0][1], []).append(float(value))
  best = {method: max(rates, key=lambda rate: np.mean(rates[rate]))
          for method, rates in found.items()}
  (workdir / 'learning_rates.json').write_text(json.dumps(best, indent=2))
  (workdir / 'sweep.json').write_text(json.dumps(found, indent=2))
