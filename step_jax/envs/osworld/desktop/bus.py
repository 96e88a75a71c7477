"""Many questions to accessible applications at once, over D-Bus.

Atspi's own library waits for each answer before it asks the next question. A
tree takes thousands, and on a busy machine each wait costs a turn.
"""
from collections.abc import Sequence
import time
from typing import Any, NamedTuple

from gi.repository import Gio
from gi.repository import GLib

_PREFIX = 'org.a11y.atspi.'
_PROPERTIES = 'org.freedesktop.DBus.Properties'
_SILENCE = 0.3   # seconds without any answer after which an application hangs


class Node(NamedTuple):
  """An accessible thing: its application's name on the bus, and its path."""

  application: str
  path: str


class Question(NamedTuple):
  """A method with its arguments."""

  interface: str
  method: str
  arguments: GLib.Variant | None


ROOT = Node(f'{_PREFIX}Registry', '/org/a11y/atspi/accessible/root')
NOTHING = Node('', '/org/a11y/atspi/null')   # never asked


def method(interface: str, name: str, kinds: str = '', *arguments: Any
           ) -> Question:
  """Returns a question for a method of one of Atspi's interfaces."""
  return Question(
      _PREFIX + interface, name,
      GLib.Variant(f'({kinds})', arguments) if kinds else None)


def one_property(interface: str, name: str) -> Question:
  """Returns a question for a property of one of Atspi's interfaces."""
  return Question(_PROPERTIES, 'Get',
                  GLib.Variant('(ss)', (_PREFIX + interface, name)))


def all_properties(interface: str) -> Question:
  """Returns a question for all properties of one of Atspi's interfaces."""
  return Question(_PROPERTIES, 'GetAll',
                  GLib.Variant('(s)', (_PREFIX + interface,)))


class LateError(Exception):
  """The time is over."""


class Bus:
  """The accessibility bus of the session.

  Attributes:
    complete: whether every application has answered since `begin`.
  """

  def __init__(self) -> None:
    session = Gio.bus_get_sync(Gio.BusType.SESSION)
    address, = session.call_sync(
        'org.a11y.Bus', '/org/a11y/bus', 'org.a11y.Bus', 'GetAddress', None,
        None, Gio.DBusCallFlags.NONE, -1, None)
    self._connection = Gio.DBusConnection.new_for_address_sync(
        address, Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
        | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION, None, None)
    question = method('Accessible', 'GetChildren')
    self._connection.call_sync(   # It starts the registry.
        *ROOT, *question, None, Gio.DBusCallFlags.NONE, -1, None)
    self._silent: set[str] = set()
    self._deadline = 0.0
    self.complete = True

  def begin(self, limit: float) -> None:
    """Allows `limit` seconds from now on, and trusts all applications."""
    self._deadline = time.monotonic() + limit
    self._silent = set()
    self.complete = True

  def ask(self, pairs: Sequence[tuple[Node, Question]]) -> list[Any]:
    """Returns the answers in order, None where there is none.

    An answer of one value is that value, of several a tuple.

    Raises:
      LateError: the time is over.
    """
    batch = _Batch(len(pairs))
    for index, (node, question) in enumerate(pairs):
      if node.application and node.application not in self._silent:
        batch.send(self._connection, index, node, question)
    batch.wait(self._deadline)
    silent = batch.list_silent()
    if silent:
      self._silent |= silent
      self.complete = False
    if time.monotonic() > self._deadline:
      self.complete = False
      raise LateError
    return batch.answers


class _Batch:
  """Questions that are on their way."""

  def __init__(self, size: int):
    self.answers: list[Any] = [None] * size
    self._waiting: dict[int, str] = {}
    self._heard = time.monotonic()

  def send(self, connection: Gio.DBusConnection, index: int, node: Node,
           question: Question) -> None:
    self._waiting[index] = node.application
    connection.call(
        node.application, node.path, question.interface, question.method,
        question.arguments, None, Gio.DBusCallFlags.NO_AUTO_START, -1, None,
        self._receive, index)

  def _receive(self, connection: Gio.DBusConnection, result: Gio.AsyncResult,
               index: int) -> None:
    self._heard = time.monotonic()
    self._waiting.pop(index, None)
    try:
      values = connection.call_finish(result).unpack()
    except GLib.Error:   # The thing has gone, or has no such interface.
      return
    self.answers[index] = values[0] if len(values) == 1 else values

  def wait(self, deadline: float) -> None:
    """Waits for all answers, until nobody answers any more or `deadline`."""
    context = GLib.MainContext.default()
    timer = GLib.timeout_add(20, lambda: True)   # It wakes the context.
    try:
      while self._waiting and time.monotonic() < min(
          deadline, self._heard + _SILENCE):
        context.iteration(True)
    finally:
      GLib.source_remove(timer)

  def list_silent(self) -> set[str]:
    return set(self._waiting.values())
