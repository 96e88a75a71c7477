"""Clipped gradients are optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from step_jax.learning import clipping


@pytest.mark.parametrize('max_norm, expected', [
    (10., [3., 4.]), (5., [3., 4.]), (2.5, [1.5, 2.]), (.5, [.3, .4])])
def test_a_norm_of_5(max_norm, expected):
  gradients = {'a': jnp.array([3.]), 'b': jnp.array([[4.]])}
  clipped, _ = jax.jit(clipping.clip_by_global_norm(max_norm).update)(
      gradients, optax.EmptyState())
  np.testing.assert_allclose(
      [clipped['a'].item(), clipped['b'].item()], expected, rtol=1e-6)


@jax.jit
def _both(gradients):
  """What our clipping and optax's make of gradients."""
  return [
      transformation.update(gradients, transformation.init(gradients))[0]
      for transformation in (clipping.clip_by_global_norm(.3),
                             optax.clip_by_global_norm(.3))]


@pytest.mark.parametrize('dtype, rtol', [
    (jnp.float32, 1e-6), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize('scale', [0., 1e-3, 1., 1e6])
def test_it_is_that_of_optax(scale, dtype, rtol):
  rng = np.random.default_rng(0)
  gradients = [(scale * rng.normal(size=shape)).astype(dtype)
               for shape in ((3, 5), (7,))]
  for one, other in zip(*jax.device_get(_both(gradients)), strict=True):
    assert one.dtype == dtype
    np.testing.assert_allclose(
        one.astype(np.float32), other.astype(np.float32), rtol=rtol)
