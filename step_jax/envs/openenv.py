"""Environments of an OpenEnv server (openenv-core), as elements and tokens.

An OpenEnv server has one environment for each session, a WebSocket at `/ws`
(its `/reset` and `/step` over HTTP know no episode). Messages are JSON:

  -> {"type": "reset", "data": {"seed": 3, "task_name": "say-hello"}}
  -> {"type": "step", "data": {"message": "hello"}}
  <- {"type": "observation",
      "data": {"observation": {...}, "reward": 0.5, "done": false}}
  <- {"type": "error", "data": {"message": "...", "code": "..."}}

What observations and actions hold is each environment's own; a subclass says
what there is to see, and what an action is there.
"""

from collections.abc import Sequence
import contextlib
import json
import math
import time
from typing import Any

import gymnasium
import websockets
from websockets.sync import client as websocket_client

from step_jax.envs import base

_MAX_ANSWER = 64 * 1024 * 1024  # bytes; a screenshot is some of them
_REFUSED = 'VALIDATION_ERROR'  # of an action: the agent's affair


class OpenEnvError(RuntimeError):
  """A server that is gone, late, or says what makes no sense."""


class OpenEnv(gymnasium.Env):
  """Tasks of an OpenEnv server; a subclass has `screen` and `action`.

  `reset(seed=s, options={'task_id': i})` starts an episode of `tasks[i]`, which
  the server is told as `task_name` beside the seed; it reads what it knows.
  An illegal action, and one that the server refuses, does nothing and counts
  as a step. What breaks, the server's own exceptions and an end without reward
  included, ends the episode with `info['failure']`, and the next one has a new
  session.

  Args:
    tasks: names.
    max_steps: T, after which an episode is truncated.
    address: of the server, such as 'http://127.0.0.1:8000'. It needs as many
      sessions (its `max_concurrent_envs`) as a run has workers.
    solved_at: the last reward that is a success, ours is 1 or 0.
    step_timeout: seconds for a step.
    reset_timeout: seconds for a session and a reset.

  Raises:
    ValueError: for an address that is none.
  """

  observation_space = base.observation_space()
  action_space = base.action_space()

  def __init__(self, tasks: Sequence[str], max_steps: int = 15, *,
               address: str, solved_at: float = 1.0, step_timeout: float = 20.0,
               reset_timeout: float = 120.0):
    scheme, _, host = address.rstrip('/').partition('://')
    if scheme not in ('http', 'https', 'ws', 'wss') or not host:
      raise ValueError("expected a server's address such as "
                       f"'http://127.0.0.1:8000', got {address!r}")
    self.tasks = tuple(tasks)
    self._max_steps = max_steps
    self._url = f'ws{"s" if scheme in ("https", "wss") else ""}://{host}/ws'
    self._solved_at = solved_at
    self._limits = (step_timeout, reset_timeout)
    self._session: websocket_client.ClientConnection | None = None
    self._open = contextlib.ExitStack()  # closes it
    self._screen = base.make_screen('', ())
    self._task, self._steps = '', 0

  def screen(self, task: str, observation: dict[str, Any]) -> base.Screen:
    """What there is to see: the task in words, and elements."""
    raise NotImplementedError

  def action(self, act: tuple[str, int, int], screen: base.Screen
             ) -> dict[str, Any]:
    """A legal action (verb, element, word) of a screen, as the server's."""
    raise NotImplementedError

  def reset(self, *, seed: int | None = None,
            options: dict[str, Any] | None = None
            ) -> tuple[base.Observation, dict[str, Any]]:
    super().reset(seed=seed)
    seed, task_id = base.choose_episode(self, seed, options or {})
    self._task, self._steps = self.tasks[task_id], 0
    self._screen = base.make_screen('', ())
    failure = self._ask(
        'reset', {'seed': seed, 'task_name': self._task}, self._limits[1])[2]
    return self._told(failure)

  def step(self, action: Any) -> tuple[
      base.Observation, float, bool, bool, dict[str, Any]]:
    self._steps += 1
    truncated = self._steps >= self._max_steps
    act = base.parse_action(action, self._screen)
    reward, done, failure = 0., False, ''
    if act is not None:
      reward, done, failure = self._ask(
          'step', self.action(act, self._screen), self._limits[0])
    observation, info = self._told(failure)
    if failure:
      return observation, 0., False, True, info
    solved = (done or truncated) and reward >= self._solved_at
    return observation, float(solved), done, truncated and not done, info

  def close(self) -> None:
    """Ends the session."""
    self._session = None
    self._open.close()

  def _told(self, failure: str) -> tuple[base.Observation, dict[str, Any]]:
    info: dict[str, Any] = {'task': self._task}
    if failure:
      info['failure'] = failure
    return base.encode_screen(self._screen), info

  def _ask(self, kind: str, data: dict[str, Any], limit: float
           ) -> tuple[float, bool, str]:
    """Sends a message and looks at the answer: (reward, done, failure)."""
    try:
      answer = self._exchange({'type': kind, 'data': data}, limit)
      if kind == 'step' and answer is None:
        return 0., False, ''
      if answer is None:
        raise OpenEnvError('the server refused a reset')
      observation, reward, done = (
          answer.get(name) for name in ('observation', 'reward', 'done'))
      if reward is None and not done:
        reward = 0.  # an end without one is an episode that nobody has judged
      if not (isinstance(observation, dict) and isinstance(done, bool)
              and isinstance(reward, (int, float)) and math.isfinite(reward)):
        raise OpenEnvError(f'expected an observation, got {_short(answer)}')
      self._screen = self.screen(self._task, observation)
      return float(reward), done, ''
    except (OpenEnvError, OSError, websockets.WebSocketException) as error:
      self.close()
      said = str(error) or type(error).__name__
      return 0., False, f'OpenEnv server {self._url}: {said}'

  def _exchange(self, message: dict[str, Any], limit: float
                ) -> dict[str, Any] | None:
    """The data of the answer; None if the server refused the message."""
    end = time.monotonic() + limit
    if self._session is None:
      # It is no affair of a proxy, and pings are no sign of a step that ends.
      self._session = self._open.enter_context(websocket_client.connect(
          self._url, open_timeout=limit, close_timeout=1, proxy=None,
          max_size=_MAX_ANSWER, ping_interval=None))
    # A server that is full says so and closes: that is still to be read.
    with contextlib.suppress(websockets.ConnectionClosed):
      self._session.send(json.dumps(message))
    try:
      text = self._session.recv(timeout=max(end - time.monotonic(), 0))
    except TimeoutError as error:
      raise OpenEnvError(
          f'no answer to {message["type"]} within {limit:g} s') from error
    try:
      answer = json.loads(text)
    except ValueError as error:
      raise OpenEnvError(f'expected JSON, got {_short(text)}') from error
    data = answer.get('data') if isinstance(answer, dict) else None
    if not isinstance(data, dict) or (
        answer.get('type') not in ('observation', 'error')):
      raise OpenEnvError(f'expected an observation, got {_short(answer)}')
    if answer['type'] == 'observation':
      return data
    if data.get('code') == _REFUSED:
      return None
    raise OpenEnvError(f'{data.get("message")} ({data.get("code")})')


def _short(value: Any) -> str:
  return repr(value)[:200]
