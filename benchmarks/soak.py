"""Lets a run go on for long and watches what it takes.

  python benchmarks/soak.py [--config=configs/osworld.py] [--minutes=60]

After the first tenth of the time, the resident memory of the run with all its
processes and the number of its open files have to stay within 5 %, and the
workdir has to grow no faster than its metrics. Ends with 1 if they do not.
`--config=configs/miniwob.py --minutes=30` does so in real browsers.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TOLERANCE = 0.05
_PERIOD = 5.  # seconds


def _family(pid: int) -> list[int]:
  """A process and all below it."""
  found, waiting = [], [pid]
  while waiting:
    found.append(waiting.pop())
    for task in pathlib.Path(f'/proc/{found[-1]}/task').glob('*/children'):
      waiting += map(int, task.read_text().split())
  return found


def _look(pid: int, workdir: pathlib.Path) -> tuple[float, int, float]:
  """Resident megabytes, open files, megabytes of files but the metrics."""
  memory, files = 0, 0
  for member in _family(pid):
    try:
      memory += int(pathlib.Path(
          f'/proc/{member}/statm').read_text().split()[1])
      files += len(os.listdir(f'/proc/{member}/fd'))
    except (FileNotFoundError, ProcessLookupError):
      pass  # it has just ended
  size = 0
  for path in workdir.rglob('*'):
    try:
      if path.name not in ('metrics.jsonl', 'success_rates.npy'):
        size += path.stat().st_size
    except FileNotFoundError:
      pass  # it has just been replaced
  return memory * os.sysconf('SC_PAGE_SIZE') / 2**20, files, size / 2**20


def main() -> int:
  """Runs the soak; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default=str(_ROOT / 'configs/osworld.py'))
  parser.add_argument('--minutes', type=float, default=60.)
  arguments = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / 'run'
    with (pathlib.Path(folder) / 'output.txt').open('w') as output:
      process = subprocess.Popen(
          [sys.executable, str(_ROOT / 'experiments' / 'run.py'),
           f'--config={arguments.config}', f'--workdir={workdir}',
           '--config.num_rounds=1000000', '--config.eval_every=20'],
          stdout=output, stderr=output)
    seen, began = [], time.monotonic()
    while time.monotonic() - began < 60 * arguments.minutes:
      time.sleep(_PERIOD)
      if process.poll() is not None:
        print((pathlib.Path(folder) / 'output.txt').read_text()[-2000:])
        return 1
      seen.append(_look(process.pid, workdir))
    process.send_signal(signal.SIGINT)
    code = process.wait(120)
    rows = (workdir / 'metrics.jsonl').read_text().count('\n')
  print(f'{rows} rounds in {arguments.minutes:g} minutes, exit code {code}')
  failed = code != 130
  tenth = max(len(seen) // 10, 1)
  for name, column in zip(
      ('resident MB', 'open files', 'MB of files'), zip(*seen)):
    # What a moment holds goes up and down; the means of tenths do not.
    means = [sum(part) / len(part) for part in (
        column[i:i + tenth] for i in range(tenth, len(column) - tenth + 1,
                                           tenth))]
    grown = means[-1] / means[0] - 1
    failed |= grown > _TOLERANCE
    print(f'{name}: {means[0]:.1f} in the second tenth, {means[-1]:.1f} in '
          f'the last ({100 * grown:+.1f} %), at most {max(column):.1f}')
  return int(failed)


if __name__ == '__main__':
  sys.exit(main())
