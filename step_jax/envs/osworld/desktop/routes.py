"""OSWorld's routes, by name, and those that look at the desktop as a whole.

Programs, windows and files have theirs in `program_routes`, `window_routes`
and `file_routes`. Each route is a function of the desktop that it is about and
of its request, and returns the answer.
"""
from collections.abc import Callable
import os
import platform
import xml.etree.ElementTree

from step_jax.envs.osworld.desktop import file_routes
from step_jax.envs.osworld.desktop import messages
from step_jax.envs.osworld.desktop import program_routes
from step_jax.envs.osworld.desktop import session
from step_jax.envs.osworld.desktop import window_routes

Answer = messages.Answer
Request = messages.Request
Session = session.Session

_SCREEN_LIMIT = 5.0   # seconds
_TREE_LIMIT = 1.0   # seconds


def _screenshot(desktop: Session, _: Request) -> Answer:
  return Answer(body=desktop.ask('screen', _SCREEN_LIMIT, what='screenshot'),
                kind='image/png', status=200)


def _tree(desktop: Session, _: Request) -> Answer:
  tree = desktop.ask_tree(_TREE_LIMIT)
  return messages.as_json({'AT': tree.decode()})


def _terminal(desktop: Session, _: Request) -> Answer:
  """Sends the text of the focused terminal; there is hardly ever one."""
  tree = desktop.ask_tree(_TREE_LIMIT)
  focused = '{https://accessibility.ubuntu.example.org/ns/state}focused'
  texts = [node.text for node in
           xml.etree.ElementTree.fromstring(tree).iter('terminal')
           if node.get(focused) == 'true' and node.text]
  return messages.as_json({
      'output': texts[0].rstrip() if len(texts) == 1 else None,
      'status': 'success'})


def _platform(_: Session, __: Request) -> Answer:
  return messages.as_text(platform.system())


def _cursor_position(desktop: Session, _: Request) -> Answer:
  return messages.as_json(desktop.ask_screen('pointer'))


def _screen_size(desktop: Session, _: Request) -> Answer:
  return messages.as_json(desktop.ask_screen('size'))


def _desktop_path(desktop: Session, _: Request) -> Answer:
  path = os.path.join(desktop.home, 'Desktop')
  if not os.path.isdir(path):
    raise messages.Refusal('desktop path not found', 404)
  return messages.as_json({'desktop_path': path})


def _health(desktop: Session, _: Request) -> Answer:
  return messages.as_json({
      'status': 'ok', 'display': desktop.display, 'home': desktop.home,
      'crashed': desktop.programs.crashed(), **desktop.ask_screen('size')})


def _reset(desktop: Session, _: Request) -> Answer:
  desktop.reset()
  return messages.as_json({'status': 'success'})


_WALLPAPER = ['gsettings', 'get', 'org.gnome.desktop.background',
              'picture-uri']


def _change_wallpaper(desktop: Session, request: Request) -> Answer:
  """Sets what GNOME would show; a bare desktop shows none."""
  path = file_routes.expand(desktop, request.read_json().take('path', str))
  if not os.path.exists(path):
    return messages.as_text(f'File not found: {path}', 404)
  desktop.programs.run(['gsettings', 'set', *_WALLPAPER[2:], f'file://{path}'],
              timeout=_SCREEN_LIMIT)
  return messages.as_text('Wallpaper changed successfully')


def _wallpaper(desktop: Session, _: Request) -> Answer:
  output = desktop.programs.run(_WALLPAPER, timeout=_SCREEN_LIMIT)[1]
  return file_routes.read_file(
      output.strip().strip("'").removeprefix('file://'))


_ROUTES: dict[str, dict[str, Callable[[Session, Request], Answer]]] = {
    'GET': {
        '/accessibility': _tree,
        '/cursor_position': _cursor_position,
        '/health': _health,
        '/platform': _platform,
        '/screenshot': _screenshot,
        '/terminal': _terminal,
    },
    'POST': {
        '/desktop_path': _desktop_path,
        '/execute': program_routes.execute,
        '/execute_with_verification':
            program_routes.execute_with_verification,
        '/file': file_routes.send,
        '/list_directory': file_routes.list_directory,
        '/reset': _reset,
        '/run_bash_script': program_routes.run_bash_script,
        '/run_python': program_routes.run_python,
        '/screen_size': _screen_size,
        '/setup/activate_window': window_routes.activate,
        '/setup/change_wallpaper': _change_wallpaper,
        '/setup/close_window': window_routes.close,
        '/setup/download_file': file_routes.download,
        '/setup/execute': program_routes.execute,
        '/setup/execute_with_verification':
            program_routes.execute_with_verification,
        '/setup/launch': program_routes.launch,
        '/setup/open_file': window_routes.open_file,
        '/setup/upload': file_routes.upload,
        '/wallpaper': _wallpaper,
        '/window_size': window_routes.size,
    },
}


def answer(desktop: Session, method: str, path: str, request: Request
           ) -> Answer:
  """Answers a request.

  Args:
    desktop: what it is about.
    method: 'GET' or 'POST'.
    path: the route, without a query.
    request: its body.

  Returns:
    What goes back.

  Raises:
    messages.Refusal: it cannot be answered as it is.
    OSError: a file or program is not there or not permitted.
    RuntimeError: a part of the desktop says no.
    TimeoutError: a part of the desktop did not answer in time.
  """
  if path not in _ROUTES[method]:
    if any(path in routes for routes in _ROUTES.values()):
      raise messages.Refusal(
          f'expected another method than {method} for {path}', 405)
    raise messages.Refusal(f'expected a route of OSWorld, got {path}', 404)
  return _ROUTES[method][path](desktop, request)
