"""The applications of Desk: what is on their pages, as data.

Files, mail, an editor, a spreadsheet, a web browser and settings. Names of
files, senders, rows and bookmarks are drawn for each episode; the words of
buttons are not.
"""

from step_jax.envs.desk import layout
from step_jax.envs.desk.layout import Page
from step_jax.envs.desk.layout import Variable
from step_jax.envs.desk.layout import Widget

NUM_ITEMS = 12  # of every list, of which half are in sight
_LIST_WINDOW = 9  # widgets of a page with a list
NUM_TYPED = 3  # words that a task may ask to type

# 127 of them: a prime, so that every stride visits all.
NAMES = tuple("""
acorn amber anchor apple arrow aspen badge bagel bamboo banjo barley basil
beacon berry birch bishop blossom bonnet border bottle branch breeze bridge
bronze bucket bundle butter cabin cactus camel candle canoe canyon carbon
cargo carrot castle cedar celery cherry circus clover cobalt coffee comet
copper coral cotton cradle crater cricket crystal dagger daisy delta desert
dragon eagle ember engine fabric falcon feather fennel ferry fiddle flint
forest fossil fox garden garlic ginger glacier granite grape hammer harbour
hazel helmet heron honey island ivory jacket jaguar jasmine jungle kettle
ladder lagoon lantern laurel lemon lentil lily lobster magnet maple marble
meadow melon mirror mustard needle nickel oasis olive onion orchid otter
oyster paddle panther parsley pebble pepper piano pigeon pillow pocket poppy
quartz rabbit raven ribbon saddle
""".split())

FOLDERS = ('inbox', 'work', 'home', 'music')
SWITCHES = {  # page of settings -> what can be turned on and off there
    'display': ('night', 'contrast'),
    'sound': ('mute', 'alerts'),
    'network': ('wifi', 'bluetooth'),
    'privacy': ('location', 'camera', 'microphone'),
}
CHOICES = {  # page of settings -> (what is chosen, words to choose from)
    'display': ('theme', ('light', 'dark', 'blue')),
    'sound': ('output', ('speaker', 'headset', 'screen')),
    'network': ('proxy', ('none', 'manual', 'auto')),
    'privacy': ('history', ('keep', 'forget')),
}
ON_OFF = ('off', 'on')


def make_apps() -> tuple[list[Variable], list[Page]]:
  """Returns all variables and pages; the first page is the home page."""
  variables, pages = [], [_home()]
  for app in (_files, _mail, _editor, _sheet, _browser, _settings):
    app_variables, app_pages = app()
    variables += app_variables
    pages += app_pages
  variables += [Variable(name=f'typed-{i}') for i in range(NUM_TYPED)]
  return variables, pages


def compile_apps() -> layout.Tables:
  """Returns the tables of all applications."""
  return layout.compile_desktop(*make_apps(), NAMES)


def _button(text: str, opens: str = '', **does) -> Widget:
  return Widget(kind='button', text=text, opens=opens, **does)


def _checkbox(variable: str) -> Widget:
  return Widget(kind='checkbox', text=variable.split('-')[0],
                toggles=variable)


def _field(variable: str) -> Widget:
  return Widget(kind='field', text=variable.split('-')[0], shows=variable,
                edits=variable)


def _radios(variable: str, words: tuple[str, ...]) -> tuple[Widget, ...]:
  return tuple(
      Widget(kind='radio', text=word, sets=(variable, word)) for word in words)


def _dialog(name: str, widgets: tuple[Widget, ...], parent: str, group: str,
            *, done: str = 'ok', then: str = '', focus: str = '') -> Page:
  """A page that saves its changes, or drops them with 'cancel' and 'back'."""
  return Page(
      name=name, parent=parent, reverts=group, focus=focus,
      widgets=widgets + (
          _button(done, then or parent, saves=group),
          _button('cancel', parent, reverts=group)))


def _names(variable: str) -> list[Variable]:
  return [Variable(name=f'{variable}-{i}') for i in range(NUM_ITEMS)]


def _home() -> Page:
  apps = ('files', 'mail', 'editor', 'sheet', 'browser', 'settings')
  quick = tuple(_checkbox(name) for name in ('wifi', 'mute'))
  return Page(name='home', widgets=tuple(
      Widget(kind='item', text=app, opens=app) for app in apps) + quick)


def _files() -> tuple[list[Variable], list[Page]]:
  variables, pages = [], []
  variables += [Variable(name=f'file-{i}', group='file')
                for i in range(NUM_ITEMS)]
  items = []
  for i in range(NUM_ITEMS):
    folder, deleted = f'folder-{i}', f'deleted-{i}'
    variables += [
        Variable(name=folder, options=FOLDERS, group='file'),
        Variable(name=f'star-{i}', options=ON_OFF),
        Variable(name=deleted, options=ON_OFF, group='file', guarded=True)]
    name = f'{layout.READ}file-{i}'
    title = Widget(kind='label', text=name, shows=folder)
    here = f'file-page-{i}'
    items.append(Widget(kind='item', text=name, shows=folder, opens=here))
    pages += [
        Page(name=here, parent='files', widgets=(
            title, _button('rename', f'rename-{i}'),
            _button('move', f'move-{i}'), _checkbox(f'star-{i}'),
            _button('delete', f'delete-{i}'))),
        _dialog(f'rename-{i}', (title, _field(f'file-{i}')), here, 'file',
                then='files', focus=f'file-{i}'),
        _dialog(f'move-{i}', (title,) + _radios(folder, FOLDERS), here, 'file',
                then='files'),
        _dialog(f'delete-{i}', (
            title, Widget(kind='radio', text='forever', sets=(deleted, 'on')),
        ), here, 'file', then='files')]
  files = Page(name='files', parent='home', window=_LIST_WINDOW,
               widgets=tuple(items))
  return variables, [files, *pages]


def _mail() -> tuple[list[Variable], list[Page]]:
  variables, pages, items = _names('sender'), [], []
  for i in range(NUM_ITEMS):
    status, reply = f'status-{i}', f'text-{i}'
    variables += [
        Variable(name=f'flag-{i}', options=ON_OFF),
        Variable(name=status, options=('inbox', 'archive', 'spam'),
                 guarded=True),
        Variable(name=reply, options=('',), group='reply', guarded=True)]
    sender = f'{layout.READ}sender-{i}'
    here = f'mail-page-{i}'
    items.append(Widget(kind='item', text=sender, shows=status, opens=here))
    label = Widget(kind='label', text=sender, shows=status)
    pages += [
        Page(name=here, parent='mail', widgets=(
            label, _button('reply', f'reply-{i}'), _checkbox(f'flag-{i}'),
            *_radios(status, ('inbox', 'archive', 'spam')))),
        _dialog(f'reply-{i}', (label, _field(reply)), here, 'reply',
                done='send', then='mail', focus=reply)]
  variables += [
      Variable(name=name, options=('',), group='message', guarded=True)
      for name in ('to', 'about')]
  compose = _dialog('compose', (_field('to'), _field('about')), 'mail',
                    'message', done='send')
  mail = Page(name='mail', parent='home', window=_LIST_WINDOW,
              pinned=(_button('new', 'compose'),), widgets=tuple(items))
  return variables, [mail, compose, *pages]


def _editor() -> tuple[list[Variable], list[Page]]:
  fields = ('title', 'author', 'heading')
  fonts, aligns = ('serif', 'sans', 'mono'), ('left', 'right', 'centre')
  variables = [Variable(name=name, group='document') for name in fields] + [
      Variable(name='bold', options=ON_OFF, group='format'),
      Variable(name='italic', options=ON_OFF, group='format'),
      Variable(name='font', options=fonts, group='format'),
      Variable(name='align', options=aligns, group='format')]
  menus = (Widget(kind='menu', text='file', opens='editor-file'),
           Widget(kind='menu', text='format', opens='format'))
  return variables, [
      Page(name='editor', parent='home', pinned=menus,
           widgets=tuple(_field(name) for name in fields)),
      Page(name='editor-file', parent='editor', widgets=(
          _button('save', 'editor', saves='document'),
          _button('revert', 'editor', reverts='document'))),
      _dialog('format', (
          _checkbox('bold'), _checkbox('italic'), *_radios('font', fonts),
          *_radios('align', aligns)), 'editor', 'format')]


def _sheet() -> tuple[list[Variable], list[Page]]:
  orders, formats = ('name', 'value', 'date'), ('plain', 'percent', 'money')
  variables = _names('row') + [
      Variable(name=f'cell-{i}', group='table') for i in range(NUM_ITEMS)] + [
          Variable(name='sort', options=orders, group='sorting'),
          Variable(name='reverse', options=ON_OFF, group='sorting'),
          Variable(name='number', options=formats, group='table')]
  cells = tuple(
      Widget(kind='field', text=f'{layout.READ}row-{i}', shows=f'cell-{i}',
             edits=f'cell-{i}') for i in range(NUM_ITEMS))
  menus = tuple(
      Widget(kind='menu', text=name, opens=page) for name, page in (
          ('file', 'sheet-file'), ('data', 'sorting'), ('cells', 'number')))
  return variables, [
      Page(name='sheet', parent='home', pinned=menus, widgets=cells),
      Page(name='sheet-file', parent='sheet', widgets=(
          _button('save', 'sheet', saves='table'),
          _button('revert', 'sheet', reverts='table'))),
      _dialog('sorting', (*_radios('sort', orders), _checkbox('reverse')),
              'sheet', 'sorting'),
      Page(name='number', parent='sheet', widgets=_radios('number', formats))]


def _browser() -> tuple[list[Variable], list[Page]]:
  engines = ('duck', 'goose', 'swan')
  variables = _names('bookmark') + [
      Variable(name=f'pin-{i}', options=ON_OFF) for i in range(NUM_ITEMS)] + [
          Variable(name='homepage', group='options'),
          Variable(name='engine', options=engines, group='options'),
          Variable(name='popups', options=ON_OFF, group='options'),
          Variable(name='cookies', options=ON_OFF, group='options'),
          Variable(name='cache', options=('keep', 'forget'), guarded=True)]
  pages = [
      Page(name=f'bookmark-{i}', parent='browser', widgets=(
          Widget(kind='label', text=f'{layout.READ}bookmark-{i}'),
          _checkbox(f'pin-{i}'))) for i in range(NUM_ITEMS)]
  items = tuple(
      Widget(kind='item', text=f'{layout.READ}bookmark-{i}',
             opens=f'bookmark-{i}')
      for i in range(NUM_ITEMS))
  menus = (_button('options', 'options'), _button('clear', 'cache'))
  return variables, [
      Page(name='browser', parent='home', window=_LIST_WINDOW, pinned=menus,
           widgets=items),
      _dialog('options', (
          _field('homepage'), *_radios('engine', engines),
          _checkbox('popups'), _checkbox('cookies')), 'browser', 'options'),
      Page(name='cache', parent='browser', widgets=_radios(
          'cache', ('keep', 'forget'))),
      *pages]


def _settings() -> tuple[list[Variable], list[Page]]:
  variables = [
      Variable(name=name, options=ON_OFF)
      for names in SWITCHES.values() for name in names]
  variables += [
      Variable(name=name, options=words) for name, words in CHOICES.values()]
  variables += [
      Variable(name='password', group='login'),
      Variable(name='reset', options=ON_OFF, guarded=True)]
  tabs = tuple(
      Widget(kind='tab', text=name, opens='settings' if name == 'display'
             else name) for name in SWITCHES)
  pages = []
  for name, switches in SWITCHES.items():
    widgets = tuple(_checkbox(switch) for switch in switches)
    widgets += _radios(*CHOICES[name])
    if name == 'network':
      widgets += (_button('login', 'login'),)
    if name == 'privacy':
      widgets += (_button('reset', sets=('reset', 'on')),)
    pages.append(Page(
        name='settings' if name == 'display' else name, parent='home',
        pinned=tabs, widgets=widgets))
  pages.append(_dialog('login', (_field('password'),), 'network', 'login',
                       focus='password'))
  return variables, pages
