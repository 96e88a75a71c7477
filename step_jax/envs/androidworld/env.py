"""AndroidWorld's tasks on real phones, as small pictures and token actions.

An episode is one task of AndroidWorld's suite with parameters drawn by the
seed: the task prepares the phone, the agent acts, the task looks at what it
left and tears itself down. A step is a request for each part of the action and
one for the screen as soon as it stands still. What is seen of it, and by what
tokens it is acted on, is told in `androidworld_tokens`.

Deviations from AndroidWorld's own runner, on purpose: whatever breaks raises
instead of scoring 0, the reward is 1 only for a score of 1, and an episode of
`max_steps` is scored although the agent did not say that it was done.
"""

from collections.abc import Callable, Sequence
import difflib
from typing import Any

import gymnasium
import numpy as np

from step_jax.codecs import actions
from step_jax.codecs import json_action
from step_jax.envs.androidworld import client as client_lib
from step_jax.envs.androidworld import tasks as androidworld_tasks
from step_jax.envs.androidworld import tokens as tokens_lib
from step_jax.envs import base
from step_jax.envs import leases

# STEP does not name its 43 tasks; these are the draw of seed 0.
TRAIN_TASKS = androidworld_tasks.training_split()
HELD_OUT_TASKS = tuple(
    task for task in androidworld_tasks.TASKS if task not in TRAIN_TASKS)

Solver = Callable[[str, str], Sequence[actions.Action]]

_TEAR_DOWN_SECONDS = 10.0  # after a failure, of a phone that may be gone


def example(
    picture_size: tuple[int, int] = tokens_lib.PICTURE_SIZE, **_: Any
) -> tokens_lib.Observation:
  """An empty screen, for shapes; takes the arguments of `AndroidWorldEnv`."""
  return tokens_lib.example(picture_size)


class AndroidWorldEnv(gymnasium.Env):
  """Tasks of AndroidWorld on a phone.

  `reset(seed=s, options={'task_id': i, 'expert': bool})` starts an episode of
  `tasks[i]`, by default of the task `s % len(tasks)`, with the parameters that
  AndroidWorld draws for the seed. With `expert`, every info carries
  `expert_action`, the next step of the solver's script as tokens. `step` takes
  action tokens, or an `actions.Action`; an illegal one does nothing and counts
  as a step, and one that the phone refuses counts whatever came of it. `info`
  has the task's name and, in full, its instruction.

  Each environment, in whatever process of this user, takes one address that
  nobody has; it is free again when the process ends.

  Args:
    tasks: names of task types, by default TRAIN_TASKS, 43 of the 116.
    max_steps: T, after which an episode is truncated, and scored.
    addresses: of AndroidWorld's servers, such as 'http://10.0.0.1:5000'.
    picture_size: (height, width) of the observation's picture.
    grid: (rows, columns) of the cells that can be touched.
    task_family: of AndroidWorld's registry.
    step_timeout: seconds for a request of a step.
    task_timeout: seconds to prepare a task, to score it or to tear it down.
    solver: gives the script of a task's name and goal.
    render_mode: 'rgb_array' lets `render` return the screen in full size.

  Raises:
    ValueError: an argument is out of range, a task is not in the suite.
    PhoneError: no phone is free and answers; from reset and step, when one
      broke: this episode is lost.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 1}
  platform = 'mobile'  # whose calls a model writes, see `ui_tars`

  def __init__(
      self, tasks: Sequence[str] | None = None, max_steps: int = 15, *,
      addresses: Sequence[str],
      picture_size: tuple[int, int] = tokens_lib.PICTURE_SIZE,
      grid: tuple[int, int] = tokens_lib.GRID,
      task_family: str = 'android_world', step_timeout: float = 60.0,
      task_timeout: float = 300.0, solver: Solver | None = None,
      render_mode: str | None = None):
    if render_mode not in (None, *self.metadata['render_modes']):
      raise ValueError(f"expected render_mode 'rgb_array', got {render_mode!r}")
    if max_steps < 1 or min(*picture_size, *grid) < 1:
      raise ValueError(
          'expected max_steps, picture_size and grid of at least 1, got '
          f'{max_steps}, {picture_size} and {grid}')
    tasks = TRAIN_TASKS if tasks is None else tasks
    if isinstance(tasks, str) or not tasks:
      raise ValueError(f'expected a sequence of task names, got {tasks!r}')
    self.tasks = tuple(tasks)
    self.max_steps = max_steps
    self.render_mode = render_mode
    self.observation_space = tokens_lib.observation_space(picture_size)
    self.action_space = tokens_lib.action_space(grid)
    self._picture_size = picture_size
    self._grid = grid
    self._family = task_family
    self._limits = (step_timeout, task_timeout)
    self._solver = solver
    self._open_task = ''  # that was initialised and not yet torn down
    self._task = self._goal = ''
    self._words: tuple[str, ...] = ()
    self._screen: np.ndarray | None = None  # in full, if it is rendered
    self._screen_size = (0, 0)
    self._picture: np.ndarray | None = None
    self._num_steps = 0
    self._ended = False
    self._script: list[np.ndarray] | None = None  # what is left of it
    self._phone: client_lib.Phone | None = None
    self._lease: leases.Lease | None = leases.lease(
        addresses, name='phones', check=self._connect,
        error=client_lib.PhoneError)

  def _connect(self, address: str) -> None:
    step_timeout, task_timeout = self._limits
    self._phone = client_lib.Phone(
        address, step_timeout=step_timeout, task_timeout=task_timeout)
    try:
      self._phone.check_health()
      self._phone.reinitialize(seed=0, task_family=self._family)
      known = self._phone.task_list()
      for task in self.tasks:
        if task not in known:
          close = difflib.get_close_matches(task, known) or known[:3]
          raise ValueError(f'expected a task of {address} such as '
                           f'{", ".join(close)}, got {task!r}')
    except BaseException:
      self._phone.close()
      raise

  def reset(self, *, seed: int | None = None,
            options: dict[str, Any] | None = None
            ) -> tuple[tokens_lib.Observation, dict[str, Any]]:
    super().reset(seed=seed)
    options = options or {}
    seed, task_id = base.choose_episode(self, seed, options)
    expert = bool(options.get('expert', False))
    if expert and self._solver is None:
      raise ValueError('expected an environment with a solver, got none')
    phone = self._connected()
    self._task = self.tasks[task_id]
    self._num_steps, self._ended, self._picture = 0, False, None
    try:
      self._tear_down()
      phone.reinitialize(seed=seed, task_family=self._family)
      self._open_task = self._task
      phone.initialize(self._task)
      self._goal = phone.goal(self._task)
      phone.reset(go_home=not self._family.startswith('miniwob'))
      self._look()
    except client_lib.PhoneError:
      self._abandon()
      raise
    self._words = tuple(base.split_words(self._goal)[:base.MAX_WORDS])
    self._script = None
    if expert and self._solver is not None:
      self._script = [
          tokens_lib.encode(action, self._words, self._grid)
          for action in self._solver(self._task, self._goal)]
    return self._observation(), self._info()

  def step(self, action: Any) -> tuple[
      tokens_lib.Observation, float, bool, bool, dict[str, Any]]:
    if self._picture is None:
      raise gymnasium.error.ResetNeeded('expected reset before step')
    if self._ended:
      return self._observation(), 0., True, False, self._info()
    self._num_steps += 1
    action, commands = self._plan(action)
    terminated = action is not None and action.kind in ('done', 'fail')
    truncated = not terminated and self._num_steps >= self.max_steps
    reward = 0.
    phone = self._connected()
    refused = False
    try:
      for command in commands:
        try:
          phone.execute(command)
        except client_lib.RefusedError:
          refused = True
      if commands and (refused or not terminated):
        self._look()
      if terminated or truncated:
        reward = float(phone.score(self._task) >= 1)
        self._ended = True
    except client_lib.PhoneError:
      self._abandon()
      raise
    if self._ended:
      self._tear_down(quietly=True)
    if self._script and action is not None and self._is_next(action):
      self._script.pop(0)
    return self._observation(), reward, terminated, truncated, self._info()

  def expand(self, action: Any) -> tuple[actions.Action, ...]:
    """The same as tokens as a real action; none for illegal ones."""
    action = tokens_lib.decode(action, self._words, self._grid)
    return () if action is None else (action,)

  def _is_next(self, action: actions.Action) -> bool:
    """Whether it does what the script says, at whatever point of the cell."""
    assert self._script
    try:
      return np.array_equal(self._script[0], tokens_lib.encode(
          action, self._words, self._grid))
    except ValueError:
      return False

  def _connected(self) -> client_lib.Phone:
    if self._phone is None:
      raise client_lib.PhoneError('expected a phone, got a closed one')
    return self._phone

  def _plan(self, action: Any) -> tuple[
      actions.Action | None, list[json_action.Command]]:
    """The action and what says it, nothing for an illegal one."""
    if not isinstance(action, actions.Action):
      action = tokens_lib.decode(action, self._words, self._grid)
    if action is None:
      return None, []
    try:
      return action, json_action.encode(action, screen_size=self._screen_size)
    except json_action.JSONActionError:
      return None, []

  def _look(self) -> None:
    screen = self._connected().screenshot()
    height, width = screen.shape[:2]
    self._screen_size = (width, height)
    self._screen = screen if self.render_mode else None
    self._picture = tokens_lib.shrink(screen, self._picture_size)

  def _tear_down(self, *, quietly: bool = False,
                 seconds: float | None = None) -> None:
    """Tears down what is open, or raises once; quietly, it stays open then."""
    if not self._open_task:
      return
    task, self._open_task = self._open_task, ''
    try:
      self._connected().tear_down(task, seconds=seconds)
    except client_lib.PhoneError:
      if not quietly:
        raise
      self._open_task = task

  def _abandon(self) -> None:
    """After a failure: leaves the phone as well as it can be left."""
    self._picture = None
    self._tear_down(quietly=True, seconds=_TEAR_DOWN_SECONDS)
    if self._lease is not None:
      self._lease.distrust()

  def _observation(self) -> tokens_lib.Observation:
    assert self._picture is not None
    return tokens_lib.observe(self._words, self._picture)

  def _info(self) -> dict[str, Any]:
    info: dict[str, Any] = {
        'task': self._task, 'instruction': self._goal}
    if self._script is not None:
      info['expert_action'] = (
          self._script[0] if self._script else tokens_lib.make_action('done'))
    return info

  def render(self) -> np.ndarray | None:
    return self._screen

  def close(self) -> None:
    """Tears down what is open and gives the phone back."""
    if self._phone is not None:
      self._tear_down(quietly=True, seconds=_TEAR_DOWN_SECONDS)
      self._phone.close()
    if self._lease is not None:
      self._lease.close()
    self._phone = self._lease = self._picture = None
