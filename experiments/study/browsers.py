"""The study's runs in real browsers: four methods on 16 MiniWoB++ tasks.

Each is a run of experiments/run.py with a folder of its own, one after the
other, as a run's browsers fill two cores. A run that was stopped is resumed.
"""

from collections.abc import Iterator
import pathlib
import subprocess
import sys

import numpy as np

from experiments.study import plan
from step_jax.runs import evaluation
from step_jax.runs import metrics

SEEDS = (0, 1)
NUM_ROUNDS = 24  # of 128 trajectories
_SETTINGS = {
    'num_rounds': NUM_ROUNDS,
    'group_weight': 'sample',
    'optimizer.learning_rate': 1e-3,  # of part `sweep`, as in all parts
    'optimizer.decay_rounds': NUM_ROUNDS,
    'eval_every': 8,
    'eval_temperature': 0.7,  # the primary number's, that of training
    'eval_episodes': plan.SAMPLED_EPISODES,
    'trackers': '()',
}
_RUN = pathlib.Path(__file__).resolve().parents[1] / 'run.py'


def run_part(workdir: pathlib.Path) -> None:
  """Does the runs that are not done yet.

  Args:
    workdir: of the study.

  Raises:
    CalledProcessError: a run failed, which has said why.
  """
  for method, seed, folder in _runs(workdir):
    config = _SETTINGS | {'seed': seed}
    subprocess.run([
        sys.executable, str(_RUN), f'--workdir={folder}',
        f'--config={_RUN.parents[1] / "configs" / "miniwob.py"}:{method}',
        *(f'--config.{name}={value}' for name, value in config.items())],
                   check=True)


def load(workdir: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
  """The methods all of whose runs are done, R seeds and E evaluations.

  Returns:
    For each `above_60` `[R, E]` tasks, `success` `[R, E]` percent, and
    `environment_steps` and `failures` `[R]`, of the whole training.
  """
  found: dict[str, list[dict[str, np.ndarray]]] = {}
  for method, _, folder in _runs(workdir):
    rows = metrics.read_metrics(folder)
    if len(rows) == NUM_ROUNDS:
      found.setdefault(method, []).append(_numbers(folder, rows))
  return {method: {name: np.stack([run[name] for run in runs])
                   for name in runs[0]}
          for method, runs in found.items() if len(runs) == len(SEEDS)}


def _runs(workdir: pathlib.Path) -> Iterator[tuple[str, int, pathlib.Path]]:
  for seed in SEEDS:
    for method in plan.MAIN_METHODS:
      yield method, seed, workdir / 'browsers' / method / str(seed)


def _numbers(folder: pathlib.Path, rows: list[dict]) -> dict[str, np.ndarray]:
  first = evaluation.success_rates(
      metrics.read_json(folder / 'initial_evaluation.json'))
  evaluated = [row for row in rows if 'eval_success_rate' in row]
  return {
      'above_60': np.array([(first > 0.6).sum()] + [
          row['eval_tasks_above_60'] for row in evaluated]),
      'success': 100 * np.array([first.mean()] + [
          row['eval_success_rate'] for row in evaluated]),
      'environment_steps': np.sum([row['environment_steps'] for row in rows]),
      'failures': np.sum([row['environment_failures'] for row in rows])}
