"""Quick environments, well-behaved and otherwise, for tests of the host."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import time
from typing import Any

import gymnasium
import numpy as np

NUM_ACTIONS = 5


def right_action(observation) -> int:
  """The action that `CountEnv` wants: the sum of what it shows, modulo 5."""
  return int(np.sum(observation)) % NUM_ACTIONS


class CountEnv(gymnasium.Env):
  """Shows (task_id, seed, step); reward 1 iff every action was the right one.

  Task i takes 2 + i % 3 steps. An action is a number or an array that begins
  with it.
  """
  observation_space = gymnasium.spaces.Box(0, 2**31 - 1, [3], np.int32)
  action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)

  def __init__(self, num_tasks: int = 8):
    self.tasks = tuple(f'count-{i}' for i in range(num_tasks))
    self._state = np.zeros(3, np.int32)
    self._right = True
    self._expert = False

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    options = options or {}
    task_id = options.get('task_id', 0)
    self._expert = options.get('expert', False)
    self._state = np.array([task_id, (seed or 0) % 2**31, 0], np.int32)
    self._right = True
    return self._state.copy(), self._info()

  def step(self, action):
    self._right &= int(np.ravel(action)[0]) == right_action(self._state)
    self._state[2] += 1
    done = self._state[2] >= 2 + self._state[0] % 3
    reward = float(done and self._right)
    return self._state.copy(), reward, bool(done), False, self._info()

  def _info(self) -> dict[str, Any]:
    if not self._expert:
      return {}
    return {'expert_action': np.array([right_action(self._state)])}


class TruncatedEnv(CountEnv):
  """A `CountEnv` whose episodes are cut short after a step."""

  def step(self, action):
    observation, reward, terminated, _, info = super().step(action)
    return observation, reward, terminated, not terminated, info


# What a `FaultyEnv` may answer that no environment should.
GARBAGE = ('nan', 'half', 'early', 'shape', 'type', 'no info', 'unpicklable',
           'unloadable')


class _Unloadable:

  def __reduce__(self):
    return int, ('nonsense',)


class StuckEnv(CountEnv):
  """A `CountEnv` that cannot be closed."""

  def close(self):
    time.sleep(1000)


class FaultyEnv(CountEnv):
  """A `CountEnv` that misbehaves in the first attempts at some tasks.

  Args:
    directory: remembers the attempts of each task across processes.
    faults: {task_id: (fault, number of attempts that have it)}.
  """

  def __init__(self, directory: str, faults: dict[int, tuple[str, int]]):
    super().__init__()
    self._directory = pathlib.Path(directory)
    self._faults = faults
    self._fault = ''

  def reset(self, *, seed=None, options=None):
    task_id = (options or {}).get('task_id', 0)
    fault, times = self._faults.get(task_id, ('', 0))
    attempts = len(list(self._directory.glob(f'attempt-{task_id}-*')))
    (self._directory / f'attempt-{task_id}-{attempts}').touch()
    self._fault = fault if attempts < times else ''
    if self._fault == 'hang_reset':
      time.sleep(1000)
    observation, info = super().reset(seed=seed, options=options)
    if self._fault == 'fail_reset':
      info['failure'] = 'broken at reset'
    if self._fault == 'children':
      start_children()
    return observation, info

  def step(self, action):
    if self._fault == 'exit':
      os._exit(3)
    if self._fault == 'raise':
      raise KeyError('broken')
    if self._fault == 'hang':
      time.sleep(1000)
    while self._fault == 'slow':   # until the test says so
      if (self._directory / 'go').exists():
        break
      time.sleep(0.01)
    observation, reward, terminated, truncated, info = super().step(action)
    if self._fault == 'fail':
      info['failure'] = 'broken at step'
    if self._fault == 'big':
      info['padding'] = np.zeros(3_000_000, np.uint8)
    return _spoil(
        self._fault, observation, reward, terminated, truncated, info)


class StormEnv(gymnasium.Wrapper):
  """Every operation of an environment goes wrong with a probability.

  Args:
    make_env: factory of the environment.
    probability: of a fault; which is drawn anew in every process.
  """

  def __init__(self, make_env, probability: float):
    super().__init__(make_env())
    self._rng = np.random.default_rng()
    self._probability = probability

  def reset(self, **kwargs):
    fault = self._draw()
    observation, info = self.env.reset(**kwargs)
    answer = _spoil(fault, observation, 0.0, False, False, info)
    return answer[0], answer[-1]

  def step(self, action):
    fault = self._draw()
    answer = _spoil(fault, *self.env.step(action))
    return answer[:4] if fault == 'four' else answer

  def _draw(self) -> str:
    if self._rng.random() >= self._probability:
      return ''
    fault = str(self._rng.choice(
        ['exit', 'raise', 'hang', 'four', 'twice', *GARBAGE]))
    if fault == 'exit':
      os._exit(3)
    if fault == 'raise':
      raise KeyError('broken')
    if fault == 'hang':
      time.sleep(1000)
    return fault


def _spoil(fault, observation, reward, terminated, truncated, info):
  """What `step` answers where it answers garbage."""
  done = terminated or truncated
  if fault == 'twice' and done:
    terminated = truncated = True
  if done:
    reward = {'nan': np.nan, 'half': .5}.get(fault, reward)
  elif fault == 'early':
    reward = 1.0
  elif fault in GARBAGE:
    observation = {'shape': np.zeros(2, np.int32), 'type': None}.get(
        fault, observation)
    info = {'no info': None, 'unpicklable': {'it': lambda: 0},
            'unloadable': {'it': _Unloadable()}}.get(fault, info)
  return observation, reward, terminated, truncated, info


def start_children() -> None:
  """Starts processes like a browser's: a child, and an orphan elsewhere."""
  subprocess.Popen(['sleep', '1000'])
  subprocess.run(['setsid', 'sh', '-c', 'sleep 1000 &'], check=True)


class OrphanEnv(CountEnv):
  """Leaves an orphan behind at each reset, and tells how many have died."""

  def reset(self, **kwargs):
    subprocess.run(['sh', '-c', 'true &'], check=True)
    observation, _ = super().reset(**kwargs)
    dead = 0
    for path in pathlib.Path('/proc').glob('[0-9]*/stat'):
      with contextlib.suppress(OSError):  # it has ended
        dead += path.read_text().rpartition(')')[2].split()[:2] == [
            'Z', str(os.getpid())]
    return observation, {'dead': dead}


class BrowserEnv(CountEnv):
  """A `CountEnv` with a Chromium beside it."""

  def __init__(self):
    super().__init__()
    from selenium import webdriver  # pylint: disable=import-outside-toplevel
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which('chromium')
    options.add_argument('--headless')
    options.add_argument('--no-sandbox')
    self._driver = webdriver.Chrome(
        options, webdriver.ChromeService(shutil.which('chromedriver')))

  def close(self):
    self._driver.quit()


def bad_factory() -> gymnasium.Env:
  raise ValueError('expected a known task, got nonsense')


def dying_factory() -> gymnasium.Env:
  os._exit(1)


def hanging_factory() -> gymnasium.Env:
  time.sleep(3600)
  raise AssertionError('nobody waits that long')


def _is_first(directory: str) -> bool:
  """Whether no other process has asked before."""
  try:
    os.mkdir(os.path.join(directory, 'taken'))
  except FileExistsError:
    return False
  return True


def one_healthy_factory(directory: str) -> gymnasium.Env:
  """The first of all processes gets an environment, after a while."""
  if not _is_first(directory):
    raise ConnectionError('the other machine is down')
  time.sleep(0.5)
  return CountEnv()


class SickEnv(CountEnv):
  """The first of all processes starts and plays slowly, others never play."""

  def __init__(self, directory: str, start_seconds: float = 0.0):
    super().__init__()
    self._healthy = _is_first(directory)
    if self._healthy:
      time.sleep(start_seconds)

  def reset(self, **kwargs):
    if not self._healthy:
      raise ConnectionError('it answers, but it is sick')
    time.sleep(0.2)
    return super().reset(**kwargs)
