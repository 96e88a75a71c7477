"""Which desktop an environment has: one of its own, or one of a list."""

from collections.abc import Sequence
import os
import pathlib
import re
import secrets
import subprocess
import sys
import tempfile
import time
from urllib import parse

from step_jax.envs import base
from step_jax.envs import leases
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld.desktop import processes

_PROGRAM = str(pathlib.Path(__file__).parent / 'desktop' / '__main__.py')
_LEASE_SECONDS = 10.0  # for the lease of a worker that is being killed
_START_SECONDS = 30.0  # for a bare desktop
_EXIT_SECONDS = 10.0
_RESTORE_SECONDS = 600.0  # for a command that restores a virtual machine

_PORTS = {'chrome': 9222, 'vlc': 8080}  # in OSWorld's machines


def split(address: str) -> tuple[str, dict[str, int]]:
  """Returns an address without its ports, and the ports of Chrome and VLC.

  >>> split('http://10.0.0.1:5001#chrome=9223')
  ('http://10.0.0.1:5001', {'chrome': 9223, 'vlc': 8080})

  Raises:
    ValueError: for ports that are none.
  """
  url, _, given = address.partition('#')
  ports = {}
  for name, port in parse.parse_qsl(given, keep_blank_values=True):
    if name not in _PORTS or not port.isdecimal():
      raise ValueError('expected ports such as #chrome=9222&vlc=8080 at the '
                       f'end of an address, got {address!r}')
    ports[name] = int(port)
  return url, {**_PORTS, **ports}


class Machine:
  """A desktop that is restored before each episode.

  Args:
    addresses: of desktops, one of which is taken; without any, a bare desktop
      is started on this machine. An address may end in the ports of Chrome and
      VLC, `#chrome=9223&vlc=8081`, where they are not 9222 and 8080.
    token: of the addresses.
    reset_command: restores a desktop; see `OSWorldEnv`.

  Raises:
    ValueError: an address is none, or its desktop cannot be restored.
    DesktopError: all addresses are taken, or none of the others answers.
    MissingProgramError: the bare desktop lacks programs.
  """

  def __init__(self, addresses: Sequence[str], *, token: str = '',
               reset_command: Sequence[str] = ()):
    self.token = token
    self._reset_command = tuple(reset_command)
    self._is_restored = False  # and nobody has touched it since; takes minutes
    self._lease: leases.Lease | None = None
    self._local: subprocess.Popen[str] | None = None
    self._client: client_lib.Client | None = None
    self.ports = dict(_PORTS)
    self._screen_size: tuple[int, int] | None = None
    self._is_local = not addresses
    if not isinstance(addresses, str):
      for address in addresses:
        split(address)
    if addresses:
      self._take(addresses)
    else:
      self._start()

  @property
  def client(self) -> client_lib.Client:
    if self._client is None:
      raise client_lib.DesktopError('expected a desktop, got a closed one')
    return self._client

  @property
  def screen_size(self) -> tuple[int, int]:
    """Width and height in pixels; asked once."""
    if self._screen_size is None:
      self._screen_size = self.client.screen_size()
    return self._screen_size

  def restore(self) -> None:
    """Brings the desktop back to its beginning.

    Raises:
      DesktopError: it does not come back.
      ValueError: nobody knows how.
    """
    if self._client is None and self._is_local:
      self._start()
    elif self._reset_command:  # of a machine that may be down
      if not self._is_restored:
        self._restore_from_outside()
      self._is_restored = False
    elif not self.client.reset():
      raise ValueError(
          f'{self.client.address} cannot restore itself, as it has no /reset: '
          'expected reset_command, a command that restores it, got none')

  def _restore_from_outside(self) -> None:
    address = self.client.address
    command = [part.replace('{address}', address)
               for part in self._reset_command]
    deadline = time.monotonic() + _RESTORE_SECONDS
    try:
      subprocess.run(command, check=True, capture_output=True, text=True,
                     timeout=_RESTORE_SECONDS, stdin=subprocess.DEVNULL)
      while not self._answers() and time.monotonic() < deadline:
        time.sleep(1)
    except subprocess.CalledProcessError as error:
      lines = error.stderr.strip().splitlines() or ['no reason']
      raise client_lib.DesktopError(
          f'{command[0]} for {address} failed: {lines[-1]}') from error
    except (OSError, subprocess.TimeoutExpired) as error:
      raise client_lib.DesktopError(
          f'{command[0]} for {address} failed: {error}') from error

  def _answers(self) -> bool:
    try:
      self.client.screen_size()
    except client_lib.DesktopError:
      return False
    return True

  def abandon(self) -> None:
    """After a failure: a desktop of one's own is ended, not trusted again."""
    if self._is_local:
      self._end()
    elif self._lease is not None:
      self._lease.distrust()

  def close(self) -> None:
    """Ends the own desktop, or gives the address back."""
    self._end()
    if self._lease is not None:
      self._lease.close()
      self._lease = None

  def _end(self) -> int | None:
    """Ends the own desktop; returns its exit code."""
    if self._client is not None:
      self._client.close()
    self._client = self._screen_size = None
    process, self._local = self._local, None
    if process is None:
      return None
    assert process.stdout is not None
    with process.stdout:
      process.terminate()
      try:
        return process.wait(_EXIT_SECONDS)
      except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()

  # A bare desktop on this machine.

  def _start(self) -> None:
    self.token = secrets.token_hex()  # other users of this machine have none
    with tempfile.TemporaryFile('w+') as errors:
      self._local = subprocess.Popen(
          [sys.executable, _PROGRAM, '--port=0', '--with-parent'],
          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
          text=True, env={
              **os.environ, 'STEP_JAX_DESKTOP_TOKEN': self.token,
              # A worker's own one is closed to the desktop's user.
              'TMPDIR': '/tmp'})
      assert self._local.stdout is not None
      ready = processes.readable(
          self._local.stdout, timeout=_START_SECONDS)
      line = self._local.stdout.readline() if ready else ''
      address = re.search(r'http://\S+:\d+', line)
      if address is None:
        code = self._end()
        errors.seek(0)
        lines = errors.read().strip().splitlines() or [
            f'no answer in {_START_SECONDS:g} s']
        if code == 2:
          raise base.MissingProgramError(lines[-1])
        raise client_lib.DesktopError(
            f'the desktop did not start: {lines[-1]}')
    self._client = client_lib.Client(address[0], token=self.token)

  # One of several addresses.

  def _take(self, addresses: Sequence[str]) -> None:
    """Takes the first free address whose desktop can be restored."""
    self._lease = leases.lease(
        addresses, name='desktops', check=self._connect,
        error=client_lib.DesktopError, seconds=_LEASE_SECONDS)

  def _connect(self, address: str) -> None:
    url, self.ports = split(address)
    self._client = client_lib.Client(url, token=self.token)
    try:
      self.restore()
    except BaseException:
      self._end()
      raise
    self._is_restored = True
