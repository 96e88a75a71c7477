"""What comes to a desktop's server and what goes back."""
import dataclasses
import email.message
import json
from typing import Any
import urllib.parse

LONGEST = 600.0   # seconds that a request may ask for

_REQUIRED = object()


class Refusal(Exception):
  """A request that cannot be answered, with its status code."""

  def __init__(self, sentence: str, status: int = 400):
    super().__init__(sentence)
    self.status = status


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """What goes back."""

  body: bytes
  kind: str   # the media type
  status: int


def as_json(value: Any, status: int = 200) -> Answer:
  """Answers in JSON.

  Args:
    value: what JSON can hold.
    status: of HTTP.

  Returns:
    The answer.
  """
  return Answer(body=json.dumps(value).encode(), kind='application/json',
                status=status)


def as_text(text: str, status: int = 200) -> Answer:
  """Answers in words.

  Args:
    text: the words.
    status: of HTTP.

  Returns:
    The answer.
  """
  return Answer(body=text.encode(errors='replace'),
                kind='text/plain; charset=utf-8', status=status)


class Request:
  """A request's body, read as its route expects."""

  def __init__(self, kind: str, body: bytes):
    """Keeps the body.

    Args:
      kind: the header Content-Type.
      body: the bytes.
    """
    self._message = email.message.Message()
    self._message['Content-Type'] = kind or 'application/octet-stream'
    self._body = body

  def read_json(self) -> 'Fields':
    """Returns the fields of a JSON object.

    Raises:
      Refusal: it is something else.
    """
    if self._message.get_content_type() != 'application/json':
      raise Refusal('expected Content-Type: application/json, got '
                    f'{self._message.get_content_type()}', 415)
    try:
      value = json.loads(self._body)
    except (ValueError, RecursionError) as error:
      raise Refusal(f'expected JSON, got {error}') from error
    if not isinstance(value, dict):
      raise Refusal(f'expected a JSON object, got {type(value).__name__}')
    return Fields(value)

  def read_form(self) -> 'Fields':
    """Returns the fields of a form; those of a multipart one are bytes.

    Raises:
      Refusal: it is something else.
    """
    kind = self._message.get_content_type()
    if kind == 'application/x-www-form-urlencoded':
      text = self._body.decode(errors='replace')
      try:
        pairs = urllib.parse.parse_qsl(text, keep_blank_values=True)
      except ValueError as error:
        raise Refusal(f'expected a form, got {error}') from error
      return Fields(dict(pairs))
    if kind == 'multipart/form-data':
      return Fields(self._split())
    return Fields({})   # The route says which field it misses.

  def _split(self) -> dict[str, bytes]:
    boundary = self._message.get_boundary()
    if not boundary:
      raise Refusal('expected a multipart form with a boundary, got none')
    fields = {}
    limit = b'\r\n--' + boundary.encode(errors='replace')
    for part in (b'\r\n' + self._body).split(limit)[1:-1]:
      head, found, content = part.removeprefix(b'\r\n').partition(b'\r\n\r\n')
      message = email.message_from_bytes(head)
      name = message.get_param('name', header='Content-Disposition')
      if not found or not isinstance(name, str):
        raise Refusal('expected named parts in the form, got another')
      fields[name] = content
    return fields


class Fields:
  """The named values of a request."""

  def __init__(self, values: dict[str, Any]):
    self._values = values

  def take(self, name: str, *kinds: type, default: Any = _REQUIRED) -> Any:
    """Takes a value of one of the types `kinds`.

    Args:
      name: the field.
      *kinds: the types; str also takes the bytes of a multipart form.
      default: the value of a field that is missing or null, if it may be.

    Returns:
      The value, or the default.

    Raises:
      Refusal: it is missing, or of another type.
    """
    value = self._values.get(name)
    if value is None:
      if default is _REQUIRED:
        raise Refusal(f'expected {name} in the request, got none')
      return default
    if isinstance(value, bytes) and bytes not in kinds:
      value = value.decode(errors='replace')
    if not isinstance(value, kinds) or \
        isinstance(value, bool) and bool not in kinds:
      raise Refusal(f'expected {name} of type '
                    f'{" or ".join(kind.__name__ for kind in kinds)}, got '
                    f'{type(value).__name__}')
    if isinstance(value, str) and '\0' in value:
      raise Refusal(f'expected {name} without a zero byte, got one')
    return value
