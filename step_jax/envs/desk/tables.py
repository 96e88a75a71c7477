"""The tables that Desk's simulator runs on, and ways from view to view.

`layout` compiles pages to tables. From what a click does there follows where
the scripted solution changes and saves a variable, and how it gets there.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 12  # E, widgets of a view


class Tables(NamedTuple):
  """A desktop as arrays: V views, E widgets a view, M variables."""
  words: tuple[str, ...]  # index 0 is no word
  # Widgets [V, E]: kinds, texts and so on are indices, 0 = none.
  kind: np.ndarray
  text_word: np.ndarray
  text_variable: np.ndarray
  shows: np.ndarray
  set_variable: np.ndarray
  set_word: np.ndarray
  toggles: np.ndarray
  edits: np.ndarray
  opens: np.ndarray  # view; its own if it opens nothing
  saves: np.ndarray  # group
  reverts: np.ndarray  # group
  box: np.ndarray  # [V, E, 4] left, top, width, height
  # Views [V].
  up: np.ndarray
  down: np.ndarray
  back: np.ndarray
  back_reverts: np.ndarray
  focus: np.ndarray
  # Variables [M].
  group: np.ndarray
  guarded: np.ndarray
  num_options: np.ndarray  # 0 for any name
  options: np.ndarray  # [M, O]
  # For the solver.
  way: np.ndarray  # [V, V] move: element, or E + up / down / back
  set_at: np.ndarray  # [M] view in which the variable is changed
  save_at: np.ndarray  # [M] view in which its group is saved
  variables: dict[str, int]
  views: dict[str, int]  # the first view of each page


def first_views(num_variables: int, cells: np.ndarray) -> np.ndarray:
  """The first view with each variable.

  Args:
    num_variables: M.
    cells: `[V, E, n]` variables of each widget; n of them, 0 = none.

  Returns:
    `[M]`; 0 where there is none.
  """
  found = np.zeros(num_variables, np.uint8)
  for view in reversed(range(len(cells))):
    found[cells[view].ravel()] = view
  return found


def ways(tables: Tables, names: Sequence[str]) -> np.ndarray:
  """First move of a shortest way from each view to each other one.

  Args:
    tables: of which `way` is not read.
    names: of the V views' pages, for the error.

  Returns:
    `way` of `Tables`, `[V, V]`.

  Raises:
    ValueError: there is no way.
  """
  num_views = len(tables.up)
  moves: list[dict[int, int]] = []  # by view: destination -> move
  for view in range(num_views):
    reached: dict[int, int] = {}
    for place in range(WINDOW):
      quiet = not any(
          table[view, place] for table in (
              tables.set_variable, tables.toggles, tables.edits, tables.saves,
              tables.reverts))
      if tables.kind[view, place] and quiet:
        reached.setdefault(int(tables.opens[view, place]), place)
    for move, table in enumerate((tables.up, tables.down, tables.back)):
      reached.setdefault(int(table[view]), WINDOW + move)
    moves.append(reached)
  way = np.zeros((num_views, num_views), np.uint8)
  for start in range(num_views):
    seen, frontier = {start}, collections.deque([(start, -1)])
    while frontier:
      view, move = frontier.popleft()
      way[start, view] = max(move, 0)
      for target, step in moves[view].items():
        if target not in seen:
          seen.add(target)
          frontier.append((target, step if move < 0 else move))
    if len(seen) < num_views:
      missing = names[next(v for v in range(num_views) if v not in seen)]
      raise ValueError(
          f'expected a way from {names[start]} to {missing}, found none')
  return way


def save_views(tables: Tables) -> np.ndarray:
  """`[M]`: the view in which the group of each variable is saved.

  A dialog is saved where its variable is changed, a document wherever there
  is a widget that saves it.
  """
  found = np.zeros(len(tables.group), np.uint8)
  for variable, group in enumerate(tables.group):
    if group:
      here = tables.set_at[variable]
      saving = np.flatnonzero((tables.saves == group).any(axis=1))
      found[variable] = here if here in saving else saving[0]
  return found


def distances(tables: Tables) -> np.ndarray:
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
