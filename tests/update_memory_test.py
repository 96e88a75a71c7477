"""Bytes a parameter that an update holds at its peak, as XLA counts them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from step_jax.algorithm import credit
from step_jax.algorithm import methods
from step_jax.algorithm import types
from step_jax.learning import clipping
from step_jax.learning import learner as learner_lib
from step_jax.learning import streaming
from step_jax.learning import updates

_WIDTH, _LAYERS, _VOCABULARY, _ROWS = 256, 16, 8, 2


def _log_prob(params, observation, tokens):
  hidden = observation
  for square in params['squares']:
    hidden = jnp.tanh(hidden @ square)
  logits = jax.nn.log_softmax(hidden @ params['head'])
  chosen = jnp.take_along_axis(logits, tokens, axis=-1)
  return chosen, jnp.zeros_like(chosen)


def _compiled(mu_dtype):
  """The streaming learner's parts that hold gradients, and its state."""
  optimizer = optax.chain(
      clipping.clip_by_global_norm(1.), optax.adamw(1e-3, mu_dtype=mu_dtype))
  learner = streaming.make_learner(_log_prob, optimizer, load=iter)
  params = {'squares': [jnp.zeros((_WIDTH, _WIDTH))] * _LAYERS,
            'head': jnp.zeros((_WIDTH, _VOCABULARY))}
  state = learner.init(params)
  progress = jax.eval_shape(
      lambda: updates.clear_gradients(updates.start(state)))
  rows = types.StepBatch(
      observations=np.zeros((_ROWS, _WIDTH), np.float32),
      actions=np.zeros((_ROWS, 1, 1), np.int32),
      log_probs=np.zeros((_ROWS, 1, 1), np.float32),
      token_mask=np.ones((_ROWS, 1, 1), bool),
      advantages=np.ones((_ROWS, 1), np.float32),
      mask=np.ones((_ROWS, 1), bool))
  jitted = learner.update.args[0]
  return state, [
      jitted.add.lower(
          None, progress.params, rows, rows.log_probs, jnp.ones(()),
          totals=progress.totals).compile(),
      jitted.take_step.lower(progress, 1).compile()]


@functools.cache
def _bytes(mu_dtype):
  """Of a parameter, alive at the peak of a micro-batch and of a step."""
  state, compiled = _compiled(mu_dtype)
  size = sum(x.size for x in jax.tree.leaves(state.params))
  alive = [part.memory_analysis() for part in compiled]
  held = sum(x.nbytes for x in jax.tree.leaves(
      (state.params, state.opt_state)))
  adding, stepping = (
      part.argument_size_in_bytes + part.temp_size_in_bytes
      + part.output_size_in_bytes - part.alias_size_in_bytes
      for part in alive)
  # While rows are added the moments wait, beside what is computed.
  moments = held - sum(x.nbytes for x in jax.tree.leaves(state.params))
  return (moments + adding) / size, stepping / size


@pytest.mark.parametrize('mu_dtype, adding, stepping', [
    (None, 16, 20), ('bfloat16', 14, 20)])
def test_bytes_a_parameter(mu_dtype, adding, stepping):
  """Parameter, two moments, the sum of gradients, all updates of a step: 20.

  A micro-batch's gradients are added leaf by leaf. XLA for a processor has a
  first moment in bfloat16 in float32, too.
  """
  np.testing.assert_allclose(
      _bytes(mu_dtype), (adding, stepping), rtol=.03)


def test_advantages_are_never_written_out_for_each_token():
  """From outcomes to the deal, of 4,096 trajectories of 15 steps."""
  slots, steps, tokens = 4096, 15, 256
  shape = jax.ShapeDtypeStruct
  trajectory = types.Trajectory(
      task_ids=shape((slots,), jnp.int32), observations=None,
      actions=shape((slots, steps, tokens), jnp.int32),
      log_probs=shape((slots, steps, tokens), jnp.float32),
      token_mask=shape((slots, steps, tokens), bool),
      step_mask=shape((slots, steps), bool),
      returns=shape((slots,), jnp.float32), successes=shape((slots,), bool),
      valid=shape((slots,), bool))
  method = methods.METHODS['step']

  @jax.jit
  def assign_and_deal(trajectory, success_rate):
    singles, low, success_rate = credit.assign_credit(
        trajectory, success_rate, method=method, group_size=16)
    batch = credit.without_groups(singles, method=method, max_steps=steps)
    return success_rate, low, singles.advantages, learner_lib.deal_rows(
        jnp.int32(0), jnp.int32(0), batch, num_minibatches=4)

  memory = assign_and_deal.lower(
      trajectory, shape((128,), jnp.float32)).compile().memory_analysis()
  assert memory.temp_size_in_bytes + memory.output_size_in_bytes < (
      4 * slots * steps * tokens / 2)
