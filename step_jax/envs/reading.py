"""What rows and tokens mean to people: words, places, screens."""

import functools
from typing import Any

import numpy as np

from step_jax.codecs import ui_tars
from step_jax.envs import base
from step_jax.envs.desk import state as desk
from step_jax.policies import element
from step_jax.policies import grid
from step_jax.policies.qwen_vl import images

# Words that are hashes in a row: Desk's, and kinds of elements elsewhere.
_WORDS = {base.word_id(word): word for word in (*desk.TASKS.words, *"""
    a area button canvas check-box checkbox combo-box div document-web entry
    frame heading icon img input_checkbox input_date input_number
    input_password input_radio input_text item label li link list-item menu
    menu-item ok p page-tab panel paragraph push-button radio radio-button
    search section select span t tab table-cell td text textarea th
    toggle-button tree-item tspan
    """.split()) if word}


def words_of(ids: np.ndarray, instruction: str = '') -> list[str]:
  """The words of hashes `[n]`; '…' for one that nobody knows."""
  told = _told(instruction)
  return [_WORDS.get(number) or told.get(number, '…')
          for number in ids.tolist() if number]


@functools.lru_cache
def _told(instruction: str) -> dict[int, str]:
  return {base.word_id(word): word for word in base.split_words(instruction)}


def instruction_of(row: Any) -> str:
  """The task in the words of a row, where nobody tells it."""
  return ' '.join(words_of(row['instruction']))


def screen(row: Any, instruction: str) -> dict[str, Any]:
  """What there is to be seen of a row, but for pictures in a store.

  Args:
    row: an observation, unbatched.
    instruction: the task in words, which names hashes.

  Returns:
    'elements', a list of {kind, text, value, focused, changed, selected, box},
    or 'picture', `[H, w, 3]` uint8, or nothing.
  """
  if 'picture' in row:
    return {'picture': row['picture']}
  if 'element_text' not in row:
    return {}
  known = functools.partial(words_of, instruction=instruction)
  return {'elements': [{
      'kind': ' '.join(known(row['element_type'][place:place + 1])),
      'text': ' '.join(known(row['element_text'][place])),
      'value': ' '.join(known(row['element_value'][place])),
      **dict(zip(base.FLAGS, row['element_flags'][place].tolist())),
      'box': row['element_box'][place].round(4).tolist(),
  } for place in np.flatnonzero(row['element_type']).tolist()]}


def element_action(
    row: Any, tokens: np.ndarray, instruction: str) -> dict[str, Any]:
  """What an element policy does.

  Args:
    row: an observation, unbatched.
    tokens: `[3]` int.
    instruction: the task in words, which names hashes.

  Returns:
    'text', in words, and 'box', where it hits, in fractions of the screen.
  """
  verb, place, word = tokens.tolist()
  said = [element.VERBS[verb].replace('_', ' ')]
  if element.USES_WORD[verb]:
    said += [repr(_word(row, word, instruction)), 'into']
  if not element.USES_ELEMENT[verb]:
    return {'text': said[0]}
  said += words_of(row['element_type'][place:place + 1])
  said += words_of(row['element_text'][place], instruction)
  return {'text': ' '.join(said),
          'box': row['element_box'][place].round(4).tolist()}


def grid_action(
    row: Any, tokens: np.ndarray, instruction: str, *,
    cells: tuple[int, int] = grid.GRID) -> dict[str, Any]:
  """What a grid policy does; see `element_action`.

  Args:
    row, tokens, instruction: likewise.
    cells: rows and columns of the grid.
  """
  verb, place, word = tokens.tolist()
  text = grid.VERBS[verb].replace('_', ' ')
  if grid.USES_WORD[verb]:
    return {'text': f'{text} {_word(row, word, instruction)!r}'}
  if not grid.USES_CELL[verb]:
    return {'text': text}
  (rows, columns), (top, left) = cells, divmod(place, cells[1])
  return {'text': f'{text} row {top + 1}, column {left + 1}',
          'box': [left / columns, top / rows, 1 / columns, 1 / rows]}


def _word(row: Any, place: int, instruction: str) -> str:
  return ' '.join(words_of(row['instruction'][place:place + 1], instruction))


def written_action(
    text: str, size: np.ndarray, *, convention: ui_tars.Convention,
    platform: ui_tars.Platform, min_pixels: int, max_pixels: int
) -> dict[str, Any]:
  """What a vision-language model wrote, read as its environment reads it.

  Args:
    text: what it wrote.
    size: `[2]` int, width and height of the picture in the store.
    convention, platform, min_pixels, max_pixels: of its
      `picture_env.PictureEnv`.

  Returns:
    'text', and 'unread', or 'kind' with the 'point' and the 'end' that it
    names, in fractions of the screen.
  """
  height, width = images.smart_resize(
      *size[::-1].tolist(), min_pixels=min_pixels, max_pixels=max_pixels)
  action = ui_tars.read(text, image_size=(width, height),
                        convention=convention, platform=platform)
  found: dict[str, Any] = {'text': text}
  if action is None:
    return found | {'unread': True}
  found['kind'] = action.kind
  if action.point is not None:
    found['point'] = list(action.point)
  if action.end is not None:
    found['end'] = list(action.end)
  return found
