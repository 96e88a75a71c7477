"""Actors in this process: the policy on its devices, and the expert."""

from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np

from step_jax.algorithm import credit
from step_jax.policies import base
from step_jax.rollout.actors import base as actors


class _InProcess:
  """Answers are there as soon as rows are submitted."""

  def __init__(self) -> None:
    self._params: Any = None
    self._version = 0
    self._num_asked = 0
    self._answers: list[actors.Answer] = []

  def publish(self, params: Any, version: int) -> None:
    """See `Actor`."""
    self._params, self._version = params, version

  def receive(self, timeout: float) -> list[actors.Answer]:
    """See `Actor`."""
    del timeout
    answers, self._answers = self._answers, []
    return answers

  def _answer(self, samples: base.ActionSample) -> Sequence[int]:
    """Notes samples `[R, ...]`."""
    first = self._num_asked
    self._num_asked += len(samples.tokens)
    tickets = range(first, self._num_asked)
    self._answers += [
        actors.Answer(ticket, base.ActionSample(*sample), self._version)
        for ticket, *sample in zip(tickets, *samples)]
    return tickets


class Immediate(_InProcess):
  """An actor by a function, such as an expert; parameters are not its own.

  Args:
    act: the function.
  """

  def __init__(self, act: actors.ActFn):
    super().__init__()
    self._act = act

  def submit(
      self, rows: actors.Rows, *, rng_key: chex.PRNGKey | None = None,
      temperature: float = 0., candidates: Sequence[int] = (0,)
  ) -> Sequence[int]:
    """See `Actor`; there are no alternatives."""
    del rng_key, temperature, candidates
    return self._answer(self._act(rows))


class Local(_InProcess):
  """The policy in this process.

  Args:
    policy: the policy.
    batch_size: see `policy_actor`.
  """

  def __init__(self, policy: base.Policy, *, batch_size: int):
    super().__init__()
    self._policy = policy
    self._batch_size = batch_size

  def submit(
      self, rows: actors.Rows, *, rng_key: chex.PRNGKey | None,
      temperature: float, candidates: Sequence[int] = (0,)) -> Sequence[int]:
    """See `Actor`; candidates are drawn one after the other."""
    player = actors.Player(self._params, rng_key, temperature)
    drawn = [
        policy_actor(self._policy, player, batch_size=self._batch_size,
                     candidate=candidate)(rows) for candidate in candidates]
    if tuple(candidates) == (0,):
      return self._answer(drawn[0])
    return self._answer(
        jax.tree.map(lambda *x: np.stack(x, axis=1), *drawn))


def policy_actor(
    policy: base.Policy, player: actors.Player, *, batch_size: int,
    candidate: int = 0) -> actors.ActFn:
  """Acts by the policy, `batch_size` rows at a call, padded to that number.

  Args:
    policy: the policy.
    player: its parameters, key and temperature.
    batch_size: rows of a call. Keep it for a whole run: other batch sizes give
      other bits.
    candidate: 0 for the action that is taken.

  Returns:
    The function that chooses actions.
  """
  def act(rows):
    parts = []
    for start in range(0, len(rows.slots), batch_size):
      real = min(batch_size, len(rows.slots) - start)
      # Idle rows repeat the first one.
      index = np.zeros(batch_size, np.int32)
      index[:real] = np.arange(start, start + real)
      slots, step_ids, observations = jax.tree.map(
          lambda x: x[index], rows[:3])
      if policy.load is not None:
        observations = policy.load(observations)
      keys = credit.row_keys(player.rng_key, slots, step_ids, candidate)
      sample = policy.sample(
          player.params, keys, observations, temperature=player.temperature)
      parts.append(jax.tree.map(lambda x: x[:real], jax.device_get(sample)))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)
  return act


def expert_actor(
    rows: actors.Rows, *, encode: base.EncodeFn = base.keep_tokens
) -> base.ActionSample:
  """Acts as `info['expert_action']` says; log-probs are 0."""
  tokens = np.array([
      encode(jax.tree.map(lambda x: x[i], rows.observations),
             info['expert_action'])
      for i, info in enumerate(rows.infos)], np.int32)
  return base.ActionSample(
      tokens, np.zeros(tokens.shape, np.float32), np.ones(tokens.shape, bool))
