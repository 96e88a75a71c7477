"""What an update is made of, whoever brings the rows.

The loss of a micro-batch, the optimiser step and the metrics: pure functions
that `learner` puts into one jitted loop and `streaming` drives from the host.
"""

import functools
from typing import Any, Callable, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from step_jax.algorithm import losses
from step_jax.algorithm import masking
from step_jax.algorithm import types
from step_jax.policies import placement as placement_lib


class Totals(NamedTuple):
  """What micro-batches add up to."""
  gradients: Any  # of the step, at least float32; None between two of them
  sums: dict[str, chex.Array]  # of the whole update
  computed: chex.Array  # [] int32, responses of the whole update


class Progress(NamedTuple):
  """An update on its way."""
  params: Any
  opt_state: Any
  step: chex.Array  # [] int32
  totals: Totals
  norm: chex.Array  # [] gradient norms of the steps taken, added up
  skipped: chex.Array  # [] int32, steps whose gradient was not finite


def check_options(
    num_epochs: int, num_minibatches: int, micro_batch_size: int,
    importance_cap: float, entropy_bonus: float) -> None:
  """Raises ValueError if a count is less than 1, or a weight is negative.

  A traced weight is not checked.
  """
  for name, value in dict(
      num_epochs=num_epochs, num_minibatches=num_minibatches,
      micro_batch_size=micro_batch_size).items():
    if value < 1:
      raise ValueError(f'expected {name} >= 1, got {value}')
  for name, weight in dict(
      importance_cap=importance_cap, entropy_bonus=entropy_bonus).items():
    if not isinstance(weight, jax.core.Tracer) and weight < 0:
      raise ValueError(f'expected {name} >= 0, got {weight}')


def init(
    optimizer: optax.GradientTransformation,
    placement: placement_lib.Placement,
    params: Any,
) -> types.LearnerState:
  """The state before the first update.

  Args:
    optimizer: an optax transformation.
    placement: of the state; without a mesh each leaf stays where it lies.
    params: copied, since an update donates the state.
  """
  params = placement.place(jax.tree.map(jnp.copy, params))
  return placement.place(types.LearnerState(
      params=params, opt_state=optimizer.init(params),
      step=jnp.zeros((), jnp.int32)))


def start(state: types.LearnerState) -> Progress:
  """An update that has seen nothing yet."""
  zero = jnp.zeros(())
  sums = dict.fromkeys(('loss', 'clipped', 'kl', 'entropy'), zero)
  return Progress(
      state.params, state.opt_state, state.step,
      Totals(None, sums, jnp.zeros((), jnp.int32)), zero,
      jnp.zeros((), jnp.int32))


def clear_gradients(progress: Progress) -> Progress:
  """Makes ready for the micro-batches of an optimiser step."""
  zeros = jax.tree.map(
      lambda x: jnp.zeros_like(x, dtype=masking.sum_type(x)), progress.params)
  return progress._replace(totals=progress.totals._replace(gradients=zeros))


def rows_at_once(
    rows: types.StepBatch, micro_batch_size: int,
    placement: placement_lib.Placement) -> int:
  """Rows of a micro-batch, of `micro_batch_size` responses if K allows.

  At least one for each part of a mesh: a group stays together, as its
  responses share a prompt.
  """
  return placement.pad(max(1, micro_batch_size // rows.mask.shape[1]))


def micro_batch_adder(
    log_prob_fn: Callable[[Any, Any, chex.Array], tuple],
    *,
    clip_low: float,
    clip_high: float,
    importance_cap: float,
    entropy_bonus: float,
    placement: placement_lib.Placement,
) -> Callable[..., Totals]:
  """`(params, rows, old_log_probs, normaliser, totals) -> totals`.

  For the arguments, see `learner.make_learner`; `old_log_probs [S, K, L]` are
  `score`'s at the beginning of the update, read if there is a cap.
  """
  loss_fn = functools.partial(
      _micro_batch_loss, log_prob_fn, clip_low=clip_low, clip_high=clip_high,
      importance_cap=importance_cap, entropy_bonus=entropy_bonus)
  return functools.partial(_add_micro_batch, loss_fn, placement=placement)


def score(
    log_prob_fn: Callable[[Any, Any, chex.Array], tuple], params: Any,
    rows: types.StepBatch) -> tuple[chex.Array, chex.Array]:
  """Log-probs and entropies of a micro-batch, `[S, K, L]`."""
  return jax.vmap(
      functools.partial(log_prob_fn, params, rows.observations),
      in_axes=1, out_axes=1)(rows.actions)


def _micro_batch_loss(
    log_prob_fn: Callable[[Any, Any, chex.Array], tuple],
    params: Any,
    rows: types.StepBatch,
    old_log_probs: chex.Array,
    normaliser: chex.Array,
    *,
    clip_low: float,
    clip_high: float,
    importance_cap: float,
    entropy_bonus: float,
) -> tuple[chex.Array, dict[str, chex.Array]]:
  """-J of a micro-batch, and sums over its tokens for the metrics.

  Args:
    log_prob_fn: see `learner.make_learner`, as for the options below.
    params: of the policy being trained.
    rows: the micro-batch.
    old_log_probs: at the beginning of the update, read if there is a cap.
    normaliser: tokens of the round per optimiser step.
    clip_low: the ratio is clipped at 1 - clip_low.
    clip_high: the ratio is clipped at 1 + clip_high.
    importance_cap: see `losses.clipped_surrogate_loss`.
    entropy_bonus: what a nat of entropy is worth.
  """
  log_probs, entropy = score(log_prob_fn, params, rows)
  if not losses.is_given(importance_cap):
    old_log_probs = rows.log_probs
  where = rows.token_mask & rows.mask[..., None]
  clip: dict[str, Any] = dict(
      clip_low=clip_low, clip_high=clip_high, where=where)
  loss = losses.clipped_surrogate_loss(
      log_probs, rows.log_probs, rows.advantages, normaliser=normaliser,
      importance_cap=importance_cap, old_log_probs=old_log_probs, **clip)
  sums = losses.surrogate_statistics(
      jax.lax.stop_gradient(log_probs), old_log_probs, rows.advantages, **clip)
  sums |= {'loss': loss, 'entropy': masking.masked_sum(entropy, where)}
  if losses.is_given(entropy_bonus):
    loss -= entropy_bonus * sums['entropy'] / normaliser
  return loss, sums


def _add_micro_batch(
    loss_fn: Callable[..., tuple],
    params: Any,
    rows: types.StepBatch,
    old_log_probs: chex.Array,
    normaliser: chex.Array,
    totals: Totals,
    *,
    placement: placement_lib.Placement,
) -> Totals:
  """Adds the gradients and sums of a micro-batch, placed as is asked."""
  size, num_candidates = rows.mask.shape
  (_, extra), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
      params, *placement.rows((rows, old_log_probs)), normaliser)
  return Totals(
      placement.pin(jax.tree.map(
          lambda total, x: total + x.astype(total.dtype), totals.gradients,
          gradient)),
      jax.tree.map(jnp.add, totals.sums, extra),
      totals.computed + size * num_candidates)


def take_step(
    optimizer: optax.GradientTransformation,
    progress: Progress,
    taken: chex.Array,
) -> Progress:
  """One optimiser step by the gradients in `progress`.

  None if no row was taken, or if a gradient is not finite: that is counted.
  """
  params, opt_state, step, totals, norm, skipped = progress
  # Summed in float32, but the optimiser's state is of the parameters' type.
  gradients = jax.tree.map(
      lambda x, y: x.astype(y.dtype), totals.gradients, params)
  # Of what the optimiser reads: a finite sum may be too large for float16.
  gradient_norm = optax.tree.norm(jax.tree.map(masking.as_float, gradients))
  finite = jnp.isfinite(gradient_norm)

  def apply(_):
    updates, new_opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), new_opt_state, step + 1

  params, opt_state, step = jax.lax.cond(
      (taken > 0) & finite, apply, lambda _: (params, opt_state, step), None)
  return Progress(
      params, opt_state, step, totals._replace(gradients=None),
      norm + jnp.where(finite, gradient_norm, 0),
      skipped + jnp.where(finite, 0, 1))


def finish(
    first_step: chex.Array,
    progress: Progress,
    batch: types.RoundBatch,
    *,
    num_epochs: int,
    num_minibatches: int,
) -> tuple[types.LearnerState, dict[str, chex.Array]]:
  """The state after an update, and its metrics; observations are not read."""
  params, opt_state, step, totals, norm, skipped = progress
  state = types.LearnerState(params=params, opt_state=opt_state, step=step)
  sums = totals.sums
  steps = step - first_step
  seen = masking.as_float(
      jnp.maximum(count_tokens(batch), 1) * num_epochs)
  return state, {
      'loss': sums['loss'] / (num_epochs * num_minibatches),
      'grad_norm': norm / jnp.maximum(steps, 1).astype(norm.dtype),
      'entropy': sums['entropy'] / seen,
      'clip_fraction': sums['clipped'] / seen,
      'approx_kl': sums['kl'] / seen,
      'mean_abs_advantage': _mean_abs_advantage(batch),
      'optimizer_steps': steps,
      'skipped_steps': skipped,
      'step_samples': sum(jnp.sum(useful(rows)) for rows in parts(batch)),
      'rows_computed': totals.computed,
      'rows_useful': num_epochs * sum(
          jnp.sum(useful(rows)) * rows.mask.shape[1]
          for rows in parts(batch)),
  }


def parts(batch: types.RoundBatch) -> list[types.StepBatch]:
  """Singles, and groups if there are any."""
  return [rows for rows in (batch.singles, batch.groups) if rows is not None]


def useful(batch: types.StepBatch) -> chex.Array:
  """`[S]`: rows with a signal; the others are neither computed nor counted."""
  return jnp.any(batch.mask & (batch.advantages != 0), axis=1)


def count_tokens(batch: types.RoundBatch) -> chex.Array:
  """Valid tokens of the useful rows."""
  return sum(
      jnp.sum(rows.token_mask & useful(rows)[:, None, None]
              & rows.mask[..., None])
      for rows in parts(batch))


def _mean_abs_advantage(batch: types.RoundBatch) -> chex.Array:
  """Mean |A| of the responses that carry a signal."""
  pairs = [
      (jnp.abs(rows.advantages), rows.mask & useful(rows)[:, None])
      for rows in parts(batch)]
  total = sum(masking.masked_sum(x, mask) for x, mask in pairs)
  return total / masking.as_float(
      jnp.maximum(sum(jnp.sum(mask) for _, mask in pairs), 1))
