"""MiniWoB++ tasks in a real Chromium, as elements and token actions.

One browser serves all tasks of an environment: another task is another page
in the same window, the same task a new episode on the loaded page. A step is a
trusted click (and key presses) at a point where the element is really visible,
then one script that reads the screen. The screen is the task's 160 x 210
pixels: what lies below has to be scrolled to.

Deviations from the package's own environment, all on purpose: no wall-clock
limit, reward 1 only for a raw reward of 1, steps are counted, the terminal
observation is the last one of the episode, and no pictures unless asked for.
"""

from collections.abc import Sequence
import difflib
import importlib.util
import io
import pathlib
from typing import Any

import gymnasium
import numpy as np

from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.miniwob import browser
from step_jax.envs.miniwob import input as browser_input
from step_jax.envs.miniwob import page as miniwob_page
from step_jax.envs.miniwob import solvers as miniwob_solvers

TRAIN_TASKS = (
    'click-button',
    'click-button-sequence',
    'click-checkboxes',
    'click-checkboxes-large',
    'click-collapsible-2-nodelay',
    'click-dialog-2',
    'click-link',
    'click-option',
    'click-tab-2',
    'email-inbox-delete',
    'enter-password',
    'enter-text',
    'identify-shape',
    'login-user',
    'navigate-tree',
    'search-engine',
)
HELD_OUT_TASKS = (
    'click-checkboxes-transfer',
    'click-dialog',
    'click-tab-2-medium',
    'click-test',
    'click-test-2',
    'enter-text-dynamic',
    'use-autocomplete-nodelay',
)

_WIDTH, _HEIGHT = 160, 210  # pixels of a task
_WINDOW_WIDTH = 500  # the score board stands beside the task
_SCROLL = 100  # pixels
_MIDDLE = (.5, .5)
# chromedriver keeps something of every page, Chromium, too. [choice]
_EPISODES_OF_A_BROWSER = 500


def check_requirements() -> None:
  """Raises MissingProgramError, with what to install, if anything lacks."""
  _pages_folder()
  browser.find_programs()


def _pages_folder() -> pathlib.Path:
  spec = importlib.util.find_spec('miniwob')
  if spec is None or spec.origin is None:
    raise base.MissingProgramError(
        "The package miniwob is not installed: install with "
        "`pip install 'step_jax[miniwob]'`.")
  return pathlib.Path(spec.origin).parent / 'html' / 'miniwob'


class MiniWobEnv(gymnasium.Env):
  """MiniWoB++ tasks; `base` describes observations and actions.

  `reset(seed=s, options={'task_id': i, 'expert': bool})` starts an episode of
  `tasks[i]`, by default of the task `s % len(tasks)`. The same seed and
  task are the same episode, whatever was played before. With `expert`, every
  info carries `expert_action`, the scripted solver's proposal for the screen.
  `step` takes action tokens, or an `actions.Action`: one that
  `browser_input.is_legal` allows, or done, which ends the episode unsolved. An
  illegal action does nothing and counts as a step.

  Args:
    tasks: names of MiniWoB++ pages, by default TRAIN_TASKS.
    max_steps: T, after which an episode is truncated.
    render_mode: 'rgb_array' lets `render` return a picture [210, 160, 3].

  Raises:
    MissingProgramError: when Chromium, chromedriver or a package is missing.
    ValueError: for an unknown task, task id or render mode.
    BrowserError: from reset and step, when the browser broke: this episode is
      lost, the next reset starts another browser.
  """

  metadata = {'render_modes': ['rgb_array'], 'render_fps': 2}

  def __init__(self, tasks: Sequence[str] = TRAIN_TASKS, max_steps: int = 15,
               render_mode: str | None = None):
    check_requirements()
    if render_mode not in (None, *self.metadata['render_modes']):
      raise ValueError(f"expected render_mode 'rgb_array', got {render_mode!r}")
    if max_steps < 1:
      raise ValueError(f'expected max_steps of at least 1, got {max_steps}')
    self._folder = _pages_folder()
    _check_tasks(tasks, self._folder)
    self.tasks = tuple(tasks)
    self.max_steps = max_steps
    self.render_mode = render_mode
    self.observation_space = base.observation_space()
    self.action_space = base.action_space()
    self._browser: browser.Browser | None = None
    self._num_begun = 0  # episodes of this browser
    self._page = ''  # the task whose page is loaded
    self._task = self._instruction = ''
    self._screen: base.Screen | None = None
    self._points: list[tuple[float, float]] = []
    self._pointer: actions.Point = _MIDDLE
    self._num_steps = 0
    self._terminated = False
    self._expert = False

  def reset(self, *, seed: int | None = None,
            options: dict[str, Any] | None = None
            ) -> tuple[base.Observation, dict[str, Any]]:
    super().reset(seed=seed)
    options = options or {}
    seed, task_id = base.choose_episode(self, seed, options)
    self._task = self.tasks[task_id]
    self._expert = bool(options.get('expert', False))
    if self._expert and self._task not in miniwob_solvers.SOLVERS:
      raise ValueError(f'expected a task with a solver, got {self._task!r}')
    self._num_steps, self._terminated, self._pointer = 0, False, _MIDDLE
    self._screen = self._read(self._guard(self._begin, seed))
    return base.encode_screen(self._screen), self._info(self._screen)

  def _begin(self, page_seed: int) -> dict[str, Any]:
    if self._num_begun == _EPISODES_OF_A_BROWSER:
      self.close()
    if self._browser is None:
      self._browser = browser.Browser(_WINDOW_WIDTH, _HEIGHT)
    self._num_begun += 1
    if self._page != self._task:
      self._browser.open((self._folder / f'{self._task}.html').as_uri())
      self._page = self._task
    report = self._browser.run(miniwob_page.START, page_seed)
    if report['done']:
      raise browser.BrowserError(f'{self._task} ended before it began')
    return report

  def step(self, action: Any) -> tuple[
      base.Observation, float, bool, bool, dict[str, Any]]:
    if self._screen is None:
      raise gymnasium.error.ResetNeeded('expected reset before step')
    self._num_steps += 1
    report = {} if self._terminated else self._guard(self._act, action)
    reward = 0.
    if report:
      self._terminated = report['done']
      if self._terminated:
        reward = float(report['reward'] == 1)
      else:
        self._screen = self._read(report)
    truncated = not self._terminated and self._num_steps >= self.max_steps
    return (base.encode_screen(self._screen), reward, self._terminated,
            truncated, self._info(self._screen))

  def expand(self, action: Any) -> tuple[actions.Action, ...]:
    """The same as an element action as real ones; none for an illegal one."""
    assert self._screen is not None
    parsed = base.parse_action(action, self._screen)
    if parsed is None:
      return ()
    verb, target, word = parsed
    if verb in ('scroll_up', 'scroll_down'):
      return (actions.Action(
          kind='scroll', direction=verb.removeprefix('scroll_'),
          amount=_SCROLL // browser_input.NOTCH, point=_MIDDLE),)
    x, y = self._points[target]
    click = actions.Action(kind='click', point=(x / _WIDTH, y / _HEIGHT))
    if verb == 'click':
      return (click,)
    return (click, actions.Action(kind='hotkey', keys=('ctrl', 'a')),
            actions.Action(kind='type', text=self._screen.words[word]))

  def _act(self, action: Any) -> dict[str, Any]:
    """What the page reports after an action, nothing of an illegal one."""
    assert self._browser is not None and self._screen is not None
    if not isinstance(action, actions.Action):
      parsed = base.parse_action(action, self._screen)
      return {} if parsed is None else self._perform(*parsed)
    if action.kind == 'done':
      return {'done': True, 'reward': 0}
    if not browser_input.is_legal(action):
      return {}
    browser_input.perform(
        self._browser, action, screen_size=(_WIDTH, _HEIGHT),
        pointer=self._pointer)
    self._pointer = action.end or action.point or self._pointer
    return self._browser.run(miniwob_page.LOOK, 0)

  def _perform(self, verb: str, target: int, word: int) -> dict[str, Any]:
    assert self._browser is not None and self._screen is not None
    scroll = {'scroll_up': -_SCROLL, 'scroll_down': _SCROLL}.get(verb, 0)
    if verb in ('click', 'type'):
      self._browser.click(*self._points[target])
    if verb == 'type':
      self._browser.replace_text(self._screen.words[word])
    return self._browser.run(miniwob_page.LOOK, scroll)

  def _guard(self, function: Any, *arguments: Any) -> dict[str, Any]:
    try:
      return function(*arguments)
    except browser.BrowserError:
      self.close()
      raise

  def _read(self, report: dict[str, Any]) -> base.Screen:
    points = [record.pop('point') for record in report['elements']]
    elements = [base.Element(**record) for record in report['elements']]
    self._instruction = report['instruction']
    self._points = [points[i] for i in base.select_elements(elements)]
    return base.make_screen(
        report['instruction'], elements, verbs=report['verbs'])

  def _info(self, screen: base.Screen) -> dict[str, Any]:
    info: dict[str, Any] = {
        'task': self._task, 'instruction': self._instruction}
    if self._expert:
      info['expert_action'] = miniwob_solvers.propose(self._task, screen)
    return info

  def render(self) -> np.ndarray | None:
    if self.render_mode is None or self._browser is None:
      return None
    from PIL import Image
    picture = Image.open(io.BytesIO(self._browser.screenshot()))
    return np.asarray(picture.convert('RGB'))[:, :_WIDTH]

  def close(self) -> None:
    if self._browser is not None:
      self._browser.close()
    self._browser, self._screen, self._page = None, None, ''
    self._num_begun = 0


def _check_tasks(tasks: Sequence[str], folder: pathlib.Path) -> None:
  if isinstance(tasks, str) or not tasks:
    raise ValueError(f'expected a sequence of task names, got {tasks!r}')
  known = sorted(page.stem for page in folder.glob('*.html'))
  for task in tasks:
    if task not in known:
      close = difflib.get_close_matches(task, known) or list(TRAIN_TASKS[:3])
      raise ValueError(f'expected a MiniWoB++ task such as '
                       f'{", ".join(close)}, got {task!r}')
