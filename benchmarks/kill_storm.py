"""Kills a Desk run at random moments and compares what it becomes.

  python benchmarks/kill_storm.py [--kills=20] [--seed=0]

A run is killed (SIGKILL) while it collects, updates, saves, evaluates or
reports, at a random moment of a random call, and resumed by the same command
each time, until so many were killed. Its metrics, record, evaluations and last
checkpoint have to equal, bit for bit, those of a run that nobody disturbed.
Ends with 1 if they do not, or if anything but the signal ended a run.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading

_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

from configs import osworld
from experiments import evaluating
from experiments import rounds
from experiments import train
from step_jax.runs import checkpoint

_CLOCKS = {'seconds', 'rollout_seconds', 'update_seconds', 'compilations'}
PHASES = {  # name: (owner and name of the call, seconds in which it is killed)
    'collect': (rounds, '_play', .3), 'update': (rounds, '_assign', .3),
    'save': (checkpoint.Checkpoints, 'save', .3),
    'evaluate': (evaluating, 'evaluate', .3), 'report': (train, '_report', .8)}


def run(workdir: str, phase: str, call: int, delay: float) -> None:
  """Trains; a call of the phase, counted from 1, is killed after a delay."""
  config = osworld.get_config('step')
  config.update_from_flattened_dict({
      'num_rounds': 12, 'eval_every': 3, 'checkpoint_every': 2,
      'num_base_tasks': 4, 'group_size': 8, 'max_steps': 8,
      'env.tasks': ('wifi-on', 'star', 'missing-star', 'cookies-on'),
      'eval_episodes': 8, 'warm_start.num_steps': 60,
      'policy.acting_batch_size': 16})
  if phase in PHASES:
    owner, name, _ = PHASES[phase]
    function, calls = getattr(owner, name), []

    def killed(*args, **kwargs):
      calls.append(args)
      if len(calls) == call:
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
      return function(*args, **kwargs)

    setattr(owner, name, killed)
  train.train(config, pathlib.Path(workdir))


def _start(place: pathlib.Path, name: str, *kill: object) -> int:
  environ = os.environ | {
      'XDG_CACHE_HOME': str(place / 'cache'),
      'JAX_COMPILATION_CACHE_DIR': str(place / 'compilations')}
  with (place / 'output.txt').open('a') as output:
    return subprocess.run(
        [sys.executable, __file__, '--child', str(place / name),
         *map(str, kill)], env=environ, stdout=output, stderr=output,
        check=False).returncode


def _numbers(workdir: pathlib.Path) -> dict[str, object]:
  """All that has to be equal."""
  rows = [json.loads(line) for line in (
      workdir / 'metrics.jsonl').read_text().splitlines()]
  digest, = (workdir / 'checkpoints').glob('12/digest/metadata')
  return {
      'metrics': [{k: v for k, v in row.items() if k not in _CLOCKS}
                  for row in rows],
      'record': (workdir / 'success_rates.npy').read_bytes(),
      'checkpoint': json.loads(digest.read_text())['crc32'],
      'before': (workdir / 'initial_evaluation.json').read_text(),
      'after': (workdir / 'evaluation.json').read_text()}


def main() -> int:
  """Runs the storm; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kills', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--child', nargs=4, help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.child:
    workdir, phase, call, delay = arguments.child
    run(workdir, phase, int(call), float(delay))
    return 0
  rng = random.Random(arguments.seed)
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder)
    if _start(place, 'whole', 'none', 0, 0):
      print((place / 'output.txt').read_text())
      return 1
    early = [name for name in PHASES if name != 'report']
    killed, has_ended = 0, False
    for index in range(3 * arguments.kills):
      # The report comes last.
      is_late = has_ended or killed >= arguments.kills - 3
      phase = 'report' if is_late else early[index % len(early)]
      call = 1 if is_late else rng.choice((1, 1, 2))
      delay = rng.uniform(0, PHASES[phase][-1])
      code = _start(place, 'killed', phase, call, delay)
      killed += code == -signal.SIGKILL
      has_ended |= code == 0
      rows = place / 'killed' / 'metrics.jsonl'
      count = len(rows.read_text().splitlines()) if rows.exists() else 0
      print(f'{phase:8} call {call} after {delay:.2f} s: '
            f'{"killed" if code == -signal.SIGKILL else f"exit code {code}"}, '
            f'{count} rounds written', flush=True)
      if killed == arguments.kills or code not in (0, -signal.SIGKILL):
        break
    print(f'{killed} of {arguments.kills} killed')
    if killed < arguments.kills:
      print((place / 'output.txt').read_text())
      return 1
    code = _start(place, 'killed', 'none', 0, 0)
    if code:
      print((place / 'output.txt').read_text())
      return 1
    whole, killed = (_numbers(place / name) for name in ('whole', 'killed'))
  different = [name for name in whole if whole[name] != killed[name]]
  print(f'different: {", ".join(different)}' if different else
        f'equal bit for bit: {", ".join(whole)}')
  return 1 if different else 0


if __name__ == '__main__':
  sys.exit(main())
