"""Writes a run's newest parameters as a folder that transformers loads.

  python experiments/export.py --workdir=DIR --output=DIR [--dtype=bfloat16]

For the vision-language policy. Adapters are merged into the model's own
parameters; tokenizer and prompt files come from the run's `policy.checkpoint`.
The folder can be another run's `policy.checkpoint`, or be served.
"""

from collections.abc import Sequence
import pathlib
import sys

if __name__ == '__main__':  # run as a script, from anywhere
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
import ml_collections

from experiments import checks
from experiments import saved
from experiments import serving
from experiments import setups
from experiments import worlds
from step_jax.runs import commands
from step_jax.runs import errors


def export(config: ml_collections.ConfigDict, workdir: pathlib.Path,
           output: pathlib.Path, dtype: str) -> None:
  """Writes the folder.

  Args:
    config: of the run.
    workdir: of the run.
    output: made; a folder with something in it is refused.
    dtype: of the parameters in the files.

  Raises:
    UserError: the run has no checkpoint yet, or no model that can be written.
    WriteError: it cannot be written.
  """
  if not config.policy.get('checkpoint'):
    raise errors.UserError(
        'expected a run that began with policy.checkpoint, got one of a small '
        'random model, which nothing else reads')
  if output.exists() and any(output.iterdir()):
    raise errors.UserError(f'expected {output} to be empty, got files in it')
  setup = setups.make_setup(
      config, worlds.make_world(config, workdir=workdir))
  serving.save(config.policy, setup.policy, output,
               saved.newest_params(setup, workdir), dtype=dtype)


def main(argv: Sequence[str]) -> int:
  """Runs the command; returns its exit code."""
  flags.DEFINE_string('output', None, 'folder to write', required=True)
  flags.DEFINE_enum(
      'dtype', 'bfloat16', ['bfloat16', 'float32'], 'of the parameters')

  def run(workdir):
    output = pathlib.Path(flags.FLAGS.output)
    export(checks.read_config(workdir / 'config.json'), workdir, output,
           flags.FLAGS.dtype)
    return f'written to {output}'

  return commands.of_run(argv, run)


if __name__ == '__main__':
  sys.exit(main(sys.argv))
