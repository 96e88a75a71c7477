"""What rows and tokens of a run mean to people: words, places, screens."""

from collections.abc import Callable
import functools
import json
import pathlib
import sys
from typing import Any

import numpy as np
from PIL import Image

from experiments import setups
from step_jax.codecs import ui_tars
from step_jax.envs import base
from step_jax.envs import worlds
from step_jax.envs.desk import state as desk
from step_jax.policies import element
from step_jax.policies import grid
from step_jax.policies.qwen_vl import images
from step_jax.rollout import pictures
from step_jax.runs import episode_log
from step_jax.runs import episodes
from step_jax.runs import sheets
from step_jax.runs import trackers

_MOST_SHEETS = 10  # that trackers get at an evaluation

# Words that are hashes in a row: Desk's, and kinds of elements elsewhere.
_WORDS = {base.word_id(word): word for word in (*desk.TASKS.words, *"""
    a area button canvas check-box checkbox combo-box div document-web entry
    frame heading icon img input_checkbox input_date input_number
    input_password input_radio input_text item label li link list-item menu
    menu-item ok p page-tab panel paragraph push-button radio radio-button
    search section select span t tab table-cell td text textarea th
    toggle-button tree-item tspan
    """.split()) if word}


def open_log(
    setup: setups.Setup, workdir: pathlib.Path, done: int
) -> episode_log.EpisodeLog:
  """The episodes of a run of which `done` rounds are done."""
  bounds = episode_log.Bounds(**setup.config.episodes)
  get_picture: Callable[[int], Image.Image] | None = None
  field = worlds.picture_field(setup.world)
  if field is not None and bounds.rounds:
    drive: Any = setup.world.make_env
    get_picture = pictures.ScreenshotStore(
        drive.keywords[field], capacity=sys.maxsize).get
  return episode_log.EpisodeLog(
      workdir, done, setup.world.tasks, bounds, make_reader(setup), get_picture)


def open_trackers(
    setup: setups.Setup, workdir: pathlib.Path, done: int,
    say: Callable[[str], None]) -> trackers.Trackers:
  """The trackers of a run of which `done` rounds are done."""
  config = setup.config
  return trackers.Trackers(
      config.trackers, workdir, done, json.loads(config.to_json()), say)


def draw_evaluation(kept: episode_log.EpisodeLog, workdir: pathlib.Path,
                    num_rounds: int) -> list[Image.Image]:
  """Some episodes of an evaluation, a picture each."""
  return [sheets.draw(episode, screen, workdir / 'episodes' / 'pictures')
          for episode in kept.of_evaluation(num_rounds)[:_MOST_SHEETS]]


def make_reader(setup: setups.Setup) -> episodes.Reader:
  """What says of tokens what they do, and where."""
  config = setup.config
  if config.policy.name == 'element':
    return episodes.Reader(_element_action, _instruction)
  if config.policy.name == 'grid':
    cells = tuple(config.env.arguments.get('grid', grid.GRID))
    return episodes.Reader(
        functools.partial(_grid_action, cells), _instruction)
  return episodes.Reader(
      functools.partial(_written_action, setup), lambda row: '')


def words_of(ids: np.ndarray, instruction: str = '') -> list[str]:
  """The words of hashes `[n]`; '…' for one that nobody knows."""
  told = _told(instruction)
  return [_WORDS.get(number) or told.get(number, '…')
          for number in ids.tolist() if number]


@functools.lru_cache
def _told(instruction: str) -> dict[int, str]:
  return {base.word_id(word): word for word in base.split_words(instruction)}


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


def _instruction(row: Any) -> str:
  return ' '.join(words_of(row['instruction']))


def _word(row: Any, place: int, instruction: str) -> str:
  return ' '.join(words_of(row['instruction'][place:place + 1], instruction))


def _element_action(
    row: Any, tokens: np.ndarray, instruction: str) -> dict[str, Any]:
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


def _grid_action(cells: tuple[int, int], row: Any, tokens: np.ndarray,
                 instruction: str) -> dict[str, Any]:
  verb, place, word = tokens.tolist()
  text = grid.VERBS[verb].replace('_', ' ')
  if grid.USES_WORD[verb]:
    return {'text': f'{text} {_word(row, word, instruction)!r}'}
  if not grid.USES_CELL[verb]:
    return {'text': text}
  (rows, columns), (top, left) = cells, divmod(place, cells[1])
  return {'text': f'{text} row {top + 1}, column {left + 1}',
          'box': [left / columns, top / rows, 1 / columns, 1 / rows]}


def _written_action(setup: setups.Setup, row: Any, tokens: np.ndarray,
                    instruction: str) -> dict[str, Any]:
  """What a vision-language model wrote, and the point that it names."""
  del instruction
  text = setup.codec.decode(row, tokens)
  drive: Any = setup.world.make_env
  form = {name: drive.keywords[name] for name in ('convention', 'platform')}
  height, width = images.smart_resize(
      *row['size'][::-1].tolist(), **{
          name: drive.keywords[name] for name in ('min_pixels', 'max_pixels')})
  action = ui_tars.read(text, image_size=(width, height), **form)
  found: dict[str, Any] = {'text': text}
  if action is None:
    return found | {'unread': True}
  found['kind'] = action.kind
  if action.point is not None:
    found['point'] = list(action.point)
  if action.end is not None:
    found['end'] = list(action.end)
  return found
