"""OSWorld's routes over HTTP, for one desktop.

The paths, the fields and the status codes are those of the server inside
OSWorld's virtual machine. `POST /reset` and `GET /health` are ours.

Imports the standard library alone; runs as the desktop's own user.
"""
import hmac
import http.server
import socket
import sys
import threading
from typing import Any

from step_jax.envs.osworld.desktop import messages
from step_jax.envs.osworld.desktop import routes
from step_jax.envs.osworld.desktop import session

_MAX_BODY = 1 << 26   # bytes of a request
_IDLE = 60.0   # seconds after which a silent connection is closed


def serve(listener: socket.socket, *, folder: str, screen: tuple[int, int],
          token: str | None) -> None:
  """Starts a desktop and serves it until a part of it ends.

  Args:
    listener: the socket to listen on.
    folder: of this process' user, with the desktop's code.
    screen: width and height.
    token: what every request must show; None: nothing.
  """
  desktop = session.Session(folder, size=screen)
  try:
    desktop.start()
  except (OSError, RuntimeError) as error:
    print(f'the desktop did not start: {error}', file=sys.stderr, flush=True)
    return
  server = _Server(listener, desktop, token)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  host, port = listener.getsockname()[:2]
  host = f'[{host}]' if ':' in host else host
  print(f'desktop ready on http://{host}:{port} display {desktop.display}',
        flush=True)
  print(f'the desktop ends: {desktop.wait()} has ended', file=sys.stderr,
        flush=True)


class _Server(http.server.ThreadingHTTPServer):
  """A thread for each connection; none outlives the process."""

  daemon_threads = True

  def __init__(self, listener: socket.socket, desktop: session.Session,
               token: str | None):
    super().__init__(
        listener.getsockname()[:2], _Handler, bind_and_activate=False)
    self.socket.close()
    self.socket = listener
    self.desktop = desktop
    self.token = token

  def handle_error(self, request: Any, client_address: Any) -> None:
    """A connection that broke is its client's affair."""


class _Handler(http.server.BaseHTTPRequestHandler):
  """Checks a request and hands it to its route."""

  protocol_version = 'HTTP/1.1'
  timeout = _IDLE
  server: _Server

  def do_GET(self) -> None:   # noqa: N802  (the base class' name)
    self._answer('GET')

  def do_POST(self) -> None:   # noqa: N802
    self._answer('POST')

  def log_message(self, *_: Any) -> None:
    """Nothing is written for a request."""

  def _answer(self, method: str) -> None:
    try:
      request = messages.Request(
          self.headers.get('Content-Type', ''), self._admit())
      answer = routes.answer(
          self.server.desktop, method, self.path.partition('?')[0], request)
    except messages.Refusal as refusal:
      answer = _as_error(refusal, refusal.status)
    except Exception as error:   # The next request may fare better.
      answer = _as_error(error, 500)
    self.send_response(answer.status)
    self.send_header('Content-Type', answer.kind)
    self.send_header('Content-Length', str(len(answer.body)))
    if self.close_connection:
      self.send_header('Connection', 'close')
    self.end_headers()
    self.wfile.write(answer.body)

  def _admit(self) -> bytes:
    """Returns the body of a request that may pass."""
    close, self.close_connection = self.close_connection, True
    self._check_sender()
    size = self.headers.get('Content-Length', '0')
    if not size.isdecimal() or 'Transfer-Encoding' in self.headers:
      raise messages.Refusal('expected a Content-Length', 411)
    if int(size) > _MAX_BODY:
      raise messages.Refusal(
          f'expected at most {_MAX_BODY} bytes, got {size}', 413)
    body = self.rfile.read(int(size))
    self.close_connection = close   # The connection is at the next request.
    return body

  def _check_sender(self) -> None:
    if self.server.token is not None:
      shown = self.headers.get('Authorization', '').encode()
      if not hmac.compare_digest(
          shown, f'Bearer {self.server.token}'.encode()):
        raise messages.Refusal('expected Authorization: Bearer SECRET', 401)
    elif 'Origin' in self.headers:   # a page in a browser on this machine
      raise messages.Refusal('expected no Origin without a token', 403)


def _as_error(error: Exception, status: int) -> messages.Answer:
  sentence = str(error) or type(error).__name__
  return messages.as_json(
      {'status': 'error', 'message': sentence, 'error': sentence}, status)
