"""Alternatives of step-level groups, by the actor that collects (method 3)."""

from typing import Any

import chex

from step_jax.algorithm import credit
from step_jax.algorithm import types
from step_jax.learning import alternatives
from step_jax.policies import base
from step_jax.rollout.actors import base as actors

_POLL_SECONDS = 0.5


def augment_steps(
    rng_key: chex.PRNGKey,
    params: Any,
    singles: types.StepBatch,
    low: chex.Array,
    *,
    actor: actors.Actor,
    temperature: float,
    matches_fn: base.MatchFn,
    max_steps: int,
    num_candidates: int,
    group_weight: credit.GroupWeight = 'sum',
) -> types.RoundBatch:
  """`streaming.augment_steps` by an actor: all low steps are asked at once.

  Args:
    rng_key: key of (seed, round), the one the trajectories were drawn with.
    params: are not read: the actor has them already.
    singles: K = 1, S = B*T, from `credit.assign_credit`.
    low: `[S]` bool, the samples to replace by groups.
    actor: draws K - 1 alternatives at each stored row.
    temperature: of the draws.
    matches_fn: a codec's `matches`, called with numpy arrays: the stored
      observations of the low steps only, and `[n, K, L]` tokens.
    max_steps: T.
    num_candidates: K.
    group_weight: see `credit.with_groups`.

  Returns:
    The round's batch; its observations are the stored ones, in numpy.

  Raises:
    ActorError: the actor cannot go on.
  """
  del params

  def draw(order, observations):
    tickets = actor.submit(
        actors.Rows(order // max_steps, order % max_steps, observations, ()),
        rng_key=rng_key, temperature=temperature,
        candidates=range(1, num_candidates))
    left = dict(zip(tickets, order.tolist()))
    while left:
      for answer in actor.receive(_POLL_SECONDS):
        if answer.ticket in left:  # or it is late, of an environment's row
          yield left.pop(answer.ticket), answer.sample
  return alternatives.add_alternatives(
      singles, low, draw, matches_fn=matches_fn,
      num_candidates=num_candidates, group_weight=group_weight)
