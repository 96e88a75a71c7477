"""Pictures of Desk's screens, for people; the agent reads the widgets."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from step_jax.envs import base
from step_jax.envs.desk import simulator
from step_jax.policies import element

WIDTH, HEIGHT = 300, 360
_BAR = 34  # pixels for the instruction
_TEXT = 12  # pixels
_WORDS = {base.word_id(word): word for word in simulator.TASKS.words}
_FILL = {
    'button': '#dbe7f5', 'tab': '#e8e2f3', 'menu': '#e8e2f3',
    'item': '#ffffff', 'field': '#ffffff', 'label': '#f2f2f2',
    'checkbox': '#f2f2f2', 'radio': '#f2f2f2'}
_MARKS = {'checkbox': ('[ ] ', '[x] '), 'radio': ('( ) ', '(o) ')}


def draw(
    observation: Mapping[str, Any], tokens: Any = None) -> Image.Image:
  """Draws a screen, and frames the element that an action points at.

  Args:
    observation: of `simulator.observe`, unbatched.
    tokens: `[3]` int, an action, or None.

  Returns:
    An RGB image.
  """
  image = Image.new('RGB', (WIDTH, HEIGHT), '#f2f2f2')
  pen = ImageDraw.Draw(image)
  font = ImageFont.load_default(_TEXT)
  pen.rectangle((0, 0, WIDTH, _BAR), fill='#fff4c2')
  sentence = ' '.join(
      _WORDS[int(word)] for word in observation['instruction'] if word)
  for line, text in enumerate(_wrap(sentence, 46)[:2]):
    pen.text((4, 2 + 15 * line), text, fill='black', font=font)
  scale = np.array([WIDTH, HEIGHT - _BAR, WIDTH, HEIGHT - _BAR])
  for place in np.flatnonzero(observation['element_type']):
    left, top, width, height = observation['element_box'][place] * scale
    box = (left + 1, _BAR + top + 1, left + width - 2, _BAR + top + height - 2)
    kind = _WORDS[int(observation['element_type'][place])]
    focused, changed, selected, _ = observation['element_flags'][place]
    chosen = (tokens is not None and element.USES_ELEMENT[int(tokens[0])]
              and int(tokens[1]) == place)
    pen.rectangle(
        box, fill=_FILL[kind], width=2 if chosen or focused else 1,
        outline='#d03030' if chosen else '#3060c0' if focused else '#a0a0a0')
    text = _WORDS[int(observation['element_text'][place, 0])]
    value = int(observation['element_value'][place, 0])
    text = _MARKS.get(kind, ('', ''))[int(selected)] + text
    if value or kind == 'field':
      text += f': {_WORDS[value]}'
    pen.text((box[0] + 5, box[1] + 3), text + ' *' * bool(changed),
             fill='black', font=font)
  if tokens is not None:
    pen.text((4, HEIGHT - 16), describe(observation, tokens), fill='#d03030',
             font=font)
  return image


def describe(observation: Mapping[str, Any], tokens: Any) -> str:
  """An action in words, such as 'type amber'.

  Args:
    observation: of `simulator.observe`, unbatched, before the action.
    tokens: `[3]` int: verb, element and instruction word.
  """
  verb, place, position = (int(token) for token in tokens)
  words = [element.VERBS[verb].replace('_', ' ')]
  if element.USES_WORD[verb]:
    words.append(_WORDS[int(observation['instruction'][position])])
  elif element.USES_ELEMENT[verb]:
    words.append(_WORDS[int(observation['element_text'][place, 0])])
  return ' '.join(words)


def _wrap(text: str, width: int) -> list[str]:
  lines = ['']
  for word in text.split():
    if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
      lines.append(word)
    else:
      lines[-1] = f'{lines[-1]} {word}'.strip()
  return lines
