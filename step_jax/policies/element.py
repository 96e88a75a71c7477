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

from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from step_jax.policies import base
from step_jax.policies import pointer

VERBS = ('click', 'type', 'scroll_up', 'scroll_down', 'back', 'done', 'fail')
USES_ELEMENT = np.array([verb in ('click', 'type') for verb in VERBS])
USES_WORD = np.array([verb == 'type' for verb in VERBS])
NUM_TOKENS = pointer.NUM_TOKENS
HISTORY_LENGTH = pointer.HISTORY_LENGTH

_USES = np.stack(
    [np.ones(len(VERBS), bool), USES_ELEMENT, USES_WORD], axis=1)  # [V, L]
_MAX_OFFSET = 4
_ELEMENT = 1  # kinds of tokens: 0 word, 1 element, 2 past action, 3 summary


class ElementNetwork(pointer.Network):
  """Encoder over one screen, and three pointer heads."""
  num_verbs = len(VERBS)

  def setup(self):
    super().setup()
    self.kinds = nn.Embed(4, self.width)
    self.look = nn.Dense(self.width)
    self.found = nn.Dense(self.width)
    self.offsets = nn.Embed(
        2 * (2 * _MAX_OFFSET + 1) + 1, self.num_layers * self.num_heads)
    self.relations = nn.Dense(self.num_layers * self.num_heads)
    self.layers = [
        pointer.AttentionLayer(self.width, self.num_heads)
        for _ in range(self.num_layers)]
    self.element_head = pointer.make_head(self.width, self.num_verbs)
    self.element_query = nn.Dense(self.width)

  def encode(self, observation):
    """`(words [W, D], elements [E, D], summary [D])` of one screen."""
    words, types = observation['instruction'], observation['element_type']
    history = observation['history']
    num_words, num_elements = words.shape[0], types.shape[0]
    kinds = _token_kinds(num_words, num_elements)
    pairs = _pair_features(observation, kinds)
    tokens = jnp.concatenate([
        pointer.embed_words(self.words, words[:, None]),
        self._embed_elements(observation),
        pointer.embed_words(self.words, history[:, 1:])
        + self.past_verbs(history[:, 0])
        + self.past_age(jnp.arange(HISTORY_LENGTH)),
        jnp.zeros((1, self.width)),
    ]) + self.kinds(kinds) + self.found(_found_features(pairs, kinds))
    valid = jnp.concatenate(
        [words > 0, types > 0, history[:, 0] > 0, jnp.ones(1, bool)])

    bias = self.offsets(_offset_buckets(kinds)) + self.relations(pairs)
    bias = jnp.where(valid[None, :, None], bias, pointer.ILLEGAL)
    bias = bias.reshape(bias.shape[:2] + (self.num_layers, self.num_heads))
    for index, layer in enumerate(self.layers):
      tokens = layer(tokens, bias[:, :, index])
    tokens = self.norm(tokens)
    return (tokens[:num_words], tokens[num_words:num_words + num_elements],
            tokens[-1])

  def target_logits(self, encoded, verb):
    """`[E]` given a verb."""
    _, elements, summary = encoded
    return pointer.point(
        elements, self.element_head(elements)[:, verb],
        self.element_query(summary))

  def word_logits(self, encoded, element):
    """`[W]` given an element."""
    words, elements, _ = encoded
    return self.point_at_words(words, elements[element])

  def _embed_elements(self, observation):
    ids = jnp.concatenate([
        observation['element_type'][:, None], observation['element_text'],
        observation['element_value']], axis=-1)
    look = jnp.concatenate([
        observation['element_flags'].astype(jnp.float32),
        observation['element_box']], axis=-1)
    return pointer.embed_words(self.words, ids) + self.look(look)


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
  pointer.check_heads(width, num_heads)
  network = ElementNetwork(width, num_layers, num_heads, vocabulary)
  return pointer.make_policy(network, example, uses=_USES, legal=_legal)


def _legal(observation: Any, prefix: list[chex.Array]) -> chex.Array:
  """Which values of the token after a prefix are legal on one screen."""
  if len(prefix) == 0:
    return observation['verb_mask']
  if len(prefix) == 1:
    return observation['target_mask'][prefix[0]]
  return observation['instruction'] > 0


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
  return pointer.matches(_USES, observation, tokens)


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
  return pointer.push(history, newest, xp)


def state(observation: Any) -> Any:
  """What is on the screen: no history, and no number of a picture of it."""
  return {name: x for name, x in observation.items()
          if name not in ('history', 'screenshot')}


def make_codec(words_per_element: int) -> base.Codec:
  """What element actions mean; see `matches`, `remember` and `state`."""
  return base.Codec(
      matches, empty_history(words_per_element), remember, state, NUM_TOKENS)
