"""How a command of a finished or running run ends: its exit code."""

from collections.abc import Callable
import signal
import sys

from absl import flags

from experiments import checks
from step_jax.runs import files


def exit_code(command: Callable[[], None]) -> int:
  """Runs a command and tells what went wrong in one sentence.

  Args:
    command: parses its flags and does its work.

  Returns:
    0 done, 130 interrupted (SIGTERM, too), 2 a mistake of the user, 1 a run or
    a disk that does not go on.
  """
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
  try:
    command()
    return 0
  except KeyboardInterrupt:
    return 130
  except (checks.UserError, flags.Error) as error:
    print(error, file=sys.stderr)
    return 2
  except (checks.RunError, files.WriteError) as error:
    print(error, file=sys.stderr)
    return 1
