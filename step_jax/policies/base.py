"""What a policy is: pure functions over tokens, log-probs and masks."""

from typing import Any, NamedTuple, Protocol

import chex
import numpy as np


class ActionSample(NamedTuple):
  """One sampled response for each row."""
  tokens: chex.Array  # [B, L] int32
  log_probs: chex.Array  # [B, L] float32, 0 where masked
  token_mask: chex.Array  # [B, L] bool


class InitFn(Protocol):

  def __call__(self, rng_key: chex.PRNGKey) -> Any:
    """Returns fresh parameters."""


class SampleFn(Protocol):

  def __call__(
      self, params: Any, rng_keys: chex.PRNGKey, observation: Any, *,
      temperature: float) -> ActionSample:
    """Samples one response a row; one key a row; temperature 0 is argmax."""


class LogProbFn(Protocol):

  def __call__(
      self, params: Any, observation: Any, tokens: chex.Array, *,
      temperature: float) -> tuple[chex.Array, chex.Array]:
    """Log-probs and entropy, both `[B, L]`, of the distribution sampled."""


class Policy(NamedTuple):
  """A network as pure functions; observations are pytrees of [B, ...].

  `sample` and `log_prob` speak of the same distribution: temperature and
  legality masks included.
  """
  init: InitFn
  sample: SampleFn
  log_prob: LogProbFn


class MatchFn(Protocol):

  def __call__(self, observation: Any, tokens: chex.Array) -> chex.Array:
    """Whether candidate k `[..., K, L]` means the same as candidate 0."""


class RememberFn(Protocol):

  def __call__(
      self, history: Any, observation: Any, tokens: Any, xp: Any = np) -> Any:
    """The history after `tokens` were chosen at `observation`; unbatched.

    `xp` is numpy on the host and jax.numpy inside a jitted rollout.
    """


class StateFn(Protocol):

  def __call__(self, observation: Any) -> Any:
    """The part of an observation that is the state: all but the history."""


class Codec(NamedTuple):
  """What tokens and observations mean."""
  matches: MatchFn
  empty_history: Any  # numpy array, history at the first step
  remember: RememberFn
  state: StateFn
  num_tokens: int  # L
