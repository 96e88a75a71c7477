"""Tables and figures of the study, from the numbers that its runs wrote."""

from collections.abc import Callable, Mapping, Sequence
import pathlib
import sys
from typing import NamedTuple

import matplotlib.figure
import numpy as np

from experiments.study import plan
import step_jax

_BASELINES = ('trajectory_grpo', 'step_grpo')
# What the paper claims, as (with it, without it).
_CLAIMS = {
    'SR-Traj helps': ('step', 'step_no_resampling'),
    'SR-Traj helps, without SL-GRPO': (
        'step_no_augmentation', 'step_advantage_only'),
    'SL-GRPO helps': ('step', 'step_no_augmentation'),
    'SL-GRPO helps, without SR-Traj': (
        'step_no_resampling', 'step_advantage_only'),
    'SR-Adv helps': ('step_advantage_only', 'step_grpo'),
    'the three beat `step_grpo`': ('step', 'step_grpo'),
    'the three beat `trajectory_grpo`': ('step', 'trajectory_grpo'),
    'ours: the negative half helps': ('step_signed', 'step_no_augmentation'),
    'ours: SL-GRPO helps beside it': ('step_signed_augmented', 'step_signed'),
}
_OURS = ('step_signed', 'step_signed_augmented')
_RESAMPLES = 10_000
_MASTERED = 0.8

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


def write(workdir: pathlib.Path) -> None:
  """Writes `tables.md` and the figures of the parts that are done."""
  parts = {part: load(workdir, part) for part in plan.PARTS[1:]}
  methods = parts['methods']
  missing = set(step_jax.METHODS) - set(methods)
  if missing:
    sys.exit(f'runs of {", ".join(sorted(missing))} are missing; '
             'run --part=methods first')
  tables = [
      _table_of('Desk, fixed episodes', methods, _BASELINES),
      _claims_table(methods)]
  if parts['drawn']:
    tables.append(_table_of(
        'Desk, drawn episodes',
        {name.split(',')[0]: r for name, r in parts['drawn'].items()},
        _BASELINES[:1]))
  if parts['groups']:
    tables.append(_table_of(
        'Weight of a step-level group, and s_low',
        {'step': methods['step'], **parts['groups']}, ('step',)))
  if parts['samplers']:
    tables.append(_samplers_table(methods, parts['samplers']))
  if parts['starts']:
    tables.append(_table_of(
        'Other starting points', parts['starts'], ()))
  if (workdir / 'alternatives.npz').exists():
    with np.load(workdir / 'alternatives.npz') as saved:
      tables += _alternatives_tables(saved['rows'])
  tables += [_cost_table(methods), _calibration_table(methods['step'])]
  (workdir / 'tables.md').write_text('\n\n'.join(tables) + '\n')
  others = sorted(set(step_jax.METHODS) - {*_OURS, 'step'},
                  key=lambda name: -methods[name].area.mean())
  ours = max(_OURS, key=lambda name: methods[name].area.mean())
  _draw_curves({name: methods[name] for name in (ours, *others[:2], 'step')}
               ).savefig(workdir / 'story.png', dpi=100)
  _draw_curves(methods).savefig(workdir / 'methods.png', dpi=100)
  _draw_mastered(methods).savefig(workdir / 'mastered_share.png', dpi=100)
  print(f'written: {workdir / "tables.md"} and figures beside it')


def _table(title: str, columns: Sequence[str],
           rows: Sequence[Sequence[str]]) -> str:
  lines = [columns, ['---'] * len(columns), *rows]
  return f'### {title}\n\n' + '\n'.join(
      '| ' + ' | '.join(line) + ' |' for line in lines)


def _show(found: Interval) -> str:
  return f'{found[0]:.1f} [{found[1]:.1f}, {found[2]:.1f}]'


def _table_of(title: str, settings: Mapping[str, Results],
              baselines: Sequence[str]) -> str:
  """A row for each setting, the best primary number first."""
  rows = []
  for name, r in sorted(settings.items(), key=lambda x: -x[1].area.mean()):
    until = steps_until(r, 0.5)
    rows.append([
        f'`{name}`', f'{len(r.area)}', _show(interval(r.area))] + [
            '' if name == other else _show(
                difference(r.area, settings[other].area))
            for other in baselines] + [
                _show(interval(x)) for x in (
                    r.final, r.of_draws(False), r.of_draws(True),
                    (r.sampled[:, -1] > _MASTERED).sum(axis=-1))] + [
                        f'{until:,.0f}' if until is not None
                        else 'not reached'])
  start = next(iter(settings.values()))
  return _table(title, (
      'setting', 'seeds', 'tasks above 60 %, mean over training',
      *(f'minus `{other}`, paired' for other in baselines),
      f'greedy, training tasks (begins at {100 * start.greedy[0, 0].mean():.0f}'
      ' %)', 'fresh draws of them', 'held-out tasks',
      'mastered (above 80 %)', 'environment steps until 50 %'), rows)


def _claims_table(methods: dict[str, Results]) -> str:
  """Claims as differences between runs of the same seed."""
  rows = [[claim, f'`{one}` - `{other}`'] + [
      _show(difference(value(methods[one]), value(methods[other])))
      for value in (lambda r: r.area, lambda r: r.final,
                    lambda r: r.of_draws(False))]
          for claim, (one, other) in _CLAIMS.items()]
  adaptive, uniform = (
      100 * methods[name].rounds[..., 0].mean(axis=1)
      for name in ('step', 'step_no_resampling'))
  rows.append(['mastered tasks give fewer of the successes',
               'their share of them, `step` - `step_no_resampling`',
               _show(difference(adaptive, uniform)), '', ''])
  return _table('The claims, paired by seed', (
      'claim', 'difference', 'tasks above 60 %, mean over training',
      'greedy, training tasks, points', 'fresh draws, points'), rows)


def _samplers_table(methods: dict[str, Results],
                    others: dict[str, Results]) -> str:
  rows = []
  for sampler in plan.SAMPLERS:
    row = [f'`{sampler}`']
    for method in plan.CREDITS.values():
      same = plan.method_of(method, sampler)
      found = methods[same] if same else others.get(
          f'{method},sampler={sampler}')
      if found is None:
        row.append('not run')
        continue
      count = len(plan.FEWER_SEEDS)
      area, final = interval(found.area[:count]), interval(found.final[:count])
      row.append(f'{_show(area)}; {_show(final)} %')
    rows.append(row)
  return _table(
      'Samplers x advantages: tasks above 60 %, mean over training; greedy, '
      f'training tasks at the end ({len(plan.FEWER_SEEDS)} seeds)',
      ('sampler', *plan.CREDITS), rows)


def _alternatives_tables(rows: np.ndarray) -> list[str]:
  """Of `[groups, 7]`, see `alternatives.measure`."""
  rounds, record, matching, pull, original, right, others = rows.T
  by_round, by_matching = [], []
  for index in np.unique(rounds):
    at = rounds == index
    by_round.append([
        f'{index:.0f}', f'{at.sum()}', f'{record[at].mean():.2f}',
        f'{100 * original[at].mean():.0f} %',
        f'{(matching[at] - 1).mean():.1f}',
        f'{100 * right[at].sum() / max(others[at].sum(), 1):.0f} %'])
  for m in np.unique(matching):
    at = matching == m
    by_matching.append([
        f'{m:.0f}', f'{100 * at.mean():.0f} %', f'{pull[at].mean():.2f}',
        f'{100 * original[at].mean():.0f} %',
        f'{100 * right[at].sum() / others[at].sum():.0f} %'
        if others[at].sum() else '-'])
  return [
      _table('Step-level groups of `step`, five seeds', (
          'round', 'groups', 'mean s_hat', 'originals that were right',
          'alternatives that match, of 7', 'others that were right'), by_round),
      _table('The pull on the original by the number m of matching candidates',
             ('m', 'groups', 'sum of A over what matches, in units of 1 - '
              's_hat', 'originals that were right', 'others that were right'),
             by_matching)]


def _cost_table(methods: dict[str, Results]) -> str:
  rows = []
  for name, results in methods.items():
    rollout, update = (  # the first round compiles
        float(np.median(results.field(field)[:, 1:]))
        for field in ('rollout_seconds', 'update_seconds'))
    rows.append([
        f'`{name}`', f'{rollout:.2f}', f'{update:.2f}',
        *(f'{results.field(field).mean():,.0f}' for field in (
            'environment_steps', 'step_samples', 'augmented_steps')),
        *(f'{100 * results.field(field).mean():.0f} %' for field in (
            'replaced_fraction', 'tasks_without_spread')),
        f'{results.field("entropy")[:, -1].mean():.2f}'])
  return _table(
      'Seconds per round on one core (medians), and what a round holds (means)',
      ('method', 'rollout', 'update', 'environment steps', 'step samples',
       'augmented steps', 'replaced slots', 'tasks whose copies end alike',
       'entropy at the end, nats'), rows)


def _calibration_table(results: Results) -> str:
  record = results.records[:, -1].ravel()
  truth = results.sampled[:, -1].ravel()
  bins = np.linspace(0, 1, 6)
  which = np.clip(np.digitize(record, bins) - 1, 0, len(bins) - 2)
  rows = [
      [f'{bins[i]:.1f} - {bins[i + 1]:.1f}', f'{(which == i).sum()}',
       f'{record[which == i].mean():.2f}', f'{truth[which == i].mean():.2f}']
      for i in range(len(bins) - 1) if (which == i).any()]
  error = np.abs(record - truth).mean()
  return _table(
      'The record s_hat of `step` after the last round beside the success of '
      f'8 sampled evaluation episodes (mean absolute difference {error:.2f})',
      ('s_hat', 'tasks', 'mean s_hat', 'mean evaluation'), rows)


def _draw_lines(lines: Mapping[str, np.ndarray], x: np.ndarray, label: str,
                legend: Callable[[str], str]) -> matplotlib.figure.Figure:
  """A line with its interval for each `[R, len(x)]`."""
  figure = matplotlib.figure.Figure(figsize=(7, 4), layout='constrained')
  axes = figure.subplots()
  for index, (name, values) in enumerate(lines.items()):
    bands = np.array([interval(column) for column in values.T.astype(float)])
    line, = axes.plot(x, bands[:, 0], '-' if index < 6 else '--',
                      label=legend(name))
    axes.fill_between(x, bands[:, 1], bands[:, 2], alpha=0.12,
                      color=line.get_color())
  axes.set(xlabel='trajectories', ylabel=label)
  axes.xaxis.set_major_formatter('{x:,.0f}')
  axes.legend(fontsize=8)
  axes.grid(alpha=0.3)
  return figure


def _draw_curves(settings: Mapping[str, Results]) -> matplotlib.figure.Figure:
  x = 256 * np.arange(0, plan.NUM_ROUNDS + 1, plan.EVAL_EVERY)
  return _draw_lines(
      {name: results.above_60 for name, results in settings.items()}, x,
      'training tasks above 60 %, of 128',
      lambda name: {'step': 'step (the paper)'}.get(
          name, f'{name} (ours)' if name in _OURS else name))


def _draw_mastered(methods: dict[str, Results]) -> matplotlib.figure.Figure:
  return _draw_lines(
      {name: 100 * methods[name].rounds[..., 0]
       for name in ('step_no_resampling', 'step')},
      256 * np.arange(plan.NUM_ROUNDS), 'successes from mastered tasks (%)',
      lambda name: 'adaptive (SR-Traj)' if name == 'step' else 'uniform')
