"""OSWorld's routes for files: they give, take, list and download them."""
import contextlib
import os
import stat
import sys
import time
from typing import Any
import urllib.parse

from step_jax.envs.osworld.desktop import messages
from step_jax.envs.osworld.desktop import session

_MAX_FILE = 1 << 28   # bytes
_MAX_ENTRIES = 50_000   # of a directory tree
_MAX_DEPTH = 50
_LIST_LIMIT = 10.0   # seconds
_DOWNLOAD_LIMIT = 120.0   # seconds


def send(desktop: session.Session, request: messages.Request
         ) -> messages.Answer:
  """`/file`: sends a file.

  Args:
    desktop: the desktop.
    request: a form with `file_path`, see `expand`.

  Returns:
    See `read_file`.
  """
  return read_file(expand(desktop, request.read_form().take('file_path', str)))


def read_file(path: str) -> messages.Answer:
  """Returns an answer with a file's bytes.

  Args:
    path: of the file.

  Returns:
    The bytes; 404 if there is no such file, 500 if it cannot be read.

  Raises:
    Refusal: it is no plain file, or too large.
  """
  if not os.path.exists(path):
    return messages.as_json({'error': 'File not found'}, 404)
  try:   # A pipe would wait for its writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 'rb') as file:
      status = os.fstat(file.fileno())
      if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE:
        raise messages.Refusal(
            f'expected a file of at most {_MAX_FILE} bytes, got {path}')
      body = file.read(_MAX_FILE)
  except OSError as error:
    return messages.as_json({'error': f'Failed to serve file: {error}'}, 500)
  return messages.Answer(
      body=body, kind='application/octet-stream', status=200)


def upload(desktop: session.Session, request: messages.Request
           ) -> messages.Answer:
  """`/setup/upload`: writes a file, and the folders that it needs.

  Args:
    desktop: the desktop.
    request: a form with `file_path`, see `expand`, and the bytes `file_data`.

  Returns:
    How many bytes there were, in words; 500 if they cannot be written.
  """
  form = request.read_form()
  path = expand(desktop, form.take('file_path', str))
  data = form.take('file_data', bytes)
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(_open_to_write(path), 'wb') as file:
      file.write(data)
  except OSError as error:
    return messages.as_json({'error': f'Failed to upload file: {error}'}, 500)
  return messages.as_text(f'File Uploaded: {len(data)} bytes')


def _open_to_write(path: str) -> int:
  return os.open(
      path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o644)


def list_directory(desktop: session.Session, request: messages.Request
                   ) -> messages.Answer:
  """`/list_directory`: sends a folder with all that is below it.

  Args:
    desktop: the desktop.
    request: JSON with `path`, see `expand`.

  Returns:
    `directory_tree`: its `type`, `name` and `children`; 400 for no folder.

  Raises:
    Refusal: there is too much below it, or it takes too long to read.
  """
  path = expand(desktop, request.read_json().take('path', str))
  if not os.path.isdir(path):
    return messages.as_json(
        {'error': 'The provided path is not a directory'}, 400)
  budget = [_MAX_ENTRIES]
  deadline = time.monotonic() + _LIST_LIMIT

  def list_one(folder: str, depth: int) -> dict[str, Any]:
    children: list[dict[str, Any]] = []
    try:
      entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
      return {'error': str(error)}
    for entry in entries:
      budget[0] -= 1
      if budget[0] < 0 or time.monotonic() > deadline:
        raise messages.Refusal(
            f'expected at most {_MAX_ENTRIES} files below {path}', 413)
      if entry.is_dir(follow_symlinks=False) and depth < _MAX_DEPTH:
        children.append(list_one(entry.path, depth + 1))
      else:
        children.append({'type': 'file', 'name': entry.name})
    return {'type': 'directory', 'name': os.path.basename(folder),
            'children': children}

  return messages.as_json({'directory_tree': list_one(path, 0)})


def download(desktop: session.Session, request: messages.Request
             ) -> messages.Answer:
  """`/setup/download_file`: fetches a file from the web.

  Args:
    desktop: the desktop.
    request: JSON with `url`, of http or https, and `path`, see `expand`.

  Returns:
    How many bytes there were, in words; 500 if they did not come, and then
    nothing is left at the path.

  Raises:
    Refusal: for another kind of URL.
    TimeoutError: it took too long.
  """
  fields = request.read_json()
  url = fields.take('url', str)
  path = expand(desktop, fields.take('path', str))
  if urllib.parse.urlsplit(url).scheme not in ('http', 'https'):
    raise messages.Refusal(f'expected an http or https url, got {url}')
  # A process can be ended in time; a slow server keeps a thread for ever.
  code, _, errors = desktop.programs.run(
      [sys.executable, '-I', '-c', _DOWNLOAD, url, path],
      timeout=_DOWNLOAD_LIMIT)
  if code:
    with contextlib.suppress(OSError):
      os.unlink(path)
    reason = (errors.strip().splitlines() or ['no reason'])[-1]
    return messages.as_text(f'Failed to download {url}. Error: {reason}', 500)
  return messages.as_text(
      f'File downloaded successfully: {os.path.getsize(path)} bytes')


_DOWNLOAD = """
import os, shutil, sys, urllib.request
url, path = sys.argv[1:]
os.makedirs(os.path.dirname(path), exist_ok=True)
with urllib.request.urlopen(url, timeout=30) as source, \\
    open(path, 'wb') as target:
  shutil.copyfileobj(source, target)
"""


def expand_home(desktop: session.Session, word: str) -> str:
  """Returns a word with a leading `~/` replaced by the home directory."""
  return desktop.home + word[1:] if word.startswith('~/') else word


def expand(desktop: session.Session, path: str) -> str:
  """Returns a path with `~` and variables expanded, from the home directory.

  Args:
    desktop: whose home directory it is.
    path: as it came.
  """
  path = expand_home(desktop, path)
  for variable in ('${HOME}', '$HOME'):
    path = path.replace(variable, desktop.home)
  return os.path.join(desktop.home, path)
