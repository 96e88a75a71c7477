"""Meshes, rules, and a model on eight emulated devices."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from experiments import policies
from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import placement as qwen_vl_placement
from step_jax.policies.qwen_vl import tensors
from step_jax.runs import errors
from tests import mesh_examples


class _Device:
  """Enough of a device for a mesh that nothing is put on."""
  process_index = 0
  platform = 'cpu'

  def __init__(self, number):
    self.id = number


def _make(data, model, number=8):
  return placement_lib.make_mesh(
      {'data': data, 'model': model}, [_Device(i) for i in range(number)])


@pytest.mark.parametrize('axes, expected', [
    ((-1, 1), (8, 1)), ((-1, 2), (4, 2)), ((2, -1), (2, 4)), ((2, 2), (2, 2))])
def test_an_axis_takes_what_is_left(axes, expected):
  mesh = _make(*axes)
  assert tuple(mesh.shape.items()) == (
      ('data', expected[0]), ('model', expected[1]))


def test_one_device_is_no_mesh():
  assert _make(-1, 1, number=1) is None
  assert _make(1, 1) is None
  placement = placement_lib.Placement(None, qwen_vl_placement.RULES)
  x = jnp.ones(3)
  for same in (placement.cut, placement.rows, placement.pin, placement.place,
               placement.structs):
    assert same(x) is x
  assert placement.pad(3) == 3
  assert placement.shardings(x) is None


@pytest.mark.parametrize('axes', [
    (-1, -1), (0, 1), (-2, 1), (3, -1), (-1, 16), (16, 1)])
def test_a_mesh_that_does_not_fit_is_told(axes):
  with pytest.raises(ValueError, match=f"'data': {axes[0]}"):
    _make(*axes)
  config = common.base_config()
  config.mesh.data, config.mesh.model = axes
  with pytest.raises(errors.UserError, match='config.mesh: expected'):
    policies.make_placement(config)


def test_rows_are_padded_to_what_can_be_cut():
  placement = placement_lib.Placement(_make(4, 2))
  assert [placement.pad(rows) for rows in (1, 4, 5)] == [4, 4, 8]


def test_rules_cut_parameters_and_whatever_is_named_like_them():
  """By hand, on 4 x 2; what does not divide stays whole."""
  placement = placement_lib.Placement(_make(4, 2), qwen_vl_placement.RULES)
  shapes = dict(tensors.shapes(mesh_examples.CONFIG))
  specs = {path: sharding.spec for path, sharding in tensors.by_path(
      placement.shardings({'mu': shapes})).items()}
  for path, expected in (
      ('text/layers/query/kernel', (None, 'data', 'model')),
      ('text/layers/query/bias', (None, 'model')),
      ('text/layers/down/kernel', (None, 'model', 'data')),
      ('text/layers/mlp_norm/scale', ()),
      ('text/embed/embedding', (('data', 'model'),)),
      ('text/head', (('data', 'model'),)),
      ('vision/merger_in/kernel', ('data', 'model'))):
    assert tuple(specs[f'mu/{path}']) == expected, path
  odd = {'head': jax.ShapeDtypeStruct((12, 8), np.float32)}
  assert tuple(placement.shardings(odd)['head'].spec) == (None,)


def test_a_model_on_a_mesh_is_that_on_one_device():
  """`python -m tests.mesh_examples 8 1` does so on other meshes."""
  result = subprocess.run(
      [sys.executable, '-m', 'tests.mesh_examples', '4', '2'],
      env=os.environ | {
          'JAX_PLATFORMS': 'cpu', 'NPROC': '16',  # a thread for each device
          'XLA_FLAGS': os.environ.get('XLA_FLAGS', '')
          + ' --xla_force_host_platform_device_count=8'},
      capture_output=True, text=True, timeout=300, check=False)
  assert result.returncode == 0, result.stderr
  assert 'rematerialization' not in result.stderr
