"""Which episodes a run keeps, and that they follow its checkpoints.

Kept are, by content alone: some slots of each of the last rounds, every task's
first success and latest failure, and some episodes of every evaluation. What is
added waits in memory until a checkpoint is saved, so that a run that goes on
from one keeps what an uninterrupted one does.
"""

from collections.abc import Callable, Sequence
import io
import pathlib
from typing import Any, NamedTuple
import zipfile

import numpy as np
from PIL import Image

from step_jax.algorithm import types
from step_jax.rollout import collect as collect_lib
from step_jax.runs import episodes as episodes_lib
from step_jax.runs import files

_DAMAGED = (KeyError, ValueError, zipfile.BadZipFile)
_QUALITY = 85  # of a JPEG


class Bounds(NamedTuple):
  """How much is kept; with `rounds` 0, nothing is."""
  rounds: int  # the last ones
  slots: int  # of each
  eval_slots: int  # of each evaluation
  picture_size: int  # pixels of the longer side


class EpisodeLog:
  """The episodes of a run, in `DIR/episodes`.

  Args:
    directory: the run's folder; theirs is made when there are some.
    num_rounds: rounds that are done; what is later is cut off.
    tasks: N names.
    bounds: how much is kept.
    read: what tokens mean.
    get_picture: of a number in observations' 'screenshot'; KeyError if it is
      gone.

  Raises:
    WriteError: from every method, if something cannot be written.
  """

  def __init__(
      self, directory: pathlib.Path, num_rounds: int, tasks: Sequence[str],
      bounds: Bounds, read: episodes_lib.Reader,
      get_picture: Callable[[int], Image.Image] | None = None):
    self._folder = directory / 'episodes'
    self._pictures = self._folder / 'pictures'
    self._tasks = tasks
    self._bounds = bounds
    self._read = read
    self._get_picture = get_picture
    self._files: dict[pathlib.Path, list[dict[str, Any]]] = {}
    self._waiting: list[episodes_lib.Episodes] = []
    for path in sorted(self._folder.glob('until_*.npz')):
      try:
        self._files[path] = episodes_lib.read_about(path)
      except _DAMAGED:  # not ours to mend, and not what a run depends on
        path.unlink()
    self._keep_only(lambda about: _done_by(about, num_rounds))
    self._solved = {about['task'] for about in self._index()
                    if _is_first(about)}

  def add_round(
      self, round_index: int, collection: collect_lib.Collection,
      batch: types.RoundBatch, success_rate: Any) -> None:
    """Takes what is to be kept of a round; see `episodes.select`."""
    if not self._bounds.rounds:
      return
    ids, successes, valid = (np.asarray(x) for x in (
        collection.trajectory.task_ids, collection.trajectory.successes,
        collection.trajectory.valid))
    chosen = set(_spread(len(ids), self._bounds.slots, round_index))
    for task_id in np.unique(ids).tolist():
      of_task = valid & (ids == task_id)
      failed = np.flatnonzero(of_task & ~successes)
      chosen.update(failed[:1].tolist())
      solved = np.flatnonzero(of_task & successes)
      if solved.size and self._tasks[task_id] not in self._solved:
        self._solved.add(self._tasks[task_id])
        chosen.add(int(solved[0]))
    self._wait(episodes_lib.select(
        collection, np.array(sorted(chosen)), self._tasks, kind='round',
        rounds=round_index, batch=batch, success_rate=np.asarray(success_rate)))

  def add_evaluation(
      self, num_rounds: int, collection: collect_lib.Collection, *,
      is_drawn: bool = False) -> None:
    """Takes some episodes of an evaluation after `num_rounds` rounds."""
    if not self._bounds.rounds:
      return
    slots = _spread(
        len(collection.trajectory.valid), self._bounds.eval_slots, 0)
    self._wait(episodes_lib.select(
        collection, np.array(sorted(set(slots))), self._tasks,
        kind='drawn' if is_drawn else 'evaluation', rounds=num_rounds))

  def of_evaluation(self, num_rounds: int) -> list[episodes_lib.Episodes]:
    """What waits of the evaluation after `num_rounds`, described, one each."""
    found = [part.take([place]) for part in self._waiting
             for place, about in enumerate(part.about)
             if about['kind'] != 'round' and about['round'] == num_rounds]
    for one in found:
      episodes_lib.describe(one, self._read)
    return found

  def write(self, num_rounds: int) -> None:
    """Writes what is kept of the rounds done; before their checkpoint."""
    whole = [part.take([i for i, about in enumerate(part.about)
                        if _done_by(about, num_rounds)])
             for part in self._waiting]
    self._waiting = []
    live = _live(self._index() + [
        about for part in whole for about in part.about],
        num_rounds - self._bounds.rounds)
    kept = [part.take([i for i, about in enumerate(part.about)
                       if about['id'] in live]) for part in whole]
    for name, belongs in _KINDS.items():
      of_kind = [part for part in kept
                 if part.about and part.about[0]['kind'] in belongs]
      # Evaluations know no advantages, so they are no part of a round's file.
      if of_kind:
        joined = episodes_lib.join(of_kind)
        episodes_lib.describe(joined, self._read)
        self._save(name, joined)

  def prune(self, num_rounds: int) -> None:
    """Removes what is no longer kept; after the rounds' checkpoint."""
    first = num_rounds - self._bounds.rounds
    if self._bounds.rounds:
      live = _live(self._index(), first)
      self._keep_only(lambda about: about['id'] in live)

  def _wait(self, taken: episodes_lib.Episodes) -> None:
    for place, about in enumerate(taken.about):
      if self._get_picture and 'observations.screenshot' in taken.arrays:
        numbers = taken.arrays['observations.screenshot'][place]
        about['pictures'] = [
            self._copy_picture(int(number))
            for number in numbers[:about['steps']]]
    self._waiting.append(taken)

  def _copy_picture(self, number: int) -> str:
    """Makes a JPEG of a picture in the store; '' if it is gone."""
    assert self._get_picture is not None
    try:
      picture = self._get_picture(number).convert('RGB')
    except KeyError:
      return ''
    picture.thumbnail((self._bounds.picture_size,) * 2)
    content = io.BytesIO()
    picture.save(content, 'JPEG', quality=_QUALITY)
    with files.writing(self._pictures):
      self._pictures.mkdir(parents=True, exist_ok=True)
    name = f'{number:010d}.jpg'
    files.replace(self._pictures / name, content.getvalue())
    return name

  def _index(self) -> list[dict[str, Any]]:
    return [about for part in self._files.values() for about in part]

  def _save(self, name: str, episodes: episodes_lib.Episodes) -> None:
    newest = max(about['round'] for about in episodes.about)
    path = self._folder / f'until_{newest:06d}_{name}.npz'
    with files.writing(self._folder):
      self._folder.mkdir(parents=True, exist_ok=True)
    episodes_lib.save(path, episodes)
    self._files[path] = episodes.about

  def _keep_only(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
    """Removes all others, and pictures that nobody names."""
    for path, index in list(self._files.items()):
      kept = [i for i, about in enumerate(index) if is_kept(about)]
      if len(kept) == len(index):
        continue
      del self._files[path]
      if kept:
        rest = episodes_lib.load(path).take(kept)
        self._save(path.stem.rpartition('_')[2], rest)
      if path not in self._files:
        path.unlink()
    named = {name for about in self._index()
             for name in about.get('pictures', ())}
    for part in self._waiting:
      named.update(*(about.get('pictures', ()) for about in part.about))
    for picture in self._pictures.glob('[0-9]*.jpg'):
      if picture.name not in named:
        picture.unlink(missing_ok=True)


# What lies in one file.
_KINDS = {'rounds': ('round',), 'evaluations': ('evaluation', 'drawn')}


def _spread(total: int, number: int, round_index: int) -> list[int]:
  """Slots that are far apart, others in each round."""
  number = min(total, number)
  return [(round_index + i * total // number) % total for i in range(number)]


def _done_by(about: dict[str, Any], num_rounds: int) -> bool:
  """Whether an episode is of what a checkpoint of `num_rounds` knows."""
  return about['round'] + (about['kind'] == 'round') <= num_rounds


def _is_first(about: dict[str, Any]) -> bool:
  return about['kind'] == 'round' and about['success']


def _live(index: Sequence[dict[str, Any]], first_round: int) -> set[str]:
  """The ids of what is kept; of these alone, it would be the same."""
  kept = {about['id'] for about in index
          if about['kind'] != 'round' or about['round'] >= first_round}
  first: dict[str, str] = {}
  latest: dict[str, tuple[int, str]] = {}
  of_rounds = [about for about in index if about['kind'] == 'round']
  for about in sorted(of_rounds, key=lambda x: (x['round'], x['slot'])):
    task = about['task']
    if about['success']:
      first.setdefault(task, about['id'])
    elif not about['failure'] and latest.get(task, (-1,))[0] < about['round']:
      latest[task] = about['round'], about['id']
  return kept | set(first.values()) | {name for _, name in latest.values()}
