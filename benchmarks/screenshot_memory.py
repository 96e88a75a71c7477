"""Host memory while learning from screenshots on disk.

  python benchmarks/screenshot_memory.py [--trajectories=256]

Draws a round of 1080p screenshots, 15 a trajectory and each another, keeps them
in a `ScreenshotStore`, and takes one update through `streaming.make_learner`:
every picture is read, resized and cut into patches for a model of 7B
parameters, in a thread. Only the model itself is replaced, by a mean over
pixels. Prints what lies on disk and the largest resident size of the process,
above that before the first picture; fails above 4 GB.
"""

import functools
import io
import pathlib
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
from PIL import ImageDraw

from step_jax.algorithm import types
from step_jax.learning import loader
from step_jax.learning import streaming
from step_jax.policies.qwen_vl import config as config_lib
from step_jax.policies.qwen_vl import images
from step_jax.policies.qwen_vl import inputs
from step_jax.rollout import pictures

_TRAJECTORIES = flags.DEFINE_integer(
    'trajectories', 256, 'of 15 steps, each of which has a screenshot')

_STEPS = 15
_DEPTH = 2  # loaded batches that wait
_BATCH = 8  # pictures in a batch
_TEXT_TOKENS = 700  # about what the prompt of UI-TARS and a history take
_LIMIT = 4e9  # bytes
_CONFIG = config_lib.from_dict({  # of Qwen2-VL-7B
    'model_type': 'qwen2_vl', 'vocab_size': 152064, 'hidden_size': 3584,
    'intermediate_size': 18944, 'num_hidden_layers': 28,
    'num_attention_heads': 28, 'num_key_value_heads': 4,
    'rms_norm_eps': 1e-6, 'rope_theta': 1e6, 'image_token_id': 151655,
    'rope_scaling': {'type': 'mrope', 'mrope_section': [16, 24, 24]},
    'vision_config': {
        'depth': 32, 'embed_dim': 1280, 'hidden_size': 3584, 'mlp_ratio': 4,
        'num_heads': 16, 'in_chans': 3, 'patch_size': 14,
        'spatial_merge_size': 2, 'temporal_patch_size': 2}})


class _Peak:
  """The largest resident size of this process, sampled by a thread."""

  def __init__(self):
    self.bytes = 0
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._watch)

  def __enter__(self):
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._ended.set()
    self._thread.join()

  def _watch(self):
    while not self._ended.wait(0.02):
      self.bytes = max(self.bytes, _resident())


def _resident():
  text = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(text.split('VmRSS:')[1].split()[0])


def _draw(rng):
  """A desktop with lines of text and photographs of noise, as PNG."""
  picture = Image.new('RGB', (1920, 1080), tuple(rng.integers(256, size=3)))
  draw = ImageDraw.Draw(picture)
  for line in range(45):
    words = [''.join(map(chr, rng.integers(97, 123, rng.integers(2, 10))))
             for _ in range(20)]
    draw.text((rng.integers(40), 24 * line), ' '.join(words), font_size=18,
              fill=tuple(rng.integers(256, size=3)))
  for _ in range(8):
    noise = rng.integers(256, size=(180, 320, 3), dtype=np.uint8)
    corner = rng.integers((1600, 900)).tolist()
    picture.paste(Image.fromarray(noise), corner)
  content = io.BytesIO()
  picture.save(content, 'PNG', compress_level=1)
  return content.getvalue()


def _load(store, rows):
  """The inputs of the model for a batch of stored rows."""
  patches, grids = zip(*(
      images.to_patches(
          np.asarray(store.get(number).convert('RGB')), _CONFIG.vision)
      for number in rows['screenshot'].tolist()))
  return inputs.make_inputs(
      _CONFIG, rows['prompt'], rows['prompt'] >= 0, np.concatenate(patches),
      np.stack(grids))


def _log_prob(params, observation, tokens):
  """Stands for the model: reads every pixel and token."""
  brightness = jnp.mean(observation.images.pixels, axis=(1, 2, 3))
  length = jnp.sum(observation.where, axis=1)
  log_probs = params * jnp.broadcast_to(
      (brightness + 1e-3 * length)[:, None], tokens.shape)
  return log_probs, jnp.zeros_like(log_probs)


def _round(numbers):
  """A round whose every step is a sample."""
  size = len(numbers)
  picture_tokens = images.num_tokens(
      np.array([1, 52, 94]), _CONFIG.vision.merge_size)
  prompt = np.full((size, _TEXT_TOKENS + picture_tokens), 1, np.int32)
  prompt[:, 20:20 + picture_tokens] = _CONFIG.image_token_id
  rows = np.zeros((size, 1, 64), np.float32)
  return types.RoundBatch(
      singles=types.StepBatch(
          observations={'screenshot': numbers, 'prompt': prompt},
          actions=rows.astype(np.int32), log_probs=rows,
          token_mask=np.ones(rows.shape, bool),
          advantages=np.ones((size, 1), np.float32),
          mask=np.ones((size, 1), bool)),
      groups=None, single_units=np.arange(size, dtype=np.int32))


def main(argv):
  """Draws, learns and prints."""
  del argv
  count = _STEPS * _TRAJECTORIES.value
  with tempfile.TemporaryDirectory() as folder:
    store = pictures.ScreenshotStore(folder)
    learner = streaming.make_learner(
        _log_prob, optax.sgd(1e-3), micro_batch_size=_BATCH,
        load=functools.partial(
            loader.prefetch, functools.partial(_load, store), depth=_DEPTH))
    state = learner.init(jnp.ones(()))
    before = _resident()
    with _Peak() as peak:
      started = time.monotonic()
      rng = np.random.default_rng(0)
      numbers = np.array(
          [store.put(_draw(rng)) for _ in range(count)], np.int32)
      drawn = time.monotonic()
      _, metrics = learner.update(state, _round(numbers))
      metrics = jax.device_get(metrics)
      ended = time.monotonic()
    stored = sum(x.stat().st_size for x in pathlib.Path(folder).glob('*.png'))
  if metrics['skipped_steps'] or metrics['rows_computed'] < count:
    raise RuntimeError(f'expected {count} pictures to be read, got {metrics}')
  used = peak.bytes - before
  print(f'{count} screenshots of 1920 x 1080: {stored / 1e9:.2f} GB on disk '
        '(the store keeps 20,000 by default), '
        f'drawn in {(drawn - started) / count:.3f} s each')
  print(f'read as 1316 x 728 in {(ended - drawn) / count:.3f} s each; in '
        f'memory at most {_DEPTH} batches that wait and one in use, of '
        f'{_BATCH} pictures')
  print(f'peak resident size {peak.bytes / 1e9:.2f} GB, {used / 1e9:.2f} GB '
        f'above the {before / 1e9:.2f} GB at the start; limit '
        f'{_LIMIT / 1e9:.0f} GB')
  if used > _LIMIT:
    sys.exit(1)


if __name__ == '__main__':
  app.run(main)
