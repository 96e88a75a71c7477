"""A phone's observations, and the tokens that act on it."""

import numpy as np
import pytest

from step_jax.codecs.actions import Action
from step_jax.envs.androidworld import tokens as tokens_lib
from step_jax.envs import base

WORDS = ('Send', 'apple', 'now')
GRID = (20, 9)


def test_verbs_and_what_they_use():
  assert len(tokens_lib.VERBS) == len(tokens_lib.USES_CELL) == len(
      tokens_lib.USES_WORD)
  for index, verb in enumerate(tokens_lib.VERBS):
    by_cell = [tokens_lib.decode((index, cell, 0), WORDS) for cell in (0, 179)]
    by_word = [tokens_lib.decode((index, 0, word), WORDS) for word in (0, 2)]
    assert (by_cell[0] != by_cell[1]) is tokens_lib.USES_CELL[index], verb
    assert (by_word[0] != by_word[1]) is tokens_lib.USES_WORD[index], verb


@pytest.mark.parametrize('verb, cell, word, action', [
    ('click', 0, 7, Action(kind='click', point=(.5 / 9, .5 / 20))),
    ('click', 8, 0, Action(kind='click', point=(8.5 / 9, .5 / 20))),
    ('long_press', 9, 0,
     Action(kind='long_press', point=(.5 / 9, 1.5 / 20))),
    ('click', 179, 0, Action(kind='click', point=(8.5 / 9, 19.5 / 20))),
    ('type', 999, 1, Action(kind='type', text='apple')),
    ('scroll_up', 0, 0, Action(kind='scroll', direction='up', amount=5)),
    ('scroll_down', 0, 0, Action(kind='scroll', direction='down', amount=5)),
    ('back', 0, 0, Action(kind='press_back')),
    ('home', 0, 0, Action(kind='press_home')),
    ('done', 0, 0, Action(kind='done')),
])
def test_tokens_are_actions(verb, cell, word, action):
  tokens = tokens_lib.make_action(verb, cell, word)
  assert tokens.shape == (3,)
  assert tokens_lib.decode(tokens, WORDS, GRID) == action


@pytest.mark.parametrize('tokens', [
    None, 'click', (0, 0), (0, 0, 0, 0), (-1, 0, 0), (8, 0, 0), (0, 180, 0),
    (0, -1, 0), (1, 180, 0), (2, 0, 3), (2, 0, -1), (np.nan, 0, 0),
    (np.inf, 0, 0), (0, 'a', 0)])
def test_anything_else_is_no_action(tokens):
  assert tokens_lib.decode(tokens, WORDS, GRID) is None


def test_a_word_that_cannot_be_typed_is_no_action():
  assert tokens_lib.decode((2, 0, 0), ('a\x1b',)) is None


@pytest.mark.parametrize('grid', [(20, 9), (1, 1), (7, 30)])
def test_every_cell_is_written_and_read_as_itself(grid):
  for cell in range(grid[0] * grid[1]):
    for verb in ('click', 'long_press'):
      tokens = tokens_lib.make_action(verb, cell)
      action = tokens_lib.decode(tokens, WORDS, grid)
      np.testing.assert_array_equal(
          tokens_lib.encode(action, WORDS, grid), tokens)


def test_other_actions_are_written_and_read_as_themselves():
  for verb in tokens_lib.VERBS[3:]:
    tokens = tokens_lib.make_action(verb)
    np.testing.assert_array_equal(
        tokens_lib.encode(tokens_lib.decode(tokens, ()), ()), tokens)
  for text in ('apple', 'apple\n'):
    np.testing.assert_array_equal(
        tokens_lib.encode(Action(kind='type', text=text), WORDS),
        tokens_lib.make_action('type', word=1))


@pytest.mark.parametrize('action', [
    Action(kind='type', text='pear'), Action(kind='done', text='apple'),
    Action(kind='open_app', text='Clock'), Action(kind='fail'),
    Action(kind='scroll', direction='down', amount=5, point=(.5, .5))])
def test_what_tokens_cannot_say_is_an_error(action):
  with pytest.raises(ValueError, match='expected an action that tokens can'):
    tokens_lib.encode(action, WORDS)


def test_the_edge_of_the_screen_is_in_the_last_cell():
  action = Action(kind='click', point=(1., 1.))
  assert tokens_lib.encode(action, WORDS, GRID)[1] == 179


def test_a_picture_is_the_mean_of_its_areas():
  screen = np.zeros((540, 240, 3), np.uint8)
  screen[:27, :120] = 200  # the first row of cells, left half
  picture = tokens_lib.shrink(screen, (20, 2))
  assert picture.dtype == np.uint8 and picture.shape == (20, 2, 3)
  assert (picture[0, 0] == 200).all() and picture.sum() == 600
  assert tokens_lib.shrink(screen).shape == (80, 36, 3)
  assert tokens_lib.shrink(screen, (10, 1))[0, 0].tolist() == [50] * 3


def test_observations_lie_in_their_space():
  picture = np.full((80, 36, 3), 255, np.uint8)
  observation = tokens_lib.observe(WORDS, picture)
  assert tokens_lib.observation_space().contains(observation)
  assert tokens_lib.observation_space().contains(tokens_lib.example())
  assert observation['instruction'][:4].tolist() == [
      *map(base.word_id, WORDS), 0]
  assert observation['instruction'].shape == (base.MAX_WORDS,)
  assert tokens_lib.action_space((2, 3)).nvec.tolist() == [8, 6, 32]
