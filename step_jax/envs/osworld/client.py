"""An HTTP client of OSWorld's desktop server.

It speaks the contract of OSWorld's own server, so that a virtual machine, a
container and this project's bare desktop look the same. Every request has a
time limit. Only what is safe to repeat is repeated: reading, and writing the
same bytes to the same file. An action is sent once; when its answer is lost,
nobody knows what happened, and the episode is lost with it.
"""

import hashlib
import itertools
import logging
import os
import pathlib
import posixpath
import time
from typing import Any, NamedTuple

import httpx

from step_jax.envs import connections

logging.getLogger('httpx').setLevel(logging.WARNING)  # no line a request

MAX_FILE = 32 * 2**20  # bytes of a file, tree or picture that is read

_RETRIES = 2
_CONNECT_TIMEOUT = 5.0
_SHORT = 20.0  # seconds to read the screen, a file or a path
# Seconds for a command, an application or an upload. Of a command OSWorld's
# server says after 120 that it could not.
_LONG = 150.0


class DesktopError(RuntimeError):
  """The desktop, or the way to it, broke; the episode is lost."""


class AnswerError(DesktopError):
  """The desktop answered that it could not: status 404 or 500, or too much.

  A restored machine answers so where a task asks for what is not there, and
  OSWorld goes on; once the agent has acted, it can be the agent's doing.
  """


class Output(NamedTuple):
  """What a command of the desktop wrote, and how it ended."""
  output: str
  error: str
  returncode: int


class Client:
  """One desktop by its address.

  Args:
    address: such as 'http://127.0.0.1:5000'.
    token: sent as `Authorization: Bearer`, if not empty.
    retry_pause: seconds before a request is repeated.
    transport: of httpx, for tests.

  Raises:
    ValueError: for an address that is none.
    DesktopError: from every method, when the desktop does not answer in time,
      or not what it should.
  """

  def __init__(self, address: str, *, token: str = '',
               retry_pause: float = 0.5,
               transport: httpx.BaseTransport | None = None):
    self._http = connections.connect(
        address, name='desktop', token=token, transport=transport)
    self.address = address.rstrip('/')
    self._retry_pause = retry_pause
    self._can_reset: bool | None = None
    self._home: str | None = None

  def close(self) -> None:
    self._http.close()

  def __enter__(self) -> 'Client':
    return self

  def __exit__(self, *_: Any) -> None:
    self.close()

  # What is on the screen.

  def screenshot(self) -> bytes:
    """Returns a picture of the screen, PNG or JPEG."""
    data = self._ask('GET', '/screenshot', repeat=True).content
    if not data.startswith((b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff')):
      raise self._error('/screenshot', 'the answer is no picture')
    return data

  def accessibility(self) -> str:
    """Returns the accessibility tree as XML."""
    return self._json('GET', '/accessibility', 'AT', repeat=True)

  def screen_size(self) -> tuple[int, int]:
    """Returns width and height in pixels."""
    return (self._json('POST', '/screen_size', 'width', int, repeat=True),
            self._json('POST', '/screen_size', 'height', int, repeat=True))

  def crashed(self) -> list[str]:
    """Returns the applications that broke since the last reset.

    Only this project's bare desktop tells; others have no /health.
    """
    response = self._ask('GET', '/health', repeat=True, accept=(404, 405))
    if response.status_code != 200:
      return []
    names = self._parse('/health', response).get('crashed', [])
    return [str(name) for name in names] if isinstance(names, list) else []

  # Files.

  @property
  def home(self) -> str:
    """The home directory of the desktop's user; asked once."""
    if self._home is None:
      self._home = posixpath.dirname(self._json(
          'POST', '/desktop_path', 'desktop_path', repeat=True).rstrip('/'))
    return self._home

  def read_file(self, path: str) -> bytes | None:
    """Returns a file's content, or None where there is no such file.

    Of a file above MAX_FILE only the first MAX_FILE + 1 bytes come back.
    """
    response = self._ask('POST', '/file', data={'file_path': path},
                         repeat=True, accept=(404,), cut=True)
    return None if response.status_code == 404 else response.content

  def write_file(self, path: str, content: bytes) -> None:
    """Writes a file, and the folders above it."""
    self._ask('POST', '/setup/upload', data={'file_path': path},
              files={'file_data': (posixpath.basename(path), content)},
              repeat=True, timeout=_LONG)

  # What changes the desktop; each is sent once.

  def reset(self) -> bool:
    """Restores the desktop; False where the server does not know how.

    OSWorld's own server has no /reset: a virtual machine is restored from
    outside. That is asked once.
    """
    if self._can_reset is not False:
      response = self._ask('POST', '/reset', accept=(404, 405), timeout=_LONG)
      self._can_reset = response.status_code == 200
    return self._can_reset

  def execute(self, command: str | list[str], *, shell: bool = False,
              timeout: float = _LONG) -> Output:
    """Runs a program until it ends."""
    response = self._ask('POST', '/execute', timeout=timeout,
                         json={'command': command, 'shell': shell})
    answer = self._parse('/execute', response)
    return Output(*(
        self._field('/execute', answer, name, kind) for name, kind in (
            ('output', str), ('error', str), ('returncode', int))))

  def launch(self, command: str | list[str], *, shell: bool = False) -> None:
    """Starts a program and does not wait for it."""
    self._ask('POST', '/setup/launch', timeout=_LONG,
              json={'command': command, 'shell': shell})

  def open_file(self, path: str) -> None:
    """Opens a file with its application."""
    self._ask('POST', '/setup/open_file', json={'path': path}, timeout=_LONG)

  def activate_window(self, **parameters: Any) -> None:
    """Brings a window, if there is one, to the front.

    Args:
      **parameters: window_name, strict, by_class.
    """
    self._ask('POST', '/setup/activate_window', json=parameters, accept=(404,))

  def close_window(self, **parameters: Any) -> None:
    """Closes a window, if there is one; parameters as above."""
    self._ask('POST', '/setup/close_window', json=parameters, accept=(404,))

  # How it is asked.

  def _json(self, method: str, route: str, name: str, kind: type = str,
            **request: Any) -> Any:
    answer = self._parse(route, self._ask(method, route, **request))
    return self._field(route, answer, name, kind)

  def _parse(self, route: str, response: httpx.Response) -> dict[str, Any]:
    try:
      answer = response.json()
    except (ValueError, RecursionError) as error:
      raise self._error(route, 'the answer is not JSON') from error
    if not isinstance(answer, dict):
      raise self._error(route, 'the answer is no JSON object')
    return answer

  def _field(self, route: str, answer: dict[str, Any], name: str,
             kind: type) -> Any:
    if not isinstance(answer.get(name), kind):
      raise self._error(route, f'the answer has no {name}')
    return answer[name]

  def _ask(self, method: str, route: str, *, repeat: bool = False,
           accept: tuple[int, ...] = (), timeout: float | None = None,
           cut: bool = False, **content: Any) -> httpx.Response:
    """Sends a request, again after a failure where it may be repeated."""
    for attempt in itertools.count():
      try:
        response = self._send(
            method, route, timeout or _SHORT, cut, content)
        if response.status_code in (200, *accept):
          return response
        reason = f'status {response.status_code}: {response.text[:200]!r}'
        error: Exception | None = None
        kind = AnswerError if response.status_code in (404, 500) else (
            DesktopError)
      except httpx.HTTPError as caught:
        reason, error = f'{type(caught).__name__} {caught}'.strip(), caught
        kind = DesktopError
      refused = error is None and response.status_code < 500
      never_sent = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
      if refused or not (repeat or never_sent) or attempt >= _RETRIES:
        raise kind(f'{self.address}{route} failed: {reason}') from error
      time.sleep(self._retry_pause)
    raise AssertionError

  def _send(self, method: str, route: str, timeout: float, cut: bool,
            content: dict[str, Any]) -> httpx.Response:
    """One request; `timeout` covers all of it, however slowly it drips."""
    deadline = time.monotonic() + timeout
    limits = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT))
    with self._http.stream(
        method, route, timeout=limits, **content) as response:
      body = bytearray()
      for chunk in response.iter_bytes():
        body += chunk
        if time.monotonic() > deadline:
          raise httpx.ReadTimeout(f'no end after {timeout:g} s')
        if len(body) > MAX_FILE:
          if not cut:
            raise AnswerError(f'{self.address}{route} failed: more than '
                              f'{MAX_FILE} bytes')
          break
    return httpx.Response(response.status_code, content=bytes(
        body[:MAX_FILE + 1]))

  def _error(self, route: str, reason: str) -> DesktopError:
    return DesktopError(f'{self.address}{route} failed: {reason}')


def cached(url: str, cache: pathlib.Path) -> pathlib.Path:
  """Returns where a cache has, or will have, what a URL holds."""
  return cache / hashlib.sha256(url.encode()).hexdigest()


def download(url: str, cache: pathlib.Path, *,
             transport: httpx.BaseTransport | None = None) -> bytes:
  """Returns what a URL holds, from `cache` if it was asked before.

  Raises:
    DesktopError: it could not be had.
  """
  path = cached(url, cache)
  if path.exists():
    return path.read_bytes()
  try:
    with httpx.Client(transport=transport, follow_redirects=True,
                      timeout=_LONG) as http:
      response = http.get(url)
      response.raise_for_status()
  except httpx.HTTPError as error:
    raise DesktopError(
        f'{url} could not be downloaded: {type(error).__name__} {error}'
    ) from error
  cache.mkdir(parents=True, exist_ok=True)
  draft = path.with_suffix(f'.{os.getpid()}')
  draft.write_bytes(response.content)
  draft.chmod(0o444)  # as all episodes share it
  draft.replace(path)
  return response.content
