"""A bare desktop that speaks OSWorld's protocol, as a program.

  python -m step_jax.envs.osworld.desktop --port 5000

starts Xvfb, openbox, a D-Bus session and the accessibility bus, and serves
them over HTTP as OSWorld's own server does inside its virtual machine, so that
OSWorld's unchanged client works. One line on stdout says where, when it is
ready. Everything belongs to this one desktop (display, port, home directory,
buses) and lies in one temporary folder; it runs as an unprivileged user when
root starts it, and is gone when the program ends, in whatever way. The screen
is 1280x720, which is faster than OSWorld's own `--screen 1920x1080`.

`/execute` runs any code that it is sent: the server binds to loopback, and to
another address only with a token (`Authorization: Bearer SECRET`). Desktops
that root starts share the user `nobody`: what runs on one could harm another.

The program needs Debian's own Python, for its accessibility bindings, and
moves there by itself. `/usr/bin/python3 __main__.py --packages FOLDER` starts
faster; the folder is the site-packages where pyautogui lies.
"""
import argparse
import importlib
import importlib.util
import os
import pwd
import shutil
import socket
import sys
import types

_PYTHON = '/usr/bin/python3'
_TOKEN = 'STEP_JAX_DESKTOP_TOKEN'   # where no list of processes shows it
_APT = (
    'apt-get install xvfb openbox xdotool scrot wmctrl xclip at-spi2-core '
    'dbus-x11 python3-pyatspi gir1.2-atspi-2.0 python3-gi mousepad pcmanfm '
    'libreoffice-calc libreoffice-gtk3 x11-utils x11-xserver-utils xauth '
    'python3-xlib libatk-adaptor fonts-dejavu-core obconf xdg-utils')
_PROGRAMS = (
    'Xvfb', 'openbox', 'dbus-daemon', 'wmctrl', 'xclip', 'xdg-open', 'xdotool',
    'gsettings', '/usr/libexec/at-spi-bus-launcher', 'mousepad', 'obconf',
    'pcmanfm', 'soffice')
_MODULES = ('gi', 'Xlib')
_USER = 'nobody'   # D-Bus and LibreOffice want one that the machine knows.


def main(argv: list[str]) -> int:
  """Runs a desktop until a signal or the death of one of its parts.

  Args:
    argv: the command line, without the program's name.

  Returns:
    The exit code: 0 after a signal, 1 when a part of the desktop has died.

  Raises:
    SystemExit: with code 2 if the command line or the machine is not fit.
  """
  args = _parse(argv)
  if not sys.flags.isolated or os.path.realpath(sys.executable) != \
      os.path.realpath(_PYTHON):
    _move_to_debian_python(args)
  _check_programs()
  listener = _listen(args.host, args.port)
  user = pwd.getpwnam(_USER).pw_uid if os.geteuid() == 0 else None
  return _import_sibling('life').run(
      listener, user=user, with_parent=args.with_parent, screen=args.screen,
      token=args.token, packages=_find_packages(args.packages))


def _parse(argv: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m step_jax.envs.osworld.desktop',
      description='Serves a bare desktop with OSWorld\'s protocol.')
  parser.add_argument('--port', type=int, required=True, help='0 picks one')
  parser.add_argument('--host', default='127.0.0.1')
  parser.add_argument('--token', help='asked of every request')
  parser.add_argument('--screen', default='1280x720', help='WIDTHxHEIGHT')
  parser.add_argument(
      '--packages', help='the folder that holds the package pyautogui')
  parser.add_argument(
      '--with-parent', action='store_true',
      help='end when the process that started this one has ended')
  args = parser.parse_args(argv)
  args.token = args.token or os.environ.pop(_TOKEN, None)
  if not 0 <= args.port < 65536:
    _refuse(f'expected a --port from 0 to 65535, got {args.port}')
  width, _, height = args.screen.partition('x')
  if not (width.isdecimal() and height.isdecimal()
          and 320 <= int(width) <= 7680 and 240 <= int(height) <= 4320):
    _refuse('expected a --screen of WIDTHxHEIGHT from 320x240 to 7680x4320, '
            f'got {args.screen}')
  args.screen = int(width), int(height)
  if not (_is_loopback(args.host) or args.token):
    _refuse(f'expected --token with --host {args.host}, got none: this server '
            'runs any code that it is sent')
  return args


def _is_loopback(host: str) -> bool:
  return host in ('localhost', '::1') or (
      host.startswith('127.') and host.replace('.', '').isdecimal())


def _refuse(sentence: str) -> None:
  print(sentence, file=sys.stderr)
  sys.exit(2)


def _move_to_debian_python(args: argparse.Namespace) -> None:
  """Executes this file again, isolated, under Debian's Python."""
  if not os.access(_PYTHON, os.X_OK):
    _refuse(f'expected {_PYTHON} on this machine, got none: {_APT}')
  if args.token:
    os.environ[_TOKEN] = args.token
  flags = [
      f'--port={args.port}', f'--host={args.host}',
      f'--screen={args.screen[0]}x{args.screen[1]}',
      f'--packages={_find_packages(args.packages)}']
  if args.with_parent:
    flags.append('--with-parent')
  os.execv(_PYTHON, [_PYTHON, '-I', os.path.abspath(__file__), *flags])


def _find_packages(given: str | None) -> str:
  """Returns the folder in which pyautogui lies."""
  if given is None:
    spec = importlib.util.find_spec('pyautogui')
    if spec is not None and spec.origin is not None:
      given = os.path.dirname(os.path.dirname(spec.origin))
  if not given or not os.path.isdir(os.path.join(given, 'pyautogui')):
    _refuse('expected pyautogui in the Python that starts the desktop or in '
            '--packages, got none: pip install pyautogui')
  return os.path.abspath(str(given))


def _check_programs() -> None:
  missing = [name for name in _PROGRAMS if not shutil.which(name)]
  missing += [name for name in _MODULES if not importlib.util.find_spec(name)]
  if missing:
    _refuse(f'expected {", ".join(missing)} on this machine, got none: {_APT}')


def _listen(host: str, port: int) -> socket.socket:
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  listener = socket.socket(family)
  try:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(64)
  except OSError as error:
    _refuse(f'expected a free address, got {host}:{port}: {error.strerror}')
  return listener


def _import_sibling(name: str) -> types.ModuleType:
  """Imports a module beside this file without running `step_jax/__init__`.

  That imports JAX, which Debian's Python does not have.
  """
  here = os.path.dirname(os.path.abspath(__file__))
  package = 'step_jax.envs.osworld.desktop'
  while package:
    sys.modules[package] = types.ModuleType(package)
    sys.modules[package].__path__ = [here]
    package = package.rpartition('.')[0]
  return importlib.import_module(f'step_jax.envs.osworld.desktop.{name}')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
