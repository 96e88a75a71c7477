"""Tests of rollouts on the device, beside rollouts over environments."""
import heapq
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.envs.desk import env as desk_env
from step_jax.policies import base
from step_jax.policies import element
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import simulation
from step_jax.rollout import workers
from step_jax.rollout.actors import local
from tests import examples
from tests import fake_world

_TASKS = ('rename', 'wifi-on', 'missing-star', 'cell', 'star')
_MAX_STEPS = 4
_NUM_LANES = 4
_CODEC = element.make_codec(1)
_EXAMPLE = desk_env.example()
_JOBS = [workers.Job(slot, slot // 2 % 5, 100 + slot // 2)
         for slot in range(10)]


@pytest.fixture(scope='module', name='policy')
def made_policy():
  return element.make_policy(
      _EXAMPLE | {'history': _CODEC.empty_history}, width=16, num_layers=1,
      num_heads=2, vocabulary=32)


@pytest.fixture(scope='module', name='params')
def made_params(policy):
  return examples.parameters(policy.init)


def _make_simulate(policy, max_steps=_MAX_STEPS):
  return simulation.make_simulate(
      desk_env.make_simulator(_TASKS, max_steps), policy, _CODEC,
      max_steps=max_steps, num_lanes=_NUM_LANES)


@pytest.fixture(scope='module', name='simulate')
def made_simulate(policy):
  return _make_simulate(policy)


def _columns(jobs):
  """Task ids and seeds of jobs, for the simulator."""
  return [np.array(column, np.int32) for column in zip(*jobs)][1:3]


def _over_environments(jobs, act, max_steps=_MAX_STEPS):
  pool = fake_world.LocalPool(
      lambda: desk_env.DeskEnv(_TASKS, max_steps), num_workers=3,
      rng=np.random.default_rng(0))
  return collect_lib.collect(
      pool, jobs, local.Immediate(act), example=_EXAMPLE, codec=_CODEC,
      num_tokens=3, max_steps=max_steps).trajectory


def _assert_same(actual, expected):
  """Log-probs to 1e-5, everything else exactly, what is empty included."""
  actual = jax.device_get(actual)
  chex.assert_trees_all_equal_dtypes(actual, expected)
  np.testing.assert_allclose(
      actual.log_probs, expected.log_probs, rtol=0, atol=1e-5)
  rest = [x.replace(log_probs=None) for x in (actual, expected)]
  assert jax.tree.structure(rest[0]) == jax.tree.structure(rest[1])
  for a, b in zip(*map(jax.tree.leaves, rest)):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('num_slots', [10, 3])  # lanes: 4
def test_it_plays_what_environments_play(
    policy, params, simulate, num_slots):
  jobs = _JOBS[:num_slots]
  player = collect_lib.Player(params, jax.random.key(195), .7)
  expected = _over_environments(jobs, local.policy_actor(
      policy, player, batch_size=_NUM_LANES))
  lengths = expected.step_mask.sum(axis=1)
  assert lengths.min() < lengths.max()
  if num_slots == 10:
    assert lengths.min() == 1 and lengths.max() == _MAX_STEPS
    assert expected.observations['history'].any()
    assert 0 < expected.successes.sum()
  assert expected.log_probs.min() < -1
  _assert_same(simulate(
      player.rng_key, params, *_columns(jobs), temperature=.7), expected)


@pytest.mark.parametrize('num_slots', [10, 3])
def test_the_expert(num_slots):
  jobs = [job._replace(expert=True) for job in _JOBS[:num_slots]]
  expected = _over_environments(jobs, local.expert_actor, max_steps=15)
  simulate = _make_simulate(None, max_steps=15)
  actual = simulate(
      jax.random.key(0), (), *_columns(jobs), temperature=0.)
  _assert_same(actual, expected)
  assert expected.successes.all() and actual.valid.all()
  assert actual.token_mask[expected.step_mask].all()
  assert len(set(expected.step_mask.sum(axis=1))) > 1


def test_jobs_are_played_by_slot_until_one_is_to_stop(
    policy, params, simulate):
  stop = []
  collect = simulation.make_collect(
      desk_env.make_simulator(_TASKS, _MAX_STEPS), policy, _CODEC,
      max_steps=_MAX_STEPS, num_lanes=_NUM_LANES,
      should_stop=lambda: bool(stop))
  shuffled = [_JOBS[i] for i in np.random.default_rng(0).permutation(10)]
  player = collect_lib.Player(params, jax.random.key(195), .7)
  played = collect(shuffled, player)
  chex.assert_trees_all_equal(played.trajectory, simulate(
      player.rng_key, params, *_columns(_JOBS), temperature=.7))
  assert played.environment_steps == played.trajectory.step_mask.sum() > 10
  assert played.notes.seeds.tolist() == [job.seed for job in _JOBS]
  assert not collect(shuffled).trajectory.log_probs.any()  # the expert's
  stop.append(1)
  with pytest.raises(KeyboardInterrupt):
    collect(_JOBS, player)


def test_an_episode_is_of_slot_and_key_alone(params, simulate):
  columns = _columns([workers.Job(slot, 0, 5) for slot in range(10)])
  first = simulate(jax.random.key(0), params, *columns, temperature=.7)
  again = simulate(jax.random.key(0), params, *columns, temperature=.7)
  chex.assert_trees_all_equal(first, again)
  other = simulate(jax.random.key(1), params, *columns, temperature=.7)
  assert (first.actions != other.actions).any()
  # Copies of an episode begin alike and differ in what is drawn.
  for x in jax.tree.leaves(jax.device_get(first.observations)):
    np.testing.assert_array_equal(x[:, 0], np.broadcast_to(
        x[:1, 0], x[:, 0].shape))
  assert len({row.tobytes() for row in np.asarray(first.actions)}) > 1


def test_it_is_traced_once_for_all_rounds(params, simulate):
  rng = np.random.default_rng(0)
  for seed in range(3):
    tasks = rng.integers(5, size=10, dtype=np.int32)
    seeds = rng.integers(2**31, size=10, dtype=np.int32)
    simulate(jax.random.key(seed), jax.tree.map(lambda x: x * .9, params),
             tasks, seeds, temperature=.7)
  assert simulate._cache_size() <= 2  # of 10 and of 3 slots
  before = simulate._cache_size()
  simulate(jax.random.key(9), params, *_columns(_JOBS), temperature=.7)
  assert simulate._cache_size() == before


class _Count(typing.NamedTuple):
  length: chex.Array
  step: chex.Array


def _begin(key, task):
  del key
  state = _Count(task, jnp.zeros((), jnp.int32))
  return state, {'task': state.length, 'step': state.step}


def _advance(state, tokens):
  del tokens
  state = state._replace(step=state.step + 1)
  done = state.step >= state.length
  return state, {'task': state.length, 'step': state.step}, jnp.where(
      done & (state.length % 2 == 0), 1., 0.), done


@pytest.mark.parametrize('lengths', [
    [1, 5, 2, 3, 1, 1, 4, 2, 6, 1], [3, 1], [6, 6, 6], [2]])
def test_every_slot_once_and_no_lane_waits(lengths):
  """An episode of task n takes n steps, and succeeds if n is even."""
  calls = []

  def sample(params, keys, observation, *, temperature):
    jax.debug.callback(lambda: calls.append(1))
    return base.ActionSample(
        jnp.zeros((3, 1), jnp.int32), jnp.zeros((3, 1)),
        jnp.ones((3, 1), bool))

  simulate = simulation.make_simulate(
      simulation.Simulator(_begin, _advance, None),
      base.Policy(None, sample, None),
      _CODEC._replace(
          empty_history=np.int32(0),
          remember=lambda history, seen, tokens, xp: history + 1),
      max_steps=6, num_lanes=3)
  task_ids = np.array(lengths, np.int32)
  trajectory = jax.device_get(simulate(
      jax.random.key(0), (), task_ids, task_ids, temperature=1.))
  jax.effects_barrier()
  mask = np.arange(6) < task_ids[:, None]
  np.testing.assert_array_equal(trajectory.step_mask, mask)
  np.testing.assert_array_equal(trajectory.token_mask[..., 0], mask)
  for name, expected in (('task', task_ids[:, None]), ('step', np.arange(6)),
                         ('history', np.arange(6))):
    np.testing.assert_array_equal(
        trajectory.observations[name], np.where(mask, expected, 0))
  np.testing.assert_array_equal(trajectory.successes, task_ids % 2 == 0)
  # A lane that is free takes the next slot at once.
  lanes = [0] * 3
  for length in lengths:
    heapq.heappush(lanes, heapq.heappop(lanes) + length)
  assert len(calls) == max(lanes)
