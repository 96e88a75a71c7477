"""The goals that Desk's tasks ask for: sentences and end states, as data.

A goal is reached by whatever leads to its end state; `tasks` makes tasks of one
to three of them.
"""

from collections.abc import Iterator, Sequence
import dataclasses

from step_jax.envs.desk import apps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
  """A sentence and what has to be true for it.

  In `text`, '@file' is the name of an item of a list, '$' a word to type and
  '?' a name that no item has. In `conditions`, 'star' with an item stands for
  the item's variable, and the word '$0' for the first word to type.
  """
  name: str
  app: str
  text: str
  conditions: tuple[tuple[str, str], ...] = ()
  look_at: str = ''  # infeasible: the page that shows that it is

  @property
  def num_typed(self) -> int:
    """The words to type, and the names that no item has."""
    return self.text.count('$') + self.text.count('?')


def feasible_goals() -> Iterator[Goal]:
  """Yields the goals that can be reached, by application."""
  for app in (_files, _mail, _editor, _sheet, _browser, _settings):
    yield from app()


def infeasible_goals() -> Iterator[Goal]:
  """Yields those that cannot, as something does not exist."""
  for name, app, text in (
      ('hotspot', 'settings', 'turn on hotspot'),
      ('touch', 'settings', 'turn off touch'),
      ('green', 'settings', 'set theme to green'),
      ('gothic', 'editor', 'set font to gothic'),
      ('crow', 'browser', 'search with crow'),
      ('print', 'files', 'print file @file'),
      ('footer', 'editor', 'change footer to $'),
      ('colour', 'sheet', 'sort by colour')):
    yield Goal(name=f'no-{name}', app=app, text=text)
  for name, app, text in (
      ('rename', 'files', 'rename ? to $'),
      ('star', 'files', 'star file ?'),
      ('delete', 'files', 'delete file ?'),
      ('flag', 'mail', 'flag mail ?'),
      ('archive', 'mail', 'archive mail ?'),
      ('reply', 'mail', 'reply ? with $'),
      ('cell', 'sheet', 'set cell ? to $'),
      ('pin', 'browser', 'pin bookmark ?')):
    yield Goal(name=f'missing-{name}', app=app, text=text, look_at=app)


def _files() -> Iterator[Goal]:
  yield Goal(name='rename', app='files', text='rename @file to $',
             conditions=(('file', '$0'),))
  for folder in apps.FOLDERS:
    yield Goal(name=f'move-{folder}', app='files',
               text=f'move @file to {folder}',
               conditions=(('folder', folder),))
  yield Goal(name='star', app='files', text='star file @file',
             conditions=(('star', 'on'),))
  yield Goal(name='delete', app='files', text='delete file @file',
             conditions=(('deleted', 'on'),))


def _mail() -> Iterator[Goal]:
  yield Goal(name='flag', app='mail', text='flag mail @sender',
             conditions=(('flag', 'on'),))
  for status in ('archive', 'spam'):
    yield Goal(name=status, app='mail', text=status + ' mail @sender',
               conditions=(('status', status),))
  yield Goal(name='reply', app='mail', text='reply @sender with $',
             conditions=(('text', '$0'),))
  yield Goal(name='write', app='mail', text='mail $ about $',
             conditions=(('to', '$0'), ('about', '$1')))


def _editor() -> Iterator[Goal]:
  for field in ('title', 'author', 'heading'):
    yield _change(field, 'editor')
  yield from _switch('bold', 'editor')
  yield from _switch('italic', 'editor')
  yield from _choose('font', 'editor', 'set font to {}',
                     ('serif', 'sans', 'mono'))
  yield from _choose('align', 'editor', 'align text {}',
                     ('left', 'right', 'centre'))


def _sheet() -> Iterator[Goal]:
  yield Goal(name='cell', app='sheet', text='set cell @row to $',
             conditions=(('cell', '$0'),))
  yield from _choose('sort', 'sheet', 'sort by {}', ('name', 'value', 'date'))
  yield from _switch('reverse', 'sheet')
  yield from _choose('number', 'sheet', 'show cells as {}',
                     ('plain', 'percent', 'money'))


def _browser() -> Iterator[Goal]:
  yield Goal(name='pin', app='browser', text='pin bookmark @bookmark',
             conditions=(('pin', 'on'),))
  yield _change('homepage', 'browser')
  yield from _choose('engine', 'browser', 'search with {}',
                     ('duck', 'goose', 'swan'))
  yield from _switch('popups', 'browser')
  yield from _switch('cookies', 'browser')
  yield Goal(name='cache', app='browser', text='forget the cache',
             conditions=(('cache', 'forget'),))


def _settings() -> Iterator[Goal]:
  for switches in apps.SWITCHES.values():
    for name in switches:
      yield from _switch(name, 'settings')
  for name, words in apps.CHOICES.values():
    yield from _choose(name, 'settings', 'set ' + name + ' to {}', words)
  yield _change('password', 'settings')


def _change(variable: str, app: str) -> Goal:
  return Goal(name=variable, app=app, text=f'change {variable} to $',
              conditions=((variable, '$0'),))


def _choose(variable: str, app: str, text: str, words: Sequence[str]
            ) -> Iterator[Goal]:
  for word in words:
    yield Goal(name=f'{variable}-{word}', app=app,
               text=text.format(word), conditions=((variable, word),))


def _switch(variable: str, app: str) -> Iterator[Goal]:
  yield from _choose(variable, app, 'turn {} ' + variable, apps.ON_OFF)
