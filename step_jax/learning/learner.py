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

from step_jax.algorithm import losses
from step_jax.algorithm import types
from step_jax.learning import updates
from step_jax.policies import placement as placement_lib


class Learner(NamedTuple):
  """An `init` / `update` pair.

  `init(params) -> LearnerState`; `params` are copied and stay the caller's.
  `update(state, batch) -> (LearnerState, metrics)`; `state` is donated.
  """
  init: Callable[[Any], types.LearnerState]
  update: Callable[
      [types.LearnerState, types.RoundBatch],
      tuple[types.LearnerState, dict[str, chex.Array]]]


class Deal(NamedTuple):
  """Which rows go to which optimiser step: order[bounds[m]:bounds[m+1]]."""
  order: chex.Array  # [S] int32
  bounds: chex.Array  # [num_minibatches + 1] int32


def make_learner(
    log_prob_fn: Callable[[Any, Any, chex.Array], tuple],
    optimizer: optax.GradientTransformation,
    *,
    num_epochs: int = 1,
    num_minibatches: int = 4,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    importance_cap: float = 0.0,
    entropy_bonus: float = 0.0,
    micro_batch_size: int = 8,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> Learner:
  """Builds the learner (method 4).

  `update` takes `num_epochs * num_minibatches` optimiser steps. The rows whose
  advantage is not 0 are shuffled, a function of `state.step`, and cut into
  parts of equal count. Each part's masked sum is divided by (valid tokens of
  the round / num_minibatches). A part without rows takes no step, so a round
  without samples leaves everything as it was. A step whose gradient is not
  finite is skipped, and leaves everything as it was, too:
  `metrics['skipped_steps']` counts them. No copy of the state is kept for it.

  `update` donates the state that it is given: only the one that comes back can
  be used afterwards. `init` copies, so the caller's own `params` stay as they
  are; who needs them no more should drop them.

  Args:
    log_prob_fn: `(params, observation [B, ...], tokens [B, L])` ->
      `(log_probs [B, L], entropy [B, L])`, at the training temperature.
    optimizer: an optax transformation.
    num_epochs: passes over the round.
    num_minibatches: optimiser steps a pass.
    clip_low: the ratio is clipped at 1 - clip_low.
    clip_high: the ratio is clipped at 1 + clip_high.
    importance_cap: see `losses.clipped_surrogate_loss`; unless it is 0, all
      rows are scored once at the beginning of the update, too.
    entropy_bonus: what a nat of a token's entropy is worth beside its share
      of J; 0 leaves the objective as the paper's [choice].
    micro_batch_size: responses computed at once; a group counts K. On a mesh
      the rows of a micro-batch are as many more as it takes to cut them.
    placement: where the state lies, and the rows; whatever else lies on a mesh
      needs one of Auto axes.

  Returns:
    The `Learner`.

  Raises:
    ValueError: if a count is less than 1, or the cap is negative.
  """
  updates.check_options(
      num_epochs, num_minibatches, micro_batch_size, importance_cap,
      entropy_bonus)
  add_micro_batch = updates.micro_batch_adder(
      log_prob_fn, clip_low=clip_low, clip_high=clip_high,
      importance_cap=importance_cap, entropy_bonus=entropy_bonus,
      placement=placement)

  def score_part(params, rows, deal):
    """Log-probs `[S, K, L]` of the useful rows before the first step."""
    if not losses.is_given(importance_cap):
      return rows.log_probs

    def write(index, rows, old_log_probs):
      scores = updates.score(log_prob_fn, params, placement.rows(rows))[0]
      return old_log_probs.at[index].set(scores)
    return _loop(
        write, rows, deal.order, deal.bounds[0], deal.bounds[-1],
        updates.rows_at_once(rows, micro_batch_size, placement),
        rows.log_probs)

  def minibatch(batch, old_log_probs, deals, tokens, progress, part):
    """One optimiser step."""
    normaliser = jnp.maximum(tokens, 1) / num_minibatches
    progress = updates.clear_gradients(progress)
    totals = progress.totals
    for rows, old, deal in zip(updates.parts(batch), old_log_probs, deals):
      def add(index, micro, totals, old=old):
        return add_micro_batch(
            progress.params, micro, old[index], normaliser, totals)
      totals = _loop(
          add, rows, deal.order, deal.bounds[part], deal.bounds[part + 1],
          updates.rows_at_once(rows, micro_batch_size, placement), totals)
    taken = sum(deal.bounds[part + 1] - deal.bounds[part] for deal in deals)
    return placement.pin(updates.take_step(
        optimizer, progress._replace(totals=totals), taken)), None

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, batch):
    tokens = updates.count_tokens(batch)
    old_log_probs = [
        score_part(state.params, rows, deal) for rows, deal in zip(
            updates.parts(batch), deal_rows(
                state.step, 0, batch, num_minibatches=num_minibatches))]

    def epoch(progress, index):
      deals = deal_rows(
          state.step, index, batch, num_minibatches=num_minibatches)
      return jax.lax.scan(
          functools.partial(minibatch, batch, old_log_probs, deals, tokens),
          progress, jnp.arange(num_minibatches))

    progress, _ = jax.lax.scan(
        epoch, updates.start(state), jnp.arange(num_epochs))
    return updates.finish(
        state.step, progress, batch, num_epochs=num_epochs,
        num_minibatches=num_minibatches)

  return Learner(
      functools.partial(updates.init, optimizer, placement), update)


def deal_rows(
    step: chex.Array, epoch: chex.Array, batch: types.RoundBatch, *,
    num_minibatches: int,
) -> list[Deal]:
  """Deals an epoch's useful rows: singles, then groups if there are any.

  Args:
    step: `[]` int, optimiser steps taken before the update.
    epoch: `[]` int.
    batch: the round; its observations are not read.
    num_minibatches: optimiser steps of the epoch.
  """
  round_key = jax.random.fold_in(jax.random.key(0), step)
  single_key, group_key = jax.random.split(
      jax.random.fold_in(round_key, epoch))
  deals = [_deal(single_key, updates.useful(batch.singles),
                 batch.single_units, num_minibatches)]
  if batch.groups is not None:
    useful = updates.useful(batch.groups)
    deals.append(_deal(
        group_key, useful, jnp.arange(useful.shape[0]), num_minibatches))
  return deals


def _deal(
    rng_key: chex.PRNGKey,
    useful: chex.Array,
    units: chex.Array,
    num_minibatches: int,
) -> Deal:
  """Shuffles the useful rows by unit and cuts them into parts."""
  size = useful.shape[0]
  # Of units that draw the same 31 bits, the rows stay together as one unit's.
  drawn = jax.random.bits(rng_key, (size,), jnp.uint32) >> 1
  position = jnp.arange(size, dtype=jnp.int32)
  priority = jnp.where(useful, drawn[units], jnp.uint32(1 << 31))
  order = _stable_order(priority)
  priority = priority[order]
  count = jnp.sum(useful)
  is_first = jnp.concatenate(
      [jnp.ones(1, bool), priority[1:] != priority[:-1]])
  # A unit goes where its first row falls.
  first = jax.lax.cummax(jnp.where(is_first, position, 0))
  part = first * num_minibatches // jnp.maximum(count, 1)
  part = jnp.where(position < count, part, num_minibatches)
  bounds = jnp.searchsorted(part, jnp.arange(num_minibatches + 1))
  return Deal(order, bounds.astype(jnp.int32))


def _stable_order(keys: chex.Array) -> chex.Array:
  """`argsort(keys)` of uint32, equal ones as they come; all sizes below 2^31.

  XLA sorts one array on a CPU in a sixth of the time that it takes for two. So
  digits of the keys, the lowest first, are sorted with the positions below them
  in the same 32 bits.
  """
  position = jnp.arange(keys.shape[0], dtype=jnp.uint32)
  position_bits = max(keys.shape[0] - 1, 1).bit_length()
  order = position
  for shift in range(0, 32, 32 - position_bits):
    digit = keys[order] >> shift << position_bits  # what is above falls out
    order = order[jnp.sort(digit | position) & ((1 << position_bits) - 1)]
  return order.astype(jnp.int32)


def _loop(
    function: Callable[..., Any],
    batch: types.StepBatch,
    order: chex.Array,
    start: chex.Array,
    stop: chex.Array,
    size: int,
    result: Any,
) -> Any:
  """`result = function(index, rows, result)` of rows `order[start:stop]`.

  There are `size` of them at once, and `index` are their numbers.
  """
  def body(state):
    position, result = state
    index = position + jnp.arange(size)
    # Idle rows repeat a useful one, so that what is masked is never read.
    rows = order[jnp.minimum(index, stop - 1)]
    return position + size, function(
        rows, _take(batch, rows, index < stop), result)

  return jax.lax.while_loop(
      lambda state: state[0] < stop, body, (start, result))[1]


def _take(
    batch: types.StepBatch, rows: chex.Array, taken: chex.Array
) -> types.StepBatch:
  """A micro-batch; rows that are not taken are masked."""
  micro = jax.tree.map(lambda x: x.at[rows].get(mode='clip'), batch)
  return dataclasses.replace(micro, mask=micro.mask & taken[:, None])
