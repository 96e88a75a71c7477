"""The whole model: images and tokens in, logits or log-probs out."""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import text as text_lib
from step_jax.policies.qwen_vl import vision as vision_lib


class Model(nn.Module):
  """A vision-language model, or a text model without the vision tower.

  Parameters are a plain pytree, those of the layers stacked along axis 0.
  """
  config: config_lib.Config
  dtype: Any = jnp.float32  # of products; softmax, norms, logits: float32
  remat: bool = False  # recompute each layer in the backward pass
  attention_chunk: int | None = None  # queries at a time

  def setup(self):
    options = (self.dtype, self.remat, self.attention_chunk)
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
    return _logits(self.hidden(inputs), self.text.table())

  def hidden(self, inputs: inputs_lib.Inputs) -> chex.Array:
    """`[B, L, D]`, what the head reads."""
    chex.assert_rank(
        [inputs.input_ids, inputs.where, inputs.positions], [2, 2, 3])
    embedded = self.text.embed(jnp.where(inputs.where, inputs.input_ids, 0))
    if inputs.images is not None:
      features = self.vision(inputs.images)
      shown = inputs.where & (inputs.image_index >= 0)
      embedded = jnp.where(
          shown[..., None],
          features[jnp.where(shown, inputs.image_index, 0)], embedded)
    return self.text(embedded, inputs.positions, inputs.where)

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
        hidden, self.text.table(), tokens, temperature=temperature,
        chunk=chunk)


def init_params(model: Model, rng_key: chex.PRNGKey) -> Any:
  """Fresh parameters; under `jax.eval_shape` only their shapes."""
  return model.init(rng_key, example_inputs(model.config))['params']


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
    chunk: int = 64,
) -> tuple[chex.Array, chex.Array]:
  """Log-probs and entropies without logits for the whole batch.

  Logits exist for `chunk` tokens of a row at a time, and are computed again in
  the backward pass.

  Args:
    hidden: `[B, T, D]`, what the head reads.
    table: `[V, D]` of the head.
    tokens: `[B, T]` int32.
    temperature: of the distribution, over 0.
    chunk: tokens of a row at a time.

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
    logits = _logits(block[0], table) / temperature
    total = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, block[1][..., None], axis=-1)
    mean = jnp.sum(jnp.exp(logits - total[..., None]) * logits, axis=-1)
    return chosen[..., 0] - total, total - mean

  scores = jax.lax.map(score, (split(hidden), split(tokens)))
  return jax.tree.map(
      lambda x: jnp.moveaxis(x, 0, 1).reshape(rows, -1)[:, :length], scores)


def _logits(hidden, table):
  """Float32, from products in the dtype of `hidden`."""
  return jnp.einsum(
      '...d,vd->...v', hidden, table.astype(hidden.dtype),
      preferred_element_type=jnp.float32)
