"""The steps that prepare a desktop for a task, as in OSWorld's task files.

  download         files: [{url, path}]
  upload_file      files: [{local_path, path}]
  launch           command, shell: starts a program and goes on
  open             path: opens a file with its application
  execute, command command, shell, until: runs a program to its end
  sleep            seconds
  activate_window, close_window
                   window_name, strict, by_class
Local files lie in the folder of the task file. `{HOME}` in a text stands for
the home directory of the desktop's user; so do OSWorld's own placeholders
`{SCREEN_WIDTH}`, `{SCREEN_HEIGHT}`, the `_HALF` of both, `{CLIENT_PASSWORD}`.
The package desktop-env has more steps, of which it only has to be known that
they are there.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

from step_jax.envs.osworld import checks
from step_jax.envs.osworld import client as client_lib

Step = Mapping[str, Any]  # {type, parameters}

_UNTIL_SECONDS = 60.0
_UNTIL_PAUSE = 0.3
_WINDOW = {'strict': 'flag', 'by_class': 'flag'}
_EXECUTE = ({'command': 'command'}, {'shell': 'flag', 'until': 'object'})
# By type: required and optional parameters.
_STEPS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    'download': ({'files': 'list'}, {}),
    'upload_file': ({'files': 'list'}, {}),
    'launch': ({'command': 'command'}, {'shell': 'flag'}),
    'open': ({'path': 'text'}, {}),
    'execute': _EXECUTE,
    'command': _EXECUTE,
    'sleep': ({'seconds': 'number'}, {}),
    'activate_window': ({'window_name': 'text'}, _WINDOW),
    'close_window': ({'window_name': 'text'}, _WINDOW),
}
# What desktop-env has besides; it knows the parameters.
_THEIR_STEPS = (*_STEPS, 'chrome_open_tabs', 'chrome_close_tabs', 'login',
                'googledrive', 'update_browse_history', 'change_wallpaper',
                'execute_with_verification')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
  """Where a task is prepared and evaluated."""
  client: client_lib.Client
  folder: pathlib.Path  # of the task file
  cache: pathlib.Path  # of what was downloaded
  password: str = 'password'  # of the desktop's user, {CLIENT_PASSWORD}

  def fill(self, value: Any) -> Any:
    """Returns a value of a task file with its placeholders replaced."""
    if isinstance(value, dict):
      return {name: self.fill(inner) for name, inner in value.items()}
    if isinstance(value, list):
      return [self.fill(inner) for inner in value]
    if not isinstance(value, str):
      return value
    value = value.replace('{CLIENT_PASSWORD}', self.password)
    if '{HOME}' in value:
      value = value.replace('{HOME}', self.client.home)
    if '{SCREEN_' in value:
      width, height = self.client.screen_size()
      for name, size in (('WIDTH', width), ('HEIGHT', height)):
        value = value.replace(f'{{SCREEN_{name}}}', str(size))
        value = value.replace(f'{{SCREEN_{name}_HALF}}', str(size // 2))
    return value

  def read(self, source: str) -> bytes:
    """Returns what a URL of the web or of the task's folder holds."""
    if source.startswith('file://'):
      return (self.folder / source.removeprefix('file://')).read_bytes()
    return client_lib.download(source, self.cache)


def check_steps(steps: Any, field: checks.Field) -> None:
  """Raises TaskError unless a value is a list of steps that can be run."""
  for step, place in _checked(steps, field, _STEPS):
    required, optional = _STEPS[step['type']]
    parameters, place = step['parameters'], place['parameters']
    checks.check_fields(
        parameters, place, required=required, optional=optional)
    _check_files(step['type'], parameters, place)
    if 'until' in parameters:
      checks.check_fields(parameters['until'], place['until'], optional={
          'returncode': 'whole', 'stdout': 'text', 'stderr': 'text'})


def check_kinds(steps: Any, field: checks.Field) -> None:
  """Raises TaskError unless desktop-env knows these steps."""
  for _ in _checked(steps, field, _THEIR_STEPS):
    pass


def _checked(steps: Any, field: checks.Field,
             kinds: Mapping[str, Any] | tuple[str, ...]
             ) -> Iterator[tuple[Step, checks.Field]]:
  """The steps of a list and their places, each of one of some kinds."""
  checks.check_kind(steps, 'list', field)
  for index, step in enumerate(steps):
    place = field[index]
    checks.check_fields(
        step, place, required={'type': 'text', 'parameters': 'object'})
    checks.check_choice(step['type'], kinds, place['type'])
    yield step, place


def _check_files(kind: str, parameters: Step, field: checks.Field) -> None:
  if kind not in ('download', 'upload_file'):
    return
  source = 'url' if kind == 'download' else 'local_path'
  for index, file in enumerate(parameters['files']):
    place = field['files'][index]
    checks.check_fields(file, place, required={source: 'text', 'path': 'text'})
    if kind == 'download':
      checks.check_source(file['url'], place['url'])
    else:
      checks.check_local(file['local_path'], place['local_path'])


def run_steps(steps: Sequence[Step], context: Context) -> None:
  """Runs checked steps in their order.

  As in OSWorld, what a program returns is ignored, and so are a program that
  cannot be started and a window to activate or close that is not there.

  Raises:
    DesktopError: when the desktop, or a download, fails.
  """
  for step in steps:
    _run(step['type'], context.fill(step['parameters']), context)


def _run(kind: str, parameters: dict[str, Any], context: Context) -> None:
  client = context.client
  if kind == 'download':
    for file in parameters['files']:
      client.write_file(file['path'], context.read(file['url']))
  elif kind == 'upload_file':
    for file in parameters['files']:
      content = (context.folder / file['local_path']).read_bytes()
      client.write_file(file['path'], content)
  elif kind == 'launch':
    command, shell = parameters['command'], parameters.get('shell', False)
    if isinstance(command, str) and not shell:
      command = command.split()
    with contextlib.suppress(client_lib.AnswerError):
      client.launch(command, shell=shell)
  elif kind == 'open':
    client.open_file(parameters['path'])
  elif kind in ('execute', 'command'):
    _execute(client, **parameters)
  elif kind == 'sleep':
    time.sleep(parameters['seconds'])
  elif kind == 'activate_window':
    client.activate_window(**parameters)
  else:
    client.close_window(**parameters)


def _execute(client: client_lib.Client, command: str | list[str],
             shell: bool = False, until: dict[str, Any] | None = None) -> None:
  """Runs a program, with `until` again and again."""
  deadline = time.monotonic() + _UNTIL_SECONDS
  while True:
    try:
      result = client.execute(command, shell=shell)
    except client_lib.AnswerError:
      result = client_lib.Output('', '', -1)
    if not until or (
        until.get('returncode') == result.returncode
        or until.get('stdout', '\0') in result.output
        or until.get('stderr', '\0') in result.error):
      return
    if time.monotonic() > deadline:
      raise client_lib.AnswerError(
          f'{client.address}: {command!r} did not get to {until} in '
          f'{_UNTIL_SECONDS:g} s')
    time.sleep(_UNTIL_PAUSE)
