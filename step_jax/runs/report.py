"""Pictures of a run: evaluation success, and where the effort went."""

from collections.abc import Sequence
import io
import pathlib
from typing import Any

import matplotlib.figure
from matplotlib import ticker
import numpy as np

from step_jax.runs import files

_MAX_NAMES = 40  # tasks whose names fit beside the heat map


def write_report(
    directory: pathlib.Path,
    rows: Sequence[dict[str, Any]],
    tasks: Sequence[str],
    *,
    environment: str = '',
    initial_success_rate: float | None = None,
) -> list[pathlib.Path]:
  """Draws `learning_curve.png`, `signals.png` and `slots_per_task.png`.

  Args:
    directory: made if it is missing.
    rows: of metrics.jsonl, in order.
    tasks: N names.
    environment: a line that says what it was.
    initial_success_rate: evaluated before the first round.

  Returns:
    The paths of the pictures.

  Raises:
    WriteError: if they cannot be written.
  """
  with files.writing(directory):
    directory.mkdir(parents=True, exist_ok=True)
  figures = {
      'learning_curve': _learning_curve(
          rows, environment, initial_success_rate),
      'signals': _signals(rows),
      'slots_per_task': _slots_per_task(rows, tasks)}
  for name, figure in figures.items():
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    files.replace(directory / f'{name}.png', picture.getvalue())
  return [directory / f'{name}.png' for name in figures]


def _learning_curve(
    rows: Sequence[dict[str, Any]], environment: str, initial: float | None
) -> matplotlib.figure.Figure:
  """Evaluations, beside the success among what was sampled."""
  figure = matplotlib.figure.Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  evaluated = [
      (row['round'] + 1, row['eval_success_rate'])
      for row in rows if row.get('eval_success_rate') is not None]
  if initial is not None:
    evaluated.insert(0, (0, initial))
  axes.plot(
      [row['round'] + 0.5 for row in rows],
      [_percent(row['success_rate']) for row in rows], color='0.7',
      label='sampled trajectories (a harder mix as tasks are mastered)')
  axes.plot(
      [x for x, _ in evaluated], [_percent(y) for _, y in evaluated], 'o-',
      color='tab:blue', label='evaluation, temperature 0')
  axes.set(xlabel='rounds of training', ylabel='success rate (%)',
           ylim=(0, 102))
  axes.set_title(environment, fontsize=8)
  axes.legend(loc='lower right')
  axes.grid(alpha=0.3)
  return figure


def _signals(rows: Sequence[dict[str, Any]]) -> matplotlib.figure.Figure:
  """What tells of a policy that no longer tries: see `runs.signals`."""
  figure = matplotlib.figure.Figure(figsize=(7, 4), layout='constrained')
  entropy, shares = figure.subplots(2, sharex=True)
  for axes, name, label, style in (
      (entropy, 'entropy', 'entropy', '-'),
      (shares, 'tasks_without_spread', 'tasks whose copies all end alike', '-'),
      (shares, 'groups_without_spread', 'step-level groups that all agree',
       '-'),
      (shares, 'record_error', '|s_hat - evaluation|, mean', 'o-')):
    found = [(row['round'] + 1, row[name]) for row in rows
             if row.get(name) is not None]
    if found:
      axes.plot(*zip(*found), style, label=label)
      axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
  entropy.set(ylabel='nats a token')
  entropy.set_ylim(bottom=0)
  shares.set(xlabel='rounds of training', ylabel='share', ylim=(0, 1.02))
  return figure


def _slots_per_task(
    rows: Sequence[dict[str, Any]], tasks: Sequence[str]
) -> matplotlib.figure.Figure:
  """A heat map of trajectory slots, tasks over rounds."""
  is_named = len(tasks) <= _MAX_NAMES
  figure = matplotlib.figure.Figure(
      figsize=(7, 1.5 + 0.22 * min(len(tasks), _MAX_NAMES)),
      layout='constrained')
  axes = figure.subplots()
  slots = np.array([row['slots_per_task'] for row in rows]).T
  image = axes.imshow(
      slots, aspect='auto', cmap='viridis', interpolation='nearest',
      extent=(-0.5, slots.shape[1] - 0.5, len(tasks) - 0.5, -0.5))
  axes.set(xlabel='round', title='trajectory slots of each task')
  if is_named:
    axes.set_yticks(range(len(tasks)), tasks, fontsize=8)
  else:
    axes.set_ylabel('task')
  axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  figure.colorbar(image, ax=axes)
  return figure


def _percent(rate: float | None) -> float:
  return float('nan') if rate is None else 100 * rate
