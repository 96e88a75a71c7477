"""Where the model lies on a mesh (see `policies.placement`).

A parameter is cut along both axes, so that a device keeps its share of it and
of its moments. A layer's are gathered along 'data' when it computes, and their
gradients are cut again at once; along 'model' a layer computes its own heads
and hidden units. The tables of tokens are cut by token and never gathered: a
head reads all rows against its part, since rows are far smaller than tables.
"""

import functools
from typing import Any

import flax.linen as nn
import jax

from step_jax.policies import placement as placement_lib

Spec = placement_lib.Spec

_INTO = ('query', 'key', 'value', 'qkv', 'gate', 'up')  # of heads, or hidden
_OUT_OF = ('output', 'down')
_LAYER = {
    **{f'{name}/kernel': ('data', 'model') for name in _INTO},
    **{f'{name}/bias': ('model',) for name in _INTO},
    **{f'{name}/kernel': ('model', 'data') for name in _OUT_OF}}
_WHOLE = ('qkv/kernel', 'qkv/bias')  # three in one: no cut of it is of heads

RULES: placement_lib.Rules = (
    *((f'layers/{name}$', Spec(None, *axes))  # stacked
      for name, axes in _LAYER.items()),
    ('(embedding|head)$', Spec(('data', 'model'))),
    ('merger_in/kernel$', Spec('data', 'model')),
    ('merger_out/kernel$', Spec('model', 'data')))


def wrap(
    layer: type[nn.Module], placement: placement_lib.Placement, remat: bool
) -> type[nn.Module]:
  """The class of a layer that gathers its parameters when it computes.

  With `remat` it does both again in the backward pass.
  """
  if placement.mesh is not None:
    layer = nn.map_variables(
        layer, 'params', functools.partial(_gather, placement))
  return nn.remat(layer, prevent_cse=False) if remat else layer


def _gather(placement: placement_lib.Placement, variables: Any) -> Any:
  """`{'params': ...}` of one layer, not stacked, as it computes with them."""
  def use(path, leaf):
    name = jax.tree_util.keystr(path[1:], simple=True, separator='/')
    axes = _LAYER.get(name, ())
    used = tuple(None if axis == 'data' or name in _WHOLE else axis
                 for axis in axes)
    return _use(placement, axes, used, leaf)
  return jax.tree_util.tree_map_with_path(use, variables)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _use(placement, axes, used, leaf):
  """`leaf` cut along `used`, whose gradient is cut along `axes`."""
  del axes
  return placement.cut(leaf, *used)


_use.defvjp(
    lambda placement, axes, used, leaf: (
        _use(placement, axes, used, leaf), None),
    lambda placement, axes, used, _, gradient: (
        placement.cut(gradient, *axes),))
