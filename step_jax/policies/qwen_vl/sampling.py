"""Sampling with a cache, and the log-probs of what was sampled.

A prompt and its images are read once for all K responses to it. Its keys and
values `[layers, B, P, G, d]` are a constant of the loop over tokens; only those
of the responses, `[layers, B, K, L, G, d]`, are written in it. The learner's
log-probs go through the same two functions, `Model.prefill` and
`Model.respond`, with all tokens of a response at once.
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

_CHUNK = 8  # tokens of a response whose logits the learner holds at once


class Sampler(NamedTuple):
  """A model as pure functions of loaded prompts, padded on the left.

  `sample_many` gives K responses to each prompt, `[B, K, L]` for keys `[B, K]`;
  row (b, k) equals that of `sample` with the same key up to float rounding.
  All but `init` are jitted with a static temperature.
  """
  init: base.InitFn
  sample: base.SampleFn
  sample_many: base.SampleFn
  log_prob: base.LogProbFn


def make_policy(
    model: model_lib.Model,
    *,
    num_tokens: int,
    stop_ids: Sequence[int],
    legal: np.ndarray | None = None,
) -> Sampler:
  """Builds the functions of a model.

  Token t of a response is drawn with `fold_in(key of its row, t)`, so that a
  row depends on its key and its prompt alone. What follows a stop token is
  masked: token 0, log-prob and entropy 0. `log_prob` may be mapped over
  candidates of `tokens`; what depends on the prompt alone, its images and its
  pass through the layers, is then still computed once.

  Args:
    model: of any family.
    num_tokens: L, at most so many tokens a response.
    stop_ids: a response ends with the first of these.
    legal: `[V]` bool, the tokens that may be drawn; by default all.

  Returns:
    The `Sampler`. `log_prob` raises ValueError at temperature 0, where a
    rounding error decides between log-probs 0 and minus infinity.

  Raises:
    ValueError: for an empty response, or for `legal` that is not `[V]` or
      forbids a stop token.
  """
  _check(model.config.text.vocabulary, num_tokens, stop_ids, legal)
  options: dict[str, Any] = dict(
      model=model, stops=jnp.asarray(stop_ids, jnp.int32),
      legal=None if legal is None else jnp.asarray(legal))

  @functools.partial(jax.jit, static_argnames='temperature')
  def sample_many(params, rng_keys, inputs, *, temperature):
    return _sample(
        params, rng_keys, inputs, num_tokens=num_tokens,
        temperature=temperature, **options)

  @functools.partial(jax.jit, static_argnames='temperature')
  def sample(params, rng_keys, inputs, *, temperature):
    drawn = sample_many(
        params, rng_keys[:, None], inputs, temperature=temperature)
    return jax.tree.map(lambda x: x[:, 0], drawn)

  @functools.partial(jax.jit, static_argnames='temperature')
  def log_prob(params, inputs, tokens, *, temperature):
    return _log_prob(
        params, inputs, tokens, temperature=temperature, **options)

  return Sampler(
      jax.jit(functools.partial(model_lib.init_params, model)), sample,
      sample_many,
      log_prob)


def _check(vocabulary, num_tokens, stop_ids, legal):
  if num_tokens < 1:
    raise ValueError(f'expected num_tokens >= 1, got {num_tokens}')
  if any(not 0 <= token < vocabulary for token in stop_ids):
    raise ValueError(
        f'expected stop ids under {vocabulary}, got {list(stop_ids)}')
  if legal is None:
    return
  if legal.shape != (vocabulary,) or legal.dtype != bool:
    raise ValueError(
        f'expected legal of [{vocabulary}] bool, got {legal.shape} '
        f'{legal.dtype}')
  if not legal.any() or not legal[list(stop_ids)].all():
    raise ValueError(
        f'expected legal to allow the stop ids {list(stop_ids)}, got less')


class _State(NamedTuple):
  """The loop over tokens."""
  step: chex.Array  # [] int32, the token that was drawn last
  alive: chex.Array  # [B, K] bool, False once stopped
  tokens: chex.Array  # [B, K, L] int32
  log_probs: chex.Array  # [B, K, L] float32
  cache: text_lib.Cache  # [layers, B, K, L, G, d], of tokens before `step`


def _sample(
    params, rng_keys, inputs, *, model, num_tokens, stops, legal, temperature):
  """`ActionSample` of `[B, K, L]` for keys `[B, K]`."""
  apply = functools.partial(model.apply, {'params': params})
  draw = functools.partial(
      _draw, rng_keys=rng_keys, stops=stops, legal=legal,
      temperature=temperature, placement=model.placement)
  rows = rng_keys.shape
  shape = (*rows, num_tokens)
  prompt = apply(inputs, method='prefill')
  logits = apply(prompt.hidden, method='logits')[:, None]
  state = draw(
      jnp.broadcast_to(logits, (*rows, logits.shape[-1])),
      _State(
          step=jnp.zeros((), jnp.int32), alive=jnp.ones(rows, bool),
          tokens=jnp.zeros(shape, jnp.int32), log_probs=jnp.zeros(shape),
          cache=model.empty_cache(*shape)))

  def body(state):
    token = jax.lax.dynamic_slice_in_dim(state.tokens, state.step, 1, axis=2)
    hidden, new = apply(
        token, prompt, state.cache, state.step, method='respond')
    cache = jax.tree.map(
        lambda old, new: jax.lax.dynamic_update_slice_in_dim(
            old, new, state.step, axis=3), state.cache, new)
    return draw(
        apply(hidden[:, :, 0], method='logits'),
        state._replace(step=state.step + 1, cache=cache))

  state = jax.lax.while_loop(
      lambda state: (state.step < num_tokens - 1) & jnp.any(state.alive),
      body, state)
  return model.placement.whole(base.ActionSample(
      state.tokens, state.log_probs, _token_mask(state.tokens, stops)))


def _draw(logits, state, *, rng_keys, stops, legal, temperature, placement):
  """The state with token `step` of every response, from `[B, K, V]`."""
  logits = placement.cut(
      model_lib.scale(logits, temperature or 1.0, legal), None, None,
      ('data', 'model'))
  if temperature == 0:
    token = jnp.argmax(logits, axis=-1)
    log_prob = jnp.zeros(token.shape)
  else:
    token = jax.vmap(jax.vmap(
        lambda key, row: jax.random.categorical(
            jax.random.fold_in(key, state.step), row)))(rng_keys, logits)
    chosen = model_lib.choose(logits, token, placement)
    log_prob = chosen - jax.nn.logsumexp(logits, axis=-1)

  def write(old, new):
    return old.at[..., state.step].set(
        jnp.where(state.alive, new, 0).astype(old.dtype))

  return state._replace(
      alive=state.alive & ~jnp.isin(token, stops),
      tokens=write(state.tokens, token),
      log_probs=write(state.log_probs, log_prob))


def _log_prob(params, inputs, tokens, *, model, stops, legal, temperature):
  """Log-probs and entropies, both `[B, L]` float32."""
  if temperature <= 0:
    raise ValueError(
        f'expected a temperature over 0 for log_prob, got {temperature}')
  apply = functools.partial(model.apply, {'params': params})
  where = _token_mask(tokens, stops)
  tokens = jnp.where(where, tokens, 0)
  prompt = apply(inputs, method='prefill')
  hidden, _ = apply(tokens[:, None, :-1], prompt, method='respond')
  hidden = jnp.concatenate([prompt.hidden[:, None], hidden[:, 0]], axis=1)
  scores = model_lib.token_log_probs(
      hidden, apply(method='table'), tokens, temperature=temperature,
      legal=legal, chunk=_CHUNK, placement=model.placement)
  return jax.tree.map(lambda x: jnp.where(where, x, 0), scores)


def _token_mask(tokens, stops):
  """`[..., L]` bool, True up to and with the first stop token."""
  is_stop = jnp.isin(tokens, stops).astype(jnp.int32)
  return jnp.cumsum(is_stop, axis=-1) == is_stop
