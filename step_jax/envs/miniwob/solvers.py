"""Scripted solvers for MiniWoB++ tasks, as teachers of a first policy.

A solver is a function from the screen to an action. It sees what the agent
sees, remembers nothing, and therefore has an answer for whatever screen an
agent has got itself into.
"""

from collections.abc import Callable, Sequence

import numpy as np

from step_jax.envs import base

Solver = Callable[[base.Screen], np.ndarray]


def propose(task: str, screen: base.Screen) -> np.ndarray:
  """Returns the solver's action [3] int64 for this screen.

  When the screen offers nothing the solver looks for, this is a click on the
  first element.

  Raises:
    ValueError: for a task without a solver.
  """
  if task not in SOLVERS:
    raise ValueError(f'expected a task with a solver, got {task!r}')
  try:
    return SOLVERS[task](screen)
  except (IndexError, StopIteration):
    return base.make_action('click')


def _texts(screen: base.Screen) -> list[list[str]]:
  return [base.split_words(record.text) for record in screen.elements]


def _find(screen: base.Screen, words: Sequence[str], *,
          kinds: Sequence[str] = ()) -> list[int]:
  """Indices of the elements whose text is exactly these words."""
  return [
      index for index, text in enumerate(_texts(screen))
      if text == list(words)
      and (not kinds or screen.elements[index].kind in kinds)]


def _of_kind(screen: base.Screen, *kinds: str) -> list[int]:
  return [index for index, record in enumerate(screen.elements)
          if record.kind in kinds]


def _click(indices: Sequence[int]) -> np.ndarray:
  return base.make_action('click', indices[0])


def _press(screen: base.Screen, *words: str) -> np.ndarray:
  return _click(_find(screen, words, kinds=('button',)))


def _fill(screen: base.Screen, words: Sequence[int],
          button: str) -> np.ndarray:
  """Types instruction words into the fields in order, then presses."""
  fields = [index for index, record in enumerate(screen.elements)
            if record.editable]
  for field, word in zip(fields, words):
    if screen.elements[field].value != screen.words[word]:
      return base.make_action('type', field, word)
  return _press(screen, button)


def _click_words(first: int, last: int | None = None) -> Solver:
  """Clicks the element that reads like a slice of the instruction."""
  def solve(screen: base.Screen) -> np.ndarray:
    words = screen.words[first:last]
    leaves = ('button', 'span', 'a', 'tab')
    return _click(_find(screen, words, kinds=leaves))

  return solve


def _click_only_button(screen: base.Screen) -> np.ndarray:
  return _click(_of_kind(screen, 'button'))


def _click_dialog_2(screen: base.Screen) -> np.ndarray:
  name = screen.words[-1]
  return _press(screen, 'Close' if name == 'x' else name)


def _click_sequence(screen: base.Screen) -> np.ndarray:
  for name in (screen.words[2], screen.words[6]):
    index = _find(screen, [name], kinds=('button',))[0]
    if not screen.elements[index].changed:
      return base.make_action('click', index)
  return _press(screen, name)


def _click_choices(screen: base.Screen) -> np.ndarray:
  """'Select a, b and click Submit': checkboxes or radio buttons."""
  wanted = screen.words[1:-3]
  texts = _texts(screen)
  for index in _of_kind(screen, 'input_checkbox', 'input_radio'):
    record = screen.elements[index]
    is_wanted = ' '.join(texts[index]) in wanted
    if is_wanted != record.selected and (
        is_wanted or record.kind == 'input_checkbox'):
      return base.make_action('click', index)
  return _press(screen, 'Submit')


def _find_in_tabs(screen: base.Screen) -> np.ndarray:
  """'... click on the link "x"': looks behind one tab after the other."""
  links = _find(screen, screen.words[-1:], kinds=('span',))
  if links:
    return _click(links)
  if 'scroll_down' in screen.verbs:
    return base.make_action('scroll_down')
  tabs = _of_kind(screen, 'tab')
  opened = [place for place, index in enumerate(tabs)
            if screen.elements[index].selected]
  following = opened[0] + 1 if opened else 0
  return base.make_action('click', tabs[following % len(tabs)])


def _delete_email(screen: base.Screen) -> np.ndarray:
  sender = _find(screen, screen.words[4:5])[0]
  return _click([i for i in _find(screen, ['trash']) if i > sender])


def _enter_text(screen: base.Screen) -> np.ndarray:
  return _fill(screen, [1], 'Submit')


def _enter_password(screen: base.Screen) -> np.ndarray:
  return _fill(screen, [3, 3], 'Submit')


def _login(screen: base.Screen) -> np.ndarray:
  return _fill(screen, [3, 7], 'Login')


def _identify_shape(screen: base.Screen) -> np.ndarray:
  names = {'rect': 'Rectangle', 'circle': 'Circle', 'polygon': 'Triangle'}
  figure = screen.elements[_of_kind(screen, 'text', *names)[0]]
  if figure.kind == 'text':
    return _press(screen, 'Number' if figure.text.isdigit() else 'Letter')
  return _press(screen, names[figure.kind])


def _navigate_tree(screen: base.Screen) -> np.ndarray:
  named = _find(screen, screen.words[-1:], kinds=('span',))
  if named:
    return _click(named)
  folders = [index + 1 for index, text in enumerate(_texts(screen))
             if text[1:2] == ['expandable-hitarea']]
  return _click(folders) if folders else base.make_action('scroll_down')


def _search(screen: base.Screen) -> np.ndarray:
  """'... enter x and press Search, then ... click the 5th search result'."""
  links = _of_kind(screen, 'a')
  if screen.elements[0].value != screen.words[5] or not links:
    return _fill(screen, [5], 'Search')
  place = int(screen.words[-3].rstrip('stndrh')) - 1
  page = str(place // 3 + 1)
  results = [i for i in links if not screen.elements[i].text[0] in '<>123']
  opened = next(i for i in links if screen.elements[i].text == page)
  if not screen.elements[opened].selected:
    return base.make_action('click', opened)
  return base.make_action('click', results[place % 3])


def _autocomplete(screen: base.Screen) -> np.ndarray:
  """'Enter an item that starts with x (and ends with y)'."""
  words = screen.words[6:]
  ending = ''
  if 'ends' in words[1:]:
    cut = len(words) - 1 - words[::-1].index('ends')
    words, ending = words[:cut - 1], ' '.join(words[cut + 2:])
  start = ' '.join(words)

  def fits(text: str) -> bool:
    text = ' '.join(base.split_words(text))
    return text.startswith(start) and text.endswith(ending)

  field = screen.elements[0]
  items = _of_kind(screen, 'div', 'option', 'menuitem')
  fitting = [i for i in items if fits(screen.elements[i].text)]
  if fits(field.value) and len(field.value) > len(start):
    return _press(screen, 'Submit')
  if fitting:
    return _click(fitting)
  if items:
    return base.make_action('scroll_down')
  return base.make_action('type', 0, 6)


SOLVERS: dict[str, Solver] = {
    'click-button': _click_words(3, -1),
    'click-button-sequence': _click_sequence,
    'click-checkboxes': _click_choices,
    'click-checkboxes-large': _click_choices,
    'click-checkboxes-transfer': _click_choices,
    'click-collapsible-2-nodelay': _find_in_tabs,
    'click-dialog': _click_only_button,
    'click-dialog-2': _click_dialog_2,
    'click-link': _click_words(4),
    'click-option': _click_choices,
    'click-tab': _click_words(2),
    'click-tab-2': _find_in_tabs,
    'click-tab-2-easy': _find_in_tabs,
    'click-tab-2-medium': _find_in_tabs,
    'click-test': _click_only_button,
    'click-test-2': _click_words(2),
    'email-inbox-delete': _delete_email,
    'enter-password': _enter_password,
    'enter-text': _enter_text,
    'enter-text-dynamic': _enter_text,
    'identify-shape': _identify_shape,
    'login-user': _login,
    'navigate-tree': _navigate_tree,
    'search-engine': _search,
    'use-autocomplete-nodelay': _autocomplete,
}
