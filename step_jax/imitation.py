"""Warm start by imitation: maximum likelihood of demonstrated actions.

A policy that never succeeds has nothing to learn from (method 2), so it first
imitates a few demonstrations.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

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
  schedule = optax.cosine_decay_schedule(learning_rate, num_steps)
  optimizer = optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(schedule))

  def loss_fn(params, rows):
    observation, token = jax.tree.map(
        lambda x: x[rows], (observations, tokens))
    log_probs, _ = log_prob_fn(
        params, observation, token, temperature=temperature)
    return -jnp.mean(jnp.sum(log_probs, axis=-1))

  def step(carry, key):
    params, opt_state = carry
    rows = jax.random.randint(key, (batch_size,), 0, tokens.shape[0])
    loss, gradients = jax.value_and_grad(loss_fn)(params, rows)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  (params, _), losses = jax.lax.scan(
      step, (params, optimizer.init(params)),
      jax.random.split(rng_key, num_steps))
  return params, jnp.asarray(losses)
