"""Desk's `gymnasium.Env` face, and its tasks by name."""

from collections.abc import Sequence
import difflib
import functools
from typing import Any

import gymnasium
from gymnasium import spaces
import jax
import numpy as np

from step_jax.envs import base
from step_jax.envs.desk import draw
from step_jax.envs.desk import simulator
from step_jax.envs.desk import tasks as tasks_lib
from step_jax.rollout import simulation

_NAMES = simulator.TASKS.names
TRAIN_TASKS = _NAMES[:tasks_lib.NUM_TRAIN]  # their order is random
HELD_OUT_TASKS = _NAMES[tasks_lib.NUM_TRAIN:]

example = simulator.example
_reset = jax.jit(simulator.reset)
_step = jax.jit(simulator.step, static_argnames='max_steps')
_solve = jax.jit(simulator.solve)


def make_simulator(
    tasks: Sequence[str], max_steps: int) -> simulation.Simulator:
  """The pure functions of Desk for some tasks.

  Args:
    tasks: names, of TRAIN_TASKS or HELD_OUT_TASKS or both.
    max_steps: T.

  Returns:
    `simulator.reset`, `step` and `solve`; a task is its index in `tasks`.

  Raises:
    ValueError: for an unknown task.
  """
  numbers = np.array([_number(task) for task in tasks], np.int32)

  def reset(key, task):
    return simulator.reset(key, jax.numpy.asarray(numbers)[task])

  return simulation.Simulator(
      reset, functools.partial(simulator.step, max_steps=max_steps),
      simulator.solve)


def _number(task: str) -> int:
  if task not in _NAMES:
    close = difflib.get_close_matches(task, _NAMES) or list(TRAIN_TASKS[:3])
    raise ValueError(
        f'expected a task of Desk such as {", ".join(close)}, got {task!r}')
  return _NAMES.index(task)


class DeskEnv(gymnasium.Env):
  """Desk, one episode at a time; `simulator` describes what is observed.

  `reset(seed=s, options={'task_id': i, 'expert': bool})` starts the episode of
  `tasks[i]` that `simulator.reset(jax.random.key(s), ...)` starts. With
  `expert`, every info carries `expert_action`.

  Args:
    tasks: names, by default TRAIN_TASKS.
    max_steps: T.
    render_mode: 'rgb_array' lets `render` return a picture.

  Raises:
    ValueError: for an unknown task or task id.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 2}

  def __init__(self, tasks: Sequence[str] = TRAIN_TASKS,
               max_steps: int = simulator.MAX_STEPS,
               render_mode: str | None = None):
    self.tasks = tuple(tasks)
    self.max_steps = max_steps
    self.render_mode = render_mode
    self._numbers = [_number(task) for task in tasks]
    self._state: simulator.State | None = None
    self._observation: Any = None
    self._expert = False
    shown = example()
    self.observation_space = spaces.Dict({
        name: spaces.Box(
            0, np.iinfo(np.int32).max if x.dtype == np.int32 else 1, x.shape,
            x.dtype) for name, x in shown.items()})
    self.action_space = spaces.MultiDiscrete([
        *shown['target_mask'].shape, *shown['instruction'].shape])

  def reset(self, *, seed: int | None = None,
            options: dict[str, Any] | None = None):
    super().reset(seed=seed)
    options = options or {}
    seed, task_id = base.choose_episode(self, seed, options)
    self._expert = bool(options.get('expert', False))
    self._state, self._observation = jax.device_get(
        _reset(jax.random.key(seed), self._numbers[task_id]))
    return self._observation, self._info()

  def step(self, action: Any):
    if self._state is None:
      raise gymnasium.error.ResetNeeded('expected reset before step')
    # What does not fit is illegal, and must not wrap around to a legal token.
    tokens = np.clip(action, -1, np.iinfo(np.int32).max).astype(np.int32)
    self._state, self._observation, reward, done = jax.device_get(_step(
        self._state, tokens, max_steps=self.max_steps))
    return self._observation, float(reward), bool(done), False, self._info()

  def _info(self) -> dict[str, Any]:
    if not self._expert:
      return {}
    return {'expert_action': np.asarray(_solve(self._state))}

  def render(self) -> np.ndarray | None:
    if self.render_mode is None or self._state is None:
      return None
    return np.asarray(draw.draw(self._observation))

  def show(self, tokens: Any) -> np.ndarray:
    """The picture of `render`, with an action on it; after a reset."""
    return np.asarray(draw.draw(self._observation, tokens))
