"""Who prepares and evaluates a task: our own code, or desktop-env's service."""

from collections.abc import Iterator, Sequence
import contextlib
import os
import pathlib
import tempfile
import time
from typing import Any

from step_jax.envs.osworld import checks
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import evaluators
from step_jax.envs.osworld import machines
from step_jax.envs.osworld import setup
from step_jax.envs.osworld import task_lists
from step_jax.envs.osworld import tasks as tasks_lib
from step_jax.envs.osworld import upstream


class Judge:
  """Prepares tasks on a machine, and evaluates what the agent left there.

  Args:
    machine: the desktop.
    python: the interpreter with desktop-env, or ''.
    num_processes: see `upstream.Service`.
    password: of the desktop's user.
    proxies: a file of proxies for tasks that ask for one, or ''.
    settle_after_reset: seconds from a task's setup to the first look.
    settle_before_evaluation: seconds from the last action to the evaluation.
  """

  def __init__(self, machine: machines.Machine, *, python: str,
               num_processes: int, password: str, proxies: str,
               settle_after_reset: float, settle_before_evaluation: float):
    self._machine = machine
    self._service = upstream.Service(python, num_processes=num_processes)
    self._password = password
    self._proxies = os.path.abspath(proxies) if proxies else ''
    self._settle_after_reset = settle_after_reset
    self._settle_before_evaluation = settle_before_evaluation
    self._cache: tempfile.TemporaryDirectory[str] | None = None

  def prepare(self, task: tasks_lib.Task) -> None:
    """Prepares a restored machine for a task.

    Raises:
      DesktopError: it could not be done.
    """
    self._forget_episode()
    if task.evaluator is None:
      self._cache = tempfile.TemporaryDirectory(prefix='step_jax_episode_')
      self._ask('setup', task)
    else:
      setup.run_steps(task.config, self._context(task))
    time.sleep(self._settle_after_reset)

  def evaluate(self, task: tasks_lib.Task, *, failed: bool
               ) -> tuple[float, str]:
    """Returns the score of the machine as it is now, and a note on it.

    Args:
      task: that was prepared.
      failed: the agent's last action said that it cannot be done.

    Raises:
      DesktopError: the machine broke; what an agent can cause scores 0.
    """
    time.sleep(self._settle_before_evaluation)
    # Before the evaluation, which may itself kill a program.
    crashed = self._machine.client.crashed()
    score, note = self._score(task, failed)
    if crashed and score < 1:
      raise client_lib.DesktopError(
          f'{self._machine.client.address}: {crashed[0]} broke')
    return score, note

  def _score(self, task: tasks_lib.Task, failed: bool) -> tuple[float, str]:
    if task.evaluator is not None:
      return evaluators.evaluate(
          task.evaluator, self._context(task), failed=failed), ''
    self._machine.client.screen_size()  # desktop-env would wait for minutes
    answer = self._ask('evaluate', task, failed=failed)
    return float(answer['score']), answer['note']

  def close(self) -> None:
    self._forget_episode()
    self._service.close()

  def _forget_episode(self) -> None:
    if self._cache is not None:
      self._cache.cleanup()
      self._cache = None

  def _context(self, task: tasks_lib.Task) -> setup.Context:
    return setup.Context(
        client=self._machine.client, folder=task.path.parent,
        cache=tasks_lib.default_cache(), password=self._password)

  def _ask(self, do: str, task: tasks_lib.Task, *, failed: bool = False
           ) -> dict[str, Any]:
    assert self._cache is not None
    value = self._context(task).fill(task_lists.read(task.path))
    folder = task.path.parent.absolute()
    machine = self._machine
    try:
      return self._service.ask({
          'do': do, 'task': value, 'folder': str(folder), 'failed': failed,
          'address': machine.client.address, 'token': machine.token,
          'chrome_port': machine.ports['chrome'],
          'vlc_port': machine.ports['vlc'],
          'screen_size': machine.screen_size, 'password': self._password,
          'cache': self._cache.name, 'proxies': self._proxies,
          'downloads': {url: str(_place(url, folder))
                        for url in tasks_lib.urls(value)},
          'seconds': upstream.SECONDS})
    except RuntimeError as error:
      raise client_lib.DesktopError(
          f'{machine.client.address}: {error}') from error


def _place(url: str, folder: pathlib.Path) -> pathlib.Path:
  """Where a URL's content lies: local files beside the task file."""
  if url.startswith(checks.FILE):
    return folder / url.removeprefix(checks.FILE)
  return client_lib.cached(url, tasks_lib.default_cache())


def chosen(evaluator: str, python: str) -> str:
  """'auto' without an interpreter that has desktop-env is 'own'."""
  return 'own' if evaluator == 'auto' and not python else evaluator


def examine(tasks: Sequence[str], *, evaluator: str = 'own',
            desktop_env_python: str = '', proxies: str = '',
            evaluator_processes: int = upstream.NUM_PROCESSES, **_: Any
            ) -> tuple[dict[str, str], list[str]]:
  """Says which task files cannot be played, and what to know of the others.

  Args:
    tasks: paths.
    evaluator, desktop_env_python, proxies, evaluator_processes: as
      `OSWorldEnv` has them; what else it has changes nothing.

  Returns:
    `{path: reason}`, and sentences.

  Raises:
    ValueError: as of `upstream.check`, or the package does not answer.
    MissingProgramError: as of `tasks.load`.
  """
  upstream.check(evaluator, desktop_env_python)
  loaded, wrong = tasks_lib.survey(
      tasks, evaluator=chosen(evaluator, desktop_env_python),
      proxies=bool(proxies))
  theirs = [task for task in loaded if task.evaluator is None]
  if theirs:
    lacking = _ask_what_is_lacking(desktop_env_python, evaluator_processes,
                                   theirs)
    wrong |= lacking
    loaded = tuple(task for task in loaded if str(task.path) not in lacking)
  notes = []
  count = sum(task.evaluator is None for task in loaded)
  if count:
    notes.append(f'{count} of {len(loaded)} tasks are prepared and evaluated '
                 'by desktop-env, the others by ours')
  count = sum(task.proxy for task in loaded)
  if count and not proxies:
    notes.append(f'{count} of {len(loaded)} tasks ask for a proxy, and are '
                 'played without: env.arguments.proxies names none')
  return wrong, notes


def _ask_what_is_lacking(
    python: str, num_processes: int, tasks: Sequence[tasks_lib.Task]
    ) -> dict[str, str]:
  """Which tasks name what this version of desktop-env does not have."""
  try:
    with upstream.Service(python, num_processes=num_processes) as service:
      answer = service.ask({
          'do': 'check', 'seconds': upstream.SECONDS, 'evaluators': {
              str(task.path): task_lists.read(task.path)['evaluator']
              for task in tasks}})
  except RuntimeError as error:
    raise ValueError(str(error)) from error
  return {path: f'{path}: desktop-env lacks {", ".join(names)}'
          for path, names in answer['lacking'].items()}


@contextlib.contextmanager
def open_services(*, evaluator: str = 'own', desktop_env_python: str = '',
                  evaluator_processes: int = upstream.NUM_PROCESSES, **_: Any
                  ) -> Iterator[None]:
  """Runs the service while the context is open; arguments as `examine`.

  An environment starts it, too; but then it ends with that one's process.
  """
  if evaluator == 'own' or not desktop_env_python:
    yield
    return
  with upstream.Service(
      desktop_env_python, num_processes=evaluator_processes):
    yield
