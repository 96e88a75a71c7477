"""The grid policy: one distribution for sampling and for scoring."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.policies import grid
from tests import examples
from tests import pointing

VERBS = len(grid.VERBS)
CLICK, PRESS, TYPE, HOME = map(
    grid.VERBS.index, ('click', 'long_press', 'type', 'home'))
ROWS, COLUMNS, WORDS = 3, 2, 4
CELLS = ROWS * COLUMNS
TEMPERATURE = 0.7
ALL = VERBS * CELLS * WORDS  # actions, and the rows of every scoring call


def _screen(rng, num_words=None, picture=(2 * ROWS, 2 * COLUMNS)):
  if num_words is None:
    num_words = rng.integers(WORDS + 1)
  words = rng.integers(1, 2**31, WORDS, dtype=np.int32)
  result = {
      'instruction': words * (np.arange(WORDS) < num_words),
      'picture': rng.integers(0, 256, (*picture, 3), dtype=np.uint8),
      'history': grid.empty_history()}
  for _ in range(rng.integers(grid.HISTORY_LENGTH + 1)):
    verb = rng.integers(VERBS)
    result['history'] = grid.remember(
        result['history'], result,
        np.array([verb, rng.integers(CELLS), rng.integers(WORDS)]))
  return result


def _screens(seed, count, **options):
  rng = np.random.default_rng(seed)
  return examples.stack([_screen(rng, **options) for _ in range(count)])


@functools.lru_cache(maxsize=None)
def _policy():
  return grid.make_policy(
      _screen(np.random.default_rng(0)), grid=(ROWS, COLUMNS), width=16,
      num_layers=2, num_heads=2, vocabulary=64)


@functools.lru_cache(maxsize=None)
def _params():
  return examples.parameters(_policy().init)


def _sample(observation, seed=0, temperature=TEMPERATURE):
  return pointing.sample(_policy(), _params(), observation, seed, temperature)


def _log_prob(observation, tokens, temperature=TEMPERATURE):
  """`log_prob` of at most ALL rows, in one call of that many."""
  index = np.arange(ALL) % len(tokens)
  scored = _policy().log_prob(
      _params(), jax.tree.map(lambda x: x[index], observation), tokens[index],
      temperature=temperature)
  return jax.tree.map(lambda x: np.asarray(x)[:len(tokens)], scored)


def _legal(screen, tokens):
  """Whether each action is legal, its unused arguments being 0."""
  verb, cell, word = tokens.T
  return ((grid.USES_CELL[verb] | (cell == 0))
          & np.where(grid.USES_WORD[verb], screen['instruction'][word] > 0,
                     word == 0))


@functools.lru_cache(maxsize=None)
def _enumerated(num_words, temperature=TEMPERATURE):
  """A screen, all actions, and their log-probs and entropies."""
  screen = _screen(np.random.default_rng(5), num_words=num_words)
  tokens = np.array(list(itertools.product(
      range(VERBS), range(CELLS), range(WORDS))), np.int32)
  repeated = jax.tree.map(
      lambda x: np.repeat(x[None], len(tokens), axis=0), screen)
  return screen, tokens, *_log_prob(repeated, tokens, temperature)


# The distribution


@pytest.mark.parametrize('kind', ['rollout', 'alternatives'])
def test_ratio_is_one(kind):
  """Drawn in calls of four rows, scored in one; alternatives share a screen."""
  observation = _screens(0, 64)
  if kind == 'alternatives':
    observation = jax.tree.map(
        lambda x: np.repeat(x[:8], 8, axis=0), observation)
  sample = _sample(observation)
  log_probs, _ = _log_prob(observation, sample.tokens)
  np.testing.assert_allclose(
      np.exp(log_probs - sample.log_probs), 1, rtol=1e-5)
  assert (sample.log_probs[sample.token_mask] < 0).mean() > 0.5
  assert {CLICK, TYPE} <= set(sample.tokens[:, 0])


def test_samples_are_legal():
  for seed in range(4):
    observation = _screens(10 + seed, 64)
    sample = _sample(observation, seed)
    for row in range(64):
      screen = jax.tree.map(lambda x, row=row: x[row], observation)
      assert _legal(screen, sample.tokens[row:row + 1]).all()
    verb = sample.tokens[:, 0]
    np.testing.assert_array_equal(sample.token_mask, np.stack([
        verb >= 0, grid.USES_CELL[verb], grid.USES_WORD[verb]], 1))
    assert (sample.log_probs[~sample.token_mask] == 0).all()
    assert (sample.log_probs > -40).all()


@pytest.mark.parametrize('num_words', [0, 1, 4])
def test_probabilities_of_legal_actions_sum_to_one(num_words):
  screen, tokens, log_probs, _ = _enumerated(num_words)
  legal = _legal(screen, tokens)
  assert legal.sum() == 2 * CELLS + num_words + 5
  total = np.exp(log_probs.sum(axis=1))
  np.testing.assert_allclose(total[legal].sum(), 1, rtol=1e-5)
  illegal = (tokens[:, 0] == TYPE) & (screen['instruction'][tokens[:, 2]] == 0)
  assert illegal.any() == (num_words < 4)
  assert (log_probs[illegal].min(axis=1, initial=-1e9) < -1e6).all()


def test_unused_positions_have_no_log_prob_and_no_entropy():
  _, tokens, log_probs, entropy = _enumerated(4)
  for position, used in ((1, grid.USES_CELL), (2, grid.USES_WORD)):
    unused = ~used[tokens[:, 0]]
    assert unused.any() and (~unused).any()
    assert (log_probs[unused, position] == 0).all()
    assert (entropy[unused, position] == 0).all()
    assert (log_probs[~unused, position] < 0).all()


def test_temperature_divides_the_logits():
  _, tokens, log_probs, _ = _enumerated(4)
  _, _, at_one, _ = _enumerated(4, 1.0)
  for verb, position, size in ((CLICK, 1, CELLS), (TYPE, 2, WORDS)):
    rows = tokens[:, 0] == verb
    _, first = np.unique(tokens[rows, position], return_index=True)
    assert len(first) == size
    power = at_one[rows, position][first].astype(np.float64) / TEMPERATURE
    np.testing.assert_allclose(
        log_probs[rows, position][first],
        power - np.log(np.exp(power).sum()), rtol=1e-4, atol=1e-5)


def test_frequencies_follow_the_log_probs():
  """Chi-square of 4,000 draws at one screen, arguments included."""
  screen, tokens, log_probs, _ = _enumerated(4)
  draws = 4000
  drawn = _sample(jax.tree.map(
      lambda x: np.repeat(x[None], draws, axis=0), screen), seed=5).tokens
  legal = _legal(screen, tokens)
  pointing.check_frequencies(drawn, tokens[legal], log_probs[legal])


def test_temperature_zero_is_the_most_likely_token_after_each_other():
  screen, tokens, log_probs, _ = _enumerated(4)
  greedy = _sample(jax.tree.map(
      lambda x: np.repeat(x[None], 4, axis=0), screen), temperature=0)
  candidates = pointing.check_greedy(
      greedy, tokens, log_probs, _legal(screen, tokens))
  _, _, others, entropy = _enumerated(4, 0)
  assert (others[candidates] == 0).all() and (entropy[candidates] == 0).all()
  assert (others[_legal(screen, tokens) & ~candidates].min(1) < -1e6).all()


# The observation


def test_what_stands_beside_an_empty_slot_of_the_history_is_not_read():
  observation = _screens(1, 8)
  tokens = _sample(observation).tokens
  before, _ = _log_prob(observation, tokens)
  empty = observation['history'][..., :1] == 0
  assert empty.any() and not empty.all()
  foul = observation['history'] + empty * np.array([0, 3, 12345], np.int32)
  after, _ = _log_prob(observation | {'history': foul}, tokens)
  np.testing.assert_array_equal(after, before)


def test_more_slots_for_words_change_nothing():
  observation = _screens(1, 8)
  tokens = _sample(observation).tokens
  longer = observation | {
      'instruction': np.pad(observation['instruction'], ((0, 0), (0, 2)))}
  for actual, expected in zip(
      _log_prob(longer, tokens), _log_prob(observation, tokens)):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', ['instruction', 'order', 'picture', 'history'])
def test_every_part_of_the_screen_is_read(name):
  rng = np.random.default_rng(3)
  observation = _screens(1, 8, num_words=WORDS)
  tokens = _sample(observation).tokens
  before, _ = _log_prob(observation, tokens)
  change = {
      'instruction': lambda x: rng.integers(
          1, 2**31, x.shape, dtype=np.int32),
      'order': lambda x: x[:, ::-1],
      'picture': lambda x: 255 - x,
      'history': lambda x: np.where(
          x > 0, 1 + rng.integers(VERBS, size=x.shape), 0).astype(np.int32),
  }[name]
  field = 'instruction' if name == 'order' else name
  after, _ = _log_prob(
      observation | {field: change(observation[field])}, tokens)
  assert (np.abs(after - before).max(axis=1) > 1e-3).sum() >= 4


def test_a_pixel_belongs_to_its_cell():
  network = grid.GridNetwork(16, 1, 2, 64, ROWS, COLUMNS)
  screen = _screen(np.random.default_rng(0))
  params = examples.parameters(
      lambda key: network.init(key, jax.tree.map(jnp.asarray, screen)))

  @jax.jit
  def cells(picture):
    return network.apply(params, picture, method='_embed_picture')

  before = jax.device_get(cells(screen['picture']))
  for row, column in itertools.product(range(2 * ROWS), range(2 * COLUMNS)):
    changed = screen['picture'].copy()
    changed[row, column] ^= 128
    moved = (jax.device_get(cells(changed)) != before).any(axis=-1)
    assert list(zip(*np.nonzero(moved))) == [(row // 2, column // 2)]


def test_rows_of_a_batch_do_not_see_each_other():
  observation = _screens(1, 8)
  pointing.check_mixed_rows(
      _log_prob, observation, _screens(2, 8), _sample(observation).tokens)


# Gradients, traces, size


@functools.lru_cache(maxsize=None)
def _gradient():
  return pointing.make_gradient(_policy(), TEMPERATURE)


# They move all logits of a softmax alike: no gradient but for rounding.
_SHIFTS = (
    'cell_head/layers_2/bias', 'word_head/layers_2/bias', 'lookers_0/key/bias',
    'lookers_1/key/bias')


@pytest.mark.parametrize('kind', ['screens', 'idle'])
def test_gradient_is_finite_also_for_an_idle_row(kind):
  observation = _screens(1, 8, num_words=WORDS)
  if kind == 'idle':
    observation = jax.tree.map(np.zeros_like, observation)
  tokens = np.array([(TYPE, 0, 1), (CLICK, 1, 0)] * 4, np.int32)
  pointing.check_gradient(
      _gradient()(_params(), observation, tokens),
      _SHIFTS if kind == 'screens' else None)


@pytest.mark.parametrize('token, heads', [
    ((HOME, 4, 2), ('cell_head', 'cell_query', 'word_head', 'word_query')),
    ((CLICK, 4, 2), ('word_head', 'word_query')),
    ((TYPE, 4, 2), ('cell_head', 'cell_query'))])
def test_tokens_that_are_not_used_have_no_gradient(token, heads):
  observation = _screens(1, 8, num_words=WORDS)
  gradient, _ = _gradient()(
      _params(), observation, np.array([token] * 8, np.int32))
  for name, part in gradient['params'].items():
    largest = max(np.abs(x).max() for x in jax.tree.leaves(part))
    assert (largest == 0) == (name in heads), name


def test_one_trace_for_two_inputs():
  def use(seed):
    observation = _screens(seed, 8)
    _log_prob(observation, _sample(observation, seed).tokens)

  pointing.check_one_trace(_policy(), use)


def test_keys_decide_the_draw():
  pointing.check_keys(
      _policy(), _params(), _screens(6, 4), TEMPERATURE)


def test_parameter_count():
  """0.05 to 0.3 M at the default size, for a phone's screen."""
  example = _screen(np.random.default_rng(0), picture=(80, 36))
  shapes = jax.eval_shape(
      grid.make_policy(example).init, jax.random.key(0))
  count = sum(x.size for x in jax.tree.leaves(shapes))
  assert 50_000 <= count <= 300_000


@pytest.mark.parametrize('options, message', [
    ({'width': 16, 'num_heads': 3},
     'expected num_heads to divide width, got 3 and 16'),
    ({'grid': (4, 2)},
     'expected a picture of whole cells, got one of 6 x 4 for 4 x 2 cells')])
def test_sizes_must_fit(options, message):
  with pytest.raises(ValueError, match=message):
    grid.make_policy(_screen(np.random.default_rng(0)), **options)


# What tokens mean


def test_verbs():
  assert grid.VERBS == (
      'click', 'long_press', 'type', 'scroll_up', 'scroll_down', 'back', 'home',
      'done')
  assert list(np.nonzero(grid.USES_CELL)[0]) == [CLICK, PRESS]
  assert list(np.nonzero(grid.USES_WORD)[0]) == [TYPE]


@pytest.mark.parametrize('first, second, same', [
    ((CLICK, 2, 0), (CLICK, 2, 0), True),
    ((CLICK, 2, 0), (CLICK, 3, 0), False),  # a neighbour is another cell
    ((CLICK, 2, 1), (CLICK, 2, 3), True),  # a click uses no word
    ((CLICK, 2, 0), (PRESS, 2, 0), False),
    ((TYPE, 0, 0), (TYPE, 0, 3), True),  # the same word, read elsewhere
    ((TYPE, 1, 0), (TYPE, 4, 0), True),  # what types uses no cell
    ((TYPE, 0, 0), (TYPE, 0, 1), False),
    ((HOME, 0, 0), (HOME, 5, 3), True),  # and this uses nothing
    ((HOME, 0, 0), (HOME + 1, 0, 0), False)])
def test_matches(first, second, same):
  screens = _screens(1, 3)
  screens['instruction'][1] = [7, 8, 9, 7]
  screen = jax.tree.map(lambda x: x[1], screens)
  tokens = np.array([first, second], np.int32)
  matches = jax.jit(grid.make_codec().matches)
  for order in (tokens, tokens[::-1]):
    np.testing.assert_array_equal(matches(screen, order), [True, same])
  # Batched, among others that differ.
  batch = np.zeros((3, 4, 3), np.int32)
  batch[1, 0], batch[1, 1:] = first, second
  np.testing.assert_array_equal(
      matches(screens, batch)[1], [True] + 3 * [same])


def test_remember_puts_the_newest_first():
  screen = _screen(np.random.default_rng(2))
  screen['instruction'][:] = [41, 42, 43, 44]
  codec = grid.make_codec()
  history = codec.empty_history
  assert history.shape == (3, 3) and not history.any()
  seen = []
  for tokens in ((HOME, 2, 3), (CLICK, 0, 3), (TYPE, 5, 1), (PRESS, 4, 0)):
    seen.append((history, history.copy()))
    history = codec.remember(history, screen, np.array(tokens))
    assert history.dtype == np.int32
  # Verb + 1, cell + 1, the word that was typed; home has been forgotten.
  np.testing.assert_array_equal(
      history, [[PRESS + 1, 5, 0], [TYPE + 1, 0, 42], [CLICK + 1, 1, 0]])
  np.testing.assert_array_equal(seen[1][0][0], [HOME + 1, 0, 0])
  for given, before in seen:
    np.testing.assert_array_equal(given, before)
  np.testing.assert_array_equal(history, codec.remember(
      jnp.asarray(seen[-1][0]), screen, jnp.array((PRESS, 4, 0)), jnp))


def test_the_state_is_all_but_the_history():
  codec, screens = grid.make_codec(), _screens(4, 3)
  assert codec.num_tokens == 3
  chex.assert_trees_all_equal(
      codec.state(screens) | {'history': screens['history']}, screens)
  assert 'history' not in codec.state(screens)
