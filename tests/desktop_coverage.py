"""Runs the desktop's server and counts which of its lines run.

  /usr/bin/python3 desktop_coverage.py PLAN SCRIPT [ARGUMENT ...]

does what `/usr/bin/python3 SCRIPT [ARGUMENT ...]` does; `desktops.make_command`
makes such a command when pytest measures coverage. PLAN is JSON: `coverage`,
the folder of that package in pytest's Python, so that both write the same
format; `data`, the name of pytest's data file; `branch`, whether it counts
branches. What this process forks and what it executes with `-I` is counted too.

The server and its helpers run as another user, who may be unable to read the
package and to write beside the data file, and are killed in the end. So they
write what they have, each second, into a folder of their own in /tmp, and
the keeper and the first process, whichever are left, turn that into a file
beside the data file, which pytest-cov combines.
"""

import importlib.util
import json
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
import tempfile
import threading
import time

_PERIOD = 1.0   # seconds between two savings
_SERVER = 2   # forks below the first process; a keeper is between them


def main(argv):
  counter = _Counter(json.loads(argv[0]), argv[1])
  sys.argv = argv[1:]
  if not sys.flags.isolated:
    sys.path[0] = os.path.dirname(argv[1])
  try:
    runpy.run_path(argv[1], run_name='__main__')
  finally:
    counter.finish()


class _Counter:
  """Counts in this process, and lets those that it starts count."""

  def __init__(self, plan, script):
    self._plan = plan
    self._home = os.path.dirname(script)
    self._generation = _SERVER if 'drop' in plan else 0   # A helper has one.
    self._lock = threading.Lock()
    package = _import_coverage(plan['coverage'])
    self._data_type = package.CoverageData
    self._coverage = package.Coverage(
        data_file=None, config_file=False, branch=plan['branch'],
        include=[os.path.join(self._home, '*')], messages=False)
    self._coverage.set_option(
        'run:disable_warnings', ['no-ctracer', 'no-data-collected'])
    self._patch()
    if self._generation:
      self._start_saving()
    self._coverage.start()

  def _patch(self):
    """Follows this process' forks, ends and programs."""
    fork, exit_, execv = os.fork, os._exit, os.execv

    def follow_fork():
      if not self._generation:
        self._make_drop()
      pid = fork()
      if pid == 0:
        self._generation += 1
        if self._generation == _SERVER:
          self._start_saving()
      return pid

    def finish_and_exit(code):
      self.finish()
      exit_(code)

    def finish_and_execute(path, command):
      self.finish()
      execv(path, self._insert(command))

    class Popen(subprocess.Popen):
      def __init__(popen, args, *rest, **fields):   # noqa: N805
        super().__init__(self._insert(args), *rest, **fields)

    os.fork, os._exit, os.execv = (
        follow_fork, finish_and_exit, finish_and_execute)
    subprocess.Popen = Popen

  def _insert(self, command):
    """Puts this program before a script that is run with `-I`."""
    if list(command[1:2]) != ['-I'] or not command[2].endswith('.py'):
      return command
    program, plan = os.path.abspath(__file__), self._plan
    if 'drop' in plan:
      program = os.path.join(plan['drop'], os.path.basename(__file__))
      plan = {**plan, 'coverage': os.path.join(plan['drop'], 'coverage')}
    return [*command[:2], program, json.dumps(plan), *command[2:]]

  def _make_drop(self):
    """Makes the folder from and in which the other user counts."""
    drop = pathlib.Path(tempfile.mkdtemp(prefix='step_jax_coverage_'))
    shutil.copy(__file__, drop)
    shutil.copytree(self._plan['coverage'], drop / 'coverage')
    for path in (drop, *drop.rglob('*')):
      path.chmod(0o755)
    (drop / 'data').mkdir()
    (drop / 'data').chmod(0o777)
    self._plan = {**self._plan, 'drop': str(drop), 'home': self._home}

  def _start_saving(self):
    def save_now_and_then():
      while True:
        time.sleep(_PERIOD)
        self._save()
    threading.Thread(target=save_now_and_then, daemon=True).start()

  def finish(self):
    """Writes what was counted; nothing that is counted comes after this."""
    if self._generation < _SERVER:
      self._collect()
    else:
      self._save()

  def _read(self):
    """Returns the lines, or the arcs, of each file that ran."""
    data = self._coverage.get_data()
    get = data.arcs if self._plan['branch'] else data.lines
    return {self._locate(name): get(name) for name in data.measured_files()}

  def _locate(self, name):
    """Where pytest knows a file that may be a desktop's copy."""
    return os.path.join(self._plan.get('home', self._home),
                        os.path.relpath(name, self._home))

  def _save(self):
    with self._lock:
      path = os.path.join(self._plan['drop'], 'data', f'{os.getpid()}.json')
      with open(f'{path}.new', 'w') as file:
        json.dump(self._read(), file)
      os.replace(f'{path}.new', path)

  def _collect(self):
    """Writes a file for pytest-cov, of this process and those below it."""
    found = self._data_type(self._plan['data'], suffix=True)
    counts = [self._read()]
    if 'drop' in self._plan:
      drop = pathlib.Path(self._plan['drop'])
      counts += [json.loads(path.read_text())
                 for path in drop.glob('data/*.json')]
      shutil.rmtree(drop, ignore_errors=True)   # if the keeper has not yet
    for counted in counts:
      if self._plan['branch']:
        found.add_arcs({
            name: [tuple(arc) for arc in arcs]
            for name, arcs in counted.items()})
      else:
        found.add_lines(counted)
    found.close()


def _import_coverage(folder):
  """Imports the package alone: its neighbours are not for this Python."""
  spec = importlib.util.spec_from_file_location(
      'coverage', os.path.join(folder, '__init__.py'),
      submodule_search_locations=[folder])
  package = sys.modules['coverage'] = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(package)
  return package


if __name__ == '__main__':
  main(sys.argv[1:])
