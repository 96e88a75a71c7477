"""Plays the scripted solutions of OSWorld task files on a real desktop.

  python -m step_jax.envs.osworld.check_tasks configs/tasks/desktop
      [--tasks=a,b] [--screenshots=DIR]
      [--address=http://10.0.0.1:5000 --reset_command='restore.sh {address}']

For every task in the folder, or in its folders train and held_out: doing
nothing has to score 0, the solution 1, and the wrong way 0. Each line also has
the actions and seconds of the solution, from the reset to the score. The exit
code is 1 if a score differs, or if an element of a way does not appear: 'at 3!'
says for which action. With `--screenshots` the desktop at the end of each
solution goes to DIR/<id>.png. With `--address` all is played on that machine,
which the command restores, not on a bare desktop of this one.
"""

from collections.abc import Sequence
import contextlib
import pathlib
import shlex
import sys
import time
from typing import Any

from absl import app
from absl import flags
from absl import logging
import numpy as np
from PIL import Image

from step_jax.envs import base
from step_jax.envs.osworld import checks
from step_jax.envs.osworld import env as env_lib
from step_jax.envs.osworld import tasks as tasks_lib

_TASKS = flags.DEFINE_list('tasks', [], 'Ids; all tasks where none is given.')
_SCREENSHOTS = flags.DEFINE_string(
    'screenshots', '', 'A folder for a picture of each solution\'s end.')
_ADDRESS = flags.DEFINE_string('address', '', 'Of a machine.')
_RESET_COMMAND = flags.DEFINE_string(
    'reset_command', '', 'Restores it; see the environment\'s argument.')

_MAX_STEPS = 20  # more than the longest solution
WAYS = {'nothing': 0., 'solution': 1., 'wrong': 0.}  # and their scores


def play(env: env_lib.OSWorldEnv, task: tasks_lib.Task, way: str
         ) -> tuple[float | None, int]:
  """Plays a task in one of the `WAYS`.

  Args:
    env: has the task.
    task: to play.
    way: 'nothing', 'solution' or 'wrong'.

  Returns:
    The score and the number of actions; None for the score if the way could
    not be gone to its end, since an element did not appear.
  """
  solution = task.solution
  if solution is None or not solution.wrong:
    raise checks.TaskError(f'{task.path}: expected a solution and a wrong way')
  options: dict[str, Any] = {'task_id': env.tasks.index(task.id)}
  if way != 'nothing':
    options['expert'] = 'wrong' if way == 'wrong' else True
  _, info = env.reset(seed=0, options=options)
  if way == 'nothing':
    return env.step(base.make_action('done'))[1], 1
  steps = solution.wrong if way == 'wrong' else solution.steps
  for count in range(1, env.max_steps + 1):
    _, score, terminated, truncated, info = env.step(info['expert_action'])
    if terminated or truncated:
      return (score if count == len(steps) else None), count
  raise AssertionError('expected an end within max_steps')


def main(argv: list[str]) -> None:
  """Runs the command, and exits with its code."""
  logging.set_verbosity(logging.WARNING)  # no line for each request
  if len(argv) != 2:
    raise app.UsageError('expected one folder with tasks')
  tasks = [task for task in tasks_lib.load_all(
      env_lib.find_tasks(argv[1:], 'all'))
           if task.id in _TASKS.value or not _TASKS.value]
  missing = set(_TASKS.value) - {task.id for task in tasks}
  if missing or not tasks:
    raise app.UsageError(
        f'expected tasks of {argv[1]}, got {sorted(missing) or "none"}')
  if _SCREENSHOTS.value:
    pathlib.Path(_SCREENSHOTS.value).mkdir(parents=True, exist_ok=True)
  sys.exit(0 if _check_all(tasks) else 1)


def _check_all(tasks: Sequence[tasks_lib.Task]) -> bool:
  """Plays everything and prints a line for each; whether all is right."""
  _print('task', *WAYS, 'actions', 'seconds')
  good = 0
  with contextlib.closing(env_lib.OSWorldEnv(
      [task.path for task in tasks], _MAX_STEPS, render_mode='rgb_array',
      addresses=[_ADDRESS.value] if _ADDRESS.value else (),
      reset_command=shlex.split(_RESET_COMMAND.value))) as env:
    for task in tasks:
      row, right = _check(env, task)
      good += right
      _print(task.id, *row, '' if right else 'NOT RIGHT')
  print(f'{good} of {len(tasks)} tasks are right')
  return good == len(tasks)


def _print(task: str, *row: str) -> None:
  print(f'{task:<24}', *(f'{cell:>8}' for cell in row), flush=True)


def _check(env: env_lib.OSWorldEnv, task: tasks_lib.Task
           ) -> tuple[list[str], bool]:
  """The cells of a task's row, and whether its scores are right."""
  cells, right, actions, seconds = [], True, 0, 0.
  for way, wanted in WAYS.items():
    start = time.monotonic()
    score, count = play(env, task, way)
    cells.append(f'at {count}!' if score is None else f'{score:.0f}')
    right &= score == wanted
    if way == 'solution':
      actions, seconds = count, time.monotonic() - start
      if _SCREENSHOTS.value:
        Image.fromarray(np.asarray(env.render())).save(
            pathlib.Path(_SCREENSHOTS.value) / f'{task.id}.png')
  return [*cells, str(actions), f'{seconds:.1f}'], right


if __name__ == '__main__':
  app.run(main)
