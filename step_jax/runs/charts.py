"""The numbers of a run as a page draws them: lines, areas, a map of tasks."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

_MOST_COLUMNS = 800  # of the map
_BANDS = (0.2, 0.6)  # of s_hat: what is hard, in between, and mastered

_Rows = Sequence[dict[str, Any]]


def tiles(rows: _Rows, record: np.ndarray, before: dict[str, Any]
          ) -> list[tuple[str, str, str]]:
  """(name, value, note) of what a person asks first.

  Args:
    rows: R, of metrics.jsonl.
    record: `[R, N]` s_hat after each round.
    before: the evaluation before training, or nothing.
  """
  evaluated = [row['eval_success_rate'] for row in rows
               if row.get('eval_success_rate') is not None]
  first = _mean_rate(before)
  found = [('evaluation', f'{100 * evaluated[-1]:.0f} %' if evaluated else '–',
            '' if first is None else f'{100 * first:.0f} % before training')]
  if rows:
    last, seconds = rows[-1], sum(row['seconds'] for row in rows)
    failures = sum(row['environment_failures'] for row in rows)
    found += [
        ('mean s_hat', f'{100 * record[-1].mean():.0f} %',
         'the record of sampled success'),
        ('tasks above 60 %', str(last['tasks_above_60']),
         f'of {record.shape[1]}'),
        ('rounds', str(len(rows)), f'{seconds / len(rows):.2g} s each'),
        ('environment steps',
         _count(sum(row['environment_steps'] for row in rows)),
         f'{_count(sum(row["trajectories"] for row in rows))} trajectories'),
        ('failures of machines', str(failures), 'attempts that were lost')]
  return found


def charts(rows: _Rows, record: np.ndarray, before: dict[str, Any]
           ) -> list[dict[str, Any]]:
  """Specifications of charts: series of [x, y], x in rounds done."""
  rates = _line(rows, 'success_rate', 'sampled', 4)
  evaluated = _line(rows, 'eval_success_rate', 'evaluation', 0)
  evaluated['dots'] = True
  if (first := _mean_rate(before)) is not None:
    evaluated['values'].insert(0, [0, round(first, 4)])
  s_hat = {'name': 'mean s_hat', 'colour': 2, 'values': [
      [i + 1, round(x, 4)] for i, x in enumerate(record.mean(1).tolist())]}
  shown = [
      _chart('Success', 'evaluation is greedy; sampled is a harder mix as '
             'tasks are mastered', [rates, s_hat, evaluated], share=True),
      _chart('Where slots went', 'trajectories of tasks by their s_hat',
             _bands(rows, record), stacked=True, zero=True),
      _chart('Failures by kind', 'trajectories of a round that did not succeed',
             _failures(rows), stacked=True, zero=True),
      _chart('Does it still explore?', 'shares of what teaches nothing, as all '
             'ends alike', [
                 _line(rows, 'tasks_without_spread', 'tasks', 0),
                 _line(rows, 'groups_without_spread', 'step groups', 1)],
             share=True)]
  for title, note, names in (
      ('Entropy', 'nats a token', ('entropy',)),
      ('The record’s error', '|s_hat − evaluation|, mean over tasks',
       ('record_error',)),
      ('Tasks above 60 %', 'by s_hat, and evaluated',
       ('tasks_above_60', 'eval_tasks_above_60')),
      ('Gradient norm', 'before it is clipped', ('grad_norm',)),
      ('KL and clipping', 'approximate KL, and the share of clipped tokens',
       ('approx_kl', 'clip_fraction')),
      ('Samples of a round', 'steps learned from, and those in groups',
       ('step_samples', 'augmented_steps')),
      ('Seconds of a round', '', ('rollout_seconds', 'update_seconds'))):
    shown.append(_chart(title, note, [
        _line(rows, name, name.replace('_', ' '), i)
        for i, name in enumerate(names)], zero=True))
  return [chart for chart in shown
          if any(series['values'] for series in chart['series'])]


def task_map(rows: _Rows, record: np.ndarray, tasks: Sequence[str]
             ) -> dict[str, Any]:
  """A cell for each task and column, smoothed, the best at the end on top.

  Args:
    rows: R, of metrics.jsonl.
    record: `[R, N]` s_hat after each round.
    tasks: N names.

  Returns:
    tasks in the order of rows; columns; step, the rounds of one; window, the
    rounds it is a mean of; layers with base64 of `[N, columns]` uint8.
  """
  num_rounds = len(rows)
  if not num_rounds:
    return {'tasks': [], 'layers': [], 'columns': 0, 'step': 1, 'window': 1}
  window = max(1, num_rounds // 40)
  step = -(-num_rounds // _MOST_COLUMNS)
  slots = np.array([row['slots_per_task'] for row in rows], float)
  late = record[-max(1, num_rounds // 10):].mean(0)
  order = np.lexsort((-record.mean(0), -late))
  rates, effort = (
      _smooth(x, window)[::step].T[order] for x in (record, slots))
  top = max(float(effort.max()), 1e-9)
  return {
      'tasks': [tasks[i] for i in order], 'columns': rates.shape[1],
      'step': step, 'window': max(window, 1), 'layers': [
          {'title': 's_hat', 'low': '0 %', 'high': '100 %', 'top': 1,
           'log': False, 'cells': _bytes(rates)},
          {'title': 'slots', 'low': '0', 'high': f'{top:.2g} slots a round',
           'top': top, 'log': True,
           'cells': _bytes(np.log1p(effort) / np.log1p(top))}]}


def _smooth(x: np.ndarray, window: int) -> np.ndarray:
  """The mean of the rounds around each, `window` in all where they are."""
  total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, 0, float)])
  low = np.maximum(np.arange(len(x)) - (window - 1) // 2, 0)
  high = np.minimum(np.arange(len(x)) + window // 2 + 1, len(x))
  return (total[high] - total[low]) / (high - low)[:, None]


def _bytes(shares: np.ndarray) -> str:
  cells = np.clip(np.round(255 * shares), 0, 255).astype(np.uint8)
  return base64.b64encode(cells.tobytes()).decode()


def _bands(rows: _Rows, record: np.ndarray) -> list[dict[str, Any]]:
  """Slots of tasks at the s_hat that they had before the round."""
  earlier = np.concatenate([np.zeros((1, record.shape[1])), record[:-1]])
  counts = [
      np.bincount(np.digitize(before, _BANDS, right=True),
                  row['slots_per_task'], 3)
      for before, row in zip(earlier, rows)]
  return _areas({'up to 20 %': 1, '20 to 60 %': 0, 'above 60 %': 2}, counts)


def _failures(rows: _Rows) -> list[dict[str, Any]]:
  counts = []
  for row in rows:
    lost = row['trajectories'] - row['valid_trajectories']
    failed = row['valid_trajectories'] - sum(row['successes_per_task'])
    late = row.get('out_of_steps', 0)  # of a run of before it was counted
    counts.append([failed - late, late, lost])
  return _areas({'ended wrong': 1, 'out of steps': 4, 'lost to machines': 3},
                counts)


def _areas(colours: dict[str, int], counts: Sequence[Any]
           ) -> list[dict[str, Any]]:
  """Series of counts `[R, n]`, smoothed where there are many rounds."""
  smooth = _smooth(np.reshape(counts, (len(counts), len(colours))),
                   max(1, len(counts) // 100))
  return [{'name': name, 'colour': colour, 'values': [
      [i + 1, round(x, 2)] for i, x in enumerate(series)]}
      for (name, colour), series in zip(colours.items(), smooth.T.tolist())]


def _line(rows: _Rows, field: str, name: str, colour: int) -> dict[str, Any]:
  return {'name': name, 'colour': colour, 'values': [
      [row['round'] + 1, float(f'{row[field]:.4g}')] for row in rows
      if row.get(field) is not None]}


def _chart(title: str, note: str, series: list[dict[str, Any]], **how: bool
           ) -> dict[str, Any]:
  return {'title': title, 'note': note, 'series': [
      one for one in series if one['values']]} | how


def _mean_rate(evaluation: dict[str, Any]) -> float | None:
  rates = [row['success_rate'] for row in evaluation.values()
           if row['success_rate'] is not None]
  return float(np.mean(rates)) if rates else None


def _count(number: int) -> str:
  for size, unit in ((1e6, 'M'), (1e3, 'k')):
    if number >= size:
      return f'{number / size:.3g} {unit}'
  return str(number)
