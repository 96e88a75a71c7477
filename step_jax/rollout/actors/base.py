"""What an actor is: rows are submitted, answers are taken as they come."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import chex
import numpy as np

from step_jax.policies import base


class ActorError(RuntimeError):
  """An actor that cannot go on; its message is one sentence."""


class Rows(NamedTuple):
  """The environments that wait for an action."""
  slots: np.ndarray  # [R] int
  step_ids: np.ndarray  # [R] int
  observations: Any  # pytree of [R, ...], history included
  infos: Sequence[dict[str, Any]]  # [R]


class ActFn(Protocol):
  """Chooses actions at once, such as a policy or an expert in this process."""

  def __call__(self, rows: Rows) -> base.ActionSample:
    """Returns an action for each row, as numpy arrays `[R, L]`."""


class Player(NamedTuple):
  """The policy as it acts in a round."""
  params: Any
  rng_key: chex.PRNGKey | None  # of (seed, round)
  temperature: float  # 0 for the most likely action


EXPERT = Player((), None, 0.)  # whose actions need neither


class Answer(NamedTuple):
  """The answer to one row."""
  ticket: int  # what `submit` returned for the row
  sample: base.ActionSample  # numpy, [L]; [K, L] for several candidates
  version: int  # of the parameters it was drawn with


class Actor(Protocol):
  """Answers rows, wherever the parameters are.

  In this process `submit` computes and `receive` returns; an actor elsewhere
  computes meanwhile.
  """

  def publish(self, params: Any, version: int) -> None:
    """Acts with these parameters from now on; nothing is being answered."""

  def submit(
      self, rows: Rows, *, rng_key: chex.PRNGKey | None, temperature: float,
      candidates: Sequence[int] = (0,)) -> Sequence[int]:
    """Asks for an answer to each row.

    Args:
      rows: `[R]`; only what is stored of an observation counts.
      rng_key: of (seed, round). A row draws with a key of (round, slot, step,
        candidate), see `credit.row_keys`.
      temperature: 0 for the most likely action.
      candidates: numbers of the answers to each row. `(0,)` is the action that
        is taken, and gives a sample `[L]`; 1 to K - 1 are the alternatives of
        a step-level group, and give one of `[K - 1, L]`.

    Returns:
      `[R]` tickets, which no other rows have.
    """

  def receive(self, timeout: float) -> list[Answer]:
    """What has been answered, after `timeout` seconds at the latest."""
