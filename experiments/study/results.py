"""What the study's runs wrote: numbers by setting and seed, and intervals."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.study import plan

_RESAMPLES = 10_000

Interval = tuple[float, float, float]


class Results(NamedTuple):
  """Runs that differ by seed: R seeds, E evaluations, N tasks, I rounds."""
  greedy: np.ndarray  # [R, E, N]
  sampled: np.ndarray  # [R, E, N], at the training temperature
  records: np.ndarray  # [R, E, N], s_hat
  draws: np.ndarray  # [R, all tasks], greedy, fresh draws after the last round
  rounds: np.ndarray  # [R, I, fields]

  @property
  def above_60(self) -> np.ndarray:
    """Training tasks above 60 % at the training temperature, `[R, E]`."""
    return (self.sampled > 0.6).sum(axis=-1)

  @property
  def area(self) -> np.ndarray:
    """The primary number, `[R]`."""
    return plan.area(self.above_60)

  @property
  def final(self) -> np.ndarray:
    """Greedy success on the training tasks at the end, percent, `[R]`."""
    return 100 * self.greedy[:, -1].mean(axis=-1)

  def of_draws(self, held_out: bool) -> np.ndarray:
    """Greedy success on fresh draws at the end, percent, `[R]`."""
    count = self.sampled.shape[-1]
    draws = self.draws[:, count:] if held_out else self.draws[:, :count]
    return 100 * draws.mean(axis=-1)

  def field(self, name: str) -> np.ndarray:
    """A column of the rounds, `[R, I]`."""
    return self.rounds[..., 1 + plan.ROUND_FIELDS.index(name)]


def load(workdir: pathlib.Path, part: str) -> dict[str, Results]:
  """All finished runs of a part, by what is run but for the learning rate."""
  results = {}
  for folder in sorted((workdir / part).glob('*')):
    runs = [dict(np.load(path)) for path in sorted(
        folder.glob('[0-9]*.npz'), key=lambda path: path.stem)
            if path.stem.isdigit()]
    if runs:
      method, _, *changed = folder.name.split(',')
      results[','.join([method, *changed])] = Results(*(
          np.stack([run[key] for run in runs]) for key in Results._fields))
  return results


def interval(values: np.ndarray) -> Interval:
  """Mean over seeds `[R]` and its 95 % bootstrap interval."""
  rng = np.random.default_rng(0)
  means = rng.choice(values, (_RESAMPLES, len(values))).mean(axis=1)
  low, high = np.percentile(means, (2.5, 97.5))
  return float(values.mean()), float(low), float(high)


def difference(one: np.ndarray, other: np.ndarray) -> Interval:
  """Of runs with the same seed: mean and 95 % interval over the pairs."""
  count = min(len(one), len(other))
  return interval(one[:count] - other[:count])


def steps_until(results: Results, level: float) -> float | None:
  """Environment steps until the mean greedy curve first reaches a level.

  Args:
    results: of one setting.
    level: of success on the training tasks, in [0, 1]; interpolated.
  """
  curve = results.greedy.mean(axis=(0, 2))
  steps = results.field('environment_steps').mean(axis=0).cumsum()
  steps = np.concatenate([[0.], steps[plan.EVAL_EVERY - 1::plan.EVAL_EVERY]])
  reached = np.flatnonzero(curve >= level)
  if not reached.size:
    return None
  after = int(reached[0])
  if not after:
    return 0.
  return float(np.interp(level, curve[after - 1:after + 1],
                         steps[after - 1:after + 1]))


def numbers(results: Results) -> dict[str, str]:
  """What the tables are made of, a number for each seed."""
  found = {
      'area': results.area, 'greedy': results.final,
      'fresh_draws': results.of_draws(False),
      'held_out': results.of_draws(True)}
  return {name: ' '.join(f'{value:.1f}' for value in values)
          for name, values in found.items()}
