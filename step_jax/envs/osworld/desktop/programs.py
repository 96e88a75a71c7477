"""Programs on a desktop: run to their end, or started and left."""
from collections.abc import Callable, Sequence
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any, IO

from step_jax.envs.osworld.desktop import processes

_LOOK = 0.5   # seconds between looks whether a command is a window
_MAX_OUTPUT = 1 << 24   # bytes


_CHROMIUM = '/usr/lib/chromium/chromium'   # Debian's
# Where Chrome has its profile. Its own sandbox is more than most containers
# give, and what it must not harm is the desktop's alone.
_CHROME = """#!/bin/sh
exec {} --user-data-dir="$HOME/.config/google-chrome" \\
  --no-first-run --no-default-browser-check --no-sandbox "$@"
"""
_PKILL = """#!/bin/sh
[ "$*" = chrome ] && /usr/bin/pkill -x chromium
exec /usr/bin/pkill "$@"
"""


def name_chrome(folder: str) -> None:
  """Lets Chromium, where it is, stand for the Chrome that tasks start and kill.

  Args:
    folder: of programs, where `google-chrome` and `pkill` are put.
  """
  if os.path.exists(_CHROMIUM) and not shutil.which('google-chrome'):
    for name, text in (
        ('google-chrome', _CHROME.format(_CHROMIUM)), ('pkill', _PKILL)):
      path = os.path.join(folder, name)
      with open(path, 'w') as file:
        file.write(text)
      os.chmod(path, 0o755)


class Programs:
  """Starts programs on one desktop."""

  def __init__(self, environment: dict[str, str], *, folder: str,
               log: IO[bytes], list_windows: Callable[[], Any]):
    """Keeps what is needed to start programs.

    Args:
      environment: their environment variables.
      folder: where temporary files may lie that a reset spares.
      log: where programs write that nobody waits for.
      list_windows: returns the windows on the screen, each with its 'pid'.
    """
    self._environment = environment
    self._folder = folder
    self._log = log
    self._list_windows = list_windows
    self._left: list[subprocess.Popen[bytes]] = []   # since `forget`

  def forget(self) -> None:
    """Forgets the programs that were started; their end is no crash."""
    self._left = []

  def crashed(self) -> list[str]:
    """Returns the programs started and left that a signal has ended.

    A shell, and LibreOffice's starter, say so with a code from 128 on.
    """
    return [
        str(process.args if isinstance(process.args, str)
            else process.args[0])   # type: ignore[index]
        for process in self._left
        if (code := process.poll()) is not None and not 0 <= code < 128]

  def launch(self, command: str | Sequence[str], *, shell: bool = False,
             cwd: str | None = None, **popen: Any) -> subprocess.Popen[bytes]:
    """Starts a program that outlives the request.

    Args:
      command: the arguments, or a line for the shell.
      shell: whether a shell reads `command`.
      cwd: the working directory; None: the home directory.
      **popen: keyword arguments of `subprocess.Popen`.

    Raises:
      OSError: there is no such program.
    """
    popen = {'stdout': self._log, 'stderr': self._log, **popen}
    process = subprocess.Popen(
        command, shell=shell, env=self._environment,
        cwd=cwd or self._environment['HOME'], stdin=subprocess.DEVNULL,
        start_new_session=True, **popen)
    self._left.append(process)
    return process

  def run(self, command: str | Sequence[str], *, timeout: float,
          shell: bool = False, cwd: str | None = None, merge: bool = False
          ) -> tuple[int, str, str]:
    """Runs a program to its end, or until it is a window on the screen.

    What it leaves in the background does not matter, and a program that has
    become a window goes on.

    Args:
      command: the arguments, or a line for the shell.
      timeout: seconds after which it is killed.
      shell: whether a shell reads `command`.
      cwd: the working directory; None: the home directory.
      merge: whether the error output goes into the output.

    Returns:
      The exit code (0 for a window), the output and the error output.

    Raises:
      OSError: there is no such program.
      TimeoutError: it took too long.
    """
    with tempfile.TemporaryFile(dir=self._folder) as output, \
        tempfile.TemporaryFile(dir=self._folder) as errors:
      process = self.launch(
          command, shell=shell, cwd=cwd, stdout=output,
          stderr=output if merge else errors)
      deadline = time.monotonic() + timeout
      while (code := _wait(process, _LOOK)) is None:
        if self._is_window(process.pid):
          return 0, _read_text(output), _read_text(errors)
        if time.monotonic() > deadline:
          self._left.remove(process)
          with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
          raise TimeoutError(f'the command took more than {timeout:g} s')
      self._left.remove(process)
      return code, _read_text(output), _read_text(errors)

  def run_script(self, text: str, program: list[str], **options: Any
                 ) -> tuple[int, str, str]:
    """Runs a script; see `run`.

    Args:
      text: the script.
      program: the interpreter's command, to which the script's path is put.
      **options: keyword arguments of `run`.
    """
    with tempfile.NamedTemporaryFile('w', dir=self._folder) as script:
      script.write(text)
      script.flush()
      return self.run([*program, script.name], **options)

  def _is_window(self, pid: int) -> bool:
    """Whether a program, or the only child that it waits for, has a window.

    A Python program may go on after it has opened a window.
    """
    try:
      shown = {window['pid'] for window in self._list_windows()}
      while pid not in shown:
        below = processes.children(pid)
        with open(f'/proc/{pid}/comm') as file:
          if len(below) != 1 or file.read().startswith('python'):
            return False
        pid = below[0]
    except (OSError, RuntimeError):   # It has ended, or the screen hangs.
      return False
    return True


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int | None:
  """Returns the exit code; None after `timeout` seconds."""
  fd = os.pidfd_open(process.pid)
  try:
    processes.readable(fd, timeout=timeout)
  finally:
    os.close(fd)
  return process.poll()


def _read_text(file: IO[bytes]) -> str:
  file.seek(0)
  return file.read(_MAX_OUTPUT).decode(errors='replace')
