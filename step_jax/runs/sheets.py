"""An episode as one picture: some of its screens, with the actions on them."""

from collections.abc import Callable
import pathlib
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from step_jax.runs import episodes as episodes_lib

_WIDTH, _HEIGHT = 240, 200  # pixels of a screen
_LINE = 14  # pixels of a line of text
_MOST = 8  # screens
_RED = '#d8281c'


def draw(
    episode: episodes_lib.Episodes,
    screen: Callable[[Any, str], dict[str, Any]],
    pictures: pathlib.Path) -> Image.Image:
  """Draws an episode.

  Args:
    episode: one, described.
    screen: of a row and an instruction: {'elements'} or {'picture'}, what was
      seen.
    pictures: the folder of JPEGs that `about` may name.

  Returns:
    An RGB image: a line on the episode, its first, its last and some screens
    between them.
  """
  about, = episode.about
  arrays = {name: x[0] for name, x in episode.arrays.items()}
  steps = np.unique(np.linspace(
      0, about['steps'] - 1, min(about['steps'], _MOST)).astype(int)).tolist()
  sheet = Image.new(
      'RGB', (_WIDTH * max(len(steps), 1), _HEIGHT + 2 * _LINE), 'white')
  pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
  outcome = about['failure'] and 'lost' or f'reward {about["reward"]:g}'
  pen.text((3, 1), f'{about["id"]}  {about["task"]}  {outcome}  '
           f'{about["instruction"]}', fill='black', font=font)
  for place, step in enumerate(steps):
    names = about.get('pictures') or [''] * about['steps']
    seen = _screen(screen(episodes_lib.observation(arrays, step),
                          about['instruction']), pictures / names[step], font)
    action = about['actions'][step]
    mark(seen, action, radius=4)
    corner = _WIDTH * place, _LINE
    sheet.paste(seen, corner)
    pen.rectangle((*corner, corner[0] + _WIDTH - 1, _LINE + _HEIGHT),
                  outline='#b0b0b0')
    said = Image.new('RGB', (_WIDTH - 6, _LINE), 'white')
    ImageDraw.Draw(said).text(
        (0, 0), f'{step + 1}: {action["text"]}'.replace('\n', ' '), fill=_RED,
        font=font)
    sheet.paste(said, (corner[0] + 3, _LINE + _HEIGHT + 1))
  return sheet


def _screen(shown: dict[str, Any], picture: pathlib.Path, font: Any
            ) -> Image.Image:
  """What was seen, as large as a screen of the sheet."""
  if 'picture' in shown:
    return Image.fromarray(shown['picture']).convert('RGB').resize(
        (_WIDTH, _HEIGHT))
  if picture.is_file():
    with Image.open(picture) as file:
      return file.convert('RGB').resize((_WIDTH, _HEIGHT))
  image = Image.new('RGB', (_WIDTH, _HEIGHT), '#f2f2f2')
  pen = ImageDraw.Draw(image)
  for element in shown.get('elements', ()):
    box = _pixels(element['box'], image.size)
    pen.rectangle(box, outline='#3060c0' if element['focused'] else '#a0a0a0')
    text = element['text'] or element['kind']
    if element['value']:
      text += f': {element["value"]}'
    pen.text((box[0] + 2, box[1] + 1), text + ' *' * element['selected'],
             fill='black', font=font)
  return image


def mark(image: Image.Image, action: dict[str, Any], *, radius: int) -> None:
  """Frames where an action hit; a point has a circle of `radius` pixels."""
  pen = ImageDraw.Draw(image)
  if 'box' in action:
    pen.rectangle(_pixels(action['box'], image.size), outline=_RED, width=2)
  for name in ('point', 'end'):
    if name in action:
      x, y = action[name][0] * image.width, action[name][1] * image.height
      pen.ellipse((x - radius, y - radius, x + radius, y + radius),
                  outline=_RED, width=2)


def _pixels(box: Any, size: tuple[int, int]
            ) -> tuple[float, float, float, float]:
  """Corners of a box `(left, top, width, height)` in fractions."""
  left, top, width, height = box
  return (left * size[0], top * size[1],
          (left + max(width, 0)) * size[0], (top + max(height, 0)) * size[1])
