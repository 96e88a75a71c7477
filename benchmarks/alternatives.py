"""What a shared prompt saves when alternatives are sampled and learned from.

  python benchmarks/alternatives.py [--candidates=8] [--tokens=40]

K - 1 alternatives at one observation: `sample_many`, which reads the picture
and the prompt once, against K - 1 full samples, each with its own picture and
prompt, as one batch of K - 1 rows and as K - 1 calls; the ratio is to the
faster of those. All sides in one run, by turns, compiled before; medians of
seconds, and of the process's CPU seconds, which say more where the machine has
other work. The model is a small Qwen2.5-VL with random parameters. Then how far
the learner's log-probs are from the sampler's, in float32 and in bfloat16. Then
the gradient of a step-level group of K, as the learner computes it, against
that of K rows, each with its own picture and prompt: seconds, what XLA counts
as temporaries, and how far apart the gradients are.
"""

import functools
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import sampling

_CANDIDATES = flags.DEFINE_integer('candidates', 8, 'K')
_PROMPT = flags.DEFINE_integer('prompt', 1500, 'tokens, the picture included')
_ROWS = flags.DEFINE_integer('rows', 30, 'of tokens in the picture')
_COLUMNS = flags.DEFINE_integer('columns', 40, 'of tokens in the picture')
_TOKENS = flags.DEFINE_integer('tokens', 40, 'L, none of which stops')
_WIDTH = flags.DEFINE_integer('width', 384, 'of the decoder, by 64')
_LAYERS = flags.DEFINE_integer('layers', 8, 'of the decoder; half in the tower')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'of every side')

_IMAGE_ID = 0
_VOCABULARY = 8192
# Random tables give almost uniform tokens; these are as sure as trained ones.
_HEAD_SCALE = 8.0


def _config():
  """Qwen2.5-VL, small."""
  width, layers = _WIDTH.value, _LAYERS.value
  return config_lib.Config(
      family='qwen2_5_vl', image_token_id=_IMAGE_ID,
      text=config_lib.TextConfig(
          vocabulary=_VOCABULARY, width=width, hidden_width=8 * width // 3,
          num_layers=layers, num_heads=width // 64,
          num_key_heads=max(1, width // 192), head_width=64,
          norm_epsilon=1e-6, rope_theta=1e6, rope_sections=(8, 12, 12),
          qkv_bias=True, tied=False),
      vision=config_lib.VisionConfig(
          width=128, hidden_width=344, num_layers=layers // 2, num_heads=2,
          out_width=width, gated=True, window=4,
          full_layers=tuple(range(3, layers // 2, 4)), norm_epsilon=1e-6,
          channels=3, patch_size=14, temporal_size=2, merge_size=2))


def _inputs(config, num_rows):
  """The same observation `num_rows` times."""
  rng = np.random.default_rng(0)
  merge = config.vision.merge_size
  size = _ROWS.value * _COLUMNS.value
  ids = rng.integers(1, _VOCABULARY, _PROMPT.value)
  ids[8:8 + size] = _IMAGE_ID
  pixels = rng.normal(size=(size * merge**2, config.vision.patch_width))
  grid = [1, _ROWS.value * merge, _COLUMNS.value * merge]
  return inputs_lib.make_inputs(
      config, np.tile(ids, (num_rows, 1)),
      np.ones((num_rows, _PROMPT.value), bool), np.tile(pixels, (num_rows, 1)),
      [grid] * num_rows)


def _time(sides):
  """Median seconds and CPU seconds of every side, by turns."""
  seconds = {name: [] for name in sides}
  for repeat in range(_REPEATS.value + 1):
    for name, side in sides.items():
      start = np.array([time.monotonic(), time.process_time()])
      jax.block_until_ready(side())
      stop = np.array([time.monotonic(), time.process_time()])
      if repeat:  # the first one compiles
        seconds[name].append(stop - start)
  medians = {name: np.median(x, axis=0) for name, x in seconds.items()}
  for name, values in seconds.items():
    low, high = np.min(values, axis=0)[0], np.max(values, axis=0)[0]
    wall, cpu = medians[name]
    print(f'{name:30s} {wall:7.3f} s ({low:.3f} to {high:.3f}), CPU {cpu:.3f}',
          flush=True)
  return medians


def _compare(policy, params, keys, inputs, name):
  """Prints how far the learner is from the sampler."""
  drawn = policy.sample_many(params, keys, inputs, temperature=1.0)
  log_probs, entropy = jax.vmap(
      functools.partial(policy.log_prob, params, inputs, temperature=1.0),
      in_axes=1, out_axes=1)(drawn.tokens)
  error = np.abs(np.asarray(log_probs - drawn.log_probs))
  print(f'{name}: |learner - sampler| of log-probs at most {error.max():.1e}, '
        f'mean {error.mean():.1e}; entropy {np.mean(entropy):.2f}', flush=True)


def _compare_updates(policy, params, config, drawn):
  """Prints what the gradient of a group costs, and of K rows."""
  num = drawn.tokens.shape[1]
  weights = np.linspace(-1, 1, num).astype(np.float32)
  one, many = (jax.device_put(_inputs(config, rows)) for rows in (1, num))
  log_prob = functools.partial(policy.log_prob, temperature=1.0)

  def group(params, inputs):
    log_probs, _ = jax.vmap(
        functools.partial(log_prob, params, inputs), in_axes=1, out_axes=1)(
            drawn.tokens)
    return jnp.sum(log_probs[0] * weights[:, None])

  def rows(params, inputs):
    log_probs, _ = log_prob(params, inputs, drawn.tokens[0])
    return jnp.sum(log_probs * weights[:, None])

  compiled = {
      name: jax.jit(jax.grad(loss)).lower(params, inputs).compile()
      for name, loss, inputs in (
          ('gradient of a group', group, one), ('of K rows', rows, many))}
  for name, program in compiled.items():
    size = program.memory_analysis().temp_size_in_bytes
    print(f'{name}: temporaries of {size / 1e6:.0f} MB', flush=True)
  calls = [functools.partial(program, params, inputs)
           for program, inputs in zip(compiled.values(), (one, many))]
  shared, apart = _time(dict(zip(compiled, calls))).values()
  wall, cpu = apart / shared
  error, scale = (max(
      float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(tree)) for tree in (
          jax.tree.map(jnp.subtract, *(call() for call in calls)), calls[1]()))
  print(f'ratio {wall:.1f}, of CPU seconds {cpu:.1f}; gradients differ by at '
        f'most {error:.1e}, the largest is {scale:.1e}', flush=True)


def main(_):
  """Prints seconds, the ratio and the agreement."""
  config = _config()
  model = model_lib.Model(config, attention_chunk=512)
  params = jax.jit(functools.partial(model_lib.init_params, model))(
      jax.random.key(0))
  params['text']['head'] *= _HEAD_SCALE
  num = _CANDIDATES.value - 1
  print(f'{sum(x.size for x in jax.tree.leaves(params)):,} parameters; {num} '
        f'responses of {_TOKENS.value} tokens to {_PROMPT.value} tokens with a '
        f'picture of {_ROWS.value * _COLUMNS.value}', flush=True)
  one = jax.device_put(_inputs(config, 1))
  many = jax.device_put(_inputs(config, num))
  keys = jax.random.split(jax.random.key(1), num)

  def make(dtype):
    return sampling.make_policy(
        model.clone(dtype=dtype), num_tokens=_TOKENS.value, stop_ids=())

  policy = make(jnp.float32)
  sample = functools.partial(policy.sample, temperature=1.0)
  seconds = _time({
      'shared prompt': functools.partial(
          policy.sample_many, params, keys[None], one, temperature=1.0),
      'full samples, one batch': functools.partial(sample, params, keys, many),
      'full samples, one call each': lambda: [
          sample(params, keys[row:row + 1], one) for row in range(num)],
  })
  shared, *full = seconds.values()
  wall, cpu = np.min(full, axis=0) / shared
  print(f'ratio {wall:.1f}, of CPU seconds {cpu:.1f}', flush=True)
  for name, dtype in (('float32', jnp.float32), ('bfloat16', jnp.bfloat16)):
    _compare(make(dtype), params, keys[None], one, name)
  # Layers are computed again in the backward pass, as in a run.
  policy = sampling.make_policy(
      model.clone(remat=True), num_tokens=_TOKENS.value, stop_ids=())
  keys = jax.random.split(jax.random.key(2), (1, _CANDIDATES.value))
  _compare_updates(
      policy, params, config,
      policy.sample_many(params, keys, one, temperature=1.0))


if __name__ == '__main__':
  app.run(main)
