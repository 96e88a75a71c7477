"""The clipped surrogate: which side is clipped, and what is counted."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import step_jax
from step_jax.algorithm import losses
from tests import examples
from tests import reference

SHAPE = (6, 3, 4)  # [S, K, L]
FOUL = (np.nan, np.inf, -np.inf, 1e30)


def _loss(log_probs, behaviour, advantages, where, **options):
  return step_jax.clipped_surrogate_loss(
      log_probs, behaviour, advantages, where=where, **options)


_jit_loss = jax.jit(_loss)
_jit_grad = jax.jit(jax.value_and_grad(_loss, argnums=(0, 1, 2)))


def _batch(seed):
  """Ratios on both sides of both bounds, none within 0.01 of one."""
  rng = np.random.default_rng(seed)
  behaviour = -3 * rng.random(SHAPE)
  ratio = rng.choice([0.4, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0], SHAPE)
  ratio = ratio * (1 + 0.03 * rng.random(SHAPE))
  arrays = (behaviour + np.log(ratio), behaviour, rng.normal(size=SHAPE[:2]))
  return *(x.astype(np.float32) for x in arrays), rng.random(SHAPE) < 0.7


def _one(ratio, advantage, **options):
  """Loss and gradient by the log-prob of one token."""
  loss, gradients = _jit_grad(
      np.log(np.array([ratio], np.float32)), np.zeros(1, np.float32),
      np.float32(advantage), np.ones(1, bool), **options)
  return float(loss), gradients[0].item()


def test_pieces():
  log_probs, behaviour, advantages, where = _batch(0)
  ratio = np.exp(log_probs - behaviour)
  assert (advantages > 0).any() and (advantages < 0).any()
  for inside in (ratio < 0.8, (ratio > 0.8) & (ratio < 1.3), ratio > 1.3):
    assert (inside & where).sum() > 3
  assert np.abs(ratio - 0.8).min() > 0.01
  assert np.abs(ratio - 1.3).min() > 0.01


@pytest.mark.parametrize('ratio, advantage, loss, gradient', [
    # A > 0: min(rho, clip(rho)) A. Above 1.3 the clipped side is smaller.
    (1.0, 2.0, -2.0, -2.0),
    (1.25, 2.0, -2.5, -2.5),
    (1.5, 2.0, -2.6, 0.0),    # 1.3 * 2, and no gradient
    (0.5, 2.0, -1.0, -1.0),   # below 0.8 the unclipped side is smaller
    # A < 0: the larger ratio. Below 0.8 the clipped side is smaller.
    (1.0, -2.0, 2.0, 2.0),
    (0.9, -2.0, 1.8, 1.8),
    (0.5, -2.0, 1.6, 0.0),    # 0.8 * -2, and no gradient
    (1.5, -2.0, 3.0, 3.0),    # above 1.3 the unclipped side is smaller
    (1.0, 0.0, 0.0, 0.0),
])
def test_golden_of_each_side(ratio, advantage, loss, gradient):
  # By log pi, rho A has the gradient rho A.
  np.testing.assert_allclose(
      _one(ratio, advantage), (loss, gradient), rtol=1e-5, atol=1e-7)


def test_golden_of_other_bounds():
  # rho = 2: clip to 1.5 for A > 0; rho = 0.2: clip to 0.9 for A < 0.
  bounds = {'clip_low': 0.1, 'clip_high': 0.5}
  np.testing.assert_allclose(_one(2.0, 1.0, **bounds), (-1.5, 0), rtol=1e-6)
  np.testing.assert_allclose(_one(0.2, -1.0, **bounds), (0.9, 0), rtol=1e-6)


def test_ratio_one_gives_minus_the_mean_advantage():
  # Over valid tokens, not over samples: (1 * 3 + 4 * 1) / 4 = 1.75.
  log_probs = -np.ones((2, 3), np.float32)
  where = np.array([[1, 1, 1], [0, 1, 0]], bool)
  loss = _jit_loss(log_probs, log_probs, np.array([1, 4], np.float32), where)
  np.testing.assert_allclose(loss, -1.75, rtol=1e-6)


@pytest.mark.parametrize('seed', range(20))
def test_oracle(seed):
  batch = _batch(seed)
  actual = _jit_loss(*batch)
  assert actual.shape == () and actual.dtype == jnp.float32
  expected = reference.surrogate_loss(*batch)
  assert expected != 0
  np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('shape', [(4,), (5, 4), (2, 3, 2, 4)])
def test_oracle_of_other_ranks(shape):
  rng = np.random.default_rng(0)
  log_probs, behaviour = -rng.random((2, *shape)).astype(np.float32)
  batch = (log_probs, behaviour, rng.normal(size=shape[:-1]).astype(
      np.float32), rng.random(shape) < 0.8)
  np.testing.assert_allclose(
      _jit_loss(*batch), reference.surrogate_loss(*batch), rtol=1e-4,
      atol=1e-6)


def test_oracle_of_other_bounds():
  batch = _batch(3)
  bounds = {'clip_low': 0.5, 'clip_high': 0.1}
  expected = reference.surrogate_loss(*batch, **bounds)
  assert abs(expected - reference.surrogate_loss(*batch)) > 1e-3
  np.testing.assert_allclose(_jit_loss(*batch, **bounds), expected, rtol=1e-4)


def test_normaliser_replaces_the_number_of_tokens():
  batch = _batch(4)
  for normaliser in (1.0, 7.5, np.float32(100)):
    np.testing.assert_allclose(
        _jit_loss(*batch, normaliser=normaliser),
        reference.surrogate_loss(*batch, normaliser=normaliser), rtol=1e-4)


def test_parts_over_a_common_normaliser_have_the_mean_of_the_whole():
  """So that cutting a round in minibatches keeps the gradient's meaning."""
  batch = _batch(5)
  parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
  tokens = [batch[3][part].sum() for part in parts]
  assert len(set(tokens)) > 1
  loss, gradients = _jit_grad(*batch)
  run = jax.jit(jax.value_and_grad(_loss))
  split = [
      run(*(x[part] for x in batch), normaliser=sum(tokens) / len(parts))
      for part in parts]
  np.testing.assert_allclose(
      np.mean([value for value, _ in split]), loss, rtol=1e-5)
  np.testing.assert_allclose(
      np.concatenate([g for _, g in split]) / len(parts), gradients[0],
      rtol=1e-5, atol=1e-8)


def test_statistics_oracle():
  log_probs, behaviour, advantages, where = _batch(11)
  advantages[:, 0] = 0  # nothing there for the clip to remove
  options = {'clip_low': 0.2, 'clip_high': 0.3}
  actual = jax.jit(lambda *batch: losses.surrogate_statistics(
      *batch, where=where, **options))(log_probs, behaviour, advantages)
  clipped, divergence = 0, 0.0
  for index in zip(*np.nonzero(where)):
    log_ratio = float(log_probs[index]) - float(behaviour[index])
    ratio, advantage = np.exp(log_ratio), advantages[index[:-1]]
    clipped += (advantage > 0 and ratio > 1.3) or (
        advantage < 0 and ratio < 0.8)
    divergence += ratio - 1 - log_ratio
  assert clipped > 3
  np.testing.assert_array_equal(actual['clipped'], clipped)
  np.testing.assert_allclose(actual['kl'], divergence, rtol=1e-5)


def test_positively_homogeneous_in_the_advantages():
  # Weights of the length fold into the advantages because of it.
  log_probs, behaviour, advantages, where = _batch(6)
  loss = _jit_loss(log_probs, behaviour, advantages, where)
  for scale in (0.25, 8.0):
    scaled = _jit_loss(
        log_probs, behaviour, advantages * np.float32(scale), where)
    np.testing.assert_allclose(scaled, scale * loss, rtol=1e-6)
  # Positively only: the other sign clips the other side.
  negated = _jit_loss(log_probs, behaviour, -advantages, where)
  assert abs(negated + loss) > 1e-3


def test_eager_jit_and_vmap_agree():
  batches = [_batch(seed) for seed in range(3)]
  plain = [_loss(*batch) for batch in batches]
  np.testing.assert_allclose(
      [_jit_loss(*batch) for batch in batches], plain, rtol=1e-5)
  stacked = jax.vmap(_jit_loss)(*map(np.stack, zip(*batches)))
  np.testing.assert_allclose(stacked, np.stack(plain), rtol=1e-5)


@pytest.mark.parametrize('seed', range(3))
def test_gradient_against_numerical_differences(seed):
  log_probs, behaviour, advantages, where = _batch(seed)
  _, gradients = _jit_grad(log_probs, behaviour, advantages, where)
  expected = reference.numerical_gradient(
      lambda x: reference.surrogate_loss(x, behaviour, advantages, where),
      log_probs)
  assert np.abs(expected).max() > 0.01
  np.testing.assert_allclose(gradients[0], expected, rtol=1e-3, atol=1e-6)


def test_gradient_is_zero_where_clipped_and_only_there():
  log_probs, behaviour, advantages, where = _batch(7)
  ratio = np.exp(log_probs - behaviour)
  positive = np.broadcast_to(advantages[..., None] > 0, SHAPE)
  clipped = np.where(positive, ratio > 1.3, ratio < 0.8)
  assert (clipped & where).sum() > 3 and (~clipped & where).sum() > 3
  gradient = np.asarray(
      _jit_grad(log_probs, behaviour, advantages, where)[1][0])
  np.testing.assert_array_equal(gradient == 0, clipped | ~where)


def test_a_ratio_beyond_float32_is_clipped_and_not_nan():
  # exp(200) overflows; min() must not multiply its gradient by zero.
  loss, gradients = _jit_grad(
      np.full(1, 200, np.float32), np.zeros(1, np.float32), np.float32(1),
      np.ones(1, bool))
  np.testing.assert_allclose(loss, -1.3, rtol=1e-6)
  np.testing.assert_array_equal(gradients[0], [0.0])


@pytest.mark.parametrize('foul', FOUL)
def test_foul_padding_changes_neither_value_nor_gradient(foul):
  log_probs, behaviour, advantages, where = _batch(8)
  where[1], where[4, 2] = False, False
  lost = ~where.any(axis=-1)
  assert lost.any()
  expected = _jit_grad(log_probs, behaviour, advantages, where)
  for gradient, keep in zip(expected[1], (where, where, ~lost)):
    np.testing.assert_array_equal(np.asarray(gradient)[~keep], 0)
  foul = np.float32(foul)
  for fouled in (
      (np.where(where, log_probs, foul), behaviour, advantages),
      (log_probs, np.where(where, behaviour, foul), advantages),
      (log_probs, np.where(where, behaviour, -foul), advantages),
      (log_probs, behaviour, np.where(lost, foul, advantages)),
      (np.where(where, log_probs, foul), np.where(where, behaviour, foul),
       np.where(lost, foul, advantages))):
    chex.assert_trees_all_equal(_jit_grad(*fouled, where), expected)


def test_more_padding_and_another_order_change_nothing():
  batch = _batch(9)
  loss = _jit_loss(*batch)
  padded = [np.concatenate([x, np.zeros_like(x)]) for x in batch]
  np.testing.assert_allclose(_jit_loss(*padded), loss, rtol=1e-5)
  order = np.random.default_rng(0).permutation(SHAPE[0])
  assert (order != np.arange(SHAPE[0])).any()
  np.testing.assert_allclose(
      _jit_loss(*(x[order] for x in batch)), loss, rtol=1e-5)
  reverse = tuple(x[..., ::-1] for x in batch)
  np.testing.assert_allclose(
      _jit_loss(reverse[0], reverse[1], batch[2], reverse[3]), loss,
      rtol=1e-5)


@pytest.mark.parametrize('normaliser', [None, 5.0, 0.0])
@pytest.mark.parametrize('foul', [1.0, np.nan, np.inf])
def test_all_masked_is_zero_with_gradient_zero(foul, normaliser):
  """Also for a round without any token, whose normaliser is 0.

  unsloth-zoo #1286.
  """
  log_probs, behaviour, advantages, _ = _batch(10)
  log_probs[::2] = foul
  advantages[::3] = foul
  loss, gradients = _jit_grad(
      log_probs, behaviour, advantages, np.zeros(SHAPE, bool),
      normaliser=normaliser)
  np.testing.assert_array_equal(loss, 0.0)
  chex.assert_trees_all_equal(
      gradients, jax.tree.map(jnp.zeros_like, gradients))


# An advantage for each token, and masks of numbers


def _token_batch(seed):
  log_probs, behaviour, _, where = _batch(seed)
  advantages = np.random.default_rng(seed + 7).normal(size=SHAPE)
  assert np.ptp(np.sign(advantages), axis=-1).any()  # both signs in a response
  return log_probs, behaviour, advantages.astype(np.float32), where


def test_golden_of_an_advantage_for_each_token():
  # Ratios 1, 1.5 (clipped to 1.3) and one that is masked: the loss is
  # -(1 * 2 + 1.5 * -1) / 2, as for A < 0 the unclipped side is smaller.
  loss, gradients = _jit_grad(
      np.log(np.array([[1, 1.5, 9]], np.float32)), np.zeros((1, 3), np.float32),
      np.array([[2, -1, 5]], np.float32), np.array([[1, 1, 0]], bool))
  np.testing.assert_allclose(loss, -.25, rtol=1e-6)
  np.testing.assert_allclose(gradients[0], [[-1, .75, 0]], rtol=1e-6)
  np.testing.assert_allclose(gradients[2], [[-.5, -.75, 0]], rtol=1e-6)


@pytest.mark.parametrize('seed', range(3))
def test_an_advantage_for_each_token_against_oracle_and_differences(seed):
  log_probs, behaviour, advantages, where = _token_batch(seed)
  loss, gradients = _jit_grad(log_probs, behaviour, advantages, where)
  np.testing.assert_allclose(
      loss, reference.surrogate_loss(log_probs, behaviour, advantages, where),
      rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
      gradients[0], reference.numerical_gradient(
          lambda x: reference.surrogate_loss(x, behaviour, advantages, where),
          log_probs), rtol=1e-3, atol=1e-6)
  for foul in FOUL:  # behind the mask
    chex.assert_trees_all_equal(
        _jit_grad(log_probs, behaviour, np.where(
            where, advantages, np.float32(foul)), where), (loss, gradients))


def test_one_for_each_response_is_the_same_for_each_of_its_tokens():
  log_probs, behaviour, advantages, where = _batch(1)
  each = np.broadcast_to(advantages[..., None], SHAPE)
  options = {'clip_low': .2, 'clip_high': .3, 'where': where}
  for function in (_loss, lambda *x: losses.surrogate_statistics(
      *x[:3], **options)):
    chex.assert_trees_all_equal(
        function(log_probs, behaviour, advantages, where),
        function(log_probs, behaviour, each, where))


@pytest.mark.parametrize('dtype', [np.float32, np.int32, jnp.bfloat16])
@pytest.mark.parametrize('make', [_batch, _token_batch])
def test_a_mask_of_numbers_is_one_of_bools(make, dtype):
  log_probs, behaviour, advantages, where = make(2)
  assert where.any() and not where.all()
  fouled = np.where(where, log_probs, np.float32(np.nan)), behaviour, advantages
  for loss_fn in (_jit_grad, lambda *batch: _jit_capped(
      batch[0], _old(2), *batch[1:])):
    chex.assert_trees_all_equal(
        loss_fn(*fouled, 3 * jnp.asarray(where, dtype)),
        loss_fn(*fouled, where))
  loss, gradients = _jit_grad(*fouled, np.zeros(SHAPE, np.float32))
  chex.assert_trees_all_equal(
      (loss, gradients), jax.tree.map(jnp.zeros_like, (loss, gradients)))


# Truncated importance sampling


def _old(seed):
  """Log-probs of the learner at the beginning, for `_batch(seed)`.

  Weights on both sides of a cap of 1.5, and ratios that are clipped or not.
  """
  _, behaviour, _, where = _batch(seed)
  rng = np.random.default_rng(seed + 100)
  weight = rng.choice([0.3, 0.9, 1.0, 1.4, 1.7, 4.0], SHAPE)
  weight = weight * (1 + 0.03 * rng.random(SHAPE))
  assert ((weight > 1.5) & where).sum() > 3 < ((weight < 1.5) & where).sum()
  return (behaviour + np.log(weight)).astype(np.float32)


def _capped(log_probs, old, behaviour, advantages, where, importance_cap=1.5):
  return _loss(log_probs, behaviour, advantages, where, old_log_probs=old,
               importance_cap=importance_cap)


_jit_capped = jax.jit(jax.value_and_grad(_capped, argnums=(0, 1, 2)))


@pytest.mark.parametrize('log_prob, old, advantage, loss, gradient', [
    # Behaviour 0.1, so pi_old 0.1 weighs 1; rho = pi / pi_old.
    (0.1, 0.1, 2.0, -2.0, -2.0),
    (0.125, 0.1, 2.0, -2.5, -2.5),
    (0.2, 0.1, 2.0, -2.6, 0.0),     # rho 2 is clipped to 1.3
    # Old 0.05 weighs 0.5, and rho is 2 although pi is the behaviour's.
    (0.1, 0.05, 2.0, -1.3, 0.0),    # 0.5 * 1.3 * 2
    (0.05, 0.05, -2.0, 1.0, 1.0),   # 0.5 * 1 * 2
    # Old 0.4 would weigh 4, and weighs the cap, 1.5.
    (0.4, 0.4, 2.0, -3.0, -3.0),    # 1.5 * 1 * 2
    (0.5, 0.4, -2.0, 3.75, 3.75),   # 1.5 * 1.25 * 2
    (0.2, 0.4, -2.0, 2.4, 0.0),     # 1.5 * 0.8 * 2, rho 0.5 is clipped
])
def test_golden_of_the_weight(log_prob, old, advantage, loss, gradient):
  actual, gradients = _jit_capped(
      *(np.log(np.array([x], np.float32)) for x in (log_prob, old, 0.1)),
      np.float32(advantage), np.ones(1, bool))
  np.testing.assert_allclose(
      (actual, gradients[0].item()), (loss, gradient), rtol=1e-5, atol=1e-7)
  # Neither the old policy nor the sampler has a gradient.
  np.testing.assert_array_equal(gradients[1:], 0)


@pytest.mark.parametrize('seed', range(10))
def test_weight_against_oracle_and_differences(seed):
  """NeMo-RL #2269: the ratio to the policy that drew the tokens."""
  log_probs, behaviour, advantages, where = _batch(seed)
  old = _old(seed)

  def oracle(x):
    return reference.surrogate_loss(
        x, behaviour, advantages, where, importance_cap=1.5, old=old)

  assert abs(oracle(log_probs) - reference.surrogate_loss(
      log_probs, behaviour, advantages, where)) > 1e-3
  loss, gradients = _jit_capped(log_probs, old, behaviour, advantages, where)
  np.testing.assert_allclose(loss, oracle(log_probs), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
      gradients[0], reference.numerical_gradient(oracle, log_probs),
      rtol=1e-3, atol=1e-6)
  for gradient in gradients[1:]:
    np.testing.assert_array_equal(gradient, 0)


def test_a_sampler_that_is_the_learner_weighs_nothing():
  """pi_old = behaviour: the weight is 1 under a cap of 1 or more."""
  log_probs, behaviour, advantages, where = _batch(11)
  np.testing.assert_array_equal(
      _capped(log_probs, behaviour, behaviour, advantages, where),
      _loss(log_probs, behaviour, advantages, where))


def test_without_a_cap_old_log_probs_are_not_read():
  batch = _batch(12)
  np.testing.assert_array_equal(
      _loss(*batch, old_log_probs=np.full(SHAPE, np.nan, np.float32)),
      _loss(*batch))
  with pytest.raises(ValueError, match='expected old_log_probs'):
    _loss(*batch, importance_cap=2.0)


@pytest.mark.parametrize('foul', FOUL)
def test_foul_padding_under_a_cap(foul):
  log_probs, behaviour, advantages, where = _batch(8)
  where[1] = False
  old, foul = _old(8), np.float32(foul)
  expected = _jit_capped(log_probs, old, behaviour, advantages, where)
  np.testing.assert_array_equal(np.asarray(expected[1][0])[~where], 0)
  for fouled in (
      (log_probs, np.where(where, old, foul), behaviour),
      (log_probs, old, np.where(where, behaviour, foul)),
      [np.where(where, x, foul) for x in (log_probs, old, behaviour)]):
    chex.assert_trees_all_equal(
        _jit_capped(*fouled, advantages, where), expected)
  loss, gradients = _jit_capped(
      *(np.full(SHAPE, foul) for _ in range(3)), advantages,
      np.zeros(SHAPE, bool))
  np.testing.assert_array_equal(loss, 0.0)
  chex.assert_trees_all_equal(
      gradients, jax.tree.map(jnp.zeros_like, gradients))


def test_a_weight_beyond_float32_is_the_cap():
  loss, gradients = _jit_capped(
      np.zeros(1, np.float32), np.zeros(1, np.float32),
      np.full(1, -200, np.float32), np.float32(1), np.ones(1, bool))
  np.testing.assert_allclose(
      (loss, gradients[0].item()), (-1.5, -1.5), rtol=1e-6)


def test_traces_once():
  examples.check_one_trace(
      lambda *batch: _loss(*batch, normaliser=batch[3].sum()),
      _batch(0), _batch(1))


def test_refuses_wrong_shapes():
  log_probs, behaviour, advantages, where = _batch(0)
  for wrong in (
      (log_probs, behaviour[:-1], advantages, where),
      (log_probs, behaviour, advantages[..., None], where),
      (log_probs, behaviour, advantages[:, :-1], where),
      (log_probs, behaviour, advantages, where[..., :-1]),
      (log_probs, behaviour, advantages, where[..., 0])):
    with pytest.raises(AssertionError):
      _loss(*wrong)
  with pytest.raises(AssertionError):
    _capped(log_probs, behaviour[:-1], behaviour, advantages, where)


def test_the_mask_is_keyword_only():
  with pytest.raises(TypeError):
    step_jax.clipped_surrogate_loss(*_batch(0))
