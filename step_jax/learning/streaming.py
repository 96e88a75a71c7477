"""Learning from observations that are too large to be held all at once.

The host walks through the micro-batches of `learner` and `credit`, and what an
observation names, such as pictures, is loaded shortly before it is read. What
comes out is the same; only useful rows are loaded.

`load` maps batches of stored rows, pytrees of numpy `[B, ...]`, to what the
policy reads, lazily and in order; it is a generator function, such as
`functools.partial(loader.prefetch, policy.load)`.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from step_jax.algorithm import credit
from step_jax.algorithm import losses
from step_jax.algorithm import types
from step_jax.learning import alternatives
from step_jax.learning import learner as learner_lib
from step_jax.learning import loader
from step_jax.learning import updates
from step_jax.policies import base
from step_jax.policies import placement as placement_lib


def make_learner(
    log_prob_fn: Callable[[Any, Any, chex.Array], tuple],
    optimizer: optax.GradientTransformation,
    *,
    load: loader.LoadBatches,
    frozen: base.Frozen = base.NOTHING_FROZEN,
    num_epochs: int = 1,
    num_minibatches: int = 4,
    clip_low: float = 0.2,
    clip_high: float = 0.3,
    importance_cap: float = 0.0,
    entropy_bonus: float = 0.0,
    micro_batch_size: int = 8,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> learner_lib.Learner:
  """Builds `learner.make_learner`'s learner, driven from the host.

  `update` takes a batch with stored observations. Loaded batches on their way
  to the device are bounded, too: it waits for each micro-batch. Its first
  optimiser step donates the state; if `load` fails later, the state is lost.

  For what is not told here, see `learner.make_learner`.

  Args:
    log_prob_fn: reads loaded observations, and what `frozen.join` makes.
    load: see above.
    frozen: parameters that do not learn.
  """
  updates.check_options(
      num_epochs, num_minibatches, micro_batch_size, importance_cap,
      entropy_bonus)

  @jax.jit
  def plan(state, batch):
    normaliser = jnp.maximum(
        updates.count_tokens(batch), 1) / num_minibatches
    deals = jax.lax.map(
        lambda epoch: learner_lib.deal_rows(
            state.step, epoch, batch, num_minibatches=num_minibatches),
        jnp.arange(num_epochs))
    zeros = updates.clear_gradients(updates.start(state)).totals
    # An optimiser step donates the state; its number is read to the end.
    return normaliser, deals, jnp.copy(state.step), placement.pin(zeros)

  @functools.partial(jax.jit, donate_argnames='totals')
  def add(frozen_params, *args, totals):
    return updates.micro_batch_adder(
        lambda params, *rest: log_prob_fn(
            frozen.join(params, frozen_params), *rest),
        clip_low=clip_low, clip_high=clip_high, importance_cap=importance_cap,
        entropy_bonus=entropy_bonus, placement=placement)(*args, totals=totals)

  @jax.jit
  def score(frozen_params, params, rows):
    return placement.whole(updates.score(
        log_prob_fn, frozen.join(params, frozen_params),
        placement.rows(rows))[0])

  @functools.partial(jax.jit, donate_argnums=0)
  def take_step(progress, taken):
    return placement.pin(updates.clear_gradients(
        updates.take_step(optimizer, progress, taken)))

  finish = jax.jit(functools.partial(
      updates.finish, num_epochs=num_epochs, num_minibatches=num_minibatches),
      donate_argnums=1)

  return learner_lib.Learner(
      functools.partial(updates.init, optimizer, placement),
      functools.partial(
          _update, _Jitted(
              plan, score if losses.is_given(importance_cap) else None, add,
              take_step, finish), load, frozen,
          functools.partial(
              updates.rows_at_once, micro_batch_size=micro_batch_size,
              placement=placement)))


def augment_steps(
    rng_key: chex.PRNGKey,
    params: Any,
    singles: types.StepBatch,
    low: chex.Array,
    *,
    sample_many: Callable[..., base.ActionSample],
    load: loader.LoadBatches,
    matches_fn: base.MatchFn,
    max_steps: int,
    num_candidates: int,
    group_weight: credit.GroupWeight = 'sum',
    micro_batch_size: int = 8,
) -> types.RoundBatch:
  """`credit.augment_steps` from the host: only low steps are loaded.

  Args:
    rng_key: key of (seed, round), the one the trajectories were drawn with.
    params: of the behaviour policy.
    singles: K = 1, S = B*T, from `credit.assign_credit`.
    low: `[S]` bool, the samples to replace by groups.
    sample_many: `(params, keys [B, K-1], loaded observation)` ->
      `ActionSample` of `[B, K-1, L]`; called with one B.
    load: see above.
    matches_fn: a codec's `matches`, called with numpy arrays: the stored
      observations of the low steps only, and `[n, K, L]` tokens.
    max_steps: T.
    num_candidates: K.
    group_weight: see `credit.with_groups`.
    micro_batch_size: B, states sampled at once.

  Returns:
    The round's batch; its observations are the stored ones, in numpy.
  """
  def draw(order, observations):
    micros = list(_micro_batches(
        0, np.arange(len(order)), 0, len(order), micro_batch_size))
    with contextlib.closing(load(
        _rows(observations, micro.rows) for micro in micros)) as loaded:
      for micro in micros:
        rows = order[micro.rows]
        keys = _candidate_keys(
            rng_key, rows // max_steps, rows % max_steps,
            num_candidates=num_candidates)
        sample = jax.device_get(sample_many(params, keys, next(loaded)))
        yield rows[micro.taken], _rows(sample, micro.taken)
  return alternatives.add_alternatives(
      singles, low, draw, matches_fn=matches_fn,
      num_candidates=num_candidates, group_weight=group_weight)


class _Jitted(NamedTuple):
  """The parts of an update that run on the device."""
  plan: Callable[..., tuple]
  score: Callable[..., chex.Array] | None  # if there is a cap
  add: Callable[..., updates.Totals]
  take_step: Callable[..., updates.Progress]
  finish: Callable[..., tuple]


def _update(
    jitted: _Jitted, load: loader.LoadBatches, frozen: base.Frozen,
    rows_at_once: Callable[[types.StepBatch], int],
    state: types.LearnerState, batch: types.RoundBatch,
) -> tuple[types.LearnerState, dict[str, chex.Array]]:
  """A learner's `update`."""
  observations = [
      jax.device_get(rows.observations) for rows in updates.parts(batch)]
  batch = jax.device_get(_without_observations(batch))
  parts = updates.parts(batch)
  normaliser, deals, first_step, zeros = jitted.plan(state, batch)
  progress = updates.start(state)._replace(totals=zeros)
  deals, sizes = jax.device_get(deals), [rows_at_once(rows) for rows in parts]
  old_log_probs = [rows.log_probs for rows in parts]
  if jitted.score is not None:
    old_log_probs = _score(
        functools.partial(jitted.score, frozen.get(), progress.params), load,
        observations, parts, deals, sizes)
  minibatches = _schedule(deals, sizes)
  with contextlib.closing(load(
      _rows(observations[micro.part], micro.rows)
      for minibatch in minibatches for micro in minibatch)) as loaded:
    for minibatch in minibatches:
      for micro in minibatch:
        progress = progress._replace(totals=jitted.add(
            frozen.get(), progress.params,
            _take(parts[micro.part], micro, next(loaded)),
            old_log_probs[micro.part][micro.rows], normaliser,
            totals=progress.totals))
        jax.block_until_ready(progress.totals.computed)
      progress = jitted.take_step(progress, len(minibatch))
  return jitted.finish(first_step, progress, batch)


def _score(
    score: Callable[[types.StepBatch], chex.Array], load: loader.LoadBatches,
    observations: list[Any], parts: list[types.StepBatch],
    deals: list[learner_lib.Deal], sizes: list[int]) -> list[np.ndarray]:
  """Log-probs `[S, K, L]` of the useful rows before the first step."""
  scores = [np.array(rows.log_probs) for rows in parts]
  micros = [micro for part, (deal, size) in enumerate(zip(deals, sizes))
            for micro in _micro_batches(
                part, deal.order[0], 0, deal.bounds[0, -1], size)]
  with contextlib.closing(load(
      _rows(observations[micro.part], micro.rows)
      for micro in micros)) as loaded:
    for micro in micros:
      scores[micro.part][micro.rows] = score(
          _take(parts[micro.part], micro, next(loaded)))
  return scores


class _MicroBatch(NamedTuple):
  """Rows that are computed at once; idle ones repeat a useful one."""
  part: int  # 0 of singles, 1 of groups
  rows: np.ndarray  # [B] int
  taken: np.ndarray  # [B] bool, False for idle rows


def _schedule(
    deals: list[learner_lib.Deal], sizes: list[int]
) -> list[list[_MicroBatch]]:
  """The micro-batches of every optimiser step, of all epochs."""
  num_epochs, num_bounds = deals[0].bounds.shape
  return [
      [micro for part, (deal, size) in enumerate(zip(deals, sizes))
       for micro in _micro_batches(
           part, deal.order[epoch], deal.bounds[epoch, m],
           deal.bounds[epoch, m + 1], size)]
      for epoch in range(num_epochs) for m in range(num_bounds - 1)]


def _micro_batches(
    part: int, order: np.ndarray, start: int, stop: int, size: int
) -> Iterator[_MicroBatch]:
  for position in range(start, stop, size):
    index = position + np.arange(size)
    yield _MicroBatch(
        part, order[np.minimum(index, stop - 1)], index < stop)


def _rows(tree: Any, rows: np.ndarray) -> Any:
  return jax.tree.map(lambda x: x[rows], tree)


def _take(
    batch: types.StepBatch, micro: _MicroBatch, observations: Any
) -> types.StepBatch:
  """A micro-batch; rows that are not taken are masked."""
  rows = _rows(batch, micro.rows)
  return dataclasses.replace(
      rows, observations=observations, mask=rows.mask & micro.taken[:, None])


def _without_observations(batch: types.RoundBatch) -> types.RoundBatch:
  groups = batch.groups and dataclasses.replace(
      batch.groups, observations=None)
  return dataclasses.replace(batch, groups=groups, singles=dataclasses.replace(
      batch.singles, observations=None))


@functools.partial(jax.jit, static_argnames='num_candidates')
def _candidate_keys(
    rng_key: chex.PRNGKey, slots: chex.Array, step_ids: chex.Array, *,
    num_candidates: int,
) -> chex.PRNGKey:
  """`[B, K-1]` keys, those of `credit.row_keys`."""
  return jax.vmap(
      functools.partial(credit.row_keys, rng_key, slots, step_ids),
      out_axes=1)(jnp.arange(1, num_candidates))
