"""The desktop itself: its folder, its processes, programs, and the reset.

Imports the standard library alone; runs as the desktop's own user.
"""
import compileall
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import time
from typing import Any

from step_jax.envs.osworld.desktop import helper
from step_jax.envs.osworld.desktop import home
from step_jax.envs.osworld.desktop import processes
from step_jax.envs.osworld.desktop import programs

_START_TIMEOUT = 20.0   # seconds for one part of the desktop, under load
_QUICK = 5.0   # seconds for the helpers' small questions
_LIBRARIES = ('pyautogui', 'pytweening', 'pymsgbox')   # no tkinter, no Pillow
_WALKING = 0.9   # of the time for a tree; the rest is for its text
_GRACE = 0.5   # seconds more until the helper is taken to hang
_AFTERMATH = 0.1   # seconds in which the cause of an end ends too


def copy_code(folder: str, packages: str) -> None:
  """Copies what the desktop's user may not be able to read where it lies.

  Args:
    folder: of the desktop.
    packages: the folder that holds pyautogui.
  """
  code = os.path.join(folder, 'code')
  for name in _LIBRARIES:
    source = os.path.join(packages, name)
    if os.path.isdir(source):
      shutil.copytree(source, os.path.join(code, name))
  shutil.copytree(
      os.path.dirname(__file__),
      os.path.join(code, *__name__.split('.')[:-1]),
      ignore=shutil.ignore_patterns('__pycache__'))


class Session:
  """One desktop in one folder.

  Attributes:
    display: the X display, such as ':1'.
    environment: the environment variables of its programs.
    home: its home directory.
    programs: starts programs on it.
  """

  def __init__(self, folder: str, *, size: tuple[int, int]):
    """Prepares the folder; `start` starts the desktop.

    Args:
      folder: belongs to this process' user; holds what `copy_code` puts there.
      size: width and height of the screen.
    """
    self.display = ''
    self.home = os.path.join(folder, 'home', 'user')
    self._folder = folder
    self._size = size
    self._essential: set[int] = set()
    self._helpers: dict[str, helper.Helper] = {}
    for name in ('run', 'tmp', 'bin'):
      os.makedirs(os.path.join(folder, name), mode=0o700)
    self._log = open(os.path.join(folder, 'log'), 'ab')
    self.environment = self._make_environment()
    self.programs = programs.Programs(
        self.environment, folder=folder, log=self._log,
        list_windows=lambda: self.ask_screen('windows'))
    os.symlink('/usr/bin/python3', os.path.join(folder, 'bin', 'python'))
    programs.name_chrome(os.path.join(folder, 'bin'))
    compileall.compile_dir(os.path.join(folder, 'code'), quiet=2)
    home.make(os.path.join(folder, 'template'))
    self._restore_home()

  def _make_environment(self) -> dict[str, str]:
    def inside(name: str) -> str:
      return os.path.join(self._folder, name)
    return {
        'PATH': f'{inside("bin")}:/usr/local/bin:/usr/bin:/bin',
        'PYTHONPATH': inside('code'), 'HOME': self.home, 'USER': 'user',
        'LOGNAME': 'user', 'LANG': 'C.UTF-8', 'SHELL': '/bin/bash',
        'TMPDIR': inside('tmp'), 'XDG_RUNTIME_DIR': inside('run'),
        'XAUTHORITY': inside('run/xauthority'),
        'DBUS_SESSION_BUS_ADDRESS': f'unix:path={inside("run/bus")}',
        'XDG_CURRENT_DESKTOP': 'X-Generic', 'XDG_SESSION_TYPE': 'x11',
        'GTK_MODULES': 'gail:atk-bridge', 'GNOME_ACCESSIBILITY': '1',
        'GSETTINGS_BACKEND': 'keyfile', 'GIO_USE_VFS': 'local',
        'GIO_USE_VOLUME_MONITOR': 'unix', 'GVFS_DISABLE_FUSE': '1',
        'SAL_USE_VCLPLUGIN': 'gtk3'}

  def start(self) -> None:
    """Starts X, the buses, the window manager and the helpers.

    Raises:
      RuntimeError: a part does not start; the message has its last words.
    """
    self._write_cookie()
    _, bus = self._spawn_announced(
        ['dbus-daemon', '--session', '--nofork', '--nopidfile',
         f'--address={self.environment["DBUS_SESSION_BUS_ADDRESS"]}',
         '--print-address'])
    self._start_screen()
    self._read_line(bus, 'dbus-daemon')
    self._manager = self._spawn(['openbox', '--sm-disable'])
    self._spawn(['/usr/libexec/at-spi-bus-launcher', '--launch-immediately'])
    for name in ('screen', 'accessibility'):
      self._helpers[name] = helper.Helper(
          os.path.join(self._folder, 'code'), name, env=self.environment,
          cwd='/', stderr=self._log)
    deadline = time.monotonic() + _START_TIMEOUT
    try:
      self.ask_tree(_START_TIMEOUT)
    except (RuntimeError, TimeoutError) as error:
      raise RuntimeError(f'{error}{self._last_words()}') from error
    while not json.loads(self.ask('screen', _START_TIMEOUT, what='manager')):
      if time.monotonic() > deadline:
        raise RuntimeError(f'openbox did not start{self._last_words()}')
      time.sleep(0.01)
    self._settle()
    self._essential = set(self._below()) - {
        worker.pid for worker in self._helpers.values()}

  def _start_screen(self) -> None:
    """Starts X on a display that no dead X server has left a socket of.

    Its own socket is abstract, which leaves nothing when it is killed, but
    clients try the one in the file system first.
    """
    rejected = []
    while True:
      server, announcement = self._spawn_announced(
          ['Xvfb', '-screen', '0', '{}x{}x24'.format(*self._size), '-noreset',
           '-nolisten', 'tcp', '-nolisten', 'unix',
           '-auth', self.environment['XAUTHORITY'], '-displayfd'])
      number = self._read_line(announcement, 'Xvfb')
      if not os.path.exists(f'/tmp/.X11-unix/X{number}'):
        break
      rejected.append(server)   # It holds the number until a better is found.
    for server in rejected:
      server.kill()
      server.wait()
    self.display = self.environment['DISPLAY'] = f':{number}'

  def _write_cookie(self) -> None:
    """Writes the key to the display, for any display number of this host."""
    def field(data: bytes) -> bytes:
      return struct.pack('!H', len(data)) + data
    path = self.environment['XAUTHORITY']
    with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), 'wb') as file:
      file.write(struct.pack('!H', 256) + b''.join(field(data) for data in (
          socket.gethostname().encode(), b'', b'MIT-MAGIC-COOKIE-1',
          secrets.token_bytes(16))))

  def _spawn(self, command: list[str], **popen: Any
             ) -> subprocess.Popen[bytes]:
    libc = ctypes.CDLL(None)
    return subprocess.Popen(
        command, env=self.environment, cwd='/', stdin=subprocess.DEVNULL,
        stdout=self._log, stderr=self._log, start_new_session=True,
        preexec_fn=lambda: libc.prctl(processes.SET_PDEATHSIG, signal.SIGKILL),
        **popen)

  def _spawn_announced(self, command: list[str]
                       ) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a program that writes a line to a descriptor when it is ready.

    Args:
      command: the command, to whose end the descriptor's number is put.

    Returns:
      The process, and the descriptor from which the line can be read.
    """
    reader, writer = os.pipe()
    process = self._spawn([*command, str(writer)], pass_fds=[writer])
    os.close(writer)
    return process, reader

  def _read_line(self, fd: int, name: str) -> str:
    line = b''
    with open(fd, 'rb', buffering=0) as pipe:
      while not line.endswith(b'\n'):
        ready = processes.readable(pipe, timeout=_START_TIMEOUT)
        part = os.read(fd, 4096) if ready else b''
        if not part:
          raise RuntimeError(f'{name} did not start{self._last_words()}')
        line += part
    return line.decode().strip()

  def _last_words(self) -> str:
    with open(self._log.name, 'rb') as log:
      lines = log.read().decode(errors='replace').splitlines()
    return f': {lines[-1]}' if lines else ''

  def _below(self) -> list[int]:
    """Returns all processes of the desktop, but the server's own."""
    return [pid for pid in processes.descendants(os.getppid())
            if pid != os.getpid()]

  def wait(self) -> str:
    """Waits until an essential process ends; returns its name."""
    names = {}
    for pid in sorted(self._essential):   # as they were started
      with open(f'/proc/{pid}/comm') as file:
        names[os.pidfd_open(pid)] = file.read().strip()
    processes.readable(*names)
    time.sleep(_AFTERMATH)
    ended = processes.readable(*names, timeout=0)
    return next(name for fd, name in names.items() if fd in ended)

  def ask(self, name: str, timeout: float, **question: Any) -> bytes:
    """Asks the helper `screen` or `accessibility`; see `helper.Helper.ask`."""
    return self._helpers[name].ask(timeout, **question)

  def ask_tree(self, limit: float) -> bytes:
    """Returns what `limit` seconds show of the accessibility tree."""
    return self.ask('accessibility', limit + _GRACE, limit=_WALKING * limit,
                    size=self._size)

  def ask_screen(self, what: str, **arguments: Any) -> Any:
    """Returns the answer to a small question about the screen."""
    return json.loads(self.ask('screen', _QUICK, what=what, **arguments))

  def reset(self) -> None:
    """Kills the programs, restores the home directory and the pointer."""
    spare = {os.getpid(), *self._essential, *(
        worker.pid for worker in self._helpers.values())}
    self.programs.forget()
    if not processes.kill(os.getppid(), spare=spare, patience=_QUICK):
      raise RuntimeError('the programs cannot be killed')
    configured = os.path.exists(
        os.path.join(self.home, '.config', 'openbox', 'rc.xml'))
    self._restore_home()
    if configured:
      self._manager.send_signal(signal.SIGUSR2)   # It reads the file again.
    self._settle()

  def _settle(self) -> None:
    """Puts the pointer out of the way; leaves one virtual desktop."""
    self.ask_screen('rest')
    self.programs.run(['wmctrl', '-n', '1'], timeout=_QUICK)

  def _restore_home(self) -> None:
    for folder in (self.home, self.environment['TMPDIR']):
      home.remove(folder)
    shutil.copytree(
        os.path.join(self._folder, 'template'), self.home, symlinks=True)
    os.mkdir(self.environment['TMPDIR'], mode=0o700)
