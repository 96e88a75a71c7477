"""Alternatives of step-level groups, by the actor that collects (method 3)."""

from typing import Any

import chex
import jax
import numpy as np

from step_jax.algorithm import credit
from step_jax.algorithm import types
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
  singles, low = jax.device_get((singles, low))
  order = np.nonzero(low)[0]
  drawn = tuple(
      np.repeat(x, num_candidates, axis=1)
      for x in (singles.actions, singles.log_probs, singles.token_mask))
  agree = np.zeros((len(low), num_candidates), bool)
  if len(order):
    observations = jax.tree.map(lambda x: x[order], singles.observations)
    tickets = actor.submit(
        actors.Rows(order // max_steps, order % max_steps, observations, ()),
        rng_key=rng_key, temperature=temperature,
        candidates=range(1, num_candidates))
    left = dict(zip(tickets, order.tolist()))
    while left:
      for answer in actor.receive(_POLL_SECONDS):
        if answer.ticket in left:  # or it is late, of an environment's row
          row = left.pop(answer.ticket)
          for old, new in zip(drawn, answer.sample):
            old[row, 1:] = new
    agree[order] = matches_fn(observations, drawn[0][order])
  return credit.with_groups(
      singles, low, drawn, agree, group_weight=group_weight)
