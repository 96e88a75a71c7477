"""The sampler with a cache and the learner's log-probs, against no cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import sampling
from tests import qwen_vl_examples as examples

# Both families and text alone; heads tied and untied; 3:1, 5:1 and 3:1.
NAMES = ('qwen2_vl_untied', 'qwen2_5_vl_tied', 'llama_tied')
L, K = 6, 3
STOPS = (7, 9, 24, 25)
LEGAL = ~np.isin(np.arange(40), [3, 4, 11, 36])  # 3 is the image's token
TEMPERATURE = 0.8


def _title(name):
  return 'images_left' if name in examples.VISION else 'text_left'


def _make(name):
  model, _, _ = examples.load(name)
  return sampling.make_policy(
      model, num_tokens=L, stop_ids=STOPS, legal=LEGAL)


@functools.lru_cache(maxsize=None)
def _policy(name):
  """The functions at `TEMPERATURE`, compiled quickly."""
  policy = _make(name)
  return policy._replace(**{
      key: jax.jit(
          functools.partial(getattr(policy, key), temperature=TEMPERATURE),
          compiler_options=examples.QUICK)
      for key in ('sample', 'sample_many', 'log_prob')})


@functools.lru_cache(maxsize=None)
def _drawn(name):
  """Keys, and what `sample_many` drew with them."""
  _, params, _ = examples.load(name)
  inputs = examples.batch(name, _title(name))
  keys = jax.random.split(jax.random.key(5), (len(inputs.where), K))
  return keys, _policy(name).sample_many(params, keys, inputs)


def _whole(name, tokens):
  """Prompts and the tokens after them, as rows for the plain model."""
  arrays = [examples.read(name, _title(name), key) for key in (
      'input_ids', 'attention_mask', 'pixel_values', 'image_grid_thw')]
  ids, where = arrays[:2]
  valid = np.ones((len(ids), tokens.shape[1]), bool)
  return inputs_lib.make_inputs(
      examples.load(name)[0].config,
      np.concatenate([ids, tokens], axis=1),
      np.concatenate([where, valid], axis=1), *arrays[2:])


@functools.partial(
    jax.jit, static_argnums=0, compiler_options=examples.QUICK)
def _forward(model, params, inputs):
  return model.apply({'params': params}, inputs)


def _oracle(name, keys, temperature=TEMPERATURE):
  """Tokens, log-probs and entropies of one response a row; no cache."""
  model, params, _ = examples.load(name)
  rows = len(keys)
  tokens = np.zeros((rows, L), np.int32)
  scores = np.zeros((2, rows, L))
  alive = np.ones(rows, bool)
  for step in range(L):
    # What comes behind a token does not matter to it, but is no image.
    whole = _whole(name, np.where(tokens == 3, 0, tokens))
    logits = np.asarray(_forward(model, params, whole), np.float64)
    logits = logits[:, logits.shape[1] - L + step - 1]
    logits[:, ~LEGAL] = -np.inf
    for row in np.flatnonzero(alive):
      if temperature == 0:
        tokens[row, step] = logits[row].argmax()
      else:
        scaled = logits[row] / temperature
        probs = np.exp(scaled - scaled.max())
        probs /= probs.sum()
        tokens[row, step] = jax.random.categorical(
            jax.random.fold_in(keys[row], step), jnp.asarray(scaled))
        scores[0, row, step] = np.log(probs[tokens[row, step]])
        scores[1, row, step] = -np.sum(
            probs[LEGAL] * np.log(probs[LEGAL]))
      alive[row] = tokens[row, step] not in STOPS
  return tokens, *scores


def _mask(tokens):
  """`[..., L]`, True up to and with the first stop token, in plain Python."""
  mask = np.zeros(tokens.shape, bool)
  for index in np.ndindex(tokens.shape[:-1]):
    for step, token in enumerate(tokens[index]):
      mask[index][step] = True
      if token in STOPS:
        break
  return mask


@pytest.mark.parametrize('name', NAMES)
def test_against_full_passes(name):
  """Sampler and learner against a pass over everything for every token."""
  _, params, _ = examples.load(name)
  inputs = examples.batch(name, _title(name))
  lengths = inputs.where.sum(axis=1)
  assert len(set(lengths)) == len(lengths) and (~inputs.where[:, 0]).all()
  keys, drawn = _drawn(name)
  for k in range(K):
    tokens, log_probs, entropy = _oracle(name, keys[:, k])
    np.testing.assert_array_equal(drawn.tokens[:, k], tokens)
    np.testing.assert_allclose(
        drawn.log_probs[:, k], log_probs, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(drawn.token_mask[:, k], _mask(tokens))
    learnt = _policy(name).log_prob(params, inputs, drawn.tokens[:, k])
    np.testing.assert_allclose(
        learnt[0], drawn.log_probs[:, k], rtol=0, atol=1e-5)
    np.testing.assert_allclose(learnt[1], entropy, rtol=0, atol=1e-5)
  mask = np.asarray(drawn.token_mask)
  assert mask.all(axis=-1).any() and not mask.all()  # both kinds of ends
  assert (np.asarray(drawn.log_probs)[~mask] == 0).all()
  assert LEGAL[np.asarray(drawn.tokens)].all()


def test_one_response_is_a_row_of_many():
  name = 'qwen2_vl_untied'
  _, params, _ = examples.load(name)
  inputs = examples.batch(name, _title(name))
  keys, drawn = _drawn(name)
  for k in range(K):
    single = _policy(name).sample(params, keys[:, k], inputs)
    np.testing.assert_array_equal(single.tokens, drawn.tokens[:, k])
    np.testing.assert_array_equal(single.token_mask, drawn.token_mask[:, k])
    np.testing.assert_allclose(
        single.log_probs, drawn.log_probs[:, k], rtol=0, atol=1e-5)


def test_a_row_depends_on_nothing_but_its_key_and_prompt():
  """No bit changes with other rows, other candidates or padding."""
  name = 'qwen2_vl_untied'
  _, params, _ = examples.load(name)
  inputs = examples.batch(name, _title(name))
  keys, drawn = _drawn(name)
  policy = _policy(name)
  ids = inputs.input_ids.copy()
  ids[1:] = np.where(ids[1:] > 4, 5 + (ids[1:] + 6) % 30, ids[1:])
  other = policy.sample_many(
      params, jax.random.split(jax.random.key(6), keys.shape).at[0, 1].set(
          keys[0, 1]), inputs.replace(input_ids=ids))
  for one, two in zip(drawn, other):
    np.testing.assert_array_equal(one[0, 1], two[0, 1])
  for row in ((0, 0), (1, 1), (2, 2)):
    assert (drawn.tokens[row] != other.tokens[row]).any()
  foul = examples.foul(inputs, np.random.default_rng(0))
  assert (foul.positions != inputs.positions).any()
  tokens = drawn.tokens[:, 0]
  for one, two in zip(
      (*drawn, *policy.log_prob(params, inputs, tokens)),
      (*policy.sample_many(params, keys, foul),
       *policy.log_prob(params, foul, tokens))):
    np.testing.assert_array_equal(one, two)


def test_greedy():
  """The argmax of what is legal, log-prob 0; and one trace for two calls."""
  name = 'llama_tied'
  _, params, _ = examples.load(name)
  inputs = examples.batch(name, _title(name))
  policy = _make(name)
  keys = jax.random.split(jax.random.key(0), 2)
  expected, _, _ = _oracle(name, keys, temperature=0)
  for other in (keys, keys[::-1]):
    drawn = policy.sample(params, other, inputs, temperature=0)
    np.testing.assert_array_equal(drawn.tokens, expected)
    np.testing.assert_array_equal(drawn.token_mask, _mask(expected))
    assert not drawn.log_probs.any()
  assert policy.sample._cache_size() == 1
  with pytest.raises(ValueError, match='a temperature over 0 for log_prob'):
    policy.log_prob(params, inputs, drawn.tokens, temperature=0)


@functools.lru_cache(maxsize=None)
def _gradient():
  """Of a weighted sum of log-probs and entropies, `log_prob`'s."""
  policy = _make('llama_tied')

  def loss(params, inputs, tokens, weights):
    return sum(
        jnp.vdot(x, y) for x, y in zip(
            policy.log_prob(
                params, inputs, tokens, temperature=TEMPERATURE), weights))

  return jax.jit(jax.grad(loss), compiler_options=examples.QUICK)


def test_gradients_are_those_without_a_cache():
  """And what follows a stop token changes nothing."""
  name = 'llama_tied'
  model, params, _ = examples.load(name)
  inputs = examples.batch(name, _title(name))
  tokens = np.asarray(_drawn(name)[1].tokens[:, 1])
  mask = _mask(tokens)
  assert not mask.all()
  weights = np.random.default_rng(0).normal(
      size=(2, *tokens.shape)).astype(np.float32)
  whole = _whole(name, tokens)

  def loss(params):
    logits = model.apply({'params': params}, whole)[:, -L - 1:-1]
    log_probs = jax.nn.log_softmax(jnp.where(
        LEGAL[None, None], logits / TEMPERATURE, -1e9))
    chosen = jnp.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return jnp.vdot(chosen, np.where(mask, weights[0], 0)) + jnp.vdot(
        entropy, np.where(mask, weights[1], 0))

  expected = jax.jit(
      jax.grad(loss), compiler_options=examples.QUICK)(params)
  found = _gradient()(params, inputs, tokens, weights)
  for one, two in zip(*map(jax.tree.leaves, (found, expected))):
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)
    assert np.abs(one).max() > 0
  rubbish = _gradient()(
      params, inputs, np.where(mask, tokens, -5), weights)
  for one, two in zip(*map(jax.tree.leaves, (found, rubbish))):
    np.testing.assert_array_equal(one, two)


def test_illegal_tokens_are_all_but_impossible():
  """Finite, with a finite gradient: a demonstration may hold one."""
  name = 'llama_tied'
  _, params, _ = examples.load(name)
  inputs = examples.batch(name, _title(name))
  tokens = np.full((2, L), 11, np.int32)
  log_probs, entropy = _policy(name).log_prob(params, inputs, tokens)
  assert (log_probs < -1e8).all() and np.isfinite(log_probs).all()
  assert (entropy > 0).all()
  gradient = _gradient()(params, inputs, tokens, np.ones((2, 2, L), np.float32))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_a_single_token():
  model, params, _ = examples.load('llama_tied')
  inputs = examples.batch('llama_tied', 'text_left')
  policy = sampling.make_policy(model, num_tokens=1, stop_ids=())
  keys = jax.random.split(jax.random.key(0), (2, 3))
  drawn = jax.eval_shape(functools.partial(
      policy.sample_many, temperature=1.0), params, keys, inputs)
  assert drawn.tokens.shape == (2, 3, 1)
  scores = jax.eval_shape(functools.partial(
      policy.log_prob, temperature=1.0), params, inputs,
      jnp.zeros((2, 1), jnp.int32))
  assert scores[0].shape == scores[1].shape == (2, 1)


@pytest.mark.parametrize('changes,message', [
    ({'num_tokens': 0}, 'num_tokens >= 1, got 0'),
    ({'stop_ids': (40,)}, 'stop ids under 40'),
    ({'legal': np.ones(39, bool)}, r'legal of \[40\] bool, got \(39,\)'),
    ({'legal': np.ones(40)}, 'bool, got .* float64'),
    ({'legal': np.arange(40) != 7}, 'to allow the stop ids'),
    ({'legal': np.zeros(40, bool), 'stop_ids': ()}, 'to allow the stop ids'),
])
def test_refusals(changes, message):
  model, _, _ = examples.load('llama_tied')
  with pytest.raises(ValueError, match=message):
    sampling.make_policy(
        model, **(dict(num_tokens=L, stop_ids=STOPS) | changes))


@pytest.mark.parametrize('name', NAMES[:2])
def test_the_gradient_of_a_group_is_that_of_rows(name):
  """K responses that share a prompt, or each with its own copy of it."""
  _, params, _ = examples.load(name)
  arrays = [examples.read(name, _title(name), key) for key in (
      'input_ids', 'attention_mask', 'pixel_values', 'image_grid_thw')]
  config = examples.load(name)[0].config
  tokens = _drawn(name)[1].tokens
  log_prob = functools.partial(_make(name).log_prob, temperature=TEMPERATURE)
  weights = np.random.default_rng(0).normal(size=tokens.shape)
  in_rows = [np.concatenate(np.moveaxis(np.asarray(x), 1, 0))
             for x in (tokens, weights)]

  def repeat(rows):
    """The batch, `rows` times over."""
    return inputs_lib.make_inputs(config, *(
        np.tile(x, (rows, 1)) for x in arrays))

  def group(params):
    log_probs, _ = jax.vmap(
        functools.partial(log_prob, params, repeat(1)),
        in_axes=1, out_axes=1)(tokens)
    return jnp.sum(log_probs * weights)

  def rows(params):
    log_probs, _ = log_prob(params, repeat(K), in_rows[0])
    return jnp.sum(log_probs * in_rows[1])

  (one, shared), (other, apart) = (
      jax.jit(jax.value_and_grad(loss), compiler_options=examples.QUICK)(params)
      for loss in (group, rows))
  np.testing.assert_allclose(one, other, rtol=1e-5)
  jax.tree.map(functools.partial(
      np.testing.assert_allclose, rtol=1e-4, atol=1e-5), shared, apart)
