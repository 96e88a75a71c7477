"""OSWorld's routes for windows: they measure, raise, close and open them.

`routes` says what a route takes and returns.
"""
import os
import shutil
import time

from step_jax.envs.osworld.desktop import file_routes
from step_jax.envs.osworld.desktop import messages
from step_jax.envs.osworld.desktop import session

Answer = messages.Answer
Request = messages.Request
Session = session.Session

LOOK = 0.1   # seconds between looks at what is awaited

_OPEN_LIMIT = 60.0   # seconds for a file's window to appear


def find(desktop: Session, name: str, *, strict: bool = False,
         by_class: bool = False) -> list[int]:
  """Finds the windows of a name, as wmctrl compares it.

  Args:
    desktop: whose windows.
    name: a part of the title in any case; the whole title if `strict`.
    strict: whether to compare the whole.
    by_class: whether to compare WM_CLASS ('instance.class') instead.

  Returns:
    Their numbers at the X server.
  """
  found = []
  for window in desktop.ask_screen('windows'):
    text = '.'.join(window['class']) if by_class else window['title']
    # Chromium stands for Chrome, see `programs.name_chrome`.
    texts = text, text.replace('Chromium', 'Google Chrome')
    if name in texts if strict else any(name.lower() in x.lower()
                                        for x in texts):
      found.append(window['id'])
  return found


def _ask_window_manager(desktop: Session, request: Request, what: str) -> None:
  fields = request.read_json()
  name = fields.take('window_name', str)
  windows = find(
      desktop, name, strict=fields.take('strict', bool, default=False),
      by_class=fields.take('by_class', bool, default=False))
  if not windows:
    raise messages.Refusal(f'Window {name} not found', 404)
  desktop.ask_screen(what, window=windows[0])


def activate(desktop: Session, request: Request) -> Answer:
  """`/setup/activate_window`: asks for a window to be raised.

  Args:
    desktop: the desktop.
    request: JSON with `window_name`, and `strict` and `by_class`, see `find`.

  Returns:
    That it was asked for, in words.

  Raises:
    Refusal: there is no such window.
  """
  _ask_window_manager(desktop, request, 'raised')
  return messages.as_text('Window activated successfully')


def close(desktop: Session, request: Request) -> Answer:
  """`/setup/close_window`: asks for a window to be closed.

  Args:
    desktop: the desktop.
    request: as of `activate`.

  Returns:
    That it was asked for, in words.

  Raises:
    Refusal: there is no such window.
  """
  _ask_window_manager(desktop, request, 'closed')
  return messages.as_text('Window closed successfully.')


def open_file(desktop: Session, request: Request) -> Answer:
  """`/setup/open_file`: opens a file or program, and waits for its window."""
  fields = request.read_json()
  given = fields.take('path', str)
  limit = min(fields.take('timeout_seconds', int, float, default=_OPEN_LIMIT),
              messages.LONGEST)
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
      for window in find(desktop, name):
        desktop.ask_screen('raised', window=window)
        return messages.as_text('File opened and window activated '
                                'successfully')
    time.sleep(LOOK)
  return messages.as_text(
      f'Failed to find window for {names} within {limit:g} seconds.', 500)


def size(desktop: Session, request: Request) -> Answer:
  """`/window_size`: sends the size of the first window of a class."""
  name = request.read_form().take('app_class_name', str)
  for window in desktop.ask_screen('windows'):
    if name.lower() in [part.lower() for part in window['class']]:
      return messages.as_json(
          {'width': window['width'], 'height': window['height']})
  raise messages.Refusal(f'expected a window of class {name}, got none', 404)
