"""Tests of Desk's tables: words, pages and tasks."""
import dataclasses

import numpy as np
import pytest

from step_jax.envs.desk import apps
from step_jax.envs.desk import env as desk_env
from step_jax.envs.desk import layout
from step_jax.envs.desk.layout import Page
from step_jax.envs.desk.layout import Variable
from step_jax.envs.desk.layout import Widget
from step_jax.envs.desk import simulator
from step_jax.envs.desk import tasks as tasks_lib
from tests import desk_reference

_TASKS, _TABLES = simulator.TASKS, simulator.TABLES


def test_as_many_tasks_as_the_paper_has():
  assert len(_TASKS.names) == len(set(_TASKS.names)) == 369
  assert len(desk_env.TRAIN_TASKS) == 128
  assert desk_env.TRAIN_TASKS + desk_env.HELD_OUT_TASKS == _TASKS.names
  feasible = _TASKS.tables.is_feasible
  assert feasible.dtype == bool and (~feasible).sum() == 30
  assert 0 < (~feasible[:128]).sum() < 30  # of both sets
  for name, is_feasible in zip(_TASKS.names, feasible, strict=True):
    is_asked = 'no-' not in name and 'missing-' not in name
    assert is_feasible == is_asked
  assert all(len(table) == 369 for table in _TASKS.tables)


def test_every_goal_is_a_task_of_its_own():
  assert set(desk_reference.GOALS) <= set(_TASKS.names)


def test_tasks_are_drawn_alike_in_every_process():
  again = tasks_lib.compile_tasks(apps.compile_apps())
  assert again.names == _TASKS.names and again.words == _TASKS.words
  for a, b in zip(again.tables, _TASKS.tables, strict=True):
    np.testing.assert_array_equal(a, b)
  # The first of them as they were when runs were made with them.
  assert _TASKS.names[:3] == (
      'title+location-off', 'missing-archive',
      'align-left+output-speaker+night-on')


def test_sentences_have_up_to_16_words():
  tables = _TASKS.tables
  is_word = (tables.text_word > 0) | (tables.text_base > 0)
  lengths = is_word.sum(axis=1)
  assert lengths.min() >= 2 and lengths.max() <= 16
  np.testing.assert_array_equal(
      is_word, np.arange(16) < lengths[:, None])  # filled from the front


def test_numbers_fit_into_a_byte():
  assert len(_TASKS.words) == len(set(_TASKS.words)) <= 256
  assert len(_TABLES.kind) <= 256 and len(_TABLES.group) <= 256
  assert len(set(simulator._WORD_IDS)) == len(_TASKS.words)  # no two alike


def test_a_name_is_not_a_word_of_the_desktop():
  assert len(set(apps.NAMES)) == len(apps.NAMES)
  names = len(apps.NAMES)
  assert _TASKS.words[1:names + 1] == apps.NAMES
  assert not set(_TASKS.words[names + 1:]) & set(apps.NAMES)


def test_names_are_a_prime_number_so_that_strides_visit_all():
  count = len(apps.NAMES)
  assert all(count % divisor for divisor in range(2, count))
  assert count >= simulator._IS_NAME.sum() > 0
  slots = simulator._NAME_SLOT[simulator._IS_NAME]
  np.testing.assert_array_equal(slots, np.arange(len(slots)))


def test_the_ways_lead_everywhere():
  moves = np.concatenate([
      _TABLES.opens, _TABLES.up[:, None], _TABLES.down[:, None],
      _TABLES.back[:, None]], axis=1)
  here, goal = np.meshgrid(*[np.arange(len(moves))] * 2, indexing='ij')
  for _ in range(len(moves)):
    if (here == goal).all():
      break
    here = np.where(here == goal, here, moves[here, _TABLES.way[here, goal]])
  np.testing.assert_array_equal(here, goal)


def _desktop(**changes):
  """Two pages and two variables, one thing changed."""
  widgets = dict(a=Widget(kind='item', text='go', opens='b'),
                 b=Widget(kind='checkbox', text='night', toggles='night'))
  variables = [Variable(name='night', options=('off', 'on')),
               Variable(name='title')]
  widgets['b'] = dataclasses.replace(
      widgets['b'], **changes.pop('widget', {}))
  pages = [Page(name='a', widgets=(widgets['a'],)),
           dataclasses.replace(
               Page(name='b', widgets=(widgets['b'],), parent='a'),
               **changes.pop('page', {}))]
  return layout.compile_desktop(
      variables + changes.pop('variables', []),
      pages + changes.pop('pages', []), ['amber', 'birch'])


def test_a_small_desktop():
  tables = _desktop()
  assert tables.words[:3] == ('', 'amber', 'birch')
  assert tables.views == {'a': 0, 'b': 1}
  np.testing.assert_array_equal(tables.opens[:, 0], [1, 1])
  np.testing.assert_array_equal(tables.back, [0, 0])
  np.testing.assert_array_equal(tables.toggles[:, 0], [0, 1])


@pytest.mark.parametrize('changes, message', [
    ({'widget': {'toggles': 'nigth'}}, 'nigth'),
    ({'widget': {'toggles': '', 'sets': ('nigth', 'on')}}, 'nigth'),
    ({'widget': {'toggles': '', 'edits': 'nigth'}}, 'nigth'),
    ({'widget': {'shows': 'nigth'}}, 'nigth'),
    ({'widget': {'text': layout.READ + 'nigth'}}, 'nigth'),
    ({'page': {'focus': 'nigth'}}, 'nigth'),
    ({'widget': {'toggles': '', 'opens': 'c'}}, "'c'"),
    ({'page': {'parent': 'c'}}, "'c'"),
    ({'pages': [Page(name='c', widgets=(), parent='a')]}, 'way from a to c'),
    ({'page': {'parent': ''}}, 'way from b to a'),
    ({'variables': [Variable(name=f'v{i}') for i in range(254)]},
     '256 variables, got 257'),
    ({'widget': {'text': 'w'},
      'variables': [Variable(name='v', options=tuple(map(str, range(256))))]},
     '256 words, got 265'),
    ({'pages': [Page(name=f'p{i}', widgets=()) for i in range(255)]},
     '256 views, got 257'),
])
def test_mistakes_in_a_desktop_are_told(changes, message):
  with pytest.raises(ValueError, match=message):
    _desktop(**changes)


def test_long_pages_are_cut_into_windows():
  words = [f'w{i}' for i in range(20)]
  page = Page(
      name='c', parent='a', window=8,
      pinned=(Widget(kind='menu', text='m'), Widget(kind='menu', text='n')),
      widgets=tuple(Widget(kind='label', text=word) for word in words))
  tables = _desktop(pages=[page], widget={'toggles': '', 'opens': 'c'})
  first = tables.views['c']
  seen = [[tables.words[word] for word in row if word]
          for row in tables.text_word[first:]]
  # Six fit beside the pinned two; two of them stay in sight.
  assert seen == [['m', 'n'] + words[start:start + 6]
                  for start in (0, 4, 8, 12, 14)]
  np.testing.assert_array_equal(
      tables.down[first:], first + np.array([1, 2, 3, 4, 4]))
  np.testing.assert_array_equal(
      tables.up[first:], first + np.array([0, 0, 1, 2, 3]))


def test_widgets_do_not_lie_on_each_other():
  for kind, boxes in zip(_TABLES.kind, _TABLES.box, strict=True):
    boxes = boxes[kind > 0].astype(np.float64)
    assert boxes.min() >= 0
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    assert high.max() <= 1 + 1e-6
    apart = ((low[:, None] > high[None] - 1e-6)
             | (high[:, None] < low[None] + 1e-6)).any(axis=-1)
    assert (apart | np.eye(len(boxes), dtype=bool)).all()
