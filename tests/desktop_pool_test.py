"""A round on two real desktops, parts of which die or freeze in the middle."""

import contextlib
import fcntl
import functools
import os
import pathlib
import pwd
import signal
import time

import numpy as np
import pytest

from step_jax.envs import osworld
from step_jax.envs.osworld.desktop import life
from step_jax.envs.osworld.desktop import processes
from step_jax.envs.osworld import env as env_lib
from step_jax.policies import element
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.rollout.actors import local

pytestmark = pytest.mark.desktop

TASK = pathlib.Path(osworld.__file__).parents[3] / (
    'configs/tasks/desktop/train/mousepad-add-word.json')
SERVER = '__main__.py'  # its keepers have this in their commands too
DISASTERS = {  # by slot: what is hit, by which signal
    1: ('Xvfb', signal.SIGKILL),
    2: (SERVER, signal.SIGKILL),
    4: ('mousepad', signal.SIGKILL),
    5: (SERVER, signal.SIGSTOP),
}


def _find(worker, name):
  """The innermost process below a worker that has `name` in its command."""
  return max(
      pid for pid in processes.descendants(worker)
      if name.encode() in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes())


class _Saboteur:
  """The scripted solution, which does harm after the first step of a slot."""

  def __init__(self, pool):
    self._pool = pool
    self._left = dict(DISASTERS)
    self.seen = set()  # every process that was below a worker

  def __call__(self, rows):
    for worker in self._pool.worker_pids:
      if worker is not None:
        self.seen |= {worker, *processes.descendants(worker)}
    for slot, step_id in zip(rows.slots.tolist(), rows.step_ids.tolist()):
      if step_id == 1 and slot in self._left:
        name, number = self._left.pop(slot)
        os.kill(_find(self._worker_of(slot), name), number)
    return local.expert_actor(rows)

  def _worker_of(self, slot):
    return next(worker.pid for _, worker in self._pool._crew.present()
                if worker.job and worker.job.slot == slot)


def test_a_round_outlives_what_dies_and_freezes():
  """Every trajectory is retried until it counts, and nothing is left."""
  folders = set(pathlib.Path('/tmp').glob('step_jax_desktop_????????'))
  make_env = functools.partial(env_lib.OSWorldEnv, (str(TASK),), max_steps=8)
  jobs = [workers.Job(slot, 0, slot, expert=True) for slot in range(8)]
  codec = element.make_codec(env_lib.base.TEXT_WORDS)
  with workers.WorkerPool(
      make_env, num_workers=2, step_timeout=25, start_timeout=60) as pool:
    saboteur = _Saboteur(pool)
    collection = collect_lib.collect(
        pool, jobs, local.Immediate(saboteur), example=env_lib.example(),
        codec=codec,
        num_tokens=codec.num_tokens, max_steps=8)
    failures = pool.failures
  np.testing.assert_array_equal(collection.trajectory.valid, True)
  np.testing.assert_array_equal(collection.trajectory.returns, 1)
  assert collection.environment_failures == len(DISASTERS), failures
  deadline = time.monotonic() + 10
  while left := [pid for pid in saboteur.seen
                 if pathlib.Path(f'/proc/{pid}').exists()]:
    assert time.monotonic() < deadline, left
    time.sleep(.05)
  # What the next desktop does first; those that are left belong to others.
  life.remove_abandoned(pwd.getpwnam('nobody').pw_uid)
  for folder in {*pathlib.Path('/tmp').glob(
      'step_jax_desktop_????????')} - folders:
    with contextlib.suppress(FileNotFoundError):
      lock = os.open(folder, os.O_RDONLY)
      with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      os.close(lock)
