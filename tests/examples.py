"""Small random screens, trajectories and rounds that several tests use."""

import dataclasses

import chex
import jax
import numpy as np

from step_jax.algorithm import types
from step_jax.policies import element

WORDS, ELEMENTS, TEXT_WORDS, VALUE_WORDS, FLAGS = 5, 6, 2, 2, 4
FEATURES, VOCABULARY, TOKENS = 3, 5, 3  # of the linear policy

_CLICK, _TYPE = map(element.VERBS.index, ('click', 'type'))


def screen(rng, num_elements=ELEMENTS, history=True):
  """A legal observation of the element policy: one screen with a history."""
  words = _hashes(rng, WORDS) * (np.arange(WORDS) < rng.integers(1, WORDS + 1))
  here = np.arange(num_elements) < rng.integers(1, num_elements + 1)
  pool = np.append(words, _hashes(rng, 4))  # so that words are shared
  editable = here & (rng.random(num_elements) < 0.5)
  flags = (rng.random((num_elements, FLAGS)) < 0.5) & here[:, None]
  flags[:, -1] = editable
  target_mask = np.zeros((len(element.VERBS), num_elements), bool)
  target_mask[_CLICK] = here & (rng.random(num_elements) < 0.7)
  target_mask[_TYPE] = editable
  verb_mask = rng.random(len(element.VERBS)) < 0.7
  verb_mask[:2] &= target_mask[:2].any(axis=1)
  verb_mask[-1] |= not verb_mask.any()
  result = {
      'instruction': words,
      'element_type': _hashes(rng, num_elements) * here,
      'element_text': rng.choice(
          pool, (num_elements, TEXT_WORDS)) * here[:, None],
      'element_value': rng.choice(
          pool, (num_elements, VALUE_WORDS)) * here[:, None],
      'element_flags': flags,
      'element_box': (rng.random((num_elements, 4)) * here[:, None]).astype(
          np.float32),
      'verb_mask': verb_mask, 'target_mask': target_mask,
      'history': element.empty_history(TEXT_WORDS),
  }
  if history:
    for _ in range(rng.integers(element.HISTORY_LENGTH + 1)):
      result['history'] = element.remember(
          result['history'], result, legal_action(rng, result))
  return result


def screens(seed, count, **options):
  """`count` screens, stacked."""
  rng = np.random.default_rng(seed)
  return stack([screen(rng, **options) for _ in range(count)])


def legal_action(rng, observation):
  """Three tokens that the masks of a screen allow."""
  verb = rng.choice(np.nonzero(observation['verb_mask'])[0])
  tokens = np.zeros(element.NUM_TOKENS, np.int32)
  tokens[0] = verb
  if element.USES_ELEMENT[verb]:
    tokens[1] = rng.choice(np.nonzero(observation['target_mask'][verb])[0])
  if element.USES_WORD[verb]:
    tokens[2] = rng.choice(np.nonzero(observation['instruction'])[0])
  return tokens


def check_one_trace(function, first, second):
  """Two inputs of the same shapes: one trace, and results that differ."""
  chex.clear_trace_counter()
  # A new function: whoever has been traced before is not traced again.
  traced = jax.jit(chex.assert_max_traces(
      lambda *inputs: function(*inputs), n=1))
  results = [jax.tree.leaves(traced(*x))[0] for x in (first, second)]
  assert (np.asarray(results[0]) != np.asarray(results[1])).any()


def check_jit_and_vmap(function, batches, *, rtol, atol):
  """With and without jit and vmap the results are the same."""
  plain = [function(*batch) for batch in batches]
  jitted = jax.jit(function)
  for batch, expected in zip(batches, plain):
    np.testing.assert_allclose(
        jitted(*batch), expected, rtol=rtol, atol=atol)
  stacked = jax.vmap(jitted)(*map(np.stack, zip(*batches)))
  np.testing.assert_allclose(stacked, np.stack(plain), rtol=rtol, atol=atol)


def stack(rows):
  """A list of trees as one tree of stacked arrays."""
  return jax.tree.map(lambda *x: np.stack(x), *rows)


def parameters(init, seed=0):
  """Random parameters of a policy, without the time to compile `init`.

  Far from uniform: an untrained network knows no preferences.
  """
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(init, jax.random.key(0))
  return jax.tree.map(
      lambda x: rng.normal(scale=0.4, size=x.shape).astype(np.float32), shapes)


def step_batch(rng, mask):
  """Step samples `[S, K]` of the linear policy; rows vary in tokens."""
  shape = mask.shape + (TOKENS,)
  token_mask = np.arange(TOKENS) < rng.integers(
      1, TOKENS + 1, mask.shape)[..., None]
  return types.StepBatch(
      observations={'features': rng.normal(
          size=(mask.shape[0], FEATURES)).astype(np.float32)},
      actions=rng.integers(VOCABULARY, size=shape, dtype=np.int32),
      log_probs=np.log(rng.uniform(0.05, 0.5, shape)).astype(np.float32),
      token_mask=token_mask & mask[..., None],
      advantages=rng.choice([-1, 1], mask.shape) * rng.uniform(
          0.1, 2, mask.shape).astype(np.float32) * mask,
      mask=mask)


def round_batch(seed, singles, groups, num_singles=256, num_groups=12):
  """A round with `singles` and `groups` useful rows, in random places."""
  rng = np.random.default_rng(seed)
  used = rng.permutation(num_singles) < singles
  used_groups = rng.permutation(num_groups) < groups
  return types.RoundBatch(
      singles=step_batch(rng, used[:, None]),
      groups=step_batch(rng, np.repeat(used_groups[:, None], 8, axis=1)),
      single_units=np.arange(num_singles, dtype=np.int32))


def without_advantage(batch, singles, groups):
  """A round whose rows at two masks have an advantage of 0."""
  return dataclasses.replace(batch, **{
      name: dataclasses.replace(rows, advantages=np.where(
          zero[:, None], 0, rows.advantages))
      for name, rows, zero in (('singles', batch.singles, singles),
                               ('groups', batch.groups, groups))})


def trajectory(seed, task_ids, max_steps, lost=0.15, observations=None):
  """A round of trajectories of 1 to T steps with random ends."""
  rng = np.random.default_rng(seed)
  slots = len(task_ids)
  shape = (slots, max_steps, TOKENS)
  successes = rng.random(slots) < 0.5
  step_mask = np.arange(max_steps) < rng.integers(
      1, max_steps + 1, slots)[:, None]
  token_mask = np.arange(TOKENS) < rng.integers(
      1, TOKENS + 1, shape[:2])[..., None]
  if observations is None:
    observations = {'features': rng.normal(
        size=(slots, max_steps, FEATURES)).astype(np.float32)}
  return types.Trajectory(
      task_ids=np.asarray(task_ids, np.int32), observations=observations,
      actions=rng.integers(VOCABULARY, size=shape, dtype=np.int32),
      log_probs=-rng.random(shape).astype(np.float32),
      token_mask=token_mask & step_mask[..., None], step_mask=step_mask,
      returns=successes.astype(np.float32), successes=successes,
      valid=rng.random(slots) >= lost)


def _hashes(rng, size):
  return rng.integers(1, 2**31, size, dtype=np.int32)
