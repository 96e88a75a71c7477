"""A small transformer that acts on what is on the screen.

It reads instruction words, visible elements and its last actions, and emits
three tokens: verb, element pointer, instruction-word pointer, each masked to
what is legal. Words enter by a fixed hash vocabulary, every pair of tokens
knows whether it shares a word, and every token whether it shares one with any
other, so a label never seen before can be matched with the instruction. Any
environment that yields elements can be driven.

Observation (W words, E elements, V verbs), dictionary of arrays:
  instruction [W] int32 · element_type [E] int32 · element_text [E, X] int32 ·
  element_value [E, Y] int32 · element_flags [E, F] bool ·
  element_box [E, 4] float32 (left, top, width, height in [0, 1]) ·
  verb_mask [V] bool · target_mask [V, E] bool, both what is legal ·
  history [3, X + 3] int32, the last actions, newest first.
Words and types are non-zero hashes, 0 is padding.
"""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies import base

VERBS = ('click', 'type', 'scroll_up', 'scroll_down', 'back', 'done', 'fail')
USES_ELEMENT = np.array([verb in ('click', 'type') for verb in VERBS])
USES_WORD = np.array([verb == 'type' for verb in VERBS])
NUM_TOKENS = 3
HISTORY_LENGTH = 3  # t_r

_ILLEGAL = -1e9
_MAX_OFFSET = 4
_WORD_SCALE = 0.01
_ELEMENT = 1  # kinds of tokens: 0 word, 1 element, 2 past action, 3 summary


class ElementNetwork(nn.Module):
  """Encoder over one screen, and three pointer heads."""
  width: int
  num_layers: int
  num_heads: int
  vocabulary: int

  def setup(self):
    # Small, so that a word never seen before is no noise.
    self.words = nn.Embed(
        self.vocabulary, self.width,
        embedding_init=nn.initializers.normal(_WORD_SCALE))
    self.kinds = nn.Embed(4, self.width)
    self.past_verbs = nn.Embed(len(VERBS) + 1, self.width)
    self.past_age = nn.Embed(HISTORY_LENGTH, self.width)
    self.look = nn.Dense(self.width)
    self.found = nn.Dense(self.width)
    self.offsets = nn.Embed(
        2 * (2 * _MAX_OFFSET + 1) + 1, self.num_layers * self.num_heads)
    self.relations = nn.Dense(self.num_layers * self.num_heads)
    self.layers = [
        _Layer(self.width, self.num_heads) for _ in range(self.num_layers)]
    self.norm = nn.LayerNorm()
    self.verb_head = nn.Dense(len(VERBS))
    self.element_head = nn.Sequential(
        [nn.Dense(self.width), nn.gelu, nn.Dense(len(VERBS))])
    self.element_query = nn.Dense(self.width)
    self.word_query = nn.Dense(self.width)
    self.word_head = nn.Sequential(
        [nn.Dense(self.width), nn.gelu, nn.Dense(1)])

  def __call__(self, observation):
    """Touches every head, for initialisation."""
    encoded = self.encode(observation)
    zero = jnp.zeros((), jnp.int32)
    return (self.verb_logits(encoded), self.element_logits(encoded, zero),
            self.word_logits(encoded, zero))

  def encode(self, observation):
    """`(words [W, D], elements [E, D], summary [D])` of one screen."""
    words, types = observation['instruction'], observation['element_type']
    history = observation['history']
    num_words, num_elements = words.shape[0], types.shape[0]
    kinds = _token_kinds(num_words, num_elements)
    pairs = _pair_features(observation, kinds)
    tokens = jnp.concatenate([
        self._embed(words[:, None]),
        self._embed_elements(observation),
        self._embed(history[:, 1:]) + self.past_verbs(history[:, 0])
        + self.past_age(jnp.arange(HISTORY_LENGTH)),
        jnp.zeros((1, self.width)),
    ]) + self.kinds(kinds) + self.found(_found_features(pairs, kinds))
    valid = jnp.concatenate(
        [words > 0, types > 0, history[:, 0] > 0, jnp.ones(1, bool)])

    bias = self.offsets(_offset_buckets(kinds)) + self.relations(pairs)
    bias = jnp.where(valid[None, :, None], bias, _ILLEGAL)
    bias = bias.reshape(bias.shape[:2] + (self.num_layers, self.num_heads))
    for index, layer in enumerate(self.layers):
      tokens = layer(tokens, bias[:, :, index])
    tokens = self.norm(tokens)
    return (tokens[:num_words], tokens[num_words:num_words + num_elements],
            tokens[-1])

  def verb_logits(self, encoded):
    """`[V]`."""
    return self.verb_head(encoded[2])

  def element_logits(self, encoded, verb):
    """`[E]` given a verb."""
    _, elements, summary = encoded
    query = self.element_query(summary) / np.sqrt(self.width)
    return self.element_head(elements)[:, verb] + elements @ query

  def word_logits(self, encoded, element):
    """`[W]` given an element."""
    words, elements, _ = encoded
    query = self.word_query(elements[element]) / np.sqrt(self.width)
    return self.word_head(words)[:, 0] + words @ query

  def _embed(self, ids):
    """Sum of the embeddings of hashed words: `[..., n]` -> `[..., D]`."""
    embedded = self.words(jnp.where(ids > 0, ids % self.vocabulary, 0))
    return jnp.sum(jnp.where((ids > 0)[..., None], embedded, 0), axis=-2)

  def _embed_elements(self, observation):
    ids = jnp.concatenate([
        observation['element_type'][:, None], observation['element_text'],
        observation['element_value']], axis=-1)
    look = jnp.concatenate([
        observation['element_flags'].astype(jnp.float32),
        observation['element_box']], axis=-1)
    return self._embed(ids) + self.look(look)


class _Layer(nn.Module):
  """Pre-norm attention with a given bias `[N, N, heads]`, then an MLP."""
  width: int
  num_heads: int

  @nn.compact
  def __call__(self, tokens, bias):
    heads = (self.num_heads, self.width // self.num_heads)
    normed = nn.LayerNorm()(tokens)
    query, key, value = jnp.split(
        nn.DenseGeneral((3,) + heads)(normed), 3, axis=1)
    scores = jnp.einsum('nhd,mhd->nmh', query[:, 0], key[:, 0])
    weights = jax.nn.softmax(scores / np.sqrt(heads[1]) + bias, axis=1)
    mixed = jnp.einsum('nmh,mhd->nhd', weights, value[:, 0])
    tokens += nn.DenseGeneral(self.width, axis=(-2, -1))(mixed)
    hidden = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(tokens)))
    return tokens + nn.Dense(self.width)(hidden)


def _token_kinds(num_words: int, num_elements: int) -> np.ndarray:
  return np.repeat(
      np.arange(4), [num_words, num_elements, HISTORY_LENGTH, 1])


def _offset_buckets(kinds: np.ndarray) -> np.ndarray:
  """`[N, N]` bucket of the distance in reading order, by kind; 0 = none."""
  index = np.arange(len(kinds))
  offset = np.clip(
      index[None, :] - index[:, None], -_MAX_OFFSET, _MAX_OFFSET)
  bucket = 1 + offset + _MAX_OFFSET
  bucket = bucket + (kinds[:, None] == _ELEMENT) * (2 * _MAX_OFFSET + 1)
  same = (kinds[:, None] == kinds[None, :]) & (kinds[:, None] <= _ELEMENT)
  return np.where(same, bucket, 0)


def _pair_features(observation: Any, kinds: np.ndarray) -> chex.Array:
  """`[N, N, 7]`: shared words, and where two elements lie to each other."""
  text, value = observation['element_text'], observation['element_value']
  history = observation['history'][:, 2:]
  words_each = max(text.shape[1] + value.shape[1], history.shape[1])
  words = jnp.concatenate([
      _pad(observation['instruction'][:, None], words_each),
      _pad(jnp.concatenate([text, value], axis=1), words_each),
      _pad(history, words_each), jnp.zeros((1, words_each), jnp.int32)])
  found = jnp.any(
      (words[:, :, None, None] == words[None, None]), axis=-1)  # [N, n, N]
  found &= (words > 0)[:, :, None]
  count = jnp.sum(found, axis=1)
  share = count / jnp.maximum(jnp.sum(words > 0, axis=1), 1)[:, None]

  box = observation['element_box']
  centre = box[:, :2] + box[:, 2:] / 2
  before = int(np.sum(kinds < _ELEMENT))
  after = int(np.sum(kinds > _ELEMENT))
  delta = centre[None] - centre[:, None]
  geometry = jnp.concatenate(
      [delta, jnp.exp(-30 * jnp.abs(delta))], axis=-1)  # same column, same row
  geometry = jnp.pad(geometry, ((before, after), (before, after), (0, 0)))
  return jnp.concatenate([
      (count > 0)[..., None], share[..., None], share.T[..., None], geometry,
  ], axis=-1)


def _found_features(pairs: chex.Array, kinds: np.ndarray) -> chex.Array:
  """`[N, 9]`: the most that a token shares with a word, element or action.

  Attention averages, so it cannot tell that nothing is shared.
  """
  return jnp.concatenate([
      jnp.max(pairs[:, kinds == kind, :3], axis=1) for kind in range(3)],
      axis=-1)


def _pad(ids: chex.Array, length: int) -> chex.Array:
  return jnp.pad(ids, ((0, 0), (0, length - ids.shape[1])))


def make_policy(
    example: Any,
    *,
    width: int = 96,
    num_layers: int = 3,
    num_heads: int = 4,
    vocabulary: int = 1024,
) -> base.Policy:
  """Builds the element policy.

  Args:
    example: one observation, unbatched, history included; only its shapes
      matter.
    width: size D of a token.
    num_layers: attention layers.
    num_heads: attention heads; divides `width`.
    vocabulary: rows of the word table that hashes are folded into.

  Returns:
    A `Policy`; `sample` and `log_prob` are jitted with a static temperature.

  Raises:
    ValueError: if `num_heads` does not divide `width`.
  """
  if width % num_heads:
    raise ValueError(
        f'expected num_heads to divide width, got {num_heads} and {width}')
  network = ElementNetwork(width, num_layers, num_heads, vocabulary)
  example = jax.tree.map(jnp.asarray, example)

  def init(rng_key):
    return network.init(rng_key, example)

  @functools.partial(jax.jit, static_argnames='temperature')
  def sample(params, rng_keys, observation, *, temperature):
    return jax.vmap(
        lambda key, row: _sample_row(network, params, key, row, temperature))(
            rng_keys, observation)

  @functools.partial(jax.jit, static_argnames='temperature')
  def log_prob(params, observation, tokens, *, temperature):
    return jax.vmap(
        lambda row, token: _score_row(
            network, params, row, token, temperature))(observation, tokens)

  return base.Policy(init, sample, log_prob)


def _sample_row(network, params, rng_key, observation, temperature):
  """Draws the three tokens of one row, each given those before it."""
  encoded = network.apply(params, observation, method='encode')
  keys = jax.random.split(rng_key, NUM_TOKENS)
  tokens: list[chex.Array] = []
  for position, key in enumerate(keys):
    logits = _log_softmax(
        network, params, encoded, observation, tokens, temperature)
    drawn = (jnp.argmax(logits) if temperature == 0
             else jax.random.categorical(key, logits))
    used = _token_mask(tokens[0] if tokens else drawn)[position]
    tokens.append(jnp.where(used, drawn, 0).astype(jnp.int32))
  token = jnp.stack(tokens)
  log_probs, _ = _score(
      network, params, encoded, observation, token, temperature)
  return base.ActionSample(token, log_probs, _token_mask(token[0]))


def _score_row(network, params, observation, token, temperature):
  encoded = network.apply(params, observation, method='encode')
  return _score(network, params, encoded, observation, token, temperature)


def _score(network, params, encoded, observation, token, temperature):
  """Log-probs and entropies `[L]` of one row's tokens."""
  log_probs, entropies = [], []
  for position in range(NUM_TOKENS):
    logits = _log_softmax(
        network, params, encoded, observation, token[:position], temperature)
    log_probs.append(logits[token[position]])
    entropies.append(-jnp.sum(jnp.exp(logits) * logits))
  used = _token_mask(token[0])
  log_prob, entropy = jnp.stack(log_probs), jnp.stack(entropies)
  return jnp.where(used, log_prob, 0), jnp.where(used, entropy, 0)


def _log_softmax(network, params, encoded, observation, prefix, temperature):
  """Log-probs of the next token given the ones before it."""
  if len(prefix) == 0:
    logits = network.apply(params, encoded, method='verb_logits')
    legal = observation['verb_mask']
  elif len(prefix) == 1:
    logits = network.apply(
        params, encoded, prefix[0], method='element_logits')
    legal = observation['target_mask'][prefix[0]]
  else:
    logits = network.apply(params, encoded, prefix[1], method='word_logits')
    legal = observation['instruction'] > 0
  if temperature == 0:
    best = jnp.argmax(jnp.where(legal, logits, _ILLEGAL))
    return jnp.where(jnp.arange(logits.shape[0]) == best, 0.0, _ILLEGAL)
  return jax.nn.log_softmax(jnp.where(legal, logits / temperature, _ILLEGAL))


def _token_mask(verb: chex.Array) -> chex.Array:
  """`[..., L]`: which of the tokens a verb uses."""
  return jnp.stack([
      jnp.ones(verb.shape, bool), jnp.asarray(USES_ELEMENT)[verb],
      jnp.asarray(USES_WORD)[verb]], axis=-1)


def matches(observation: Any, tokens: chex.Array) -> chex.Array:
  """Whether candidate k does the same as candidate 0 (method 3).

  Same verb, same element, and the same text to type, wherever in the
  instruction it was read.

  Args:
    observation: pytree of `[..., ...]`.
    tokens: `[..., K, 3]` int32.

  Returns:
    `[..., K]` bool.
  """
  verb, element, position = jnp.moveaxis(jnp.asarray(tokens), -1, 0)
  word = jnp.take_along_axis(
      jnp.asarray(observation['instruction']), position, axis=-1)
  first = (Ellipsis, slice(0, 1))
  _, uses_element, uses_word = jnp.moveaxis(_token_mask(verb), -1, 0)
  return (
      (verb == verb[first])
      & (~uses_element | (element == element[first]))
      & (~uses_word | (word == word[first])))


def empty_history(words_per_element: int) -> np.ndarray:
  """`[3, X + 3]` int32: verb + 1, element type, element words, typed word."""
  return np.zeros((HISTORY_LENGTH, words_per_element + 3), np.int32)


def remember(
    history: chex.Array, observation: Any, tokens: chex.Array, xp: Any = np,
) -> chex.Array:
  """Puts an action in front of the history and drops the oldest.

  Args:
    history: `[3, X + 3]` int32.
    observation: the screen at which the action was chosen, unbatched.
    tokens: `[3]` int.
    xp: numpy on the host, jax.numpy inside a jitted rollout.

  Returns:
    A new history.
  """
  verb, element, word = tokens
  has_element, has_word = (
      xp.asarray(uses)[verb] for uses in (USES_ELEMENT, USES_WORD))
  newest = xp.concatenate([
      xp.stack([verb + 1, has_element * observation['element_type'][element]]),
      has_element * observation['element_text'][element],
      has_word * observation['instruction'][word][None]])
  return xp.concatenate(
      [newest[None].astype(xp.int32), history[:-1]])


def state(observation: Any) -> Any:
  """What is on the screen: no history, and no number of a picture of it."""
  return {name: x for name, x in observation.items()
          if name not in ('history', 'screenshot')}


def make_codec(words_per_element: int) -> base.Codec:
  """What element actions mean; see `matches`, `remember` and `state`."""
  return base.Codec(
      matches, empty_history(words_per_element), remember, state)
