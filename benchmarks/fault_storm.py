"""Rounds of an environment of which many operations go wrong.

  python benchmarks/fault_storm.py [--world=miniwob] [--rounds=20]
      [--probability=0.3]

Of all resets and steps, 30 % crash, hang, raise or answer garbage: a wrong
shape, NaN, None, a reward of 0.5 or one before the end, what cannot be pickled,
an end said twice. Every round has to complete; every trajectory that was not
lost has the reward that its actions deserve; counts, s_hat and advantages are
those that numpy makes of the survivors alone; no process is left at the end.
"""

import functools
import os
import pathlib
import sys
import time

from absl import app
from absl import flags
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from step_jax.algorithm import advantages  # noqa: E402
from step_jax.algorithm import success_rate as rates  # noqa: E402
from step_jax.envs import base as envs_base  # noqa: E402
from step_jax.envs.miniwob import env as miniwob  # noqa: E402
from step_jax.policies import base  # noqa: E402
from step_jax.policies import element  # noqa: E402
from step_jax.rollout import collect as collect_lib  # noqa: E402
from step_jax.rollout import crew  # noqa: E402
from step_jax.rollout import workers  # noqa: E402
from step_jax.rollout.actors import local  # noqa: E402
from tests import fake_envs  # noqa: E402

_WORLD = flags.DEFINE_enum('world', 'fake', ['fake', 'miniwob'], 'Which.')
_ROUNDS = flags.DEFINE_integer('rounds', None, '100, or 20 of MiniWoB++.')
_PROBABILITY = flags.DEFINE_float('probability', .3, 'Of a fault.')
_STEP_TIMEOUT = flags.DEFINE_float('step_timeout', 20., 'Of MiniWoB++.')

_GROUP_SIZE = 4
_MARK = 'STEP_JAX_STORM'


class CountCodec:
  """`fake_envs.CountEnv` as a policy sees it: without history."""

  empty_history = 0
  observe = staticmethod(lambda observation, info, history: observation)
  remember = staticmethod(lambda history, row, tokens: 0)
  decode = staticmethod(lambda row, tokens: tokens)


def goes_astray(slots: np.ndarray) -> np.ndarray:
  """Whose last action is to be wrong."""
  return slots % 3 == 0


def count_actor(rows: collect_lib.Rows) -> base.ActionSample:
  """Acts rightly on `CountEnv`, but in the slots that go astray."""
  tokens = (rows.observations.sum(axis=1)
            + goes_astray(rows.slots)) % fake_envs.NUM_ACTIONS
  tokens = tokens[:, None].astype(np.int32)
  return base.ActionSample(
      tokens, np.zeros(tokens.shape, np.float32), np.ones(tokens.shape, bool))


def element_actor(rows: collect_lib.Rows) -> base.ActionSample:
  """Acts as the solver says; what goes astray does nothing."""
  sample = local.expert_actor(rows)
  sample.tokens[goes_astray(rows.slots)] = -1
  return sample


def check(record: np.ndarray, trajectory, num_tasks: int) -> np.ndarray:
  """Compares a round with what numpy makes of its survivors.

  Args:
    record: `[N]` s_hat before the round.
    trajectory: `[B]` of them, groups of one task one after the other.
    num_tasks: N.

  Returns:
    `[N]` s_hat after the round.

  Raises:
    AssertionError: something differs.
  """
  valid, tasks = trajectory.valid, trajectory.task_ids
  deserved = ~goes_astray(np.arange(len(tasks)))
  np.testing.assert_array_equal(trajectory.returns, deserved & valid)
  np.testing.assert_array_equal(trajectory.successes, deserved & valid)
  assert not trajectory.step_mask[~valid].any()
  assert trajectory.step_mask[valid].any(axis=1).all()

  collected = np.bincount(tasks[valid], minlength=num_tasks)
  succeeded = np.bincount(tasks[valid & deserved], minlength=num_tasks)
  counts = rates.count_outcomes(
      tasks, trajectory.successes, num_tasks=num_tasks, where=valid)
  np.testing.assert_array_equal(counts[0], collected)
  np.testing.assert_array_equal(counts[1], succeeded)
  expected = np.where(
      collected < _GROUP_SIZE,
      (succeeded + (_GROUP_SIZE - collected) * record) / _GROUP_SIZE,
      succeeded / np.maximum(collected, 1))
  after = rates.update_success_rate(record, *counts, group_size=_GROUP_SIZE)
  np.testing.assert_allclose(after, expected, atol=1e-6)

  weighted = advantages.success_weighted_advantages(
      trajectory.returns, tasks, after, where=valid)
  np.testing.assert_allclose(
      weighted, np.where(valid & deserved, 1 - expected[tasks], 0), atol=1e-6)
  groups = np.arange(len(tasks)) // _GROUP_SIZE
  relative = advantages.group_relative_advantages(
      trajectory.returns, groups, num_groups=groups[-1] + 1, where=valid,
      ddof=0)
  by_hand = np.zeros(len(tasks))
  for group in range(groups[-1] + 1):
    where = valid & (groups == group)
    if where.any() and trajectory.returns[where].std():
      alone = trajectory.returns[where]
      by_hand[where] = (alone - alone.mean()) / alone.std()
  np.testing.assert_allclose(relative, by_hand, atol=1e-4)
  return np.asarray(after)


def storm(make_env, num_tasks: int, num_rounds: int, *, num_workers: int,
          step_timeout: float, start_timeout: float, probability: float = .3,
          **options) -> dict:
  """Plays the rounds; returns what happened.

  Args:
    make_env: picklable factory of the world.
    num_tasks: N.
    num_rounds: how many.
    num_workers: environments.
    step_timeout: seconds.
    start_timeout: seconds.
    probability: of a fault of an operation.
    **options: of `collect`, and `expert`.
  """
  expert = options.pop('expert', False)
  record = np.zeros(num_tasks, np.float32)
  valid = total = 0
  with workers.WorkerPool(
      functools.partial(fake_envs.StormEnv, make_env, probability),
      num_workers=num_workers, step_timeout=step_timeout,
      start_timeout=start_timeout, close_timeout=.5) as pool:
    for round_index in range(num_rounds):
      tasks = np.repeat(np.arange(num_tasks), _GROUP_SIZE)
      trajectory = collect_lib.collect(
          pool, [workers.Job(slot, task, round_index, expert)
                 for slot, task in enumerate(tasks.tolist())],
          **options).trajectory
      record = check(record, trajectory, num_tasks)
      valid += int(trajectory.valid.sum())
      total += len(tasks)
    failures = pool.failures
  return {'rounds': num_rounds, 'trajectories': total, 'survived': valid,
          'failures': failures}


def fake(num_rounds: int, probability: float = .3) -> dict:
  """The storm over `CountEnv`."""
  return storm(
      fake_envs.CountEnv, 6, num_rounds, num_workers=6, step_timeout=1.,
      start_timeout=2., probability=probability,
      actor=local.Immediate(count_actor),
      example=np.zeros(3, np.int32), codec=CountCodec, num_tokens=1,
      max_steps=4, batch_size=4)


def _miniwob(num_rounds: int) -> dict:
  tasks = ('click-test', 'click-test-2', 'click-dialog', 'click-button')
  return storm(
      functools.partial(miniwob.MiniWobEnv, tasks, max_steps=3), len(tasks),
      num_rounds, num_workers=3, step_timeout=_STEP_TIMEOUT.value,
      start_timeout=60., probability=_PROBABILITY.value,
      actor=local.Immediate(element_actor), example=envs_base.example(),
      expert=True,
      codec=element.make_codec(envs_base.TEXT_WORDS),
      num_tokens=element.NUM_TOKENS, max_steps=3)


def orphans() -> list[str]:
  """Processes, but this one, that were started with our mark."""
  found = []
  for entry in pathlib.Path('/proc').iterdir():
    if entry.name.isdigit() and int(entry.name) != os.getpid():
      try:
        marked = os.environ[_MARK].encode() in (
            entry / 'environ').read_bytes()
      except OSError:   # gone, or another user's
        continue
      if marked:
        found.append(entry.name)
  return found


def main(_) -> None:
  os.environ[_MARK] = f'{_MARK}-{os.getpid()}'
  crew._MIN_PAUSE, crew._MAX_PAUSE = .05, .2  # else most of it is pauses
  began = time.monotonic()
  if _WORLD.value == 'fake':
    result = fake(_ROUNDS.value or 100, _PROBABILITY.value)
  else:
    result = _miniwob(_ROUNDS.value or 20)
  left = orphans()
  print(result, f'{time.monotonic() - began:.0f} s, {len(left)} orphans')
  sys.exit(1 if left else 0)


if __name__ == '__main__':
  app.run(main)
