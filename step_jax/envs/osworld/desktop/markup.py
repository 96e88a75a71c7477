"""What is said of a node in OSWorld's XML: its states, text, value, actions.

`accessibility` finds the nodes. The namespaces and attributes are those of
OSWorld's server.
"""
from collections.abc import Sequence
import re
import xml.etree.ElementTree

from step_jax.envs.osworld.desktop import cells

Element = xml.etree.ElementTree.Element

_NAMESPACES = {
    prefix: f'https://accessibility.ubuntu.example.org/ns/{name}'
    for prefix, name in (
        ('st', 'state'), ('attr', 'attributes'), ('cp', 'component'),
        ('txt', 'text'), ('val', 'value'), ('act', 'action'))}
_STATES = (   # Atspi's, by their numbers
    'invalid', 'active', 'armed', 'busy', 'checked', 'collapsed', 'defunct',
    'editable', 'enabled', 'expandable', 'expanded', 'focusable', 'focused',
    'has_tooltip', 'horizontal', 'iconified', 'modal', 'multi_line',
    'multiselectable', 'opaque', 'pressed', 'resizable', 'selectable',
    'selected', 'sensitive', 'showing', 'single_line', 'stale', 'transient',
    'vertical', 'visible', 'manages_descendants', 'indeterminate', 'required',
    'truncated', 'animated', 'invalid_entry', 'supports_autocompletion',
    'selectable_text', 'is_default', 'visited', 'checkable', 'has_popup',
    'read_only')
_MAX_TEXT = 100_000   # characters of one element
_NOT_XML = re.compile('[^\t\n\r\x20-\ud7ff\ue000-\ufffb\U00010000-\U0010ffff]')
_NOT_NAME = re.compile('[^A-Za-z0-9_.-]+')


def register() -> None:
  """Gives the namespaces their short names in what is written from now on."""
  for prefix, uri in _NAMESPACES.items():
    xml.etree.ElementTree.register_namespace(prefix, uri)


def read_states(words: Sequence[int] | None) -> frozenset[str]:
  """Returns the names of the states in two words of 32 bits."""
  low, high = words or (0, 0)
  bits = low | high << 32
  return frozenset(
      name for number, name in enumerate(_STATES) if bits >> number & 1)


def clean(text: str | None) -> str:
  """Returns what XML can hold of a text."""
  return _NOT_XML.sub('', text or '')


def tag(role: str) -> str:
  """Returns the name of the element of a role."""
  return _NOT_NAME.sub('-', role)


def qualify(prefix: str, name: str) -> str:
  """Returns an attribute's name in full.

  Args:
    prefix: the namespace: st, attr, cp, txt, val or act.
    name: of the attribute; what XML forbids becomes '-', behind '_' where it
      is the first sign.

  Returns:
    It with its namespace, as ElementTree writes it.
  """
  name = tag(name)
  if not (name[:1].isalpha() or name[:1] == '_'):   # as Thunderbird's '--'
    name = f'_{name}'
  return f'{{{_NAMESPACES[prefix]}}}{name}'


def describe(name: str | None, states: frozenset[str],
             attributes: dict[str, str], box: cells.Box | None
             ) -> dict[str, str]:
  """Returns the attributes of an element.

  Args:
    name: of the node.
    states: their names.
    attributes: what the toolkit says besides.
    box: where it is, in pixels of the screen; None if it does not know.

  Returns:
    The attributes, with their names in full.
  """
  found = {'name': clean(name)}
  for state in _STATES:
    if state in states:
      found[qualify('st', state)] = 'true'
  for key, value in attributes.items():
    if key:
      found[qualify('attr', key)] = clean(value)
  if box is not None:
    found[qualify('cp', 'screencoord')] = str(box[:2])
    found[qualify('cp', 'size')] = str(box[2:])
  return found


def put_text(element: Element, text: str) -> None:
  """Writes what the interface Text answers.

  Args:
    element: to write into.
    text: with a sign for each widget in it, which is left out.
  """
  element.text = clean(text.replace('\ufffc', ''))[:_MAX_TEXT] or None


def put_value(element: Element, value: dict[str, float]) -> None:
  """Writes what the interface Value answers.

  Args:
    element: to write into.
    value: properties, by their names in Atspi.
  """
  for name, source in (
      ('value', 'CurrentValue'), ('min', 'MinimumValue'),
      ('max', 'MaximumValue'), ('step', 'MinimumIncrement')):
    if source in value:
      element.set(qualify('val', name), str(value[source]))


def put_actions(element: Element, actions: list[tuple[str, str, str]]
                ) -> None:
  """Writes what the interface Action answers.

  Args:
    element: to write into.
    actions: name, description and key of each.
  """
  for name, description, key in actions:
    element.set(qualify('act', f'{name}_desc'), clean(description))
    element.set(qualify('act', f'{name}_kb'), clean(key))
