"""Pages of widgets, compiled to the tables that the simulator runs on.

An application is data: variables that hold words, and pages of widgets that
show and change them. `compile_desktop` cuts pages that are longer than the
window into views, one for each position of the scroll bar. Everything here is
numpy, computed once when the module is imported.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from step_jax.envs.desk import tables as tables_lib
from step_jax.envs.desk.tables import Tables
from step_jax.envs.desk.tables import WINDOW

READ = 'variable:'

_ROW = 1 / 13  # height of a widget; the first row holds what is pinned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variable:
  """Something that can be changed; it always holds a word.

  A change is a draft until its group is saved, or saved at once if it has
  no group.
  """
  name: str
  options: tuple[str, ...] = ()  # () is any name; initially one of them
  group: str = ''
  guarded: bool = False  # begins with options[0]; a change not asked for harms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widget:
  """One widget; what a click on it does."""
  kind: str
  text: str = ''  # a word, or READ + NAME, the saved word of a variable
  shows: str = ''  # the variable whose draft it displays
  sets: tuple[str, str] | None = None  # variable and word
  toggles: str = ''  # a variable of two options
  edits: str = ''  # the variable that takes the typed word
  opens: str = ''  # a page
  saves: str = ''  # a group
  reverts: str = ''  # a group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
  """A page; `pinned` widgets stay while the others scroll."""
  name: str
  widgets: tuple[Widget, ...]
  pinned: tuple[Widget, ...] = ()
  parent: str = ''  # where 'back' leads
  reverts: str = ''  # the group that 'back' reverts: the page is a dialog
  focus: str = ''  # the variable that is edited when the page opens
  window: int = WINDOW  # widgets shown at once, pinned ones included


def compile_desktop(
    variables: Sequence[Variable], pages: Sequence[Page],
    names: Sequence[str]) -> Tables:
  """Compiles pages to tables.

  Args:
    variables: all variables.
    pages: all pages; the first is where 'back' finally leads.
    names: the words that name things; they come first among the words.

  Returns:
    The tables.

  Raises:
    ValueError: if a page or variable is unknown or there are too many words.
  """
  words, groups = _Index(['', *names]), _Index([''])
  variable_ids = _Index(['', *(v.name for v in variables)])
  windows = [(page, window) for page in pages for window in _windows(page)]
  first: dict[str, int] = {}
  for view, (page, _) in enumerate(windows):
    first.setdefault(page.name, view)
  _check_pages(pages)
  cells = _cells(windows, first, words, groups, variable_ids)
  rows = _rows(windows, first, groups, variable_ids)

  options = np.zeros(
      (len(variables) + 1, max(len(v.options) for v in variables)), int)
  for index, variable in enumerate(variables, 1):
    options[index, :len(variable.options)] = [
        words[word] for word in variable.options]
  unknown = list(variable_ids)[len(options):]
  if unknown:
    raise ValueError(f'expected widgets of known variables, got {unknown}')
  for what, count in (('variables', len(options)), ('words', len(words)),
                      ('views', len(windows))):
    if count > 256:
      raise ValueError(f'expected at most 256 {what}, got {count}')
  tables = Tables(
      **_bytes(cells), **_bytes(rows), options=options.astype(np.uint8),
      box=np.stack([
          _boxes(len(page.pinned), len(shown)) for page, shown in windows]),
      group=np.array([0] + [groups[v.group] for v in variables], np.uint8),
      guarded=np.array([False] + [v.guarded for v in variables]),
      num_options=np.array(
          [0] + [len(v.options) for v in variables], np.uint8),
      set_at=tables_lib.first_views(len(variables) + 1, np.stack(
          [cells[name] for name in ('set_variable', 'toggles', 'edits')],
          axis=-1)),
      # The last two are computed from the others.
      way=np.zeros((len(windows),) * 2, np.uint8),
      save_at=np.zeros(len(variables) + 1, np.uint8),
      words=tuple(words), variables=variable_ids, views=first)
  tables = tables._replace(
      way=tables_lib.ways(tables, [page.name for page, _ in windows]))
  return tables._replace(save_at=tables_lib.save_views(tables))


_CELLS = ('kind', 'text_word', 'text_variable', 'shows', 'set_variable',
          'set_word', 'toggles', 'edits', 'opens', 'saves', 'reverts')


def _check_pages(pages: Sequence[Page]) -> None:
  """Raises ValueError if one leads to a page that does not exist."""
  known = ['', *(page.name for page in pages)]
  for page in pages:
    for name in [page.parent] + [x.opens for x in page.pinned + page.widgets]:
      if name not in known:
        raise ValueError(
            f'expected {page.name} to lead to a known page, got {name!r}')


def _bytes(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {name: x.astype(np.uint8) for name, x in arrays.items()}


_Windows = Sequence[tuple[Page, tuple[Widget, ...]]]  # of each view


def _cells(windows: _Windows, first: dict[str, int], words: '_Index',
           groups: '_Index', variables: '_Index') -> dict[str, np.ndarray]:
  """The tables `[V, E]` of widgets."""
  cells = {name: np.zeros((len(windows), WINDOW), int) for name in _CELLS}
  cells['opens'] += np.arange(len(windows))[:, None]
  for view, (_, shown) in enumerate(windows):
    for place, widget in enumerate(shown):
      for name, value in _cell(widget, words, groups, variables).items():
        cells[name][view, place] = value
      if widget.opens:
        cells['opens'][view, place] = first[widget.opens]
  return cells


def _rows(windows: _Windows, first: dict[str, int], groups: '_Index',
          variables: '_Index') -> dict[str, np.ndarray]:
  """The tables `[V]` of views."""
  rows = {name: np.arange(len(windows)) for name in (
      'up', 'down', 'back', 'back_reverts', 'focus')}
  for view, (page, _) in enumerate(windows):
    if view > first[page.name]:
      rows['up'][view] = view - 1
      rows['down'][view - 1] = view
    if page.parent:
      rows['back'][view] = first[page.parent]
    rows['back_reverts'][view] = groups[page.reverts]
    rows['focus'][view] = variables[page.focus]
  return rows


def _cell(widget: Widget, words: '_Index', groups: '_Index',
          variables: '_Index') -> dict[str, int]:
  """A widget in numbers, but for what it opens."""
  is_read = widget.text.startswith(READ)
  variable, word = widget.sets or ('', '')
  return {
      'kind': words[widget.kind],
      'text_word': 0 if is_read else words[widget.text],
      'text_variable': (
          variables[widget.text.removeprefix(READ)] if is_read else 0),
      'shows': variables[widget.shows],
      'set_variable': variables[variable],
      'set_word': words[word],
      'toggles': variables[widget.toggles],
      'edits': variables[widget.edits],
      'saves': groups[widget.saves],
      'reverts': groups[widget.reverts],
  }


class _Index(dict):
  """Numbers for words, in the order in which they are first asked for."""

  def __init__(self, words: Sequence[str]):
    super().__init__((word, i) for i, word in enumerate(words))

  def __missing__(self, word: str) -> int:
    return self.setdefault(word, len(self))


def _windows(page: Page) -> list[tuple[Widget, ...]]:
  """The widgets of each view: two of the last window stay in sight."""
  room = page.window - len(page.pinned)
  step = room - 2
  starts = range(0, max(1, len(page.widgets) - room + step), step)
  last = max(0, len(page.widgets) - room)
  return [page.pinned + page.widgets[min(s, last):min(s, last) + room]
          for s in starts]


def _boxes(num_pinned: int, num_widgets: int) -> np.ndarray:
  """Pinned widgets stand side by side, the others below each other."""
  boxes = np.zeros((WINDOW, 4), np.float32)
  for place in range(num_widgets):
    if place < num_pinned:
      boxes[place] = place / num_pinned, 0, 1 / num_pinned, _ROW
    else:
      boxes[place] = 0.05, (place - num_pinned + 1) * _ROW, 0.9, _ROW
  return boxes
