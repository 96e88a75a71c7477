"""Kills, freezes and starves the processes of a command while it runs.

  python benchmarks/signal_storm.py [--every=5] [--seed=0] SCRIPT ARGUMENT ...

Every few seconds one of the workers of a run, or of what they have started
(drivers, browsers, their helpers), is killed, frozen for good, held up for a
second, or may open no file any more. The script has to end with 0 and to leave
neither a process nor a temporary folder; the rows of `--workdir=DIR`, where
there are some, have to add up. Ends with 1 if not. What was measured:

  python benchmarks/signal_storm.py experiments/run.py
      --config=configs/miniwob.py:smoke --workdir=DIR
      --config.num_rounds=20 --config.num_base_tasks=2 --config.group_size=4
      --config.max_steps=5 --config.eval_episodes=2 --config.env.num_workers=3
      --config.env.step_timeout=10 --config.warm_start.demonstrations=2
  python benchmarks/signal_storm.py benchmarks/fault_storm.py
      --world=miniwob --probability=0 --step_timeout=10

The second knows what each episode deserves, and compares.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from benchmarks import soak

_MARK = 'STEP_JAX_SIGNAL_STORM'
_WORKERS = 2  # depth below the script; above them is their keeper
_FILES = 8  # descriptors, fewer than any of them has


def victims(pid: int, proc: pathlib.Path = pathlib.Path('/proc')
            ) -> dict[str, list[int]]:
  """Workers of a run and what they have started, by name of the program."""
  found: dict[str, list[int]] = {}
  for member, depth in soak.family(pid, proc):
    if depth >= _WORKERS:
      try:
        name = (proc / str(member) / 'comm').read_text().strip()
      except (FileNotFoundError, ProcessLookupError):
        continue  # it has just ended
      found.setdefault(name, []).append(member)
  return found


def harm(pid: int, how: str) -> None:
  """Harms a process.

  Args:
    pid: of the process.
    how: 'kill', 'freeze', 'hold up' or 'starve'.

  Raises:
    ProcessLookupError: it has ended.
  """
  if how == 'starve':
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (_FILES, _FILES))
    return
  os.kill(pid, signal.SIGKILL if how == 'kill' else signal.SIGSTOP)
  if how == 'hold up':
    time.sleep(1)
    os.kill(pid, signal.SIGCONT)


def orphans(mark: str) -> list[str]:
  """Commands of processes that have a mark in their environment."""
  found = []
  for entry in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if mark.encode() in (entry / 'environ').read_bytes():
        found.append((entry / 'comm').read_text().strip())
    except OSError:  # gone, or another user's
      continue
  return found


def check(rows: list[dict]) -> str:
  """What a run has counted; raises ValueError if that does not add up."""
  lost = 0
  for row in rows:
    slots, successes = row['slots_per_task'], row['successes_per_task']
    valid = row['valid_trajectories']
    if not (sum(slots) == row['trajectories'] >= valid
            and all(a >= b for a, b in zip(slots, successes, strict=True))
            and abs(row['success_rate'] * valid - sum(successes)) < 1e-3):
      raise ValueError(f'round {row["round"]} does not add up: {row}')
    lost += row['trajectories'] - valid
  if [row['round'] for row in rows] != list(range(len(rows))):
    raise ValueError('a round is missing')
  return (f'{len(rows)} rounds, '
          f'{sum(row["environment_failures"] for row in rows)} failures, '
          f'{lost} of {sum(row["trajectories"] for row in rows)} lost')


def main() -> int:
  """Runs the storm; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--every', type=float, default=5.)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('command', nargs=argparse.REMAINDER)
  arguments = parser.parse_args()
  rng, mark = random.Random(arguments.seed), f'{_MARK}={os.getpid()}'
  done: collections.Counter[str] = collections.Counter()
  began = time.monotonic()
  with tempfile.TemporaryDirectory(prefix='storm') as temporary:
    process = subprocess.Popen(
        [sys.executable, *arguments.command],
        env=os.environ | {'TMPDIR': temporary, _MARK: str(os.getpid())})
    while True:
      try:
        process.wait(rng.expovariate(1 / arguments.every))
        break
      except subprocess.TimeoutExpired:
        found = victims(process.pid)
      if found:
        name = rng.choice(sorted(found))
        how = rng.choice(('kill', 'freeze', 'hold up', 'starve'))
        try:
          harm(rng.choice(found[name]), how)
          done[f'{how} {name}'] += 1
        except ProcessLookupError:
          pass  # it has ended by itself
    left, folders = orphans(mark), os.listdir(temporary)
  print(f'{time.monotonic() - began:.0f} s, exit code {process.returncode}, '
        f'{len(left)} processes left {left}, {len(folders)} folders left '
        f'{folders}; {dict(sorted(done.items()))}')
  for argument in arguments.command:
    name, _, workdir = argument.partition('=')
    if name == '--workdir':
      path = pathlib.Path(workdir) / 'metrics.jsonl'
      print(check([json.loads(row) for row in path.read_text().splitlines()]))
  return int(bool(process.returncode or left or folders))


if __name__ == '__main__':
  sys.exit(main())
