"""A round's batch with alternatives that are drawn on the host (method 3)."""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import numpy as np

from step_jax.algorithm import credit
from step_jax.algorithm import types
from step_jax.policies import base


def add_alternatives(
    singles: types.StepBatch,
    low: chex.Array,
    draw: Callable[
        [np.ndarray, Any], Iterator[tuple[Any, base.ActionSample]]],
    *,
    matches_fn: base.MatchFn,
    num_candidates: int,
    group_weight: credit.GroupWeight = 'sum',
) -> types.RoundBatch:
  """The batch of a round, with what somebody draws at its low steps.

  Args:
    singles: K = 1, S = B*T, from `credit.assign_credit`.
    low: `[S]` bool, the samples to replace by groups.
    draw: `(rows [n], their observations)`, numpy, yields `(rows, sample)`: all
      of these rows in any order and parts, with samples `[K - 1, L]` of each.
    matches_fn: a codec's `matches`, called with numpy arrays: the stored
      observations of the low steps only, and `[n, K, L]` tokens.
    num_candidates: K.
    group_weight: see `credit.with_groups`.

  Returns:
    The round's batch; its observations are the stored ones, in numpy.
  """
  singles, low = jax.device_get((singles, low))
  order = np.nonzero(low)[0]
  drawn = tuple(
      np.repeat(x, num_candidates, axis=1)
      for x in (singles.actions, singles.log_probs, singles.token_mask))
  agree = np.zeros((len(low), num_candidates), bool)
  if len(order):
    observations = jax.tree.map(lambda x: x[order], singles.observations)
    for rows, sample in draw(order, observations):
      for old, new in zip(drawn, sample):
        old[rows, 1:] = new
    agree[order] = matches_fn(observations, drawn[0][order])
  return credit.with_groups(
      singles, low, drawn, agree, group_weight=group_weight)
