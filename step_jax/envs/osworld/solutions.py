"""Scripted solutions: `<task>.solution.json` beside `<task>.json`.

  {"steps": [{"verb": "click", "element": {"kind": "menu", "text": "File"}},
             {"verb": "type", "element": {"kind": "entry"}, "word": "a.txt"},
             {"verb": "done"}],
   "wrong": [... the same: a way that looks right and scores 0 ...]}
An element is named by kind, text and value, as far as they are given, and by
its index among those that fit (0 is the first, -1 the last). The last step is
done, or fail.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from step_jax.envs import base
from step_jax.envs.osworld import checks
from step_jax.envs.osworld import elements
from step_jax.envs.osworld import nodes
from step_jax.policies import element as element_policy

_ELEMENT = {'kind': 'text', 'text': 'any', 'value': 'any', 'index': 'whole'}
_MENU_ITEMS = nodes.MENU_KINDS - {'menu'}
_TARGETED = [verb for verb, targeted in zip(
    base.VERBS, element_policy.USES_ELEMENT) if targeted]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
  """Checked steps of the file."""
  steps: tuple[Mapping[str, Any], ...]
  wrong: tuple[Mapping[str, Any], ...] = ()


def load(path: pathlib.Path, instruction: str) -> Solution:
  """Reads a solution.

  Raises:
    TaskError: naming file and field.
  """
  field = checks.Field(path)
  try:
    value = json.loads(path.read_text('utf-8'))
  except (OSError, ValueError) as error:
    raise checks.TaskError(f'{path}: expected JSON, got {error}') from error
  checks.check_fields(
      value, field, required={'steps': 'list'}, optional={'wrong': 'list'})
  for name, steps in value.items():
    for index, step in enumerate(steps):
      _check_step(step, field[name][index], instruction)
    verbs = [step['verb'] for step in steps]
    if verbs[-1:] not in (['done'], ['fail']) or any(
        verb in ('done', 'fail') for verb in verbs[:-1]):
      raise field[name].error('steps of which the last is done or fail', steps)
  return Solution(steps=tuple(value['steps']),
                  wrong=tuple(value.get('wrong', ())))


def _check_step(step: Any, field: checks.Field, instruction: str) -> None:
  checks.check_kind(step, 'object', field)
  verb = step.get('verb')
  checks.check_choice(verb, base.VERBS, field['verb'])
  required = {'verb': 'text'}
  if verb in _TARGETED:
    required['element'] = 'object'
  if verb == 'type':
    required['word'] = 'text'
  checks.check_fields(step, field, required=required)
  if verb in _TARGETED:
    checks.check_fields(step['element'], field['element'], optional=_ELEMENT)
  if verb == 'type' and _word_index(step['word'], instruction) is None:
    raise field['word'].error('a word of the instruction', step['word'])


def _word_index(word: str, instruction: str) -> int | None:
  """The place of a word as it is typed or shown, among the first W."""
  for words in (elements.typed_words(instruction),
                base.split_words(instruction)):
    if word in words[:base.MAX_WORDS]:
      return words.index(word)
  return None


def propose(step: Mapping[str, Any], screen: base.Screen,
            instruction: str) -> np.ndarray | None:
  """Returns a step as action tokens [3], None while its element is absent.

  While a menu is open, what is not in a menu counts as absent: a click there
  would only close the menu.
  """
  verb = step['verb']
  if verb not in _TARGETED:
    return base.make_action(verb)
  wanted = dict(step['element'])
  place = wanted.pop('index', 0)
  fitting = [
      index for index, record in enumerate(screen.elements)
      if all(getattr(record, name) == text for name, text in wanted.items())
      and (verb != 'type' or record.editable)]
  if not -len(fitting) <= place < len(fitting):
    return None
  kinds = {record.kind for record in screen.elements}
  if kinds & _MENU_ITEMS and (
      screen.elements[fitting[place]].kind not in nodes.MENU_KINDS):
    return None
  word = (_word_index(step['word'], instruction) or 0) if verb == 'type' else 0
  return base.make_action(verb, fitting[place], word)
