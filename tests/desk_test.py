"""Tests of Desk: a slow oracle beside it, and what a person can expect."""
import functools
import warnings

import chex
import gymnasium
from gymnasium.utils import env_checker
import jax
import numpy as np
import pytest

from benchmarks import desk_baselines
from step_jax.envs import base
from step_jax.envs.desk import apps
from step_jax.envs.desk import env as desk_env
from step_jax.envs.desk import simulator
from step_jax.policies import element
from tests import desk_reference

_TASKS, _TABLES = simulator.TASKS, simulator.TABLES
_NUM_TASKS = len(_TASKS.names)
_WORD = {base.word_id(word): word for word in ('', *_TASKS.words)}
# One shape for all batches: every task with two seeds.
_TASK_IDS = np.tile(np.arange(_NUM_TASKS, dtype=np.int32), 2)
_SEEDS = np.arange(len(_TASK_IDS), dtype=np.int32) * 977 + 5
_FEASIBLE = _TASKS.tables.is_feasible[_TASK_IDS]
_INT32 = np.iinfo(np.int32)

_step = jax.jit(jax.vmap(simulator.step))
_solve = jax.jit(jax.vmap(simulator.solve))


@jax.jit
def _reset(seeds, task_ids):
  return jax.vmap(lambda seed, task: simulator.reset(
      jax.random.key(seed), task))(seeds, task_ids)


@functools.partial(jax.jit, static_argnames='num_steps')
def _play_solver(seeds, task_ids, num_steps):
  """Rewards and ends `[steps, B]` of the scripted solution."""
  def play(state, _):
    state, _, reward, done = jax.vmap(simulator.step)(
        state, jax.vmap(simulator.solve)(state))
    return state, (reward, done)
  return jax.lax.scan(
      play, _reset(seeds, task_ids)[0], length=num_steps)[1]


@pytest.fixture(scope='module', name='start')
def made_start():
  """(state, observation) of every task with two seeds."""
  return _reset(_SEEDS, _TASK_IDS)


def _everyone(verb):
  return np.tile(np.int32([element.VERBS.index(verb), 0, 0]),
                 (len(_TASK_IDS), 1))


def _legal_actions(rng, observation):
  """A random legal action a row; done and fail are rare."""
  weights = np.array([8, 8, 2, 2, 2, .2, .2]) * observation['verb_mask']
  noise = rng.random(weights.shape)
  verbs = np.argmax(weights ** .5 * noise, axis=1)
  rows = np.arange(len(verbs))
  targets = np.argmax(rng.random((len(rows), 12)) * observation[
      'target_mask'][rows, verbs], axis=1)
  words = np.argmax(
      rng.random((len(rows), 16)) * (observation['instruction'] > 0), axis=1)
  return np.stack([verbs, targets, words], axis=1).astype(np.int32)


def _wild_actions(rng, count):
  tokens = rng.integers(-3, 20, (count, 3))
  extreme = rng.random((count, 3)) < .1
  return np.where(
      extreme, rng.choice([_INT32.min, _INT32.max, 256, -256], (count, 3)),
      tokens).astype(np.int32)


def _mixed_actions(rng, state, observation):
  """Those of the solution, of chance, and nonsense; few end the episode."""
  legal = _legal_actions(rng, observation)
  wild = _wild_actions(rng, len(legal))
  wild[:, 0] = np.where(wild[:, 0] >= 5, 1, wild[:, 0])
  who = rng.random((len(legal), 1))
  return np.where(who < .4, _solve(state), np.where(who < .85, legal, wild))


def _is_legal(tokens, observation):
  """Whether the masks allow the actions of all rows."""
  verb, target, word = np.moveaxis(np.asarray(tokens), -1, 0)
  known = (verb >= 0) & (verb < 7)
  rows, verb = np.arange(len(verb)), np.where(known, verb, 0)
  legal = known & observation['verb_mask'][rows, verb]
  for token, used, mask in (
      (target, element.USES_ELEMENT, observation['target_mask'][rows, verb]),
      (word, element.USES_WORD, observation['instruction'] > 0)):
    inside = (token >= 0) & (token < mask.shape[1])
    allowed = inside & mask[rows, np.where(inside, token, 0)]
    legal &= ~used[verb] | allowed
  return legal


# The oracle.


def _read(word_numbers):
  return [_TASKS.words[word] for word in word_numbers]


def _oracle(state, task_id, row):
  """The desktop that a row of states begins with, as objects."""
  state = jax.tree.map(lambda x: x[row], state)
  words = {name: _TASKS.words[state.saved[i]]
           for name, i in _TABLES.variables.items() if name}
  sentence = [word for word in _read(state.instruction) if word]
  task = _TASKS.names[task_id]
  wanted, feasible = desk_reference.read_sentence(task, sentence, words)
  page, = [name for name, view in _TABLES.views.items() if view == state.view]
  assert page in ('home', desk_reference.GOALS[task.split('+')[0]].app)
  return desk_reference.Desktop(
      page, words, sentence, wanted, feasible, simulator.MAX_STEPS)


def _assert_same_screen(observation, expected):
  assert observation.keys() == expected.keys()
  for name, x in expected.items():
    assert observation[name].dtype == x.dtype, name
    np.testing.assert_allclose(
        observation[name], x, rtol=0, atol=1e-6, err_msg=name)


def test_the_slow_oracle_agrees(start):
  rng = np.random.default_rng(0)
  state, observation = jax.device_get(start)
  rows = np.arange(3, len(_TASK_IDS), 5)
  desktops = [_oracle(state, _TASK_IDS[row], row) for row in rows]
  paid, visited = 0., set()
  for _ in range(simulator.MAX_STEPS + 1):
    for row, desktop in zip(rows, desktops):
      _assert_same_screen(
          {name: x[row] for name, x in observation.items()},
          desktop.observation())
      visited.add(desktop.page.name.rstrip('-0123456789'))
    tokens = _mixed_actions(rng, state, observation)
    state, observation, reward, done = jax.device_get(_step(state, tokens))
    for row, desktop in zip(rows, desktops):
      verb, target, word = tokens[row].tolist()
      name = element.VERBS[verb] if 0 <= verb < 7 else ''
      assert desktop.step(name, target, word) == reward[row]
      assert desktop.done == done[row] and desktop.steps == state.num_steps[
          row]
    paid += reward[rows].sum()
  assert done.all() and 10 < paid < len(rows) - 10  # of both kinds
  assert visited == {
      name.rstrip('-0123456789') for name in desk_reference.PAGES}


def test_what_is_asked_for_is_in_the_sentence(start):
  state = jax.device_get(start[0])
  for row, task_id in enumerate(_TASK_IDS):
    desktop = _oracle(state, task_id, row)
    assert desktop.feasible == _FEASIBLE[row]
    wanted = {
        _TABLES.variables[name]: _TASKS.words.index(word)
        for name, word in desktop.wanted.items()}
    used = state.variables[row] > 0
    assert wanted == dict(zip(
        state.variables[row][used].tolist(), state.targets[row][used].tolist()))
    assert len(wanted) == used.sum() >= desktop.feasible
    for name, word in desktop.wanted.items():
      assert desktop.saved[name] != word


# All tasks.


def test_the_scripted_solution_solves_every_task():
  task_ids = np.tile(np.arange(_NUM_TASKS, dtype=np.int32), 4)
  seeds = np.arange(len(task_ids), dtype=np.int32) + 2**30
  rewards, done = jax.device_get(_play_solver(seeds, task_ids, 12))
  np.testing.assert_array_equal(rewards.sum(axis=0), 1)
  lengths = 1 + (~done).sum(axis=0)
  np.testing.assert_array_equal(rewards > 0, np.arange(12)[:, None] == (
      lengths - 1))
  assert lengths.min() == 1 and lengths.max() == 12
  assert done[-1].all()


def test_the_solution_goes_on_from_anywhere(start):
  """After five random steps that change no guarded thing."""
  rng = np.random.default_rng(1)
  state, observation = jax.device_get(start)
  for _ in range(5):
    tokens = _legal_actions(rng, observation)
    tokens[tokens[:, 0] >= 5] = 4, 0, 0
    state, observation, *_ = jax.device_get(_step(state, tokens))
  guarded = _TABLES.guarded
  whole = (state.saved[:, guarded] == _TABLES.options[guarded, 0]).all(axis=1)
  state = state._replace(num_steps=np.zeros_like(state.num_steps))
  paid = np.zeros(len(whole))
  for _ in range(15):
    state, _, reward, _ = _step(state, _solve(state))
    paid += reward
  assert whole.mean() > .8
  np.testing.assert_array_equal(paid[whole], 1)


def test_nothing_is_given_away(start):
  """At the reset, nothing that is asked for holds."""
  for seeds in (_SEEDS, _SEEDS + 1):
    state, _ = _reset(seeds, _TASK_IDS)
    _, _, reward, done = _step(state, _everyone('done'))
    assert not reward.any() and done.all()
    _, _, reward, done = _step(state, _everyone('fail'))
    np.testing.assert_array_equal(reward, ~_FEASIBLE)
    assert done.all() and reward.dtype == np.float32


@pytest.mark.parametrize('name', ['random', 'random to the end'])
def test_chance_solves_next_to_nothing(name):
  rates = np.asarray(desk_baselines.success_rates(
      jax.random.key(0), policy=desk_baselines.POLICIES[name], episodes=2))
  feasible = _FEASIBLE[:_NUM_TASKS]
  assert rates.shape == (_NUM_TASKS,) and rates[feasible].mean() < .05
  # It says FAIL now and then, which some tasks pay.
  assert (rates[~feasible].mean() > .2) == (name == 'random')


def test_episodes_differ_by_seed_and_repeat_themselves(start):
  again = _reset(_SEEDS, _TASK_IDS)
  chex.assert_trees_all_equal(again, start)
  half = _NUM_TASKS
  state = jax.device_get(start[0])
  names = state.saved[:, simulator._IS_NAME]
  assert (names[:half] != names[half:]).any(axis=1).all()
  choices = state.saved[:, _TABLES.num_options > 1]
  assert (choices[:half] != choices[half:]).any(axis=1).all()
  # Every switch stands this way and that; guarded things do not.
  for variable in np.flatnonzero(_TABLES.num_options > 1):
    found = set(state.saved[:, variable].tolist())
    options = _TABLES.options[variable, :_TABLES.num_options[variable]]
    assert found == set(options.tolist()[
        :1 if _TABLES.guarded[variable] else None])
  # Names are never used twice, and every name is used.
  assert all(len(set(row)) == len(row) for row in names.tolist())
  assert set(names.ravel().tolist()) == set(range(1, len(apps.NAMES) + 1))


def test_a_switch_stands_either_way_half_of_the_time(start):
  saved = np.asarray(start[0].saved)
  wifi = saved[:, _TABLES.variables['wifi']] == simulator._ON
  free = np.array(['wifi' not in _TASKS.names[task] for task in _TASK_IDS])
  assert abs(wifi[free].mean() - .5) < .1


# What an action does, whatever the task.


@pytest.fixture(scope='module', name='later')
def made_later(start):
  """States and observations after six mixed steps; some have ended."""
  rng = np.random.default_rng(2)
  state, observation = jax.device_get(start)
  for _ in range(6):
    tokens = _mixed_actions(rng, state, observation)
    state, observation, _, done = jax.device_get(_step(state, tokens))
  assert 0 < done.sum() < len(done)
  return state, observation


@pytest.mark.parametrize('seed', range(4))
def test_the_masks_say_what_actions_do_something(later, seed):
  state, observation = later
  rng = np.random.default_rng(seed)
  tokens = np.where(rng.random((len(_TASK_IDS), 1)) < .6, _wild_actions(
      rng, len(_TASK_IDS)), _legal_actions(rng, observation))
  legal = _is_legal(tokens, observation)
  assert .2 < legal.mean() < .9
  new, seen, reward, done = jax.device_get(_step(state, tokens))
  going = ~state.done
  idle = going & ~legal
  assert not reward[idle].any()
  np.testing.assert_array_equal(done[idle], False)  # six of 15 steps
  np.testing.assert_array_equal(
      new.num_steps, state.num_steps + going)
  _assert_rows_equal(new._replace(num_steps=state.num_steps), state, idle)
  _assert_rows_equal(seen, observation, idle)
  moves = going & legal & np.isin(tokens[:, 0], [2, 3, 4])
  assert moves.any() and (new.view != state.view)[moves].all()
  types = going & legal & (tokens[:, 0] == 1)
  rows, (_, target, word) = np.flatnonzero(types), tokens[types].T
  np.testing.assert_array_equal(
      seen['element_value'][rows, target, 0],
      observation['instruction'][rows, word])
  assert len(rows)


def _assert_rows_equal(actual, expected, rows):
  chex.assert_trees_all_equal(*[
      jax.tree.map(lambda x: np.asarray(x)[rows], tree)
      for tree in (actual, expected)])


def test_what_is_observed_is_a_legal_screen(later):
  observation = later[1]
  here = observation['element_type'] > 0
  assert observation['verb_mask'][:, [0, 5, 6]].all()
  np.testing.assert_array_equal(observation['target_mask'][:, 0], here)
  typed = observation['target_mask'][:, 1]
  np.testing.assert_array_equal(typed, observation['element_flags'][..., 0])
  assert typed.sum(axis=1).max() == 1 and not typed[~here].any()
  assert not typed[~observation['element_flags'][..., 3]].any()
  np.testing.assert_array_equal(
      typed.any(axis=1), observation['verb_mask'][:, 1])
  for name in ('text', 'value', 'flags', 'box'):
    assert not observation[f'element_{name}'][~here].any()
  assert (observation['element_text'][here] > 0).all()
  # Widgets stand at the front.
  np.testing.assert_array_equal(
      here, np.arange(12) < here.sum(axis=1, keepdims=True))


def test_an_episode_that_ended_stays_as_it_is(later):
  state, observation = later
  for verb in element.VERBS:
    new, seen, reward, done = jax.device_get(_step(state, _everyone(verb)))
    assert done[state.done].all() and not reward[state.done].any()
    _assert_rows_equal(new, state, state.done)
    _assert_rows_equal(seen, observation, state.done)


def test_the_limit_of_steps_is_an_end():
  """Success counts where everything is saved by then, without DONE."""
  state, _ = _reset(_SEEDS, _TASK_IDS)
  nothing = np.tile(np.int32([-1, 0, 0]), (len(_TASK_IDS), 1))
  rewards = []
  for step in range(15):
    tokens = np.asarray(_solve(state))
    tokens = np.where(tokens[:, :1] >= 5, nothing, tokens)  # never says so
    state, _, reward, done = _step(state, tokens)
    rewards.append(np.asarray(reward))
    assert done.all() if step == 14 else not done.any()
  np.testing.assert_array_equal(np.sum(rewards, axis=0), _FEASIBLE)
  assert not np.any(rewards[:-1])
  state, _ = _reset(_SEEDS, _TASK_IDS)
  for step in range(15):
    state, _, reward, done = _step(state, nothing)
    assert not reward.any() and done.all() == (step == 14)


def test_batches_equal_single_desktops(start):
  row = 123
  states, observations = start
  state, observation = desk_env._reset(
      jax.random.key(_SEEDS[row]), _TASK_IDS[row])
  rng = np.random.default_rng(0)
  for _ in range(6):
    _assert_same_row((states, observations), row, (state, observation))
    tokens = _mixed_actions(rng, states, jax.device_get(observations))
    states, observations, rewards, done = _step(states, tokens)
    state, observation, reward, ended = desk_env._step(
        state, tokens[row], max_steps=15)
    assert (rewards[row], done[row]) == (reward, ended)


def _assert_same_row(batch, row, single):
  for rows, x in zip(jax.tree.leaves(batch), jax.tree.leaves(single),
                     strict=True):
    assert rows.dtype == x.dtype and rows[row].shape == x.shape
    np.testing.assert_array_equal(rows[row], x)


# As a person uses it.


class _Person:
  """Reads the screen and acts by words, on one task."""

  def __init__(self, task, seed=0, max_steps=15):
    self.env = desk_env.DeskEnv((task,), max_steps)
    self._seen, _ = self.env.reset(seed=seed, options={'task_id': 0})
    self.reward, self.ended = 0., False
    self.words = [_WORD[i] for i in self._seen['instruction'] if i]

  @property
  def shown(self):
    """Texts of the visible widgets."""
    return [_WORD[i] for i in self._seen['element_text'][:, 0] if i]

  def flags(self, text):
    """(focused, changed, selected, editable) of a widget."""
    return tuple(
        self._seen['element_flags'][self.shown.index(text)].tolist())

  def value(self, text):
    return _WORD[self._seen['element_value'][self.shown.index(text), 0]]

  def click(self, *texts):
    for text in texts:
      self._act('click', self.shown.index(text))
    return self

  def find(self, text):
    """Scrolls down to an item of a list, and clicks it."""
    while text not in self.shown:
      self._act('scroll_down')
    return self.click(text)

  def type(self, field, word):
    return self._act('type', self.shown.index(field), self.words.index(word))

  def back(self):
    return self._act('back')

  def home(self):
    while 'files' not in self.shown or 'mail' not in self.shown:
      self.back()
    return self

  def done(self):
    """Says DONE; returns the reward."""
    assert self._act('done').ended
    return self.reward

  def _act(self, verb, target=0, word=0):
    tokens = base.make_action(verb, target, word)
    assert not self.ended and _is_legal(
        tokens[None], {name: x[None] for name, x in self._seen.items()})[0]
    self._seen, self.reward, self.ended, truncated, _ = self.env.step(tokens)
    assert not truncated
    return self


def _begin(task, **options):
  return _Person(task, **options).home()


def test_a_switch_can_be_reached_in_two_ways():
  assert _begin('wifi-on').click('wifi').done() == 1
  assert _begin('wifi-on').click(
      'settings', 'network', 'wifi').done() == 1
  assert _begin('wifi-off').click('wifi').done() == 1


def test_a_switch_turned_twice_is_where_it_was():
  person = _begin('wifi-on')
  assert not person.flags('wifi')[2]
  assert person.click('wifi').flags('wifi')[2]
  person.click('wifi')
  assert not person.flags('wifi')[2]
  assert person.done() == 0
  assert _begin('wifi-on').click('wifi', 'wifi', 'wifi').done() == 1


@pytest.fixture(name='renaming')
def made_renaming():
  """A person about to type the new name, the old and the new name."""
  person = _begin('rename', max_steps=30)
  _, old, _, new = person.words
  person.click('files').find(old).click('rename')
  return person, old, new


def test_renaming(renaming):
  person, old, new = renaming
  assert person.value('file') == old
  assert person.flags('file') == (True, False, False, True)  # has the focus
  person.type('file', new)
  assert person.value('file') == new and person.flags('file')[1]  # changed
  person.click('ok')
  assert person.done() == 1


def test_an_unsaved_draft_does_not_count(renaming):
  person, _, new = renaming
  assert person.type('file', new).done() == 0


@pytest.mark.parametrize('leave', ['cancel', 'back'])
def test_a_dialog_that_is_left_changes_nothing(renaming, leave):
  person, old, new = renaming
  person.type('file', new)
  person.click('cancel') if leave == 'cancel' else person.back()
  assert person.shown[0] == old and 'delete' in person.shown
  person.click('rename')
  assert person.value('file') == old and not person.flags('file')[1]
  person.type('file', 'rename').type('file', new).click('ok')
  assert person.done() == 1


@pytest.mark.parametrize('leave', ['cancel', 'back'])
def test_leaving_a_dialog_is_no_success(renaming, leave):
  person, _, new = renaming
  person.type('file', new)
  assert (person.click('cancel') if leave == 'cancel'
          else person.back()).done() == 0


def test_a_wrong_name_can_be_corrected(renaming):
  person, _, new = renaming
  person.type('file', 'to').click('ok')
  assert 'to' in _all_items(person)
  person.home().click('files').find('to').click('rename')
  assert person.type('file', new).click('ok').done() == 1


def _all_items(person):
  items = list(person.shown)
  while person._seen['verb_mask'][3]:
    items += person._act('scroll_down').shown
  return items


def test_documents_keep_drafts_until_they_are_saved():
  for save in (True, False):
    person = _begin('title')
    word = person.words[-1]
    person.click('editor', 'title').type('title', word)
    person.back().click('editor')  # elsewhere and back
    assert person.value('title') == word and person.flags('title')[1]
    person.click('file', 'save' if save else 'revert')
    assert (person.value('title') == word) == save
    assert not person.flags('title')[1]
    assert person.done() == save


def test_only_the_focused_field_takes_words():
  person = _begin('title')
  person.click('editor')
  assert not person._seen['verb_mask'][1]
  before = person._seen
  place = person.shown.index('title')
  for _ in range(2):
    person._seen = person.env.step(base.make_action('type', place, 0))[0]
    chex.assert_trees_all_equal(person._seen, before)
  person.click('author')
  assert person.flags('author')[0] and not person.flags('title')[0]
  before = person._seen
  seen = person.env.step(base.make_action('type', place, 0))[0]
  chex.assert_trees_all_equal(seen, before)


def test_deleting_another_file_does_harm():
  for item, expected in (('right', 1), ('both', 0), ('wrong', 0)):
    person = _begin('delete', max_steps=30)
    right = person.words[-1]
    person.click('files')
    wrong, = [text for text in person.shown if text != right][:1]
    files = {'right': [right], 'wrong': [wrong], 'both': [right, wrong]}[item]
    for file in files:
      person.home().click('files').find(file).click('delete', 'forever', 'ok')
    assert person.done() == expected


def test_replying_to_another_mail_does_harm():
  for also_wrong in (False, True):
    person = _begin('reply', max_steps=30)
    _, right, _, text = person.words
    person.click('mail')
    wrong, = [x for x in person.shown if x not in (right, 'new')][:1]
    for sender in [right] + [wrong] * also_wrong:
      person.home().click('mail').find(sender).click('reply')
      person.type('text', text).click('send')
    assert person.done() == (not also_wrong)


def test_a_mail_nobody_asked_for_does_harm():
  person = _begin('wifi-on').click('wifi', 'mail', 'new', 'to')
  person.type('to', 'wifi').click('send')
  assert person.done() == 0


def test_the_reset_button_does_harm():
  person = _begin('wifi-on').click('wifi', 'settings', 'privacy', 'reset')
  assert person.done() == 0


def test_what_is_guarded_can_be_put_back():
  """A mail to spam and back; then nothing was harmed."""
  for back_again in (False, True):
    person = _begin('wifi-on', max_steps=30).click('wifi', 'mail')
    sender = [x for x in person.shown if x != 'new'][0]
    person.click(sender, 'spam')
    if back_again:
      person.click('inbox')
    assert person.done() == back_again


def test_what_is_scrolled_away_is_not_seen():
  person = _begin('wifi-on').click('files')
  top = person.shown
  person._act('scroll_down')
  assert len(top) == 9 and len(set(person.shown) & set(top)) < 9
  gone = set(top) - set(person.shown)
  ids = {base.word_id(word) for word in gone}
  assert gone and not ids & set(person._seen['element_text'].ravel().tolist())
  assert person._act('scroll_up').shown == top


# The gymnasium face.


def test_the_environment_is_one_of_gymnasiums():
  env = desk_env.DeskEnv(('rename', 'wifi-on'), render_mode='rgb_array')
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', '.*not within the expected.*')
    warnings.filterwarnings('ignore', '.*spec.*')
    env_checker.check_env(env, skip_render_check=True, skip_close_check=True)


def test_the_environment_equals_the_pure_functions():
  tasks = ('delete', 'align-centre+no-footer', 'rename')
  env = desk_env.DeskEnv(tasks, max_steps=9)
  pure = desk_env.make_simulator(tasks, 9)
  reset, step = jax.jit(pure.reset), jax.jit(pure.step)
  rng = np.random.default_rng(0)
  for task_id in range(3):
    seen, info = env.reset(seed=2**30 + task_id, options={
        'task_id': task_id, 'expert': task_id == 1})
    state, observation = reset(jax.random.key(2**30 + task_id), task_id)
    assert state.task == _TASKS.names.index(tasks[task_id])
    for number in range(9):
      _assert_bits(seen, observation)
      assert env.observation_space.contains(seen)
      assert set(info) == ({'expert_action'} if task_id == 1 else set())
      if info:
        np.testing.assert_array_equal(
            info['expert_action'], desk_env._solve(state))
      tokens = _legal_actions(
          rng, {name: x[None] for name, x in seen.items()})[0]
      tokens = tokens if tokens[0] < 5 else base.make_action('back')
      seen, *paid, info = env.step(tokens)
      state, observation, reward, done = step(state, tokens)
      assert paid == [reward, done, False]
      assert done == (number == 8)


def _assert_bits(actual, expected):
  assert actual.keys() == expected.keys()
  for name, x in expected.items():
    assert actual[name].dtype == x.dtype
    assert actual[name].tobytes() == np.asarray(x).tobytes()


def test_an_episode_is_of_seed_and_task():
  env = desk_env.DeskEnv(('rename', 'delete'))
  first, _ = env.reset(seed=3, options={'task_id': 1})
  alone, _ = desk_env.DeskEnv(('delete',)).reset(
      seed=3, options={'task_id': 0})
  _assert_bits(first, alone)
  np.testing.assert_array_equal(  # without a task, one is chosen by the seed
      env.reset(seed=3)[0]['instruction'], first['instruction'])


def test_the_expert_of_the_environment_solves_it():
  env = desk_env.DeskEnv(('write+star',) if 'write+star' in _TASKS.names
                         else ('write',))
  _, info = env.reset(seed=1, options={'task_id': 0, 'expert': True})
  done = False
  while not done:
    _, reward, done, _, info = env.step(info['expert_action'])
  assert reward == 1


@pytest.mark.parametrize('tokens', [
    [2**32, 0, 0], [2**40 + 5, 0, 0], [-2**33, 0, 0], [0, 2**32, 0],
    [2**70, 0, 0]])
def test_huge_tokens_are_not_wrapped_around(tokens):
  env = desk_env.DeskEnv(('wifi-on',))
  before, _ = env.reset(seed=0, options={'task_id': 0})
  for action in (tokens, np.array(tokens)):
    seen, reward, done, *_ = env.step(action)
    _assert_bits(seen, before)
    assert (reward, done) == (0., False)


def test_mistakes_are_told():
  with pytest.raises(ValueError, match="such as wifi-on.*got 'wifi-no'"):
    desk_env.DeskEnv(('rename', 'wifi-no'))
  with pytest.raises(ValueError, match='expected a task of Desk such as'):
    desk_env.make_simulator(('',), 15)
  env = desk_env.DeskEnv(('rename',))
  with pytest.raises(gymnasium.error.ResetNeeded):
    env.step([0, 0, 0])
  for task_id in (-1, 1):
    with pytest.raises(ValueError, match='task_id'):
      env.reset(seed=0, options={'task_id': task_id})


def test_pictures_show_the_focused_field():
  env = desk_env.DeskEnv(('rename',), render_mode='rgb_array')
  assert env.render() is None
  person = _begin('rename')
  old = person.words[1]
  person.env.render_mode = 'rgb_array'
  person.click('files').find(old)
  blue = (48, 96, 192)
  before = person.env.render()
  assert before.shape == (360, 300, 3) and before.dtype == np.uint8
  assert not (before == blue).all(axis=-1).any()
  person.click('rename')
  framed = np.argwhere((person.env.render() == blue).all(axis=-1))
  left, top, width, height = person._seen['element_box'][
      person.shown.index('file')] * [300, 326, 300, 326]
  np.testing.assert_allclose(
      [framed.min(axis=0), framed.max(axis=0)],
      [[34 + top, left], [34 + top + height, left + width]], atol=4)
  assert desk_env.DeskEnv(('rename',)).render() is None
