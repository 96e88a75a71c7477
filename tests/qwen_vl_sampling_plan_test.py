"""What the sampler is compiled to: when its loop ends, what it repeats."""

import functools

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import sampling
from tests import qwen_vl_examples as examples

L = 6


def test_loop_ends_with_the_last_response():
  name = 'llama_tied'
  model, params, _ = examples.load(name)
  inputs = examples.batch(name, 'text_left')
  policy = sampling.make_policy(model, num_tokens=L, stop_ids=(7,))
  keys = jax.random.split(jax.random.key(0), (2, 3))
  jaxpr = jax.make_jaxpr(functools.partial(
      policy.sample_many, temperature=1.0))(params, keys, inputs)
  loop = next(
      e for e in examples.equations(jaxpr.jaxpr) if e.primitive.name == 'while')
  condition = loop.params['cond_jaxpr']
  state = [jnp.zeros(x.shape, x.dtype) for x in condition.in_avals]
  assert [x.dtype for x in state[:2]] == [jnp.int32, bool]
  one = state[1].at[1, 2].set(True)
  for step, alive, goes_on in (
      (0, one, True), (L - 2, one, True), (L - 1, one, False),
      (0, state[1], False)):
    (found,) = core.jaxpr_as_fun(condition)(
        jnp.int32(step), alive, *state[2:])
    assert found == goes_on


def test_nothing_of_the_prompt_is_repeated_for_candidates():
  """By shapes: neither patches, nor hidden states, nor keys and values."""
  name, num = 'qwen2_vl_untied', 11
  model, params, _ = examples.load(name)
  inputs = examples.batch(name, 'images_left')
  policy = sampling.make_policy(model, num_tokens=L, stop_ids=())
  length, patches = inputs.where.shape[1], inputs.images.where.shape[-1]
  width, head_width = model.config.text.width, model.config.text.head_width
  sizes = [num, length, patches, width, head_width]
  assert len(set(sizes)) == 5 and not {num, length} & {2, 3, L, 40, length + L}
  keys = jax.random.split(jax.random.key(0), (3, num))
  for jaxpr in (
      jax.make_jaxpr(functools.partial(policy.sample_many, temperature=1.0))(
          params, keys, inputs),
      jax.make_jaxpr(jax.vmap(
          functools.partial(policy.log_prob, params, inputs, temperature=1.0),
          in_axes=1))(jnp.zeros((3, num, L), jnp.int32))):
    shapes = [set(variable.aval.shape) for e in examples.equations(jaxpr.jaxpr)
              for variable in e.outvars]
    assert any({num, length} <= shape for shape in shapes)  # the scores
    for once in ({length, width}, {length, head_width}, {patches}):
      assert any(once <= shape for shape in shapes)
      assert not any(once | {num} <= shape for shape in shapes)


def test_memory_of_candidates():
  """XLA's plan for many of them is far under as many caches of the prompt."""
  name, length, num = 'llama_untied', 512, 24
  model, params, _ = examples.load(name)
  inputs = inputs_lib.make_inputs(
      model.config, np.ones((1, length), int), np.ones((1, length), bool))
  policy = sampling.make_policy(
      model.clone(attention_chunk=64), num_tokens=4, stop_ids=())
  compiled = policy.sample_many.lower(
      params, jax.random.split(jax.random.key(0), (1, num)), inputs,
      temperature=1.0).compile(compiler_options=examples.QUICK)
  temporary = compiled.memory_analysis().temp_size_in_bytes
  text = model.config.text
  prompt = 2 * 4 * text.num_layers * length * (
      text.num_key_heads * text.head_width)
  print(f"prompt's cache {prompt:,} bytes; {num} candidates {temporary:,}")
  assert prompt < temporary < num * prompt / 2
