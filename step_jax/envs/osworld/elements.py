"""What is on the screen as elements, and element actions as actions.

An accessibility tree in OSWorld's XML becomes at most E `base.Element`s: what
is shown, enabled, and lies on the screen. The kind is the role ('push-button',
'table-cell'). The text is its name, else what it reads, else the labels in it
or the label to its left. The value is what it holds: of a field, of a cell.

A real application shows hundreds. In this order they are kept:
  0. what is open for a moment: items of menus, buttons and fields of dialogs,
  1. what can be operated in the active window, and its title,
  2. cells that hold something; in a list the first of each row,
  3. empty cells in and beside the used part of a sheet, the nearest first,
  4. labels, tool bars and status bars, the other columns of a list,
  5. other windows, where the active one does not cover them,
  6. all other empty cells.
While a dialog is modal there is nothing else. Labels inside of what they label,
and what has neither name nor value nor can be typed into, are left out.

What an element action does: see `plan`.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import NamedTuple
from xml.etree import ElementTree

from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.osworld import nodes as nodes_lib

VERBS = ('scroll_up', 'scroll_down', 'back', 'done', 'fail')
_NOTCHES = 5  # of the wheel, at a scroll

_OPENED = frozenset(('icon', 'table-cell', 'tree-item'))
_SELECTED = frozenset(('checked', 'selected', 'expanded', 'pressed'))
_CELL = re.compile(r'([A-Z]{1,3})([1-9]\d*)')
_LABEL_GAP = 200  # pixels between a label and what it labels, at most

# What is no part of a word that is to be typed, though it stands around it.
_BEFORE = '"\'“‘«([{<'
_AFTER = '"\'”’»)]}>.,;:!?…'


class Item(NamedTuple):
  """An element with what acting on it needs."""
  record: base.Element
  point: actions.Point  # the middle of its visible part
  typing: str = ''  # 'line', 'cell' or 'text', where text can be typed


class Tree(NamedTuple):
  """An accessibility tree as the agent sees it."""
  items: tuple[Item, ...]  # at most E, in document order
  scroll_point: actions.Point  # the middle of the active window
  is_complete: bool = True  # False: the desktop had no time for all of it


def typed_words(instruction: str) -> list[str]:
  """The words of an instruction as they are typed.

  They stand for `base.split_words`, one for one, but keep what belongs to a
  formula, a path or a number at their ends.

  >>> typed_words('Type "=SUM(B2:B4)" and -5 (into "a.txt").')
  ['Type', '=SUM(B2:B4)', 'and', '-5', 'into', 'a.txt']
  """
  return [_bare(word) for word in instruction.split()
          if base.split_words(word)]


def _bare(word: str) -> str:
  word = word.lstrip(_BEFORE)
  while word and word[-1] in _AFTER:
    if word[-1] in ')]}' and word.count('([{'[')]}'.index(word[-1])]) >= (
        word.count(word[-1])):
      break
    word = word[:-1]
  return word


def parse(xml: str, screen_size: tuple[int, int]) -> Tree:
  """Reads an accessibility tree.

  Args:
    xml: in OSWorld's format.
    screen_size: width and height in pixels.

  Raises:
    ValueError: it is no XML.
  """
  try:
    root = ElementTree.fromstring(xml)
  except ElementTree.ParseError as error:
    raise ValueError(f'expected an accessibility tree, got {error}') from error
  nodes = list(nodes_lib.walk(root, screen_size))
  nodes = _in_front(nodes)
  used = _used_part(nodes)
  ranked = []
  rows: set[tuple[int, int]] = set()  # of lists, whose first cell was seen
  for index, node in enumerate(nodes):
    rank = _rank(node, used, rows)
    if rank is not None:
      ranked.append((rank, index))
  ranked.sort()
  kept = sorted(index for _, index in ranked[:base.MAX_ELEMENTS])
  labels = [node for node in nodes if node.tag == 'label']
  items = tuple(_item(nodes[index], labels, screen_size) for index in kept)
  boxes = [node.box for node in nodes if node.active] or [(0, 0, *screen_size)]
  return Tree(items, _middle(max(boxes, key=nodes_lib.area), screen_size),
              root.get('incomplete') != 'true')


def _centre(box: nodes_lib.Box) -> tuple[float, float]:
  return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _middle(
    box: nodes_lib.Box, screen_size: tuple[int, int]) -> actions.Point:
  (x, y), (width, height) = _centre(box), screen_size
  return x / width, y / height


def _in_front(nodes: Sequence[nodes_lib.Node]) -> list[nodes_lib.Node]:
  """Leaves out what a modal dialog blocks or the active window covers."""
  front = [node for node in nodes if node.active]
  if any(node.modal for node in front):
    return front
  boxes: dict[int, nodes_lib.Box] = {}
  for node in front:  # the first of a window is the window
    boxes.setdefault(node.window, node.box)

  def is_covered(node: nodes_lib.Node) -> bool:
    x, y = _centre(node.box)
    return not node.active and node.tag != 'window' and any(
        left <= x < right and top <= y < bottom
        for left, top, right, bottom in boxes.values())

  return [node for node in nodes if not is_covered(node)]


def _used_part(nodes: Sequence[nodes_lib.Node]) -> tuple[int, int]:
  """The last column and row of a sheet's visible cells that hold something."""
  places = [_place(node) for node in nodes
            if node.typing == 'cell' and node.content]
  return (max((place[0] for place in places), default=0),
          max((place[1] for place in places), default=0))


def _place(node: nodes_lib.Node) -> tuple[int, int]:
  """Column and row of a cell by its name, from 1."""
  match = _CELL.fullmatch(node.name)
  if match is None:
    return 0, 0
  column = 0
  for letter in match[1]:
    column = 26 * column + ord(letter) - ord('A') + 1
  return column, int(match[2])


def _rank(
    node: nodes_lib.Node, used: tuple[int, int], rows: set[tuple[int, int]]
) -> tuple[int, int] | None:
  """What is kept first, as in the module's list; None: not at all."""
  operable = node.operable
  if not (node.states & {'enabled', 'sensitive'} if operable
          else node.readable):
    return None
  if not (node.text or node.value or node.typing):
    return None
  if node.owner is not None and (not operable or node.tag == 'icon'):
    return None
  if not node.active and not node.popup:
    return 5, 0
  if node.typing == 'cell' and not node.content:
    column, row = _place(node)
    distance = max(column - used[0], 0) + max(row - used[1], 0)
    return (3 if distance <= 2 else 6), distance
  if node.tag == 'table-cell':
    line = node.window, node.box[1]
    is_detail = not node.typing and line in rows
    rows.add(line)
    return (4 if is_detail else 2), 0
  if node.bar or node.tag == 'label' and not node.popup:
    return 4, 0
  return (0 if node.popup and operable else 1), 0


def _item(node: nodes_lib.Node, labels: Sequence[nodes_lib.Node],
          screen_size: tuple[int, int]) -> Item:
  width, height = screen_size
  left, top, right, bottom = node.box
  operable = node.operable
  text = node.text
  if not text and operable:
    text = _label_beside(node, labels)
  record = base.Element(
      kind=node.tag, text=text, value=node.value,
      box=(left / width, top / height, (right - left) / width,
           (bottom - top) / height),
      focused='focused' in node.states, editable=bool(node.typing),
      selected=bool(_SELECTED & node.states), interactive=operable)
  return Item(record, _middle(node.box, screen_size), node.typing)


def _label_beside(
    node: nodes_lib.Node, labels: Sequence[nodes_lib.Node]) -> str:
  """The nearest label to the left, in the same row."""
  _, y = _centre(node.box)
  found = [
      (node.box[0] - label.box[2], label.text) for label in labels
      if label.window == node.window and label.box[1] <= y < label.box[3]
      and 0 <= node.box[0] - label.box[2] <= _LABEL_GAP]
  return min(found)[1] if found else ''


def plan(verb: str, item: Item | None, word: str, tree: Tree
         ) -> tuple[actions.Action, ...]:
  """Returns what an element action does.

  click: one click in the middle of what is seen of the element; two on an icon
  or a row of a list that is selected, which opens it.
  type: clicks it; in a field of one line the word replaces what is there, in
  a cell too, and Enter follows; to a text of many lines the word is added at
  the end, after a space unless the text is empty or ends in white space.
  scroll_up, scroll_down: turns the wheel in the middle of the active window.
  back: Escape. done, fail: themselves.

  Args:
    verb: one of base.VERBS.
    item: the element, for click and type.
    word: for type.
    tree: the screen.
  """
  if verb in ('done', 'fail'):
    return (actions.Action(kind=verb),)
  if verb == 'back':
    return (_press('esc'),)
  if item is None:
    return (actions.Action(
        kind='scroll', point=tree.scroll_point, amount=_NOTCHES,
        direction=verb.removeprefix('scroll_')),)
  click = actions.Action(kind='click', point=item.point)
  if verb == 'click':
    opens = item.record.selected and item.record.kind in _OPENED and (
        not item.typing)
    return (dataclasses.replace(click, kind='double_click') if opens
            else click,)
  if item.typing == 'cell':
    return (click, actions.Action(kind='type', text=word), _press('enter'))
  if item.typing == 'line':
    return (click, _press('ctrl', 'a'), actions.Action(kind='type', text=word))
  held = item.record.value
  if held and not held[-1].isspace():
    word = ' ' + word
  return (click, _press('ctrl', 'end'), actions.Action(kind='type', text=word))


def _press(*keys: str) -> actions.Action:
  return actions.Action(kind='hotkey', keys=keys)
