"""Faults of a Ray cluster, each in a process of its own: it prints what came.

  python -m tests.ray_faults relay|node|head DIR
"""
import collections
import functools
import json
import logging
import os
import pathlib
import signal
import sys
import time

from step_jax.rollout import keeper
from step_jax.rollout import processes
from step_jax.rollout import ray_processes
from step_jax.rollout import workers
from tests import fake_envs


def _parent(pid):
  stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
  return int(stat.rpartition(')')[2].split()[1])


def _kill_relay(pool, cluster):
  """SIGKILL of what Ray runs; the worker's parent is its keeper."""
  relay = _parent(_parent(pool.worker_pids[0]))
  os.kill(relay, signal.SIGKILL)


def _kill_node(pool, cluster):
  cluster.remove_node(
      next(iter(cluster.worker_nodes)), allow_graceful=False)


def _kill_head(pool, cluster):
  cluster.head_node.kill_gcs_server()


def _play(pool, cluster, strike, words):
  """Plays jobs until there are such words; strikes while two are played."""
  num_jobs, events, waiting, struck = 0, [], [], False
  end = time.monotonic() + 60
  while pool.pending or not _is_said(words, events):
    if pool.pending < 2 and not _is_said(words, events):
      pool.submit([workers.Job(num_jobs + i, 0, i) for i in range(2)])
      num_jobs += 2
    assert time.monotonic() < end
    news = pool.wait(1)
    events += [event for event in news if event.kind != 'observation']
    waiting += [event for event in news if event.kind == 'observation']
    if not struck:
      if len({event.worker for event in waiting}) < 2:
        continue
      strike(pool, cluster)
      struck = True
    time.sleep(.02)
    for event in waiting:
      pool.act(event.worker, fake_envs.right_action(event.observation))
    waiting = []
  slots = [event.job.slot for event in events if event.kind == 'finished']
  return {
      'kinds': collections.Counter(event.kind for event in events),
      'each_once': sorted(slots) == [*range(num_jobs)],
      'earned': sum(event.reward for event in events) == num_jobs,
      'messages': sorted({event.message for event in events} - {''}),
      'failures': pool.failures}


_said = []


class _Listener(logging.Handler):

  def emit(self, record):
    _said.append(record.getMessage())


def _is_said(words, events):
  return any(words in message for message in [
      *_said, *(event.message for event in events)])


def main(fault, directory):
  keeper._prctl(keeper._PR_SET_CHILD_SUBREAPER, 1)
  os.environ.update(ray_processes.SETTINGS)
  from ray import cluster_utils
  import ray
  cluster = cluster_utils.Cluster(
      initialize_head=True, head_node_args={'num_cpus': 0})
  for _ in range(2):
    cluster.add_node(num_cpus=1)
  ray.init(cluster.address)
  make_env = functools.partial(
      fake_envs.FaultyEnv, directory, {0: ('children', 1)})
  strike, words = {
      'relay': (_kill_relay, 'died'), 'node': (_kill_node, 'no CPU'),
      'head': (_kill_head, 'never')}[fault]
  logging.getLogger().addHandler(_Listener())
  begin = time.monotonic()
  try:
    with workers.WorkerPool(
        make_env, num_workers=2, step_timeout=20., backend=functools.partial(
            ray_processes.RayProcesses, num_workers=2)) as pool:
      result = _play(pool, cluster, strike, words)
  except processes.KeeperError as error:
    result = {'error': str(error)}
  result['said'] = _said
  result['seconds'] = time.monotonic() - begin
  print(json.dumps(result), flush=True)
  for pid in keeper._descendants(os.getpid(), spare=()):
    keeper._kill(pid)  # Ray leaves some of a node that was killed.
  os._exit(0)


if __name__ == '__main__':
  main(*sys.argv[1:])
