"""What all kinds of inference servers are asked, and what they answer."""

import base64
from collections.abc import Awaitable, Callable
import math
import pathlib
from typing import Any, NamedTuple

import httpx
import numpy as np

from step_jax.policies import base as policies

_FORBIDDEN = -100.  # added to a logit; more is cut off by vLLM


class BadAnswer(Exception):
  """An answer that cannot be used; the row is asked again."""


class StaleWeights(BadAnswer):
  """An answer by other parameters than those that were published."""


class Draw(NamedTuple):
  """How responses to one request are drawn."""
  temperature: float
  seed: int  # 31 bits; servers may disregard it
  num: int  # responses
  served: policies.Served  # what the policy may write, and how much
  version: str  # of the parameters


Reply = tuple[list[int], list[float]]  # chosen ids, and their log-probs


class Dialect(NamedTuple):
  """How one kind of server is spoken to.

  Both raise `httpx.HTTPError` and `BadAnswer`.
  """
  generate: Callable[
      [httpx.AsyncClient, policies.Request, Draw], Awaitable[list[Reply]]]
  # Loads the parameters of a folder and forgets what was cached of others.
  reload: Callable[[httpx.AsyncClient, pathlib.Path, str], Awaitable[None]]


async def post(
    client: httpx.AsyncClient, route: str, content: Any = None,
    **query: Any) -> Any:
  """Posts JSON; returns the parsed answer.

  Raises:
    httpx.HTTPError: nothing came, or another status than 200.
    BadAnswer: for what is no JSON.
  """
  response = await client.post(route, json=content, params=query)
  if response.status_code != httpx.codes.OK:
    raise httpx.HTTPStatusError(
        f'{route} answered {response.status_code}: {response.text[:200]}',
        request=response.request, response=response)
  try:
    return response.json() if response.content else None
  except ValueError as error:
    raise BadAnswer(
        f'{route} answered what is no JSON: {response.text[:200]}') from error


def data_url(picture: bytes) -> str:
  """A PNG as both kinds of servers take it."""
  return f'data:image/png;base64,{base64.b64encode(picture).decode()}'


def sampling(draw: Draw) -> dict[str, Any]:
  """What both kinds of servers call the same.

  Neutral values are said each time, as a checkpoint's files may have others.
  """
  return {
      'temperature': draw.temperature, 'n': draw.num,
      'stop_token_ids': list(draw.served.stop_ids),
      'logit_bias': {
          str(token): _FORBIDDEN for token in draw.served.illegal_ids},
      'top_p': 1., 'top_k': -1, 'min_p': 0., 'frequency_penalty': 0.,
      'presence_penalty': 0., 'repetition_penalty': 1.}


def read_sample(replies: list[Reply], draw: Draw) -> policies.ActionSample:
  """What was drawn, `[num, L]`; at temperature 0 the log-probs are 0.

  Raises:
    BadAnswer: another number of responses, tokens or log-probs than there has
      to be, a token that is not legal, or a log-prob that is none.
  """
  if len(replies) != draw.num:
    raise BadAnswer(f'expected {draw.num} responses, got {len(replies)}')
  shape = (draw.num, draw.served.num_tokens)
  sample = policies.ActionSample(
      np.zeros(shape, np.int32), np.zeros(shape, np.float32),
      np.zeros(shape, bool))
  for row, (ids, log_probs) in enumerate(replies):
    check_reply(ids, log_probs, draw.served)
    sample.tokens[row, :len(ids)] = ids
    sample.token_mask[row, :len(ids)] = True
    if draw.temperature:
      sample.log_probs[row, :len(ids)] = log_probs
  return sample


def check_reply(
    ids: list[int], log_probs: list[float], served: policies.Served) -> None:
  """See `read_sample`: a response is ended by a stop, or by its length."""
  stops = [place for place, token in enumerate(ids) if token in served.stop_ids]
  length = stops[0] + 1 if stops else served.num_tokens
  if len(ids) != length:
    raise BadAnswer(f'expected a response of {length} tokens, which its first '
                    f'stop or the limit ends, got {len(ids)}')
  if len(log_probs) != len(ids):
    raise BadAnswer(f'expected log-probs of {len(ids)} tokens, got '
                    f'{len(log_probs)}')
  if not set(ids).isdisjoint(served.illegal_ids):
    raise BadAnswer('expected legal tokens only, got others: its logit_bias '
                    'has no effect')
  if not all(-math.inf < x <= 1e-3 for x in log_probs):
    raise BadAnswer(f'expected log-probs of at most 0, got {log_probs[:8]}')
