"""Writes pages that show a run: its curves, its tasks and its episodes.

  python experiments/view.py --workdir=DIR

Writes DIR/report/index.html and what lies beside it, which open in a browser
without a server, from anywhere. The run may be going on; it is only read.
"""

from collections.abc import Sequence
import pathlib
import sys

if __name__ == '__main__':  # run as a script, from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import ml_collections

from experiments import checks
from experiments import worlds
from step_jax.envs import reading
from step_jax.runs import commands
from step_jax.runs import viewer


def view(config: ml_collections.ConfigDict, workdir: pathlib.Path
         ) -> pathlib.Path:
  """Writes the pages of a run.

  Args:
    config: of the run.
    workdir: of the run.

  Returns:
    The path of the page to open.

  Raises:
    UserError: for tasks of the config that are not there any more.
    WriteError: if a page cannot be written.
  """
  tasks = worlds.make_world(config, workdir=workdir).tasks
  return viewer.write_pages(
      workdir, tasks, reading.screen, max_steps=config.max_steps,
      title=config.env.description or config.env.name,
      about=viewer.read_facts(workdir))


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  def show(workdir):
    config = checks.read_config(workdir / 'config.json')
    return f'open {view(config, workdir)} in a browser'

  return commands.of_run(argv, show)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
