"""OSWorld's routes: they look at the desktop, run programs, handle windows."""
from collections.abc import Callable
import os
import platform
import shlex
import shutil
import time
from typing import Any
import xml.etree.ElementTree

from step_jax.envs.osworld.desktop import file_routes
from step_jax.envs.osworld.desktop import messages
from step_jax.envs.osworld.desktop import session

Answer = messages.Answer
Request = messages.Request
Session = session.Session

_EXECUTE_LIMIT = 120.0   # seconds, as OSWorld's
_PYTHON_LIMIT = 30.0   # seconds, as OSWorld's
_LONGEST = 600.0   # seconds that a request may ask for
_OPEN_LIMIT = 60.0   # seconds for a file's window to appear
_SCREEN_LIMIT = 5.0   # seconds
_TREE_LIMIT = 1.0   # seconds
_LOOK = 0.1   # seconds between looks at what is awaited


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


def _window_size(desktop: Session, request: Request) -> Answer:
  name = request.read_form().take('app_class_name', str)
  for window in desktop.ask_screen('windows'):
    if name.lower() in [part.lower() for part in window['class']]:
      return messages.as_json(
          {'width': window['width'], 'height': window['height']})
  raise messages.Refusal(f'expected a window of class {name}, got none', 404)


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


def _read_command(desktop: Session, fields: messages.Fields
                  ) -> tuple[Any, bool]:
  """Returns a command, as words without a shell, and whether for a shell."""
  shell = fields.take('shell', bool, default=False)
  command = fields.take('command', list, str)
  if isinstance(command, str) and not shell:
    try:
      command = shlex.split(command)
    except ValueError as error:
      raise messages.Refusal(f'expected a command, got {error}') from error
  if not command:
    raise messages.Refusal('expected a command, got an empty one')
  if isinstance(command, list):
    if not all(
        isinstance(word, str) and '\0' not in word for word in command):
      raise messages.Refusal('expected words in command, got another type')
    command = [file_routes.expand_home(desktop, word) for word in command]
  return command, shell


def _run(desktop: Session, fields: messages.Fields) -> dict[str, Any]:
  command, shell = _read_command(desktop, fields)
  code, output, errors = desktop.programs.run(
      command, shell=shell, timeout=_EXECUTE_LIMIT)
  return {'status': 'success', 'output': output, 'error': errors,
          'returncode': code}


def _execute(desktop: Session, request: Request) -> Answer:
  return messages.as_json(_run(desktop, request.read_json()))


def _execute_with_verification(desktop: Session, request: Request) -> Answer:
  """Runs a command and waits until a window or a check says that it worked."""
  fields = request.read_json()
  verification = messages.Fields(fields.take('verification', dict, default={}))
  window = verification.take('window_exists', str, default=None)
  check = verification.take('command_success', str, list, default=None)
  limit = fields.take('max_wait_time', int, float, default=10)
  pause = fields.take('check_interval', int, float, default=1)
  result = _run(desktop, fields)
  if window is None and check is None:
    return messages.as_json(result)
  start = time.monotonic()
  while (waited := time.monotonic() - start) < min(limit, _LONGEST):
    if (window is None or _find_windows(desktop, window)) and (
        check is None or _succeeds(desktop, check)):
      return messages.as_json(
          {**result, 'verification': 'passed', 'wait_time': waited})
    time.sleep(min(max(pause, _LOOK), limit))
  return messages.as_json(
      {**result, 'status': 'verification_failed', 'verification': 'failed',
       'wait_time': limit}, 500)


def _succeeds(desktop: Session, check: str | list[str]) -> bool:
  try:
    return desktop.programs.run(check, shell=True, timeout=5)[0] == 0
  except (OSError, TimeoutError):
    return False


def _launch(desktop: Session, request: Request) -> Answer:
  command, shell = _read_command(desktop, request.read_json())
  desktop.programs.launch(command, shell=shell)
  words = command if isinstance(command, str) else ' '.join(command)
  return messages.as_text(f'{words} launched successfully')


def _run_python(desktop: Session, request: Request) -> Answer:
  code = request.read_json().take('code', str)
  try:
    status, output, errors = desktop.programs.run_script(
        code, ['python'], timeout=_PYTHON_LIMIT)
  except TimeoutError:
    return messages.as_json({
        'status': 'error', 'error': 'TimeoutExpired', 'need_more': False,
        'message': 'Execution timeout: Code took too long to execute',
        'output': None}, 500)
  if status and not errors:
    errors = f'Process exited with code {status}'
  return messages.as_json({
      'status': 'error' if status else 'success', 'need_more': False,
      'message': '\n'.join(text for text in (output, errors) if text),
      'output': output, 'error': errors, 'return_code': status})


def _run_bash_script(desktop: Session, request: Request) -> Answer:
  fields = request.read_json()
  limit = fields.take('timeout', int, float, default=100)
  folder = fields.take('working_dir', str, default=None)
  try:
    folder = folder and file_routes.expand(desktop, folder)
    if folder and not os.path.isdir(folder):
      raise messages.Refusal(f'Working directory does not exist: {folder}')
    code, output, _ = desktop.programs.run_script(
        fields.take('script', str), ['/bin/bash'], cwd=folder,
        timeout=min(max(limit, 0), _LONGEST), merge=True)
  except (messages.Refusal, TimeoutError) as error:
    late = isinstance(error, TimeoutError)
    return messages.as_json({
        'status': 'error', 'error': '', 'returncode': -1, 'output':
            f'Script execution timed out after {limit} seconds' if late
            else str(error)}, 500 if late else 400)
  return messages.as_json({
      'status': 'error' if code else 'success', 'output': output, 'error': '',
      'returncode': code})


def _find_windows(desktop: Session, name: str, *, strict: bool = False,
                  by_class: bool = False) -> list[int]:
  """Returns the windows of a name, as wmctrl compares it.

  Args:
    desktop: whose windows.
    name: a part of the title in any case; the whole title if `strict`.
    strict: whether to compare the whole.
    by_class: whether to compare WM_CLASS ('instance.class') instead.
  """
  found = []
  for window in desktop.ask_screen('windows'):
    text = '.'.join(window['class']) if by_class else window['title']
    if text == name if strict else name.lower() in text.lower():
      found.append(window['id'])
  return found


def _ask_window_manager(desktop: Session, request: Request, what: str) -> None:
  fields = request.read_json()
  name = fields.take('window_name', str)
  windows = _find_windows(
      desktop, name, strict=fields.take('strict', bool, default=False),
      by_class=fields.take('by_class', bool, default=False))
  if not windows:
    raise messages.Refusal(f'Window {name} not found', 404)
  desktop.ask_screen(what, window=windows[0])


def _activate_window(desktop: Session, request: Request) -> Answer:
  _ask_window_manager(desktop, request, 'raised')
  return messages.as_text('Window activated successfully')


def _close_window(desktop: Session, request: Request) -> Answer:
  _ask_window_manager(desktop, request, 'closed')
  return messages.as_text('Window closed successfully.')


def _open_file(desktop: Session, request: Request) -> Answer:
  """Opens a file or starts a program, and waits for its window."""
  fields = request.read_json()
  given = fields.take('path', str)
  limit = min(fields.take('timeout_seconds', int, float, default=_OPEN_LIMIT),
              _LONGEST)
  path = file_routes.expand(desktop, given)
  if os.path.exists(path):
    desktop.programs.launch(['xdg-open', path])
    name = os.path.basename(path)
  elif shutil.which(given, path=desktop.environment['PATH']):
    desktop.programs.launch([given])
    name = given
  else:
    return messages.as_text(f'Application/file not found: {given}', 404)
  names = [fields.take('window_name', str, default=None) or name]
  names.append(os.path.splitext(names[0])[0])
  deadline = time.monotonic() + limit
  while time.monotonic() < deadline:
    for name in names:
      for window in _find_windows(desktop, name):
        desktop.ask_screen('raised', window=window)
        return messages.as_text('File opened and window activated '
                                'successfully')
    time.sleep(_LOOK)
  return messages.as_text(
      f'Failed to find window for {names} within {limit:g} seconds.', 500)


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
        '/execute': _execute,
        '/execute_with_verification': _execute_with_verification,
        '/file': file_routes.send,
        '/list_directory': file_routes.list_directory,
        '/reset': _reset,
        '/run_bash_script': _run_bash_script,
        '/run_python': _run_python,
        '/screen_size': _screen_size,
        '/setup/activate_window': _activate_window,
        '/setup/change_wallpaper': _change_wallpaper,
        '/setup/close_window': _close_window,
        '/setup/download_file': file_routes.download,
        '/setup/execute': _execute,
        '/setup/execute_with_verification': _execute_with_verification,
        '/setup/launch': _launch,
        '/setup/open_file': _open_file,
        '/setup/upload': file_routes.upload,
        '/wallpaper': _wallpaper,
        '/window_size': _window_size,
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
