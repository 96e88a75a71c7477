"""The visible cells of tables, which may have billions of cells."""
from collections.abc import Iterator
import dataclasses
import itertools

from step_jax.envs.osworld.desktop import bus

Box = tuple[int, int, int, int]   # left, top, width, height
EXTENTS = bus.method('Component', 'GetExtents', 'u', 0)   # of the screen

_HEADERS = (2, 14, 26, 38)   # pixels below the top at which a cell may be
_BORDERS = 24   # pixels left and right of a menu's items
_ROWS = 6   # rows that are listed together
_STEP = 40   # cells that are looked at together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """A visible cell."""

  node: bus.Node
  name: str   # as spreadsheets name it, such as 'B7'
  box: Box


def move(box: Box, by: tuple[int, int]) -> Box:
  """Returns a box that lies somewhere else."""
  return box[0] + by[0], box[1] + by[1], box[2], box[3]


def meet(box: Box, clip: Box) -> bool:
  """Returns whether two boxes share a pixel."""
  return all(max(box[axis], clip[axis])
             < min(box[axis] + box[axis + 2], clip[axis] + clip[axis + 2])
             for axis in (0, 1))


def fills(box: Box, window: Box) -> bool:
  """Returns whether a box is as broad as the window that it lies in."""
  return (cut(box, window) == box
          and window[2] - box[2] <= _BORDERS)


def cut(box: Box, clip: Box) -> Box:
  """Returns what two boxes share."""
  left, top = max(box[0], clip[0]), max(box[1], clip[1])
  return (left, top, min(box[0] + box[2], clip[0] + clip[2]) - left,
          min(box[1] + box[3], clip[1] + clip[3]) - top)


def list_visible(connection: bus.Bus, table: bus.Node, clip: Box
                 ) -> Iterator[list[Cell]]:
  """Lists the cells that lie within `clip`, some rows at a time.

  Args:
    connection: the bus.
    table: a node with Atspi's interface Table.
    clip: what can be seen of it, in its own coordinates.

  Raises:
    bus.LateError: the time is over.
  """
  size = connection.ask([
      (table, bus.one_property('Table', name))
      for name in ('NRows', 'NColumns')])
  if not all(size):
    return
  row, column = _find_first(connection, table, clip)
  rows = _list_line(connection, table, clip, (
      (r, column) for r in range(row, size[0])), along=0)
  columns = _list_line(connection, table, clip, (
      (row, c) for c in range(column, size[1])), along=1)
  numbers = iter(rows)
  while some := list(itertools.islice(numbers, _ROWS)):
    places = [(r, c) for r in some for c in columns]
    nodes = _get_cells(connection, table, places)
    yield [
        Cell(node=node, name=_name(*place), box=(
            columns[place[1]][0], rows[place[0]][1],
            columns[place[1]][2], rows[place[0]][3]))
        for place, node in zip(places, nodes)]


def _find_first(connection: bus.Bus, table: bus.Node, clip: Box
                ) -> tuple[int, int]:
  """Returns row and column of the first visible cell."""
  found = connection.ask([
      (table, bus.method('Component', 'GetAccessibleAtPoint', 'iiu',
                         clip[0] + 2, clip[1] + down, 0))
      for down in _HEADERS])
  nodes = [bus.Node(*node) for node in found if node]
  roles = connection.ask([
      (node, bus.method('Accessible', 'GetRoleName')) for node in nodes])
  for node, role in zip(nodes, roles):
    if role == 'table cell':
      index, = connection.ask([
          (node, bus.method('Accessible', 'GetIndexInParent'))])
      if index is not None and index >= 0:
        row, column = connection.ask([
            (table, bus.method('Table', name, 'i', index))
            for name in ('GetRowAtIndex', 'GetColumnAtIndex')])
        return max(row or 0, 0), max(column or 0, 0)
  return 0, 0


def _list_line(connection: bus.Bus, table: bus.Node, clip: Box,
               places: Iterator[tuple[int, int]], along: int
               ) -> dict[int, Box]:
  """Returns the boxes of the visible cells in a row or column, by number."""
  visible: dict[int, Box] = {}
  while step := list(itertools.islice(places, _STEP)):
    nodes = _get_cells(connection, table, step)
    boxes = connection.ask([(node, EXTENTS) for node in nodes])
    seen = {place[along]: box for place, box in zip(step, boxes)
            if box and meet(box, clip)}
    visible |= seen
    if step[-1][along] not in seen:
      break
  return visible


def _get_cells(connection: bus.Bus, table: bus.Node,
               places: list[tuple[int, int]]) -> list[bus.Node]:
  """Returns the cells at rows and columns; `bus.NOTHING` where none is."""
  answers = connection.ask([
      (table, bus.method('Table', 'GetAccessibleAt', 'ii', *place))
      for place in places])
  return [bus.Node(*answer) if answer else bus.NOTHING for answer in answers]


def _name(row: int, column: int) -> str:
  """Returns a cell's name, such as 'AB12' for row 11 and column 27."""
  letters = ''
  column += 1
  while column:
    column, letter = divmod(column - 1, 26)
    letters = chr(ord('A') + letter) + letters
  return f'{letters}{row + 1}'
