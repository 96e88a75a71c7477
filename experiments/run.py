"""Trains an agent.

  python experiments/run.py --config=configs/<name>.py[:variant]
      [--workdir=DIR] [--config.<field>=value ...] [--distributed]

The same command with the same --workdir resumes. Exit codes: 0 done, 130
interrupted and saved, 2 a mistake in the command or the config, 1 otherwise.
"""

import datetime
import gc
import os
import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
gc.set_threshold(100_000, 20)  # traces are millions of objects that stay

from absl import flags
from ml_collections import config_flags

import step_jax  # no more than configs import
from step_jax.runs import stopping

_CONFIG = config_flags.DEFINE_config_file(
    'config', help_string='path of a config, with :variant')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'folder of the run; runs/<name>-<time> by default')
_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'one process of several hosts, see docs/scale.md')


def main(argv: list[str]) -> int:
  """Runs the command; returns its exit code."""
  try:
    with stopping.signals_interrupt():
      return _run(argv)
  except KeyboardInterrupt:
    print('interrupted before it began', file=sys.stderr)
    return 130


def _run(argv: list[str]) -> int:
  try:
    rest = flags.FLAGS(argv)[1:]
    if rest or _CONFIG.value is None:
      print('expected --config=configs/<name>.py[:variant]'
            f'{", got " + " ".join(rest) if rest else ""}', file=sys.stderr)
      return 2
    config = _CONFIG.value
    environment = config.env  # reading it tells of a file that failed
  except (flags.Error, OSError, AttributeError, KeyError, TypeError,
          ValueError) as error:
    from step_jax.runs import commands
    print(commands.sentence(error), file=sys.stderr)
    return 2
  from step_jax.runs import hosts  # importing takes seconds
  if _DISTRIBUTED.value or hosts.are_announced():
    try:
      hosts.initialize()
    except hosts.HostError as error:
      print(error, file=sys.stderr)
      return 2
    if not hosts.is_leader():  # the first speaks for all, libraries included
      with open(os.devnull, 'w') as nobody:
        os.dup2(nobody.fileno(), sys.stdout.fileno())
  method = step_jax.METHODS.get(config.method)
  print(f'environment: {environment.description or environment.name}; method: '
        f'{config.method}{method and ", " + method.about or ""}')
  workdir = _WORKDIR.value
  if workdir is None:
    name = pathlib.Path(
        config_flags.get_config_filename(flags.FLAGS['config'])).stem
    workdir = f'runs/{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}'
    print(f'workdir: {workdir}')
  code = _train(config, workdir)
  if code not in (0, 130):
    hosts.leave(code)
  return code


def _train(config: Any, workdir: str) -> int:
  from experiments import train
  from step_jax.runs import errors
  from step_jax.runs import files
  from step_jax.runs import hosts
  try:
    train.train(config, pathlib.Path(workdir))
    return 0
  except KeyboardInterrupt:
    print(f'interrupted and saved; resume with --workdir={workdir}',
          file=sys.stderr)
    return 130
  except (errors.UserError, files.FolderError) as error:
    print(error, file=sys.stderr)
    return 2
  except (errors.RunError, files.WriteError, hosts.HostError) as error:
    print(error, file=sys.stderr)
    return 1


if __name__ == '__main__':
  sys.exit(main(sys.argv))
