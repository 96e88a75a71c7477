"""Figures of the study."""

from collections.abc import Callable, Mapping

import matplotlib.figure
import numpy as np

from experiments.study import plan
from experiments.study import results as results_lib

OURS = ('step_signed', 'step_signed_augmented')


def _draw_lines(lines: Mapping[str, np.ndarray], x: np.ndarray, label: str,
                legend: Callable[[str], str]) -> matplotlib.figure.Figure:
  """A line with its interval for each `[R, len(x)]`."""
  figure = matplotlib.figure.Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  for index, (name, values) in enumerate(lines.items()):
    bands = np.array([results_lib.interval(column)
                      for column in values.T.astype(float)])
    line, = axes.plot(x, bands[:, 0], '-' if index < 6 else '--',
                      label=legend(name))
    axes.fill_between(x, bands[:, 1], bands[:, 2], alpha=0.12,
                      color=line.get_color())
  axes.set(xlabel='trajectories', ylabel=label)
  axes.xaxis.set_major_formatter('{x:,.0f}')
  if len(lines) <= 4:
    axes.legend(fontsize=8)
  else:
    axes.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, .5))
  axes.grid(alpha=0.3)
  return figure


def draw_curves(settings: Mapping[str, results_lib.Results]
                ) -> matplotlib.figure.Figure:
  """Training tasks above 60 % over trajectories, by setting."""
  x = 256 * np.arange(0, plan.NUM_ROUNDS + 1, plan.EVAL_EVERY)
  return _draw_lines(
      {name: results.above_60 for name, results in settings.items()}, x,
      'training tasks above 60 %, of 128',
      lambda name: {'step': 'step (the paper)'}.get(
          name, f'{name} (ours)' if name in OURS else name))


def draw_mastered(methods: Mapping[str, results_lib.Results]
                  ) -> matplotlib.figure.Figure:
  """What mastered tasks give of the successes, uniform and adaptive."""
  return _draw_lines(
      {name: 100 * methods[name].rounds[..., 0]
       for name in ('step_no_resampling', 'step')},
      256 * np.arange(plan.NUM_ROUNDS), 'successes from mastered tasks (%)',
      lambda name: 'adaptive (SR-Traj)' if name == 'step' else 'uniform')
