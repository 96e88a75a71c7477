"""Tests of the worker processes: real ones, with environments that break."""
import collections
import contextlib
import functools
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

import pytest

from step_jax.rollout import crew
from step_jax.rollout import keeper
from step_jax.rollout import ray_processes
from step_jax.rollout import workers
from tests import fake_envs

_ROOT = pathlib.Path(__file__).parent.parent
_LIMIT = 30.0   # seconds; for what must happen at last

pytestmark = pytest.mark.skipif(
    sys.platform != 'linux', reason='the tests look for processes in /proc')


@pytest.fixture(autouse=True, name='token')
def nothing_left(monkeypatch, tmp_path):
  """Fails a test that leaves a process or a temporary folder behind."""
  token = uuid.uuid4().hex
  # The path is short: Chromium puts a socket there, whose name has a limit.
  with tempfile.TemporaryDirectory() as temporary:
    (tmp_path / 'tmp').symlink_to(temporary)
    monkeypatch.setenv('STEP_JAX_TEST', token)
    monkeypatch.setenv('TMPDIR', temporary)
    monkeypatch.setattr(tempfile, 'tempdir', None)
    yield token
    assert not _processes(token)
    assert not os.listdir(temporary)


def _processes(token):
  """Finds the processes, zombies excepted, started with this environment."""
  found = {}
  for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit() and int(entry.name) != os.getpid():
      with contextlib.suppress(OSError):
        if token.encode() in (entry / 'environ').read_bytes():
          command = (entry / 'cmdline').read_bytes().split(b'\0')
          found[int(entry.name)] = b' '.join(command).decode().strip()
  return found


def _until(condition):
  deadline = time.monotonic() + _LIMIT
  while not condition():
    assert time.monotonic() < deadline, 'it never happened'
    time.sleep(0.01)


@pytest.fixture(scope='session', name='ray_here')
def start_ray():
  """Ray on this machine, as if the test that needs it first were none."""
  ray = pytest.importorskip('ray')  # an extra that is not in `test`
  with pytest.MonkeyPatch.context() as patch:
    patch.delenv('STEP_JAX_TEST')
    patch.delenv('TMPDIR')
    patch.setattr(tempfile, 'tempdir', None)
    for name, value in ray_processes.SETTINGS.items():
      patch.setenv(name, value)
    ray.init('local', num_cpus=6, include_dashboard=False)
  yield
  ray.shutdown()


@pytest.fixture(params=['processes', 'ray'])
def backend(request, monkeypatch):
  """Of the pools of a test; Ray's are skipped where it is not installed."""
  if request.param == 'ray':
    request.getfixturevalue('ray_here')
    monkeypatch.setitem(_DEFAULTS, 'backend', functools.partial(
        ray_processes.RayProcesses, num_workers=1))
  return request.param


_DEFAULTS = {'num_workers': 2, 'step_timeout': 20.0}
_on_both = pytest.mark.usefixtures('backend')


def _pool(make_env=fake_envs.CountEnv, **options):
  return workers.WorkerPool(make_env, **(_DEFAULTS | options))


def _faulty(directory, **faults):
  """A factory; `_1='exit'` breaks the first attempt at task 1."""
  parsed = {int(name.strip('_')): fault if isinstance(fault, tuple)
            else (fault, 1) for name, fault in faults.items()}
  directory.mkdir(exist_ok=True)
  return functools.partial(fake_envs.FaultyEnv, str(directory), parsed)


def _jobs(*task_ids):
  return [workers.Job(slot, task_id, 100 + slot)
          for slot, task_id in enumerate(task_ids)]


def _play(pool, jobs=(), on_observation=None):
  """Plays jobs with the right actions; returns all events but observations."""
  events = []
  pool.submit(jobs)
  while pool.pending:
    news = pool.wait(_LIMIT)
    assert news
    for event in news:
      if event.kind != 'observation':
        events.append(event)
      elif on_observation is None or not on_observation(event):
        pool.act(event.worker, fake_envs.right_action(event.observation))
  return events


def _wait_for_workers(pool):
  """Returns the process ids of all workers."""
  _until(lambda: pool.wait(0.0) == [] and None not in pool.worker_pids)
  return set(pool.worker_pids)


def _kinds(events):
  return collections.Counter(event.kind for event in events)


@_on_both
def test_plays_all_jobs_with_their_tasks_and_seeds():
  steps = collections.Counter()

  def on_observation(event):
    job = event.job
    assert event.observation.tolist() == [job.task_id, job.seed,
                                          steps[job.slot]]
    steps[job.slot] += 1

  with _pool(num_workers=3) as pool:
    events = _play(pool, _jobs(*range(8), 2, 2), on_observation)
    assert pool.num_failures == 0 and pool.failures == {}
    assert len(_wait_for_workers(pool)) == 3
    assert pool.wait() == []
    again = _play(pool, _jobs(1))
  assert {event.job for event in events} == set(_jobs(*range(8), 2, 2))
  assert all(event.kind == 'finished' and event.reward == 1.0
             and event.attempt == 0 and event.observation is None
             for event in events + again)
  assert len(events) == 10 and len(again) == 1
  assert steps == {s: 2 + j.task_id % 3
                   for s, j in enumerate(_jobs(*range(8), 2, 2))}


@_on_both
def test_a_wrong_action_earns_nothing():
  with _pool() as pool:
    def on_observation(event):
      pool.act(event.worker, fake_envs.right_action(event.observation) + 1)
      return True
    event, = _play(pool, _jobs(0), on_observation)
  assert (event.kind, event.reward) == ('finished', 0.0)


@_on_both
def test_an_episode_that_is_cut_short_has_ended():
  with _pool(fake_envs.TruncatedEnv) as pool:
    event, = _play(pool, _jobs(2))  # of four steps, of which it plays one
  assert (event.kind, event.reward, event.observation) == (
      'finished', 0.0, None)


@_on_both
def test_expert_jobs_get_the_expert_action():
  seen = []
  with _pool() as pool:
    _play(pool, [workers.Job(0, 0, 0, True), workers.Job(1, 0, 0)],
          lambda event: seen.append((event.job.slot, sorted(event.info))))
  assert sorted(seen) == [(0, ['expert_action'])] * 2 + [(1, [])] * 2


def test_what_an_environment_leaves_dead_is_reaped():
  dead = []
  with _pool(fake_envs.OrphanEnv, num_workers=1) as pool:
    _play(pool, _jobs(*[0] * 20), lambda event: dead.append(
        event.info.get('dead', 0)))
    assert pool.num_failures == 0
  assert 0 < max(dead) < 5


@_on_both
def test_a_slow_environment_holds_up_nobody(tmp_path):
  make_env = _faulty(tmp_path / 'marks', _7=('slow', 1))
  with _pool(make_env) as pool:
    pool.submit(_jobs(7, *[0] * 12))
    finished = []
    while len(finished) < 12:
      for event in pool.wait(_LIMIT):
        if event.kind == 'finished':
          finished.append(event)
        else:
          pool.act(event.worker, fake_envs.right_action(event.observation))
    assert 0 not in [event.job.slot for event in finished]
    assert pool.pending == 1
    assert len({event.worker for event in finished}) == 1
    (tmp_path / 'marks' / 'go').touch()
    event, = _play(pool)
  assert (event.job.slot, event.kind, event.reward) == (0, 'finished', 1.0)


@_on_both
def test_a_free_worker_resets_while_the_caller_thinks():
  with _pool(num_workers=1) as pool:
    pool.submit(_jobs(0, 0))
    kinds = []
    while len(kinds) < 4:
      kinds += [(event.job.slot, event.kind) for event in pool.wait(_LIMIT)]
      if kinds[-1][1] == 'observation':
        pool.act(0, 0)
  assert kinds == [(0, 'observation'), (0, 'observation'), (0, 'finished'),
                   (1, 'observation')]


@_on_both
@pytest.mark.parametrize('fault, kind, message', [
    ('exit', 'death', 'the worker process died'),
    ('raise', 'exception', "KeyError: 'broken'"),
    ('fail', 'failure', 'broken at step'),
    ('fail_reset', 'failure', 'broken at reset'),
])
def test_a_broken_episode_is_played_again(tmp_path, fault, kind, message):
  with _pool(_faulty(tmp_path / 'marks', _1=fault)) as pool:
    events = _play(pool, _jobs(0, 1, 2, 3))
    assert pool.failures == {kind: 1} and pool.num_failures == 1
  assert _kinds(events) == {'finished': 4, 'failed': 1}
  failed, = [event for event in events if event.kind == 'failed']
  assert (failed.job, failed.attempt) == (_jobs(0, 1)[1], 0)
  assert failed.message == message
  retried, = [event for event in events
              if event.kind == 'finished' and event.job == failed.job]
  assert (retried.attempt, retried.reward) == (1, 1.0)


@_on_both
def test_garbage_is_a_failure_of_the_environment(tmp_path):
  make_env = _faulty(tmp_path / 'marks', **{
      f'_{task_id}': fault for task_id, fault in enumerate(
          fake_envs.GARBAGE)})
  jobs = _jobs(*range(len(fake_envs.GARBAGE)))
  with _pool(make_env) as pool:
    events = _play(pool, jobs)
    assert pool.failures == {'exception': len(jobs)}
  for kind in ('failed', 'finished'):
    assert sorted(event.job for event in events if event.kind == kind) == jobs
  assert all(event.reward == 1.0 for event in events
             if event.kind == 'finished')


def test_fifty_failures_leave_no_open_file(tmp_path):
  make_env = _faulty(tmp_path / 'marks', _1=('raise', 50))
  with _pool(make_env, num_workers=1, max_retries=50) as pool:
    _play(pool, _jobs(0))
    before = os.listdir('/proc/self/fd')
    events = _play(pool, _jobs(1))
    assert len(os.listdir('/proc/self/fd')) == len(before)
  assert _kinds(events) == {'failed': 50, 'finished': 1}


@_on_both
def test_an_answer_after_its_deadline_is_not_heard(tmp_path):
  """agent-lightning #218: of an attempt that was given up."""
  make_env = _faulty(tmp_path / 'marks', _1='slow')
  with _pool(make_env, num_workers=1, step_timeout=1000.0) as pool:
    pool.submit(_jobs(1))
    event, = pool.wait(_LIMIT)
    pool.act(0, fake_envs.right_action(event.observation))
    pool._crew.workers[0].deadline = 0.0
    failed, = pool.wait(0.0)
    (tmp_path / 'marks' / 'go').touch()
    event, = _play(pool)
    assert pool.failures == {'hang': 1}
  assert (failed.kind, failed.attempt) == ('failed', 0)
  assert (event.kind, event.attempt, event.reward) == ('finished', 1, 1.0)


@_on_both
def test_an_environment_that_cannot_be_closed_is_killed():
  with _pool(fake_envs.StuckEnv, close_timeout=.1) as pool:
    assert _kinds(_play(pool, _jobs(0, 1))) == {'finished': 2}


def test_a_host_may_have_more_open_files_than_select_can_hear():
  limits = resource.getrlimit(resource.RLIMIT_NOFILE)
  if limits[1] < 1300:
    pytest.skip('this machine allows fewer open files')
  resource.setrlimit(
      resource.RLIMIT_NOFILE, (max(1300, limits[0]), limits[1]))
  with contextlib.ExitStack() as files:
    for _ in range(1030):
      files.enter_context(open(os.devnull, encoding='utf8'))
    with _pool(num_workers=1) as pool:
      assert _kinds(_play(pool, _jobs(0))) == {'finished': 1}
  resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize('fault', ['hang', 'hang_reset'])
def test_a_hanging_environment_is_replaced(tmp_path, fault, backend):
  """OpenEnv #1036: a boot that hangs, too."""
  make_env = _faulty(tmp_path / 'marks', _1=fault)
  start_timeout = 5.0 if backend == 'processes' else 20.0
  with _pool(make_env, step_timeout=2.0, start_timeout=start_timeout) as pool:
    events = _play(pool, _jobs(0, 0, 0, 1, 2, 2))
    assert pool.failures == {'hang': 1}
  assert _kinds(events) == {'finished': 6, 'failed': 1}


@_on_both
def test_a_job_is_lost_after_its_retries(tmp_path):
  make_env = _faulty(tmp_path / 'marks', _1=('raise', 3), _2=('exit', 2))
  with _pool(make_env) as pool:
    events = _play(pool, _jobs(0, 1, 2))
    assert pool.failures == {'exception': 3, 'death': 2}
  assert _kinds(events) == {'finished': 2, 'failed': 4, 'lost': 1}
  lost, = [event for event in events if event.kind == 'lost']
  assert (lost.job.task_id, lost.attempt) == (1, 2)
  assert 'fake_envs' in lost.info['traceback']


@_on_both
def test_without_retries_the_first_failure_is_final(tmp_path):
  with _pool(_faulty(tmp_path / 'marks', _1='exit'), max_retries=0) as pool:
    assert _kinds(_play(pool, _jobs(1, 0))) == {'lost': 1, 'finished': 1}


@pytest.mark.parametrize('name, kind', [('SIGKILL', 'death'),
                                        ('SIGSTOP', 'hang')])
def test_a_killed_or_frozen_worker_is_replaced(token, name, kind):
  struck = []
  with _pool(step_timeout=2.0) as pool:
    def on_observation(event):
      if event.job.slot == 3 and not struck:
        struck.append(pool.worker_pids[event.worker])
        os.kill(struck[0], signal.Signals[name])

    events = _play(pool, _jobs(0, 1, 2, 3, 4, 5), on_observation)
    assert pool.failures == {kind: 1}
    assert struck[0] not in pool.worker_pids
    _until(lambda: struck[0] not in _processes(token))
  assert _kinds(events) == {'finished': 6, 'failed': 1}
  assert all(event.reward == 1.0 for event in events
             if event.kind == 'finished')


@_on_both
def test_an_idle_worker_that_died_is_replaced():
  with _pool() as pool:
    for pid in _wait_for_workers(pool):
      os.kill(pid, signal.SIGKILL)
    events = _play(pool, _jobs(0, 1, 2))
  assert _kinds(events)['finished'] == 3


@_on_both
def test_the_clock_stands_still_while_the_caller_thinks():
  with _pool(num_workers=1, step_timeout=1.0) as pool:
    _play(pool, _jobs(0))   # From now on resets have that limit, too.
    pool.submit(_jobs(0))
    time.sleep(1.5)   # The answer comes in time and is read late.
    event, = pool.wait(_LIMIT)
    time.sleep(1.5)
    pool.act(event.worker, 0)
    assert [event.kind for event in pool.wait(_LIMIT)] == ['observation']
    assert pool.num_failures == 0


@_on_both
def test_large_answers_arrive_whole(tmp_path):
  sizes = []
  with _pool(_faulty(tmp_path / 'marks', _0=('big', 9))) as pool:
    events = _play(pool, _jobs(*[0] * 4), lambda event: sizes.append(
        event.info.get('padding', b'').nbytes if event.info else 0))
  assert _kinds(events) == {'finished': 4}
  assert sorted(sizes) == [0] * 4 + [3_000_000] * 4


def test_an_answer_on_its_way_has_its_time_anew(monkeypatch):
  """A part of it arrives just before the deadline of a step."""
  with _pool(num_workers=1, step_timeout=1000.0) as pool:
    pool.submit(_jobs(0))
    event, = pool.wait(_LIMIT)
    pool.act(0, fake_envs.right_action(event.observation))
    worker, = pool._crew.workers
    worker.deadline = time.monotonic() + 5
    with monkeypatch.context() as patch:
      patch.setattr(pool._processes, 'receive',
                    lambda timeout: {worker.serial: []})
      assert not pool.wait(0.0)
    assert worker.deadline > time.monotonic() + 900
    assert worker.state == 'busy' and not pool.num_failures


@_on_both
def test_wait_gives_up_after_its_timeout(tmp_path):
  with _pool(_faulty(tmp_path / 'marks', _1='slow')) as pool:
    assert pool.wait() == []
    pool.submit(_jobs(1))
    event, = pool.wait(_LIMIT)
    assert pool.wait() == []   # Nobody owes an answer.
    pool.act(event.worker, 0)
    assert pool.wait(0.05) == []
    assert pool.pending == 1
    (tmp_path / 'marks' / 'go').touch()


@_on_both
def test_a_mistake_in_the_factory_surfaces_at_once():
  with pytest.raises(workers.WorkerStartError) as caught:
    with _pool(fake_envs.bad_factory) as pool:
      pool.submit(_jobs(0, 1))
      pool.wait(_LIMIT)
  assert str(caught.value) == 'expected a known task, got nonsense'
  assert caught.value.kind == 'ValueError'
  assert 'bad_factory' in caught.value.__notes__[0]


@_on_both
def test_a_start_can_be_awaited(tmp_path):
  with _pool() as pool:
    assert pool.wait_for_start(_LIMIT)
    assert pool.wait_for_start(0.)  # It is known by now.
  with _pool(fake_envs.bad_factory) as pool:
    with pytest.raises(workers.WorkerStartError, match='got nonsense'):
      pool.wait_for_start(_LIMIT)
  with _pool(fake_envs.dying_factory) as pool:
    assert pool.wait_for_start(_LIMIT)  # None is being started any more.
    assert _kinds(_play(pool, _jobs(0))) == {'failed': 2, 'lost': 1}
  with _pool(fake_envs.hanging_factory, start_timeout=_LIMIT) as pool:
    assert not pool.wait_for_start(0.05)


def test_a_factory_that_hangs_is_given_up():
  with _pool(fake_envs.hanging_factory, start_timeout=.5, num_workers=1,
             max_retries=0) as pool:
    assert _kinds(_play(pool, _jobs(0))) == {'lost': 1}
    assert pool.failures.keys() == {'hang'}


@_on_both
def test_what_is_down_does_not_use_up_the_jobs_of_what_is_up(tmp_path):
  make_env = functools.partial(fake_envs.one_healthy_factory, str(tmp_path))
  with _pool(make_env, num_workers=3) as pool:
    assert pool.wait_for_start(_LIMIT)  # Two that are down end no run.
    assert set(pool.failures) <= {'start'}
    events = _play(pool, _jobs(*range(12)))
  assert _kinds(events) == {'finished': 12}
  # Each of the two is tried again after one second, two, four.
  assert pool.failures.keys() == {'start'}


@pytest.fixture
def short_pauses(monkeypatch):
  monkeypatch.setattr(crew, '_MIN_PAUSE', 0.01)
  monkeypatch.setattr(crew, '_MAX_PAUSE', 0.02)


def test_what_is_sick_uses_up_no_jobs(tmp_path, short_pauses, backend):
  make_env = functools.partial(fake_envs.SickEnv, str(tmp_path))
  with _pool(make_env, num_workers=3, max_retries=1) as pool:
    events = _play(pool, _jobs(*range(12)))
    # Ray starts fewer in the time that the one that is well takes.
    assert pool.failures['exception'] > (4 if backend == 'processes' else 0)
  assert set(_kinds(events)) == {'finished', 'failed'}
  assert _kinds(events)['finished'] == 12
  assert sum(event.attempt for event in events
             if event.kind == 'finished') <= 2  # the first of either


def test_pauses_double_up_to_a_minute(monkeypatch):
  """Place 0 is down while another plays; the clock is ours."""
  now = 0.0
  monkeypatch.setattr(crew.time, 'monotonic', lambda: now)
  places = crew.Crew(2)
  places.workers[1] = crew.Worker(1, 'idle')
  for pause in (1, 2, 4, 8, 16, 32, 60, 60):
    places.put_off(0)
    assert places.is_sick(0) and not places.may_start(0)
    now += pause - .5
    assert not places.may_start(0)
    now += .5
    assert places.may_start(0)
  places.recovered(0)
  assert not places.is_sick(0)
  places.put_off(0)
  now += 1
  assert places.may_start(0)


@_on_both
def test_what_is_sick_is_paused_while_another_starts(tmp_path):
  make_env = functools.partial(fake_envs.SickEnv, str(tmp_path), 2.0)
  with _pool(make_env) as pool:
    event, *others = reversed(_play(pool, _jobs(0)))
    assert event.kind == 'finished'
    assert _kinds(others) == {'failed': len(others)}
    assert pool.num_failures == len(others) <= 3  # after 1 and 2 seconds


@_on_both
def test_a_job_goes_to_what_is_well_before_what_is_sick():
  with _pool() as pool:
    _until(lambda: pool.wait(0.0) == [] and all(
        worker.state == 'idle' for worker in pool._crew.workers))
    pool._crew.put_off(0)  # as after a reset that failed
    event, = _play(pool, _jobs(0))
    assert event.worker == 1
    event, = _play(pool, _jobs(0))
    assert event.worker == 1


@_on_both
def test_a_job_that_nobody_can_play_is_lost_whoever_else_plays(
    tmp_path, short_pauses):
  make_env = _faulty(tmp_path / 'marks', _1=('fail_reset', 99),
                     _2=('fail_reset', 99))
  with _pool(make_env, num_workers=3) as pool:
    events = _play(pool, _jobs(*[0, 1, 0, 2, 0, 0] * 3))
  assert {(event.kind, event.job.task_id) for event in events} - {
      ('failed', 1), ('failed', 2)} == {
          ('finished', 0), ('lost', 1), ('lost', 2)}
  assert _kinds(events)['finished'] == 12 and _kinds(events)['lost'] == 6


@_on_both
def test_a_factory_that_kills_its_process_does_not_loop():
  with _pool(fake_envs.dying_factory) as pool:
    events = _play(pool, _jobs(0, 1))
    assert pool.failures['death'] >= 6
  assert _kinds(events) == {'failed': 4, 'lost': 2}


@_on_both
def test_a_factory_that_cannot_be_imported_surfaces(tmp_path, monkeypatch):
  (tmp_path / 'vanishing.py').write_text(
      'from tests import fake_envs\nmake_env = lambda: fake_envs.CountEnv()\n'
      'make_env.__qualname__ = "make_env"\n')
  monkeypatch.syspath_prepend(tmp_path)
  import vanishing  # pylint: disable=import-outside-toplevel
  (tmp_path / 'vanishing.py').unlink()
  with pytest.raises(workers.WorkerStartError, match='vanishing'):
    with _pool(vanishing.make_env) as pool:
      _play(pool, _jobs(0))


def test_a_module_that_computes_with_jax_is_told(tmp_path, monkeypatch):
  """Layup #336: a lock that a thread of it holds is held in a fork for ever."""
  (tmp_path / 'computing.py').write_text(
      'import jax\nfrom tests import fake_envs\n'
      'class Env(fake_envs.CountEnv):\n  table = jax.numpy.arange(3)\n')
  monkeypatch.syspath_prepend(tmp_path)
  import computing  # pylint: disable=import-outside-toplevel
  with pytest.raises(workers.WorkerStartError, match='compute with JAX'):
    with _pool(computing.Env, num_workers=1) as pool:
      _play(pool, _jobs(0))


@_on_both
@pytest.mark.parametrize('options, message', [
    ({'num_workers': 0}, 'num_workers >= 1, got 0'),
    ({'step_timeout': 0.0}, 'positive time limits'),
    ({'max_retries': -1}, 'max_retries >= 0, got -1'),
    ({'make_env': lambda: None}, 'picklable make_env'),
])
def test_bad_arguments_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    _pool(**options)


@_on_both
def test_acting_out_of_turn_is_refused():
  with _pool() as pool:
    with pytest.raises(ValueError, match='waits for an action, got worker 0'):
      pool.act(0, 1)
  with pytest.raises(ValueError, match='expected an open pool'):
    pool.submit(_jobs(0))
  pool.close()


def test_nothing_is_left_of_a_worker_that_died(tmp_path, token):
  make_env = _faulty(tmp_path / 'marks', _0=('children', 1))
  with _pool(make_env, num_workers=1) as pool:
    pool.submit(_jobs(0))
    event, = pool.wait(_LIMIT)
    pid = pool.worker_pids[0]
    _until(lambda: list(_processes(token).values()).count('sleep 1000') == 2)
    folder, = (tmp_path / 'tmp').glob('step_jax_*/*')
    os.kill(pid, signal.SIGKILL)
    assert event.job.slot == 0
    _until(lambda: 'sleep 1000' not in _processes(token).values())
    _until(lambda: not folder.exists())
    assert _kinds(_play(pool)) == {'failed': 1, 'finished': 1}


def _tree(root):
  """Returns {process id: session} of the processes below one, but zombies."""
  stats = {}
  for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit():
      with contextlib.suppress(OSError):
        fields = (entry / 'stat').read_text().rpartition(')')[2].split()
        stats[int(entry.name)] = fields
  below = {root}
  while more := {pid for pid, fields in stats.items()
                 if int(fields[1]) in below} - below:
    below |= more
  return {pid: int(stats[pid][3]) for pid in below - {root}
          if stats[pid][0] != 'Z'}


def _is_gone(pid):
  with contextlib.suppress(OSError):
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return stat.rpartition(')')[2].split()[0] == 'Z'
  return True


@pytest.mark.chromium
@pytest.mark.parametrize('victim', ['worker', 'frozen worker', 'pool'])
def test_nothing_is_left_of_a_browser(tmp_path, victim):
  """frappe #41696: browsers that outlive their worker."""
  with _pool(fake_envs.BrowserEnv, num_workers=1, step_timeout=2.0) as pool:
    pool.submit(_jobs(0))
    event, = pool.wait(_LIMIT)
    worker, = pool.worker_pids
    browser = _tree(worker)
    assert len(browser) >= 5   # chromedriver, chromium and its many children
    assert set(browser.values()) > {worker}   # some in other sessions
    folder, = (tmp_path / 'tmp').glob('step_jax_*/*')
    assert list(folder.iterdir())   # the profile
    if victim == 'pool':
      pool.close()
    else:
      os.kill(worker, signal.SIGSTOP if 'frozen' in victim else signal.SIGKILL)
      pool.act(event.worker, 0)
      assert pool.wait(_LIMIT)[0].kind == 'failed'
    _until(lambda: all(_is_gone(pid) for pid in [worker, *browser]))
    _until(lambda: not folder.exists())
    if victim != 'pool':
      assert _kinds(_play(pool)) == {'finished': 1}


def test_nothing_is_left_after_an_exception(tmp_path, token):
  make_env = _faulty(tmp_path / 'marks', _0=('children', 9))
  with pytest.raises(KeyboardInterrupt):
    with _pool(make_env) as pool:
      pool.submit(_jobs(0, 0))
      pool.wait(_LIMIT)
      assert 'sleep 1000' in _processes(token).values()
      raise KeyboardInterrupt


@_on_both
def test_a_pool_that_is_dropped_closes_itself():
  pool = _pool()
  _play(pool, _jobs(0))
  del pool


def test_a_killed_keeper_is_reported(token, tmp_path):
  """While a worker hangs, which goes with it."""
  with _pool(_faulty(tmp_path / 'marks', _1='hang')) as pool:
    pids = _wait_for_workers(pool)
    pool.submit(_jobs(1))
    event, = pool.wait(_LIMIT)
    pool.act(event.worker, 0)
    keeper_pid, = _processes(token).keys() - pids
    os.kill(keeper_pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match='keeps the workers was killed'):
      _play(pool, _jobs(*[0] * 100))
  _until(lambda: not _processes(token))
  shutil.rmtree(*(tmp_path / 'tmp').iterdir())   # This one cannot be helped.


_SCRIPT = """
import sys
from step_jax.rollout import workers
from tests import fake_envs

def make_env():
  return fake_envs.FaultyEnv(sys.argv[1], {0: ('children', 9)})

if __name__ == '__main__':
  factory = make_env if 'main' in sys.argv else fake_envs.CountEnv
  pool = workers.WorkerPool(factory, num_workers=2, step_timeout=20.0)
  pool.submit([workers.Job(0, 0, 0), workers.Job(1, 0, 0)])
  seen = []
  while len(seen) < 2:
    seen += pool.wait()
  assert all(event.kind == 'observation' for event in seen), seen
  print('ready', flush=True)
  if 'exit' not in sys.argv:
    sys.stdin.read() if 'main' in sys.argv else pool.wait(1000)
    import time
    time.sleep(1000)
"""


@contextlib.contextmanager
def _script(source, *arguments):
  paths = [str(_ROOT), os.environ.get('PYTHONPATH', '')]
  with subprocess.Popen(
      [sys.executable, source, *arguments], text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'PYTHONPATH': os.pathsep.join(paths)}) as main:
    try:
      yield main
    finally:
      main.kill()


@pytest.mark.parametrize('end', ['SIGKILL', 'SIGINT'])
def test_nothing_is_left_when_the_main_process_is_killed(
    tmp_path, token, end):
  script = tmp_path / 'script.py'
  script.write_text(_SCRIPT)
  with _script(str(script), str(tmp_path), 'main') as main:
    assert main.stdout.readline() == 'ready\n'
    _until(lambda: list(_processes(token).values()).count('sleep 1000') == 4)
    assert len(_processes(token)) == 8   # itself, its keeper, two workers
    _, worker, _ = sorted(pid for pid, command in _processes(token).items()
                          if 'keeper.py' in command)
    os.kill(worker, signal.SIGKILL)
    main.send_signal(signal.Signals[end])
    _until(lambda: not _processes(token))
  assert main.returncode != 0


@pytest.mark.parametrize('where', ['a file', 'standard input'])
def test_a_program_may_forget_to_close(tmp_path, token, where):
  script = tmp_path / 'script.py'
  script.write_text(_SCRIPT)
  source = str(script) if where == 'a file' else '-'
  with _script(source, str(tmp_path), 'exit') as main:
    output, _ = main.communicate(_SCRIPT if source == '-' else '', _LIMIT)
  assert (output, main.returncode) == ('ready\n', 0)
  assert not _processes(token)


def test_a_script_without_a_guard_is_told(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(_SCRIPT.replace("if __name__ == '__main__':", 'if True:'))
  with _script(str(script), str(tmp_path), 'main', 'exit') as main:
    output, _ = main.communicate('', _LIMIT)
  assert main.returncode == 1 and 'ready' not in output


def test_channel_gives_messages_whole_or_not_at_all():
  ours, theirs = socket.socketpair()
  channel = keeper.Channel(ours)
  with theirs:
    keeper.Channel(theirs).send('first')
    assert channel.receive() == ['first']
    theirs.sendall(b'\0' * 7)
    assert channel.receive() == []
  with pytest.raises(EOFError):
    channel.receive()
  channel.close()
