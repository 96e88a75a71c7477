"""What a checkpoint calls our parameters, one by one.

The layers of a file are the rows of our stacked arrays.
"""

from collections.abc import Iterator, Mapping
import functools
import types
from typing import Any

import jax

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


def names(config: config_lib.Config) -> dict[str, str]:
  """Our parameters' paths to a checkpoint's names, `{}` being the layer."""
  table = {'text/' + ours: theirs for ours, theirs in _TEXT.items()}
  if config.vision is not None:
    table |= {'vision/' + ours: theirs for ours, theirs in _VISION.items()}
    for ours, theirs in _VISION_MLP[config.vision.gated].items():
      for leaf, suffix in (('kernel', 'weight'), ('bias', 'bias')):
        table[f'vision/layers/{ours}/{leaf}'] = (
            f'visual.blocks.{{}}.mlp.{theirs}.{suffix}')
  return {path: table[path] for path in shapes(config)}


@functools.cache  # as a model is traced for it
def shapes(config: config_lib.Config) -> Mapping[str, jax.ShapeDtypeStruct]:
  """The parameters by path."""
  return types.MappingProxyType(by_path(jax.eval_shape(
      lambda key: model_lib.init_params(model_lib.Model(config), key),
      jax.random.key(0))))


def by_path(tree: Any) -> dict[str, Any]:
  """The leaves of a tree like the parameters by their paths, `a/b/c`."""
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def canonical(name: str) -> str:
  """The older, shorter name of a tensor."""
  for newer, older in _PREFIXES.items():
    if name.startswith(newer):
      return older + name.removeprefix(newer)
  return name


def layers(
    name: str, shape: tuple[int, ...]) -> Iterator[tuple[int | None, str]]:
  """The rows of a stacked parameter and the tensors that they are."""
  if '{}' not in name:
    yield None, name
  else:
    yield from ((row, name.format(row)) for row in range(shape[0]))
