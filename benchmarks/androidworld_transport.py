"""What a step costs: a screenshot's way, and the policy that looks at it.

  python benchmarks/androidworld_transport.py [--height=2400] [--width=1080]

A server of loopback sends one screenshot, smooth with some noise, as
AndroidWorld's does. Each reader runs in a process of its own, which tells the
seconds of each part (medians), the most memory above what it had before, and
what is left of that after all the repeats. The policy acts on four pictures at
a time, as `configs/androidworld.py` has it.
"""

import functools
import gc
import http.server
import json
import multiprocessing
import pathlib
import statistics
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app
from absl import flags
import jax
import numpy as np

from configs import androidworld as config_lib
from step_jax.envs.androidworld import client as androidworld_client
from step_jax.envs.androidworld import tokens as androidworld_tokens
from step_jax.policies import grid

_HEIGHT = flags.DEFINE_integer('height', 2400, 'pixels', lower_bound=1)
_WIDTH = flags.DEFINE_integer('width', 1080, 'pixels', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 10, 'of each', lower_bound=1)


def _screen(height, width):
  rng = np.random.default_rng(0)
  rows, columns = np.mgrid[:height, :width]
  smooth = 120 + 100 * np.sin(rows / 200) * np.cos(columns / 150)
  noise = rng.integers(-20, 20, (height, width, 3))
  return np.clip(smooth[..., None] + noise, 0, 255).astype(np.uint8)


def _encode(screen):
  return json.dumps({'pixels': screen.tolist()}, separators=(',', ':')).encode()


class _Handler(http.server.BaseHTTPRequestHandler):

  def __init__(self, body, *arguments):
    self._body = body
    super().__init__(*arguments)

  def do_GET(self):  # noqa: N802
    self.send_response(200)
    self.send_header('Content-Length', str(len(self._body)))
    self.end_headers()
    self.wfile.write(self._body)

  def log_message(self, *_):
    pass


def _read_by_json(body):
  return np.array(json.loads(body)['pixels'], np.uint8)


def _memory(name):
  """MiB: 'VmRSS' now, 'VmHWM' at most."""
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  line, = [line for line in lines if line.startswith(name)]
  return int(line.split()[1]) / 1024


def _read(address, by_json, repeats, results):
  """The parts of reading a screenshot, in a process of its own."""
  read = (_read_by_json if by_json else
          androidworld_client.decode_screenshot)
  phone = androidworld_client.Phone(address)
  androidworld_tokens.shrink(np.zeros((100, 50, 3), np.uint8))  # its imports
  seconds = {'transport': [], 'decoding': [], 'downscaling': []}
  before = _memory('VmRSS')
  for _ in range(repeats):
    marks = [time.perf_counter()]
    body = phone.screenshot_json()
    marks.append(time.perf_counter())
    screen = read(body)
    marks.append(time.perf_counter())
    androidworld_tokens.shrink(screen)
    marks.append(time.perf_counter())
    for name, passed in zip(seconds, np.diff(marks), strict=True):
      seconds[name].append(passed)
  del body, screen
  gc.collect()
  results.put((
      {name: statistics.median(values) for name, values in seconds.items()},
      _memory('VmHWM') - before, _memory('VmRSS') - before))


def _act(repeats):
  """Seconds of a policy call, and its rows."""
  options = config_lib.get_config().policy
  rows = options.acting_batch_size
  screen = androidworld_tokens.example() | {'history': grid.empty_history()}
  policy = grid.make_policy(
      screen, width=options.width, num_layers=options.num_layers,
      num_heads=options.num_heads, vocabulary=options.vocabulary)
  params = policy.init(jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), rows)
  batch = jax.tree.map(lambda x: np.repeat(x[None], rows, axis=0), screen)
  seconds = []
  for _ in range(repeats + 1):  # the first compiles
    start = time.perf_counter()
    jax.device_get(policy.sample(params, keys, batch, temperature=.7))
    seconds.append(time.perf_counter() - start)
  return statistics.median(seconds[1:]), rows


def main(argv):
  del argv
  screen = _screen(_HEIGHT.value, _WIDTH.value)
  start = time.perf_counter()
  body = _encode(screen)
  encoding = time.perf_counter() - start
  np.testing.assert_array_equal(
      androidworld_client.decode_screenshot(body), screen)
  server = http.server.ThreadingHTTPServer(
      ('127.0.0.1', 0), functools.partial(_Handler, body))
  threading.Thread(target=server.serve_forever, daemon=True).start()
  print(f'{_HEIGHT.value} x {_WIDTH.value}: {len(body) / 1e6:.1f} MB of JSON, '
        f'encoded in {encoding:.2f} s; {_REPEATS.value} repeats')
  context = multiprocessing.get_context('spawn')
  for name, by_json in (('numpy, text to numbers', False),
                        ('json.loads and numpy', True)):
    results = context.Queue()
    process = context.Process(target=_read, args=(
        f'http://127.0.0.1:{server.server_port}', by_json, _REPEATS.value,
        results))
    process.start()
    seconds, peak, left = results.get()
    process.join()
    parts = ', '.join(f'{part} {value:.3f} s'
                      for part, value in seconds.items())
    print(f'{name:24} {parts}; at most {peak:.0f} MiB, {left:.0f} MiB stay')
  server.shutdown()
  seconds, rows = _act(_REPEATS.value)
  print(f'{"the policy":24} {seconds:.4f} s for {rows} steps')


if __name__ == '__main__':
  app.run(main)
