"""Reads checkpoints: safetensors as Hugging Face names them.

One tensor at a time: the host never holds a second copy of a model.
"""

from collections.abc import Mapping
import contextlib
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import tensors as tensors_lib

_IGNORED = ('rotary_emb.inv_freq',)  # what older versions saved besides


def read_config(folder: pathlib.Path) -> config_lib.Config:
  """The configuration of a checkpoint.

  Raises:
    ValueError: if there is none, or one that is not supported.
  """
  path = pathlib.Path(folder) / 'config.json'
  if not path.exists():
    raise ValueError(f'expected config.json in {folder}, got none')
  try:
    values = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'expected JSON in {path}: {error}') from error
  return config_lib.from_dict(values)


def load_params(
    folder: pathlib.Path,
    config: config_lib.Config,
    *,
    shardings: Any = None,
    dtype: Any = jnp.float32,
) -> Any:
  """Reads parameters straight into place, each shard from its own bytes.

  The host holds one shard of one stacked parameter at a time besides what the
  devices hold.

  Args:
    folder: holds model.safetensors, or several with their index.
    config: of the model, see `read_config`.
    shardings: one for all, or a pytree of them like the parameters; by default
      everything on the first device.
    dtype: of the parameters.

  Returns:
    Parameters for `Model(config)`.

  Raises:
    ValueError: if tensors are missing, left over or of another shape.
  """
  if shardings is None:
    shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  table, shapes = tensors_lib.names(config), tensors_lib.shapes(config)
  if isinstance(shardings, jax.sharding.Sharding):
    placed = {path: shardings for path in shapes}
  else:
    placed = tensors_lib.by_path(shardings)
  with contextlib.ExitStack() as stack:
    tensors = _open(pathlib.Path(folder), stack)
    _check(tensors, table, shapes)
    loaded = {}
    for path, leaf in shapes.items():
      loaded[path] = jax.make_array_from_callback(
          leaf.shape, placed[path], functools.partial(
              _read_shard, tensors, table[path], path, leaf.shape, dtype))
      loaded[path].block_until_ready()
  return _nest(loaded)


def _nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *parents, name = path.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def _open(
    folder: pathlib.Path, stack: contextlib.ExitStack) -> dict[str, Any]:
  """Every tensor of a checkpoint by its canonical name, not yet read."""
  index = folder / 'model.safetensors.index.json'
  files = {'model.safetensors'}
  if index.exists():
    files = set(json.loads(index.read_text())['weight_map'].values())
  tensors = {}
  for name in sorted(files):
    path = folder / name
    if path.name != name or not path.exists():
      raise ValueError(f'expected the weights {name} in {folder}, got none')
    file = stack.enter_context(safetensors.safe_open(path, 'numpy'))
    for key in file.keys():
      if not key.endswith(_IGNORED):
        tensors[tensors_lib.canonical(key)] = file.get_slice(key)
  return tensors


def _check(
    tensors: Mapping[str, Any],
    table: Mapping[str, str],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
  """Refuses a checkpoint that is not the model's."""
  expected = {}
  for path, leaf in shapes.items():
    for _, name in tensors_lib.layers(table[path], leaf.shape):
      expected[name] = _theirs(path, leaf.shape)
  missing = sorted(expected.keys() - tensors.keys())
  extra = sorted(tensors.keys() - expected.keys() - {'lm_head.weight'})
  if missing or extra:
    raise ValueError(
        f'expected the tensors of config.json, got {len(missing)} missing '
        f'{missing[:3]} and {len(extra)} more {extra[:3]}')
  for name, shape in expected.items():
    found = tuple(tensors[name].get_shape())
    if name == table.get('vision/patch/kernel'):  # a convolution's
      found = (found[0], int(np.prod(found[1:])))
    if found != shape:
      raise ValueError(f'expected {name} of shape {shape}, got {found}')


def _theirs(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Shape of one tensor in a checkpoint."""
  shape = shape[1:] if '/layers/' in path else shape
  return shape[::-1] if path.endswith('kernel') else shape


def _read_shard(tensors, name, path, shape, dtype, index):
  """Reads the part `index` of one parameter."""
  index = [range(size)[part] for part, size in zip(index, shape)]
  shard = np.empty([len(part) for part in index], dtype)
  if '{}' not in name:
    shard[...] = _read(tensors[name], path, index)
    return shard
  for row, layer in enumerate(index[0]):
    shard[row] = _read(tensors[name.format(layer)], path, index[1:])
  return shard


def _read(tensor, path, index):
  """Part of a tensor, turned into ours."""
  parts = [slice(part.start, part.stop) for part in index]
  if not path.endswith('kernel'):
    return tensor[tuple(parts)]
  rows, columns = parts[1], parts[0]
  if len(tensor.get_shape()) > 2:  # a convolution over whole patches
    part = tensor[rows]
    return part.reshape(len(part), -1)[:, columns].T
  return tensor[rows, columns].T
