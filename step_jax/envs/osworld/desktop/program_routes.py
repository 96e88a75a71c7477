"""OSWorld's routes for programs: they run commands, scripts and Python."""
import os
import shlex
import time
from typing import Any

from step_jax.envs.osworld.desktop import file_routes
from step_jax.envs.osworld.desktop import messages
from step_jax.envs.osworld.desktop import session
from step_jax.envs.osworld.desktop import window_routes

Answer = messages.Answer
Request = messages.Request
Session = session.Session

_EXECUTE_LIMIT = 120.0   # seconds, as OSWorld's
_PYTHON_LIMIT = 30.0   # seconds, as OSWorld's


def _read_command(desktop: Session, fields: messages.Fields
                  ) -> tuple[Any, bool]:
  """Returns a command, as words without a shell, and whether for a shell."""
  shell = fields.take('shell', bool, default=False)
  command = fields.take('command', list, str)
  if isinstance(command, str) and not shell:
    try:
      command = shlex.split(command)
    except ValueError as error:
      raise messages.Refusal(f'expected a command, got {error}') from error
  if not command:
    raise messages.Refusal('expected a command, got an empty one')
  if isinstance(command, list):
    if not all(
        isinstance(word, str) and '\0' not in word for word in command):
      raise messages.Refusal('expected words in command, got another type')
    command = [file_routes.expand_home(desktop, word) for word in command]
  return command, shell


def _run(desktop: Session, fields: messages.Fields) -> dict[str, Any]:
  command, shell = _read_command(desktop, fields)
  code, output, errors = desktop.programs.run(
      command, shell=shell, timeout=_EXECUTE_LIMIT)
  return {'status': 'success', 'output': output, 'error': errors,
          'returncode': code}


def execute(desktop: Session, request: Request) -> Answer:
  """`/execute`: runs a command to its end.

  Args:
    desktop: the desktop.
    request: JSON with `command`, words or a line, and `shell`, whether a shell
      reads it.

  Returns:
    `status`, `output`, `error` and `returncode`.

  Raises:
    Refusal: it is no command.
    OSError: there is no such program.
    TimeoutError: it took longer than OSWorld's 120 s.
  """
  return messages.as_json(_run(desktop, request.read_json()))


def execute_with_verification(desktop: Session, request: Request) -> Answer:
  """`/execute_with_verification`: the same, and waits until it has worked.

  That is when a window is there, or another command succeeds.

  Args:
    desktop: the desktop.
    request: JSON as of `execute`, with `verification`, an object with
      `window_exists`, a name, `command_success`, for the shell, or both, and
      `max_wait_time` and `check_interval` in seconds.

  Returns:
    As of `execute`, with `verification` and `wait_time` in seconds; 500 if it
    has not worked in time.

  Raises:
    Refusal, OSError, TimeoutError: see `execute`.
  """
  fields = request.read_json()
  verification = messages.Fields(fields.take('verification', dict, default={}))
  window = verification.take('window_exists', str, default=None)
  check = verification.take('command_success', str, list, default=None)
  limit = fields.take('max_wait_time', int, float, default=10)
  pause = fields.take('check_interval', int, float, default=1)
  result = _run(desktop, fields)
  if window is None and check is None:
    return messages.as_json(result)
  start = time.monotonic()
  while (waited := time.monotonic() - start) < min(limit, messages.LONGEST):
    if (window is None or window_routes.find(desktop, window)) and (
        check is None or _succeeds(desktop, check)):
      return messages.as_json(
          {**result, 'verification': 'passed', 'wait_time': waited})
    time.sleep(min(max(pause, window_routes.LOOK), limit))
  return messages.as_json(
      {**result, 'status': 'verification_failed', 'verification': 'failed',
       'wait_time': limit}, 500)


def _succeeds(desktop: Session, check: str | list[str]) -> bool:
  try:
    return desktop.programs.run(check, shell=True, timeout=5)[0] == 0
  except (OSError, TimeoutError):
    return False


def launch(desktop: Session, request: Request) -> Answer:
  """`/setup/launch`: starts a command and goes on.

  Args:
    desktop: the desktop.
    request: JSON as of `execute`.

  Returns:
    The command, in words.

  Raises:
    Refusal: it is no command.
    OSError: there is no such program.
  """
  command, shell = _read_command(desktop, request.read_json())
  desktop.programs.launch(command, shell=shell)
  words = command if isinstance(command, str) else ' '.join(command)
  return messages.as_text(f'{words} launched successfully')


def run_python(desktop: Session, request: Request) -> Answer:
  """`/run_python`: runs a program in Python to its end.

  Args:
    desktop: the desktop.
    request: JSON with `code`.

  Returns:
    `status`, `message`, `need_more`, `output`, `error` and `return_code`; 500
    if it took longer than OSWorld's 30 s.
  """
  code = request.read_json().take('code', str)
  try:
    status, output, errors = desktop.programs.run_script(
        code, ['python'], timeout=_PYTHON_LIMIT)
  except TimeoutError:
    return messages.as_json({
        'status': 'error', 'error': 'TimeoutExpired', 'need_more': False,
        'message': 'Execution timeout: Code took too long to execute',
        'output': None}, 500)
  if status and not errors:
    errors = f'Process exited with code {status}'
  return messages.as_json({
      'status': 'error' if status else 'success', 'need_more': False,
      'message': '\n'.join(text for text in (output, errors) if text),
      'output': output, 'error': errors, 'return_code': status})


def run_bash_script(desktop: Session, request: Request) -> Answer:
  """`/run_bash_script`: runs a script in Bash to its end.

  Args:
    desktop: the desktop.
    request: JSON with `script`, `timeout` in seconds and `working_dir`, see
      `file_routes.expand`.

  Returns:
    `status`, `output` with the errors among it, `error` and `returncode`; 500
    if it took too long, 400 without such a folder.
  """
  fields = request.read_json()
  limit = fields.take('timeout', int, float, default=100)
  folder = fields.take('working_dir', str, default=None)
  try:
    folder = folder and file_routes.expand(desktop, folder)
    if folder and not os.path.isdir(folder):
      raise messages.Refusal(f'Working directory does not exist: {folder}')
    code, output, _ = desktop.programs.run_script(
        fields.take('script', str), ['/bin/bash'], cwd=folder,
        timeout=min(max(limit, 0), messages.LONGEST), merge=True)
  except (messages.Refusal, TimeoutError) as error:
    late = isinstance(error, TimeoutError)
    return messages.as_json({
        'status': 'error', 'error': '', 'returncode': -1, 'output':
            f'Script execution timed out after {limit} seconds' if late
            else str(error)}, 500 if late else 400)
  return messages.as_json({
      'status': 'error' if code else 'success', 'output': output, 'error': '',
      'returncode': code})
