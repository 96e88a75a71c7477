"""Trajectories as text: a JSON object a line, for other people's programs.

The first line is a header: `format`, `max_steps` (T) and `dtypes`, by the name
of a list in the lines that follow. Each of these is a step: id, kind, round,
slot, task, task_id, seed, instruction, return, success and valid of its
episode, and step, observation (an object of lists), actions, log_probs,
token_mask, text, and advantage (null where nobody learned from it).
"""

from collections.abc import Iterable, Iterator
import json
import pathlib
from typing import Any

import numpy as np

from step_jax.algorithm import types
from step_jax.runs import episodes as episodes_lib
from step_jax.runs import files

FORMAT = 'step_jax trajectories 1'
_OF_EPISODE = ('id', 'kind', 'round', 'slot', 'task', 'seed', 'instruction')
_TOKENS = ('actions', 'log_probs', 'token_mask')


def write(path: pathlib.Path, parts: Iterable[episodes_lib.Episodes]) -> int:
  """Writes the steps of episodes of one run; lost ones have none.

  Returns:
    The number of steps.

  Raises:
    WriteError: if it cannot be written.
  """
  lines: list[str] = []
  for part in parts:
    if not lines:
      lines.append(json.dumps({
          'format': FORMAT, 'max_steps': part.arrays['step_mask'].shape[1],
          'dtypes': {name: str(x.dtype) for name, x in part.arrays.items()
                     if name in _TOKENS or name.startswith('observations.')}}))
    lines += map(json.dumps, _steps(part))
  files.replace(path, ''.join(line + '\n' for line in lines).encode())
  return max(len(lines) - 1, 0)


def _steps(part: episodes_lib.Episodes) -> Iterator[dict[str, Any]]:
  for place, about in enumerate(part.about):
    arrays = {name: x[place] for name, x in part.arrays.items()}
    for step in range(about['steps']):
      yield {name: about[name] for name in _OF_EPISODE} | {
          'task_id': int(arrays['task_ids']),
          'return': float(arrays['returns']),
          'success': bool(arrays['successes']), 'valid': bool(arrays['valid']),
          'step': step, 'observation': {
              name: x.tolist() for name, x in
              episodes_lib.observation(arrays, step).items()},
          **{name: arrays[name][step].tolist() for name in _TOKENS},
          'text': about['actions'][step]['text'],
          'advantage': float(arrays['advantages'][step])
          if 'advantages' in arrays else None}


def read(path: pathlib.Path) -> types.Trajectory:
  """Reads what `write` wrote, `[B, T, ...]`; what was not played is 0.

  Raises:
    ValueError: if it is another file, or has no step.
  """
  header, *lines = map(json.loads, path.read_text().splitlines())
  if not isinstance(header, dict) or header.get('format') != FORMAT or (
      not lines):
    raise ValueError(f'expected a file of {FORMAT!r} with steps, got {path}')
  slots = {name: slot for slot, name in enumerate(
      dict.fromkeys(line['id'] for line in lines))}
  shape = (len(slots), header['max_steps'])

  def gather(name: str, values: Any) -> np.ndarray:
    found = np.asarray(values, header['dtypes'][name])
    stored = np.zeros(shape + found.shape[1:], found.dtype)
    stored[where] = found
    return stored

  where = tuple(np.array([
      [slots[line['id']], line['step']] for line in lines]).T)
  step_mask = np.zeros(shape, bool)
  step_mask[where] = True
  first = {line['id']: line for line in reversed(lines)}
  ids, returns, successes, valid = (
      np.array([first[name][field] for name in slots], dtype)
      for field, dtype in (('task_id', np.int32), ('return', np.float32),
                           ('success', bool), ('valid', bool)))
  return types.Trajectory(
      task_ids=ids, returns=returns, successes=successes, valid=valid,
      step_mask=step_mask, observations={
          name: gather(f'observations.{name}',
                       [line['observation'][name] for line in lines])
          for name in lines[0]['observation']},
      **{name: gather(name, [line[name] for line in lines])
         for name in _TOKENS})
