"""AndroidWorld's environment on a fake phone of its own.

`configs/androidworld.py:fake_phone` trains on it: no emulator, no addresses.
"""

from collections.abc import Sequence
import importlib.util
import pathlib
import subprocess
import sys
from typing import Any

from step_jax.envs.androidworld import env as androidworld
from step_jax.envs import base
from tests import fake_phone_tasks

TRAIN_TASKS = fake_phone_tasks.TASKS
HELD_OUT_TASKS = ()

example = androidworld.example

_SERVER = pathlib.Path(__file__).with_name('fake_phone.py')


def check_requirements() -> None:
  """Raises MissingProgramError, with what to install, if anything lacks."""
  missing = [name for name in ('fastapi', 'uvicorn')
             if importlib.util.find_spec(name) is None]
  if missing:
    raise base.MissingProgramError(
        f'the fake phone needs {" and ".join(missing)}; install with '
        "pip install -e '.[androidworld,test]'")


class FakePhoneEnv(androidworld.AndroidWorldEnv):
  """Knows the solutions, and starts a fake phone that ends with it.

  Args:
    tasks: of `fake_phone_tasks`.
    max_steps: T.
    addresses: of fake phones that run already; by default none is needed.
    **options: of `AndroidWorldEnv`.
  """

  def __init__(self, tasks: Sequence[str] = TRAIN_TASKS, max_steps: int = 8, *,
               addresses: Sequence[str] = (), **options: Any):
    self._server = None if addresses else subprocess.Popen(
        [sys.executable, str(_SERVER), '--with-parent'],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
      if self._server is not None:
        addresses = self._server.stdout.readline().split()[-1:]
      super().__init__(tasks, max_steps, addresses=addresses,
                       solver=fake_phone_tasks.solve, **options)
    except BaseException:
      self._stop()
      raise

  def close(self) -> None:
    super().close()
    self._stop()

  def _stop(self) -> None:
    if self._server is not None:
      self._server.kill()
      self._server.communicate()
