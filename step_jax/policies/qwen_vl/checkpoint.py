"""Checkpoints: safetensors as Hugging Face names them, in and out.

One tensor at a time: the host never holds a second copy of a model. The layers
of a file are the rows of our stacked arrays.
"""

from collections.abc import Iterator, Mapping
import contextlib
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import model as model_lib

# Ours -> theirs, `{}` being the layer; theirs are `[out, in]`, so that a leaf
# called kernel is transposed.
_TEXT = {
    'embed/embedding': 'model.embed_tokens.weight',
    'layers/attention_norm/scale': 'model.layers.{}.input_layernorm.weight',
    'layers/query/kernel': 'model.layers.{}.self_attn.q_proj.weight',
    'layers/query/bias': 'model.layers.{}.self_attn.q_proj.bias',
    'layers/key/kernel': 'model.layers.{}.self_attn.k_proj.weight',
    'layers/key/bias': 'model.layers.{}.self_attn.k_proj.bias',
    'layers/value/kernel': 'model.layers.{}.self_attn.v_proj.weight',
    'layers/value/bias': 'model.layers.{}.self_attn.v_proj.bias',
    'layers/output/kernel': 'model.layers.{}.self_attn.o_proj.weight',
    'layers/mlp_norm/scale': 'model.layers.{}.post_attention_layernorm.weight',
    'layers/gate/kernel': 'model.layers.{}.mlp.gate_proj.weight',
    'layers/up/kernel': 'model.layers.{}.mlp.up_proj.weight',
    'layers/down/kernel': 'model.layers.{}.mlp.down_proj.weight',
    'norm/scale': 'model.norm.weight',
    'head': 'lm_head.weight',
}
_VISION = {
    'patch/kernel': 'visual.patch_embed.proj.weight',
    'layers/attention_norm/scale': 'visual.blocks.{}.norm1.weight',
    'layers/attention_norm/bias': 'visual.blocks.{}.norm1.bias',
    'layers/qkv/kernel': 'visual.blocks.{}.attn.qkv.weight',
    'layers/qkv/bias': 'visual.blocks.{}.attn.qkv.bias',
    'layers/output/kernel': 'visual.blocks.{}.attn.proj.weight',
    'layers/output/bias': 'visual.blocks.{}.attn.proj.bias',
    'layers/mlp_norm/scale': 'visual.blocks.{}.norm2.weight',
    'layers/mlp_norm/bias': 'visual.blocks.{}.norm2.bias',
    'merger_norm/scale': 'visual.merger.ln_q.weight',
    'merger_norm/bias': 'visual.merger.ln_q.bias',
    'merger_in/kernel': 'visual.merger.mlp.0.weight',
    'merger_in/bias': 'visual.merger.mlp.0.bias',
    'merger_out/kernel': 'visual.merger.mlp.2.weight',
    'merger_out/bias': 'visual.merger.mlp.2.bias',
}
_VISION_MLP = {  # by `gated`
    False: {'up': 'fc1', 'down': 'fc2'},
    True: {'gate': 'gate_proj', 'up': 'up_proj', 'down': 'down_proj'},
}
# Newer transformers nest the two models deeper.
_PREFIXES = {
    'model.language_model.': 'model.', 'model.visual.': 'visual.'}
_IGNORED = ('rotary_emb.inv_freq',)  # what older versions saved besides


def names(config: config_lib.Config) -> dict[str, str]:
  """Our parameters' paths to a checkpoint's names, `{}` being the layer."""
  table = {'text/' + ours: theirs for ours, theirs in _TEXT.items()}
  if config.vision is not None:
    table |= {'vision/' + ours: theirs for ours, theirs in _VISION.items()}
    for ours, theirs in _VISION_MLP[config.vision.gated].items():
      for leaf, suffix in (('kernel', 'weight'), ('bias', 'bias')):
        table[f'vision/layers/{ours}/{leaf}'] = (
            f'visual.blocks.{{}}.mlp.{theirs}.{suffix}')
  return {path: table[path] for path in _shapes(config)}


def _shapes(config: config_lib.Config) -> dict[str, jax.ShapeDtypeStruct]:
  """The parameters by path."""
  abstract = jax.eval_shape(
      lambda key: model_lib.init_params(model_lib.Model(config), key),
      jax.random.key(0))
  return {_path(path): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(abstract)}


def _path(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


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
  table, shapes = names(config), _shapes(config)
  if isinstance(shardings, jax.sharding.Sharding):
    placed = {path: shardings for path in shapes}
  else:
    placed = {
        _path(path): leaf for path, leaf in
        jax.tree_util.tree_leaves_with_path(shardings)}
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
        tensors[canonical(key)] = file.get_slice(key)
  return tensors


def canonical(name: str) -> str:
  """The older, shorter name of a tensor."""
  for newer, older in _PREFIXES.items():
    if name.startswith(newer):
      return older + name.removeprefix(newer)
  return name


def _check(
    tensors: Mapping[str, Any],
    table: Mapping[str, str],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> None:
  """Refuses a checkpoint that is not the model's."""
  expected = {}
  for path, leaf in shapes.items():
    for _, name in _layers(table[path], leaf.shape):
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


def _layers(
    name: str, shape: tuple[int, ...]) -> Iterator[tuple[int | None, str]]:
  """The rows of a stacked parameter and the tensors that they are."""
  if '{}' not in name:
    yield None, name
  else:
    yield from ((row, name.format(row)) for row in range(shape[0]))


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
  leaves = {_path(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
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
    del arrays
  values = config_lib.to_dict(config)
  values['dtype'] = str(jnp.dtype(
      dtype or jax.tree.leaves(params)[0].dtype))
  (folder / 'config.json').write_text(json.dumps(values, indent=2) + '\n')
  index = folder / 'model.safetensors.index.json'
  index.unlink(missing_ok=True)
  if len(shards) > 1:
    index.write_text(json.dumps(
        {'metadata': {}, 'weight_map': weight_map}, indent=2) + '\n')


def _split(config, leaves, dtype, max_shard_bytes):
  """Lists of `(name, path, row)`, each list the content of one file."""
  shards: list[list[Any]] = [[]]
  size = 0
  for path, name in names(config).items():
    leaf = leaves[path]
    layers = list(_layers(name, leaf.shape))
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
