"""The clipped surrogate objective, one for every method (method 4)."""

import chex
import jax
import jax.numpy as jnp

from step_jax.algorithm import masking

# exp() of a larger log-ratio overflows float32 in the gradient; the clip range
# is left long before.
_MAX_LOG_RATIO = 20.0


def is_given(weight: chex.Array | float) -> bool:
  """Whether an option that 0 switches off is on; a traced one may be."""
  return isinstance(weight, jax.core.Tracer) or bool(weight)


def clipped_surrogate_loss(
    log_probs: chex.Array,
    behaviour_log_probs: chex.Array,
    advantages: chex.Array,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    importance_cap: float = 0.0,
    old_log_probs: chex.Array | None = None,
    where: chex.Array,
    normaliser: chex.Array | float | None = None,
) -> chex.Array:
  """-J, J = sum of min(rho A, clip(rho, 1 - low, 1 + high) A) / valid tokens.

  A sampler with other kernels or precision than the learner is another policy,
  even at the same parameters. With `importance_cap` C that difference is taken
  out of rho, and corrected by truncated importance sampling, as others do where
  rollout and training engines differ: rho is against the learner's own pi_old,
  and each token's term is weighted by min(pi_old / pi_behaviour, C), which
  carries no gradient.

  Args:
    log_probs: `[..., L]` of the policy being trained.
    behaviour_log_probs: `[..., L]` of the policy that produced the tokens,
      under the same temperature and legality masks.
    advantages: `[...]`, one for each response, or `[..., L]`, one for each
      token.
    clip_low: rho is clipped at 1 - clip_low.
    clip_high: rho is clipped at 1 + clip_high.
    importance_cap: C; 0 takes rho against the behaviour policy, unweighted.
      May be traced, as the bounds may.
    old_log_probs: `[..., L]` of the learner's policy at the beginning of the
      update, a constant; read if there is a cap, or it is traced.
    where: `[..., L]` bool, valid tokens; or numbers, 0 where they are not.
    normaliser: what the masked sum is divided by; its own number of valid
      tokens by default. Pass the round's number of tokens per optimiser step
      so that padding and splitting never change the gradient's meaning.

  Returns:
    `[]` the loss; 0 if nothing is valid.

  Raises:
    ValueError: for a cap without `old_log_probs`.
  """
  where = jnp.asarray(where).astype(bool)
  reference, has_cap = behaviour_log_probs, is_given(importance_cap)
  if has_cap:
    if old_log_probs is None:
      raise ValueError('expected old_log_probs with importance_cap, got None')
    chex.assert_equal_shape([old_log_probs, behaviour_log_probs])
    # A traced cap may be 0.
    reference = jnp.where(
        importance_cap != 0,
        masking.as_float(jax.lax.stop_gradient(old_log_probs)),
        masking.as_float(behaviour_log_probs))
  ratio, advantages = _ratio(log_probs, reference, advantages, where)
  clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
  objective = jnp.minimum(ratio * advantages, clipped * advantages)
  if has_cap:
    weight = _exp_difference(
        reference, jax.lax.stop_gradient(behaviour_log_probs), where)
    objective *= jnp.where(
        importance_cap != 0, jnp.minimum(weight, importance_cap), 1)
  if normaliser is None:
    normaliser = jnp.sum(where)
  # Nothing valid is divided by 1.
  normaliser = jnp.where(normaliser == 0, 1, normaliser)
  return -masking.masked_sum(objective, where) / masking.as_float(normaliser)


def surrogate_statistics(
    log_probs: chex.Array,
    behaviour_log_probs: chex.Array,
    advantages: chex.Array,
    *,
    clip_low: float,
    clip_high: float,
    where: chex.Array,
) -> dict[str, chex.Array]:
  """Sums over valid tokens that tell how far the policy has moved.

  The arguments are those of `clipped_surrogate_loss`.

  Returns:
    `clipped`: tokens whose gradient the clip removes; `kl`: the estimator
    rho - 1 - log rho of KL(behaviour || policy), summed.
  """
  ratio, advantages = _ratio(
      log_probs, behaviour_log_probs, advantages, where)
  clipped = jnp.where(
      advantages > 0, ratio > 1 + clip_high,
      (advantages < 0) & (ratio < 1 - clip_low))
  kl = ratio - 1 - jnp.log(ratio)
  return {
      'clipped': masking.masked_sum(clipped.astype(jnp.float32), where),
      'kl': masking.masked_sum(kl, where),
  }


def _ratio(
    log_probs: chex.Array,
    behaviour_log_probs: chex.Array,
    advantages: chex.Array,
    where: chex.Array,
) -> tuple[chex.Array, chex.Array]:
  """rho and the advantages of each token `[..., L]`, 1 and 0 where masked."""
  ratio = _exp_difference(log_probs, behaviour_log_probs, where)
  advantages = masking.as_float(advantages)
  if advantages.ndim < log_probs.ndim:  # one for each response
    chex.assert_shape(advantages, log_probs.shape[:-1])
    advantages = jnp.broadcast_to(advantages[..., None], log_probs.shape)
  chex.assert_equal_shape([advantages, log_probs])
  return ratio, jnp.where(where, advantages, 0)


def _exp_difference(
    log_probs: chex.Array, others: chex.Array, where: chex.Array
) -> chex.Array:
  """pi / pi' of each token `[..., L]`, 1 where masked."""
  chex.assert_equal_shape([log_probs, others, where])
  # Selected before the difference: -inf - -inf behind the mask would be NaN.
  log_probs, others = (
      jnp.where(where, masking.as_float(x), 0) for x in (log_probs, others))
  log_ratio = log_probs - others
  return jnp.exp(jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
