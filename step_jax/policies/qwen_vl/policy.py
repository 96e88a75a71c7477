"""A vision-language model as a policy: of a checkpoint, or tiny and random."""

from collections.abc import Callable, Sequence
import functools
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from step_jax.policies import base
from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import sampling
from step_jax.policies.qwen_vl import slots as slots_lib
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import vocabulary as vocabulary_lib

if TYPE_CHECKING:  # its package is an extra of its own
  from step_jax.policies.qwen_vl import adapters

_BOXES = (tokenizer_lib.BOX_START, tokenizer_lib.BOX_END)
_QUERIES = 512  # of attention at a time; a screenshot has thousands of patches


def make_policy(
    config: config_lib.Config,
    vocabulary: vocabulary_lib.Vocabulary,
    load: base.LoadFn,
    *,
    source: pathlib.Path | None,
    num_tokens: int,
    stops: Sequence[str] = tokenizer_lib.STOPS,
    dtype: str,
    remat: bool,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
    lora: 'adapters.Lora | None' = None,
    frozen_dtype: str = 'bfloat16',
) -> base.Policy:
  """A policy that writes text and the boxes of clicks.

  Args:
    config: of the model.
    vocabulary: what it may write.
    load: stored rows to what the model reads, as a codec does.
    source: folder of a checkpoint; None for random parameters.
    num_tokens: L, at most so many tokens a response.
    stops: the tokens that end one.
    dtype: of products, 'float32' or 'bfloat16'.
    remat: whether the gradient computes activations again.
    placement: on a mesh, by `placement.RULES`.
    lora: adapters, which alone learn; by default all parameters do.
    frozen_dtype: of the parameters beside adapters.

  Returns:
    The policy; its `init` raises `base.InputError` for a bad checkpoint.
  """
  model = model_lib.Model(
      config, dtype=dtype, remat=remat, attention_chunk=_QUERIES,
      placement=placement)
  options: dict[str, Any] = dict(
      num_tokens=num_tokens,
      stop_ids=[vocabulary.find(token) for token in stops],
      legal=legal_tokens(config, vocabulary, stops))
  make: Callable[[model_lib.Model], sampling.Sampler] = functools.partial(
      sampling.make_policy, **options)
  dtype = frozen_dtype if lora else jnp.float32
  init = _initialiser(source, model, placement, dtype)
  if lora is None:
    functions = make(model)
    return base.Policy(init, functions.sample, functions.log_prob, load,
                       functions.sample_many,
                       slots=slots_lib.make_slots(model, **options))
  return _adapted(model, make, init, load, lora)


def legal_tokens(
    config: config_lib.Config, vocabulary: vocabulary_lib.Vocabulary,
    stops: Sequence[str]) -> np.ndarray:
  """`[V]` bool, the tokens that a policy may write."""
  return vocabulary.legal(config.text.vocabulary, (*stops, *_BOXES))


def _initialiser(
    source: pathlib.Path | None, model: model_lib.Model,
    placement: placement_lib.Placement, dtype: Any) -> base.InitFn:
  """Loads parameters, or draws them, each where it will lie."""
  def draw(rng_key):
    return jax.tree.map(
        lambda x: x.astype(dtype), model_lib.init_params(model, rng_key))

  shardings = placement.shardings(jax.eval_shape(draw, jax.random.key(0)))
  if source is None:
    return jax.jit(draw, out_shardings=shardings)

  def load(rng_key):
    if isinstance(rng_key, jax.core.Tracer):  # only shapes are asked for
      return draw(rng_key)
    return _load_params(source, model.config, shardings, dtype)
  return load


def _adapted(
    model: model_lib.Model, make: Callable[[model_lib.Model], sampling.Sampler],
    init: base.InitFn, load: base.LoadFn, lora: 'adapters.Lora'
) -> base.Policy:
  """The policy of adapters; the parameters beside them are loaded once."""
  from step_jax.policies.qwen_vl import adapters
  frozen = base.Frozen(
      functools.cache(lambda: init(jax.random.key(0))), adapters.join)
  adapted = adapters.adapt(model, lora)
  functions = make(adapted)

  def complete(function):
    def sample(params, rng_keys, observation, *, temperature):
      return function(adapters.join(params, frozen.get()), rng_keys,
                      observation, temperature=temperature)
    return sample

  return base.Policy(
      jax.jit(functools.partial(adapters.init, adapted)),
      complete(functions.sample), functions.log_prob, load,
      complete(functions.sample_many), frozen)


def read_config(
    source: pathlib.Path, vocabulary: vocabulary_lib.Vocabulary
) -> config_lib.Config:
  """The configuration of a checkpoint that sees.

  Raises:
    ValueError: for one that does not, or does not fit its tokenizer.
  """
  config = checkpoint.read_config(source)
  if config.vision is None:
    raise ValueError(
        f'expected a checkpoint of Qwen2-VL or Qwen2.5-VL in {source}, got '
        f'one of {config.family}, which sees no pictures')
  image, = vocabulary.narrow([config.image_token_id or 0])
  if image != vocabulary.find(tokenizer_lib.IMAGE) or (
      len(vocabulary) > config.text.vocabulary):
    raise ValueError(
        f'expected a tokenizer.json in {source} that fits its config.json, '
        f'got one of {len(vocabulary)} tokens for {config.text.vocabulary}')
  return config


def tiny_config(
    vocabulary: vocabulary_lib.Vocabulary,
    *,
    width: int,
    num_layers: int,
    vision_layers: int,
    num_heads: int,
    rope_theta: float,
) -> config_lib.Config:
  """A Qwen2.5-VL small enough to learn on a processor.

  Args:
    vocabulary: what the model knows.
    width: of both models; 4 x num_heads divides it.
    num_layers: of the text model.
    vision_layers: of the vision model.
    num_heads: of both.
    rope_theta: base of the rotary embedding.
  """
  head_width = width // num_heads
  section = head_width // 2 // 3
  return config_lib.Config(
      family='qwen2_5_vl',
      text=config_lib.TextConfig(
          vocabulary=len(vocabulary), width=width, hidden_width=2 * width,
          num_layers=num_layers, num_heads=num_heads, num_key_heads=num_heads,
          head_width=head_width, norm_epsilon=1e-6, rope_theta=rope_theta,
          rope_sections=(head_width // 2 - 2 * section, section, section),
          qkv_bias=True, tied=False),
      vision=config_lib.VisionConfig(
          width=width, hidden_width=2 * width, num_layers=vision_layers,
          num_heads=num_heads, out_width=width,
          gated=True, window=1,  # which all layers disregard, without padding
          full_layers=tuple(range(vision_layers)),
          norm_epsilon=1e-6, channels=3, patch_size=14, temporal_size=2,
          merge_size=2),
      image_token_id=vocabulary.find(tokenizer_lib.IMAGE))


def _load_params(
    source: pathlib.Path, config: config_lib.Config, shardings: Any,
    dtype: Any) -> Any:
  try:
    return checkpoint.load_params(
        source, config, shardings=shardings, dtype=dtype)
  except (ValueError, OSError, safetensors.SafetensorError) as error:
    raise base.InputError(str(error)) from error
