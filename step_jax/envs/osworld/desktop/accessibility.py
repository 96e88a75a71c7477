"""The accessibility tree of what is visible, in OSWorld's XML.

A helper process serves this module (`helper.py`). This file walks from node to
node, `markup` says what of a node is written. The elements are those of
OSWorld's server; unlike it this one leaves out what is not on the screen,
begins with the active window, and ends in time: what is missing then the root
says with incomplete="true".
"""
from collections.abc import Callable, Sequence
import dataclasses
import xml.etree.ElementTree

from step_jax.envs.osworld.desktop import bus
from step_jax.envs.osworld.desktop import cells
from step_jax.envs.osworld.desktop import markup
from step_jax.envs.osworld.desktop import popups

_MAX_CHILDREN = 2000
_MAX_DEPTH = 50
_FRAGILE = ('vlc',)   # Whoever looks into its windows kills it (3.0.24).
# What lies outside of these is not visible, though it may say that it is.
_CLIPS = ('document spreadsheet', 'layered pane', 'list box', 'scroll pane',
          'table', 'tree table', 'viewport')
_LEAVES = ('check menu item', 'menu item', 'push button', 'radio menu item',
           'scroll bar', 'separator', 'toggle button')   # with none below
_MEASURES = ('dial', 'level bar', 'progress bar', 'scroll bar', 'slider',
             'spin button')   # LibreOffice's buttons claim to have values too

_NAME = bus.one_property('Accessible', 'Name')
_CHILDREN = bus.method('Accessible', 'GetChildren')
_STATE = bus.method('Accessible', 'GetState')
_ROLE = bus.method('Accessible', 'GetRoleName')
_INTERFACES = bus.method('Accessible', 'GetInterfaces')
_ATTRIBUTES = bus.method('Accessible', 'GetAttributes')
_TEXT = bus.method('Text', 'GetText', 'ii', 0, -1)
_VALUE = bus.all_properties('Value')
_ACTIONS = bus.method('Action', 'GetActions')


def make_answer() -> Callable[..., bytes]:
  """Connects to the bus; returns the function that answers."""
  markup.register()
  connection = bus.Bus()
  menus = popups.Popups()

  def answer(limit: float, size: Sequence[int]) -> bytes:
    connection.begin(limit)
    root = _Walk(
        connection, (0, 0, size[0], size[1]), menus.list_boxes()).walk()
    return xml.etree.ElementTree.tostring(root)

  return answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
  """Where a node's parent is, in pixels of the screen."""

  around: cells.Box
  clip: cells.Box   # what of the screen can be seen there
  screen: cells.Box
  error: tuple[int, int] = (0, 0)   # foreign widgets must be moved by this

  def correct(self, box: cells.Box, role: str, native: bool
              ) -> tuple['_Place', cells.Box]:
    """Returns the place of a node with its true box, and that box.

    LibreOffice's own widgets forget the height of the menu bar. Its root pane
    lies where the GTK widget around it does.

    Args:
      box: what the node says.
      role: its role.
      native: whether it is one of GTK's, which are right.

    Returns:
      `(place, box)`.
    """
    error = self.error
    if role == 'root pane' and not native:
      error = self.around[0] - box[0], self.around[1] - box[1]
    if not native:
      box = cells.move(box, error)
    clip = self.clip
    if role in _CLIPS:
      clip = cells.cut(box, clip)
    elif role == 'menu':   # What it opens lies outside of its bar.
      clip = self.screen
    return _Place(
        around=box, clip=clip, error=error, screen=self.screen), box


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Found:
  """A node that says that it is visible."""

  node: bus.Node
  states: frozenset[str]
  parent: markup.Element
  place: _Place


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Added:
  """A node that has become an element."""

  found: _Found
  element: markup.Element
  role: str
  interfaces: frozenset[str]
  place: _Place


class _Walk:
  """One walk over all that is visible, level by level."""

  def __init__(self, connection: bus.Bus, screen: cells.Box,
               popup_boxes: Sequence[cells.Box]):
    self._bus = connection
    self._popups = popup_boxes
    self._sheets: list[_Added] = []
    self._screen = _Place(around=screen, clip=screen, screen=screen)

  def walk(self) -> markup.Element:
    root = markup.Element('desktop-frame')
    try:
      for name, windows in self._list_windows():
        application = xml.etree.ElementTree.SubElement(
            root, 'application', name=markup.clean(name))
        for node, states in windows:
          level = [_Found(node=node, states=states, parent=application,
                          place=self._screen)]
          depth = 0
          while level and depth < (1 if name in _FRAGILE else _MAX_DEPTH):
            level = self._descend(level)
            depth += 1
          while self._sheets:   # They take longest.
            self._add_sheet(self._sheets.pop())
    except bus.LateError:
      pass
    if not self._bus.complete:
      root.set('incomplete', 'true')
    return root

  def _list_windows(self) -> list[tuple[str, list[tuple[
      bus.Node, frozenset[str]]]]]:
    """Returns applications with their visible windows, the active first."""
    applications = self._list_children([bus.ROOT])[0]
    names = self._bus.ask([(node, _NAME) for node in applications])
    found = []
    for name, windows in zip(names, self._list_children(applications)):
      visible = [
          (node, states) for node, states in self._keep_visible(windows)
          if 'iconified' not in states]
      visible.sort(key=_get_rank)
      if visible:
        found.append((_get_rank(visible[0]), name, visible))
    found.sort(key=lambda entry: entry[0])
    return [(name, windows) for _, name, windows in found]

  def _list_children(self, nodes: Sequence[bus.Node]) -> list[list[bus.Node]]:
    answers = self._bus.ask([(node, _CHILDREN) for node in nodes])
    return [[bus.Node(*child) for child in (answer or ())[:_MAX_CHILDREN]]
            for answer in answers]

  def _keep_visible(self, nodes: Sequence[bus.Node]
                    ) -> list[tuple[bus.Node, frozenset[str]]]:
    answers = self._bus.ask([(node, _STATE) for node in nodes])
    states = [markup.read_states(answer) for answer in answers]
    return [(node, state) for node, state in zip(nodes, states)
            if 'showing' in state]

  def _descend(self, level: list[_Found]) -> list[_Found]:
    """Adds the nodes of a level; returns those below them."""
    added = self._add(level)
    self._add_details(added)
    parents, refs = [], []
    closed = [entry for entry in added if _is_table(entry)]
    opened = [entry for entry in added if not _is_table(entry)
              and entry.role not in _LEAVES]
    for entry, children in zip(
        opened, self._list_children([e.found.node for e in opened])):
      parents += [entry] * len(children)
      refs += children
    for entry in closed:
      if entry.found.parent.tag == 'document-spreadsheet':
        self._sheets.append(entry)
      else:
        children = [
            cell.node for some in cells.list_visible(
                self._bus, entry.found.node, entry.place.clip)
            for cell in some]
        parents += [entry] * len(children)
        refs += children
    states = self._bus.ask([(node, _STATE) for node in refs])
    return [
        _Found(node=node, states=state, parent=entry.element,
               place=entry.place)
        for entry, node, state in zip(
            parents, refs, map(markup.read_states, states))
        if 'showing' in state or self._may_show(entry, state)]

  def _may_show(self, parent: _Added, states: frozenset[str]) -> bool:
    """Whether a node may be an item of one of GTK 2's open menus."""
    return bool(
        parent.role == 'menu' and 'visible' in states and self._popups
        and not parent.element.get(markup.qualify('attr', 'toolkit')))

  def _add(self, level: list[_Found]) -> list[_Added]:
    """Adds the elements of nodes, without what their interfaces tell."""
    questions = (_ROLE, _INTERFACES, _NAME, _ATTRIBUTES, cells.EXTENTS)
    answers = iter(self._bus.ask([
        (found.node, question) for found in level for question in questions]))
    added = []
    for found, role, interfaces, name, attributes, box in zip(
        level, *[answers] * len(questions)):
      if role is None:   # It has gone.
        continue
      role = role.strip() or 'unknown'
      attributes = attributes or {}
      place = found.place
      if box is not None:
        native = attributes.get('toolkit') == 'gtk'
        place, box = place.correct(box, role, native)
        # A page without a tab has no size, but what is below it has.
        if role != 'page tab' and not cells.meet(box, found.place.clip):
          continue
      states = found.states
      if 'showing' not in states:
        if box is None or not any(
            cells.fills(box, popup) for popup in self._popups):
          continue
        states |= {'showing'}
      element = xml.etree.ElementTree.SubElement(
          found.parent, markup.tag(role),
          markup.describe(name, states, attributes, box))
      added.append(_Added(
          found=found, element=element, role=role, place=place,
          interfaces=frozenset(
              name.removeprefix('org.a11y.atspi.') for name in interfaces or ()
          )))
    return added

  def _add_details(self, added: list[_Added]) -> None:
    """Adds the texts, values and actions of elements."""
    wanted = [
        (entry, question, put) for entry in added
        for interface, question, put in (
            ('Text', _TEXT, markup.put_text),
            ('Value', _VALUE, markup.put_value),
            ('Action', _ACTIONS, markup.put_actions))
        if interface in entry.interfaces and (
            interface != 'Value' or entry.role in _MEASURES)]
    answers = self._bus.ask([
        (entry.found.node, question) for entry, question, _ in wanted])
    for (entry, _, put), answer in zip(wanted, answers):
      if answer is not None:
        put(entry.element, answer)
    for entry in added:
      for interface in ('Image', 'Selection'):
        if interface in entry.interfaces:
          entry.element.set(interface.lower(), 'true')

  def _add_sheet(self, sheet: _Added) -> None:
    """Adds the visible cells of a spreadsheet, with fewer questions."""
    x, y = sheet.place.error
    for some in cells.list_visible(
        self._bus, sheet.found.node, cells.move(sheet.place.clip, (-x, -y))):
      answers = self._bus.ask([
          (cell.node, question) for question in (_STATE, _TEXT)
          for cell in some])
      filled = []
      for cell, words, text in zip(some, answers, answers[len(some):]):
        element = xml.etree.ElementTree.SubElement(
            sheet.element, 'table-cell', markup.describe(
                cell.name, markup.read_states(words), {},
                cells.move(cell.box, (x, y))))
        if text:
          markup.put_text(element, text)
          filled.append((cell.node, element))
      answers = self._bus.ask([(node, _ATTRIBUTES) for node, _ in filled])
      for (_, element), attributes in zip(filled, answers):
        for key, value in (attributes or {}).items():
          if value:   # such as the formula
            element.set(markup.qualify('attr', key), markup.clean(value))


def _get_rank(window: tuple[bus.Node, frozenset[str]]) -> bool:
  return 'active' not in window[1]


def _is_table(entry: _Added) -> bool:
  """Whether a node must not be asked for all its children."""
  return ('Table' in entry.interfaces
          and 'manages_descendants' in entry.found.states)
