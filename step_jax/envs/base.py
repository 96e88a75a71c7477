"""What every environment of elements shares: the screen and its encoding.

A screen is an instruction and a list of visible elements. `encode_screen`
turns it into the observation, a dictionary of arrays of fixed shape:

  instruction   [W] int32       word ids, 0 = padding
  element_type  [E] int32       word id of the kind, 0 = no element
  element_text  [E, X] int32    word ids of the first words of its own text
  element_value [E, Y] int32    word ids of what it holds
  element_flags [E, F] bool     focused, changed, selected, editable
  element_box   [E, 4] float32  left, top, width, height, screen fractions
  verb_mask     [V] bool        verbs that are legal on this screen
  target_mask   [V, E] bool     elements that a verb may point at

An action is three integers: verb, element and instruction word. The raw words
stay on the host, in `Screen`, so that they can be typed.
"""

from collections.abc import Sequence
import dataclasses
import string
from typing import Any, NamedTuple
import zlib

import gymnasium
from gymnasium import spaces
import numpy as np

from step_jax.policies import element

MAX_WORDS = 32  # W
MAX_ELEMENTS = 48  # E
TEXT_WORDS = 4  # X
VALUE_WORDS = 2  # Y
FLAGS = ('focused', 'changed', 'selected', 'editable')  # F
VERBS = element.VERBS  # V

Observation = dict[str, np.ndarray]

_FIELDS: dict[str, tuple[tuple[int, ...], Any]] = {
    'instruction': ((MAX_WORDS,), np.int32),
    'element_type': ((MAX_ELEMENTS,), np.int32),
    'element_text': ((MAX_ELEMENTS, TEXT_WORDS), np.int32),
    'element_value': ((MAX_ELEMENTS, VALUE_WORDS), np.int32),
    'element_flags': ((MAX_ELEMENTS, len(FLAGS)), np.bool_),
    'element_box': ((MAX_ELEMENTS, 4), np.float32),
    'verb_mask': ((len(VERBS),), np.bool_),
    'target_mask': ((len(VERBS), MAX_ELEMENTS), np.bool_),
}
_STRIPPED = string.punctuation + '“”‘’«»…'
_INT32_MAX = np.iinfo(np.int32).max


class MissingProgramError(RuntimeError):
  """A program or package that an environment needs is not installed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Element:
  """One visible element of a screen."""
  kind: str  # such as 'button' or 'input_text'
  text: str = ''  # its own text, or what labels it
  value: str = ''  # what it holds: typed text, the chosen option
  box: tuple[float, float, float, float] = (0., 0., 0., 0.)
  focused: bool = False
  changed: bool = False  # touched in this episode
  selected: bool = False  # checked, selected, expanded
  editable: bool = False  # text can be typed into it
  interactive: bool = True  # made to be operated, not only read


class Screen(NamedTuple):
  """What is seen at one step, as raw text, cut to the observation's sizes."""
  words: tuple[str, ...]  # of the instruction, at most W
  elements: tuple[Element, ...]  # at most E, in document order
  verbs: tuple[str, ...]  # legal verbs that need no target


def word_id(word: str) -> int:
  """Returns a stable non-zero id below 2**31, and 0 for no word.

  >>> word_id('Submit'), word_id('')
  (949859957, 0)
  """
  if not word:
    return 0
  return zlib.crc32(word.encode()) & _INT32_MAX or 1


def split_words(text: str) -> list[str]:
  """Splits on white space and strips punctuation around each word.

  >>> split_words('Enter "Ana-Maria", then press Submit.')
  ['Enter', 'Ana-Maria', 'then', 'press', 'Submit']
  """
  stripped = (word.strip(_STRIPPED) for word in text.split())
  return [word for word in stripped if word]


def select_elements(elements: Sequence[Element]) -> list[int]:
  """Returns the indices of the at most E elements to keep, in order.

  Interactive elements go first, then those with text, then the others; within
  each kind the earlier ones.
  """
  def rank(index: int) -> tuple[bool, bool, int]:
    record = elements[index]
    return not record.interactive, not record.text, index

  return sorted(sorted(range(len(elements)), key=rank)[:MAX_ELEMENTS])


def example() -> Observation:
  """An empty screen, for shapes."""
  return encode_screen(make_screen('', ()))


def make_screen(instruction: str, elements: Sequence[Element], *,
                verbs: Sequence[str] = ()) -> Screen:
  """Cuts an instruction and elements to what an observation holds.

  Args:
    instruction: the task in words.
    elements: the visible elements in document order.
    verbs: the verbs without a target that are legal here.

  Returns:
    The screen; `select_elements` says which elements it keeps.

  Raises:
    ValueError: for a verb that is unknown or needs a target.
  """
  unknown = set(verbs) - {
      verb for verb, targeted in zip(VERBS, element.USES_ELEMENT)
      if not targeted}
  if unknown:
    raise ValueError(
        f'expected verbs without a target, got {sorted(unknown)}')
  kept = tuple(elements[index] for index in select_elements(elements))
  words = tuple(split_words(instruction)[:MAX_WORDS])
  return Screen(words=words, elements=kept, verbs=tuple(verbs))


def encode_screen(screen: Screen) -> Observation:
  """Returns the observation of a screen; see the module for its shapes."""
  observation = {
      name: np.zeros(shape, dtype) for name, (shape, dtype) in _FIELDS.items()}
  _write_ids(observation['instruction'], screen.words)
  for index, record in enumerate(screen.elements):
    observation['element_type'][index] = word_id(record.kind)
    _write_ids(observation['element_text'][index], split_words(record.text))
    _write_ids(observation['element_value'][index], split_words(record.value))
    observation['element_flags'][index] = [
        getattr(record, name) for name in FLAGS]
    observation['element_box'][index] = np.clip(record.box, 0., 1.)
  targets = observation['target_mask']
  targets[VERBS.index('click'), :len(screen.elements)] = True
  if screen.words:
    targets[VERBS.index('type'), :len(screen.elements)] = [
        record.editable for record in screen.elements]
  observation['verb_mask'][:] = [
      targets[index].any() or verb in screen.verbs
      for index, verb in enumerate(VERBS)]
  return observation


def _write_ids(row: np.ndarray, words: Sequence[str]) -> None:
  ids = [word_id(word) for word in words[:len(row)]]
  row[:len(ids)] = ids


def parse_action(action: Any, screen: Screen) -> tuple[str, int, int] | None:
  """Returns (verb, element, word) of a legal action, None for any other.

  Arguments that the verb does not use are ignored. Whatever `action` is, this
  does not raise.
  """
  try:
    verb_index, target, word = (int(token) for token in np.ravel(action))
  except (TypeError, ValueError, OverflowError):
    return None
  if not 0 <= verb_index < len(VERBS):
    return None
  verb = VERBS[verb_index]
  if not element.USES_ELEMENT[verb_index]:
    return (verb, 0, 0) if verb in screen.verbs else None
  if not 0 <= target < len(screen.elements):
    return None
  if verb != 'type':
    return verb, target, 0
  editable = screen.elements[target].editable
  return (verb, target, word) if (
      editable and 0 <= word < len(screen.words)) else None


def make_action(verb: str, target: int = 0, word: int = 0) -> np.ndarray:
  """Returns the action tokens [3] int64 of a verb and its arguments."""
  return np.array([VERBS.index(verb), target, word], np.int64)


def choose_episode(
    env: gymnasium.Env, seed: int | None, options: dict[str, Any]
) -> tuple[int, int]:
  """Seed and task id of a reset, drawn or derived where they are not given.

  Args:
    env: has `tasks`; its own `reset` has been called with the seed.
    seed: None draws one from the environment's generator.
    options: of the reset; without 'task_id' it is the seed modulo the tasks.

  Returns:
    `(seed, task_id)`.

  Raises:
    ValueError: for a task id that is out of range.
  """
  if seed is None:
    seed = int(env.np_random.integers(2**31))
  num_tasks = len(env.get_wrapper_attr('tasks'))
  task_id = options.get('task_id', seed % num_tasks)
  if not 0 <= task_id < num_tasks:
    raise ValueError(f'expected a task_id below {num_tasks}, got {task_id}')
  return seed, task_id


def observation_space() -> spaces.Dict:
  """The space of `encode_screen`'s observations."""
  return spaces.Dict({
      name: spaces.Box(0, _INT32_MAX if dtype is np.int32 else 1, shape, dtype)
      for name, (shape, dtype) in _FIELDS.items()})


def action_space() -> spaces.MultiDiscrete:
  """Verb, element index, instruction word index."""
  return spaces.MultiDiscrete([len(VERBS), MAX_ELEMENTS, MAX_WORDS])
