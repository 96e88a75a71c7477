"""A virtual environment with a package that stands for desktop-env."""

import pathlib
import sys

_PACKAGE = pathlib.Path(__file__).parent / 'fake_desktop_env'


def make(folder: pathlib.Path, package: pathlib.Path = _PACKAGE) -> str:
  """Makes its interpreter in a folder and returns its path."""
  python = folder / 'python'
  python.write_text(
      f'#!{sys.executable}\nimport os, sys\n'
      f'arguments = [a for a in sys.argv[1:] if a != "-I"]\n'
      f'os.environ["PYTHONPATH"] = {str(package)!r}\n'
      f'os.execv({sys.executable!r}, [{sys.executable!r}, *arguments])\n')
  python.chmod(0o755)
  return str(python)
