"""OSWorld's tasks on real desktops, as elements and token actions.

An episode is a task file: the desktop is restored, the task's steps prepare
it, the agent acts, and the task's evaluator scores what it left. A step is one
request that does something, a pause, and one that reads the screen.

Deviations from OSWorld's own environment, on purpose: whatever breaks raises
instead of scoring 0, the reward comes with the last step, and it is 1 only for
a score of 1; `info['score']` has the score.
"""

from collections.abc import Sequence
import io
import os
import time
from typing import Any

import gymnasium
import numpy as np

from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import elements
from step_jax.envs.osworld import judge
from step_jax.envs.osworld import looks
from step_jax.envs.osworld import machines
from step_jax.envs.osworld import program
from step_jax.envs.osworld import solutions
from step_jax.envs.osworld import task_lists
from step_jax.envs.osworld import tasks as tasks_lib
from step_jax.envs.osworld import upstream
from step_jax.rollout import pictures

_EXPERT_SECONDS = 15.0  # for an element that a scripted solution waits for
_LOOK_PAUSE = 0.2  # seconds between two looks at a screen that changes

# What a run asks of an environment whose tasks are files.
find_tasks = task_lists.find_split
examine_tasks = judge.examine
open_services = judge.open_services
summarise = tasks_lib.summary
example = looks.example


class OSWorldEnv(gymnasium.Env):
  """Task files on a desktop; `base` describes observations and actions.

  `reset(seed=s, options={'task_id': i, 'expert': bool})` starts an episode of
  `tasks[i]`, by default of the task `s % len(tasks)`. The seed changes nothing
  else: a task file has one beginning. With `expert`, every info carries
  `expert_action`, the next step of the scripted solution; with 'wrong' for
  `expert`, of the wrong way beside it. `step` takes action tokens, or an
  `actions.Action`; an illegal one does nothing and counts as a step. What an
  element action does is told by `elements.plan`.

  Without addresses, the environment runs a bare desktop of its own on this
  machine. With addresses, each environment, in whatever process of this user,
  takes one that nobody has; it is free again when the process ends.

  Args:
    tasks: a folder or list of task files, or the files.
    max_steps: T, after which an episode is truncated, and evaluated.
    addresses: of desktops, as `machines.Machine` has them.
    token: of these desktops, sent as `Authorization: Bearer`; by default the
      environment variable STEP_JAX_DESKTOP_TOKEN.
    pause: seconds from an action to a look at the screen; OSWorld waits 2.
    evaluator: 'own'; 'desktop_env' for the package's own setup and evaluators;
      or 'auto': our own where they cover all of a task, else the package.
    desktop_env_python: the interpreter of a virtual environment with the
      package desktop-env; 'auto' without it is 'own'.
    evaluator_processes: tasks that the package works on at once, in all.
    proxies: a file of proxies, as the package has it, or ''. The package
      plays the tasks that ask for one.
    settle_after_reset: seconds after a task's setup; OSWorld waits 60.
    settle_before_evaluation: seconds; OSWorld waits 20.
    reset_command: a command of this machine that restores a desktop before each
      episode, if it is down, too, instead of its /reset; '{address}' in it is
      replaced.
    screenshots: a folder for pictures of every step; empty takes none.
    max_screenshot_size: see `pictures.ScreenshotStore`.
    read_tree: False reads the screen's elements at the beginning only, if they
      can be read, and for a scripted solution: for policies that look at
      pictures.
    password: of the desktop's user, for tasks that name {CLIENT_PASSWORD}.
    render_mode: 'rgb_array' lets `render` return a picture.

  Raises:
    TaskError: a task file is wrong.
    MissingProgramError: a program or package is missing.
    ValueError: an argument is out of range, a task has no solution.
    DesktopError: no desktop is free; from reset and step, when one broke: this
      episode is lost.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 2}
  draws_episodes = False  # a task file is one initial state

  def __init__(
      self, tasks: str | os.PathLike | Sequence[str | os.PathLike],
      max_steps: int = 15, *, addresses: Sequence[str] = (), token: str = '',
      pause: float = 0.3, evaluator: str = 'own', desktop_env_python: str = '',
      evaluator_processes: int = upstream.NUM_PROCESSES, proxies: str = '',
      settle_after_reset: float = 0., settle_before_evaluation: float = 0.,
      reset_command: Sequence[str] = (), screenshots: str | os.PathLike = '',
      max_screenshot_size: int = 0, read_tree: bool = True,
      password: str = 'password', render_mode: str | None = None):
    if render_mode not in (None, *self.metadata['render_modes']):
      raise ValueError(f"expected render_mode 'rgb_array', got {render_mode!r}")
    if max_steps < 1:
      raise ValueError(f'expected max_steps of at least 1, got {max_steps}')
    for name, seconds in (
        ('pause', pause), ('settle_after_reset', settle_after_reset),
        ('settle_before_evaluation', settle_before_evaluation)):
      if not seconds >= 0:
        raise ValueError(f'expected {name} of at least 0, got {seconds}')
    upstream.check(evaluator, desktop_env_python)
    self._tasks = tasks_lib.load_all(
        tasks, evaluator=judge.chosen(evaluator, desktop_env_python),
        proxies=bool(proxies))
    self.tasks = tuple(task.id for task in self._tasks)
    self.max_steps = max_steps
    self.render_mode = render_mode
    self.observation_space = looks.observation_space(bool(screenshots))
    self.action_space = base.action_space()
    self._pause = pause
    self._read_tree = read_tree
    self._store = pictures.ScreenshotStore(
        screenshots, max_size=max_screenshot_size) if screenshots else None
    self._machine = machines.Machine(
        addresses, token=token or os.environ.get('STEP_JAX_DESKTOP_TOKEN', ''),
        reset_command=reset_command)
    self._judge = judge.Judge(
        self._machine, python=desktop_env_python,
        num_processes=evaluator_processes, password=password, proxies=proxies,
        settle_after_reset=settle_after_reset,
        settle_before_evaluation=settle_before_evaluation)
    self._outcome: dict[str, Any] = {}  # of the evaluation
    self._task = self._tasks[0]
    self._tree: elements.Tree | None = None
    self._screen = base.make_screen('', ())
    self._screenshot = -1
    self._num_steps = 0
    self._ended = False
    self._expert = False
    self._script: list[Any] = []  # what is left of the solution

  def reset(self, *, seed: int | None = None,
            options: dict[str, Any] | None = None
            ) -> tuple[base.Observation, dict[str, Any]]:
    super().reset(seed=seed)
    options = options or {}
    _, task_id = base.choose_episode(self, seed, options)
    self._task = self._tasks[task_id]
    self._script, self._expert = [], bool(options.get('expert', False))
    if self._expert:
      solution = self._task.solution
      if solution is None:
        raise ValueError(
            f'expected a task with a solution, got {self._task.id!r}')
      self._script = list(
          solution.wrong if options['expert'] == 'wrong' else solution.steps)
    self._num_steps, self._ended, self._tree = 0, False, None
    self._outcome = {}
    try:
      self._machine.restore()
      self._judge.prepare(self._task)
      self._wait_for_windows()
      return self._observation(), self._info()
    except client_lib.DesktopError:
      self._machine.abandon()
      raise

  def step(self, action: Any) -> tuple[
      base.Observation, float, bool, bool, dict[str, Any]]:
    if self._tree is None:
      raise gymnasium.error.ResetNeeded('expected reset before step')
    if self._ended:
      return self._observation(), 0., True, False, self._info()
    self._num_steps += 1
    kind, parts = self._plan(action)
    terminated = kind in ('done', 'fail')
    truncated = not terminated and self._num_steps >= self.max_steps
    reward = 0.
    try:
      if parts and not terminated:
        self._act(parts)
      if terminated or truncated:
        self._ended = True
        score, note = self._judge.evaluate(self._task, failed=kind == 'fail')
        reward = float(score >= 1)
        self._outcome = {'score': score}
        if note:  # why desktop-env could not get to a score
          self._outcome['evaluation'] = note
      return (self._observation(), reward, terminated, truncated, self._info())
    except client_lib.DesktopError:
      self._tree = None
      self._machine.abandon()
      raise

  def _plan(self, action: Any) -> tuple[str, tuple[actions.Action, ...]]:
    """The kind of an action and its parts, none of an illegal one."""
    assert self._tree is not None
    if isinstance(action, actions.Action):
      is_legal = action.kind not in actions.PHONE_KINDS
      return (action.kind, (action,)) if is_legal else ('', ())
    parsed = base.parse_action(action, self._screen)
    if parsed is None:
      return '', ()
    self.follow(action)
    return parsed[0], self._parts(*parsed)

  def expand(self, action: Any) -> tuple[actions.Action, ...]:
    """The same as an element action as real ones; none for an illegal one."""
    parsed = base.parse_action(action, self._screen)
    return () if parsed is None else self._parts(*parsed)

  def _parts(self, verb: str, target: int, word: int
             ) -> tuple[actions.Action, ...]:
    assert self._tree is not None
    item = self._tree.items[target] if verb in ('click', 'type') else None
    words = elements.typed_words(self._task.instruction)
    return elements.plan(verb, item, words[word], self._tree)

  def follow(self, action: Any) -> None:
    """Moves on in the solution, if this element action is its next step."""
    proposal = self._propose()
    if proposal is not None and base.parse_action(
        action, self._screen) == base.parse_action(proposal, self._screen):
      self._script.pop(0)

  def _propose(self) -> np.ndarray | None:
    if not self._script:
      return None
    return solutions.propose(
        self._script[0], self._screen, self._task.instruction)

  def _act(self, parts: Sequence[actions.Action]) -> None:
    client = self._machine.client
    program.perform(
        client, parts, screen_size=self._machine.screen_size,
        pause=self._pause)
    time.sleep(self._pause)
    if self._reads_elements:
      self._read()
    else:
      self._see_nothing()
    self._finish_look()

  def _finish_look(self) -> None:
    """Reads on until a script's next element is there; takes the picture."""
    deadline = time.monotonic() + _EXPERT_SECONDS
    while self._script and self._propose() is None and (
        time.monotonic() < deadline):
      time.sleep(_LOOK_PAUSE)
      self._read()
    if self._store is not None:
      self._screenshot = self._store.put(self._machine.client.screenshot())

  def _read(self) -> elements.Tree:
    self._tree = looks.read(self._machine.client, self._machine.screen_size)
    self._screen = base.make_screen(
        self._task.instruction, [item.record for item in self._tree.items],
        verbs=elements.VERBS)
    return self._tree

  @property
  def _reads_elements(self) -> bool:
    return self._read_tree or self._expert

  def _see_nothing(self) -> None:
    """A screen without elements; a picture may show what it likes."""
    self._tree = elements.Tree((), scroll_point=(.5, .5))
    self._screen = base.make_screen(self._task.instruction, ())

  def _wait_for_windows(self) -> None:
    """Waits until what the task starts is there, and stands still."""
    starts = any(step['type'] in ('launch', 'open')
                 for step in self._task.config)
    try:
      if not looks.settle(self._read, starts=starts, pause=_LOOK_PAUSE):
        raise client_lib.DesktopError(
            f'{self._machine.client.address}: {self._task.id} shows no window '
            'in time')
    except client_lib.DesktopError:
      if self._reads_elements:
        raise
      self._see_nothing()  # there are windows without elements
    self._finish_look()

  def _observation(self) -> base.Observation:
    observation = base.encode_screen(self._screen)
    if self._store is not None:
      observation['screenshot'] = np.array(self._screenshot, np.int32)
    return observation

  def _info(self) -> dict[str, Any]:
    info: dict[str, Any] = {
        'task': self._task.id, 'instruction': self._task.instruction}
    info |= self._outcome
    if self._expert and not self._ended:
      proposal = self._propose()
      # An element that does not come ends a demonstration that has failed.
      info['expert_action'] = (
          base.make_action('done') if proposal is None else proposal)
    return info

  def render(self) -> np.ndarray | None:
    if self.render_mode is None or self._tree is None:
      return None
    from PIL import Image
    picture = Image.open(io.BytesIO(self._machine.client.screenshot()))
    return np.asarray(picture.convert('RGB'))

  def close(self) -> None:
    self._judge.close()
    self._machine.close()
    self._tree = None
