"""Writes checkpoints as Hugging Face names them, for transformers to load."""

import json
import pathlib
import shutil
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy

from step_jax.policies import base
from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import tensors as tensors_lib

if TYPE_CHECKING:  # its package is an extra of its own
  from step_jax.policies.qwen_vl import adapters

_WEIGHTS = ('config.json', '*.safetensors', '*.safetensors.index.json')


def save_policy(
    folder: pathlib.Path,
    policy: base.Policy,
    params: Any,
    *,
    source: pathlib.Path,
    lora: 'adapters.Lora | None' = None,
    dtype: Any = None,
) -> None:
  """Writes a folder that transformers and inference servers load.

  Args:
    folder: made, if need be.
    policy: of a checkpoint.
    params: that learn; adapters among them are merged.
    source: folder of the checkpoint, whose tokenizer, processor and generation
      settings are copied.
    lora: what the policy was made with.
    dtype: of the parameters in the files; by default the parameters'.
  """
  params = policy.frozen.join(params, policy.frozen.get())
  if lora is not None:
    from step_jax.policies.qwen_vl import adapters
    params = adapters.merge(params, lora)
  save_params(folder, checkpoint.read_config(source), params, dtype=dtype)
  for path in source.iterdir():
    if path.is_file() and not any(map(path.match, _WEIGHTS)):
      shutil.copy(path, folder)


def save_params(
    folder: pathlib.Path,
    config: config_lib.Config,
    params: Any,
    *,
    dtype: Any = None,
    max_shard_bytes: int = 4 << 30,
) -> None:
  """Writes what transformers loads: config.json and safetensors.

  The host holds one file at a time besides what the devices hold.

  Args:
    folder: is made if need be; files of the same names are overwritten.
    config: of the model.
    params: of `Model(config)`.
    dtype: of the file; by default the parameters'.
    max_shard_bytes: size of a file.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  values = config_lib.to_dict(config)
  values['dtype'] = str(jnp.dtype(
      dtype or jax.tree.leaves(params)[0].dtype))
  config_path = folder / 'config.json'
  config_path.write_text(json.dumps(values, indent=2) + '\n')
  leaves = tensors_lib.by_path(params)
  shards = _split(config, leaves, dtype, max_shard_bytes)
  weight_map: dict[str, str] = {}
  for number, shard in enumerate(shards, 1):
    file = 'model.safetensors' if len(shards) == 1 else (
        f'model-{number:05}-of-{len(shards):05}.safetensors')
    arrays = {
        name: _fetch(config, path, leaves[path], row, dtype)
        for name, path, row in shard}
    weight_map |= dict.fromkeys(arrays, file)
    safetensors_numpy.save_file(
        arrays, folder / file, metadata={'format': 'pt'})
    # It is for its owner alone, but a server may be somebody else.
    shutil.copymode(config_path, folder / file)
    del arrays
  index = folder / 'model.safetensors.index.json'
  index.unlink(missing_ok=True)
  if len(shards) > 1:
    index.write_text(json.dumps(
        {'metadata': {}, 'weight_map': weight_map}, indent=2) + '\n')


def _split(config, leaves, dtype, max_shard_bytes):
  """Lists of `(name, path, row)`, each list the content of one file."""
  shards: list[list[Any]] = [[]]
  size = 0
  for path, name in tensors_lib.names(config).items():
    leaf = leaves[path]
    layers = list(tensors_lib.layers(name, leaf.shape))
    bytes_each = leaf.size * jnp.dtype(
        dtype or leaf.dtype).itemsize // len(layers)
    for row, tensor in layers:
      if shards[-1] and size + bytes_each > max_shard_bytes:
        shards.append([])
        size = 0
      shards[-1].append((tensor, path, row))
      size += bytes_each
  return shards


def _fetch(config, path, leaf, row, dtype):
  """One tensor of a checkpoint, on the host."""
  array = np.asarray(leaf if row is None else leaf[row])
  if path.endswith('kernel'):
    array = array.T
  if path == 'vision/patch/kernel':
    vision = config.vision
    array = array.reshape(
        -1, vision.channels, vision.temporal_size, vision.patch_size,
        vision.patch_size)
  return np.ascontiguousarray(array, dtype or array.dtype)
