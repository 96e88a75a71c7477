"""A desktop of OSWorld's protocol without a screen, which fails on demand."""

import collections
import email
import http.server
import io
import json
import socket
import threading
import time
import urllib.parse

from PIL import Image

ST = 'https://accessibility.ubuntu.example.org/ns/state'
CP = 'https://accessibility.ubuntu.example.org/ns/component'


def picture(size=(1280, 720)) -> bytes:
  file = io.BytesIO()
  Image.new('RGB', size, (10, 20, 30)).save(file, 'PNG')
  return file.getvalue()


def node(tag, name='', box=(0, 0, 10, 10), *children, states='', text=''):
  """An element of the tree; box is left, top, width, height."""
  from xml.sax import saxutils

  shown = ' '.join(f'st:{state}="true"' for state in (
      'showing', 'visible', 'enabled', 'sensitive', *states.split()))
  return (f'<{tag} name={saxutils.quoteattr(name)} {shown} '
          f'cp:screencoord="({box[0]}, {box[1]})" '
          f'cp:size="({box[2]}, {box[3]})">{saxutils.escape(text)}'
          f'{"".join(children)}</{tag}>')


def tree(*windows) -> str:
  return (f'<desktop-frame xmlns:st="{ST}" xmlns:cp="{CP}"><application '
          f'name="app">{"".join(windows)}</application></desktop-frame>')


def small_tree(text='') -> str:
  """A window with a menu, a field of many lines and a button."""
  return tree(node(
      'frame', 'Notes', (0, 0, 1280, 720),
      node('menu', 'File', (0, 0, 40, 20)),
      node('push-button', 'Save', (100, 0, 40, 20)),
      node('text', '', (0, 20, 1280, 700), states='editable multi-line',
           text=text),
      states='active'))


class FakeDesktop:
  """Serves on a free port of loopback, in a thread, until it is left.

  `failures[route]` is a list of what its next requests meet: 'slow' (0.3 s),
  'error' (status 500), 'drop' (the connection ends), 'garbage' (an answer that
  is none), 'freeze' (no answer until the end), or a status code.

  `on_execute(command)` gives the standard output of what is executed, and may
  change the fake.
  """

  def __init__(self, *, token='', can_reset=True, home='/home/user'):
    self.token = token
    self.can_reset = can_reset
    self.home = home
    self.files = {}
    self.tree = small_tree()
    self.picture = picture()
    self.requests = []  # (route, parsed body)
    self.failures = collections.defaultdict(list)
    self.on_execute = lambda command: ''
    self.on_reset = lambda: None
    self.crashed = None  # the applications; None: no /health, as in OSWorld
    self._end = threading.Event()
    fake = self

    class Handler(http.server.BaseHTTPRequestHandler):

      def do_GET(self):  # noqa: N802
        fake._answer(self)

      do_POST = do_GET  # noqa: N815

      def log_message(self, *_):
        pass

    class Server(http.server.ThreadingHTTPServer):
      daemon_threads = True

      def handle_error(self, request, client_address):
        pass  # a connection that was dropped on purpose

    self._server = Server(('127.0.0.1', 0), Handler)
    self._thread = threading.Thread(
        target=self._server.serve_forever, args=(0.02,))

  @property
  def address(self) -> str:
    return f'http://127.0.0.1:{self._server.server_port}'

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._end.set()
    self._server.shutdown()
    self._server.server_close()
    self._thread.join()

  def count(self, route: str) -> int:
    return sum(name == route for name, _ in self.requests)

  def orders(self):
    """What the fixed program was told to do, per request."""
    return [json.loads(body['command'][3]) for route, body in self.requests
            if route == '/execute' and body['command'][0] == 'python']

  def _answer(self, handler) -> None:
    length = int(handler.headers.get('Content-Length') or 0)
    body = _parse(handler.headers, handler.rfile.read(length))
    route = handler.path
    self.requests.append((route, body))
    if self.token and handler.headers.get(
        'Authorization') != f'Bearer {self.token}':
      return self._send(handler, 401, b'no')
    failure = self.failures[route].pop(0) if self.failures[route] else ''
    if failure == 200:
      failure = ''  # as if none
    if failure == 'slow':
      time.sleep(0.3)
    elif failure == 'freeze':
      self._end.wait()
    elif failure == 'drop':
      handler.close_connection = True
      handler.connection.shutdown(socket.SHUT_RDWR)
      return None
    elif failure == 'garbage':
      return self._send(handler, 200, b'\0<garbage')
    elif failure == 'error':
      return self._send(handler, 500, b'{"status": "error"}')
    elif failure:
      return self._send(handler, failure, b'{}')
    return self._send(handler, *self._reply(route, body))

  def _reply(self, route, body):
    if route == '/screenshot':
      return 200, self.picture
    if route == '/accessibility':
      return 200, json.dumps({'AT': self.tree}).encode()
    if route == '/health' and self.crashed is not None:
      return 200, json.dumps({'crashed': self.crashed}).encode()
    if route == '/screen_size':
      return 200, b'{"width": 1280, "height": 720}'
    if route == '/desktop_path':
      return 200, json.dumps({'desktop_path': self.home + '/Desktop'}).encode()
    if route == '/file':
      content = self.files.get(body['file_path'])
      return (404, b'{}') if content is None else (200, content)
    if route == '/setup/upload':
      self.files[body['file_path']] = body['file_data']
      return 200, b'File Uploaded'
    if route in ('/execute', '/setup/execute'):
      output = self.on_execute(body['command'])
      code = 0
      if isinstance(output, tuple):
        output, code = output
      return 200, json.dumps({'status': 'success', 'output': output,
                              'error': '', 'returncode': code}).encode()
    if route == '/reset' and not self.can_reset:
      return 404, b'{}'
    if route == '/reset':
      self.on_reset()
    if route == '/reset' or route.startswith('/setup/'):
      return 200, b'{}'
    return 404, b'{}'

  def _send(self, handler, status: int, content: bytes) -> None:
    handler.send_response(status)
    handler.send_header('Content-Length', str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _parse(headers, body: bytes):
  kind = headers.get('Content-Type', '')
  if kind == 'application/json':
    return json.loads(body)
  if kind.startswith('multipart/form-data'):
    message = email.message_from_bytes(
        f'Content-Type: {kind}\r\n\r\n'.encode() + body)
    parts = {part.get_param('name', header='content-disposition'):
             part.get_payload(decode=True) for part in message.get_payload()}
    return {name: content if name == 'file_data' else content.decode()
            for name, content in parts.items()}
  return dict(urllib.parse.parse_qsl(body.decode()))
