"""The vision tower: patches, layers under one scan, and the merger.

Images lie as padded windows `[N, W, S]` (see `positions.ImageLayout`), so that
attention in windows and in whole images are both batched and dense.
"""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import attention
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import dense
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import placement as rules

_ROPE_THETA = 10000.0  # fixed in the checkpoints' code


class VisionModel(nn.Module):
  """Patches to merged tokens of the text model's width."""
  config: config_lib.VisionConfig
  dtype: Any = jnp.float32
  remat: bool = False
  chunk: int | None = None
  placement: placement_lib.Placement = placement_lib.NOWHERE

  @nn.compact
  def __call__(self, images: inputs_lib.Images) -> chex.Array:
    """Encodes images.

    Args:
      images: N images; what their padding holds does not matter.

    Returns:
      `[N * W * S / merge_size**2, out_width]`.
    """
    config = self.config
    where = images.where
    pixels = jnp.where(where[..., None], images.pixels, 0)
    patches = _dense('patch', config.width, self.dtype, bias=False)(pixels)
    layer = rules.wrap(_Layer, self.placement, self.remat)
    is_full = np.isin(np.arange(config.num_layers), config.full_layers)
    patches, _ = nn.scan(
        layer, variable_axes={'params': 0}, split_rngs={'params': True},
        in_axes=(nn.broadcast, nn.broadcast, 0), length=config.num_layers)(
            config, self.dtype, self.chunk, self.placement, name='layers')(
                self.placement.rows(patches), self._angles(images.positions),
                where, jnp.asarray(is_full))
    merged = _norm('merger_norm', config, self.dtype)(patches).reshape(
        -1, config.merge_size**2 * config.width)
    merged = _dense('merger_in', merged.shape[-1], self.dtype)(merged)
    merged = nn.gelu(merged, approximate=False)
    return _dense('merger_out', config.out_width, self.dtype)(merged)

  def _angles(self, positions):
    """`[N, W, S, d/2]`: half of the frequencies by row, half by column."""
    head_width = self.config.width // self.config.num_heads
    turns = attention.frequencies(head_width // 2, _ROPE_THETA)
    angles = positions[..., None].astype(jnp.float32) * jnp.expand_dims(
        turns, range(positions.ndim))
    return angles.reshape(*positions.shape[:-1], -1)


class _Layer(nn.Module):
  """Attention in windows or over the image, then an MLP."""
  config: config_lib.VisionConfig
  dtype: Any
  chunk: int | None
  placement: placement_lib.Placement

  @nn.compact
  def __call__(self, patches, angles, where, is_full):
    config = self.config
    normed = _norm('attention_norm', config, self.dtype)(patches)
    qkv = _dense('qkv', 3 * config.width, self.dtype)(normed).reshape(
        *normed.shape[:-1], 3, config.num_heads, -1)
    query, key, value = (qkv[..., i, :, :] for i in range(3))
    query, key = (attention.rotate(x, angles) for x in (query, key))
    mixed = self._mix(query, key, value, where, is_full)
    patches = self.placement.rows(
        patches + _dense('output', config.width, self.dtype)(mixed))
    normed = _norm('mlp_norm', config, self.dtype)(patches)
    return self.placement.rows(patches + self._mlp(normed)), None

  def _mix(self, query, key, value, where, is_full):
    """`[N, W, S, D]`; every layer looks as far as its flag says."""
    num_images, num_windows = where.shape[:2]
    full = functools.partial(self._attend, num_images)
    if not self.config.window:
      return full(query, key, value, where)
    windows = functools.partial(self._attend, num_images * num_windows)
    return jax.lax.cond(is_full, full, windows, query, key, value, where)

  def _attend(self, rows, query, key, value, where):
    """Attention over the patches that share a row."""
    query, key, value = (
        x.reshape(rows, -1, *x.shape[3:]) for x in (query, key, value))
    mixed = attention.attend(
        query, key, value, where=where.reshape(rows, 1, -1), chunk=self.chunk)
    return mixed.reshape(*where.shape, -1)

  def _mlp(self, normed):
    config = self.config
    if not config.gated:
      hidden = _dense('up', config.hidden_width, self.dtype)(normed)
      hidden *= nn.sigmoid(1.702 * hidden)  # quick-GELU
      return _dense('down', config.width, self.dtype)(hidden)
    gate = nn.silu(_dense('gate', config.hidden_width, self.dtype)(normed))
    up = _dense('up', config.hidden_width, self.dtype)(normed)
    return _dense('down', config.width, self.dtype)(gate * up)


def _dense(name, width, dtype, bias=True):
  return dense.Dense(
      width, use_bias=bias, dtype=dtype, name=name)


def _norm(name, config, dtype):
  if config.gated:
    return nn.RMSNorm(epsilon=config.norm_epsilon, dtype=dtype, name=name)
  return nn.LayerNorm(
      epsilon=config.norm_epsilon, dtype=dtype, use_fast_variance=False,
      name=name)
