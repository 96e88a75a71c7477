"""Kills a Desk run at random moments and compares what it becomes.

  python benchmarks/kill_storm.py [--kills=20] [--seed=0]

A run is killed (SIGKILL) while it collects, updates, saves, evaluates or
reports, at a random moment of a random call, and resumed by the same command
each time. Its metrics, record, evaluations and last checkpoint have to equal,
bit for bit, those of a run that nobody disturbed. Ends with 1 if they do not.
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

_CLOCKS = {'seconds', 'rollout_seconds', 'update_seconds', 'compilations'}
_PHASES = {  # name: seconds within which the call is killed
    'collect': 0.3, 'update': 0.3, 'save': 0.3, 'evaluate': 0.3, 'report': 0.8}


def run(workdir: str, phase: str, call: int, delay: float) -> None:
  """Trains; a call of the phase, counted from 1, is killed after a delay."""
  from configs import osworld
  from experiments import rounds
  from experiments import evaluating
  from experiments import train
  from step_jax.runs import checkpoint

  config = osworld.get_config('step')
  config.update_from_flattened_dict({
      'num_rounds': 12, 'eval_every': 3, 'checkpoint_every': 2,
      'num_base_tasks': 4, 'group_size': 8, 'max_steps': 8,
      'env.tasks': ('wifi-on', 'star', 'missing-star', 'cookies-on'),
      'eval_episodes': 8, 'warm_start.num_steps': 60,
      'policy.acting_batch_size': 16})
  owner, name = {
      'collect': (rounds, '_collect_round'), 'update': (rounds, '_assign'),
      'save': (checkpoint.Checkpoints, 'save'),
      'evaluate': (evaluating, 'evaluate'),
      'report': (train, '_report')}.get(phase, (None, ''))
  if owner is not None:
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
    early = [name for name in _PHASES if name != 'report']
    for index in range(arguments.kills):
      is_late = index >= arguments.kills - 3  # the report comes last
      phase = 'report' if is_late else early[index % len(early)]
      call = 1 if is_late else rng.choice((1, 1, 2))
      delay = rng.uniform(0, _PHASES[phase])
      code = _start(place, 'killed', phase, call, delay)
      rows = place / 'killed' / 'metrics.jsonl'
      count = len(rows.read_text().splitlines()) if rows.exists() else 0
      print(f'{phase:8} call {call} after {delay:.2f} s: '
            f'{"killed" if code == -signal.SIGKILL else f"exit code {code}"}, '
            f'{count} rounds written', flush=True)
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
