"""Imitation: it fits, it repeats itself, and shared words generalise."""

import functools

import chex
import jax
import numpy as np

from step_jax.learning import imitation
from step_jax.policies import element
from tests import examples

_MANY = {'num_steps': 500, 'batch_size': 32, 'learning_rate': 2e-3}
_FEW = {'num_steps': 100, 'batch_size': 4, 'learning_rate': 5e-3}


def _lookup(seed, count):
  """Click the element whose text is the last word of the instruction.

  Every word is a new random number, so nothing can be learned by heart.
  """
  rng = np.random.default_rng(seed)
  screens, actions = [], []
  for _ in range(count):
    screen = examples.screen(rng, history=False)
    length = rng.integers(2, examples.WORDS + 1)
    words = rng.integers(1, 2**31, examples.WORDS, dtype=np.int32)
    screen['instruction'] = words * (np.arange(examples.WORDS) < length)
    shown = rng.integers(3, examples.ELEMENTS + 1)
    here = np.arange(examples.ELEMENTS) < shown
    texts = rng.integers(1, 2**31, examples.ELEMENTS, dtype=np.int32)
    # Others show another word of the instruction, so position matters.
    order = rng.permutation(shown)
    texts[order[1]] = words[0]
    texts[order[0]] = words[length - 1]
    screen['element_type'] = here.astype(np.int32)
    screen['element_text'] = np.stack(
        [texts * here, np.zeros_like(texts)], axis=1)
    screen['element_value'] = np.zeros_like(screen['element_value'])
    screen['element_flags'] = np.zeros_like(screen['element_flags'])
    screen['verb_mask'] = np.arange(len(element.VERBS)) != 1
    screen['target_mask'] = np.zeros_like(screen['target_mask'])
    screen['target_mask'][0] = here
    screens.append(screen)
    actions.append((0, order[0], 0))
  return examples.stack(screens), np.array(actions, np.int32)


@functools.lru_cache(maxsize=None)
def _policy():
  return element.make_policy(
      examples.screen(np.random.default_rng(0)), width=24, num_layers=2,
      num_heads=2, vocabulary=32)


def _fresh():
  return jax.jit(_policy().init)(jax.random.key(0))


def _imitate(observations, tokens, settings):
  params = _fresh()
  fitted, losses = imitation.imitate(
      jax.random.key(0), params, observations, tokens,
      log_prob_fn=_policy().log_prob, **settings)
  assert all(x.is_deleted() for x in jax.tree.leaves(params))  # donated
  return fitted, np.asarray(losses)


def _success(params, observations, tokens):
  sample = _policy().sample(
      params, jax.random.split(jax.random.key(1), len(tokens)), observations,
      temperature=0)
  return (np.asarray(sample.tokens) == tokens).all(axis=1).mean()


def test_shared_words_generalise_to_words_never_seen():
  """The claim of the network: a lookup is learned, not a list of words."""
  unseen = _lookup(1, 256)
  assert not np.isin(
      unseen[0]['element_text'][:, :, 0], _lookup(0, 1024)[0]['instruction']
  )[unseen[0]['element_type'] > 0].any()
  params, losses = _imitate(*_lookup(0, 1024), _MANY)
  assert losses.shape == (_MANY['num_steps'],)
  assert losses[:10].mean() > 1 and losses[-10:].mean() < 0.2
  assert _success(_fresh(), *unseen) < 0.3
  assert _success(params, *unseen) > 0.9


def test_the_same_key_gives_the_same_parameters():
  steps = _lookup(0, 64)
  chex.assert_trees_all_equal(_imitate(*steps, _FEW), _imitate(*steps, _FEW))


def test_the_first_loss_is_the_negative_log_likelihood():
  """At temperature 1, summed over tokens; one step repeated is any batch."""
  one = jax.tree.map(
      lambda x: np.repeat(x[5:6], 64, axis=0), _lookup(0, 64))
  _, losses = _imitate(*one, _FEW)
  log_probs, _ = _policy().log_prob(
      _fresh(), *jax.tree.map(lambda x: x[:4], one), temperature=1.0)
  np.testing.assert_allclose(
      losses[0], -np.asarray(log_probs).sum(axis=1)[0], rtol=1e-4)
  assert losses[-1] < 0.05
