"""The 369 tasks of Desk: instructions and end-state conditions, as tables.

A task asks for one to three goals; `goals` lists them. 30 tasks ask for
something that does not exist; the right answer to them is FAIL. The tables are
the same in every process: they are drawn with a fixed seed.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np

from step_jax.envs.desk import apps
from step_jax.envs.desk import goals as goals_lib
from step_jax.envs.desk import tables as tables_lib
from step_jax.envs.desk.goals import Goal

NUM_TASKS = 369  # of OSWorld (method.md section 6)
NUM_TRAIN = 128
NUM_INFEASIBLE = 30
MAX_WORDS = 16  # W
MAX_CONDITIONS = 4
LONGEST = 12  # actions of a solution, DONE included
_SEED = 2511_13091


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


def compile_tasks(tables: tables_lib.Tables) -> Tasks:
  """Draws the tasks; each goal alone, then combinations of goals."""
  rng = np.random.default_rng(_SEED)
  feasible = list(goals_lib.feasible_goals())
  infeasible = list(goals_lib.infeasible_goals())
  tasks: list[tuple[Goal, ...]] = [(goal,) for goal in feasible]
  seen = set()
  distance = tables_lib.distances(tables)
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


def _length(tables: tables_lib.Tables, distance: np.ndarray,
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


def _reference(tables: tables_lib.Tables, name: str) -> tuple[int, int]:
  """Base and stride of a variable, or of the variables of a list."""
  if name in tables.variables:
    return tables.variables[name], 0
  base = tables.variables[f'{name}-0']
  return base, tables.variables[f'{name}-1'] - base


def _compile(tables: tables_lib.Tables, tasks: Sequence[tuple[Goal, ...]],
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
  infeasible = {goal.name for goal in goals_lib.infeasible_goals()}
  names = tuple('+'.join(goal.name for goal in goals) for goals in tasks)
  return Tasks(names, tuple(words), TaskTables(
      text_word=text[0], text_base=text[1],
      text_stride=text[2], text_offset=text[3], base=condition[0],
      stride=condition[1], offset=condition[2], target_word=condition[3],
      target_variable=condition[4], start=start, look_at=look_at,
      is_feasible=np.array([
          not any(goal.name in infeasible for goal in goals)
          for goals in tasks])))
