"""The policy in this process, in slots: a row need not wait for a whole call.

Where responses differ in length, a call of `local.Local` lasts as long as the
longest of them. Here a row that comes while others are being answered takes the
next slot that is free. `receive` computes: it admits what waits, and goes on
with all slots until a response ends.
"""

import collections
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from step_jax.algorithm import credit
from step_jax.policies import base
from step_jax.rollout.actors import base as actors

_CHUNK = 16  # tokens, after which environments are heard at the latest


class Continuous:
  """An actor in slots.

  Args:
    policy: has `slots` and `load`.
    num_slots: keep it for a whole run: other numbers give other bits.
  """

  def __init__(self, policy: base.Policy, *, num_slots: int):
    assert policy.slots is not None and policy.load is not None
    self._policy, self._slots, self._load = policy, policy.slots, policy.load
    self._num_slots = num_slots
    self._waiting: collections.deque = collections.deque()
    self._tickets: list[int | None] = [None] * num_slots  # being answered
    self._num_asked = 0
    self._state: Any = None

  def publish(self, params: Any, version: int) -> None:
    """See `Actor`."""
    self._params, self._version = params, version

  def submit(
      self, rows: actors.Rows, *, rng_key: Any, temperature: float,
      candidates: Sequence[int] = (0,)) -> Sequence[int]:
    """See `Actor`; gives the action that is taken only."""
    if tuple(candidates) != (0,):
      raise ValueError(f'expected candidates (0,), got {tuple(candidates)}')
    self._temperature = temperature
    first, count = self._num_asked, len(rows.slots)
    self._num_asked += count
    for index in range(count):
      one = slice(index, index + 1)
      key, = credit.row_keys(rng_key, rows.slots[one], rows.step_ids[one], 0)
      self._waiting.append((first + index, key, jax.tree.map(
          lambda x: np.asarray(x)[one], rows.observations)))
    return range(first, first + count)

  def receive(self, timeout: float) -> list[actors.Answer]:
    """See `Actor`; takes as long as some tokens take."""
    del timeout
    while self._waiting and None in self._tickets:
      self._admit(self._tickets.index(None), *self._waiting.popleft())
    if not any(ticket is not None for ticket in self._tickets):
      return []
    self._state = self._slots.decode(
        self._params, self._state, temperature=self._temperature, chunk=_CHUNK)
    is_free, sample = self._slots.read(self._state)
    answers = []
    for slot in np.flatnonzero(is_free).tolist():
      ticket, self._tickets[slot] = self._tickets[slot], None
      if ticket is not None:
        answers.append(actors.Answer(ticket, base.ActionSample(
            *(x[slot] for x in sample)), self._version))
    return answers

  def _admit(self, slot: int, ticket: int, key: Any, observation: Any) -> None:
    inputs = self._load(observation)
    if self._state is None:
      self._state = self._slots.start(
          self._params, inputs, num_slots=self._num_slots)
    self._state = self._slots.admit(
        self._params, self._state, key, inputs, slot,
        temperature=self._temperature)
    self._tickets[slot] = ticket
