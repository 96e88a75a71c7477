"""Tests of what watches and harms long runs, on figures made up."""

import os

import pytest

from benchmarks import kill_storm
from benchmarks import signal_storm
from benchmarks import soak

_PAGES = 2**20 // os.sysconf('SC_PAGE_SIZE')  # of a megabyte


def _processes(folder, parents):
  """A /proc of processes, each of as many megabytes as its id."""
  for pid, (name, parent) in parents.items():
    for part in ('fd/0', 'fd/1', f'task/{pid}'):
      (folder / str(pid) / part).mkdir(parents=True)
    (folder / f'{pid}/comm').write_text(f'{name}\n')
    (folder / f'{pid}/statm').write_text(f'999 {pid * _PAGES} 0\n')
    below = [child for child, (_, p) in parents.items() if p == pid]
    (folder / f'{pid}/task/{pid}/children').write_text(
        ' '.join(map(str, [*below, 99])))  # the last one has ended
  return folder


def test_what_a_run_takes_and_whom_a_storm_hits(tmp_path):
  proc = _processes(tmp_path / 'proc', {
      1: ('python', 0), 2: ('python', 1), 3: ('python', 2), 4: ('python', 2),
      5: ('chromium', 3), 6: ('chromium', 5), 7: ('other', 0)})
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/metrics.jsonl').write_bytes(b'x' * 2**20)
  (tmp_path / 'run/until_000040_evaluations.npz').write_bytes(b'x')
  (tmp_path / 'run/more').write_bytes(b'x' * 2**20)
  (tmp_path / 'tmp/folder').mkdir(parents=True)
  assert soak.look(1, tmp_path / 'run', tmp_path / 'tmp', proc) == {
      'resident MB': 21, 'resident MB of the run': 1,
      'resident MB of its keeper': 2, 'resident MB of its workers': 7,
      'resident MB of chromium': 11, 'processes': 6, 'threads': 6,
      'open descriptors': 12, 'files in the workdir': 1,
      'MB in the workdir': 1, 'files in TMPDIR': 1}
  assert {name: sorted(pids) for name, pids in signal_storm.victims(
      1, proc).items()} == {'python': [3, 4], 'chromium': [5, 6]}


@pytest.mark.parametrize('memory, pieces, seconds, growing', [
    (0, 0, 1, []), (4, 0, 1, []), (8, 0, 1, ['resident MB']),
    (0, .9, 1, []), (0, 2, 1, ['files in TMPDIR']),
    (0, 0, 2, ['seconds a round'])])
def test_what_grows_is_told(capsys, memory, pieces, seconds, growing):
  """By so much from the first quarter to the last, of 100, 3 and 1."""
  samples = [(60. * i + 10 * (seconds - 1) * i * i, 10 * i, {
      'resident MB': 100 + memory * (i > 4),
      'files in TMPDIR': 3 + pieces * (i > 4)}) for i in range(8)]
  assert soak.tell(samples) == growing
  *_, told = capsys.readouterr().out.splitlines()
  assert told == (f'It grows: {growing[0]}.' if growing else 'Nothing grows.')


def test_what_is_compared():
  means, slope = soak.compare([0., 1800., 3600., 5400.], [1, 3, 5, 7])
  assert means == [1, 3, 5, 7] and slope == pytest.approx(4)


_ROW = {'round': 0, 'trajectories': 4, 'valid_trajectories': 3,
        'success_rate': 2 / 3, 'slots_per_task': [3, 1],
        'successes_per_task': [2, 0], 'environment_failures': 5}


def test_what_a_storm_has_left_has_to_add_up():
  assert signal_storm.check([_ROW]) == '1 rounds, 5 failures, 1 of 4 lost'
  for wrong in ({'round': 1}, {'success_rate': .5}, {'valid_trajectories': 5},
                {'successes_per_task': [0, 2]}, {'slots_per_task': [3, 2]}):
    with pytest.raises(ValueError, match='round'):
      signal_storm.check([_ROW | wrong])


@pytest.mark.parametrize('owner, name, _', kill_storm.PHASES.values())
def test_what_is_killed_exists(owner, name, _):
  assert hasattr(owner, name)
