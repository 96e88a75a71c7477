"""A deterministic world of buttons, for tests of the whole run."""

import collections
import contextlib
import os
import pathlib
import time

import gymnasium
from gymnasium import spaces
import numpy as np

from step_jax.envs import base
from step_jax.rollout import episodes
from step_jax.rollout import workers

TRAIN_TASKS = ('press-1', 'press-2', 'press-3', 'type-1')
HELD_OUT_TASKS = ('press-4',)
_WORDS = ('apple', 'bread', 'cheese', 'dates', 'eggs', 'figs')
_SIZE = 8  # elements and words of a screen: policies are soon through them


def example():
  """An empty screen, for shapes."""
  return _cut(base.example())


def _cut(screen):
  """The first elements and words; there are seven verbs."""
  return {name: leaf[:, :_SIZE] if name == 'target_mask' else leaf[:_SIZE]
          for name, leaf in screen.items()}


class ButtonEnv(gymnasium.Env):
  """Press the named buttons in order; 'type-1' types the word instead.

  A wrong press ends the episode with reward 0. The folder that the variable
  STEP_JAX_FAKE names can hold these files:
    broken: names of tasks whose every step fails.
    once: the first step that finds it removes it and fails.
    hold: 'training' or 'evaluation'; a step of such an episode makes a file
      `held` and waits until `hold` is gone.
  """
  observation_space = spaces.Dict({
      name: spaces.Box(0, 2**31 - 1 if leaf.dtype == np.int32 else 1,
                       leaf.shape, leaf.dtype)
      for name, leaf in example().items()})
  action_space = base.action_space()

  def __init__(self, tasks, max_steps):
    unknown = set(tasks) - {*TRAIN_TASKS, *HELD_OUT_TASKS}
    if unknown:
      raise ValueError(f'unknown tasks {sorted(unknown)}')
    self.tasks = tuple(tasks)
    self._max_steps = max_steps

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    options = options or {}
    self._task = self.tasks[options.get('task_id', 0)]
    self._expert = options.get('expert', False)
    self._phase = (
        'training' if seed < episodes.FIRST_EVAL_SEED else 'evaluation')
    self._types = self._task.startswith('type')
    length = int(self._task[-1])
    self._labels = self.np_random.permutation(_WORDS)[:max(3, length)]
    self._wanted = list(self.np_random.choice(self._labels, length, False))
    self._step = 0
    return self._observe()

  def step(self, action):
    self._misbehave()
    self._step += 1
    parsed = base.parse_action(action, self._screen)
    expert = base.parse_action(self._expert_action(), self._screen)
    if parsed == expert:
      self._wanted.pop(0)
    wrong = parsed != expert
    done = wrong or not self._wanted
    observation, info = self._observe()
    return (observation, float(done and not wrong), done,
            not done and self._step >= self._max_steps, info)

  def _observe(self):
    elements = [
        base.Element(kind='button', text=str(label), box=(.1, i / 8, .3, .1))
        for i, label in enumerate(self._labels)]
    elements.append(base.Element(kind='input_text', editable=True))
    verb = 'type' if self._types else 'press'
    self._screen = base.make_screen(
        ' '.join([verb, *self._wanted]), elements)
    info = {'expert_action': self._expert_action()} if self._expert else {}
    return _cut(base.encode_screen(self._screen)), info

  def _expert_action(self):
    if not self._wanted:
      return np.zeros(3, np.int64)
    if self._types:
      return base.make_action('type', len(self._labels), 1)
    return base.make_action(
        'click', int(np.argmax(self._labels == self._wanted[0])))

  def _misbehave(self):
    if not os.environ.get('STEP_JAX_FAKE'):
      return
    folder = pathlib.Path(os.environ['STEP_JAX_FAKE'])
    broken, hold = folder / 'broken', folder / 'hold'
    if broken.exists() and self._task in broken.read_text().split():
      raise OSError('the fake world is broken')
    with contextlib.suppress(FileNotFoundError):
      (folder / 'once').unlink()
      raise OSError('the fake world is broken for once')
    with contextlib.suppress(FileNotFoundError):
      while hold.read_text() == self._phase:
        (folder / 'held').touch()
        time.sleep(.01)


class LocalPool:
  """Plays jobs in this process, in any order: stands for a `WorkerPool`.

  Args:
    make_env: factory of environments.
    num_workers: number of environments.
    rng: chooses whose turn it is; by default they take turns.
    faults: {(slot, step): number of attempts that break there}.
  """

  def __init__(self, make_env, *, num_workers=2, rng=None, faults=None,
               max_retries=2):
    self._envs = [make_env() for _ in range(num_workers)]
    self._rng = rng
    self._faults = dict(faults or {})
    self._max_retries = max_retries
    self._queue = collections.deque()
    self._busy = {}  # worker -> [job, attempt, step, action or None]
    self._waiting = {}
    self.num_failures = 0
    self.arrivals = []  # slots in the order in which they ended

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for env in self._envs:
      env.close()

  @property
  def pending(self):
    return len(self._queue) + len(self._busy) + len(self._waiting)

  def wait_for_start(self, timeout):
    del timeout
    return True

  def submit(self, jobs):
    self._queue.extend((job, 0) for job in jobs)

  def act(self, worker, action):
    job, attempt, step = self._waiting.pop(worker)
    self._busy[worker] = job, attempt, step, np.array(action)

  def wait(self, timeout=None):
    del timeout
    for worker in range(len(self._envs)):
      if self._queue and worker not in self._busy | self._waiting:
        self._busy[worker] = *self._queue.popleft(), 0, None
    workers_due = sorted(self._busy)
    if self._rng is not None and workers_due:
      self._rng.shuffle(workers_due)
      workers_due = workers_due[:self._rng.integers(len(workers_due)) + 1]
    return [self._advance(worker) for worker in workers_due]

  def breaks(self, job, attempt, step):
    """Whether an attempt breaks after `step` steps."""
    return self._faults.get((job.slot, step), 0) > attempt

  def _advance(self, worker):
    job, attempt, step, action = self._busy.pop(worker)
    env = self._envs[worker]
    try:
      if self.breaks(job, attempt, step):
        raise OSError('broken')
      if action is None:
        observation, info = env.reset(seed=job.seed, options={
            'task_id': job.task_id, 'expert': job.expert})
        reward, done = 0., False
      else:
        observation, reward, *ends, info = env.step(action)
        done, step = any(ends), step + 1
    except OSError as error:
      self.num_failures += 1
      again = attempt < self._max_retries
      if again:
        self._queue.append((job, attempt + 1))
      else:
        self.arrivals.append(job.slot)
      return workers.Event('failed' if again else 'lost', job, worker, attempt,
                           message=str(error))
    if done:
      self.arrivals.append(job.slot)
      return workers.Event('finished', job, worker, attempt, observation,
                           reward, info)
    self._waiting[worker] = job, attempt, step
    return workers.Event('observation', job, worker, attempt, observation,
                         0., info)
