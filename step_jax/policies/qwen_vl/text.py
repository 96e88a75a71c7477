"""The decoder: embedding, layers under one scan, and the head's table."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import attention
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import dense
from step_jax.policies.qwen_vl import placement as rules


KERNELS = ('query', 'key', 'value', 'output', 'gate', 'up', 'down')  # a layer's


class Cache(NamedTuple):
  """Keys and values of every layer, keys rotated."""
  key: chex.Array  # [layers, ..., G, d]
  value: chex.Array  # [layers, ..., G, d]


class TextModel(nn.Module):
  """A causal decoder over embedded tokens."""
  config: config_lib.TextConfig
  dtype: Any = jnp.float32  # of the computation; norms and softmax: float32
  remat: bool = False  # recompute each layer in the backward pass
  chunk: int | None = None  # queries at a time
  placement: placement_lib.Placement = placement_lib.NOWHERE

  def setup(self):
    config = self.config
    self.embed = nn.Embed(
        config.vocabulary, config.width, dtype=self.dtype)
    layer = rules.wrap(_Layer, self.placement, self.remat)
    self.layers = nn.scan(
        layer, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(nn.broadcast, nn.broadcast, 0), length=config.num_layers)(
            config, self.dtype, self.chunk, self.placement)
    self.norm = nn.RMSNorm(epsilon=config.norm_epsilon, dtype=self.dtype)
    if not config.tied:
      self.head = self.param(
          'head', nn.initializers.normal(0.02),
          (config.vocabulary, config.width))

  def __call__(
      self, embedded: chex.Array, positions: chex.Array, where: chex.Array,
  ) -> chex.Array:
    """What the head reads.

    Args:
      embedded: `[B, L, D]` tokens, images put in.
      positions: `[B, L, 3]` int32, time, row and column.
      where: `[B, L]` bool, False for padding.

    Returns:
      `[B, L, D]`.
    """
    return self.prefill(embedded, positions, where)[0]

  def prefill(
      self, embedded: chex.Array, positions: chex.Array, where: chex.Array,
  ) -> tuple[chex.Array, Cache]:
    """Like a call, and the `Cache` of `[layers, B, L, G, d]`."""
    causal = jnp.tri(where.shape[1], dtype=bool)
    hidden, cache = self.layers(
        self.placement.rows(embedded), self._angles(positions),
        causal[None] & where[:, None], None)
    return self.norm(hidden), Cache(*cache)

  def respond(
      self,
      embedded: chex.Array,
      positions: chex.Array,
      prompt: Cache,
      prompt_where: chex.Array,
      own: Cache,
      num_own: chex.Array,
  ) -> tuple[chex.Array, Cache]:
    """What the head reads of the next T tokens of K responses to a prompt.

    Args:
      embedded: `[B, K, T, D]` tokens.
      positions: `[B, 1, T, 3]` int32.
      prompt: `[layers, B, P, G, d]`, of `prefill`.
      prompt_where: `[B, P]` bool, False for padding.
      own: `[layers, B, K, S, G, d]` of the responses' tokens before these.
      num_own: `[]` int32, how many of the S there are.

    Returns:
      `[B, K, T, D]`, and the T tokens' `Cache` of `[layers, B, K, T, G, d]`.
    """
    length = embedded.shape[2]
    written = jnp.arange(own.key.shape[3]) < num_own
    own_where = jnp.concatenate([
        jnp.broadcast_to(written, (length, written.size)),
        jnp.tri(length, dtype=bool)], axis=1)
    hidden, cache = self.layers(
        self.placement.rows(embedded), self._angles(positions),
        (prompt_where, own_where),
        (prompt, own))
    return self.norm(hidden), Cache(*cache)

  def table(self) -> chex.Array:
    """`[V, D]` of the head, which may be the embedding."""
    return self.embed.embedding if self.config.tied else self.head

  def _angles(self, positions):
    """`[..., d/2]`: each frequency turns by time, row or column."""
    axis = np.repeat(np.arange(3), self.config.rope_sections)
    turns = attention.frequencies(
        self.config.head_width, self.config.rope_theta)
    angles = positions[..., axis].astype(jnp.float32)
    return angles * jnp.expand_dims(turns, range(angles.ndim - 1))


class _Layer(nn.Module):
  """Grouped-query attention, then a gated MLP."""
  config: config_lib.TextConfig
  dtype: Any
  chunk: int | None
  placement: placement_lib.Placement

  @nn.compact
  def __call__(self, hidden, angles, where, before):
    config = self.config
    normed = self._norm('attention_norm')(hidden)
    query, key, value = (
        self._dense(name, heads * config.head_width, config.qkv_bias)(normed)
        .reshape(*normed.shape[:-1], heads, config.head_width)
        for name, heads in (
            ('query', config.num_heads), ('key', config.num_key_heads),
            ('value', config.num_key_heads)))
    query, key = (attention.rotate(x, angles) for x in (query, key))
    mixed = self._mix(query, key, value, where, before)
    hidden = self.placement.rows(
        hidden + self._dense('output', config.width)(mixed))
    normed = self._norm('mlp_norm')(hidden)
    gate = nn.silu(self._dense('gate', config.hidden_width)(normed))
    up = self._dense('up', config.hidden_width)(normed)
    hidden += self._dense('down', config.width)(gate * up)
    return self.placement.rows(hidden), (key, value)

  def _mix(self, query, key, value, where, before):
    """Attention over the tokens here and, if any, caches from before."""
    if before is None:
      return attention.attend(
          query, key, value, where=where, chunk=self.chunk)
    prompt, own = before
    own = jax.tree.map(
        lambda old, new: jnp.concatenate([old, new], axis=2),
        tuple(own), (key, value))
    return attention.attend_shared(
        query, prompt, own, shared_where=where[0], own_where=where[1])

  def _norm(self, name):
    return nn.RMSNorm(
        epsilon=self.config.norm_epsilon, dtype=self.dtype, name=name)

  def _dense(self, name, width, bias=False):
    return dense.Dense(
        width, use_bias=bias, dtype=self.dtype, name=name)
