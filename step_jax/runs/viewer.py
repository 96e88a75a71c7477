"""Pages that show a run, from the files in its folder, which are only read.

`DIR/report/index.html` and what lies beside it need no server and no network.
All text is escaped: pages and models can write anything.
"""

from collections.abc import Callable, Sequence
import contextlib
import io
import json
import pathlib
import shutil
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from step_jax.runs import charts
from step_jax.runs import episodes as episodes_lib
from step_jax.runs import files
from step_jax.runs import metrics
from step_jax.runs import signals

_OUTCOMES = {'success': 'good', 'wrong': 'bad', 'out of steps': 'mild',
             'lost': 'mild'}  # and their colours
_ASSETS = ('view.css', 'view.js')

# (row, instruction) -> {'elements'} or {'picture'}, what was seen.
Screen = Callable[[Any, str], dict[str, Any]]


def write_pages(
    workdir: pathlib.Path, tasks: Sequence[str], screen: Screen, *,
    title: str, about: Sequence[str], max_steps: int) -> pathlib.Path:
  """Writes `report/index.html` and a page for each episode.

  Args:
    workdir: of a run, which may be going on.
    tasks: N names.
    screen: what was seen at a row, in words.
    title: of the run.
    about: facts of the run, for its first line.
    max_steps: T.

  Returns:
    The path of the page to open.

  Raises:
    WriteError: if a page cannot be written.
  """
  folder = workdir / 'report'
  found: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}
  for part in episodes_lib.load_all(workdir / 'episodes'):
    for place, one in enumerate(part.about):
      found[one['id']] = one, {
          name: x[place] for name, x in part.arrays.items()}
  rows = sorted((_row(one, max_steps) for one, _ in found.values()),
                key=lambda row: (-row['round'], row['kind'], row['slot']))
  pages = jinja2.Environment(
      loader=jinja2.PackageLoader('step_jax.runs', 'templates'),
      autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
  with files.writing(folder):
    for name in ('episodes', 'pictures'):
      (folder / name).mkdir(parents=True, exist_ok=True)
    for name in _ASSETS:
      text = pathlib.Path(__file__).with_name('templates') / name
      shutil.copyfile(text, folder / name)
    written = {f'{row["id"]}.html' for row in rows}
    for place, row in enumerate(rows):
      one, arrays = found[row['id']]
      _write_episode(pages, folder, row, one, arrays, screen,
                     [rows[i]['id'] if 0 <= i < len(rows) else ''
                      for i in (place - 1, place + 1)],
                     workdir / 'episodes' / 'pictures')
    for old in (folder / 'episodes').glob('*.html'):
      if old.name not in written:
        old.unlink()
    index = _overview(workdir, tasks, rows) | {'title': title, 'about': about}
    (folder / 'index.html').write_text(
        pages.get_template('index.html').render(root='', **index))
  return folder / 'index.html'


def _row(one: dict[str, Any], max_steps: int) -> dict[str, Any]:
  """A line of the list of episodes."""
  outcome = 'wrong'
  if one['failure']:
    outcome = 'lost'
  elif one['success']:
    outcome = 'success'
  elif one['steps'] >= max_steps:
    outcome = 'out of steps'
  is_round = one['kind'] == 'round'
  return one | {
      'outcome': outcome, 'tone': _OUTCOMES[outcome],
      'kind': 'round' if is_round else 'evaluation',
      's_hat': '' if one['s_hat'] is None else f'{one["s_hat"]:.2f}',
      'where': f'round {one["round"]}, slot {one["slot"]}' if is_round else
      f'evaluation after {one["round"]} rounds' +
      ', a fresh draw' * (one['kind'] == 'drawn')}


def _overview(workdir: pathlib.Path, tasks: Sequence[str],
              episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """What the first page shows."""
  rows = metrics.read_metrics(workdir)
  record = np.zeros((0, len(tasks)), np.float32)
  path = workdir / 'success_rates.npy'
  if path.exists():
    record = np.load(path)
  rows, record = rows[:len(record)], record[:len(rows)]  # while it goes on
  before: dict[str, Any] = {}
  if (workdir / 'initial_evaluation.json').exists():
    before = metrics.read_json(workdir / 'initial_evaluation.json')
  return {
      'kind': 'overview', 'episodes': episodes, 'outcomes': list(_OUTCOMES),
      'warning': signals.sentence(rows[-1], record[-1]) if rows else
      'No round is done yet.',
      'tiles': charts.tiles(rows, record, before),
      'data': {
          'charts': charts.charts(rows, record, before),
          'span': [0, max(1, len(rows))],
          'map': charts.task_map(rows, record, tasks)}}


def _write_episode(
    pages: jinja2.Environment, folder: pathlib.Path, row: dict[str, Any],
    one: dict[str, Any], arrays: dict[str, np.ndarray], screen: Screen,
    beside: Sequence[str], pictures: pathlib.Path) -> None:
  facts = [row['where'], f'reward {one["reward"]:g}',
           f'{one["steps"]} step{"s" * (one["steps"] != 1)}']
  if row['s_hat']:
    facts.append(f's_hat {row["s_hat"]} after the round')
  if one['seed'] is not None:
    facts.append(f'seed {one["seed"]}')
  steps = []
  for step in range(one['steps']):
    seen = _step(one, arrays, step)
    shown = screen(episodes_lib.observation(arrays, step), one['instruction'])
    name = (one.get('pictures') or [''] * one['steps'])[step]
    content = None
    if 'elements' in shown:
      seen['elements'] = shown['elements']
    if 'picture' in shown:
      file = io.BytesIO()
      Image.fromarray(shown['picture']).save(file, 'PNG')
      name, content = f'{one["id"]}-{step}.png', file.getvalue()
    elif name:
      with contextlib.suppress(FileNotFoundError):  # its owner has removed it
        content = (pictures / name).read_bytes()
    if content is not None:
      (folder / 'pictures' / name).write_bytes(content)
      seen.pop('elements', None)
      with Image.open(io.BytesIO(content)) as picture:
        seen |= {'picture': f'../pictures/{name}', 'size': picture.size}
    steps.append(seen)
  text = pages.get_template('episode.html').render(
      kind='episode', root='../', row=row, facts=facts, before=beside[0],
      after=beside[1], title=f'{row["task"]}, {row["where"]}',
      data={'steps': steps})
  (folder / 'episodes' / f'{row["id"]}.html').write_text(text)


def _step(one: dict[str, Any], arrays: dict[str, np.ndarray], step: int
          ) -> dict[str, Any]:
  """A step, but for what was seen."""
  mask, log_probs = (arrays[name][step] for name in (
      'token_mask', 'log_probs'))
  found = {
      'action': one['actions'][step],
      'advantage': _number(arrays['advantages'][step])
      if 'advantages' in arrays else None,
      'log_prob': _number(log_probs[mask].sum()),
      'tokens': [[token, _number(x)] for token, x in zip(
          arrays['actions'][step][mask].tolist(), log_probs[mask])],
      'others': None}
  if one['alternatives'][step] is not None:
    advantages = arrays['candidate_advantages'][step]
    found |= {'advantage': _number(advantages[0]), 'others': [
        other | {'match': bool(match), 'advantage': _number(advantage)}
        for other, match, advantage in zip(
            one['alternatives'][step], arrays['candidate_matches'][step],
            advantages)]}
  return found


def _number(value: Any) -> float:
  return float(f'{float(value):.4g}')


def read_facts(workdir: pathlib.Path) -> list[str]:
  """The method, seed and progress of a run, from its config."""
  config = json.loads((workdir / 'config.json').read_text())
  done = len(metrics.read_metrics(workdir))
  return [config['method'], f'seed {config["seed"]}',
          f'{done} of {config["num_rounds"]} rounds', str(workdir)]
