"""Evaluates the newest checkpoint of a run, or a model as it comes.

  python experiments/evaluate.py --workdir=DIR [--split=train|all|held_out]
      [--episodes=n]
  python experiments/evaluate.py --workdir=DIR --checkpoint=MODEL
      --config=configs/<name>.py[:variant] [--config.<field>=value ...]

Prints a table and writes DIR/evaluation.json, or evaluation_<split>.json for
another split than the training tasks. With --checkpoint it is the
vision-language model of that folder, untrained; DIR is made if it is missing,
and where a run is there, --config may be left out. Of OSWorld's task files
DIR/results has OSWorld's own layout, which its show_result.py reads.
"""

from collections.abc import Sequence
import pathlib
import sys

if __name__ == '__main__':  # run as a script, from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
from ml_collections import config_flags
import ml_collections
from rich import console as rich_console

from experiments import checks
from experiments import evaluating
from step_jax.runs import commands
from step_jax.runs import errors
from step_jax.runs import evaluation as evaluation_lib
from step_jax.runs import files


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  flags.DEFINE_string('workdir', None, 'folder of the run', required=True)
  flags.DEFINE_enum(
      'split', 'train', ['train', 'all', 'held_out'], 'which tasks')
  flags.DEFINE_integer('episodes', 50, 'episodes a task', lower_bound=1)
  flags.DEFINE_string('checkpoint', None, 'folder of a model')
  config_flags.DEFINE_config_file(
      'config', help_string='path of a config, for --checkpoint')
  console = rich_console.Console()

  def evaluate():
    try:
      flags.FLAGS(argv)
      given = flags.FLAGS.config
    except (OSError, AttributeError, KeyError, TypeError,
            ValueError) as error:  # of a config file
      raise errors.UserError(commands.sentence(error)) from error
    path = pathlib.Path(flags.FLAGS.workdir)
    config = _find_config(path, given, flags.FLAGS.checkpoint)
    evaluation = evaluating.evaluate_run(
        config, path, split=flags.FLAGS.split, episodes=flags.FLAGS.episodes,
        fresh=flags.FLAGS.checkpoint is not None)
    console.print(evaluation_lib.make_table(None, evaluation))

  return commands.exit_code(evaluate)


def _find_config(
    workdir: pathlib.Path, given: ml_collections.ConfigDict | None,
    checkpoint: str | None) -> ml_collections.ConfigDict:
  """The config of a run, or of a model that is not one's."""
  if checkpoint is None:
    if given is not None:
      raise errors.UserError(
          'expected --config with --checkpoint=MODEL only: a run has its own')
    return checks.read_config(workdir / 'config.json')
  config = checks.read_config(workdir / 'config.json') if given is None else (
      given)
  if 'checkpoint' not in config.policy:
    raise errors.UserError(
        'expected a config of a vision-language model for --checkpoint, such '
        'as configs/osworld.py:paper')
  config.policy.checkpoint = checkpoint
  checks.check_config(config)
  with files.writing(workdir):
    workdir.mkdir(parents=True, exist_ok=True)
  return config


if __name__ == '__main__':
  sys.exit(main(sys.argv))
