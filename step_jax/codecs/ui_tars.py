"""The text that UI-TARS writes, read as actions and written again.

`ui_tars_grammar` parses it. These are the calls on a desktop, of arguments in
any order:

  click(start_box=point)                      click
  left_double(start_box=point)                double_click
  right_single(start_box=point)               right_click
  drag(start_box=point, end_box=point)        drag
  scroll(direction=word[, start_box=point])   scroll, 5 notches as upstream does
  hotkey(key=keys)                            hotkey
  type(content=text)                          type; a last \\n is Enter, and so
                                              is one behind two backslashes
  wait()                                      wait
  finished([content=text])                    done
  call_user()                                 fail: OSWorld's agent of UI-TARS
                                              answers FAIL, "infeasible", to it

and these on a phone (platform 'mobile'):

  click, drag, type, wait, finished,          as above
  call_user
  scroll                                      as above, or of two points, from
                                              start_box to end_box: the finger
                                              goes along the longer axis, and
                                              the view goes the other way
  long_press(start_box=point[, time=text])    long_press; its time is ignored
  open_app(app_name=text)                     open_app
  press_home()                                press_home
  press_back()                                press_back

Other names are read, too, and never written: `_ALSO_READ`. A direction is the
first of up, down, left and right that stands in the word. Texts and keys that
are empty are a `wait`: they do nothing.

UI-TARS-DPO counts coordinates in thousandths of the screen and wraps them in
box tokens (convention 'thousand'); UI-TARS 1.5 counts pixels of the picture
that it is shown (convention 'pixels'). Both are read with or without tokens.
"""

from typing import Any, Literal

from step_jax.codecs import actions
from step_jax.codecs import ui_tars_grammar
from step_jax.codecs.ui_tars_grammar import UiTarsError

Convention = Literal['thousand', 'pixels']
Platform = Literal['desktop', 'mobile']

MAX_LENGTH = 65_536  # characters of a response
SCROLL_AMOUNT = 5  # wheel notches
_WRITTEN_ENTER = '\\n'  # a backslash and n

_DESKTOP: ui_tars_grammar.Calls = {
    'click': ('click', {'start_box': 'point'}),
    'left_double': ('double_click', {'start_box': 'point'}),
    'right_single': ('right_click', {'start_box': 'point'}),
    'drag': ('drag', {'start_box': 'point', 'end_box': 'end'}),
    'scroll': ('scroll', {'start_box': 'point', 'direction': 'direction'}),
    'hotkey': ('hotkey', {'key': 'keys'}),
    'type': ('type', {'content': 'text'}),
    'wait': ('wait', {}),
    'finished': ('done', {'content': 'text'}),
    'call_user': ('fail', {}),
}
_MOBILE: ui_tars_grammar.Calls = {
    'click': _DESKTOP['click'],
    'long_press': ('long_press', {'start_box': 'point'}),
    'drag': _DESKTOP['drag'],
    'scroll': ('scroll', {
        'start_box': 'point', 'end_box': 'end', 'direction': 'direction'}),
    'type': _DESKTOP['type'],
    'open_app': ('open_app', {'app_name': 'text'}),
    'press_home': ('press_home', {}),
    'press_back': ('press_back', {}),
    'wait': _DESKTOP['wait'],
    'finished': _DESKTOP['finished'],
    'call_user': _DESKTOP['call_user'],
}
_ALSO_READ: dict[str, ui_tars_grammar.Calls] = {
    'desktop': {
        'left_single': _DESKTOP['click'],
        'left_click': _DESKTOP['click'],
        'double_click': _DESKTOP['left_double'],
        'right_click': _DESKTOP['right_single'],
        'select': _DESKTOP['drag'],
        'press': _DESKTOP['hotkey'],
    },
    'mobile': {
        'left_single': _DESKTOP['click'],
        'answer': _DESKTOP['finished'],
        'hotkey': _DESKTOP['hotkey'],
        'press': _DESKTOP['hotkey'],
        'press_enter': ('press_enter', {}),
        'swipe': _DESKTOP['drag'],
        'navigate_home': _MOBILE['press_home'],
        'navigate_back': _MOBILE['press_back'],
    },
}
_PHONE_KEYS = {
    ('enter',): ('type', {'text': '\n'}), ('home',): ('press_home', {})}
_WRITTEN = {'desktop': _DESKTOP, 'mobile': _MOBILE}
_CALLS = {platform: calls | _ALSO_READ[platform]
          for platform, calls in _WRITTEN.items()}
_NAMES = {
    platform: {kind: (name, names) for name, (kind, names) in calls.items()}
    for platform, calls in _WRITTEN.items()}


def decode(text: str, *, convention: Convention,
           image_size: tuple[int, int] | None = None,
           platform: Platform = 'desktop') -> tuple[str, actions.Action]:
  """Reads a response.

  Args:
    text: what the model wrote.
    convention: how it counts coordinates.
    image_size: (width, height) of the picture it saw, for 'pixels', and for
      the longer axis of a scroll from point to point; without it of a square.
    platform: whose calls it knows.

  Returns:
    `(thought, action)`; the thought is trimmed, and '' if there is none.

  Raises:
    UiTarsError: names the character and what was expected there. No other
      error comes from the text.
    ValueError: for another convention or platform, or a missing image_size.

  >>> decode("Action: click(start_box='(250,500)')", convention='thousand')[1]
  ... # doctest: +ELLIPSIS
  Action(kind='click', point=(0.25, 0.5), ...)
  """
  grid = _grid(convention, image_size, platform)
  if len(text) > MAX_LENGTH:
    raise UiTarsError(
        f'expected at most {MAX_LENGTH} characters, got {len(text)}')
  response = ui_tars_grammar.parse(text, grid, _CALLS[platform])
  try:
    return response.thought, _action(
        response.kind, response.fields, platform, image_size or grid)
  except actions.ActionError as error:
    raise UiTarsError(
        f'{error}, in the call at character {response.position}') from None


def _action(kind: str, fields: dict[str, Any], platform: str,
            size: tuple[int, int]) -> actions.Action:
  """What a call comes to."""
  if kind == 'scroll':
    return actions.Action(kind=kind, amount=SCROLL_AMOUNT, **_scroll(
        fields, size))
  if kind == 'press_enter':
    kind, fields = 'hotkey', {'keys': ('enter',)}
  if kind in ('hotkey', 'type') and not all(fields.values()):
    return actions.Action(kind='wait')
  if kind == 'hotkey' and fields and platform == 'mobile':
    if fields['keys'] not in _PHONE_KEYS:
      raise actions.ActionError(
          f'expected one of the keys enter and home, got {fields["keys"]}')
    kind, fields = _PHONE_KEYS[fields['keys']]
  if kind == 'type' and fields.get('text', '').endswith(_WRITTEN_ENTER):
    text = fields['text'].removesuffix(_WRITTEN_ENTER)
    fields = fields | {'text': text + '\n'}
  return actions.Action(kind=kind, **fields)


def _scroll(fields: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
  """The fields of a scroll: a finger draws the view the other way."""
  rest = {name: value for name, value in fields.items()
          if name in ('point', 'direction')}
  if 'direction' in rest:
    word = rest['direction'].strip().lower()
    found = [other for other in actions.DIRECTIONS if other in word]
    return rest | {'direction': found[0] if found else word}
  direction = actions.finger_direction(
      fields.get('point'), fields.get('end'), size)
  return rest | ({'direction': direction} if direction else {})


def read(text: str, **form: Any) -> actions.Action | None:
  """The action of a response, if it has one.

  Args:
    text: what the model wrote.
    **form: the keyword arguments of `decode`.

  Returns:
    The action, or None for text that is no response.
  """
  try:
    return decode(text, **form)[1]
  except UiTarsError:
    return None


def encode(action: actions.Action, *, thought: str = '',
           convention: Convention,
           image_size: tuple[int, int] | None = None,
           platform: Platform = 'desktop') -> str:
  """Writes a response that `decode` reads as the same thought and action.

  Coordinates are rounded to the nearest thousandth or pixel.

  Args:
    action: what to say.
    thought: in words; white space around it is lost.
    convention: how to count coordinates.
    image_size: (width, height) of the picture, for 'pixels'.
    platform: whose calls to write.

  Returns:
    `Thought: ...` unless it is empty, and a line `Action: ...`.

  Raises:
    UiTarsError: for a kind that the platform has no call for, a scroll of
      another amount than 5, a text to type that ends with a backslash and n,
      which would be Enter, or a thought with which the response is too long.
    ValueError: for another convention or platform, or a missing image_size.
  """
  grid = _grid(convention, image_size, platform)
  if action.kind not in _NAMES[platform]:
    raise UiTarsError(f'expected an action of {", ".join(_NAMES[platform])} '
                      f'on {platform}, got {action.kind}')
  if action.kind == 'scroll' and action.amount != SCROLL_AMOUNT:
    raise UiTarsError(f'expected a scroll of {SCROLL_AMOUNT} notches, '
                      f'got {action.amount}')
  if action.kind == 'type' and action.text.endswith(_WRITTEN_ENTER):
    raise UiTarsError('expected a text that does not end with a backslash and '
                      'n, which is read as Enter')
  name, fields = _NAMES[platform][action.kind]
  arguments = []
  for argument, field in fields.items():
    value = getattr(action, field)
    if value:
      written = _write(value, field, grid, convention)
      arguments.append(f"{argument}='{written}'")
  thought = thought.strip()
  text = f'Thought: {thought}\n' if thought else ''
  text += f'Action: {name}({", ".join(arguments)})'
  if len(text) > MAX_LENGTH:
    raise UiTarsError(
        f'expected at most {MAX_LENGTH} characters, got {len(text)}')
  return text


def _grid(convention: str, image_size: tuple[int, int] | None,
          platform: str) -> tuple[int, int]:
  if platform not in _CALLS:
    raise ValueError(
        f"expected platform 'desktop' or 'mobile', got {platform!r}")
  if convention == 'thousand':
    return 1000, 1000
  if convention != 'pixels':
    raise ValueError(
        f"expected convention 'thousand' or 'pixels', got {convention!r}")
  if image_size is None or min(image_size) < 1:
    raise ValueError(
        f"expected a positive image_size with 'pixels', got {image_size}")
  return image_size


def _write(value: Any, field: str, grid: tuple[int, int],
           convention: str) -> str:
  if field in ('point', 'end'):
    x, y = (actions.to_grid(fraction, size)
            for fraction, size in zip(value, grid, strict=True))
    return ui_tars_grammar.write_point(x, y, boxed=convention == 'thousand')
  return ui_tars_grammar.escape(
      ui_tars_grammar.write_keys(value) if field == 'keys' else value)
