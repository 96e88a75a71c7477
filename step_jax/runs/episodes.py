"""Episodes in a file: what was seen and done, as plain arrays and JSON.

A file `DIR/episodes/<name>.npz` holds n episodes, read without pickle:

  about         [] str, JSON: a list of n objects, see `select`
  <field>       the fields of `types.Trajectory`, [n, ...]
  observations.<name>  its observations, [n, T, ...]
  advantages    [n, T] float32, those of a round only, as the rest:
  grouped       [n, T] bool, steps that a step-level group replaced
  candidate_actions, candidate_log_probs, candidate_token_mask [n, T, K, L]
  candidate_advantages, candidate_matches [n, T, K], where `grouped`
"""

from collections.abc import Callable, Sequence
import dataclasses
import io
import json
import pathlib
from typing import Any, NamedTuple
import zipfile

import jax
import numpy as np

from step_jax.algorithm import types
from step_jax.rollout import collect as collect_lib
from step_jax.runs import files
from step_jax.runs import metrics

_FIELDS = tuple(field.name for field in dataclasses.fields(types.Trajectory)
                if field.name != 'observations')
_CANDIDATES = ('actions', 'log_probs', 'token_mask', 'advantages')


class Reader(NamedTuple):
  """What rows and tokens mean, for people."""
  # (row, tokens [L], instruction) -> {'text', 'box' or 'point' and 'end'}:
  # in words, and where it hits, in fractions of the screen
  action: Callable[[Any, np.ndarray, str], dict[str, Any]]
  instruction: Callable[[Any], str]  # of a row, where nobody tells it


class Episodes(NamedTuple):
  """Some episodes; `take` and `join` make others of them."""
  about: list[dict[str, Any]]  # n
  arrays: dict[str, np.ndarray]  # [n, ...] each

  def take(self, index: Sequence[int]) -> 'Episodes':
    """Those of some places, in that order."""
    chosen = np.asarray(index, int)
    return Episodes([self.about[i] for i in chosen],
                    {name: x[chosen] for name, x in self.arrays.items()})


def join(parts: Sequence[Episodes]) -> Episodes:
  """Episodes of one run, one after the other."""
  return Episodes(
      [about for part in parts for about in part.about],
      {name: np.concatenate([part.arrays[name] for part in parts])
       for name in parts[0].arrays})


def select(
    collection: collect_lib.Collection,
    slots: np.ndarray,
    tasks: Sequence[str],
    *,
    kind: str,
    rounds: int,
    batch: types.RoundBatch | None = None,
    success_rate: np.ndarray | None = None,
) -> Episodes:
  """Takes some slots out of a round or an evaluation.

  Args:
    collection: B trajectories.
    slots: `[n]` int.
    tasks: N names.
    kind: 'round', 'evaluation' or 'drawn', an evaluation of fresh draws.
    rounds: the round, counted from 0, or rounds done before an evaluation.
    batch: what is learned from the round, S = B*T.
    success_rate: `[N]` s_hat after the round.

  Returns:
    n episodes. `about` has id, kind, round, slot, task, seed, instruction,
    reward, success, steps, s_hat (None in an evaluation), and failure: what
    infrastructure it was lost to, or ''.
  """
  trajectory, batch = jax.device_get((collection.trajectory, batch))
  arrays = {name: getattr(trajectory, name) for name in _FIELDS}
  arrays |= metrics.flatten({'observations': trajectory.observations})
  shape = trajectory.step_mask.shape
  if batch is not None:
    arrays['advantages'] = batch.singles.advantages.reshape(shape)
    if batch.groups is not None:
      arrays |= _candidates(batch.groups, shape)
  arrays = {name: np.asarray(x)[slots] for name, x in arrays.items()}
  notes = collection.notes
  about = []
  for place, slot in enumerate(slots.tolist()):
    task_id = int(arrays['task_ids'][place])
    about.append({
        'id': f'{kind[0]}{rounds}-{slot}', 'kind': kind, 'round': rounds,
        'slot': slot, 'task': tasks[task_id],
        'seed': None if notes is None else int(notes.seeds[slot]),
        'instruction': '' if notes is None else str(notes.instructions[slot]),
        'reward': float(arrays['returns'][place]),
        'success': bool(arrays['successes'][place]),
        'steps': int(arrays['step_mask'][place].sum()),
        's_hat': None if success_rate is None
        else round(float(success_rate[task_id]), 4),
        'failure': '' if arrays['valid'][place] else
        (notes and str(notes.losses[slot])) or 'lost'})
  return Episodes(about, arrays)


def _candidates(
    groups: types.StepBatch, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
  """The alternatives, by slot and step."""
  found: dict[str, np.ndarray] = {'grouped': groups.mask.any(axis=1)}
  for name in _CANDIDATES:
    found[f'candidate_{name}'] = np.asarray(getattr(groups, name))
  # Those that match have one advantage, the others another, or all have 0.
  found['candidate_matches'] = (
      groups.advantages == groups.advantages[:, :1]) & groups.mask
  return {name: x.reshape(shape + x.shape[1:]) for name, x in found.items()}


def describe(episodes: Episodes, read: Reader) -> None:
  """Writes into `about` what the tokens mean, where that is missing.

  Args:
    episodes: get 'actions', an object a step, and 'alternatives', None or a
      list of K objects a step.
    read: of the policy.
  """
  for place, about in enumerate(episodes.about):
    if 'actions' in about:
      continue
    arrays = {name: x[place] for name, x in episodes.arrays.items()}
    grouped = arrays.get('grouped', np.zeros(about['steps'], bool))
    rows = [observation(arrays, step) for step in range(about['steps'])]
    if rows and not about['instruction']:
      about['instruction'] = read.instruction(rows[0])
    told = about['instruction']
    about['actions'] = [read.action(row, arrays['actions'][step], told)
                        for step, row in enumerate(rows)]
    about['alternatives'] = [
        [read.action(row, tokens, told)
         for tokens in arrays['candidate_actions'][step]]
        if grouped[step] else None for step, row in enumerate(rows)]


def observation(arrays: dict[str, np.ndarray], step: int) -> Any:
  """The row that the policy read at a step of an episode."""
  prefix = 'observations.'
  return {name.removeprefix(prefix): x[step] for name, x in arrays.items()
          if name.startswith(prefix)}


def as_trajectory(episodes: Episodes) -> types.Trajectory:
  """The record that the algorithm reads, B = n, bit by bit what it was.

  Observations that were nested dictionaries are flat, by names such as 'a.b'.
  """
  arrays = episodes.arrays
  return types.Trajectory(
      observations={
          name.partition('.')[2]: x for name, x in arrays.items()
          if name.startswith('observations.')},
      **{name: arrays[name] for name in _FIELDS})


def save(path: pathlib.Path, episodes: Episodes) -> None:
  """Writes a file, at once.

  Raises:
    WriteError: if it cannot be written.
  """
  content = io.BytesIO()
  about = np.array(json.dumps(episodes.about))
  # As numpy.savez_compressed, in a quarter of the time.
  with zipfile.ZipFile(
      content, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
    for name, x in {'about': about, **episodes.arrays}.items():
      with archive.open(f'{name}.npy', 'w') as file:
        np.lib.format.write_array(file, np.asanyarray(x), allow_pickle=False)
  files.replace(path, content.getvalue())


def load(path: pathlib.Path) -> Episodes:
  """Reads what `save` wrote."""
  with np.load(path) as file:
    arrays = dict(file.items())
  return Episodes(json.loads(str(arrays.pop('about'))), arrays)


def read_about(path: pathlib.Path) -> list[dict[str, Any]]:
  """Reads `about` alone, which is quick."""
  with np.load(path) as file:
    return json.loads(str(file['about']))


def load_all(folder: pathlib.Path) -> list[Episodes]:
  """Reads every file of a folder, which its owner may be writing to.

  What the owner keeps of a file it writes into another before it removes that
  one: what is gone meanwhile is looked for again, what is there twice is once.
  """
  while True:
    try:
      parts = [load(path) for path in sorted(folder.glob('*.npz'))]
      break
    except FileNotFoundError:
      continue
  seen: set[str] = set()
  found = []
  for part in parts:
    fresh = [place for place, about in enumerate(part.about)
             if about['id'] not in seen]
    seen.update(about['id'] for about in part.about)
    if fresh:
      found.append(part.take(fresh))
  return found
