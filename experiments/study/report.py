"""Tables and figures of the study, from the numbers that its runs wrote."""

from collections.abc import Callable, Sequence
import json
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
}
_RESAMPLES = 10_000
_BINS = np.linspace(0, 1, 6)


class Results(NamedTuple):
  """Runs that differ by seed: R seeds, E evaluations, N tasks, I rounds."""
  name: str
  greedy: np.ndarray  # [R, E, all tasks]
  sampled: np.ndarray  # [R, E, training tasks]
  records: np.ndarray  # [R, E, training tasks], s_hat
  rounds: np.ndarray  # [R, I, fields]

  @property
  def train(self) -> np.ndarray:
    """Mean greedy success on the training tasks, `[R, E]`."""
    return self.greedy[..., :self.sampled.shape[-1]].mean(axis=-1)

  @property
  def everything(self) -> np.ndarray:
    """Mean greedy success on all tasks, `[R, E]`."""
    return self.greedy.mean(axis=-1)

  @property
  def above_60(self) -> np.ndarray:
    """Training tasks above 60 % at the training temperature, `[R, E]`."""
    return (self.sampled > 0.6).sum(axis=-1)

  def field(self, name: str) -> np.ndarray:
    """A column of the rounds, `[R, I]`."""
    return self.rounds[..., 1 + plan.ROUND_FIELDS.index(name)]


def load(workdir: pathlib.Path, part: str) -> dict[str, Results]:
  """All finished runs of a part, by name."""
  results = {}
  for folder in sorted((workdir / part).glob('*')):
    runs = [dict(np.load(path)) for path in sorted(folder.glob('[0-9]*.npz'))
            if path.stem.isdigit()]
    if runs:
      results[folder.name] = Results(folder.name, *(
          np.stack([run[key] for run in runs])
          for key in ('greedy', 'sampled', 'records', 'rounds')))
  return results


def interval(values: np.ndarray) -> tuple[float, float, float]:
  """Mean over seeds `[R]` and its 95 % bootstrap interval."""
  rng = np.random.default_rng(0)
  means = rng.choice(values, (_RESAMPLES, len(values))).mean(axis=1)
  low, high = np.percentile(means, (2.5, 97.5))
  return float(values.mean()), float(low), float(high)


def probability_of_improvement(
    x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
  """P(X > Y) + P(X = Y) / 2 over pairs of seeds, and its 95 % interval.

  rliable's definition (arXiv 2108.13264), with the suite as one task.
  """
  rng = np.random.default_rng(0)

  def probability(x, y):
    return np.mean((x[..., :, None] > y[..., None, :])
                   + 0.5 * (x[..., :, None] == y[..., None, :]), axis=(-2, -1))

  drawn = probability(rng.choice(x, (_RESAMPLES, len(x))),
                      rng.choice(y, (_RESAMPLES, len(y))))
  low, high = np.percentile(drawn, (2.5, 97.5))
  return float(probability(x, y)), float(low), float(high)


def rounds_to_reach(curve: np.ndarray, level: float) -> float | None:
  """Rounds at which a mean curve `[E]` first reaches a level, interpolated."""
  reached = np.flatnonzero(curve >= level)
  if not reached.size:
    return None
  after = int(reached[0])
  if not after:
    return 0.
  low, high = curve[after - 1], curve[after]
  return plan.EVAL_EVERY * (after - 1 + (level - low) / (high - low))


def write(workdir: pathlib.Path) -> None:
  """Writes `tables.md` and figures of `methods` and the other parts done."""
  methods = {name.split(',')[0]: results
             for name, results in load(workdir, 'methods').items()}
  missing = set(step_jax.METHODS) - set(methods)
  if missing:
    sys.exit(f'runs of {", ".join(sorted(missing))} are missing; '
             'run --part=methods first')
  thresholds, sampling = (
      load(workdir, part) for part in ('thresholds', 'sampling'))
  rates = json.loads((workdir / 'learning_rates.json').read_text())
  step = {'s_low=0.2 (default)': methods['step']}
  lows = step | {_change(name): r for name, r in thresholds.items()}
  parts = [_methods_table(methods, rates), _claims_table(methods, lows),
           _efficiency_table(methods), _seconds_table(methods),
           _calibration_table(methods['step'])]
  settings = {'default': _first_seeds(methods['step'])} | {
      _change(name): r for name, r in sampling.items()}
  parts += [_variants_table('s_low', lows),
            _variants_table('Sampling', settings)]
  (workdir / 'tables.md').write_text('\n\n'.join(parts) + '\n')
  for name, figure in (
      ('tasks_above_60', _curves(
          methods, lambda r: r.above_60, 'training tasks above 60 %')),
      ('success', _curves(
          methods, lambda r: 100 * r.train, 'greedy success, training tasks (%)'
      )),
      ('mastered_share', _mastered(methods)),
      ('s_low', _curves(
          lows, lambda r: 100 * r.train, 'greedy success, training tasks (%)')),
      ('sampling', _curves(
          settings, lambda r: 100 * r.train,
          'greedy success, training tasks (%)'))):
    figure.savefig(workdir / f'{name}.png', dpi=100)
  print(f'written: {workdir / "tables.md"} and figures beside it')


def _change(name: str) -> str:
  """What differs from the tuned default, from a run's folder name."""
  return ', '.join(name.split(',')[2:])


def _first_seeds(results: Results) -> Results:
  count = len(plan.FEWER_SEEDS)
  return Results(results.name, *(x[:count] for x in results[1:]))


def _table(title: str, columns: Sequence[str],
           rows: Sequence[Sequence[str]]) -> str:
  lines = [columns, ['---'] * len(columns), *rows]
  return f'### {title}\n\n' + '\n'.join(
      '| ' + ' | '.join(line) + ' |' for line in lines)


def _percent(values: np.ndarray) -> str:
  mean, low, high = interval(100 * values)
  return f'{mean:.1f} [{low:.1f}, {high:.1f}]'


def _methods_table(methods: dict[str, Results],
                   rates: dict[str, float]) -> str:
  start = next(iter(methods.values()))
  rows = [['warm start', '', f'{100 * start.train[0, 0]:.1f}',
           f'{100 * start.everything[0, 0]:.1f}', '', '']]
  for name, results in methods.items():
    final = results.train[:, -1]
    rows.append([
        f'`{name}`', f'{rates[name]:g}', _percent(final),
        _percent(results.everything[:, -1])] + [
            '' if name == other else '{:.2f} [{:.2f}, {:.2f}]'.format(
                *probability_of_improvement(
                    final, methods[other].train[:, -1]))
            for other in _BASELINES])
  return _table(
      f'Greedy success after {plan.NUM_ROUNDS} rounds, mean and 95 % interval '
      f'over {len(start.greedy)} seeds',
      ('method', 'learning rate', 'train (128)', 'all (369)',
       *(f'P(better than `{other}`)' for other in _BASELINES)), rows)


def _claims_table(methods: dict[str, Results],
                  lows: dict[str, Results]) -> str:
  """The paper's claims as differences between runs of the same seed."""
  pairs = [(claim, methods[one], methods[other], f'`{one}` - `{other}`')
           for claim, (one, other) in _CLAIMS.items()]
  default, *larger = lows.items()
  pairs += [('s_low = 0.2 beats larger', default[1], results,
             f'`step` - `step` with {name}') for name, results in larger]
  rows = []
  for claim, one, other, difference in pairs:
    count = min(len(one.greedy), len(other.greedy))
    rows.append([claim, difference] + [
        _percent(one_value[:count] - other_value[:count])
        for one_value, other_value in (
            (one.train[:, -1], other.train[:, -1]),
            (one.everything[:, -1], other.everything[:, -1]),
            (one.train.mean(axis=1), other.train.mean(axis=1)))])
  adaptive, uniform = (
      methods[name].rounds[..., 0].mean(axis=1)
      for name in ('step', 'step_no_resampling'))
  rows.append(['mastered tasks give fewer of the successes',
               'share with `step` - share with `step_no_resampling`',
               _percent(adaptive - uniform), '', ''])
  return _table(
      'The claims, as differences in percentage points between runs of the '
      'same seed, mean and 95 % interval',
      ('claim', 'difference', 'train (128)', 'all (369)',
       'train, mean of all evaluations'), rows)


def _efficiency_table(methods: dict[str, Results]) -> str:
  curves = {name: r.train.mean(axis=0) for name, r in methods.items()}
  start = next(iter(curves.values()))[0]
  best = max(curve[-1] for curve in curves.values())
  rows = []
  for name, curve in curves.items():
    row = [f'`{name}`']
    for share in (0.5, 0.8):
      rounds = rounds_to_reach(curve, start + share * (best - start))
      row.append('not reached' if rounds is None else f'{256 * rounds:,.0f}')
    rows.append(row)
  return _table(
      'Trajectories until the mean curve has gone half and 80 % of the way '
      f'from the warm start to the best final mean ({100 * best:.1f} %)',
      ('method', 'half', '80 %'), rows)


def _seconds_table(methods: dict[str, Results]) -> str:
  rows = []
  for name, results in methods.items():
    # The first round compiles.
    rollout, update = (
        float(np.median(results.field(field)[:, 1:]))
        for field in ('rollout_seconds', 'update_seconds'))
    rows.append([
        f'`{name}`', f'{rollout:.2f}', f'{update:.2f}',
        f'{results.field("environment_steps").mean():,.0f}',
        f'{results.field("step_samples").mean():,.0f}',
        f'{results.field("augmented_steps").mean():,.0f}',
        f'{100 * results.field("replaced_fraction").mean():.0f} %'])
  return _table(
      'Seconds per round on one core (medians), and what a round holds (means)',
      ('method', 'rollout', 'update', 'environment steps', 'step samples',
       'augmented steps', 'replaced slots'), rows)


def _calibration_table(results: Results) -> str:
  record = results.records[:, -1].ravel()
  truth = results.sampled[:, -1].ravel()
  which = np.clip(np.digitize(record, _BINS) - 1, 0, len(_BINS) - 2)
  rows = [
      [f'{_BINS[i]:.1f} - {_BINS[i + 1]:.1f}', f'{(which == i).sum()}',
       f'{record[which == i].mean():.2f}', f'{truth[which == i].mean():.2f}']
      for i in range(len(_BINS) - 1) if (which == i).any()]
  error = np.abs(record - truth).mean()
  return _table(
      'The record s_hat of `step` after the last round beside the success of '
      f'8 sampled evaluation episodes (mean absolute difference {error:.2f})',
      ('s_hat', 'tasks', 'mean s_hat', 'mean evaluation'), rows)


def _variants_table(title: str, variants: dict[str, Results]) -> str:
  return _table(
      f'{title}: `step`, {len(next(iter(variants.values())).greedy)} seeds',
      ('setting', 'train (128)', 'all (369)', 'best on the way, train'),
      [[name, _percent(r.train[:, -1]), _percent(r.everything[:, -1]),
        f'{100 * r.train.mean(axis=0).max():.1f}']
       for name, r in variants.items()])


def _curves(results: dict[str, Results],
            value: Callable[[Results], np.ndarray],
            label: str) -> matplotlib.figure.Figure:
  figure = matplotlib.figure.Figure(figsize=(7, 4.2), layout='constrained')
  axes = figure.subplots()
  rounds = np.arange(0, plan.NUM_ROUNDS + 1, plan.EVAL_EVERY)
  for index, (name, runs) in enumerate(results.items()):
    bands = np.array([interval(x) for x in value(runs).T.astype(float)])
    style = '-' if index < 5 else '--'
    line, = axes.plot(rounds, bands[:, 0], style, label=name, marker='.')
    axes.fill_between(rounds, bands[:, 1], bands[:, 2], alpha=0.12,
                      color=line.get_color())
  axes.set(xlabel='rounds of 256 trajectories', ylabel=label)
  axes.legend(fontsize=8)
  axes.grid(alpha=0.3)
  return figure


def _mastered(methods: dict[str, Results]) -> matplotlib.figure.Figure:
  figure = matplotlib.figure.Figure(figsize=(7, 3.6), layout='constrained')
  axes = figure.subplots()
  for name, label in (('step_no_resampling', 'uniform'),
                      ('step', 'adaptive (SR-Traj)')):
    share = 100 * methods[name].rounds[..., 0]
    bands = np.array([interval(x) for x in share.T])
    rounds = np.arange(len(bands))
    line, = axes.plot(rounds, bands[:, 0], label=label)
    axes.fill_between(rounds, bands[:, 1], bands[:, 2], alpha=0.15,
                      color=line.get_color())
  axes.set(xlabel='round', ylim=(0, 100),
           ylabel='successes from mastered tasks (%)')
  axes.legend()
  axes.grid(alpha=0.3)
  return figure
