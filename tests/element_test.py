"""The element policy: one distribution for sampling and for scoring."""

import functools
import itertools

import chex
import jax
import numpy as np
import pytest

from step_jax.policies import element
from tests import examples
from tests import pointing

VERBS = len(element.VERBS)
CLICK, TYPE, SCROLL = map(
    element.VERBS.index, ('click', 'type', 'scroll_up'))
TEMPERATURE = 0.7


@functools.lru_cache(maxsize=None)
def _policy():
  return element.make_policy(
      examples.screen(np.random.default_rng(0)), width=16, num_layers=2,
      num_heads=2, vocabulary=64)


@functools.lru_cache(maxsize=None)
def _params():
  return examples.parameters(_policy().init)


def _sample(observation, seed=0, temperature=TEMPERATURE):
  return pointing.sample(_policy(), _params(), observation, seed, temperature)


def _log_prob(observation, tokens, temperature=TEMPERATURE):
  return jax.tree.map(np.asarray, _policy().log_prob(
      _params(), observation, tokens, temperature=temperature))


def _all_actions():
  """Every triple of tokens, `[V * E * W, 3]`."""
  return np.array(list(itertools.product(
      range(VERBS), range(examples.ELEMENTS), range(examples.WORDS))),
      np.int32)


def _canonical(tokens):
  """Whether the arguments that a verb does not use are 0."""
  return ((element.USES_ELEMENT[tokens[:, 0]] | (tokens[:, 1] == 0))
          & (element.USES_WORD[tokens[:, 0]] | (tokens[:, 2] == 0)))


def _legal(observation, tokens):
  """Whether the masks of one screen allow each action."""
  verb, target, word = tokens.T
  return (
      observation['verb_mask'][verb]
      & (~element.USES_ELEMENT[verb]
         | observation['target_mask'][verb, target])
      & (~element.USES_WORD[verb] | (observation['instruction'][word] > 0)))


@functools.lru_cache(maxsize=None)
def _enumerated(index, temperature=TEMPERATURE):
  """Screen `index`, all its actions, and their log-probs and entropies."""
  screen = jax.tree.map(
      lambda x: x[index], examples.screens(4, 8))
  tokens = _all_actions()
  repeated = jax.tree.map(
      lambda x: np.repeat(x[None], len(tokens), axis=0), screen)
  return screen, tokens, *_log_prob(repeated, tokens, temperature)


def test_pieces():
  """The screens offer every verb and argument, and padding, somewhere."""
  screens = examples.screens(4, 8)
  assert screens['verb_mask'].any(axis=0).all()
  assert screens['target_mask'][:, [CLICK, TYPE]].any(axis=(0, 2)).all()
  for name in ('instruction', 'element_type'):
    assert (screens[name] == 0).any() and (screens[name] > 0).any()
  assert (screens['history'][:, :, 0] > 0).any(axis=0).all()
  probability = np.exp(_enumerated(6)[2].sum(axis=1))
  assert 0.05 < probability.max() < 0.9


# The distribution


def test_ratio_is_one_for_rollout_rows():
  """Drawn in calls of four rows, scored in calls of eight."""
  observation = examples.screens(0, 64)
  sample = _sample(observation)
  log_probs = np.concatenate([
      _log_prob(jax.tree.map(lambda x, i=i: x[i:i + 8], observation),
                sample.tokens[i:i + 8])[0] for i in range(0, 64, 8)])
  np.testing.assert_allclose(
      np.exp(log_probs - sample.log_probs), 1, rtol=1e-5)
  assert (sample.log_probs[sample.token_mask] < 0).mean() > 0.5
  assert {CLICK, TYPE, SCROLL} <= set(sample.tokens[:, 0])


def test_samples_are_legal():
  for seed in range(4):
    observation = examples.screens(10 + seed, 64)
    sample = _sample(observation, seed)
    for row in range(64):
      screen = jax.tree.map(lambda x, row=row: x[row], observation)
      assert _legal(screen, sample.tokens[row:row + 1]).all()
    assert _canonical(sample.tokens).all()
    verb = sample.tokens[:, 0]
    np.testing.assert_array_equal(sample.token_mask, np.stack([
        verb >= 0, element.USES_ELEMENT[verb], element.USES_WORD[verb]], 1))
    assert (sample.log_probs[~sample.token_mask] == 0).all()
    assert (sample.log_probs > -20).all()


@pytest.mark.parametrize('index', range(8))
@pytest.mark.parametrize('temperature', [TEMPERATURE, 1.0])
def test_probabilities_of_legal_actions_sum_to_one(index, temperature):
  screen, tokens, log_probs, _ = _enumerated(index, temperature)
  allowed = _legal(screen, tokens) & _canonical(tokens)
  assert 0 < allowed.sum() < len(tokens)
  total = np.exp(log_probs.sum(axis=1))
  np.testing.assert_allclose(total[allowed].sum(), 1, rtol=1e-5)
  # Whatever an action's unused arguments are, its log-prob is the same.
  illegal = ~_legal(screen, tokens)
  assert illegal.any() and (log_probs[illegal].min(axis=1) < -1e6).all()
  assert (log_probs[~illegal] > -100).all()


def test_unused_positions_have_no_log_prob_and_no_entropy():
  _, tokens, log_probs, entropy = _enumerated(1)
  for position, used in (
      (1, element.USES_ELEMENT), (2, element.USES_WORD)):
    unused = ~used[tokens[:, 0]]
    assert unused.any()
    assert (log_probs[unused, position] == 0).all()
    assert (entropy[unused, position] == 0).all()


@pytest.mark.parametrize('index', [0, 3, 6])
def test_temperature_divides_the_logits(index):
  screen, tokens, log_probs, _ = _enumerated(index)
  _, _, at_one, _ = _enumerated(index, 1.0)
  assert screen['verb_mask'].sum() > 1
  rows = _legal(screen, tokens) & _canonical(tokens)
  for position in range(3):
    # p_T(token) is proportional to p_1(token) ** (1 / T), prefix for prefix.
    for row in np.nonzero(rows)[0]:
      same = rows & (tokens[:, :position] == tokens[row, :position]).all(1)
      _, first = np.unique(tokens[same, position], return_index=True)
      power = at_one[same, position][first].astype(np.float64) / TEMPERATURE
      np.testing.assert_allclose(
          log_probs[row, position], at_one[row, position] / TEMPERATURE
          - np.log(np.exp(power).sum()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('index', range(8))
def test_entropy_of_each_token_given_those_before(index):
  screen, tokens, log_probs, entropy = _enumerated(index)
  legal = _legal(screen, tokens)
  for row in np.nonzero(legal & _canonical(tokens))[0]:
    for position in range(3):
      if position and not (element.USES_ELEMENT, element.USES_WORD)[
          position - 1][tokens[row, 0]]:
        continue
      same = (tokens[:, :position] == tokens[row, :position]).all(axis=1)
      same &= legal
      _, first = np.unique(tokens[same, position], return_index=True)
      p = np.exp(log_probs[same, position][first].astype(np.float64))
      np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
      np.testing.assert_allclose(
          entropy[row, position], -(p * np.log(p)).sum(), rtol=1e-4,
          atol=1e-5)


def test_frequencies_follow_the_log_probs():
  """Chi-square of 4,000 draws at one screen, arguments included."""
  screen, tokens, log_probs, _ = _enumerated(6)
  draws = 4000
  drawn = _sample(jax.tree.map(
      lambda x: np.repeat(x[None], draws, axis=0), screen), seed=5).tokens
  allowed = _legal(screen, tokens) & _canonical(tokens)
  pointing.check_frequencies(drawn, tokens[allowed], log_probs[allowed])


@pytest.mark.parametrize('index', range(4))
def test_temperature_zero_is_the_most_likely_token_after_each_other(index):
  screen, tokens, log_probs, _ = _enumerated(index)
  repeated = jax.tree.map(lambda x: np.repeat(x[None], 4, axis=0), screen)
  greedy = _sample(repeated, temperature=0)
  candidates = pointing.check_greedy(
      greedy, tokens, log_probs, _legal(screen, tokens) & _canonical(tokens))
  _, _, others, entropy = _enumerated(index, 0)
  assert (others[candidates] == 0).all() and (entropy[candidates] == 0).all()
  assert (others[_canonical(tokens) & ~candidates].min(axis=1) < -1e6).all()


# The observation


def test_unused_element_slots_change_nothing():
  observation = examples.screens(1, 8)
  tokens = _sample(observation).tokens
  padded = dict(observation)
  for name, axis in dict(
      element_type=1, element_text=1, element_value=1, element_flags=1,
      element_box=1, target_mask=2).items():
    widths = np.zeros((observation[name].ndim, 2), int)
    widths[axis, 1] = 2
    padded[name] = np.pad(observation[name], widths)
  for actual, expected in zip(
      _log_prob(padded, tokens), _log_prob(observation, tokens)):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_rows_of_a_batch_do_not_see_each_other():
  observation = examples.screens(1, 8)
  pointing.check_mixed_rows(
      _log_prob, observation, examples.screens(2, 8),
      _sample(observation).tokens)


@pytest.mark.parametrize('name', [
    'instruction', 'element_type', 'element_text', 'element_value',
    'element_flags', 'element_box', 'history'])
def test_every_part_of_the_screen_is_read(name):
  """On a screen with everything in it, each field moves the log-probs."""
  rng = np.random.default_rng(3)
  observation = examples.screens(1, 8)
  tokens = _sample(observation).tokens
  before, _ = _log_prob(observation, tokens)
  field = observation[name]
  if field.dtype == bool:
    here = (observation['element_type'] > 0)[..., None]
    changed = field ^ here
  elif field.dtype == np.float32:
    changed = np.where(field > 0, rng.random(field.shape), 0).astype(
        np.float32)
  elif name == 'history':
    changed = np.where(field > 0, 1 + rng.integers(6, size=field.shape), 0)
  else:
    changed = np.where(field > 0, rng.integers(1, 2**31, field.shape), 0)
  changed = changed.astype(field.dtype)
  after, _ = _log_prob(observation | {name: changed}, tokens)
  moved = np.abs(after - before).max(axis=1) > 1e-3
  assert moved.sum() >= 4


def test_a_shared_word_is_seen_whatever_the_word_is():
  """Two ids of one row of the table: equal for the table, not as words."""
  observation = examples.screens(1, 8, history=False)
  ids = np.arange(1, 1 + examples.WORDS, dtype=np.int32)
  observation['instruction'] = np.broadcast_to(ids, (8, examples.WORDS))
  here = observation['element_type'][..., None] > 0
  text = np.broadcast_to(ids[:2], here.shape[:2] + (2,)) * here
  shared = observation | {'element_text': text.astype(np.int32)}
  alias = observation | {
      'element_text': (text + 64 * 1000 * here).astype(np.int32)}
  tokens = np.array([
      examples.legal_action(np.random.default_rng(0), jax.tree.map(
          lambda x, i=i: x[i], shared)) for i in range(8)])
  log_probs = [_log_prob(x, tokens)[0] for x in (shared, alias)]
  assert (np.abs(log_probs[0] - log_probs[1]).max(axis=1) > 1e-3).sum() >= 4


def test_found_features_say_how_much_is_shared_with_what():
  """One instruction word of two is on the screen, next to a new word."""
  kinds = element._token_kinds(2, 2)
  observation = jax.tree.map(np.zeros_like, examples.screen(
      np.random.default_rng(0), num_elements=2))
  observation['instruction'] = np.array([7, 8], np.int32)
  observation['element_text'] = np.array([[8, 9], [5, 0]], np.int32)
  found = jax.device_get(jax.jit(lambda x: element._found_features(
      element._pair_features(x, kinds), kinds))(observation))
  # Columns: any, share of mine, share of its, for words, elements, actions;
  # words and elements share all with themselves.
  np.testing.assert_allclose(found[:4], [
      [1, 1, 1, 0, 0, 0, 0, 0, 0],
      [1, 1, 1, 1, 1, 0.5, 0, 0, 0],
      [1, 0.5, 1, 1, 1, 1, 0, 0, 0],
      [0, 0, 0, 1, 1, 1, 0, 0, 0]])
  assert not found[4:].any()  # no actions yet, and the summary


def test_an_unseen_word_is_almost_silent():
  """Fresh words move the log-probs little unless they are shared."""
  observation = examples.screens(1, 8, history=False)
  observation['instruction'] = np.broadcast_to(
      np.arange(1, 1 + examples.WORDS, dtype=np.int32), (8, examples.WORDS))
  tokens = np.array([
      examples.legal_action(np.random.default_rng(0), jax.tree.map(
          lambda x, i=i: x[i], observation)) for i in range(8)])
  here = observation['element_type'][..., None] > 0
  params = _policy().init(jax.random.key(0))

  def log_probs(ids):
    changed = observation | {'element_text': np.where(
        here, np.array(ids, np.int32), 0)}
    return np.asarray(_policy().log_prob(
        params, changed, tokens, temperature=TEMPERATURE)[0])

  new, other, shared = log_probs([91, 92]), log_probs([93, 94]), log_probs(
      [1, 92])
  assert np.abs(new - other).max() < 0.1 * np.abs(new - shared).max()


# Gradients, traces, size


@functools.lru_cache(maxsize=None)
def _gradient():
  return pointing.make_gradient(_policy(), TEMPERATURE)


# They move all logits of a softmax alike: no gradient but for rounding.
_SHIFTS = (
    'relations/bias', 'element_head/layers_2/bias', 'word_head/layers_2/bias')


@pytest.mark.parametrize('kind', ['screens', 'idle'])
def test_gradient_is_finite_also_for_an_idle_row(kind):
  observation = examples.screens(1, 8)
  observation['verb_mask'][:, :2] = True
  observation['target_mask'][:, :2, 1] = True
  observation['instruction'][:, 1] = 5
  if kind == 'idle':
    observation = jax.tree.map(np.zeros_like, observation)
  tokens = np.array([(TYPE, 1, 1), (CLICK, 1, 0)] * 4, np.int32)
  pointing.check_gradient(
      _gradient()(_params(), observation, tokens),
      _SHIFTS if kind == 'screens' else None)


def test_one_trace_for_two_inputs():
  def use(seed):
    observation = examples.screens(seed, 8)
    _log_prob(observation, _sample(observation, seed).tokens)

  pointing.check_one_trace(_policy(), use)


def test_keys_decide_the_draw():
  pointing.check_keys(
      _policy(), _params(), examples.screens(6, 4), TEMPERATURE)


def test_parameter_count():
  """0.1 to 0.5 M at the default size, for MiniWoB++'s screens."""
  example = examples.screen(np.random.default_rng(0), num_elements=48)
  shapes = jax.eval_shape(
      element.make_policy(example).init, jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert 100_000 <= count <= 500_000


def test_heads_must_divide_the_width():
  with pytest.raises(
      ValueError, match='expected num_heads to divide width, got 3 and 16'):
    element.make_policy({}, width=16, num_heads=3)


# What tokens mean


def test_verbs():
  assert element.VERBS == (
      'click', 'type', 'scroll_up', 'scroll_down', 'back', 'done', 'fail')
  assert list(np.nonzero(element.USES_ELEMENT)[0]) == [CLICK, TYPE]
  assert list(np.nonzero(element.USES_WORD)[0]) == [TYPE]


@pytest.mark.parametrize('first, second, same', [
    ((CLICK, 2, 0), (CLICK, 2, 0), True),
    ((CLICK, 2, 0), (CLICK, 3, 0), False),
    ((CLICK, 2, 1), (CLICK, 2, 4), True),  # a click uses no word
    ((CLICK, 2, 0), (TYPE, 2, 0), False),
    ((TYPE, 2, 0), (TYPE, 2, 3), True),  # the same word, read elsewhere
    ((TYPE, 2, 0), (TYPE, 2, 1), False),
    ((TYPE, 2, 0), (TYPE, 1, 0), False),
    ((SCROLL, 0, 0), (SCROLL, 5, 3), True),  # a scroll uses nothing
    ((SCROLL, 0, 0), (SCROLL + 1, 0, 0), False),
    ((SCROLL, 0, 0), (CLICK, 0, 0), False),
])
def test_matches(first, second, same):
  observation = examples.screen(np.random.default_rng(0))
  observation['instruction'] = np.array([7, 8, 9, 7, 0], np.int32)
  tokens = np.array([first, second], np.int32)
  matches = jax.jit(element.make_codec(examples.TEXT_WORDS).matches)
  np.testing.assert_array_equal(matches(observation, tokens), [True, same])
  np.testing.assert_array_equal(
      matches(observation, tokens[::-1]), [True, same])
  # Batched, among others that differ.
  screens = examples.screens(1, 3)
  screens['instruction'][1] = observation['instruction']
  batch = np.zeros((3, 4, 3), np.int32)
  batch[1, 0], batch[1, 1:] = first, second
  np.testing.assert_array_equal(
      jax.jit(element.matches)(screens, batch)[1], [True] + 3 * [same])


def test_candidate_0_matches_itself():
  rng = np.random.default_rng(0)
  screens = examples.screens(1, 32)
  tokens = rng.integers(0, 5, (32, 8, 3), dtype=np.int32)
  matches = np.asarray(jax.jit(element.matches)(screens, tokens))
  assert matches.shape == (32, 8)
  assert matches[:, 0].all() and 0 < matches[:, 1:].mean() < 1


def test_empty_history():
  codec = element.make_codec(4)
  assert codec.empty_history.shape == (3, 7)
  assert codec.empty_history.dtype == np.int32
  assert not codec.empty_history.any()


def test_remember_puts_the_newest_first():
  screen = examples.screen(np.random.default_rng(2), history=False)
  screen['element_type'][:] = 11 + np.arange(examples.ELEMENTS)
  screen['element_text'][:] = [[21, 31]] * examples.ELEMENTS
  screen['element_text'][2] = [22, 32]
  screen['instruction'][:] = 41 + np.arange(examples.WORDS)
  codec = element.make_codec(examples.TEXT_WORDS)
  history = codec.empty_history
  seen = []
  for tokens in (
      (SCROLL, 2, 3), (CLICK, 2, 3), (TYPE, 5, 1), (TYPE, 2, 3)):
    before = history.copy()
    seen.append((history, before))
    history = codec.remember(history, screen, np.array(tokens))
    assert history.dtype == np.int32 and history.shape == (3, 5)
  # Verb + 1, type of the element, its words, the word that was typed; the
  # scroll has been forgotten.
  np.testing.assert_array_equal(history, [
      [TYPE + 1, 13, 22, 32, 44],
      [TYPE + 1, 16, 21, 31, 42],
      [CLICK + 1, 13, 22, 32, 0]])
  np.testing.assert_array_equal(seen[1][0][0], [SCROLL + 1, 0, 0, 0, 0])
  for given, before in seen:
    np.testing.assert_array_equal(given, before)


def test_the_state_is_all_but_the_history():
  codec = element.make_codec(examples.TEXT_WORDS)
  screens = examples.screens(4, 3)
  chex.assert_trees_all_equal(
      codec.state(screens) | {'history': screens['history']}, screens)
  assert 'history' not in codec.state(screens)
