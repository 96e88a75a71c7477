"""The fake phone's twelve tasks: beginnings, ends, and scripted solutions."""

from collections.abc import Callable
import dataclasses
import random
import re

from step_jax.codecs import actions
from tests import fake_phone_apps as apps

WORDS = ('apple', 'river', 'stone', 'cloud', 'tiger', 'lemon', 'piano',
         'candle')


@dataclasses.dataclass(frozen=True)
class _Type:
  """`given` is set at the beginning; `check` gives the score of the end."""
  template: str
  check: Callable[[apps.State, dict[str, str]], float]
  given: dict[str, bool] = dataclasses.field(default_factory=dict)


def _notes(state, parameters, removed):
  before = parameters['notes'].split()
  return float(state.notes == before[:removed] + before[removed + 1:])


TYPES = {
    'MessagesSend': _Type(
        'Send the message "{word}" to {contact}.', lambda state, parameters:
        float(state.sent == [(parameters['contact'], parameters['word'])])),
    'MessagesSendAna': _Type(
        'Tell Ana: {word}.', lambda state, parameters:
        float(state.sent == [('Ana', parameters['word'])])),
    'NotesCreate': _Type(
        'Create a note that says {word}.', lambda state, parameters:
        float(state.notes == [*parameters['notes'].split(),
                              parameters['word']])),
    'NotesDeleteFirst': _Type(
        'Delete the first note.',
        lambda state, parameters: _notes(state, parameters, 0)),
    'NotesDeleteSecond': _Type(
        'Delete the second note.',
        lambda state, parameters: _notes(state, parameters, 1)),
    'NotesVisit': _Type(
        'Look at the notes and return to the home screen.',
        lambda state, _: float('notes' in state.visited and not state.app)),
    'SettingsAirplaneTurnOn': _Type(
        'Turn on airplane mode.', lambda state, _: float(state.airplane),
        {'airplane': False}),
    'SettingsBluetoothTurnOff': _Type(
        'Turn bluetooth off.', lambda state, _: float(not state.bluetooth),
        {'bluetooth': True}),
    'SettingsBluetoothTurnOn': _Type(
        'Turn bluetooth on.', lambda state, _: float(state.bluetooth),
        {'bluetooth': False}),
    'SettingsWifiAndBluetoothTurnOn': _Type(
        'Turn on both wifi and bluetooth.',
        lambda state, _: (state.wifi + state.bluetooth) / 2,
        {'wifi': False, 'bluetooth': False}),
    'SettingsWifiTurnOff': _Type(
        'Turn wifi off.', lambda state, _: float(not state.wifi),
        {'wifi': True}),
    'SettingsWifiTurnOn': _Type(
        'Turn wifi on.', lambda state, _: float(state.wifi), {'wifi': False}),
}
TASKS = tuple(TYPES)


class Task:
  """One task with its parameters, as AndroidWorld's TaskEval."""

  def __init__(self, name: str, seed: int, index: int):
    rng = random.Random(f'{seed}_{name}_{index}')
    self.name = name
    self.type = TYPES[name]
    self.parameters = {
        'word': rng.choice(WORDS), 'contact': rng.choice(apps.CONTACTS),
        'notes': ' '.join(rng.sample(WORDS, 3))}
    self.switches = {name: rng.random() < .5 for name in apps.SWITCHES}
    self.initialized = False

  @property
  def goal(self) -> str:
    return self.type.template.format(**self.parameters)

  def initialize(self) -> apps.State:
    if self.initialized:
      raise RuntimeError(f'{self.name}.initialize_task() is already called.')
    self.initialized = True
    return apps.State(notes=self.parameters['notes'].split(),
                      **{**self.switches, **self.type.given})

  def score(self, state: apps.State) -> float:
    if not self.initialized:
      raise RuntimeError('initialize_task() must be called before')
    return self.type.check(state, self.parameters)


def _click(place: apps.Place) -> actions.Action:
  return actions.Action(kind='click', point=apps.centre(place))


def solve(task: str, goal: str) -> list[actions.Action]:
  """Returns the actions that solve a task from the home screen."""
  words = re.findall(r'\w+', goal)
  typed = [actions.Action(kind='type', text=word)
           for word in words if word in WORDS]
  done = actions.Action(kind='done')
  if task.startswith('Messages'):
    name, = set(words) & set(apps.CONTACTS)
    return [_click(apps.icon('messages')), _click(apps.contact(name)), *typed,
            _click(apps.SEND), done]
  if task.startswith('Settings'):
    start = [_click(apps.icon('settings'))]
    if 'Airplane' in task:
      return [*start,
              actions.Action(kind='scroll', direction='down', amount=5),
              _click(apps.switch('airplane', True)), done]
    return [*start, *[_click(apps.switch(name, False))
                      for name in apps.SWITCHES if name in words], done]
  start = [_click(apps.icon('notes'))]
  if task == 'NotesVisit':
    return [*start, actions.Action(kind='press_home'), done]
  if task == 'NotesCreate':
    return [*start, _click(apps.ADD), *typed, _click(apps.SAVE), done]
  place = apps.note(0 if 'first' in words else 1)
  return [*start, actions.Action(kind='long_press', point=apps.centre(place)),
          _click(apps.DELETE), done]
