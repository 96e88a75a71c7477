"""Tests of rounds that close early, by clocks that the tests set."""

import functools

import numpy as np
import pytest

from benchmarks import stragglers
from step_jax.envs import base as envs_base
from step_jax.policies import base
from step_jax.policies import element
from step_jax.rollout import closing
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.rollout.actors import local
from tests import fake_envs
from tests import fake_world

_TASKS = ('press-1', 'press-2', 'press-3', 'type-1')
_CODEC = element.make_codec(envs_base.TEXT_WORDS)
_EXAMPLE = fake_world.example()
_LENGTH = 4  # steps of an episode by the clock
_LEARNING = 3.  # seconds between rounds


class _Clock:
  now = 0.

  def __call__(self):
    return self.now


class _TimedPool(stragglers.Pool):
  """Every other task succeeds."""

  def wait(self, timeout):
    return [event._replace(reward=float(event.job.task_id % 2))
            for event in super().wait(timeout)]


def _at_once(rows):
  shape = (len(rows.slots), 1)
  return base.ActionSample(np.zeros(shape, np.int32), np.zeros(
      shape, np.float32), np.ones(shape, bool))


def _oracle(times, share, seconds):
  """`[[ends of a round's slots, those left, those late]]`, one by one.

  Every slot has an environment of its own, and the policy takes no time.
  """
  now, left, told = 0., {}, []  # left: {task: (step that is due, when)}
  for number, of_round in enumerate(times):
    size = len(of_round)
    ends = now + of_round.sum(axis=1)
    late_ends = {
        task: max(due, now) + times.reshape(-1, times.shape[2])[
            task, step + 1:].sum() for task, (step, due) in left.items()}
    closes = np.inf
    if number + 1 < len(times):  # the last one waits for all
      closes = min(ends.max(), np.sort(ends)[
          int(np.ceil(share * size)) - 1] + seconds)
    over = min(closes, max([ends.max(), *late_ends.values()]))
    late = sorted(task for task, end in late_ends.items() if end <= over)
    goes_on = {task: left[task] for task in left if task not in late}
    for task in goes_on:
      step, due = goes_on[task]
      due = max(due, now)  # what was shown is answered as the round begins
      while due <= over:
        step += 1
        due += times.reshape(-1, times.shape[2])[task, step]
      goes_on[task] = step, due
    for slot in np.flatnonzero(ends > over).tolist():
      dues = now + np.cumsum(of_round[slot])
      step = int(np.searchsorted(dues, over, side='right'))
      goes_on[number * size + slot] = step, dues[step]
    told.append((ends, sorted(goes_on), late))
    now, left = over + _LEARNING, goes_on
  return told


def _play_timed(times, share, seconds):
  """The same by `collect`: `[(collection, seconds it took)]`."""
  clock, played = _Clock(), []
  count, size, _ = times.shape
  pool = _TimedPool(2 * size, times.reshape(count * size, -1), clock)
  left = closing.Stragglers(share, seconds, clock)
  for number in range(count):
    started = clock.now
    played.append((collect_lib.collect(
        pool, [workers.Job(slot, number * size + slot, 0)
               for slot in range(size)], local.Immediate(_at_once),
        example=np.zeros(1, np.int32), codec=stragglers.CODEC, num_tokens=1,
        max_steps=_LENGTH, stragglers=left, closes=number + 1 < count),
        clock.now - started))
    clock.now += _LEARNING
  return played


@pytest.mark.parametrize('share, seconds', [
    (.9, 0.), (.75, 1.), (.5, .25), (.9, 99.), (1., 0.)])
def test_a_round_closes_when_its_share_has_ended_and_the_time_is_up(
    share, seconds):
  rng = np.random.default_rng(0)
  # No two at once, and nothing between the half seconds that `wait` lets go.
  times = np.round(rng.lognormal(0, 1, (5, 12, _LENGTH + 1)) + 1, 1) / 2
  times += rng.permutation(times.size).reshape(times.shape) * 1e-5
  expected = _oracle(times, share, seconds)
  if seconds < 99 and share < 1:  # else all are waited for
    assert any(left for _, left, _ in expected)
  else:
    assert not any(left for _, left, _ in expected)
  open_before = set()
  for number, ((ends, left, late), (collection, _)) in enumerate(
      zip(expected, _play_timed(times, share, seconds), strict=True)):
    first = number * len(ends)
    on_time = np.array([first + slot not in left for slot in range(len(ends))])
    trajectory = collection.trajectory
    np.testing.assert_array_equal(trajectory.valid, on_time)
    np.testing.assert_array_equal(
        trajectory.step_mask, np.broadcast_to(
            on_time[:, None], trajectory.step_mask.shape))
    assert not trajectory.returns[~on_time].any()
    assert collection.closed_slots == (~on_time).sum()
    assert (collection.notes.losses == '').tolist() == on_time.tolist()
    assert sorted(collection.late.task_ids.tolist()) == late
    np.testing.assert_array_equal(
        collection.late.returns, collection.late.task_ids % 2)
    open_before |= set(range(first, first + len(ends)))
    open_before -= set(late) | set((first + np.flatnonzero(on_time)).tolist())
    assert open_before == set(left)
  assert not open_before


def _make_env():
  return fake_world.ButtonEnv(_TASKS, _LENGTH)


class _Stalling(fake_world.LocalPool):
  """Episodes of some seeds stand still until they are let go."""
  stalled = set()

  def wait(self, timeout=None):
    held = {worker: self._busy.pop(worker) for worker in list(self._busy)
            if self._busy[worker][0].seed in self.stalled
            and self._busy[worker][2] == 1}
    try:
      return super().wait(timeout)
    finally:
      self._busy |= held


def _collect(pool, act, jobs, **options):
  return collect_lib.collect(
      pool, jobs, local.Immediate(act), example=_EXAMPLE, codec=_CODEC,
      num_tokens=element.NUM_TOKENS, max_steps=_LENGTH, **options)


def _jobs(first_seed):
  return [workers.Job(slot, 1 + slot % 2, first_seed + slot, True)
          for slot in range(6)]


@pytest.mark.parametrize('breaks', [0, 1, 9])
def test_what_is_left_is_played_on_where_it_stood(breaks):
  """By its own history and steps; again from its start, or not, if it broke."""
  shown = []

  def act(rows):
    shown.extend(zip(rows.slots.tolist(), rows.step_ids.tolist(),
                     rows.observations['history'].copy()))
    return local.expert_actor(rows)

  undisturbed = _collect(
      fake_world.LocalPool(_make_env), local.expert_actor, _jobs(100))
  pool = _Stalling(_make_env, num_workers=8, faults={(1, 1): breaks},
                   max_retries=breaks % 9)
  pool.stalled = {101}
  left = closing.Stragglers(.8, 0.)
  first = _collect(pool, act, _jobs(100), stragglers=left, closes=True)
  np.testing.assert_array_equal(first.trajectory.valid, np.arange(6) != 1)
  assert first.trajectory.successes.sum() == 5 and first.closed_slots == 1
  assert first.late.returns.size == 0 and pool.pending == 1
  shown.clear()
  pool.stalled = {202}
  second = _collect(pool, act, _jobs(200), stragglers=left, closes=True)
  np.testing.assert_array_equal(second.trajectory.valid, np.arange(6) != 2)
  assert len(second.trajectory.valid) == len(second.notes.seeds) == 6
  assert second.notes.seeds.tolist() == list(range(200, 206))
  steps = [step for slot, step, _ in shown if slot == 6]
  assert steps == {0: [2], 1: [0, 1, 2], 9: []}[breaks]
  for slot, step, history in shown:
    if slot == 6:
      np.testing.assert_array_equal(
          undisturbed.trajectory.observations['history'][1, step], history)
      assert history.any() == (step > 0)
  assert second.environment_failures == min(breaks, 1)
  pool.stalled = set()
  third = _collect(pool, act, _jobs(300), stragglers=left)
  assert third.trajectory.valid.all() and not pool.pending
  # One that began again is not waited for by the second round either.
  assert [one.late.task_ids.tolist() for one in (second, third)] == {
      0: [[2], [1]], 1: [[], [1, 2]], 9: [[], [1]]}[breaks]
  assert second.late.returns.all() and third.late.returns.all()


def test_rows_that_were_asked_for_are_answered_before_a_round_ends():
  """An actor elsewhere gets other parameters then."""
  class Elsewhere(local.Immediate):
    idle = 0

    def receive(self, timeout):
      self.idle += 1
      if self.idle % 5:
        return []
      return [self._answers.pop()] if self._answers else []

  actor = Elsewhere(local.expert_actor)
  pool = fake_world.LocalPool(_make_env, num_workers=6)
  left = closing.Stragglers(.5, 0.)
  collected = []
  for number in range(3):
    collected.append(collect_lib.collect(
        pool, _jobs(100 * number), actor, example=_EXAMPLE, codec=_CODEC,
        num_tokens=element.NUM_TOKENS, max_steps=_LENGTH, stragglers=left,
        closes=number < 2))
    assert not actor._answers
  assert collected[0].closed_slots > 0
  assert sum(one.closed_slots for one in collected) == sum(
      len(one.late.returns) for one in collected)


def test_a_process_goes_on_meanwhile(tmp_path):
  def act(rows):
    sample = _at_once(rows)
    sample.tokens[:, 0] = [
        fake_envs.right_action(x) for x in rows.observations]
    return sample

  left, collected = closing.Stragglers(.75, 0.), []
  with workers.WorkerPool(functools.partial(
      fake_envs.FaultyEnv, str(tmp_path), {1: ('slow', 1)}), num_workers=2,
      step_timeout=60.) as pool:
    for closes in (True, False):
      collected.append(collect_lib.collect(
          pool, [workers.Job(slot, slot, 5) for slot in range(4)],
          local.Immediate(act), example=np.zeros(3, np.int32),
          codec=stragglers.CODEC, num_tokens=1, max_steps=_LENGTH,
          stragglers=left, closes=closes))
      (tmp_path / 'go').touch()
  first, second = collected
  assert first.trajectory.valid.tolist() == [True, False, True, True]
  assert second.trajectory.successes.all()
  assert [list(x) for x in second.late] == [[1], [1.]]
  assert first.environment_failures == second.environment_failures == 0
