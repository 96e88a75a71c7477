"""Puts small faults into the code, one at a time: do the tests notice?

  python tests/mutants.py [--only=TEXT] [--jobs=2] [--limit=300]

Every fault of `mutant_list` is put into a copy of this tree, where the tests
that should notice it run until the first failure. What survives is a fault that
nobody would have seen. The tests have to pass without faults; a test that runs
longer than the limit, in seconds, has noticed, too. --only keeps the mutants
with a text in their file or fault. All of them take about 80 minutes on one
busy core.
"""

import argparse
import collections
from concurrent import futures
import os
import pathlib
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests import mutant_list  # noqa: E402

_CACHE = pathlib.Path('.pytest_cache', 'compilations')  # see conftest
_SECONDS = 300.0
# pytest's exit codes: 1 and 2 are of a failure, also while it collects.
_NOTICED = (1, 2)


class Result(NamedTuple):
  mutant: mutant_list.Mutant
  outcome: str  # 'killed', 'killed by time' or 'SURVIVED'
  seconds: float
  noticed: str  # the first test that failed


def problems(mutant: mutant_list.Mutant, root: pathlib.Path) -> list[str]:
  """What is wrong with a mutant itself: sentences, none if it is whole."""
  name = f'{mutant.file} ({mutant.fault})'
  path = root / mutant.file
  count = path.read_text().count(mutant.old) if path.is_file() else 0
  found = []
  if count != 1:
    found.append(f'{name}: expected the old text once, got it {count} times')
  if mutant.old == mutant.new:
    found.append(f'{name}: expected another text, got the old one')
  for test in mutant.tests:
    file, _, function = test.partition('::')
    path, function = root / file, function.partition('[')[0]
    if not path.is_file() or f'def {function}' not in path.read_text():
      found.append(f'{name}: expected a test, got {test}')
  return found


def run(mutant: mutant_list.Mutant, root: pathlib.Path, limit: float) -> Result:
  """Puts a mutant into the tree at `root` while its tests run there."""
  path = root / mutant.file
  original = path.read_text()
  started = time.monotonic()
  try:
    path.write_text(original.replace(mutant.old, mutant.new))
    code, output = _pytest(mutant.tests, root, limit)
  finally:
    path.write_text(original)
  if code is not None and code not in (0, *_NOTICED):
    raise RuntimeError(f'pytest {" ".join(mutant.tests)} ended with {code}:\n'
                       f'{output}')
  outcome = ('killed by time' if code is None else
             'killed' if code else 'SURVIVED')
  failed = re.search(r'^(?:FAILED|ERROR) (\S+)', output, re.MULTILINE)
  return Result(mutant, outcome, time.monotonic() - started,
                failed[1] if failed else '')


def _pytest(tests: tuple[str, ...], root: pathlib.Path, limit: float
            ) -> tuple[int | None, str]:
  """The exit code, None after the limit, and the end of what was written."""
  environ = os.environ | {'PYTHONPATH': str(root)}
  with tempfile.TemporaryFile('w+') as file:
    process = subprocess.Popen(
        [sys.executable, '-m', 'pytest', '-x', '-q', '-p', 'no:cacheprovider',
         *tests], cwd=root, env=environ, stdin=subprocess.DEVNULL, stdout=file,
        stderr=subprocess.STDOUT, start_new_session=True)
    try:
      code = process.wait(limit)
    except subprocess.TimeoutExpired:
      code = None
    finally:
      try:
        os.killpg(process.pid, signal.SIGKILL)
      except ProcessLookupError:
        pass
      process.wait()
    file.seek(0)
    return code, file.read()[-4000:]


def _left_out(folder: str, names: list[str]) -> list[str]:
  """What is not copied: git, caches, environments, and runs."""
  unwanted = ('build', 'runs') if pathlib.Path(folder) == ROOT else ()
  return [name for name in names
          if name.startswith('.') or name in ('__pycache__', *unwanted)]


def run_all(
    mutants: list[mutant_list.Mutant], *, num_jobs: int, limit: float
) -> list[Result]:
  """Runs mutants in copies of this tree, one for each job; prints lines."""
  # The tests compile into the tree that they are in: all of them into one.
  (ROOT / _CACHE).mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix='mutants_') as folder:
    trees: queue.SimpleQueue[pathlib.Path] = queue.SimpleQueue()
    for job in range(num_jobs):
      tree = pathlib.Path(folder, str(job))
      shutil.copytree(ROOT, tree, ignore=_left_out, symlinks=True)
      (tree / _CACHE).parent.mkdir()
      (tree / _CACHE).symlink_to(ROOT / _CACHE)
      trees.put(tree)

    def run_one(mutant: mutant_list.Mutant) -> Result:
      tree = trees.get()
      try:
        result = run(mutant, tree, limit)
      finally:
        trees.put(tree)
      print(f'{result.outcome:<15}{result.seconds:4.0f} s  {mutant.file}: '
            f'{mutant.fault}  {result.noticed}', flush=True)
      return result

    with futures.ThreadPoolExecutor(num_jobs) as pool:
      return list(pool.map(run_one, mutants))


def table(results: list[Result]) -> str:
  """Numbers of every room, and the share that was killed."""
  rooms = collections.defaultdict(list)
  for result in results:
    rooms[result.mutant.room].append(result)
  lines = [f'{"room":<13}{"mutants":>8}{"killed":>8}{"share":>8}{"seconds":>9}']
  for room, found in [*rooms.items(), ('all', results)]:
    killed = sum(result.outcome != 'SURVIVED' for result in found)
    lines.append(
        f'{room:<13}{len(found):8}{killed:8}{100 * killed / len(found):6.0f} %'
        f'{sum(result.seconds for result in found):9.0f}')
  return '\n'.join(lines)


def main() -> int:
  """Returns 1 if a mutant survived, 2 if there is none or one is damaged."""
  parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
  parser.add_argument('--only', default='', metavar='TEXT')
  parser.add_argument('--jobs', type=int, default=2)
  parser.add_argument('--limit', type=float, default=_SECONDS)
  flags = parser.parse_args()
  mutants = [mutant for mutant in mutant_list.MUTANTS
             if flags.only in f'{mutant.file} {mutant.fault}']
  damaged = [line for mutant in mutants for line in problems(mutant, ROOT)]
  if damaged or not mutants:
    print('\n'.join(damaged or ['no mutant has this text']), file=sys.stderr)
    return 2
  results = run_all(mutants, num_jobs=flags.jobs, limit=flags.limit)
  print(table(results))
  return int(any(result.outcome == 'SURVIVED' for result in results))


if __name__ == '__main__':
  sys.exit(main())
