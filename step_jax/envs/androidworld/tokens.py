"""What a small policy sees of a phone, and the tokens it acts by.

The observation, a dictionary of arrays of fixed shape:

  instruction  [W] int32       word ids, 0 = padding, as in `base`
  picture      [H, w, 3] uint8 the screen, every pixel a mean over its area

An action is three integers, verb, cell and word: an index of VERBS; a cell of
a grid over the screen, counted row by row, whose centre is touched; and which
word of the instruction is typed. AndroidWorld presses Enter after it.
"""

from collections.abc import Sequence
from typing import Any

from gymnasium import spaces
import numpy as np
from PIL import Image

from step_jax.codecs import actions
from step_jax.codecs import json_action
from step_jax.envs import base
from step_jax.policies import grid as grid_policy

VERBS = grid_policy.VERBS  # V
USES_CELL, USES_WORD = (
    tuple(uses.tolist())
    for uses in (grid_policy.USES_CELL, grid_policy.USES_WORD))

# That of a phone, so that a cell is a square of four by four pixels.
PICTURE_SIZE = (80, 36)  # H, w
GRID = grid_policy.GRID  # rows, columns

Observation = dict[str, np.ndarray]

_INT32_MAX = np.iinfo(np.int32).max
_FIXED = {
    'back': actions.Action(kind='press_back'),
    'home': actions.Action(kind='press_home'),
    'done': actions.Action(kind='done'),
    **{f'scroll_{direction}': actions.Action(
        kind='scroll', direction=direction, amount=json_action.SCROLL_AMOUNT)
       for direction in ('up', 'down')}}


def example(picture_size: tuple[int, int] = PICTURE_SIZE) -> Observation:
  """An empty screen, for shapes."""
  return observe((), np.zeros((*picture_size, 3), np.uint8))


def observation_space(
    picture_size: tuple[int, int] = PICTURE_SIZE) -> spaces.Dict:
  """The space of the observations."""
  return spaces.Dict({
      'instruction': spaces.Box(0, _INT32_MAX, (base.MAX_WORDS,), np.int32),
      'picture': spaces.Box(0, 255, (*picture_size, 3), np.uint8)})


def action_space(grid: tuple[int, int] = GRID) -> spaces.MultiDiscrete:
  """Verb, cell, instruction word index."""
  return spaces.MultiDiscrete([len(VERBS), grid[0] * grid[1], base.MAX_WORDS])


def make_action(verb: str, cell: int = 0, word: int = 0) -> np.ndarray:
  """Returns the action tokens [3] int64 of a verb and its arguments."""
  return np.array([VERBS.index(verb), cell, word], np.int64)


def decode(tokens: Any, words: Sequence[str],
           grid: tuple[int, int] = GRID) -> actions.Action | None:
  """Returns what legal tokens do, None for any others.

  Arguments that the verb does not use are ignored. Whatever `tokens` is, this
  does not raise.
  """
  try:
    verb_index, cell, word = (int(token) for token in np.ravel(tokens))
  except (TypeError, ValueError, OverflowError):
    return None
  if not 0 <= verb_index < len(VERBS):
    return None
  verb = VERBS[verb_index]
  rows, columns = grid
  if USES_CELL[verb_index]:
    if not 0 <= cell < rows * columns:
      return None
    row, column = divmod(cell, columns)
    return actions.Action(
        kind=verb, point=((column + .5) / columns, (row + .5) / rows))
  if not USES_WORD[verb_index]:
    return _FIXED[verb]
  try:
    return actions.Action(kind='type', text=words[word]) if word >= 0 else None
  except (IndexError, actions.ActionError):
    return None


def encode(action: actions.Action, words: Sequence[str],
           grid: tuple[int, int] = GRID) -> np.ndarray:
  """Returns the tokens of an action, a point being moved to its cell's centre.

  Raises:
    ValueError: no tokens say it.
  """
  rows, columns = grid
  if action.kind in ('click', 'long_press'):
    assert action.point is not None
    column, row = (
        min(int(fraction * size), size - 1)
        for fraction, size in zip(action.point, (columns, rows), strict=True))
    return make_action(action.kind, row * columns + column)
  if action.kind == 'type' and action.text.removesuffix('\n') in words:
    return make_action(
        'type', word=list(words).index(action.text.removesuffix('\n')))
  for verb, fixed in _FIXED.items():
    if action == fixed:
      return make_action(verb)
  raise ValueError(f'expected an action that tokens can say, got {action}')


def shrink(screen: np.ndarray,
           picture_size: tuple[int, int] = PICTURE_SIZE) -> np.ndarray:
  """Returns the picture of a screen [height, width, 3] uint8."""
  return np.asarray(Image.fromarray(screen).resize(
      picture_size[::-1], Image.Resampling.BOX))


def observe(words: Sequence[str], picture: np.ndarray) -> Observation:
  """Returns the observation of the instruction's words and a picture."""
  instruction = np.zeros(base.MAX_WORDS, np.int32)
  instruction[:len(words)] = [base.word_id(word) for word in words]
  return {'instruction': instruction, 'picture': picture}
