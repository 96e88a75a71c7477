"""What is read and not run: style, types, and which room imports which."""

import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize('command', ['flake8', 'mypy', 'lint-imports'])
def test_the_code_is_clean(command):
  program = pathlib.Path(sys.executable).with_name(command)
  done = subprocess.run([program], cwd=_ROOT, text=True, capture_output=True)
  assert done.returncode == 0, done.stdout + done.stderr
