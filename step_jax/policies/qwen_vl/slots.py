"""Sampling in slots: a row is admitted as soon as one is free.

`sampling` answers a batch of rows when the longest of them has ended. Here each
slot has its own prompt and its own place in its response, so that a short
response makes room for the next prompt while long ones go on. Each function is
compiled once.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies import base
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import text as text_lib


class _State(NamedTuple):
  """W slots; one that is not alive is free."""
  prompt: model_lib.Prompt  # of [W, ...], caches of [layers, W, P, G, d]
  keys: chex.PRNGKey  # [W]
  steps: chex.Array  # [W] int32, the token that was drawn last
  alive: chex.Array  # [W] bool
  tokens: chex.Array  # [W, L] int32
  log_probs: chex.Array  # [W, L] float32
  cache: text_lib.Cache  # [layers, W, L, G, d], of tokens before `steps`


_CACHE = text_lib.Cache(1, 1)
_AXES = _State(  # of the slots
    model_lib.Prompt(0, _CACHE, 0, 0), 0, 0, 0, 0, 0, _CACHE)


def make_slots(
    model: model_lib.Model,
    *,
    num_tokens: int,
    stop_ids: Sequence[int],
    legal: np.ndarray,
) -> base.Slots:
  """Builds the functions of a model; see `sampling.make_policy` and `Slots`.

  A row draws with the same keys as `sample`, and gives what that gives up to
  float rounding.
  """
  options: dict[str, Any] = dict(
      model=model, stops=jnp.asarray(stop_ids, jnp.int32),
      legal=jnp.asarray(legal), num_tokens=num_tokens)
  return base.Slots(
      jax.jit(functools.partial(_start, **options),
              static_argnames='num_slots'),
      jax.jit(functools.partial(_admit, **options),
              static_argnames='temperature', donate_argnums=1),
      jax.jit(functools.partial(_decode, **options),
              static_argnames=('temperature', 'chunk'), donate_argnums=1),
      functools.partial(_read, stop_ids=tuple(stop_ids)))


def _start(params, inputs, *, num_slots, model, num_tokens, **_):
  """Free slots for prompts of the sizes of `inputs`."""
  prompt = jax.eval_shape(functools.partial(
      model.apply, {'params': params}, method='prefill'), inputs)
  row = _State(
      prompt, jax.random.key(0), jnp.int32(0), jnp.bool_(False),
      jnp.zeros(num_tokens, jnp.int32), jnp.zeros(num_tokens),
      jax.tree.map(lambda x: x[:, 0], model.empty_cache(1, num_tokens)))
  row = row._replace(prompt=jax.tree.map(
      lambda x, axis: jnp.zeros(
          x.shape[:axis] + x.shape[axis + 1:], x.dtype), prompt, _AXES.prompt))
  return jax.tree.map(
      lambda x, axis: jnp.repeat(jnp.expand_dims(x, axis), num_slots, axis),
      row, _AXES)


def _admit(
    params, state, rng_key, inputs, slot, *, temperature, model, stops, legal,
    num_tokens):
  """Puts one row, `inputs` of B = 1, into a slot."""
  apply = functools.partial(model.apply, {'params': params})
  prompt = apply(inputs, method='prefill')
  logits = apply(prompt.hidden, method='logits')[0]
  free = jax.tree.map(
      lambda x, axis: jax.lax.dynamic_index_in_dim(x, slot, axis, False),
      state, _AXES)
  row = _draw(logits, free._replace(
      prompt=jax.tree.map(
          lambda x, axis: jax.lax.index_in_dim(x, 0, axis, False), prompt,
          _AXES.prompt),
      keys=rng_key, steps=jnp.int32(0), alive=jnp.bool_(True),
      tokens=jnp.zeros_like(free.tokens),
      log_probs=jnp.zeros_like(free.log_probs)),
      temperature=temperature, stops=stops, legal=legal, num_tokens=num_tokens)
  return jax.tree.map(
      lambda x, new, axis: jax.lax.dynamic_update_index_in_dim(
          x, new, slot, axis), state, row, _AXES)


def _decode(
    params, state, *, temperature, chunk, model, stops, legal, num_tokens):
  """Up to `chunk` tokens in every slot, until a response ends."""
  def advance(row):
    apply = functools.partial(model.apply, {'params': params})
    prompt = jax.tree.map(jnp.expand_dims, row.prompt, _AXES.prompt)
    own = jax.tree.map(lambda x: x[:, None, None], row.cache)
    hidden, new = apply(
        row.tokens[row.steps][None, None, None], prompt, own, row.steps,
        method='respond')
    cache = jax.tree.map(
        lambda old, new: jax.lax.dynamic_update_slice_in_dim(
            old, new[:, 0, 0], row.steps, axis=1), row.cache, new)
    after = _draw(
        apply(hidden[:, :, 0], method='logits')[0, 0],
        row._replace(steps=row.steps + 1, cache=cache),
        temperature=temperature, stops=stops, legal=legal,
        num_tokens=num_tokens)
    return after._replace(prompt=row.prompt)

  before = state.alive

  def body(carry):
    count, state = carry
    after = jax.vmap(advance, in_axes=(_AXES,), out_axes=_AXES)(state)
    kept = {name: jnp.where(
        state.alive.reshape((-1,) + (1,) * (getattr(state, name).ndim - 1)),
        getattr(after, name), getattr(state, name))
            for name in ('steps', 'alive', 'tokens', 'log_probs')}
    # What a free slot writes into its cache is never read.
    return count + 1, state._replace(cache=after.cache, **kept)

  return jax.lax.while_loop(
      lambda carry: (carry[0] < chunk) & jnp.any(carry[1].alive)
      & jnp.all(carry[1].alive == before), body, (jnp.int32(0), state))[1]


def _draw(logits, row, *, temperature, stops, legal, num_tokens):
  """One slot with token `steps`, from `[V]`."""
  logits = model_lib.scale(logits, temperature or 1.0, legal)
  if temperature == 0:
    token, log_prob = jnp.argmax(logits), jnp.zeros(())
  else:
    token = jax.random.categorical(
        jax.random.fold_in(row.keys, row.steps), logits)
    log_prob = logits[token] - jax.nn.logsumexp(logits)
  return row._replace(
      alive=~jnp.isin(token, stops) & (row.steps + 1 < num_tokens),
      tokens=row.tokens.at[row.steps].set(token.astype(jnp.int32)),
      log_probs=row.log_probs.at[row.steps].set(log_prob))


def _read(state, *, stop_ids):
  """Which slots are free, and what was drawn in them, on the host."""
  alive, tokens, log_probs = jax.device_get(
      (state.alive, state.tokens, state.log_probs))
  stopped = np.isin(tokens, stop_ids).astype(np.int32)
  where = np.cumsum(stopped, axis=1) == stopped
  return ~alive, base.ActionSample(tokens, log_probs, where)
