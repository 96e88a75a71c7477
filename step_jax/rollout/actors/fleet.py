"""Inference servers that can die: who is up, and what proves it.

A server is up once its log-probs of a fixed prompt are those of our own model.
It is down when it breaks off, is slow or answers by other parameters, until it
has proven itself again; if need be, it loads the parameters before.
"""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Mapping, Sequence
import contextlib
import pathlib

import httpx
import numpy as np

from step_jax.policies import base
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import messages

_TRIES = 5  # of a row, by servers that are up
_FAILURES = 3  # one after the other, before a server has to prove itself
_MIN_PAUSE, _MAX_PAUSE = 0.1, 10.0  # seconds, before a server is tried again
_CONNECT_SECONDS = 5.0
_LOAD_SECONDS = 600.0  # for the parameters of a large model
_TROUBLE = (httpx.HTTPError, messages.BadAnswer)

# Log-probs of our own model, for a response [1, L] to the fixed prompt.
ScoreFn = Callable[[np.ndarray], Awaitable[np.ndarray]]


class _Server:
  """One of the servers."""

  def __init__(self, address: str, timeout: float, connections: int):
    self.address = address
    self.client, self.loader = (
        httpx.AsyncClient(
            base_url=address, trust_env=False, timeout=httpx.Timeout(
                seconds, connect=min(seconds, _CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(
                max_connections=connections, keepalive_expiry=2.))
        for seconds in (timeout, _LOAD_SECONDS))
    self.is_up = False
    self.is_loading = False  # or our own model computes, for its sake
    self.in_flight = 0
    self.failures = 0  # one after the other, of whatever row
    self.trouble = 'it has not answered yet'
    self.care: asyncio.Task | None = None

  @contextlib.contextmanager
  def loading(self):
    """The time that this takes is not its time to answer."""
    self.is_loading = True
    try:
      yield
    finally:
      self.is_loading = False


class Fleet:
  """The servers of an actor; all of it runs in one event loop.

  Args:
    dialect: of the servers.
    addresses: such as 'http://10.0.0.1:30000'.
    request: the fixed prompt.
    bound: nats by which a server's may differ from them, on average.
    timeout: seconds for an answer, and for any server to come back.
    connections: rows that a server has at once, at most.
  """

  def __init__(
      self, dialect: messages.Dialect, addresses: Sequence[str], *,
      request: base.Request, bound: float, timeout: float, connections: int):
    self._dialect = dialect
    self._request = request
    self._bound = bound
    self._timeout = timeout
    self._fault: actors.ActorError | None = None
    self._changed = asyncio.Condition()
    self._servers = [
        _Server(address, timeout, connections) for address in addresses]

  async def close(self) -> None:
    """Ends all connections."""
    for server in self._servers:
      await server.client.aclose()
      await server.loader.aclose()

  async def publish(
      self, folder: pathlib.Path, draw: messages.Draw, score: ScoreFn) -> None:
    """Has all servers load parameters; returns when the first has proven it.

    Args:
      folder: of the parameters.
      draw: of the fixed prompt, with their version.
      score: our own model's log-probs, by these parameters.

    Raises:
      ActorError: a server answers by other parameters, or none answers.
    """
    self._source, self._draw, self._score = folder, draw, score
    for server in self._servers:
      if server.care is not None:
        server.care.cancel()
      server.is_up = False
      server.care = asyncio.create_task(self._revive(server, loads=True))
    await self._choose()

  async def ask(
      self, request: base.Request, draw: messages.Draw) -> base.ActionSample:
    """What the least loaded server draws, `[num, L]`.

    Raises:
      ActorError: none answers as it should.
    """
    tried: collections.Counter[_Server] = collections.Counter()
    for attempt in range(_TRIES):
      server = await self._choose(tried)
      server.in_flight += 1
      try:
        sample = messages.read_sample(await self._dialect.generate(
            server.client, request, draw), draw)
        server.failures = 0
        return sample
      except _TROUBLE as error:
        tried[server] += 1
        server.failures += 1
        server.trouble = _sentence(error)
        if server.failures >= _FAILURES or isinstance(
            error, (httpx.TransportError, messages.StaleWeights)):
          self._look_after(server)
        trouble = f'{server.address}: {server.trouble}'
      finally:
        server.in_flight -= 1
      await asyncio.sleep(_MIN_PAUSE * attempt)
    raise actors.ActorError(
        f'a row was not answered in {_TRIES} attempts, the last one by '
        f'{trouble}; see to the servers, then resume with the same command.')

  async def _choose(
      self, tried: Mapping[_Server, int] = collections.Counter()) -> _Server:
    """The least loaded server that is up, if possible one not tried yet.

    Waits while there is none.
    """
    def up():
      return [server for server in self._servers if server.is_up]

    async with self._changed:
      while not up() and not self._fault:
        try:
          async with asyncio.timeout(self._timeout):
            await self._changed.wait_for(lambda: up() or self._fault)
        except TimeoutError as error:
          if any(server.is_loading for server in self._servers):
            continue
          troubles = '; '.join(f'{server.address}: {server.trouble}'
                               for server in self._servers)
          raise actors.ActorError(
              f'no inference server has answered for {self._timeout:g} s '
              f'({troubles}); see to them, then resume with the same command.'
          ) from error
      if self._fault is not None:
        raise self._fault
      return min(
          up(), key=lambda server: (tried[server], server.in_flight))

  def _look_after(self, server: _Server) -> None:
    """Takes a server down until it has proven what it has."""
    if server.is_up:
      server.is_up = False
      server.care = asyncio.create_task(self._revive(server, loads=False))

  async def _revive(self, server: _Server, loads: bool) -> None:
    """Tries until a server is up; with `loads`, it gets the parameters."""
    pause = _MIN_PAUSE
    while not server.is_up and not self._fault:
      try:
        if loads:
          with server.loading():
            await self._dialect.reload(
                server.loader, self._source, self._draw.version)
        await self._prove(server)
        server.is_up, server.failures = True, 0
      except messages.StaleWeights as error:
        server.trouble = _sentence(error)
        if loads:
          self._fault = actors.ActorError(
              f'{server.address} has loaded {self._source}, but '
              f'{server.trouble}; see to it, then resume with the same '
              'command.')
        loads = True
      except _TROUBLE as error:
        server.trouble = _sentence(error)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE)
    async with self._changed:
      self._changed.notify_all()

  async def _prove(self, server: _Server) -> None:
    """Compares log-probs of the fixed prompt with those of our own model."""
    sample = messages.read_sample(await self._dialect.generate(
        server.client, self._request, self._draw), self._draw)
    with server.loading():
      expected = await self._score(sample.tokens)
    error = float(np.mean(
        np.abs(sample.log_probs - expected)[sample.token_mask]))
    if not error <= self._bound:
      raise messages.StaleWeights(
          f'its log-probs of a fixed prompt differ by {error:.2g} from those '
          f'of our own model, expected at most actor.bound {self._bound:g}: '
          'they are of other parameters, or not those after the temperature')


def _sentence(error: Exception) -> str:
  return (str(error) or type(error).__name__).splitlines()[0]
