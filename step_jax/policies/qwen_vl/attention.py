"""Attention and rotary positions that the vision and text parts share."""

import chex
import jax
import jax.numpy as jnp

_MASKED = -1e30


def rotate(vectors: chex.Array, angles: chex.Array) -> chex.Array:
  """Rotary positions: turns the pairs `(i, i + d/2)` of every head.

  Args:
    vectors: `[..., T, H, d]`.
    angles: `[..., T, d/2]` float32.

  Returns:
    Like `vectors`; computed in float32.
  """
  cosine, sine = (f(angles)[..., None, :] for f in (jnp.cos, jnp.sin))
  first, second = jnp.split(vectors.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate(
      [first * cosine - second * sine, second * cosine + first * sine],
      axis=-1)
  return turned.astype(vectors.dtype)


def frequencies(width: int, theta: float) -> chex.Array:
  """`[width / 2]` float32 turns a position, from fast to slow."""
  exponents = jnp.arange(0, width, 2, dtype=jnp.float32) / width
  return 1.0 / theta**exponents


def attend(
    query: chex.Array,
    key: chex.Array,
    value: chex.Array,
    *,
    where: chex.Array,
    chunk: int | None = None,
) -> chex.Array:
  """Grouped-query attention with a float32 softmax.

  Args:
    query: `[B, Q, H, d]`.
    key: `[B, K, G, d]`; G divides H, and H / G queries share a key.
    value: `[B, K, G, d]`.
    where: `[B, Q, K]` bool, or `[B, 1, K]` if all queries see the same keys.
      A query that sees no key gets a finite result that means nothing.
    chunk: queries at a time, so that not all of `[B, H, Q, K]` exists at once,
      forwards and backwards; by default all.

  Returns:
    `[B, Q, H * d]`.
  """
  rows, length, heads, width = query.shape
  query = query.reshape(rows, length, key.shape[2], -1, width)
  if chunk is None or length <= chunk:
    mixed = _attend(query, key, value, where)
  else:
    pad = -length % chunk

    def split(x):
      x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
      return jnp.moveaxis(
          x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def block(x):
      query, seen = x
      return _attend(query, key, value, where if seen is None else seen)

    seen = None if where.shape[1] == 1 else split(where)
    mixed = jax.lax.map(block, (split(query), seen))
    mixed = jnp.moveaxis(mixed, 0, 1).reshape(
        rows, -1, *query.shape[2:])[:, :length]
  return mixed.reshape(rows, length, heads * width)


def attend_shared(
    query: chex.Array,
    shared: tuple[chex.Array, chex.Array],
    own: tuple[chex.Array, chex.Array],
    *,
    shared_where: chex.Array,
    own_where: chex.Array,
) -> chex.Array:
  """Attention of K responses over keys that they share and keys of their own.

  One float32 softmax over both. K is a free dimension of the products with
  the shared part, which is never repeated for the responses.

  Args:
    query: `[B, K, T, H, d]`.
    shared: keys and values, both `[B, P, G, d]`.
    own: keys and values, both `[B, K, S, G, d]`.
    shared_where: `[B, P]` bool.
    own_where: `[T, S]` bool.

  Returns:
    `[B, K, T, H * d]`.
  """
  *prefix, heads, width = query.shape
  num_shared, groups = shared[0].shape[1:3]
  query = query.reshape(*prefix, groups, heads // groups, width)

  def score(equation, key, where):
    scores = jnp.einsum(
        equation, query, key, preferred_element_type=jnp.float32)
    return jnp.where(where, scores * width**-0.5, _MASKED)

  scores = jnp.concatenate([
      score('bktghd,bpgd->bkghtp', shared[0],
            shared_where[:, None, None, None, None]),
      score('bktghd,bksgd->bkghts', own[0],
            own_where[None, None, None, None])], axis=-1)
  weights = jax.nn.softmax(scores, axis=-1).astype(query.dtype)
  mixed = jnp.einsum(
      'bkghtp,bpgd->bktghd', weights[..., :num_shared], shared[1],
      preferred_element_type=jnp.float32)
  mixed += jnp.einsum(
      'bkghts,bksgd->bktghd', weights[..., num_shared:], own[1],
      preferred_element_type=jnp.float32)
  return mixed.astype(query.dtype).reshape(*prefix, heads * width)


def _attend(query, key, value, where):
  """`[B, Q, G, H / G, d]`."""
  scores = jnp.einsum(
      'bqghd,bkgd->bghqk', query, key, preferred_element_type=jnp.float32)
  scores = jnp.where(
      where[:, None, None], scores * query.shape[-1]**-0.5, _MASKED)
  weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
  return jnp.einsum('bghqk,bkgd->bqghd', weights, value)
