"""The nodes of an accessibility tree, as what the screen shows of them.

`walk` goes through OSWorld's XML and yields what is shown and lies on the
screen, each node with what it has from those around it. Elements are made of
that in `elements`.
"""

from collections.abc import Iterator
import dataclasses
import re
from xml.etree import ElementTree

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels

MENU_KINDS = frozenset((
    'menu', 'menu-item', 'check-menu-item', 'radio-menu-item'))
_OPERABLE = MENU_KINDS | {
    'check-box', 'combo-box', 'entry', 'icon', 'link', 'list-item', 'page-tab',
    'password-text', 'push-button', 'push-button-menu', 'radio-button',
    'slider', 'spin-button', 'table-cell', 'table-column-header',
    'toggle-button', 'tree-item'}
_OWNERS = _OPERABLE - {'page-tab'}  # which contains all of its page
_READABLE = frozenset(('alert', 'heading', 'label', 'paragraph', 'text'))
_WINDOWS = frozenset(('alert', 'dialog', 'file-chooser', 'frame'))
_BARS = frozenset(('tool-bar', 'status-bar', 'statusbar'))
_CLIPPING = frozenset(('scroll-pane', 'viewport', 'frame', 'dialog'))
_PAIR = re.compile(r'\(?\s*(-?\d+)\s*,\s*(-?\d+)\s*\)?')


@dataclasses.dataclass(kw_only=True)
class Node:
  """An element of the XML, with what it has from those around it."""
  tag: str
  name: str
  content: str
  states: frozenset[str]
  box: Box  # its visible part
  window: int
  modal: bool  # its window is
  active: bool  # its window is
  popup: bool  # its window is no frame, or it lies in an open menu
  bar: bool  # it lies in a tool bar or status bar
  inner: bool  # it lies in a window
  owner: 'Node | None'  # what can be operated and contains it
  labels: list[str]  # inside of it

  @property
  def operable(self) -> bool:
    """It is made to be operated."""
    return self.tag in _OPERABLE or bool(self.typing)

  @property
  def readable(self) -> bool:
    """It is made to be read: a text, or the title of a window."""
    return self.tag in _READABLE or (
        self.tag in _WINDOWS and not self.inner)

  @property
  def text(self) -> str:
    """What it is called."""
    if self.name or self.typing or self.tag == 'table-cell':
      return self.name
    return self.content or ' '.join(self.labels)

  @property
  def value(self) -> str:
    """What it holds."""
    holds = self.typing or self.content != self.name != ''
    return self.content if holds else ''

  @property
  def typing(self) -> str:
    """How text is typed into it: as in 'line', 'cell', 'text', or '': not."""
    if 'editable' not in self.states or self.tag not in (
        _OPERABLE | _READABLE):
      return ''
    if self.tag == 'table-cell':
      return 'cell'
    many = 'multi-line' in self.states or self.tag == 'paragraph'
    return 'text' if many else 'line'


def walk(root: ElementTree.Element, screen_size: tuple[int, int]
         ) -> Iterator[Node]:
  """Yields what is shown, each node before those in it.

  Args:
    root: of the tree, which holds applications, which hold windows.
    screen_size: width and height in pixels.
  """
  screen = (0, 0, *screen_size)
  windows = [window for application in root for window in application]
  for number, window in enumerate(windows):
    states = _states(window)
    around = Node(
        tag='', name='', content='', states=frozenset(), box=screen,
        window=number, modal='modal' in states, active='active' in states,
        popup=window.tag != 'frame', bar=False, inner=False, owner=None,
        labels=[])
    yield from _Walk(screen).descend(window, around, screen, None, (0, 0))


class _Walk:
  """Goes through a window."""

  def __init__(self, screen: Box):
    self._screen = screen

  def descend(self, element: ElementTree.Element, parent: Node, clip: Box,
              outer: Box | None, shift: tuple[int, int]) -> Iterator[Node]:
    """The node of an element, if it is seen, and those below it.

    Args:
      element: of the XML.
      parent: the node around it.
      clip: what can be seen of it at most.
      outer: the parent's box as it is told.
      shift: how far what is told is beside the truth.
    """
    states = _states(element)
    told = _told_box(element)
    if 'showing' not in states or (
        element.tag == 'menu-bar' and told and area(told) == 0):
      return
    shift = _corrected(element.tag, told, outer, shift)
    box = told and _intersect(_moved(told, shift), clip)
    node = dataclasses.replace(
        parent, tag=element.tag, name=_attribute(element, 'name').strip(),
        content=_content(element), states=states,
        box=box or (0, 0, 0, 0), labels=[],
        popup=parent.popup or parent.tag == 'menu',
        bar=parent.bar or element.tag in _BARS, inner=bool(parent.tag),
        owner=parent if parent.tag in _OWNERS else parent.owner)
    if node.tag == 'label' and node.owner is not None:
      node.owner.labels.append(node.text)
    if box is not None and area(box) > 0:
      yield node
      if node.tag in _CLIPPING:
        clip = box
    if node.tag in ('menu', 'combo-box'):  # what it opens lies outside of it
      clip = self._screen
    for child in element:
      yield from self.descend(child, node, clip, told or outer, shift)


def _states(element: ElementTree.Element) -> frozenset[str]:
  return frozenset(
      name.rpartition('}')[2].replace('_', '-')
      for name, value in element.attrib.items()
      if 'state' in name.rpartition('}')[0] and value == 'true')


def _attribute(element: ElementTree.Element, name: str) -> str:
  """An attribute by its name without the name space."""
  return next((value for key, value in element.attrib.items()
               if key.rpartition('}')[2] == name), '')


def _content(element: ElementTree.Element) -> str:
  text = (element.text or '').replace('\ufffc', '')  # a picture in a text
  return text.strip() if len(element) else text


def _told_box(element: ElementTree.Element) -> Box | None:
  corner = _PAIR.fullmatch(_attribute(element, 'screencoord'))
  size = _PAIR.fullmatch(_attribute(element, 'size'))
  if corner is None or size is None:
    return None
  (left, top), (width, height) = (
      (int(pair[1]), int(pair[2])) for pair in (corner, size))
  if width < 0 or height < 0:
    return None
  return left, top, left + width, top + height


def _corrected(tag: str, told: Box | None, outer: Box | None,
               shift: tuple[int, int]) -> tuple[int, int]:
  """LibreOffice forgets its menu bar when it tells where things are.

  What it draws itself, below its root pane, it places too far up; GTK's own
  widgets in there, panels that seem to lie beside their frame, are right.
  """
  if told is None or outer is None:
    return shift
  difference = told[0] - outer[0], told[1] - outer[1]
  if tag == 'root-pane':
    return -difference[0], -difference[1]
  if tag == 'panel' and difference == shift != (0, 0) and (
      told[2] - told[0] == outer[2] - outer[0]):
    return 0, 0
  return shift


def _moved(box: Box, shift: tuple[int, int]) -> Box:
  return (box[0] + shift[0], box[1] + shift[1],
          box[2] + shift[0], box[3] + shift[1])


def _intersect(box: Box, clip: Box) -> Box:
  return (max(box[0], clip[0]), max(box[1], clip[1]),
          min(box[2], clip[2]), min(box[3], clip[3]))


def area(box: Box) -> int:
  return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
