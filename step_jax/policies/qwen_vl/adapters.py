"""Low-rank adapters beside a model whose own parameters stay as they are.

A dense layer W gives x W + alpha / rank * x A B (LoRA, arXiv 2106.09685); B
begins as zeros, so that fresh adapters change nothing. qwix puts them into the
layers; A and B lie in the tree of parameters beside their kernel, stacked by
layer as it is.
"""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import qwix

from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import text as text_lib

_A, _B = 'kernel_lora_a', 'kernel_lora_b'
_METHODS = ('__call__', 'hidden', 'prefill', 'respond')  # through the layers


class Lora(NamedTuple):
  """Which layers of the decoder have adapters, and of what size."""
  rank: int
  alpha: float
  targets: tuple[str, ...] = text_lib.KERNELS


def adapt(model: model_lib.Model, lora: Lora) -> model_lib.Model:
  """The same model with adapters: it reads what `join` makes."""
  targets = '|'.join(lora.targets)
  rule = qwix.LoraRule(
      module_path=f'text/layers/({targets})', rank=lora.rank, alpha=lora.alpha)
  return qwix.apply_lora_to_model(
      model, qwix.LoraProvider([rule]), methods=_METHODS)


def init(model: model_lib.Model, rng_key: chex.PRNGKey) -> Any:
  """Fresh adapters of an adapted model, float32; under jit nothing else."""
  return _only_adapters(model_lib.init_params(model, rng_key))


def join(adapters: Any, params: Any) -> Any:
  """One tree of adapters `[layers, ...]` and the model's own parameters."""
  if not isinstance(adapters, dict):
    return adapters
  return params | {
      name: join(value, params.get(name, {}))
      for name, value in adapters.items()}


def merge(params: Any, lora: Lora) -> Any:
  """The parameters of a plain model that does what a joined one does.

  Args:
    params: of `join`.
    lora: what the model was adapted with.
  """
  if not isinstance(params, dict):
    return params
  merged = {name: merge(value, lora) for name, value in params.items()
            if name not in (_A, _B)}
  if _A in params:
    change = jnp.einsum('ldr,lrf->ldf', params[_A], params[_B])
    kernel = params['kernel']
    merged['kernel'] = (
        kernel + lora.alpha / lora.rank * change).astype(kernel.dtype)
  return merged


def _only_adapters(params):
  return {
      name: value if name in (_A, _B) else _only_adapters(value)
      for name, value in params.items()
      if name in (_A, _B) or _has_adapters(value)}


def _has_adapters(params):
  return isinstance(params, dict) and any(
      name in (_A, _B) or _has_adapters(value)
      for name, value in params.items())
