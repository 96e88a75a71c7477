"""An actor whose rows inference servers answer, over HTTP.

Everything that is asked is under way at once, in the event loop of one thread;
the least loaded server that answers gets the next row (see `fleet`).
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
import functools
import pathlib
import queue
import secrets
import threading
from typing import Any

import jax
import numpy as np

from step_jax.policies import base
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import fleet as fleet_lib
from step_jax.rollout.actors import messages
from step_jax.rollout.actors import publishing


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
    self._save = save
    self._folder = folder
    self._temperature = temperature
    self._make_fleet: Callable[..., fleet_lib.Fleet] = (
        lambda request: fleet_lib.Fleet(
            dialect, addresses, request=request, bound=bound,
            timeout=timeout, connections=connections))
    self._run = secrets.token_hex(4)  # versions of other runs are others
    self._version = 0
    self._num_asked = 0

  def __enter__(self) -> 'Remote':
    request, self._inputs = self._served.probe()
    self._answers: queue.SimpleQueue = queue.SimpleQueue()
    self._loop = asyncio.new_event_loop()
    self._thread = threading.Thread(
        target=self._loop.run_forever, name='servers', daemon=True)
    self._thread.start()
    self._fleet = self._wait(self._open(request))
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
    self._version = version
    folder = publishing.write(
        self._folder, self._name, lambda folder: self._save(folder, params))
    draw = messages.Draw(
        self._temperature, 0, 1, self._served, self._name)
    self._wait(self._fleet.publish(
        folder, draw, functools.partial(self._score, params)))

  def submit(
      self, rows: actors.Rows, *, rng_key: Any, temperature: float,
      candidates: Sequence[int] = (0,)) -> Sequence[int]:
    """See `Actor`; the seed of a row is of (key, slot, step, candidate)."""
    key = np.asarray(jax.random.key_data(rng_key)).tolist()
    first, count = self._num_asked, len(rows.slots)
    self._num_asked += count
    for index in range(count):
      row = jax.tree.map(
          lambda x: np.asarray(x)[index:index + 1], rows.observations)
      seed, = np.random.SeedSequence([
          *key, int(rows.slots[index]), int(rows.step_ids[index]),
          candidates[0]]).generate_state(1)
      draw = messages.Draw(temperature, int(seed) >> 1, len(candidates),
                           self._served, self._name)
      asyncio.run_coroutine_threadsafe(self._answer(
          first + index, row, draw, self._version, tuple(candidates) == (0,)),
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
        answer = self._answers.get(
            not answers and timeout > 0, timeout or None)
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

  async def _open(self, request: base.Request) -> fleet_lib.Fleet:
    return self._make_fleet(request)

  async def _close(self) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
      task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await self._fleet.close()
    await self._loop.shutdown_default_executor()

  async def _answer(
      self, ticket: int, row: Any, draw: messages.Draw, version: int,
      is_one: bool) -> None:
    """Puts the answer to a row, or the error that ends it, into the queue."""
    try:
      # A picture takes a while to be encoded.
      request, = await asyncio.to_thread(self._served.requests, row)
      sample = await self._fleet.ask(request, draw)
      if is_one:
        sample = base.ActionSample(*(x[0] for x in sample))
      self._answers.put(actors.Answer(ticket, sample, version))
    except Exception as error:  # of whatever kind: the caller raises it
      self._answers.put(error)

  async def _score(self, params: Any, tokens: np.ndarray) -> np.ndarray:
    """Our own log-probs `[1, L]` of an answer to the fixed prompt."""
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(params)):
      raise messages.BadAnswer('the next parameters are being made')
    frozen = self._policy.frozen
    log_probs, _ = await asyncio.to_thread(
        self._policy.log_prob, frozen.join(params, frozen.get()),
        self._inputs, tokens, temperature=self._temperature)
    return np.asarray(log_probs)
