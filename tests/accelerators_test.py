"""What runs on the device lowers for CUDA and TPU; none is needed for that.

Lowering finds what a platform does not know (a callback, a 64-bit type, an
operation without a rule). It says nothing of speed or of memory.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import step_jax
from step_jax.algorithm import samplers
from step_jax.envs.desk import env as desk
from step_jax.policies import element
from step_jax.policies import grid
from step_jax.rollout import simulation
from tests import examples
from tests import learner_test
from tests import mesh_examples

N, B, G = 6, 8, 4
KEY = jax.random.key(0)
TASKS = np.arange(B, dtype=np.int32) % N
RETURNS = np.arange(B) % 2 * np.float32(1)
RATE = np.linspace(0, 1, N, dtype=np.float32)
WHERE = np.ones(B, bool)
STEPS = np.ones((B, 3), bool)
TOKENS = np.zeros((B, 3, 2), np.float32)
MASK = np.ones((B, 3, 2), bool)


def _check(function, *args):
  """Lowers for both; the shapes that come out are those of this machine."""
  exported = jax.export.export(
      jax.jit(function), platforms=['cuda', 'tpu'])(*args)
  assert exported.platforms == ('cuda', 'tpu')
  shapes = [x.shape for x in jax.tree.leaves(jax.eval_shape(function, *args))]
  assert [x.shape for x in exported.out_avals] == shapes


_FUNCTIONS = {
    'count_outcomes': (functools.partial(
        step_jax.count_outcomes, num_tasks=N), TASKS, RETURNS > 0),
    'update_success_rate': (functools.partial(
        step_jax.update_success_rate, group_size=G), RATE,
        np.arange(N), np.arange(N) // 2),
    'ema_success_rate': (functools.partial(
        step_jax.ema_success_rate, decay=0.5), RATE, np.arange(N),
        np.arange(N) // 2),
    'replacement_probability': (step_jax.replacement_probability, RATE),
    'resample_tasks': (functools.partial(
        step_jax.resample_tasks, group_size=G), KEY, TASKS[:2], RATE),
    'success_weighted_advantages': (
        step_jax.success_weighted_advantages, RETURNS, TASKS, RATE),
    'clipped_surrogate_loss': (functools.partial(
        step_jax.clipped_surrogate_loss, where=MASK), TOKENS, TOKENS,
        TOKENS[..., 0]),
}


@pytest.mark.parametrize('name', _FUNCTIONS)
def test_functions(name):
  _check(*_FUNCTIONS[name])


@pytest.mark.parametrize('name', [
    'uniform', 'sr_traj', 'frontier', 'knapsack', 'plr', 'spo'])
def test_samplers(name):
  sampler = getattr(samplers, name)()
  state = sampler.init(N)
  _check(functools.partial(sampler.propose, group_size=G), KEY, TASKS[:2],
         state)
  _check(lambda *args: sampler.update(*args, where=WHERE), state, TASKS,
         RETURNS)


@pytest.mark.parametrize('augmented', [False, True])
def test_the_learner(augmented):
  learner = step_jax.make_learner(
      learner_test.log_prob_fn, optax.adamw(1e-3), importance_cap=2.)
  batch = examples.round_batch(0, 5, 2)
  if not augmented:
    batch = step_jax.RoundBatch(
        singles=batch.singles, single_units=batch.single_units, groups=None)
  _check(learner.update, learner.init(learner_test._params()), batch)


@functools.cache
def _desk():
  """A codec, a policy, who plays with it, and shapes of what is played."""
  steps, example = 3, desk.example()
  codec = element.make_codec(example['element_text'].shape[-1])
  policy = element.make_policy(
      example | {'history': codec.empty_history}, width=8, num_layers=1,
      num_heads=2)
  simulate = functools.partial(simulation.make_simulate(
      desk.make_simulator(desk.TRAIN_TASKS[:N], steps), policy, codec,
      max_steps=steps, num_lanes=4), temperature=1.)
  params = jax.eval_shape(policy.init, KEY)
  args = KEY, params, TASKS, TASKS
  return codec, policy, simulate, args, jax.eval_shape(simulate, *args)


def test_playing_on_desk():
  _, _, simulate, args, _ = _desk()
  _check(simulate, *args)


@pytest.mark.parametrize('name', step_jax.METHODS)
def test_credit_by_every_method(name):
  """Credit and, where the method has them, alternatives."""
  codec, policy, _, (key, params, *_), trajectory = _desk()
  method = step_jax.METHODS[name]

  def credit(key, params, trajectory, rate):
    singles, low, rate = step_jax.assign_credit(
        trajectory, rate, method=method, group_size=G, state_fn=codec.state,
        values=rate if name == 'spo' else None)
    if not method.augment:
      return singles, rate
    return step_jax.augment_steps(
        key, params, singles, low,
        sample_fn=functools.partial(policy.sample, temperature=1.),
        matches_fn=codec.matches, max_steps=3, num_candidates=2), rate

  _check(credit, key, params, trajectory, RATE)


def test_the_policy_that_reads_pictures():
  codec = grid.make_codec()
  example = {'picture': np.zeros((1, 36, 80, 3), np.uint8)}
  observation = {
      'instruction': np.zeros((1, 16), np.int32), **example,
      'history': np.asarray(codec.empty_history)[None]}
  policy = grid.make_policy(
      jax.tree.map(lambda x: x[0], observation), width=8, num_layers=1,
      num_heads=2, grid=(4, 4))
  _check(functools.partial(policy.sample, temperature=1.),
         jax.eval_shape(policy.init, KEY), KEY[None], observation)


def test_a_vision_language_model():
  policy, _ = mesh_examples.make(mesh_examples.placement_lib.NOWHERE)
  params = jax.eval_shape(policy.init, KEY)
  inputs = mesh_examples.load({'number': np.arange(2)})
  keys = jax.random.split(KEY, (2, mesh_examples.K))
  _check(functools.partial(policy.sample_many, temperature=0.7), params, keys,
         inputs)

  def loss(params, inputs, tokens):
    log_probs, entropy = policy.log_prob(
        params, inputs, tokens, temperature=0.7)
    return jnp.sum(log_probs) + jnp.sum(entropy)

  _check(jax.grad(loss), params, inputs,
         np.zeros((2, mesh_examples.L), np.int32))
