"""Actions of three tokens: verb, target pointer, instruction-word pointer.

What policies that point share: how the tokens are drawn and scored, each given
those before it, masked to what is legal and to what the verb uses; when two
actions match; and a few layers.

A `Network` has the methods `encode(observation)`, `verb_logits(encoded)` `[V]`,
`target_logits(encoded, verb)` and `word_logits(encoded, target)` `[W]`. Every
observation has `instruction` [W] int32, non-zero hashes of words and padding.
"""

from collections.abc import Callable
import functools
from typing import Any, ClassVar

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies import base

NUM_TOKENS = 3
HISTORY_LENGTH = 3  # t_r
ILLEGAL = -1e9

_WORD_SCALE = 0.01

# (observation, tokens so far) -> which values of the next token are legal.
LegalFn = Callable[[Any, list[chex.Array]], chex.Array]


def make_policy(
    network: nn.Module,
    example: Any,
    *,
    uses: np.ndarray,
    legal: LegalFn,
) -> base.Policy:
  """Builds the policy of a network that points.

  Args:
    network: see the module.
    example: one observation, unbatched, history included; only its shapes
      matter.
    uses: `[V, 3]` bool, which tokens a verb uses.
    legal: the legal values of the token after a prefix.

  Returns:
    A `Policy`; `sample` and `log_prob` are jitted with a static temperature.
  """
  example = jax.tree.map(jnp.asarray, example)
  head = _Head(network, uses, legal)

  @jax.jit  # one compilation instead of one for each layer's arithmetic
  def init(rng_key):
    return network.init(rng_key, example)

  @functools.partial(jax.jit, static_argnames='temperature')
  def sample(params, rng_keys, observation, *, temperature):
    return jax.vmap(
        lambda key, row: head.sample(params, key, row, temperature))(
            rng_keys, observation)

  @functools.partial(jax.jit, static_argnames='temperature')
  def log_prob(params, observation, tokens, *, temperature):
    return jax.vmap(
        lambda row, token: head.log_prob(params, row, token, temperature))(
            observation, tokens)

  return base.Policy(init, sample, log_prob)


def check_heads(width: int, num_heads: int) -> None:
  """Raises ValueError if `num_heads` does not divide `width`."""
  if width % num_heads:
    raise ValueError(
        f'expected num_heads to divide width, got {num_heads} and {width}')


class _Head:
  """Draws and scores the tokens of one row."""

  def __init__(self, network: nn.Module, uses: np.ndarray, legal: LegalFn):
    self._network = network
    self._uses = uses
    self._legal = legal

  def sample(self, params, rng_key, observation, temperature):
    encoded = self._network.apply(params, observation, method='encode')
    keys = jax.random.split(rng_key, NUM_TOKENS)
    tokens: list[chex.Array] = []
    for position, key in enumerate(keys):
      logits = self._log_softmax(
          params, encoded, observation, tokens, temperature)
      drawn = (jnp.argmax(logits) if temperature == 0
               else jax.random.categorical(key, logits))
      used = token_mask(self._uses, tokens[0] if tokens else drawn)[position]
      tokens.append(jnp.where(used, drawn, 0).astype(jnp.int32))
    token = jnp.stack(tokens)
    log_probs, _ = self._score(
        params, encoded, observation, token, temperature)
    return base.ActionSample(
        token, log_probs, token_mask(self._uses, token[0]))

  def log_prob(self, params, observation, token, temperature):
    encoded = self._network.apply(params, observation, method='encode')
    return self._score(params, encoded, observation, token, temperature)

  def _score(self, params, encoded, observation, token, temperature):
    """Log-probs and entropies `[L]`."""
    log_probs, entropies = [], []
    for position in range(NUM_TOKENS):
      logits = self._log_softmax(
          params, encoded, observation, token[:position], temperature)
      log_probs.append(logits[token[position]])
      entropies.append(-jnp.sum(jnp.exp(logits) * logits))
    used = token_mask(self._uses, token[0])
    log_prob, entropy = jnp.stack(log_probs), jnp.stack(entropies)
    return jnp.where(used, log_prob, 0), jnp.where(used, entropy, 0)

  def _log_softmax(self, params, encoded, observation, prefix, temperature):
    """Log-probs of the next token given the ones before it."""
    method = ('verb_logits', 'target_logits', 'word_logits')[len(prefix)]
    given = (prefix[-1],) if len(prefix) else ()
    logits: Any = self._network.apply(
        params, encoded, *given, method=method)
    legal = self._legal(observation, prefix)
    if temperature == 0:
      best = jnp.argmax(jnp.where(legal, logits, ILLEGAL))
      return jnp.where(jnp.arange(logits.shape[0]) == best, 0.0, ILLEGAL)
    return jax.nn.log_softmax(
        jnp.where(legal, logits / temperature, ILLEGAL))


def token_mask(uses: np.ndarray, verb: chex.Array) -> chex.Array:
  """`[..., L]`: which of the tokens a verb uses, by `uses` `[V, L]`."""
  return jnp.stack([
      jnp.asarray(uses[:, position])[verb]
      for position in range(NUM_TOKENS)], axis=-1)


def matches(
    uses: np.ndarray, observation: Any, tokens: chex.Array) -> chex.Array:
  """Whether candidate k does the same as candidate 0 (method 3).

  Same verb, same target, and the same text to type, wherever in the
  instruction it was read.

  Args:
    uses: `[V, 3]` bool, which tokens a verb uses.
    observation: pytree of `[..., ...]`.
    tokens: `[..., K, 3]` int32.

  Returns:
    `[..., K]` bool.
  """
  verb, target, position = jnp.moveaxis(jnp.asarray(tokens), -1, 0)
  word = jnp.take_along_axis(
      jnp.asarray(observation['instruction']), position, axis=-1)
  first = (Ellipsis, slice(0, 1))
  _, uses_target, uses_word = jnp.moveaxis(token_mask(uses, verb), -1, 0)
  return (
      (verb == verb[first])
      & (~uses_target | (target == target[first]))
      & (~uses_word | (word == word[first])))


def push(history: chex.Array, newest: chex.Array, xp: Any) -> chex.Array:
  """Puts an action in front of a history and drops the oldest."""
  return xp.concatenate(
      [newest[None].astype(xp.int32), history[:-1]])


def make_word_table(vocabulary: int, width: int) -> nn.Embed:
  """The table of `embed_words`; so small that a fresh word is no noise."""
  return nn.Embed(
      vocabulary, width,
      embedding_init=nn.initializers.normal(_WORD_SCALE))


def embed_words(table: nn.Embed, ids: chex.Array) -> chex.Array:
  """Sum of the embeddings of hashed words: `[..., n]` -> `[..., D]`."""
  embedded = table(jnp.where(ids > 0, ids % table.num_embeddings, 0))
  return jnp.sum(jnp.where((ids > 0)[..., None], embedded, 0), axis=-2)


def make_head(width: int, size: int) -> nn.Sequential:
  """`[..., D]` -> `[..., size]`, with a hidden layer."""
  return nn.Sequential([nn.Dense(width), nn.gelu, nn.Dense(size)])


def point(
    targets: chex.Array, logits: chex.Array, query: chex.Array) -> chex.Array:
  """`[N]` logits of targets `[N, D]`: their own, and by a query `[D]`."""
  return logits + targets @ (query / np.sqrt(query.shape[-1]))


class Network(nn.Module):
  """What networks that point have in common, all but what they look at."""
  width: int
  num_layers: int
  num_heads: int
  vocabulary: int

  num_verbs: ClassVar[int]

  def setup(self):
    self.words = make_word_table(self.vocabulary, self.width)
    self.past_verbs = nn.Embed(self.num_verbs + 1, self.width)
    self.past_age = nn.Embed(HISTORY_LENGTH, self.width)
    self.norm = nn.LayerNorm()
    self.verb_head = nn.Dense(self.num_verbs)
    self.word_query = nn.Dense(self.width)
    self.word_head = make_head(self.width, 1)

  def __call__(self, observation):
    """Touches every head, for initialisation."""
    encoded = self.encode(observation)
    zero = jnp.zeros((), jnp.int32)
    return (self.verb_logits(encoded), self.target_logits(encoded, zero),
            self.word_logits(encoded, zero))

  def verb_logits(self, encoded):
    """`[V]`."""
    return self.verb_head(encoded[2])

  def point_at_words(self, words, asked):
    """`[W]` logits of words `[W, D]`, by what asks for one `[D]`."""
    return point(words, self.word_head(words)[:, 0], self.word_query(asked))


class AttentionLayer(nn.Module):
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
