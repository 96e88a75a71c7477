"""An HTTP client of AndroidWorld's server, and its screenshots.

It speaks the contract of android_world's server/android_server.py. Every
request has a time limit and is sent once. A screenshot of 2400 x 1080 is 39 MB
of JSON: its numbers are read without ever being Python objects.
"""

import math
import re
import time
from typing import Any
import warnings

import httpx
import numpy as np

from step_jax.envs import connections

MAX_ANSWER = 128 * 2**20  # bytes

_CONNECT_TIMEOUT = 5.0
_TYPING_SECONDS = 0.5  # for a word or a gap, at most [choice]
_HEAD = re.compile(rb'\s*\{\s*"pixels"\s*:\s*')
_DIGITS = b'0123456789'
_SPACE = b' \t\r\n'
_NO_BRACKETS = bytes.maketrans(b'[]', b'  ')


class PhoneError(RuntimeError):
  """The phone, or the way to it, broke; the episode is lost."""


class RefusedError(PhoneError):
  """The server answered with status 500: what it was to do raised there."""


def decode_screenshot(body: bytes | bytearray) -> np.ndarray:
  """Reads the JSON `{"pixels": [H][W][3]}`.

  Args:
    body: of the server's answer.

  Returns:
    The picture [H, W, 3] uint8.

  Raises:
    ValueError: it is anything else.

  >>> decode_screenshot(b'{"pixels":[[[1,2,3],[4,5,255]]]}').tolist()
  [[[1, 2, 3], [4, 5, 255]]]
  """
  head = _HEAD.match(body)
  end = body.rfind(b'}') + 1
  if head is None or body[end:].strip():
    raise ValueError('expected {"pixels": ...}, got something else')
  numbers = bytes(memoryview(body)[head.end():end - 1])
  del body, head  # each copy is of 39 MB
  # Without its digits, it is as good as its brackets and commas are.
  frame = numbers.translate(None, _DIGITS + _SPACE)
  width = max(1, frame.find(b']]') // 5)
  row = b'[' + b','.join([b'[,,]'] * width) + b']'
  height = (len(frame) - 1) // (len(row) + 1)
  if height < 1 or frame != b'[' + b','.join([row] * height) + b']':
    raise ValueError('expected pixels of [H][W][3], got something else')
  num_digits = len(numbers) - len(frame) - sum(
      numbers.count(space) for space in _SPACE)
  del frame
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('error', DeprecationWarning)
      values = np.fromstring(
          numbers.translate(_NO_BRACKETS), np.int16, sep=',')
  except (ValueError, DeprecationWarning) as error:
    raise ValueError('expected pixels of numbers, got gaps') from error
  # That the digits add up says that none was dropped on the way.
  if values.size != height * width * 3 or values.min() < 0 or (
      values.max() > 255) or num_digits != values.size + int(
          np.sum(values >= 10) + np.sum(values >= 100)):
    raise ValueError('expected pixels of numbers from 0 to 255, got others')
  return values.astype(np.uint8).reshape(height, width, 3)


class Phone:
  """One phone by the address of its server.

  Args:
    address: such as 'http://127.0.0.1:5000'.
    step_timeout: seconds for an action, a screenshot or a word about a task.
    task_timeout: seconds to prepare a task, to tear it down, to check its end.
    transport: of httpx, for tests.

  Raises:
    ValueError: for an address that is none, or a limit that is not positive.
    PhoneError: from every method, when the phone does not answer in time, or
      not what it should.
  """

  def __init__(self, address: str, *, step_timeout: float = 60.0,
               task_timeout: float = 300.0,
               transport: httpx.BaseTransport | None = None):
    self._http = connections.connect(
        address, name='phone', transport=transport)
    if not min(step_timeout, task_timeout) > 0:
      raise ValueError('expected positive time limits, got step_timeout='
                       f'{step_timeout} and task_timeout={task_timeout}')
    self.address = address.rstrip('/')
    self._step_timeout = step_timeout
    self._task_timeout = task_timeout

  def close(self) -> None:
    """Closes the client; /close would end the phone for everybody."""
    self._http.close()

  def check_health(self) -> None:
    """Raises PhoneError unless the server says that it has a phone.

    A server answers nothing while it acts, so it is busy before it is dead.
    """
    self._ask('GET', '/health')

  def task_list(self) -> tuple[str, ...]:
    """Returns the names of the suite's task types."""
    names = self._field('GET', '/suite/task_list', 'task_list', max_index=-1)
    if not isinstance(names, list) or not all(
        isinstance(name, str) for name in names):
      raise self._error('/suite/task_list', 'the answer has no names')
    return tuple(names)

  def reinitialize(self, *, seed: int, task_family: str) -> None:
    """Draws the parameters of every task type, one instance of each."""
    self._ask('GET', '/suite/reinitialize', timeout=self._task_timeout,
              n_task_combinations=1, seed=seed, task_family=task_family)

  def initialize(self, task: str) -> None:
    self._ask('POST', '/task/initialize', timeout=self._task_timeout,
              task_type=task, task_idx=0)

  def tear_down(self, task: str, *, seconds: float | None = None) -> None:
    """Ends a task, within `seconds` instead of task_timeout."""
    self._ask('POST', '/task/tear_down', timeout=seconds or self._task_timeout,
              task_type=task, task_idx=0)

  def goal(self, task: str) -> str:
    """Returns what the agent is told to do."""
    goal = self._field('GET', '/task/goal', 'goal', task_type=task, task_idx=0)
    if not isinstance(goal, str):
      raise self._error('/task/goal', 'the answer has no goal')
    return goal

  def score(self, task: str) -> float:
    """Returns 1 for success; parts of some tasks give less."""
    score = self._field('GET', '/task/score', 'score', task_type=task,
                        task_idx=0, timeout=self._task_timeout)
    if not isinstance(score, (int, float)) or not math.isfinite(score):
      raise self._error('/task/score', 'the answer has no score')
    return float(score)

  def reset(self, *, go_home: bool) -> None:
    """Forgets the last answer, and shows the home screen if so told."""
    self._ask('POST', '/reset', go_home=go_home)

  def execute(self, command: dict[str, Any]) -> None:
    """Does what a JSONAction says; long texts may take longer than a step.

    Raises:
      RefusedError: the phone cannot do it, as opening an app that it has not,
        or not in the seconds that the server gives it; or it cannot do anything
        any more, which the next screenshot tells.
    """
    # The server types each word, and each gap, by a command of its own.
    parts = re.findall('[^ \n]+|[ \n]', command.get('text') or '')
    self._ask('POST', '/execute_action', json=command, timeout=(
        self._step_timeout + len(parts) * _TYPING_SECONDS))

  def screenshot(self) -> np.ndarray:
    """Returns the screen [H, W, 3] uint8 as soon as it stands still."""
    try:
      return decode_screenshot(self.screenshot_json())
    except ValueError as error:
      raise self._error('/screenshot', str(error)) from error

  def screenshot_json(self) -> bytearray:
    """Returns the same as the server sends it."""
    return self._ask('GET', '/screenshot', wait_to_stabilize=True)

  def _field(self, method: str, route: str, name: str, **request: Any) -> Any:
    body = self._ask(method, route, **request)
    try:
      answer = httpx.Response(200, content=bytes(body)).json()
    except (ValueError, RecursionError) as error:
      raise self._error(route, 'the answer is not JSON') from error
    if not isinstance(answer, dict):
      raise self._error(route, 'the answer is no JSON object')
    return answer.get(name)

  def _ask(self, method: str, route: str, *, json: Any = None,
           timeout: float | None = None, **parameters: Any) -> bytearray:
    """One request, however slowly it drips; a last read can double that."""
    timeout = timeout or self._step_timeout
    deadline = time.monotonic() + timeout
    limits = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT))
    body = bytearray()
    try:
      with self._http.stream(method, route, json=json, timeout=limits,
                             params=parameters) as response:
        for chunk in response.iter_bytes():
          body += chunk
          if time.monotonic() > deadline:
            raise httpx.ReadTimeout(f'no end after {timeout:g} s')
          if len(body) > MAX_ANSWER:
            raise httpx.ReadError(f'more than {MAX_ANSWER} bytes')
    except httpx.HTTPError as error:
      raise self._error(
          route, f'{type(error).__name__} {error}'.strip()) from error
    if response.status_code != 200:
      text = bytes(body[:200]).decode(errors='replace')
      refused = response.status_code == 500
      raise self._error(
          route, f'status {response.status_code}: {text!r}',
          RefusedError if refused else PhoneError)
    return body

  def _error(self, route: str, reason: str,
             error: type[PhoneError] = PhoneError) -> PhoneError:
    return error(f'{self.address}{route} failed: {reason}')
