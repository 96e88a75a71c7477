"""Checkpoints: what transformers saved, round trips, placement and memory."""

import dataclasses
import json
import shutil
import subprocess
import sys
import tracemalloc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from safetensors import numpy as safetensors_numpy

from step_jax.policies import base
from step_jax.policies import placement
from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import policy as policy_lib
from step_jax.policies.qwen_vl import saving
from tests import qwen_vl_examples as examples


def _tensors(folder):
  """Every tensor of a folder, by name."""
  tensors = {}
  for path in folder.glob('*.safetensors'):
    with safetensors.safe_open(path, 'numpy') as file:
      tensors |= {name: file.get_tensor(name) for name in file.keys()}
  return tensors


@pytest.mark.parametrize('name', examples.MODELS)
def test_round_trip_gives_transformers_its_tensors_back(name, tmp_path):
  """Load what transformers saved, save: the same names, bits and types."""
  source = examples.DATA / name
  config = checkpoint.read_config(source)
  params = checkpoint.load_params(source, config, dtype=jnp.bfloat16)
  saving.save_params(tmp_path, config, params, max_shard_bytes=9_000)
  files = list(tmp_path.glob('*.safetensors'))
  assert len(files) > 1
  assert max(file.stat().st_size for file in files) < 15_000
  assert {file.stat().st_mode for file in tmp_path.iterdir()} == {
      (tmp_path / 'config.json').stat().st_mode}  # whoever may read that
  saved, expected = _tensors(tmp_path), _tensors(source)
  assert saved.keys() == expected.keys()
  for key, tensor in expected.items():
    assert saved[key].dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        saved[key], tensor.astype(jnp.bfloat16), err_msg=key)
  assert checkpoint.read_config(tmp_path) == config
  again = checkpoint.load_params(tmp_path, config, dtype=jnp.bfloat16)
  assert jax.tree.structure(again) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_the_deeper_names_of_newer_files(tmp_path):
  name = 'qwen2_5_vl_untied'
  shutil.copy(examples.DATA / name / 'config.json', tmp_path)
  deeper = {
      key.replace('model.', 'model.language_model.', 1).replace(
          'visual.', 'model.visual.', 1): tensor
      for key, tensor in _tensors(examples.DATA / name).items()}
  assert 'model.visual.merger.ln_q.weight' in deeper
  safetensors_numpy.save_file(deeper, tmp_path / 'model.safetensors')
  config = checkpoint.read_config(tmp_path)
  jax.tree.map(
      np.testing.assert_array_equal,
      checkpoint.load_params(tmp_path, config), examples.load(name)[1])


_SHARDED = """
import pathlib, sys
import jax
import numpy as np
from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import saving
folder = pathlib.Path(sys.argv[1])
config = checkpoint.read_config(folder)
plain = checkpoint.load_params(folder, config)
mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ('a', 'b'))
def spec(x):
  # Each parameter over the last axes that divide.
  names = [None] * x.ndim
  for axis, name in zip(reversed(range(x.ndim)), ('a', 'b')):
    names[axis] = name if x.shape[axis] % 2 == 0 else None
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*names))
shardings = jax.tree.map(spec, plain)
placed = checkpoint.load_params(folder, config, shardings=shardings)
jax.tree.map(np.testing.assert_array_equal, placed, plain)
for leaf, sharding in zip(*map(jax.tree.leaves, (placed, shardings))):
  assert leaf.sharding == sharding
print(sum(not x.is_fully_replicated for x in jax.tree.leaves(placed)))
saving.save_params(folder / 'out', config, placed)
again = checkpoint.load_params(folder / 'out', config)
jax.tree.map(np.testing.assert_array_equal, again, plain)
"""


def test_each_device_gets_its_part(tmp_path):
  """Four emulated devices, so in a process of its own."""
  folder = tmp_path / 'model'
  shutil.copytree(examples.DATA / 'qwen2_vl_tied', folder)
  result = subprocess.run(
      [sys.executable, '-c', _SHARDED, folder], text=True, check=True,
      capture_output=True, timeout=120, env={
          'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
          'JAX_PLATFORMS': 'cpu',
          'PYTHONPATH': str(examples.DATA.parents[2])})
  assert int(result.stdout) > 20


def test_the_host_holds_no_second_copy(tmp_path):
  """Numpy's memory while loading; on CPU the arrays themselves are in it."""
  model, _, _ = examples.load('llama_untied')
  config = dataclasses.replace(model.config, text=dataclasses.replace(
      model.config.text, num_layers=24, width=96))
  shapes = jax.eval_shape(
      lambda key: model_lib.init_params(model_lib.Model(config), key),
      jax.random.key(0))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
      lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
  sizes = [leaf.nbytes for leaf in jax.tree.leaves(params)]
  assert max(sizes) < sum(sizes) / 5
  saving.save_params(tmp_path, config, params)
  checkpoint.load_params(tmp_path, config)  # compiles what there is to compile
  tracemalloc.start()
  try:
    loaded = checkpoint.load_params(tmp_path, config)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  print(f'model {sum(sizes):,}, largest {max(sizes):,}, peak {peak:,} bytes')
  assert peak < sum(sizes) + 2 * max(sizes)
  jax.tree.map(np.testing.assert_array_equal, loaded, params)


@pytest.mark.parametrize('change,message', [
    (lambda tensors: tensors.pop('model.norm.weight'),
     "1 missing .'model.norm.weight'. and 0 more"),
    (lambda tensors: tensors.update(other=np.zeros(3)),
     "0 missing .. and 1 more .'other'."),
    (lambda tensors: tensors.update({'model.norm.weight': np.zeros(25)}),
     r'expected model.norm.weight of shape \(24,\), got \(25,\)'),
])
def test_load_refuses(change, message, tmp_path):
  name = 'llama_tied'
  shutil.copy(examples.DATA / name / 'config.json', tmp_path)
  tensors = _tensors(examples.DATA / name)
  change(tensors)
  safetensors_numpy.save_file(tensors, tmp_path / 'model.safetensors')
  with pytest.raises(ValueError, match=message):
    checkpoint.load_params(tmp_path, checkpoint.read_config(tmp_path))


def test_load_refuses_missing_files(tmp_path):
  with pytest.raises(ValueError, match='expected config.json in'):
    checkpoint.read_config(tmp_path)
  shutil.copy(examples.DATA / 'llama_tied' / 'config.json', tmp_path)
  config = checkpoint.read_config(tmp_path)
  with pytest.raises(ValueError, match='the weights model.safetensors in'):
    checkpoint.load_params(tmp_path, config)
  (tmp_path / 'model.safetensors.index.json').write_text(json.dumps(
      {'weight_map': {'model.norm.weight': '../elsewhere.safetensors'}}))
  with pytest.raises(ValueError, match='weights ../elsewhere.safetensors'):
    checkpoint.load_params(tmp_path, config)


def test_shapes_are_known_without_the_weights(tmp_path):
  """So that a resumed run reads its own checkpoint alone."""
  name = 'qwen2_5_vl_untied'
  shutil.copytree(examples.DATA / name, tmp_path / name)
  init = policy_lib._initialiser(
      tmp_path / name, examples.load(name)[0], placement.NOWHERE, jnp.bfloat16)
  params = init(jax.random.key(0))
  (tmp_path / name / 'model.safetensors').unlink()
  shapes = jax.eval_shape(init, jax.random.key(0))
  chex.assert_trees_all_equal_shapes_and_dtypes(shapes, params)
  with pytest.raises(base.InputError, match='expected the weights'):
    init(jax.random.key(0))
