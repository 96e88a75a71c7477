"""How a command on a run begins, with its folder, and ends: its exit code."""

from collections.abc import Callable, Sequence
import pathlib
import sys

from absl import flags

from step_jax.runs import errors
from step_jax.runs import files
from step_jax.runs import stopping


def exit_code(command: Callable[[], None]) -> int:
  """Runs a command and tells what went wrong in one sentence.

  Args:
    command: parses its flags and does its work.

  Returns:
    0 done, 130 interrupted (SIGTERM, too), 2 a mistake of the user, 1 a run or
    a disk that does not go on.
  """
  try:
    with stopping.signals_interrupt():
      command()
    return 0
  except KeyboardInterrupt:
    return 130
  except flags.Error as error:
    print(sentence(error), file=sys.stderr)
    return 2
  except errors.UserError as error:
    print(error, file=sys.stderr)
    return 2
  except (errors.RunError, files.WriteError) as error:
    print(error, file=sys.stderr)
    return 1


def of_run(argv: Sequence[str], command: Callable[[pathlib.Path], str]) -> int:
  """Runs a command on the folder of a run and prints what it returns.

  Args:
    argv: the command line; `--workdir` names the folder. Other flags are
      defined already.
    command: gets the folder.

  Returns:
    See `exit_code`.
  """
  flags.DEFINE_string('workdir', None, 'folder of the run', required=True)

  def run():
    flags.FLAGS(argv)
    print(command(pathlib.Path(flags.FLAGS.workdir)))

  return exit_code(run)


def sentence(error: Exception) -> str:
  """What is wrong with a command or its config, in a line."""
  said = error.args[0] if error.args else ''
  if isinstance(said, KeyError):  # so ml_collections tells of a field
    name, *advice = str(said.args[0]).splitlines()
    return ' '.join([f'the config has no field {name}', *advice])
  line = str(error).strip().splitlines()[-1].strip()
  return line[1:-1] if line[0] == line[-1] in '\'"' else line
