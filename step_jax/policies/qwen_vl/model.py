"""The whole model: images and tokens in, logits or log-probs out."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import text as text_lib
from step_jax.policies.qwen_vl import vision as vision_lib

ILLEGAL = -1e9  # finite, so that what is illegal has a finite gradient, 0


class Prompt(NamedTuple):
  """What responses need to know of prompts of P tokens."""
  hidden: chex.Array  # [B, D], what the head reads at the last token
  cache: text_lib.Cache  # [layers, B, P, G, d]
  where: chex.Array  # [B, P] bool, False for padding
  position: chex.Array  # [B] int32, of a response's first token


class Model(nn.Module):
  """A vision-language model, or a text model without the vision tower.

  Parameters are a plain pytree, those of the layers stacked along axis 0.
  """
  config: config_lib.Config
  dtype: Any = jnp.float32  # of products; softmax, norms, logits: float32
  remat: bool = False  # recompute each layer in the backward pass
  attention_chunk: int | None = None  # queries at a time
  placement: placement_lib.Placement = placement_lib.NOWHERE

  def setup(self):
    options = (
        self.dtype, self.remat, self.attention_chunk, self.placement)
    self.text = text_lib.TextModel(self.config.text, *options)
    if self.config.vision is not None:
      self.vision = vision_lib.VisionModel(self.config.vision, *options)

  def __call__(self, inputs: inputs_lib.Inputs) -> chex.Array:
    """Logits of the next token.

    Args:
      inputs: B rows of L tokens; what their padding holds does not matter.

    Returns:
      `[B, L, V]` float32; finite, but without meaning, at padding.
    """
    return self.logits(self.hidden(inputs))

  def hidden(self, inputs: inputs_lib.Inputs) -> chex.Array:
    """`[B, L, D]`, what the head reads."""
    return self._read(inputs)[0]

  def prefill(self, inputs: inputs_lib.Inputs) -> Prompt:
    """Reads prompts, padded on the left, and their images once."""
    hidden, cache = self._read(inputs)
    last = jnp.max(
        inputs.positions, axis=(1, 2), where=inputs.where[..., None],
        initial=-1)
    return Prompt(hidden[:, -1], cache, inputs.where, last + 1)

  def respond(
      self,
      tokens: chex.Array,
      prompt: Prompt,
      own: text_lib.Cache | None = None,
      num_own: chex.Numeric = 0,
  ) -> tuple[chex.Array, text_lib.Cache]:
    """What the head reads of the next T tokens of K responses to a prompt.

    Args:
      tokens: `[B, K, T]` int32.
      prompt: of `prefill`; not repeated for the K responses.
      own: `[layers, B, K, S, G, d]` of the responses' tokens before these.
      num_own: `[]` int32, how many of the S there are.

    Returns:
      `[B, K, T, D]`, and the T tokens' cache of `[layers, B, K, T, G, d]`.
    """
    if own is None:
      own = self.empty_cache(*tokens.shape[:2], 0)
    steps = num_own + jnp.arange(tokens.shape[2])
    positions = (
        prompt.position[:, None, None, None] + steps[None, None, :, None])
    return self.text.respond(
        self._embed(tokens), jnp.tile(positions, 3), prompt.cache,
        prompt.where, own, num_own)

  def empty_cache(self, *shape: int) -> text_lib.Cache:
    """Of `[layers, *shape, G, d]`."""
    text = self.config.text
    shape = (text.num_layers, *shape, text.num_key_heads, text.head_width)
    return text_lib.Cache(*2 * (jnp.zeros(shape, self.dtype),))

  def logits(self, hidden: chex.Array) -> chex.Array:
    """`[..., D]` of what the head reads -> `[..., V]` float32."""
    return _logits(hidden, self.table(), self.placement)

  def table(self) -> chex.Array:
    """`[V, D]` of the head."""
    return self.text.table()

  def _embed(self, tokens):
    """`[..., D]`: each part of the table looks up its own of all rows."""
    return self.placement.cut(self.text.embed(self.placement.cut(tokens)))

  def _read(self, inputs):
    """`[B, L, D]` and the cache of whole rows."""
    chex.assert_rank(
        [inputs.input_ids, inputs.where, inputs.positions], [2, 2, 3])
    embedded = self._embed(jnp.where(inputs.where, inputs.input_ids, 0))
    if inputs.images is not None:
      features = self.vision(inputs.images)
      shown = inputs.where & (inputs.image_index >= 0)
      embedded = jnp.where(
          shown[..., None],
          features[jnp.where(shown, inputs.image_index, 0)], embedded)
    return self.text.prefill(embedded, inputs.positions, inputs.where)

  def log_probs(
      self,
      inputs: inputs_lib.Inputs,
      tokens: chex.Array,
      *,
      start: int = 0,
      temperature: float = 1.0,
      chunk: int = 64,
  ) -> tuple[chex.Array, chex.Array]:
    """Log-probs of tokens, each given all before it; see `token_log_probs`.

    Args:
      inputs: B rows of L tokens.
      tokens: `[B, T]` int32; token t is scored by position `start + t`.
      start: static; with a response that begins at position p, p - 1.
      temperature: of the distribution, over 0.
      chunk: tokens of a row at a time.

    Returns:
      Log-probs and entropies, both `[B, T]` float32.
    """
    hidden = self.hidden(inputs)[:, start:start + tokens.shape[1]]
    return token_log_probs(
        hidden, self.table(), tokens, temperature=temperature,
        chunk=chunk, placement=self.placement)


def init_params(model: Model, rng_key: chex.PRNGKey) -> Any:
  """Fresh parameters; under `jax.eval_shape` only their shapes."""
  whole = model.clone(placement=placement_lib.NOWHERE)
  return whole.init(rng_key, example_inputs(model.config))['params']


def example_inputs(config: config_lib.Config) -> inputs_lib.Inputs:
  """The smallest batch that touches every parameter."""
  vision = config.vision
  if vision is None:
    return inputs_lib.make_inputs(
        config, np.zeros((1, 1), int), np.ones((1, 1), bool))
  side = vision.merge_size
  return inputs_lib.make_inputs(
      config, np.full((1, 1), config.image_token_id), np.ones((1, 1), bool),
      np.zeros((side**2, vision.patch_width), np.float32),
      np.array([[1, side, side]]))


def token_log_probs(
    hidden: chex.Array,
    table: chex.Array,
    tokens: chex.Array,
    *,
    temperature: float = 1.0,
    legal: chex.Array | None = None,
    chunk: int = 64,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> tuple[chex.Array, chex.Array]:
  """Log-probs and entropies without logits for the whole batch.

  Logits exist for `chunk` tokens of a row at a time, and are computed again in
  the backward pass.

  Args:
    hidden: `[B, T, D]`, what the head reads.
    table: `[V, D]` of the head.
    tokens: `[B, T]` int32.
    temperature: of the distribution, over 0.
    legal: `[V]` bool, what the distribution is over; by default everything.
    chunk: tokens of a row at a time.
    placement: of the table.

  Returns:
    Log-probs and entropies, both `[B, T]` float32.
  """
  chex.assert_rank([hidden, table, tokens], [3, 2, 2])
  chex.assert_equal_shape_prefix([hidden, tokens], 2)
  rows, length = tokens.shape
  chunk = min(chunk, length)
  pad = -length % chunk

  def split(x):
    x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

  @jax.checkpoint
  def score(block):
    logits = scale(_logits(block[0], table, placement), temperature, legal)
    total = jax.nn.logsumexp(logits, axis=-1)
    chosen = choose(logits, block[1], placement)
    mean = jnp.sum(jnp.exp(logits - total[..., None]) * logits, axis=-1)
    return chosen - total, total - mean

  scores = jax.lax.map(
      score, (split(placement.cut(hidden)), split(tokens)))
  return jax.tree.map(
      lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :length], scores)


def scale(
    logits: chex.Array,
    temperature: float,
    legal: chex.Array | None,
) -> chex.Array:
  """`[..., V]` logits of the distribution that is sampled from."""
  logits = logits / temperature
  if legal is None:
    return logits
  legal = jnp.expand_dims(legal, range(logits.ndim - 1))
  return jnp.where(legal, logits, ILLEGAL)


def choose(
    logits: chex.Array, tokens: chex.Array,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> chex.Array:
  """`[...]`, the logit `[..., V]` of a token each; exact on any placement."""
  if placement.mesh is None:
    return jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
  # Every part of the vocabulary looks for itself, and one finds something.
  here = tokens[..., None] == jnp.arange(logits.shape[-1])
  return jnp.sum(jnp.where(here, logits, 0), axis=-1)


def _logits(hidden, table, placement):
  """Float32, from products in the dtype of `hidden`."""
  logits = jnp.einsum(
      '...d,vd->...v', placement.cut(hidden), table.astype(hidden.dtype),
      preferred_element_type=jnp.float32)
  return placement.cut(
      logits, *(None,) * (logits.ndim - 1), ('data', 'model'))
