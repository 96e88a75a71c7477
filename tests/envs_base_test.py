"""Screens, their encoding, and the legality of actions."""

import gymnasium
from gymnasium.envs import registration
import numpy as np
import pytest

from step_jax.envs import base
from step_jax.envs.androidworld import env as androidworld
from step_jax.envs.desk import env as desk
from step_jax.envs.miniwob import env as miniwob
from step_jax.envs.osworld import env as osworld
from step_jax.policies import element


def _screen(num_elements=2, **kwargs):
  records = [base.Element(kind='button', text=f'b{index}')
             for index in range(num_elements - 1)]
  field = base.Element(
      kind='input_text', text='Name', value='Ana', editable=True,
      focused=True, box=(-0.5, 0.25, 0.5, 2.))
  return base.make_screen('Press "Send", then stop.', [field, *records],
                          **kwargs)


def test_word_ids_are_stable_case_sensitive_and_never_padding():
  # crc32('Submit') = 0x389db675, less its 32nd bit.
  assert base.word_id('Submit') == 0x389db675
  assert base.word_id('submit') != base.word_id('Submit')
  assert base.word_id('') == 0
  words = [f'word{index}' for index in range(2000)]
  ids = [base.word_id(word) for word in words]
  assert min(ids) > 0 and max(ids) < 2**31
  assert len(set(ids)) == len(words)


def test_an_id_of_zero_becomes_one(monkeypatch):
  monkeypatch.setattr(base.zlib, 'crc32', lambda _: 2**31)
  assert base.word_id('anything') == 1


@pytest.mark.parametrize('text, words', [
    ('Select aB3, Xy and click Submit.',
     ['Select', 'aB3', 'Xy', 'and', 'click', 'Submit']),
    ('labeled "x".', ['labeled', 'x']),
    ('  Ana-Maria\t(9/10/2016) ... ', ['Ana-Maria', '9/10/2016']),
    ('', []),
    ('« ! »', []),
])
def test_words_lose_what_surrounds_them(text, words):
  assert base.split_words(text) == words


def test_an_encoded_screen_has_the_fields_of_the_elements():
  observation = base.encode_screen(_screen())
  assert base.observation_space().contains(observation)
  ids = [base.word_id(word) for word in ('Press', 'Send', 'then', 'stop')]
  np.testing.assert_array_equal(observation['instruction'][:5], [*ids, 0])
  np.testing.assert_array_equal(
      observation['element_type'][:3],
      [base.word_id('input_text'), base.word_id('button'), 0])
  np.testing.assert_array_equal(
      observation['element_text'][:2, :2],
      [[base.word_id('Name'), 0], [base.word_id('b0'), 0]])
  np.testing.assert_array_equal(
      observation['element_value'][:2],
      [[base.word_id('Ana'), 0], [0, 0]])
  np.testing.assert_array_equal(
      observation['element_flags'][0], [True, False, False, True])
  np.testing.assert_allclose(observation['element_box'][0], [0., .25, .5, 1.])


def test_masks_say_what_can_be_done():
  observation = base.encode_screen(_screen(3, verbs=['scroll_down']))
  legal = {verb for verb, mask in zip(
      base.VERBS, observation['verb_mask'], strict=True) if mask}
  assert legal == {'click', 'type', 'scroll_down'}
  targets = dict(zip(base.VERBS, observation['target_mask'], strict=True))
  np.testing.assert_array_equal(np.flatnonzero(targets['click']), [0, 1, 2])
  np.testing.assert_array_equal(np.flatnonzero(targets['type']), [0])
  for verb, uses in zip(base.VERBS, element.USES_ELEMENT, strict=True):
    assert uses or not targets[verb].any()


def test_nothing_can_be_typed_without_an_instruction():
  field = base.Element(kind='input_text', editable=True)
  observation = base.encode_screen(base.make_screen('', [field]))
  assert observation['verb_mask'].sum() == 1  # click


def test_texts_longer_than_the_observation_are_cut():
  words = [f'w{index}' for index in range(base.MAX_WORDS + 5)]
  record = base.Element(kind='p', text=' '.join(words), value='a b c d')
  screen = base.make_screen(' '.join(words), [record])
  assert screen.words == tuple(words[:base.MAX_WORDS])
  assert base.observation_space().contains(base.encode_screen(screen))


def test_a_crowded_screen_keeps_what_matters_in_document_order():
  button = base.Element(kind='button')
  text = base.Element(kind='span', text='read me', interactive=False)
  icon = base.Element(kind='div', interactive=False)
  crowd = [icon, text] * base.MAX_ELEMENTS + [button] * 10
  kept = base.select_elements(crowd)
  assert kept == sorted(kept) and len(kept) == base.MAX_ELEMENTS
  records = base.make_screen('', crowd).elements
  assert records.count(button) == 10
  assert records.count(text) == base.MAX_ELEMENTS - 10
  assert kept[0] == 1  # the earliest text


def test_a_verb_that_needs_a_target_is_not_legal_by_name():
  for verbs in (['click'], ['jump']):
    with pytest.raises(ValueError, match='expected verbs without a target'):
      base.make_screen('', [], verbs=verbs)


def test_legal_actions_are_parsed():
  screen = _screen(verbs=['scroll_down'])
  parse = base.parse_action
  assert parse(base.make_action('click', 1), screen) == ('click', 1, 0)
  assert parse(base.make_action('click', 1, 31), screen) == ('click', 1, 0)
  assert parse(base.make_action('type', 0, 3), screen) == ('type', 0, 3)
  assert parse(base.make_action('scroll_down', 40, 9), screen) == (
      'scroll_down', 0, 0)


@pytest.mark.parametrize('action', [
    [0, 2, 0], [0, -1, 0], [1, 1, 0], [1, 0, 4], [1, 0, -1], [2, 0, 0],
    [5, 0, 0], [-1, 0, 0], [7, 0, 0], [0, 0], [], None, 'click',
    ['click', 0, 0], [np.nan, 0, 0], [np.inf, 0, 0], [2**70, 0, 0],
    [[[0]]], {'verb': 0}, object(),
])
def test_whatever_else_an_action_is_it_is_illegal(action):
  assert base.parse_action(action, _screen()) is None


def test_every_action_of_the_space_is_parsed_or_refused():
  space = base.action_space()
  space.seed(0)
  screen = _screen(base.MAX_ELEMENTS)
  observation = base.encode_screen(screen)
  for _ in range(300):
    verb, target, word = action = space.sample()
    legal = observation['verb_mask'][verb] and (
        not element.USES_ELEMENT[verb]
        or observation['target_mask'][verb, target]) and (
            not element.USES_WORD[verb] or observation['instruction'][word])
    assert (base.parse_action(action, screen) is not None) == bool(legal)


@pytest.mark.parametrize('name, kind', [
    ('Desk', desk.DeskEnv), ('OSWorld', osworld.OSWorldEnv),
    ('MiniWob', miniwob.MiniWobEnv),
    ('AndroidWorld', androidworld.AndroidWorldEnv)])
def test_gymnasium_knows_the_worlds(name, kind):
  path = gymnasium.spec(f'step_jax/{name}-v0').entry_point
  assert registration.load_env_creator(path) is kind
  assert 'render_modes' in kind.metadata


def test_gymnasium_makes_a_desk():
  env = gymnasium.make('step_jax/Desk-v0', render_mode='rgb_array')
  observation, _ = env.reset(seed=0, options={'task_id': 3})
  assert observation in env.observation_space
  assert env.render().ndim == 3
