"""Warm start by imitation: maximum likelihood of demonstrated actions.

A policy that never succeeds has nothing to learn from (method 2), so it first
imitates a few demonstrations.
"""

from collections.abc import Callable
import contextlib
import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from step_jax.learning import clipping
from step_jax.learning import loader
from step_jax.policies import base


@functools.partial(
    jax.jit, static_argnames=('log_prob_fn', 'num_steps', 'batch_size',
                              'learning_rate', 'temperature'), donate_argnums=1)
def imitate(
    rng_key: chex.PRNGKey,
    params: Any,
    observations: Any,
    tokens: chex.Array,
    *,
    log_prob_fn: base.LogProbFn,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    temperature: float = 1.0,
) -> tuple[Any, chex.Array]:
  """Fits the policy to demonstrated steps.

  Args:
    rng_key: key of the order in which steps are visited.
    params: fresh parameters; donated.
    observations: pytree of `[S, ...]`.
    tokens: `[S, L]` int32.
    log_prob_fn: a policy's `log_prob`.
    num_steps: AdamW steps, with a cosine decay of the learning rate to 0.
    batch_size: steps sampled, with replacement, for each.
    learning_rate: the first one.
    temperature: of the distribution that is fitted.

  Returns:
    `(params, losses [num_steps])`, negative log-likelihood a step.
  """
  optimizer = make_optimizer(learning_rate, num_steps)
  step = functools.partial(
      take_step, optimizer,
      functools.partial(log_prob_fn, temperature=temperature))

  def body(carry, key):
    rows = draw_rows(key, batch_size, tokens.shape[0])
    return step(carry, *jax.tree.map(
        lambda x: x[rows], (observations, tokens)))

  (params, _), losses = jax.lax.scan(
      body, (params, optimizer.init(params)),
      jax.random.split(rng_key, num_steps))
  return params, jnp.asarray(losses)


def make_optimizer(
    learning_rate: float, num_steps: int) -> optax.GradientTransformation:
  """AdamW, with a cosine decay of the learning rate to 0."""
  schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
  return optax.chain(
      clipping.clip_by_global_norm(1.0), optax.adamw(schedule))


def draw_rows(
    rng_key: chex.PRNGKey, batch_size: int, num_rows: int) -> chex.Array:
  """`[batch_size]` int32, drawn with replacement."""
  return jax.random.randint(rng_key, (batch_size,), 0, num_rows)


def take_step(
    optimizer: optax.GradientTransformation,
    log_prob_fn: Callable[[Any, Any, chex.Array], tuple],
    carry: tuple[Any, Any],
    observations: Any,
    tokens: chex.Array,
) -> tuple[tuple[Any, Any], chex.Array]:
  """One step of maximum likelihood.

  Args:
    optimizer: from `make_optimizer`.
    log_prob_fn: a policy's `log_prob` at the temperature that is fitted.
    carry: parameters and the optimiser's state.
    observations: pytree of `[B, ...]`.
    tokens: `[B, L]` int32.

  Returns:
    The new carry, and the negative log-likelihood a step `[]`.
  """
  params, opt_state = carry

  def loss_fn(params):
    log_probs, _ = log_prob_fn(params, observations, tokens)
    return -jnp.mean(jnp.sum(log_probs, axis=-1))

  loss, gradients = jax.value_and_grad(loss_fn)(params)
  updates, opt_state = optimizer.update(gradients, opt_state, params)
  return (optax.apply_updates(params, updates), opt_state), loss


def imitate_loaded(
    rng_key: chex.PRNGKey,
    params: Any,
    observations: Any,
    tokens: chex.Array,
    *,
    log_prob_fn: base.LogProbFn,
    load: loader.LoadBatches,
    frozen: base.Frozen = base.NOTHING_FROZEN,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    temperature: float = 1.0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[Any, np.ndarray]:
  """`imitate` from the host, of rows that are loaded shortly before.

  They are the same, in the same order. For what is not told here, see there.

  Args:
    observations: stored ones.
    log_prob_fn: reads loaded observations, and what `frozen.join` makes.
    load: see `streaming`.
    frozen: parameters that do not learn.
    on_step: told the number of steps taken, and the last one's loss.

  Returns:
    As there, with the losses in numpy.
  """
  observations, tokens = jax.device_get((observations, tokens))
  optimizer = make_optimizer(learning_rate, num_steps)

  @functools.partial(jax.jit, donate_argnums=1)
  def step(frozen_params, *args):
    return take_step(
        optimizer, lambda params, *rest: log_prob_fn(
            frozen.join(params, frozen_params), *rest,
            temperature=temperature), *args)

  rows = np.asarray(jax.vmap(functools.partial(
      draw_rows, batch_size=batch_size, num_rows=len(tokens)))(
          jax.random.split(rng_key, num_steps)))
  carry, losses = (params, optimizer.init(params)), np.zeros(
      num_steps, np.float32)
  with contextlib.closing(
      load(jax.tree.map(
          lambda x: x[index], observations) for index in rows)) as loaded:
    for number, index in enumerate(rows):
      carry, loss = step(frozen.get(), carry, next(loaded), tokens[index])
      losses[number] = jax.device_get(loss)  # waits for the step
      on_step(number + 1, losses[number])
  return carry[0], losses
