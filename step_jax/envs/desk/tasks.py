"""The 369 tasks of Desk: instructions and end-state conditions, as data.

A task asks for one to three goals. A goal has a sentence and conditions on
variables, so that whatever leads there is right. 30 tasks ask for
something that does not exist; the right answer to them is FAIL. The tables are
the same in every process: they are drawn with a fixed seed.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from step_jax.envs.desk import apps
from step_jax.envs.desk import layout

NUM_TASKS = 369  # of OSWorld (method.md section 6)
NUM_TRAIN = 128
NUM_INFEASIBLE = 30
MAX_WORDS = 16  # W
MAX_CONDITIONS = 4
LONGEST = 12  # actions of a solution, DONE included
_SEED = 2511_13091


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
    return self.text.count('$') + self.text.count('?')


class TaskTables(NamedTuple):
  """Tasks as arrays: N tasks, W words, C conditions.

  A reference to a variable is `base + stride * ((offset + shift) % items)`,
  where an episode draws `shift`; stride 0 is a single variable, base 0 none.
  """
  text_word: np.ndarray  # [N, W] a fixed word, or 0
  text_base: np.ndarray  # [N, W] the variable whose initial word is read
  text_stride: np.ndarray
  text_offset: np.ndarray
  base: np.ndarray  # [N, C] the variable of a condition
  stride: np.ndarray
  offset: np.ndarray
  target_word: np.ndarray  # [N, C] a fixed word, or 0
  target_variable: np.ndarray  # [N, C] the variable whose word it is
  start: np.ndarray  # [N] view
  is_feasible: np.ndarray  # [N]
  look_at: np.ndarray  # [N] view in which an infeasible task is seen to be so


class Tasks(NamedTuple):
  """All tasks, by name and as tables."""
  names: tuple[str, ...]
  words: tuple[str, ...]  # those of the desktop and of instructions
  tables: TaskTables


def _feasible_goals() -> Iterator[Goal]:
  def change(variable: str, app: str) -> Goal:
    return Goal(name=variable, app=app, text=f'change {variable} to $',
                conditions=((variable, '$0'),))

  def choose(variable: str, app: str, text: str, words: Sequence[str]):
    for word in words:
      yield Goal(name=f'{variable}-{word}', app=app,
                 text=text.format(word), conditions=((variable, word),))

  def switch(variable: str, app: str) -> Iterator[Goal]:
    yield from choose(variable, app, 'turn {} ' + variable, apps.ON_OFF)

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

  yield Goal(name='flag', app='mail', text='flag mail @sender',
             conditions=(('flag', 'on'),))
  for status in ('archive', 'spam'):
    yield Goal(name=status, app='mail', text=status + ' mail @sender',
               conditions=(('status', status),))
  yield Goal(name='reply', app='mail', text='reply @sender with $',
             conditions=(('text', '$0'),))
  yield Goal(name='write', app='mail', text='mail $ about $',
             conditions=(('to', '$0'), ('about', '$1')))

  for field in ('title', 'author', 'heading'):
    yield change(field, 'editor')
  yield from switch('bold', 'editor')
  yield from switch('italic', 'editor')
  yield from choose('font', 'editor', 'set font to {}',
                    ('serif', 'sans', 'mono'))
  yield from choose('align', 'editor', 'align text {}',
                    ('left', 'right', 'centre'))

  yield Goal(name='cell', app='sheet', text='set cell @row to $',
             conditions=(('cell', '$0'),))
  yield from choose('sort', 'sheet', 'sort by {}', ('name', 'value', 'date'))
  yield from switch('reverse', 'sheet')
  yield from choose('number', 'sheet', 'show cells as {}',
                    ('plain', 'percent', 'money'))

  yield Goal(name='pin', app='browser', text='pin bookmark @bookmark',
             conditions=(('pin', 'on'),))
  yield change('homepage', 'browser')
  yield from choose('engine', 'browser', 'search with {}',
                    ('duck', 'goose', 'swan'))
  yield from switch('popups', 'browser')
  yield from switch('cookies', 'browser')
  yield Goal(name='cache', app='browser', text='forget the cache',
             conditions=(('cache', 'forget'),))

  for switches in apps.SWITCHES.values():
    for name in switches:
      yield from switch(name, 'settings')
  for name, words in apps.CHOICES.values():
    yield from choose(name, 'settings', 'set ' + name + ' to {}', words)
  yield change('password', 'settings')


def _infeasible_goals() -> Iterator[Goal]:
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


def compile_tasks(tables: layout.Tables) -> Tasks:
  """Draws the tasks; each goal alone, then combinations of goals."""
  rng = np.random.default_rng(_SEED)
  feasible, infeasible = list(_feasible_goals()), list(_infeasible_goals())
  tasks: list[tuple[Goal, ...]] = [(goal,) for goal in feasible]
  seen = set()
  distance = _distances(tables)
  while len(tasks) < NUM_TASKS - NUM_INFEASIBLE:
    chosen = _draw(rng, feasible, 2 if rng.random() < 0.8 else 3)
    names = tuple(sorted(goal.name for goal in chosen))
    if names not in seen and _fits(chosen) and _length(
        tables, distance, chosen) <= LONGEST:
      seen.add(names)
      tasks.append(chosen)
  tasks += [(goal,) for goal in infeasible]
  pairs = [pair for pair in itertools.product(feasible, infeasible)
           if _fits(pair)]
  rng.shuffle(pairs)
  tasks += [pair[::int(rng.choice([-1, 1]))]
            for pair in pairs[:NUM_TASKS - len(tasks)]]
  rng.shuffle(tasks)
  return _compile(tables, tasks, rng.random(NUM_TASKS) < 0.5)


def _draw(rng: np.random.Generator, goals: Sequence[Goal],
          count: int) -> tuple[Goal, ...]:
  """Goals about different things, those of one application side by side."""
  chosen = [goals[i] for i in rng.choice(len(goals), count, replace=False)]
  apps_in_order = [goal.app for goal in chosen]
  return tuple(sorted(chosen, key=lambda g: apps_in_order.index(g.app)))


def _fits(goals: Sequence[Goal]) -> bool:
  """Whether goals do not contradict each other and fit the tables."""
  variables = [name for goal in goals for name, _ in goal.conditions]
  return (
      len(set(variables)) == len(variables) <= MAX_CONDITIONS
      and len(_sentence(goals)) <= MAX_WORDS
      and sum(goal.num_typed for goal in goals) <= apps.NUM_TYPED)


def _sentence(goals: Sequence[Goal]) -> list[str]:
  return ' and '.join(goal.text for goal in goals).split()


def _distances(tables: layout.Tables) -> np.ndarray:
  """`[V, V]` moves of a shortest way."""
  num_views = len(tables.up)
  views = np.arange(num_views)
  move = tables.way.astype(int)
  following = np.concatenate([
      tables.opens, tables.up[:, None], tables.down[:, None],
      tables.back[:, None]], axis=1)[views[:, None], move].astype(int)
  distance = np.full((num_views, num_views), num_views)
  np.fill_diagonal(distance, 0)
  for _ in range(num_views):
    distance = np.minimum(distance, np.where(
        views[:, None] == views, 0, 1 + distance[following, views]))
  return distance


def _length(tables: layout.Tables, distance: np.ndarray,
            goals: Sequence[Goal]) -> int:
  """Actions of the scripted solution from the home page, at its longest."""
  here, length = tables.views['home'], 1  # DONE
  for goal in goals:
    longest, there = 0, here
    for item in range(apps.NUM_ITEMS):
      at, count = here, 0
      for name, word in goal.conditions:
        base, stride = _reference(tables, name)
        variable = base + stride * item
        at, count = (int(tables.set_at[variable]),
                     count + distance[at, tables.set_at[variable]])
        count += 1 + (word[0] == '$' and tables.focus[at] != variable)
      if tables.group[variable]:
        save = tables.save_at[variable]
        count += distance[at, save] + 1
        place = np.flatnonzero(
            tables.saves[save] == tables.group[variable])[0]
        at = int(tables.opens[save, place])
      if count >= longest:
        longest, there = count, at
    here, length = there, length + longest
  return length


def _reference(tables: layout.Tables, name: str) -> tuple[int, int]:
  """Base and stride of a variable, or of the variables of a list."""
  if name in tables.variables:
    return tables.variables[name], 0
  base = tables.variables[f'{name}-0']
  return base, tables.variables[f'{name}-1'] - base


def _compile(tables: layout.Tables, tasks: Sequence[tuple[Goal, ...]],
             begins_in_app: np.ndarray) -> Tasks:
  words = {word: i for i, word in enumerate(tables.words)}
  text = np.zeros((4, len(tasks), MAX_WORDS), np.uint8)
  condition = np.zeros((5, len(tasks), MAX_CONDITIONS), np.uint8)
  start, look_at = np.zeros((2, len(tasks)), np.uint8)
  for task, goals in enumerate(tasks):
    typed = [tables.variables[f'typed-{i}'] for i in range(apps.NUM_TYPED)]
    sentence, conditions = [], []
    for offset, goal in enumerate(goals):
      mine = [typed.pop(0) for _ in range(goal.num_typed)]
      sentence += [(words.setdefault('and', len(words)), 0, 0, 0)] * (
          offset > 0)
      unread = iter(mine)
      for word in goal.text.split():
        if word[0] == '@':
          sentence.append((0, *_reference(tables, word[1:]), offset))
        elif word in '$?':
          sentence.append((0, next(unread), 0, 0))
        else:
          sentence.append((words.setdefault(word, len(words)), 0, 0, 0))
      for name, word in goal.conditions:
        target = ((0, mine[int(word[1:])]) if word[0] == '$'
                  else (words[word], 0))
        conditions.append((*_reference(tables, name), offset, *target))
      if goal.look_at:
        first = tables.views[goal.look_at]
        while tables.down[first] != first:
          first = int(tables.down[first])
        look_at[task] = first
    text[:, task, :len(sentence)] = np.array(sentence).T
    if conditions:
      condition[:, task, :len(conditions)] = np.array(conditions).T
    if begins_in_app[task]:
      start[task] = tables.views[goals[0].app]
  infeasible = {goal.name for goal in _infeasible_goals()}
  names = tuple('+'.join(goal.name for goal in goals) for goals in tasks)
  return Tasks(names, tuple(words), TaskTables(
      text_word=text[0], text_base=text[1],
      text_stride=text[2], text_offset=text[3], base=condition[0],
      stride=condition[1], offset=condition[2], target_word=condition[3],
      target_variable=condition[4], start=start, look_at=look_at,
      is_feasible=np.array([
          not any(goal.name in infeasible for goal in goals)
          for goals in tasks])))
