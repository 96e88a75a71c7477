"""The update: one jitted function for rounds of any number of samples.

A round is padded to a fixed shape, but only its valid rows are computed: they
are dealt out to the optimiser steps and visited by a traced number of
micro-batches of a fixed size. One compilation serves a whole run.
"""

import dataclasses
import functools
from typing import Any, Callable, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from step_jax import losses
from step_jax import types


class Learner(NamedTuple):
  """An `init` / `update` pair.

  `init(params) -> LearnerState`.
  `update(state, batch) -> (LearnerState, metrics)`; `state` is donated.
  """
  init: Callable[[Any], types.LearnerState]
  update: Callable[
      [types.LearnerState, types.RoundBatch],
      tuple[types.LearnerState, dict[str, chex.Array]]]


def make_learner(
    log_prob_fn: Callable[[Any, Any, chex.Array], tuple],
    optimizer: optax.GradientTransformation,
    *,
    num_epochs: int = 1,
    num_minibatches: int = 4,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    micro_batch_size: int = 8,
    row_sharding: jax.sharding.Sharding | None = None,
) -> Learner:
  """Builds the learner (method 4).

  `update` takes `num_epochs * num_minibatches` optimiser steps. The rows whose
  advantage is not 0 are shuffled, a function of `state.step`, and cut into
  parts of equal count. Each part's masked sum is divided by (valid tokens of
  the round / num_minibatches). A part without rows takes no step, so a round
  without samples leaves everything as it was. If a gradient is not finite
  the whole update is refused: the state comes back as it was, and
  `metrics['finite']` is False.

  Args:
    log_prob_fn: `(params, observation [B, ...], tokens [B, L])` ->
      `(log_probs [B, L], entropy [B, L])`, at the training temperature.
    optimizer: an optax transformation.
    num_epochs: passes over the round.
    num_minibatches: optimiser steps a pass.
    clip_low: the ratio is clipped at 1 - clip_low.
    clip_high: the ratio is clipped at 1 + clip_high.
    micro_batch_size: responses computed at once; a group counts K.
    row_sharding: where the rows of a micro-batch are placed, for a mesh whose
      data axis divides `micro_batch_size`.

  Returns:
    The `Learner`.

  Raises:
    ValueError: if a count is less than 1.
  """
  for name, value in dict(
      num_epochs=num_epochs, num_minibatches=num_minibatches,
      micro_batch_size=micro_batch_size).items():
    if value < 1:
      raise ValueError(f'expected {name} >= 1, got {value}')

  def loss_fn(params, rows: types.StepBatch, normaliser):
    """-J of a micro-batch, and sums for the metrics."""
    score = jax.vmap(
        functools.partial(log_prob_fn, params, rows.observations),
        in_axes=1, out_axes=1)
    log_probs, entropy = score(rows.actions)
    where = rows.token_mask & rows.mask[..., None]
    clip: dict[str, Any] = dict(
        clip_low=clip_low, clip_high=clip_high, where=where)
    loss = losses.clipped_surrogate_loss(
        log_probs, rows.log_probs, rows.advantages, normaliser=normaliser,
        **clip)
    sums = losses.surrogate_statistics(
        jax.lax.stop_gradient(log_probs), rows.log_probs, rows.advantages,
        **clip)
    sums['entropy'] = jnp.sum(jnp.where(where, entropy, 0))
    return loss, sums | {'loss': loss}

  def add_rows(params, batch, deal, part, normaliser, carry):
    """Adds the gradients and sums of one part of a batch."""
    num_candidates = batch.mask.shape[1]
    size = max(1, micro_batch_size // num_candidates)
    start, stop = deal.bounds[part], deal.bounds[part + 1]

    def body(state):
      position, (gradients, sums, computed) = state
      index = position + jnp.arange(size)
      taken = index < stop
      # Idle rows repeat a useful one, so that what is masked is never read.
      rows = _take(batch, deal.order[jnp.minimum(index, stop - 1)], taken)
      if row_sharding is not None and size % row_sharding.num_devices == 0:
        rows = jax.lax.with_sharding_constraint(rows, row_sharding)
      (_, extra), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
          params, rows, normaliser)
      return position + size, (
          jax.tree.map(jnp.add, gradients, gradient),
          jax.tree.map(jnp.add, sums, extra),
          computed + size * num_candidates)

    return jax.lax.while_loop(
        lambda state: state[0] < stop, body, (start, carry))[1]

  def minibatch(batch, deals, tokens, carry, part):
    """One optimiser step."""
    params, opt_state, step, sums, computed, norm, finite = carry
    normaliser = jnp.maximum(tokens, 1) / num_minibatches
    gradients = jax.tree.map(jnp.zeros_like, params)
    state = (gradients, sums, computed)
    for rows, deal in zip(_parts(batch), deals):
      state = add_rows(params, rows, deal, part, normaliser, state)
    gradients, sums, computed = state
    taken = sum(deal.bounds[part + 1] - deal.bounds[part] for deal in deals)
    gradient_norm = optax.tree.norm(gradients)

    def apply(_):
      updates, new_opt_state = optimizer.update(gradients, opt_state, params)
      return optax.apply_updates(params, updates), new_opt_state, step + 1

    params, opt_state, step = jax.lax.cond(
        taken > 0, apply, lambda _: (params, opt_state, step), None)
    return (params, opt_state, step, sums, computed, norm + gradient_norm,
            finite & jnp.isfinite(gradient_norm)), None

  def init(params):
    return types.LearnerState(
        params=params, opt_state=optimizer.init(params),
        step=jnp.zeros((), jnp.int32))

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, batch):
    round_key = jax.random.fold_in(jax.random.key(0), state.step)
    tokens = sum(
        jnp.sum(rows.token_mask & _useful(rows)[:, None, None]
                & rows.mask[..., None])
        for rows in _parts(batch))
    zero = jnp.zeros(())
    carry = (state.params, state.opt_state, state.step,
             dict.fromkeys(('loss', 'clipped', 'kl', 'entropy'), zero),
             jnp.zeros((), jnp.int32), zero, jnp.ones((), bool))

    def epoch(carry, index):
      single_key, group_key = jax.random.split(
          jax.random.fold_in(round_key, index))
      deals = [_deal(single_key, _useful(batch.singles), batch.single_units,
                     num_minibatches)]
      if batch.groups is not None:
        groups = _useful(batch.groups)
        deals.append(_deal(group_key, groups, jnp.arange(groups.shape[0]),
                           num_minibatches))
      return jax.lax.scan(
          functools.partial(minibatch, batch, deals, tokens), carry,
          jnp.arange(num_minibatches))

    carry, _ = jax.lax.scan(epoch, carry, jnp.arange(num_epochs))
    params, opt_state, step, sums, computed, norm, finite = carry
    new = types.LearnerState(params=params, opt_state=opt_state, step=step)
    kept = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), new, state)
    steps = jnp.maximum(step - state.step, 1)
    seen = jnp.maximum(tokens, 1) * num_epochs
    return kept, {
        'loss': sums['loss'] / (num_epochs * num_minibatches),
        'grad_norm': norm / steps,
        'entropy': sums['entropy'] / seen,
        'clip_fraction': sums['clipped'] / seen,
        'approx_kl': sums['kl'] / seen,
        'mean_abs_advantage': _mean_abs_advantage(batch),
        'optimizer_steps': jnp.where(finite, step - state.step, 0),
        'step_samples': sum(
            jnp.sum(_useful(rows)) for rows in _parts(batch)),
        'rows_computed': computed,
        'rows_useful': num_epochs * sum(
            jnp.sum(_useful(rows)) * rows.mask.shape[1]
            for rows in _parts(batch)),
        'finite': finite,
    }

  return Learner(init, update)


class _Deal(NamedTuple):
  """Which rows go to which optimiser step: order[bounds[m]:bounds[m+1]]."""
  order: chex.Array  # [S] int32
  bounds: chex.Array  # [num_minibatches + 1] int32


def _parts(batch: types.RoundBatch) -> list[types.StepBatch]:
  return [rows for rows in (batch.singles, batch.groups) if rows is not None]


def _useful(batch: types.StepBatch) -> chex.Array:
  """`[S]`: rows with a signal; the others are neither computed nor counted."""
  return jnp.any(batch.mask & (batch.advantages != 0), axis=1)


def _deal(
    rng_key: chex.PRNGKey,
    useful: chex.Array,
    units: chex.Array,
    num_minibatches: int,
) -> _Deal:
  """Shuffles the useful rows by unit and cuts them into parts."""
  size = useful.shape[0]
  priority = jax.random.permutation(rng_key, size)[units]
  order = jnp.lexsort((priority, ~useful)).astype(jnp.int32)
  count = jnp.sum(useful)
  position = jnp.arange(size)
  sorted_units = units[order]
  is_first = jnp.concatenate(
      [jnp.ones(1, bool), sorted_units[1:] != sorted_units[:-1]])
  # A unit goes where its first row falls.
  first = jax.lax.cummax(jnp.where(is_first, position, 0))
  part = first * num_minibatches // jnp.maximum(count, 1)
  part = jnp.where(position < count, part, num_minibatches)
  bounds = jnp.searchsorted(part, jnp.arange(num_minibatches + 1))
  return _Deal(order, bounds.astype(jnp.int32))


def _take(
    batch: types.StepBatch, rows: chex.Array, taken: chex.Array
) -> types.StepBatch:
  """A micro-batch; rows that are not taken are masked."""
  micro = jax.tree.map(lambda x: x.at[rows].get(mode='clip'), batch)
  return dataclasses.replace(micro, mask=micro.mask & taken[:, None])


def _mean_abs_advantage(batch: types.RoundBatch) -> chex.Array:
  """Mean |A| of the responses that carry a signal."""
  pairs = [
      (jnp.abs(rows.advantages), rows.mask & _useful(rows)[:, None])
      for rows in _parts(batch)]
  total = sum(jnp.sum(jnp.where(mask, x, 0)) for x, mask in pairs)
  return total / jnp.maximum(sum(jnp.sum(mask) for _, mask in pairs), 1)
