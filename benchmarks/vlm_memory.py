"""Memory of the 7B models: what formulas say, and what XLA places.

  python benchmarks/vlm_memory.py [--meshes=8x1,4x2,16x1,8x4]

Prints the tables of docs/vlm.md. Nothing is executed: parameters and optimiser
state are abstract, activations are what `jax.vjp` of the abstract model keeps,
and for each number of emulated CPU devices one update (loss, gradients, AdamW)
is compiled ahead of time in a process of its own, placed on the mesh of
data x model as a run places it. Temporaries are as XLA counts them for a CPU,
which holds bfloat16 products in float32: not what a GPU or a TPU takes.
"""

import dataclasses
import functools
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from step_jax.algorithm import losses
from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import adapters
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import placement as qwen_vl_placement
from step_jax.policies.qwen_vl import text as text_lib
from step_jax.policies.qwen_vl import vision as vision_lib

_MESHES = flags.DEFINE_list(
    'meshes', ['8x1', '4x2', '16x1', '8x4'], 'data x model, to compile for')
_LORA = flags.DEFINE_integer('lora', 0, 'rank of adapters that learn alone')
_COMPILE = flags.DEFINE_list('compile', None, 'a model and its mesh, here')

PROMPT, RESPONSE = 1500, 128  # tokens
GRID = (1, 52, 94)  # a screenshot of 1316 x 728 in patches of 14 x 14
ATTENTION_CHUNK, HEAD_CHUNK, NUM_CANDIDATES = 256, 64, 8

# From the config.json of Qwen/Qwen2-VL-7B-Instruct and
# Qwen/Qwen2.5-VL-7B-Instruct on the Hugging Face hub, which UI-TARS-7B-DPO and
# UI-TARS-1.5-7B were trained from.
_TEXT = {
    'hidden_size': 3584, 'intermediate_size': 18944, 'num_hidden_layers': 28,
    'num_attention_heads': 28, 'num_key_value_heads': 4, 'rms_norm_eps': 1e-6,
    'rope_theta': 1e6, 'tie_word_embeddings': False, 'vocab_size': 152064,
    'rope_scaling': {'type': 'mrope', 'mrope_section': [16, 24, 24]},
    'image_token_id': 151655,
}
CONFIGS = {
    'Qwen2-VL-7B': config_lib.from_dict(_TEXT | {
        'model_type': 'qwen2_vl', 'vision_config': {
            'depth': 32, 'embed_dim': 1280, 'mlp_ratio': 4, 'num_heads': 16,
            'hidden_size': 3584}}),
    'Qwen2.5-VL-7B': config_lib.from_dict(_TEXT | {
        'model_type': 'qwen2_5_vl', 'vision_config': {
            'depth': 32, 'hidden_size': 1280, 'intermediate_size': 3420,
            'num_heads': 16, 'out_hidden_size': 3584, 'window_size': 112,
            'fullatt_block_indexes': [7, 15, 23, 31]}}),
}
_STATES = {  # dtypes of parameters and of Adam's first moment
    'float32': (jnp.float32, None),
    'float32, first moment bfloat16': (jnp.float32, jnp.bfloat16),
    'bfloat16': (jnp.bfloat16, None),
}


def num_bytes(tree: Any) -> int:
  """Bytes of a pytree of arrays or of their shapes."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def abstract_params(config: config_lib.Config, dtype: Any = jnp.float32) -> Any:
  """Shapes of the parameters."""
  return jax.eval_shape(
      lambda key: jax.tree.map(
          lambda x: x.astype(dtype),
          model_lib.init_params(model_lib.Model(config), key)),
      jax.random.key(0))


def row_inputs(
    config: config_lib.Config, grid: tuple[int, int, int], num_tokens: int,
) -> inputs_lib.Inputs:
  """One row of tokens that begins with one picture."""
  vision = config.vision
  num_image_tokens = int(np.prod(grid)) // vision.merge_size**2
  ids = np.zeros((1, num_tokens), int)
  ids[0, :num_image_tokens] = config.image_token_id
  return inputs_lib.make_inputs(
      config, ids, np.ones_like(ids, bool),
      np.zeros((np.prod(grid), vision.patch_width), np.float32),
      np.array([grid]))


def kept_bytes(part: Any, params: Any, *args: Any) -> int:
  """What the forward pass of a module keeps for the backward pass.

  Args:
    part: a module without parameters in it.
    params: its parameters or their shapes; they are not counted.
    *args: what it is applied to.

  Returns:
    Bytes as `jax.vjp` lists them; XLA merges some of it away.
  """
  residuals = jax.eval_shape(
      lambda params: jax.vjp(
          lambda params: part.apply({'params': params}, *args), params)[1],
      params)
  kinds = {(x.shape, x.dtype) for x in jax.tree.leaves(params)}
  return num_bytes([
      x for x in jax.tree.leaves(residuals)
      if (x.shape, x.dtype) not in kinds])


def activations(
    config: config_lib.Config,
    inputs: inputs_lib.Inputs,
    part: str,
    dtype: Any = jnp.bfloat16,
    chunk: int | None = ATTENTION_CHUNK,
) -> tuple[int, int]:
  """Bytes of activations of one row, layers recomputed.

  Args:
    config: of the model.
    inputs: one row.
    part: 'text' or 'vision'.
    dtype: of products; the parameters are float32.
    chunk: queries at a time.

  Returns:
    What is kept until the backward pass, an input for each layer above all;
    and what the one layer that is computed again adds, among it the copies of
    its kernels in `dtype`.
  """
  if part == 'text':
    kind = text_lib.TextModel
    embedded = np.zeros((*inputs.input_ids.shape, config.text.width), dtype)
    args = (embedded, inputs.positions, inputs.where)
  else:
    kind, args = vision_lib.VisionModel, (inputs.images,)

  def kept(num_layers, remat):
    shape = dataclasses.replace(getattr(config, part), num_layers=num_layers)
    params = abstract_params(dataclasses.replace(config, **{part: shape}))
    return kept_bytes(kind(shape, dtype, remat, chunk), params[part], *args)

  return (kept(getattr(config, part).num_layers, True),
          kept(1, False) - kept(1, True))


def cache_bytes(text: config_lib.TextConfig, num_tokens: int) -> int:
  """Bytes of bfloat16 keys and values."""
  return (2 * 2 * text.num_layers * text.num_key_heads * text.head_width
          * num_tokens)


def _print_formulas(name: str, config: config_lib.Config) -> None:
  """What needs no compilation, in units of 10^9 bytes."""
  count = sum(x.size for x in jax.tree.leaves(abstract_params(config)))
  print(f'\n{name}: {count:,} parameters')
  print('state | parameters | gradients | moments | sum | on 8 | on 16 | on 32')
  for title, (dtype, mu_dtype) in _STATES.items():
    params = abstract_params(config, dtype)
    moments = jax.eval_shape(
        optax.adamw(1e-6, mu_dtype=mu_dtype).init, params)
    sizes = [num_bytes(params), num_bytes(params), num_bytes(moments)]
    total = sum(sizes)
    print(title, *(f'{size / 1e9:.2f}' for size in (
        *sizes, total, total / 8, total / 16, total / 32)), sep=' | ')
  inputs = row_inputs(config, GRID, PROMPT + RESPONSE)
  print('a row: inputs', f'{num_bytes(inputs) / 1e9:.3f}', end='')
  for part in ('text', 'vision'):
    kept, layer = activations(config, inputs, part)
    print(f', {part} kept {kept / 1e9:.3f}, one layer again {layer / 1e9:.3f}',
          end='')
  head = 2 * 4 * HEAD_CHUNK * config.text.vocabulary
  print(f', logits of a chunk and their gradient {head / 1e9:.3f}', end='')
  prompt, response = (
      cache_bytes(config.text, tokens) / 1e9 for tokens in (PROMPT, RESPONSE))
  print(f'\nkeys and values: prompt {prompt:.3f}, response {response:.4f}, '
        f'{NUM_CANDIDATES} responses that share the prompt '
        f'{prompt + NUM_CANDIDATES * response:.3f}, apart '
        f'{NUM_CANDIDATES * (prompt + response):.3f}', flush=True)


def _compile_update(
    config: config_lib.Config, axes: dict[str, int]) -> tuple[Any, int]:
  """One update on a mesh of this process, and the bytes of an even cut."""
  mesh = placement_lib.make_mesh(axes)
  placement = placement_lib.Placement(mesh, qwen_vl_placement.RULES)
  model = model_lib.Model(
      config, dtype=jnp.bfloat16, remat=True, attention_chunk=ATTENTION_CHUNK,
      placement=placement)
  optimizer = optax.adamw(1e-6)
  params, frozen = abstract_params(config), {}
  if _LORA.value:
    frozen = abstract_params(config, jnp.bfloat16)
    model = adapters.adapt(model, adapters.Lora(_LORA.value, 32.))
    params = jax.eval_shape(
        functools.partial(adapters.init, model), jax.random.key(0))
  params, opt_state, frozen = placement.structs(
      (params, jax.eval_shape(optimizer.init, params), frozen))
  batch = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
          (axes['data'], *x.shape[1:]), x.dtype,
          sharding=mesh and jax.NamedSharding(mesh, jax.P('data'))),
      (row_inputs(config, GRID, PROMPT + RESPONSE),
       np.zeros((1, RESPONSE), np.int32), np.zeros((1, RESPONSE), np.float32),
       np.zeros(1, np.float32)))

  def loss_fn(params, frozen, inputs, tokens, behaviour_log_probs, advantages):
    params = adapters.join(params, frozen) if frozen else params
    log_probs, _ = model.apply(
        {'params': params}, inputs, tokens, start=PROMPT - 1,
        chunk=HEAD_CHUNK, method='log_probs')
    return losses.clipped_surrogate_loss(
        log_probs, behaviour_log_probs, advantages,
        where=jnp.ones_like(tokens, bool))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def update(params, opt_state, frozen, batch):
    gradients = placement.pin(jax.grad(loss_fn)(params, frozen, *batch))
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return placement.pin((optax.apply_updates(params, updates), opt_state))

  even = num_bytes((params, opt_state, frozen, batch)) // (
      mesh.size if mesh else 1)
  return update.lower(params, opt_state, frozen, batch).compile(), even


def largest_exchange(program: str) -> tuple[int, str]:
  """Bytes and text of the largest array that devices gather or add up."""
  found = re.findall(
      r'= (\(?(?:f32|bf16)\[[^=]*?) (all-gather|all-reduce)(?:-start)?\(',
      program)
  sizes = []
  for arrays, kind in found:
    for dtype, shape in re.findall(r'(f32|bf16)\[([\d,]+)\]', arrays):
      size = np.prod([int(side) for side in shape.split(',')])
      width = {'f32': 4, 'bf16': 2}[dtype]
      sizes.append((int(size) * width, f'{kind} {dtype}[{shape}]'))
  return max(sizes, default=(0, 'none'))


def main(_):
  """Prints the tables, or compiles for the devices of this process."""
  if _COMPILE.value:
    start = time.monotonic()
    name, sizes = _COMPILE.value
    compiled, even = _compile_update(CONFIGS[name], dict(zip(
        ('data', 'model'), map(int, sizes.split('x')))))
    placed = compiled.memory_analysis()
    size, what = largest_exchange(compiled.as_text())
    print(f'{name} | {sizes} | '
          f'{placed.argument_size_in_bytes / 1e9:.3f} | {even / 1e9:.3f} | '
          f'{placed.alias_size_in_bytes / 1e9:.3f} | '
          f'{placed.temp_size_in_bytes / 1e9:.3f} | {what}, '
          f'{size / 1e9:.2f} | {time.monotonic() - start:.0f} s', flush=True)
    return
  for name, config in CONFIGS.items():
    _print_formulas(name, config)
  print('\nmodel | data x model | arguments on each, 10^9 bytes | if all is '
        'cut evenly | reused for results | temporaries | largest exchange | '
        'compiling', flush=True)
  for name in CONFIGS:
    for sizes in _MESHES.value:
      count = np.prod([int(size) for size in sizes.split('x')])
      subprocess.run(
          [sys.executable, __file__, f'--compile={name},{sizes}',
           f'--lora={_LORA.value}'], check=True,
          env=os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': (
              f'--xla_force_host_platform_device_count={count}')})


if __name__ == '__main__':
  app.run(main)
