"""Lets a run go on for long and watches what it takes.

  python benchmarks/soak.py [--config=configs/osworld.py] [--minutes=60]
      [--config.<field>=value ...]

Every few seconds it looks at the run and all processes below it: resident
memory by kind of process, open descriptors, threads, files in the workdir (but
for metrics and episodes) and in the temporary folder. After the first tenth of
the time the last quarter has to be as the first, within 5 % or one piece or
megabyte, and the rounds must not take a quarter longer. Ends with 1 if they do
not.
`--config=configs/miniwob.py --minutes=30` does so in real browsers.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PERIOD = 5.  # seconds
_TOLERANCE = .05  # of the first quarter
_LEAST = 1.  # piece or megabyte
_SLOWER = .25  # of a machine that others use, too
_ROLES = ('the run', 'its keeper', 'its workers')  # by depth; below: programs
# With rounds and evaluations, and may; of rounds' episodes two a task are kept.
_GROWS = re.compile(
    r'metrics\.jsonl|success_rates\.npy|events\.out\..*|until_.*\.npz')


def family(pid: int, proc: pathlib.Path) -> list[tuple[int, int]]:
  """A process and all below it, each with its depth."""
  found, waiting = [], [(pid, 0)]
  while waiting:
    member, depth = waiting.pop()
    found.append((member, depth))
    for path in proc.glob(f'{member}/task/*/children'):
      try:
        waiting += [(int(child), depth + 1)
                    for child in path.read_text().split()]
      except (FileNotFoundError, ProcessLookupError):
        pass  # the thread has just ended
  return found


def look(pid: int, workdir: pathlib.Path, temporary: pathlib.Path,
         proc: pathlib.Path = pathlib.Path('/proc')) -> dict[str, float]:
  """What a run takes at this moment, by name.

  Args:
    pid: the run's first process.
    workdir: its folder.
    temporary: its TMPDIR.
    proc: the system's figures.
  """
  seen = dict.fromkeys((
      'resident MB', 'processes', 'threads', 'open descriptors',
      'files in the workdir', 'MB in the workdir', 'files in TMPDIR'), 0.)
  for member, depth in family(pid, proc):
    folder = proc / str(member)
    try:
      pages = int((folder / 'statm').read_text().split()[1])
      role = (_ROLES[depth] if depth < len(_ROLES) else
              (folder / 'comm').read_text().strip())
      files, threads = (
          len(os.listdir(folder / name)) for name in ('fd', 'task'))
    except (FileNotFoundError, ProcessLookupError):
      continue  # it has just ended
    memory = pages * os.sysconf('SC_PAGE_SIZE') / 2**20
    seen['resident MB'] += memory
    name = f'resident MB of {role}'
    seen[name] = seen.get(name, 0.) + memory
    seen['processes'] += 1
    seen['threads'] += threads
    seen['open descriptors'] += files
  for path in workdir.rglob('*'):
    try:
      size = path.lstat().st_size
    except FileNotFoundError:
      continue  # it has just been replaced
    if not _GROWS.fullmatch(path.name):
      seen['files in the workdir'] += 1
      seen['MB in the workdir'] += size / 2**20
  seen['files in TMPDIR'] = sum(1 for _ in temporary.rglob('*'))
  return seen


def compare(times: list[float], values: list[float]
            ) -> tuple[list[float], float]:
  """The means of the four quarters, and the slope an hour.

  Args:
    times: in seconds.
    values: at these times, in the same order.
  """
  slope = np.polyfit(np.array(times) / 3600, values, 1)[0]
  return ([float(np.mean(part)) for part in np.array_split(values, 4)
           if part.size], float(slope))


def tell(samples: list[tuple[float, int, dict[str, float]]]) -> list[str]:
  """Prints the table; returns what grows.

  Args:
    samples: times in seconds, rounds done by then, and what `look` saw, the
      first tenth left out; at least two rounds.
  """
  times, done = [sample[0] for sample in samples], [s[1] for s in samples]
  names = sorted({name for *_, seen in samples for name in seen})
  rows = {name: compare(times, [seen.get(name, 0.) for *_, seen in samples])
          for name in names}
  # By the wall clock, writing down, saving and evaluating included.
  ends = np.interp(range(done[0], done[-1] + 1), done, times)
  rows['seconds a round'] = compare(list(ends[1:]), list(np.diff(ends)))
  width = max(map(len, rows))
  print(f'{"":{width}}    quarters 1         2         3         4   change   '
        'an hour')
  growing = []
  for name, (means, slope) in rows.items():
    first, last = means[0], means[-1]
    change = last / first - 1 if first else 0.
    is_clock = name == 'seconds a round'
    if last - first > (_SLOWER * first if is_clock else
                       max(_TOLERANCE * first, _LEAST)):
      growing.append(name)
    digits = 3 if is_clock else 1
    print(f'{name:{width}}  ', *(f'{mean:9.{digits}f}' for mean in means),
          f'{100 * change:+6.1f}%  {slope:+8.{digits}f}')
  print(f'It grows: {", ".join(growing)}.' if growing else 'Nothing grows.')
  return growing


def main() -> int:
  """Runs the soak; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--config', default=str(_ROOT / 'configs/osworld.py'))
  parser.add_argument('--minutes', type=float, default=60.)
  arguments, fields = parser.parse_known_args()
  with tempfile.TemporaryDirectory(prefix='soak') as folder:
    place = pathlib.Path(folder)
    workdir, temporary = place / 'run', place / 'tmp'
    temporary.mkdir()
    with (place / 'output.txt').open('w') as output:
      process = subprocess.Popen(
          [sys.executable, str(_ROOT / 'experiments' / 'run.py'),
           f'--config={arguments.config}', f'--workdir={workdir}',
           '--config.num_rounds=1000000', '--config.eval_every=20', *fields],
          stdout=output, stderr=output,
          env=os.environ | {'TMPDIR': str(temporary)})
    samples, began = [], time.monotonic()
    metrics = workdir / 'metrics.jsonl'
    while (now := time.monotonic() - began) < 60 * arguments.minutes:
      time.sleep(_PERIOD)
      if process.poll() is not None:
        print((place / 'output.txt').read_text()[-2000:])
        return 1
      if now > 6 * arguments.minutes and metrics.exists():
        samples.append((now, metrics.read_bytes().count(b'\n'),
                        look(process.pid, workdir, temporary)))
    process.send_signal(signal.SIGINT)
    code = process.wait(120)
    left = [path.name for path in temporary.iterdir()]
    rounds = metrics.read_bytes().count(b'\n') if metrics.exists() else 0
  print(f'{rounds} rounds in {arguments.minutes:g} minutes, exit code {code}, '
        f'left in TMPDIR: {", ".join(left) or "nothing"}')
  if not samples or samples[-1][1] < samples[0][1] + 2:
    print('too few rounds to tell')
    return 1
  return int(bool(tell(samples)) or code != 130 or bool(left))


if __name__ == '__main__':
  sys.exit(main())
