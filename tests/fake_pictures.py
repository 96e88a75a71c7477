"""A painted world for a vision-language policy: a square to be clicked."""

import gymnasium
import numpy as np

from step_jax.codecs import actions
from step_jax.envs import base

TRAIN_TASKS = ('click', 'click-type')
HELD_OUT_TASKS = ()
SIZE = 56  # pixels a side
SIDE = 28  # of the square


class PaintedEnv(gymnasium.Env):
  """Click the square; in 'click-type' the word 'ok' has to be typed then.

  Its own action is 0, which does all that is left. A wrong action does nothing
  but count, an illegal one likewise.
  """
  metadata = {'render_modes': ['rgb_array']}

  def __init__(self, tasks=TRAIN_TASKS, max_steps=3, render_mode='rgb_array',
               breaks=False):
    self.tasks = tuple(tasks)
    self.render_mode = render_mode
    self._max_steps = max_steps
    self._breaks = breaks

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    options = options or {}
    self._task = self.tasks[options.get('task_id', 0)]
    self._expert = options.get('expert', False)
    self.corner = self.np_random.integers(0, SIZE - SIDE, 2)  # left, top
    self.taken = []
    self._clicked = False
    return self._observe(), self._info()

  def step(self, action):
    if self._breaks:
      raise OSError('it broke')
    self.taken.append(action)
    kind = action.kind if isinstance(action, actions.Action) else ''
    done = False
    if kind == 'click' and self._is_inside(action.point):
      self._clicked = True
      done = self._task == 'click'
    if kind == 'type' and self._clicked:
      done = action.text == 'ok'
    truncated = not done and len(self.taken) >= self._max_steps
    return self._observe(), float(done), done, truncated, self._info()

  def expand(self, action):
    assert action == 0
    point = tuple((self.corner + SIDE / 2) / SIZE)
    parts = (actions.Action(kind='click', point=point),
             actions.Action(kind='type', text='ok'))
    return parts[:1] if self._task == 'click' else parts

  def _is_inside(self, point):
    place = np.array(point) * SIZE - self.corner
    return bool((0 <= place).all() and (place < SIDE).all())

  def _observe(self):
    boxes = np.zeros((base.MAX_ELEMENTS, 4), np.float32)
    boxes[0] = *self.corner / SIZE, SIDE / SIZE, SIDE / SIZE
    return {'element_box': boxes}

  def _info(self):
    info = {'instruction': f'Do {self._task}.'}
    return info | ({'expert_action': 0} if self._expert else {})

  def render(self):
    if self.render_mode is None:
      return None
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    left, top = self.corner
    picture[top:top + SIDE, left:left + SIDE] = 0, 0, 100 * self._clicked
    return picture
