"""Tables and figures of the study, from the numbers that its runs wrote."""

from collections.abc import Mapping, Sequence
import json
import pathlib
import sys

import numpy as np

from experiments.study import browsers
from experiments.study import figures
from experiments.study import plan
from experiments.study import results as results_lib
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
_MASTERED = 0.8


def write(workdir: pathlib.Path) -> None:
  """Writes tables, numbers by seed and figures of the parts that are done."""
  parts = {part: results_lib.load(workdir, part) for part in plan.PARTS[1:]}
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
  for title, changed in (('A better start', 'num_steps=300'),
                         ('A larger network', 'width=112,num_layers=3')):
    settings = {name.split(',')[0]: r for name, r in parts['starts'].items()
                if name.endswith(changed)}
    if settings:
      tables.append(_table_of(title, settings, [
          name for name in (_BASELINES[0], 'step') if name in settings]))
  if parts['lag']:
    tables.append(_table_of('Rounds that overlap', parts['lag'], (
        'step_signed,importance_cap=2,lag=0',)))
  if found := browsers.load(workdir):
    tables.append(_browsers_table(found))
  if (workdir / 'alternatives.npz').exists():
    with np.load(workdir / 'alternatives.npz') as saved:
      tables += _alternatives_tables(saved['rows'])
  tables += [_cost_table(methods), _calibration_table(methods['step'])]
  (workdir / 'tables.md').write_text('\n\n'.join(tables) + '\n')
  (workdir / 'results.json').write_text(json.dumps({
      part: {name: results_lib.numbers(results)
             for name, results in settings.items()}
      for part, settings in parts.items() if settings}, indent=1))
  others = sorted(set(step_jax.METHODS) - {*figures.OURS, 'step'},
                  key=lambda name: -methods[name].area.mean())
  ours = max(figures.OURS, key=lambda name: methods[name].area.mean())
  for name, figure in (
      ('story', figures.draw_curves({
          name: methods[name] for name in (ours, *others[:2], 'step')})),
      ('methods', figures.draw_curves(methods)),
      ('mastered_share', figures.draw_mastered(methods))):
    figure.savefig(workdir / f'{name}.png', dpi=100)
  print(f'written: {workdir / "tables.md"} and figures beside it')


def _table(title: str, columns: Sequence[str],
           rows: Sequence[Sequence[str]]) -> str:
  lines = [columns, ['---'] * len(columns), *rows]
  return f'### {title}\n\n' + '\n'.join(
      '| ' + ' | '.join(line) + ' |' for line in lines)


def _show(found: results_lib.Interval) -> str:
  return f'{found[0]:.1f} [{found[1]:.1f}, {found[2]:.1f}]'


def _table_of(title: str, settings: Mapping[str, results_lib.Results],
              baselines: Sequence[str]) -> str:
  """A row for each setting, the best primary number first."""
  rows = []
  for name, r in sorted(settings.items(), key=lambda x: -x[1].area.mean()):
    until = results_lib.steps_until(r, 0.5)
    rows.append([
        f'`{name}`', f'{len(r.area)}', _show(results_lib.interval(r.area))] + [
            '' if name == other else _show(
                results_lib.difference(r.area, settings[other].area))
            for other in baselines] + [
                _show(results_lib.interval(x)) for x in (
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


def _claims_table(methods: dict[str, results_lib.Results]) -> str:
  """Claims as differences between runs of the same seed."""
  rows = [[claim, f'`{one}` - `{other}`'] + [
      _show(results_lib.difference(value(methods[one]), value(methods[other])))
      for value in (lambda r: r.area, lambda r: r.final,
                    lambda r: r.of_draws(False))]
          for claim, (one, other) in _CLAIMS.items()]
  adaptive, uniform = (
      100 * methods[name].rounds[..., 0].mean(axis=1)
      for name in ('step', 'step_no_resampling'))
  rows.append(['mastered tasks give fewer of the successes',
               'their share of them, `step` - `step_no_resampling`',
               _show(results_lib.difference(adaptive, uniform)), '', ''])
  return _table('The claims, paired by seed', (
      'claim', 'difference', 'tasks above 60 %, mean over training',
      'greedy, training tasks, points', 'fresh draws, points'), rows)


def _samplers_table(methods: dict[str, results_lib.Results],
                    others: dict[str, results_lib.Results]) -> str:
  """The cells, and what each is above uniform sampling, paired by seed."""
  count = len(plan.FEWER_SEEDS)

  def find(method, sampler):
    same = plan.method_of(method, sampler)
    return methods[same] if same else others.get(f'{method},sampler={sampler}')

  def cell(method, sampler, show):
    found = find(method, sampler)
    return 'not run' if found is None else show(found, find(method, 'uniform'))

  def values(found, _):
    area, final = (results_lib.interval(x[:count])
                   for x in (found.area, found.final))
    return (f'{_show(area)}; {_show(final)} % '
            f'({min(len(found.area), count)})')

  def gains(found, uniform):
    return '; '.join(_show(results_lib.difference(
        one[:count], other[:count])) for one, other in (
            (found.area, uniform.area), (found.final, uniform.final)))

  title = ('tasks above 60 %, mean over training; greedy, training tasks at '
           'the end')
  return '\n\n'.join(_table(name, ('sampler', *plan.CREDITS), [
      [f'`{sampler}`', *(cell(method, sampler, show)
                         for method in plan.CREDITS.values())]
      for sampler in plan.SAMPLERS if sampler != 'uniform' or show is values])
          for name, show in (
              (f'Samplers x advantages: {title} (seeds)', values),
              (f'Minus `uniform`, paired: {title}', gains)))


def _browsers_table(found: Mapping[str, Mapping[str, np.ndarray]]) -> str:
  """Both seeds in each cell, as two are no interval."""
  def both(values):
    return ', '.join(f'{value:,.1f}'.removesuffix('.0') for value in values)

  return _table('MiniWoB++ in real Chromium, both seeds', (
      'method', 'tasks above 60 %, mean over training',
      'the same at the evaluations', 'success at the evaluations, %',
      'environment steps', 'lost trajectories'), [
          [f'`{method}`', both(plan.area(runs['above_60'])),
           *('; '.join(map(both, runs[name]))
             for name in ('above_60', 'success')),
           *(both(runs[name]) for name in ('environment_steps', 'failures'))]
          for method, runs in found.items()])


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


def _cost_table(methods: dict[str, results_lib.Results]) -> str:
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


def _calibration_table(results: results_lib.Results) -> str:
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
