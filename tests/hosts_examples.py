"""What hosts tell each other; `hosts_test` runs it as two processes.

  JAX_COORDINATOR_ADDRESS=127.0.0.1:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0
      python -m tests.hosts_examples FOLDER
"""

import pathlib
import sys

import jax
import numpy as np

from step_jax.algorithm import types
from step_jax.policies import base
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import pictures
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import local
from step_jax.runs import hosts

_PICTURE = b'a picture'
_PLAYER = actors.Player((), None, 1.)


def _row(number):
  return {'screenshot': np.array(number, np.int32)}


def _collection(number):
  """A round of one episode of one step."""
  trajectory = types.Trajectory(
      task_ids=np.array([5], np.int32), observations=jax.tree.map(
          lambda x: x[None, None], _row(number)),
      actions=np.array([[[7]]]), log_probs=np.array([[[-.5]]], np.float32),
      token_mask=np.ones((1, 1, 1), bool), step_mask=np.ones((1, 1), bool),
      returns=np.ones(1, np.float32), successes=np.ones(1, bool),
      valid=np.ones(1, bool))
  return collect_lib.Collection(
      trajectory, 3, 1, 'a crash', collect_lib.Notes(
          np.array([11]), np.array(['do']), np.array(['']), np.array([.5])))


def _play(store, fails=False):
  """Collects as the leader does."""
  def collect(jobs, actor, player, *, should_stop):
    del jobs, player
    number = store.put(_PICTURE)
    actor.submit(actors.Rows(
        np.array([0]), np.array([2]), jax.tree.map(
            lambda x: x[None], _row(number)), ({},)),
        rng_key=None, temperature=1.)
    if fails:
      raise RuntimeError('no desktop')
    assert not should_stop()
    return _collection(number)
  return collect


def main(folder: str) -> None:
  hosts.initialize()
  leads, answered = hosts.is_leader(), []

  def act(rows):
    answered.append((rows.step_ids, rows.observations['screenshot']))
    return base.ActionSample(
        np.zeros((1, 1), np.int32), np.zeros((1, 1)), np.ones((1, 1), bool))

  store = pictures.ScreenshotStore(pathlib.Path(folder) / f'{leads}')
  wants_to_stop = []

  def take_part(fails=False):
    channel = hosts.Channel(_row(0), lambda: bool(wants_to_stop), store)
    if leads:
      return channel.leading(_play(store, fails))(
          [], local.Immediate(act), _PLAYER, should_stop=None)
    return channel.follow(local.Immediate(act), _PLAYER)

  found = take_part()
  (step_ids, (number,)), = answered  # both have answered the row
  assert step_ids.tolist() == [2] and store.read(number) == _PICTURE
  one, other = map(jax.tree.leaves, (found, _collection(number)))
  for x, y in zip(one, other, strict=True):
    assert np.array_equal(x, y), (x, y)
  try:
    take_part(fails=True)
  except (RuntimeError, hosts.HostError) as error:
    assert isinstance(error, RuntimeError) == leads and (
        'no desktop' in str(error))
  else:
    raise AssertionError('both are to be told')
  if not leads:
    wants_to_stop.append(True)
  assert hosts.agreed(lambda: bool(wants_to_stop))()
  try:
    take_part()
  except KeyboardInterrupt:
    pass
  else:
    raise AssertionError('both are to stop')

  shared = hosts.from_leader({'x': np.full(2, 3. if leads else 0.)})
  assert shared['x'].tolist() == [3, 3]
  mesh = jax.make_mesh((2,), ('data',))
  cut = jax.device_put(np.arange(4.), jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec('data')))
  assert not cut.is_fully_addressable
  assert hosts.whole(cut).tolist() == [0, 1, 2, 3]
  print('told', flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
