"""Actions on a desktop: one fixed program, and what to do as its argument.

`perform` sends all parts of an action in one request. The program never
changes; points, keys and text travel as JSON in an argument of their own, so
that no instruction and no answer of a model can become code.
"""

from collections.abc import Iterable
import json
from typing import Any

from step_jax.codecs import actions
from step_jax.envs.osworld import client as client_lib

_TIMEOUT = 30.0  # seconds for one action

# Runs in the desktop, whose Python has pyautogui, as in OSWorld. pyautogui
# leaves out what is not on the keyboard, which is pasted, and types '>' for
# '<'. (`xdotool type` loses some of the former: it changes the keyboard's map
# faster than applications take notice.) xclip may end before the clipboard is
# its own: what was in there before would be pasted.
PROGRAM = '''
import json, re, subprocess, sys, time
import pyautogui

pyautogui.FAILSAFE = False
pyautogui.PAUSE = 0.02


def paste(text):
  clipboard = ['xclip', '-selection', 'clipboard']
  subprocess.run(
      clipboard, input=text.encode(), stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL, check=True)
  deadline = time.monotonic() + 5
  while subprocess.run(
      [*clipboard, '-o'], capture_output=True).stdout != text.encode():
    if time.monotonic() > deadline:
      raise OSError('the clipboard does not take a text')
    time.sleep(0.01)
  pyautogui.hotkey('ctrl', 'v')
  time.sleep(0.1)


def write(text):
  foreign = '[^\\0-\\x7f]'
  for part in re.findall(
      f'{foreign}(?:[^\\n\\t]*{foreign})?|<|[\\0-;=-\\x7f]+', text):
    if not part.isascii():
      paste(part)
    elif part == '<':
      pyautogui.hotkey('shift', ',')
    else:
      pyautogui.write(part)


def drag(left, top, right, bottom):
  pyautogui.moveTo(left, top)
  pyautogui.dragTo(right, bottom, duration=0.5, button='left')


def scroll(amount, sideways, point):
  if point:
    pyautogui.moveTo(*point)
  (pyautogui.hscroll if sideways else pyautogui.scroll)(amount)


for name, *arguments in json.loads(sys.argv[1]):
  {'click': pyautogui.click, 'double_click': pyautogui.doubleClick,
   'right_click': pyautogui.rightClick, 'drag': drag, 'scroll': scroll,
   'hotkey': pyautogui.hotkey, 'type': write, 'wait': time.sleep,
  }[name](*arguments)
'''


def perform(client: client_lib.Client, parts: Iterable[actions.Action], *,
            screen_size: tuple[int, int], pause: float = 0.) -> None:
  """Does what the actions say, one after the other.

  Args:
    client: of the desktop.
    parts: actions; done and fail do nothing.
    screen_size: width and height in pixels.
    pause: seconds that a wait takes.

  Raises:
    DesktopError: it was not done, or nobody knows.
  """
  orders = [_order(action, screen_size, pause) for action in parts
            if action.kind not in ('done', 'fail')]
  if not orders:
    return
  result = client.execute(
      ['python', '-c', PROGRAM, json.dumps(orders)], timeout=_TIMEOUT)
  if result.returncode != 0:
    lines = result.error.strip().splitlines() or ['no reason']
    raise client_lib.DesktopError(
        f'{client.address}: an action failed: {lines[-1][:200]}')


def _order(action: actions.Action, screen_size: tuple[int, int],
           pause: float) -> list[Any]:
  points = [actions.to_pixel(point, screen_size)
            for point in (action.point, action.end) if point is not None]
  if action.kind == 'scroll':
    sign = 1 if action.direction in ('up', 'right') else -1
    return ['scroll', sign * action.amount,
            action.direction in ('left', 'right'),
            points[0] if points else None]
  if action.kind == 'hotkey':
    return ['hotkey', *action.keys]
  if action.kind == 'type':
    return ['type', action.text]
  if action.kind == 'wait':
    return ['wait', pause]
  return [action.kind, *(x for point in points for x in point)]
