"""What the tests of both policies that point ask of them."""

import jax
import jax.numpy as jnp
import numpy as np


def sample(policy, params, observation, seed, temperature):
  """`sample` in calls of four rows, as the workers make them."""
  rows = len(observation['instruction'])
  assert rows % 4 == 0
  keys = jax.random.split(jax.random.key(seed), rows)
  parts = [
      policy.sample(
          params, keys[i:i + 4],
          jax.tree.map(lambda x, i=i: x[i:i + 4], observation),
          temperature=temperature) for i in range(0, rows, 4)]
  return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def make_gradient(policy, temperature):
  """Gradient of all log-probs and entropies, and the log-probs."""
  def total(params, observation, tokens):
    log_probs, entropy = policy.log_prob(
        params, observation, tokens, temperature=temperature)
    return jnp.sum(log_probs) + jnp.sum(entropy), log_probs
  return jax.jit(jax.grad(total, has_aux=True))


def check_gradient(result, shifts=None):
  """It is finite, and with `shifts` not 0 but for those parameters."""
  gradient, log_probs = result
  assert np.isfinite(log_probs).all()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
  if shifts is not None:
    for path, x in jax.tree.leaves_with_path(gradient['params']):
      name = jax.tree_util.keystr(path, simple=True, separator='/')
      assert (np.abs(x).max() > 1e-4) == (name not in shifts), name


def check_frequencies(drawn, tokens, log_probs):
  """Chi-square of the draws `[n, 3]`, of all actions that are legal."""
  probability = np.exp(log_probs.sum(axis=1)).astype(np.float64)
  counts = np.array([(drawn == action).all(axis=1).sum() for action in tokens])
  assert counts.sum() == len(drawn)
  expected = len(drawn) * probability / probability.sum()
  often = expected > 5
  assert often.sum() > 4
  chi_square = ((counts - expected)**2 / expected)[often].sum()
  assert chi_square < often.sum() + 5 * np.sqrt(2 * often.sum())


def check_greedy(greedy, tokens, log_probs, candidates):
  """Each token is the most likely one after those before; returns which."""
  candidates = candidates.copy()
  for position in range(3):
    best = log_probs[candidates, position].max()
    candidates &= log_probs[:, position] >= best
  assert candidates.sum() == 1
  np.testing.assert_array_equal(
      greedy.tokens, np.repeat(tokens[candidates], len(greedy.tokens), axis=0))
  assert (greedy.log_probs == 0).all()
  return candidates


def check_one_trace(policy, use):
  """`use(seed)` samples and scores; three times of one shape trace once."""
  sizes = []
  for seed in range(3):
    use(seed)
    sizes.append([f._cache_size() for f in (policy.sample, policy.log_prob)])
  assert sizes[0] == sizes[1] == sizes[2]


def check_keys(policy, params, observation, temperature):
  """The same key gives the same action, wherever its row stands.

  Args:
    policy: is asked.
    params: of it.
    observation: of four rows.
    temperature: not 0.
  """
  def draw(seed):
    return sample(policy, params, observation, seed, temperature).tokens

  first = draw(7)
  np.testing.assert_array_equal(first, draw(7))
  assert any((first != draw(seed)).any() for seed in range(8, 16))
  order = np.array([2, 0, 3, 1])
  keys = jax.random.split(jax.random.key(7), 4)
  moved = policy.sample(
      params, keys[order], jax.tree.map(lambda x: x[order], observation),
      temperature=temperature)
  np.testing.assert_array_equal(moved.tokens, first[order])


def check_mixed_rows(log_prob, observation, others, tokens):
  """Three rows score the same beside other rows."""
  alone, _ = log_prob(observation, tokens)
  mixed, _ = log_prob(jax.tree.map(
      lambda x, y: np.concatenate([x[:3], y[3:]]), observation, others), tokens)
  np.testing.assert_allclose(mixed[:3], alone[:3], rtol=1e-5, atol=1e-6)
