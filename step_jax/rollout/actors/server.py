"""An actor whose rows inference servers answer, over HTTP.

Everything that is asked is under way at once; the least loaded server that
answers gets the next row. A server that breaks off or is slow gets no rows
until its log-probs of a fixed prompt are those of the published parameters,
which are loaded there again if they are not; its rows go to the others.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
import pathlib
import queue
import secrets
import threading
from typing import Any

import httpx
import jax
import numpy as np

from step_jax.policies import base
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import messages
from step_jax.rollout.actors import publishing

_TRIES = 5  # of a row, by servers that are up
_MIN_PAUSE, _MAX_PAUSE = 0.1, 10.0  # seconds, before a server is tried again
_CONNECT_SECONDS = 5.0
_LOAD_SECONDS = 600.0  # for the parameters of a large model
_TROUBLE = (httpx.HTTPError, messages.BadAnswer)


class _Server:
  """One of the servers; those that are down are being looked after."""

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
    self.in_flight = 0
    self.failures = 0  # one after the other
    self.trouble = 'has not been asked'
    self.care: asyncio.Task | None = None


class Remote:
  """An actor by inference servers; a context, in which they are connected.

  Args:
    policy: has `served`.
    dialect: of the servers.
    addresses: such as 'http://10.0.0.1:30000'.
    save: `(folder, params)` writes what a server loads.
    folder: of versions of parameters, by the same path on all machines.
    temperature: at which the fixed prompt is answered.
    bound: nats by which its log-probs may differ from our own, on average.
    timeout: seconds for an answer, and for any server to come back.
    connections: rows that a server has at once, at most.
  """

  def __init__(
      self, policy: base.Policy, dialect: messages.Dialect,
      addresses: Sequence[str], *,
      save: Callable[[pathlib.Path, Any], None], folder: pathlib.Path,
      temperature: float, bound: float, timeout: float,
      connections: int = 256):
    assert policy.served is not None
    self._policy, self._served = policy, policy.served
    self._dialect = dialect
    self._addresses = addresses
    self._save = save
    self._folder = folder
    self._temperature = temperature
    self._bound = bound
    self._timeout = timeout
    self._connections = connections
    self._run = secrets.token_hex(4)  # versions of other runs are others
    self._params: Any = None
    self._version = 0
    self._source = folder
    self._num_asked = 0

  def __enter__(self) -> 'Remote':
    self._answers: queue.SimpleQueue = queue.SimpleQueue()
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
        target=self._loop.run_forever, name='servers', daemon=True)
    self._thread.start()
    self._wait(self._open())
    return self

  def __exit__(self, *_: Any) -> None:
    self._wait(self._close())
    self._loop.call_soon_threadsafe(self._loop.stop)
    self._thread.join()
    self._loop.close()

  def publish(self, params: Any, version: int) -> None:
    """See `Actor`; returns when a server has proven that it has them.

    Raises:
      ActorError: a server answers by other parameters, or none answers.
    """
    self._params, self._version = params, version
    self._source = publishing.write(
        self._folder, self._name, lambda folder: self._save(folder, params))
    self._wait(self._publish())

  def submit(
      self, rows: actors.Rows, *, rng_key: Any,
      temperature: float, candidates: Sequence[int] = (0,)) -> Sequence[int]:
    """See `Actor`; the seed of a row is of (key, slot, step, candidate)."""
    key = np.asarray(jax.random.key_data(rng_key)).tolist()
    first, count = self._num_asked, len(rows.slots)
    self._num_asked += count
    for index in range(count):
      row = jax.tree.map(
          lambda x: np.asarray(x)[index:index + 1], rows.observations)
      seed = np.random.SeedSequence([
          *key, int(rows.slots[index]), int(rows.step_ids[index]),
          candidates[0]]).generate_state(1)[0] >> 1
      draw = messages.Draw(
          temperature, int(seed), len(candidates), self._served, self._name)
      asyncio.run_coroutine_threadsafe(self._answer(
          first + index, row, draw, tuple(candidates) == (0,), self._version),
          self._loop)
    return range(first, first + count)

  def receive(self, timeout: float) -> list[actors.Answer]:
    """See `Actor`.

    Raises:
      ActorError: there is a row that no server answers as it should.
    """
    answers: list[actors.Answer] = []
    try:
      while True:
        answer = self._answers.get(timeout=0. if answers else timeout)
        if isinstance(answer, Exception):
          raise answer
        answers.append(answer)
    except queue.Empty:
      return answers

  @property
  def _name(self) -> str:
    """Of the parameters, as servers know them."""
    return f'{self._run}-{self._version:06}'

  def _wait(self, work: Coroutine) -> Any:
    return asyncio.run_coroutine_threadsafe(work, self._loop).result()

  async def _open(self) -> None:
    self._changed = asyncio.Condition()
    self._fault: actors.ActorError | None = None
    self._servers = [
        _Server(address, self._timeout, self._connections)
        for address in self._addresses]

  async def _close(self) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
      task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for server in self._servers:
      await server.client.aclose()
      await server.loader.aclose()
    await self._loop.shutdown_default_executor()

  async def _answer(
      self, ticket: int, row: Any, draw: messages.Draw, is_one: bool,
      version: int) -> None:
    """Puts the answer to a row, or the error that ends it, into the queue."""
    try:
      # A picture takes a while to be encoded.
      request, = await asyncio.to_thread(self._served.requests, row)
      sample = await self._ask(request, draw)
      if is_one:
        sample = base.ActionSample(*(x[0] for x in sample))
      self._answers.put(actors.Answer(ticket, sample, version))
    except Exception as error:  # whatever it is: it ends the caller, not a task
      self._answers.put(error)

  async def _ask(
      self, request: base.Request, draw: messages.Draw) -> base.ActionSample:
    for attempt in range(_TRIES):
      server = await self._choose()
      server.in_flight += 1
      try:
        sample = messages.read_sample(await self._dialect.generate(
            server.client, request, draw), draw)
        server.failures = 0
        return sample
      except _TROUBLE as error:
        server.failures += 1
        server.trouble = _sentence(error)
        if isinstance(error, (httpx.TransportError, messages.StaleWeights)):
          self._look_after(server)
        trouble = f'{server.address}: {server.trouble}'
      finally:
        server.in_flight -= 1
      await asyncio.sleep(_MIN_PAUSE * attempt)
    raise actors.ActorError(
        f'a row was not answered in {_TRIES} attempts, the last one by '
        f'{trouble}; see to the servers, then resume with the same command.')

  async def _choose(self) -> _Server:
    """The least loaded server that is up; waits for one if there is none."""
    def up():
      return [server for server in self._servers if server.is_up]

    async with self._changed:
      try:
        async with asyncio.timeout(self._timeout):
          await self._changed.wait_for(lambda: up() or self._fault)
      except TimeoutError as error:
        troubles = '; '.join(f'{server.address}: {server.trouble}'
                             for server in self._servers)
        raise actors.ActorError(
            f'no inference server has answered for {self._timeout:g} s '
            f'({troubles}); see to them, then resume with the same command.'
        ) from error
      if self._fault is not None:
        raise self._fault
      return min(up(), key=lambda server: (server.failures, server.in_flight))

  async def _publish(self) -> None:
    """Has all servers load the parameters; one that has them is enough."""
    for server in self._servers:
      if server.care is not None:
        server.care.cancel()
      server.is_up = False
      server.care = asyncio.create_task(self._revive(server, loads=True))
    await self._choose()

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
          await self._dialect.reload(server.loader, self._source, self._name)
        await self._prove(server)
        server.is_up, server.failures = True, 0
      except _TROUBLE as error:
        server.trouble = _sentence(error)
        if isinstance(error, messages.StaleWeights):
          if loads:
            self._fault = actors.ActorError(
                f'{server.address} has loaded {self._source}, but '
                f'{server.trouble}; see to it, then resume with the same '
                'command.')
          loads = True
        else:
          await asyncio.sleep(pause)
          pause = min(2 * pause, _MAX_PAUSE)
    async with self._changed:
      self._changed.notify_all()

  async def _prove(self, server: _Server) -> None:
    """Compares log-probs of a fixed prompt with those of our own model."""
    request, inputs = self._served.probe()
    draw = messages.Draw(self._temperature, 0, 1, self._served, self._name)
    sample = messages.read_sample(
        await self._dialect.generate(server.client, request, draw), draw)
    where = sample.token_mask
    expected = await asyncio.to_thread(self._score, inputs, sample.tokens)
    error = float(np.mean(np.abs(sample.log_probs - expected)[where]))
    if not error <= self._bound:
      raise messages.StaleWeights(
          f'its log-probs of a fixed prompt differ by {error:.2g} from those '
          f'of our own model, expected at most actor.bound {self._bound:g}: '
          'they are of other parameters, or not those after the temperature')

  def _score(self, inputs: Any, tokens: np.ndarray) -> np.ndarray:
    frozen = self._policy.frozen
    return np.asarray(self._policy.log_prob(
        frozen.join(self._params, frozen.get()), inputs, tokens,
        temperature=self._temperature)[0])


def _sentence(error: Exception) -> str:
  return str(error) or type(error).__name__
