"""The screens of the fake phone: a home screen and three apps.

Everything lies on a grid of 20 rows and 9 columns, and differs in colour and
place. A button is (row, column, rows, columns) of that grid.
"""

import dataclasses

from PIL import Image
from PIL import ImageDraw

WIDTH, HEIGHT = 240, 540
ROWS, COLUMNS = 20, 9
APPS = ('settings', 'notes', 'messages')
CONTACTS = ('Ana', 'Ben', 'Eva')
SWITCHES = ('wifi', 'bluetooth', 'airplane')

Place = tuple[int, int, int, int]

PALETTE = {
    'white': (255, 255, 255), 'black': (0, 0, 0), 'grey': (150, 150, 150),
    'dark': (60, 60, 60), 'yellow': (240, 200, 40), 'green': (40, 170, 70),
    'blue': (50, 90, 220), 'purple': (150, 60, 190), 'orange': (240, 130, 30),
    'red': (220, 40, 40), 'pale': (225, 235, 250), 'night': (25, 30, 70)}
_INDEX = {name: index for index, name in enumerate(PALETTE)}
_APP_COLOURS = ('grey', 'yellow', 'green')
_SWITCH_COLOURS = ('blue', 'purple', 'orange')
_CONTACT_COLOURS = ('red', 'blue', 'green')
_SWITCH_ROWS = (3, 8, 23)  # the last lies below the screen
_SCROLL_ROWS = 10  # half a screen
_SHOWN = 4  # notes

ADD, DELETE, SAVE, SEND = (16, 6, 3, 3), (16, 0, 3, 3), (16, 3, 3, 3), (
    16, 6, 3, 3)


def icon(app: str) -> Place:
  return 4, 3 * APPS.index(app), 3, 3


def note(index: int) -> Place:
  return 3 + 3 * index, 0, 3, 9


def contact(name: str) -> Place:
  return 3 + 4 * CONTACTS.index(name), 0, 3, 9


def switch(name: str, scrolled: bool) -> Place:
  row = _SWITCH_ROWS[SWITCHES.index(name)] - _SCROLL_ROWS * scrolled
  return row, 6, 3, 3


def centre(place: Place) -> tuple[float, float]:
  """Returns the middle of a button in fractions of the screen."""
  row, column, rows, columns = place
  return (column + columns / 2) / COLUMNS, (row + rows / 2) / ROWS


@dataclasses.dataclass
class State:
  """All that the phone remembers; apps change it, tasks look at it."""
  app: str = ''  # '' is the home screen
  page: str = ''  # notes: 'edit'; messages: a contact
  scrolled: bool = False
  selected: int = -1  # note
  field: str = ''
  wifi: bool = True
  bluetooth: bool = False
  airplane: bool = False
  notes: list[str] = dataclasses.field(default_factory=list)
  sent: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  visited: set[str] = dataclasses.field(default_factory=set)
  answer: str = ''

  def open(self, app: str) -> None:
    self.app, self.page, self.field = app, '', ''
    self.scrolled, self.selected = False, -1
    self.visited.add(app)

  def back(self) -> None:
    if self.selected >= 0:
      self.selected = -1
    elif self.page:
      self.page, self.field = '', ''
    else:
      self.open('')

  def scroll(self, direction: str) -> None:
    if self.app == 'settings' and direction in ('up', 'down'):
      self.scrolled = direction == 'down'

  def type(self, text: str, clear: bool = False) -> None:
    if self.page:
      self.field = ('' if clear else self.field) + text

  def buttons(self) -> dict[str, Place]:
    """What can be touched, by name, the first of several that overlap."""
    if not self.app:
      return {app: icon(app) for app in APPS}
    if self.app == 'settings':
      places = {name: switch(name, self.scrolled) for name in SWITCHES}
      return {name: place for name, place in places.items()
              if 2 <= place[0] < ROWS}
    if self.app == 'notes':
      if self.page:
        return {'save': SAVE}
      shown = {f'note {index}': note(index)
               for index in range(min(_SHOWN, len(self.notes)))}
      return {**shown, 'add': ADD,
              **({'delete': DELETE} if self.selected >= 0 else {})}
    return {'send': SEND} if self.page else {
        name: contact(name) for name in CONTACTS}

  def touch(self, x: float, y: float, long: bool = False) -> None:
    """A finger at fractions of the screen."""
    row, column = y * ROWS, x * COLUMNS
    for name, (top, left, rows, columns) in self.buttons().items():
      if top <= row < top + rows and left <= column < left + columns:
        self._press(name, long)
        return

  def _press(self, name: str, long: bool) -> None:
    if name in APPS:
      self.open(name)
    elif name in SWITCHES:
      setattr(self, name, not getattr(self, name))
    elif name.startswith('note '):
      self.selected = int(name.split()[1]) if long else -1
    elif name == 'delete':
      del self.notes[self.selected]
      self.selected = -1
    elif name == 'save':
      self.notes.append(self.field)
      self.back()
    elif name == 'send':
      self.sent.append((self.page, self.field))
      self.field = ''
    elif name == 'add':
      self.page = 'edit'
    else:
      self.page = name  # a contact


def draw(state: State) -> Image.Image:
  """Returns the screen as indices of PALETTE."""
  image = Image.new('P', (WIDTH, HEIGHT))
  image.putpalette([value for rgb in PALETTE.values() for value in rgb])
  pen = ImageDraw.Draw(image)
  pen.fontmode = '1'

  def box(place: Place, colour: str, text: str = '', ink: str = 'white'):
    row, column, rows, columns = place
    left, top = column * WIDTH / COLUMNS, row * HEIGHT / ROWS
    pen.rectangle((left + 3, top + 3, left + columns * WIDTH / COLUMNS - 4,
                   top + rows * HEIGHT / ROWS - 4), _INDEX[colour])
    pen.text((left + 8, top + 8), text, _INDEX[ink])

  def page(colour: str, title: str):
    pen.rectangle((0, 0, WIDTH, HEIGHT), _INDEX['white'])
    pen.rectangle((0, 0, WIDTH, 2 * HEIGHT // ROWS), _INDEX[colour])
    pen.text((8, 8), title, _INDEX['black'])

  if not state.app:
    pen.rectangle((0, 0, WIDTH, HEIGHT), _INDEX['night'])
    for app, colour in zip(APPS, _APP_COLOURS, strict=True):
      box(icon(app), colour, app.title())
    return image
  page(_APP_COLOURS[APPS.index(state.app)], state.app.title())
  if state.app == 'settings':
    _draw_settings(state, box)
  elif state.app == 'notes':
    _draw_notes(state, box)
  else:
    _draw_messages(state, box)
  return image


def _draw_settings(state, box):
  for name, colour in zip(SWITCHES, _SWITCH_COLOURS, strict=True):
    place = switch(name, state.scrolled)
    if name in state.buttons():
      box((place[0], 0, 3, 6), colour, name)
      is_on = getattr(state, name)
      box(place, 'green' if is_on else 'dark', 'on' if is_on else 'off')


def _draw_notes(state, box):
  if state.page:
    box((3, 0, 6, 9), 'pale', state.field, 'black')
    box(SAVE, 'green', 'Save')
    return
  for index, text in enumerate(state.notes[:_SHOWN]):
    chosen = index == state.selected
    box(note(index), 'purple' if chosen else 'pale', text, 'black')
  box(ADD, 'orange', 'New')
  if state.selected >= 0:
    box(DELETE, 'red', 'Delete')


def _draw_messages(state, box):
  if state.page:
    colour = _CONTACT_COLOURS[CONTACTS.index(state.page)]
    box((0, 0, 2, 9), colour, state.page)
    for name, text in state.sent[-1:]:
      if name == state.page:
        box((3, 3, 3, 6), 'yellow', text, 'black')
    box((12, 0, 3, 9), 'pale', state.field, 'black')
    box(SEND, 'orange', 'Send')
    return
  for name, colour in zip(CONTACTS, _CONTACT_COLOURS, strict=True):
    box(contact(name), colour, name)
