"""A process that answers questions in time, or is replaced.

The X server and the applications may hang, and a thread that waits for them
cannot be ended; a process can. This file holds both sides. As a program,
`helper.py FOLDER NAME`, it serves the module NAME of the package that FOLDER
holds: `make_answer()` there returns the function from a question to bytes.
"""
import importlib
import json
import os
import selectors
import struct
import subprocess
import sys
import threading
import time
from typing import Any, BinaryIO

_NAME = 'step_jax.envs.osworld.desktop.helper'
_HEADER = struct.Struct('!?I')   # whether it went well, and the bytes to come


class Helper:
  """The server's side of one helper process."""

  def __init__(self, folder: str, name: str, **popen: Any):
    """Starts the process.

    Args:
      folder: where this package lies, readable for the process.
      name: the module that it serves.
      **popen: keyword arguments of `subprocess.Popen`, such as `env`.
    """
    self._command = [
        sys.executable, '-I', os.path.join(folder, *_NAME.split('.')) + '.py',
        folder, name]
    self._name = name
    self._popen = popen
    self._lock = threading.Lock()
    self._process = self._start()

  @property
  def pid(self) -> int:
    return self._process.pid

  def ask(self, timeout: float, **question: Any) -> bytes:
    """Returns the helper's answer.

    Args:
      timeout: seconds for the answer, the wait for earlier ones included.
      **question: what JSON can hold.

    Raises:
      RuntimeError: the helper says what went wrong.
      TimeoutError: there was no answer in time; the helper is replaced.
    """
    deadline = time.monotonic() + timeout
    if not self._lock.acquire(timeout=timeout):
      raise TimeoutError(
          f'the helper for {self._name} was busy for {timeout:g} s')
    try:
      return self._exchange(question, deadline)
    except (BrokenPipeError, TimeoutError) as error:
      self._process.kill()
      self._process.wait()
      self._process = self._start()
      fate = ('ended' if isinstance(error, BrokenPipeError)
              else f'gave no answer within {timeout:g} s')
      raise TimeoutError(f'the helper for {self._name} {fate}') from error
    finally:
      self._lock.release()

  def _start(self) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True, bufsize=0, **self._popen)

  def _exchange(self, question: dict[str, Any], deadline: float) -> bytes:
    assert self._process.stdin and self._process.stdout
    self._process.stdin.write(json.dumps(question).encode() + b'\n')
    good, size = _HEADER.unpack(self._read(_HEADER.size, deadline))
    answer = self._read(size, deadline)
    if not good:
      raise RuntimeError(answer.decode())
    return answer

  def _read(self, size: int, deadline: float) -> bytes:
    assert self._process.stdout
    pipe = self._process.stdout.fileno()
    data = bytearray()
    with selectors.DefaultSelector() as selector:
      selector.register(pipe, selectors.EVENT_READ)
      while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0 or not selector.select(left):
          raise TimeoutError
        part = os.read(pipe, size - len(data))
        if not part:
          raise BrokenPipeError
        data += part
    return bytes(data)


def _serve(folder: str, name: str, questions: BinaryIO, answers: BinaryIO
           ) -> None:
  """The helper's side: answers until the server closes the pipe."""
  sys.path.insert(0, folder)
  package = _NAME.rpartition('.')[0]
  answer = importlib.import_module(f'{package}.{name}').make_answer()
  for line in questions:
    try:
      good, data = True, answer(**json.loads(line))
    except Exception as error:
      good, data = False, f'{type(error).__name__}: {error}'.encode()
    answers.write(_HEADER.pack(good, len(data)) + data)
    answers.flush()


if __name__ == '__main__':
  _serve(sys.argv[1], sys.argv[2], sys.stdin.buffer, sys.stdout.buffer)
