"""What a policy is: pure functions over tokens, log-probs and masks."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import chex
import numpy as np


class InputError(ValueError):
  """What a policy was given does not fit it; one sentence says what to do."""


class ActionSample(NamedTuple):
  """One sampled response for each row."""
  tokens: chex.Array  # [B, L] int32
  log_probs: chex.Array  # [B, L] float32, 0 where masked
  token_mask: chex.Array  # [B, L] bool


class InitFn(Protocol):
  """Makes a policy's first parameters; a run calls it where it begins."""

  def __call__(self, rng_key: chex.PRNGKey) -> Any:
    """Returns fresh parameters."""


class SampleFn(Protocol):
  """How a policy acts; collection calls it for the rows that wait."""

  def __call__(
      self, params: Any, rng_keys: chex.PRNGKey, observation: Any, *,
      temperature: float) -> ActionSample:
    """Samples one response a row; one key a row; temperature 0 is argmax."""


class LogProbFn(Protocol):
  """What a policy thinks of given tokens; the learner differentiates it."""

  def __call__(
      self, params: Any, observation: Any, tokens: chex.Array, *,
      temperature: float) -> tuple[chex.Array, chex.Array]:
    """Log-probs and entropy, both `[B, L]`, of the distribution sampled."""


class LoadFn(Protocol):
  """Fetches what stored rows name; called before `sample` and `log_prob`."""

  def __call__(self, observation: Any) -> Any:
    """Stored observations, numpy `[B, ...]`, to what is read; on the host.

    It fetches what rows only name, such as pictures.
    """


class SampleManyFn(Protocol):
  """K answers at one observation; called where a step is augmented."""

  def __call__(
      self, params: Any, rng_keys: chex.PRNGKey, observation: Any, *,
      temperature: float) -> ActionSample:
    """K responses a row, `[B, K, L]`, one key `[B, K]` for each.

    What depends on the observation alone is computed once for all K. Response
    (b, k) is `sample`'s with key (b, k), up to rounding.
    """


class Frozen(NamedTuple):
  """Parameters that do not learn, beside those that do.

  They are an argument of whatever is traced, never a constant in it.
  """
  get: Callable[[], Any]  # loads them when it is first called
  join: Callable[[Any, Any], Any]  # (learned, frozen) -> of the network


NOTHING_FROZEN = Frozen(lambda: None, lambda learned, frozen: learned)


class Request(NamedTuple):
  """What an inference server reads in the place of a row."""
  input_ids: list[int]  # without padding
  pictures: list[bytes]  # PNG, of the size at which the model sees them


class Served(NamedTuple):
  """What an inference server has to know to draw what `sample` draws."""
  requests: Callable[[Any], list[Request]]  # of stored rows, [B, ...]
  probe: Callable[[], tuple[Request, Any]]  # and what `log_prob` reads of it
  stop_ids: tuple[int, ...]  # tokens that end a response
  illegal_ids: tuple[int, ...]  # tokens that it may not write
  num_tokens: int  # L


class Slots(NamedTuple):
  """Sampling row by row in W slots; a state is passed on and donated."""
  start: Callable[..., Any]  # (params, loaded row, num_slots=) -> state
  # (params, state, key, loaded row, slot, temperature=) -> state
  admit: Callable[..., Any]
  # (params, state, temperature=, chunk=) -> state, at most `chunk` tokens on
  decode: Callable[..., Any]
  # state -> [W] bool, the slots that are free; and their ActionSample [W, L]
  read: Callable[[Any], tuple[chex.Array, ActionSample]]


class Policy(NamedTuple):
  """A network as pure functions; observations are pytrees of [B, ...].

  `sample` and `log_prob` speak of the same distribution: temperature and
  legality masks included. Where there is `load`, there is `sample_many`, and
  all three read what it returns, else stored observations as they are. Where
  something is frozen, `init` makes the parameters that learn; `sample` and
  `sample_many` take these, and `log_prob`, which is traced, what `frozen.join`
  makes.
  """
  init: InitFn
  sample: SampleFn
  log_prob: LogProbFn
  load: LoadFn | None = None
  sample_many: SampleManyFn | None = None
  frozen: Frozen = NOTHING_FROZEN
  served: Served | None = None  # where servers can stand in for `sample`
  slots: Slots | None = None  # where rows can be sampled one by one


class MatchFn(Protocol):
  """Tells which candidates are the same; called where a step is augmented."""

  def __call__(self, observation: Any, tokens: chex.Array) -> chex.Array:
    """Whether candidate k `[..., K, L]` means the same as candidate 0."""


class RememberFn(Protocol):
  """Carries the history on; collection calls it after every step."""

  def __call__(
      self, history: Any, observation: Any, tokens: Any, xp: Any = np) -> Any:
    """The history after `tokens` were chosen at `observation`; unbatched.

    `xp` is numpy on the host and jax.numpy inside a jitted rollout.
    """


class StateFn(Protocol):
  """Tells which steps are the same; credit calls it to group them."""

  def __call__(self, observation: Any) -> Any:
    """The part of an observation that is the state: all but the history."""


class ObserveFn(Protocol):
  """Makes the row a policy reads; collection calls it before it acts."""

  def __call__(
      self, observation: Any, info: dict[str, Any], history: Any) -> Any:
    """The row that is stored and read, of what the environment shows.

    `info` is empty where only the row's shapes matter.
    """


class DecodeFn(Protocol):
  """Turns tokens into an action; collection calls it for `env.step`."""

  def __call__(self, row: Any, tokens: np.ndarray, /) -> Any:
    """What `env.step` takes, of tokens `[L]` chosen at a row."""


class EncodeFn(Protocol):
  """Turns an expert's action into tokens; the expert's actor calls it."""

  def __call__(self, row: Any, expert_action: Any, /) -> np.ndarray:
    """The tokens `[L]` of what an expert would do at a row."""


def add_history(observation: Any, info: dict[str, Any], history: Any) -> Any:
  """The row of a policy that reads the observation and the history.

  Args:
    observation: a dictionary.
    info: is not read.
    history: as the codec keeps it.

  Returns:
    The observation with `history`.
  """
  del info
  return observation | {'history': history}


def keep_tokens(row: Any, tokens: Any, /) -> Any:
  """Decodes and encodes where the environment's actions are the tokens.

  Args:
    row: is not read.
    tokens: `[L]`.

  Returns:
    The tokens.
  """
  del row
  return tokens


class Codec(NamedTuple):
  """What tokens and observations mean."""
  matches: MatchFn
  empty_history: Any  # history at the first step
  remember: RememberFn
  state: StateFn
  num_tokens: int  # L
  observe: ObserveFn = add_history
  decode: DecodeFn = keep_tokens
  encode: EncodeFn = keep_tokens
