"""What there is to know of a new device, in one table.

  python benchmarks/accelerator.py [--width=2048] [--layers=16] [--lanes=1024]

Meant for one GPU or TPU, in under eight minutes; a test runs it in small sizes
on a CPU. Never run on either yet. Each line is measured in this run: advantages
against float64 of the host, Desk's steps and a whole round, the text model's
update beside this device's own matrix products, a Qwen2.5-VL of random weights
(sampler's tokens, K alternatives against K samples, update; rho between sampler
and learner in float32 and bfloat16), memory at the peak where the device tells,
and whether two equal updates give equal bits.
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
import jaxlib
import numpy as np
import optax

from benchmarks import flop_use
import step_jax
from step_jax.envs.desk import env as desk
from step_jax.policies import element
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import sampling
from step_jax.rollout import simulation

_WIDTH = flags.DEFINE_integer('width', 2048, 'of the decoder, by 128')
_LAYERS = flags.DEFINE_integer('layers', 16, 'of it; half in the tower')
_PROMPT = flags.DEFINE_integer('prompt', 1500, 'tokens, the picture included')
_TOKENS = flags.DEFINE_integer('tokens', 40, 'L')
_LANES = flags.DEFINE_integer('lanes', 1024, "of Desk's policy calls")
_REPEATS = flop_use._REPEATS  # --repeats; the median counts

K, G, T = 8, 8, 15


def _say(name, value):
  print(f'{name:42s} {value}', flush=True)


def _seconds(function, *args):
  """Of the middle call; the first compiles."""
  taken = []
  for _ in range(_REPEATS.value + 1):
    start = time.monotonic()
    jax.block_until_ready(function(*args))
    taken.append(time.monotonic() - start)
  return float(np.median(taken[1:]))


def check_functions():
  """Advantages and loss of random rounds against float64 on the host."""
  rng = np.random.default_rng(0)
  tasks = rng.integers(50, size=512).astype(np.int32)
  rate = rng.random(50).astype(np.float32)
  log_probs, old = rng.normal(size=(2, 512, T)).astype(np.float32)
  where = rng.random((512, T)) < 0.7
  for dtype in (np.float32, jnp.bfloat16):
    returns = rng.integers(2, size=512).astype(dtype)
    actual = jax.jit(step_jax.success_weighted_advantages)(
        returns, tasks, rate)
    exact = (1 - rate.astype(np.float64))[tasks] * returns.astype(np.float64)
    loss = jax.jit(functools.partial(
        step_jax.clipped_surrogate_loss, where=where))(
            log_probs, old, actual)
    ratio = np.exp(log_probs.astype(np.float64) - old)
    a = exact[:, None]
    expected = -np.where(where, np.minimum(
        ratio * a, np.clip(ratio, 0.8, 1.3) * a), 0).sum() / where.sum()
    _say(f'{np.dtype(dtype).name}: advantages, loss against float64',
         f'{np.abs(np.float64(actual) - exact).max():.1e}, '
         f'{abs(float(loss) / expected - 1):.1e}')


def measure_desk():
  """Steps of the policy, and a round of `step`: play, credit, update."""
  codec = element.make_codec(desk.example()['element_text'].shape[-1])
  policy = element.make_policy(
      desk.example() | {'history': codec.empty_history}, width=32,
      num_layers=2, num_heads=4)
  tasks = desk.TRAIN_TASKS[:_LANES.value // G]
  simulate = functools.partial(simulation.make_simulate(
      desk.make_simulator(tasks, T), policy, codec, max_steps=T,
      num_lanes=_LANES.value), temperature=1.0)
  learner = step_jax.make_learner(
      functools.partial(policy.log_prob, temperature=1.0), optax.adamw(1e-3),
      micro_batch_size=64)
  ids = np.repeat(np.arange(len(tasks), dtype=np.int32), G)
  key = jax.random.key(0)
  sample = functools.partial(policy.sample, temperature=1.0)
  state = learner.init(policy.init(key))
  num_steps = int(simulate(key, state.params, ids, ids).step_mask.sum())
  play = _seconds(simulate, key, state.params, ids, ids)

  def play_round():
    # The update donates the state; each round begins with the same one.
    own = jax.tree.map(jnp.copy, state)
    trajectory = simulate(key, own.params, ids, ids)
    singles, low, _ = step_jax.assign_credit(
        trajectory, jnp.zeros(len(tasks)), method=step_jax.METHODS['step'],
        group_size=G)
    return learner.update(own, step_jax.augment_steps(
        key, own.params, singles, low,
        sample_fn=sample, matches_fn=codec.matches, max_steps=T,
        num_candidates=G // 2))

  _say(f'Desk, {len(ids)} episodes: steps a second', f'{num_steps / play:,.0f}')
  _say('Desk, a whole round of `step`', f'{_seconds(play_round):.2f} s')
  one, other = play_round(), play_round()
  _say('two equal rounds end in equal bits', _is_equal(one, other))


def measure_text():
  """The update of the text model, as a share of matrix products."""
  update, state = flop_use._make_update()
  rows, tokens = flop_use._ROWS, flop_use._TOKENS
  flops = 3 * flop_use.forward_flops(flop_use.CONFIG, rows, tokens)
  start = time.monotonic()
  for number in range(_REPEATS.value + 1):
    if number == 1:
      jax.block_until_ready(state)
      start = time.monotonic()
    state = update(state)
  jax.block_until_ready(state)
  speed = flops * _REPEATS.value / (time.monotonic() - start)
  size = max(flop_use._SIZES)
  matrix = jnp.ones((size, size))
  peak = 2 * size**3 / _seconds(jax.jit(jnp.matmul), matrix, matrix)
  _say('25 M text model, float32 update: TFLOP/s',
       f'{speed / 1e12:.2f}, {speed / peak:.0%} of a product of {size}')


def _vision_model():
  width, layers = _WIDTH.value, _LAYERS.value
  config = config_lib.Config(
      family='qwen2_5_vl', image_token_id=0, text=config_lib.TextConfig(
          vocabulary=8192, width=width, hidden_width=3 * width,
          num_layers=layers, num_heads=width // 128,
          num_key_heads=max(1, width // 512), head_width=128,
          norm_epsilon=1e-6, rope_theta=1e6, rope_sections=(16, 24, 24),
          qkv_bias=True, tied=False),
      vision=config_lib.VisionConfig(
          width=256, hidden_width=688, num_layers=max(1, layers // 2),
          num_heads=4, out_width=width, gated=True, window=4,
          full_layers=(max(1, layers // 2) - 1,), norm_epsilon=1e-6,
          channels=3, patch_size=14, temporal_size=2, merge_size=2))
  side = int((_PROMPT.value * 0.8)**0.5)
  rng = np.random.default_rng(0)
  ids = rng.integers(1, 8192, (1, _PROMPT.value))
  ids[0, 4:4 + side**2] = 0
  inputs = inputs_lib.make_inputs(
      config, ids, np.ones_like(ids, bool),
      rng.normal(size=(4 * side**2, config.vision.patch_width)),
      [[1, 2 * side, 2 * side]])
  return config, inputs


def measure_vision():
  """A random Qwen2.5-VL: sampler, alternatives, agreement, update."""
  config, inputs = _vision_model()
  keys = jax.random.split(jax.random.key(1), (1, K))
  for dtype in (jnp.float32, jnp.bfloat16):
    model = model_lib.Model(config, dtype=dtype, remat=True,
                            attention_chunk=512)
    policy = sampling.make_policy(
        model, num_tokens=_TOKENS.value, stop_ids=())
    params = policy.init(jax.random.key(0))
    log_prob = functools.partial(policy.log_prob, temperature=1.0)
    drawn = policy.sample_many(params, keys, inputs, temperature=1.0)
    score = jax.jit(lambda params, tokens, log_prob=log_prob: jax.vmap(
        functools.partial(log_prob, params, inputs), in_axes=1, out_axes=1)(
            tokens)[0])
    rho = np.exp(np.asarray(
        score(params, drawn.tokens) - drawn.log_probs, np.float64))
    name = np.dtype(dtype).name
    _say(f'{name}: rho between learner and sampler',
         f'{rho.min():.5f} to {rho.max():.5f}')
  count = sum(x.size for x in jax.tree.leaves(params))
  many = _seconds(functools.partial(
      policy.sample_many, params, keys, inputs, temperature=1.0))
  one = _seconds(functools.partial(
      policy.sample, params, keys[0, :1], inputs, temperature=1.0))
  _say(f'{count / 1e6:,.0f} M vision model, bfloat16: tokens a second',
       f'{_TOKENS.value / one:,.0f} of one row, '
       f'{K * _TOKENS.value / many:,.0f} of {K} that share a prompt')
  gradient = jax.jit(jax.grad(
      lambda params: jnp.sum(score(params, drawn.tokens))))
  _say(f'its gradient of a group of {K}', f'{_seconds(gradient, params):.3f} s')
  _say('two equal gradients have equal bits',
       _is_equal(gradient(params), gradient(params)))


def _is_equal(one, other):
  return all(
      bool(jnp.all(x == y)) for x, y in zip(*map(
          jax.tree.leaves, (one, other))))


def main(_):
  """Prints the table."""
  start, device = time.monotonic(), jax.devices()[0]
  _say('jax, jaxlib', f'{jax.__version__}, {jaxlib.__version__}')
  _say('device', f'{len(jax.devices())} x {device.device_kind}')
  check_functions()
  measure_desk()
  measure_text()
  measure_vision()
  memory = device.memory_stats() or {}
  if 'peak_bytes_in_use' in memory:
    _say('memory at the peak', f'{memory["peak_bytes_in_use"] / 1e9:.2f} GB')
  _say('whole run', f'{time.monotonic() - start:.0f} s')


if __name__ == '__main__':
  app.run(main)
