"""Share of this machine's matrix-product speed that an update reaches.

  GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/flop_use.py
      [--repeats=7]

A text model of about 25 M parameters, 8 rows of 256 tokens, float32: loss,
gradients and AdamW through `Model.log_probs` and the clipped loss, as the
learner computes them. The other side is the fastest of three square matrix
products. Both take turns in one run; medians, and the spread of the updates.
The second line divides by the CPU seconds of the process instead of by time:
on a machine with other work it says more. The variable asks glibc for large
pages: an update maps 1.2 GB of temporaries anew every time.

FLOPs of an update: 6 x (numbers in kernels and in the head's table) x tokens,
and 12 x layers x rows x tokens^2 x width for attention, the mask's other half
included because it is computed. Nothing that is computed again is counted (the
head's logits are).
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
import optax

from step_jax.algorithm import losses
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib

_REPEATS = flags.DEFINE_integer('repeats', 7, 'timed updates')

_ROWS, _TOKENS = 8, 256
_SIZES = (1024, 2048, 3072)  # of the square matrices
CONFIG = config_lib.from_dict({
    'model_type': 'llama', 'vocab_size': 8192, 'hidden_size': 512,
    'intermediate_size': 1536, 'num_hidden_layers': 6,
    'num_attention_heads': 8, 'tie_word_embeddings': True})


def forward_flops(
    config: config_lib.Config, rows: int, tokens: int) -> int:
  """FLOPs of the products of a text model's forward pass, head included."""
  text = config.text
  params = jax.eval_shape(
      lambda key: model_lib.init_params(model_lib.Model(config), key),
      jax.random.key(0))
  kernels = sum(
      leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params)
      if path[-1].key == 'kernel')
  products = 2 * (kernels + text.vocabulary * text.width) * rows * tokens
  attention = (
      4 * text.num_layers * rows * tokens**2 * text.num_heads
      * text.head_width)
  return products + attention


def _make_update():
  """An update of `(params, opt_state)`, and where it begins."""
  model = model_lib.Model(CONFIG)
  ids = np.random.default_rng(0).integers(
      CONFIG.text.vocabulary, size=(_ROWS, _TOKENS + 1))
  inputs = inputs_lib.make_inputs(
      CONFIG, ids[:, :-1], np.ones((_ROWS, _TOKENS), bool))
  batch = (inputs, ids[:, 1:].astype(np.int32),
           np.full((_ROWS, _TOKENS), -9.0, np.float32),
           np.ones(_ROWS, np.float32))
  params = model_lib.init_params(model, jax.random.key(0))
  optimizer = optax.adamw(1e-5)

  def loss_fn(params, inputs, tokens, behaviour_log_probs, advantages):
    log_probs, _ = model.apply(
        {'params': params}, inputs, tokens, method='log_probs')
    return losses.clipped_surrogate_loss(
        log_probs, behaviour_log_probs, advantages,
        where=jnp.ones_like(tokens, bool))

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, batch):
    params, opt_state = state
    gradients = jax.grad(loss_fn)(params, *batch)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  return lambda state: update(state, batch), (params, optimizer.init(params))


def _timed(function, *args):
  """The result, and its seconds by the clock and of the CPU."""
  start = time.perf_counter(), time.process_time()
  result = jax.block_until_ready(function(*args))
  return result, (
      time.perf_counter() - start[0], time.process_time() - start[1])


def main(_):
  """Prints GFLOP/s of both sides and their ratio, by both clocks."""
  update, state = _make_update()
  flops = 3 * forward_flops(CONFIG, _ROWS, _TOKENS)
  print(f'{sum(x.size for x in jax.tree.leaves(state[0])):,} parameters, '
        f'{flops / 1e9:.0f} GFLOP an update')
  square = jax.jit(jnp.matmul)
  matrices = [jax.random.normal(jax.random.key(0), 2 * (n,)) for n in _SIZES]
  seconds = []
  for _ in range(_REPEATS.value + 1):  # the first time compiles
    row = [_timed(square, matrix, matrix)[1] for matrix in matrices]
    state, taken = _timed(update, state)
    seconds.append([*row, taken])
  counts = np.array([2.0 * n**3 for n in _SIZES] + [flops])
  speeds = counts[None, :, None] / np.array(seconds[1:]) / 1e9
  middle = np.median(speeds, axis=0)
  for clock, name in enumerate(('second', 'CPU second')):
    peak = middle[:-1, clock].max()
    low, high = (f(speeds[:, -1, clock]) for f in (np.min, np.max))
    print(f'GFLOP a {name}: products ' + ', '.join(
        f'{n}: {speed:.0f}' for n, speed in zip(_SIZES, middle[:, clock]))
          + f'; update {middle[-1, clock]:.0f} ({low:.0f} to {high:.0f}), '
          f'{middle[-1, clock] / peak:.0%} of {peak:.0f}')


if __name__ == '__main__':
  app.run(main)
