"""Evaluates the newest checkpoint of a run.

  python experiments/evaluate.py --workdir=DIR [--split=train|all|held_out]
      [--episodes=n]

Prints a table and writes DIR/evaluation.json, or evaluation_<split>.json for
another split than the training tasks.
"""

from collections.abc import Sequence
import pathlib
import sys

if __name__ == '__main__':  # run as a script, from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
from rich import console as rich_console

from experiments import checks
from experiments import commands
from experiments import train
from step_jax.runs import evaluation as evaluation_lib


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  flags.DEFINE_string('workdir', None, 'folder of the run', required=True)
  flags.DEFINE_enum(
      'split', 'train', ['train', 'all', 'held_out'], 'which tasks')
  flags.DEFINE_integer('episodes', 50, 'episodes a task', lower_bound=1)
  console = rich_console.Console()

  def evaluate():
    flags.FLAGS(argv)
    path = pathlib.Path(flags.FLAGS.workdir)
    config = checks.read_config(path / 'config.json')
    evaluation = train.evaluate_run(
        config, path, split=flags.FLAGS.split, episodes=flags.FLAGS.episodes)
    console.print(evaluation_lib.make_table(None, evaluation))

  return commands.exit_code(evaluate)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
