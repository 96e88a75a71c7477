"""The paper's experiment on two bare desktops, with OSWorld's own tasks.

  STEP_JAX_OSWORLD=evaluation_examples \\
  STEP_JAX_DESKTOP_ENV_PYTHON=DIR/bin/python \\
  python -m tests.paper_examples plain|far

A tiny model plays and learns three rounds of five tasks that download nothing;
OSWorld's package prepares and evaluates them. It draws from three actions, of
which one solves the two tasks that cannot be done, so that there is something
to learn. 'plain' has processes, and the policy in the run. 'far' has
environments on Ray, a round ahead, and the model on a server of its own; the
run is killed amid a round after its first, and started again by the same
command; then an actor of Ray is killed, whose episode is played again.
Prints the rows of the metrics; ends with an AssertionError if they are not as
they should be, or if a process of the run is left.
"""

import contextlib
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time

import httpx
import jax
import jax.numpy as jnp

from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import saving
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from tests import desktops
from tests import qwen_vl_examples

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TASKS = (
    'a4d98375-215b-4a4d-aee9-3d4370fccc41',
    'bedcedc4-4d72-425e-ad62-21960b11fe0d',
    '3ce045a0-877b-42aa-8d2c-b4a863336ab8',
    'b3d4a89c-53f2-4d6b-8b6a-541fb5d205fa',  # infeasible, as the next
    'fe41f596-a71b-4c2f-9b2f-9dcd40b568c3')
_NUM_INFEASIBLE = 2  # the last ones
_NUM_ROUNDS, _NUM_SLOTS, _MAX_STEPS = 3, 8, 3
_FIELDS = {
    'num_rounds': _NUM_ROUNDS, 'num_base_tasks': 2, 'group_size': 4,
    'max_steps': _MAX_STEPS, 'env.num_workers': 2,
    'env.arguments.pause': .1, 'env.arguments.settle_after_reset': 0.,
    'env.arguments.settle_before_evaluation': 0.,
    'env.arguments.evaluator': 'desktop_env',
    'env.arguments.evaluator_processes': 2,  # a service that no other run has
    'policy.response_length': 8, 'policy.prompt_length': 512,
    'policy.dtype': 'float32', 'policy.acting_batch_size': 2,
    'low_threshold': .5, 'optimizer.learning_rate': 1e-2}
_FAR = {'lag': 1, 'optimizer.importance_cap': 2., 'env.backend': 'ray',
        'actor.name': 'sglang', 'actor.dtype': 'float32'}
_FOLLOWERS = {  # of a token; the first ends prompts
    'Ċ': ['Action'], 'Action': [':'], ':': ['Ġcall', 'Ġfinished', 'Ġwait'],
    'Ġcall': ['_user'], '_user': ['()'], 'Ġfinished': ['()'],
    'Ġwait': ['()'], '()': [tokenizer_lib.END]}
# What a checkpoint's folder has besides its weights and vocabulary.
_BESIDE = {
    'generation_config.json': {'eos_token_id': [151_645, 151_643]},
    'preprocessor_config.json': {
        'min_pixels': 56 * 56, 'max_pixels': 112 * 112, 'patch_size': 14},
    'chat_template.json': {'chat_template': (
        '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n'
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{{ message['content'] }}<|im_end|>\n{% endfor %}")}}
_SURE = 8.  # of a head that reads vectors of length 8 ** .5
_MARK = 'STEP_JAX_PAPER_EXAMPLE'  # in the environment of all that a run starts
_END_SECONDS = 90.  # two agents of a Ray that was killed wait for 60


def save_checkpoint(folder):
  """A Qwen2.5-VL of few weights under the whole vocabulary: tables of bigrams.

  The files are those of a real one, for smaller pictures. Its layers add
  nothing at first, so that a token decides alone what follows.
  """
  config = qwen_vl_examples.few_weights(tied=False)
  params = model_lib.init_params(
      model_lib.Model(config), jax.random.key(0))
  tokenizer = tokenizer_lib.load()
  text = params['text']
  for name in ('output', 'down'):
    text['layers'][name]['kernel'] *= 0
  text['head'] *= 0
  for place, (token, followers) in enumerate(_FOLLOWERS.items()):
    text['embed']['embedding'] = text['embed']['embedding'].at[
        tokenizer.token_to_id(token)].set(jnp.eye(8)[place])
    for follower in followers:
      text['head'] = text['head'].at[
          tokenizer.token_to_id(follower), place].set(_SURE)
  saving.save_params(folder, config, params)
  tokenizer.model.save(str(folder))  # vocab.json and merges.txt
  for name, values in _BESIDE.items():
    (folder / name).write_text(json.dumps(values))


class _Run:
  """A command that can be killed and started again, and its processes."""

  def __init__(self, folder, fields):
    self.workdir, self._folder = folder / 'run', folder
    self._mark = f'{_MARK}={secrets.token_hex(8)}'
    self._sessions = set()
    (folder / 'tmp').mkdir()
    name, value = self._mark.split('=')
    self._environ = os.environ | {
        name: value, 'TMPDIR': str(folder / 'tmp'),
        'RAY_TMPDIR': str(folder / 'tmp')}
    self._command = [
        sys.executable, 'experiments/run.py', f'--workdir={self.workdir}',
        '--config=configs/osworld.py:paper',
        *(f'--config.{name}={value}' for name, value in fields.items())]

  def start(self):
    process = subprocess.Popen(
        self._command, cwd=_ROOT, env=self._environ, start_new_session=True)
    self._sessions.add(process.pid)
    return process

  def rows(self):
    path = self.workdir / 'metrics.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if (
        path.exists()) else []

  def processes(self):
    """What runs of it, by number; Ray's agents write over their environment."""
    found = {}
    for path in pathlib.Path('/proc').glob('[0-9]*'):
      with contextlib.suppress(OSError):  # it has ended
        session = os.getsid(int(path.name))
        if session in self._sessions or self._mark.encode() in (
            path / 'environ').read_bytes().split(b'\0'):
          found[int(path.name)] = (
              path / 'cmdline').read_bytes().replace(b'\0', b' ').strip()[:80]
    return found

  def wait_for_end(self):
    """Waits until nothing runs; returns the seconds that it took."""
    begin = time.monotonic()
    while left := self.processes():
      assert time.monotonic() < begin + _END_SECONDS, left
      time.sleep(.2)
    return time.monotonic() - begin

  def end(self):
    """Kills what is left after a check has failed."""
    for pid in self.processes():
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)

  def kill_amid_a_round(self):
    """Kills the run's own process while it plays, after the first row."""
    with self.start() as process:
      self._wait_until_it_plays(process, num_rows=1)
      assert len(self.rows()) < _NUM_ROUNDS
      running = len(self.processes())
      process.send_signal(signal.SIGKILL)
    print(f'killed with {len(self.rows())} rows and {running} processes, the '
          f'last of which ended after {self.wait_for_end():.1f} s')

  def finish(self, *, strike):
    """Lets it end; with `strike` an actor of Ray is killed while it plays."""
    begin = time.monotonic()
    with self.start() as process:
      if strike:
        self._wait_until_it_plays(process, num_rows=0)
        os.kill(next(pid for pid, command in self.processes().items()
                     if command.startswith(b'ray::Relay')), signal.SIGKILL)
      assert process.wait() == 0
    print(f'exit code 0 after {time.monotonic() - begin:.0f} s; the last '
          f'process ended {self.wait_for_end():.1f} s later')

  def _wait_until_it_plays(self, process, num_rows):
    """Waits for so many rows, and then for another picture."""
    while len(self.rows()) < num_rows:
      assert process.poll() is None
      time.sleep(.2)
    before = self._pictures()
    while self._pictures() <= before:
      assert process.poll() is None
      time.sleep(.05)

  def _pictures(self):
    return {path.name for path in (self.workdir / 'screenshots').glob('*.*')}

  def check(self, *, lag, num_failures):
    """Every round once, every slot valid, as many failures as there were."""
    rows = self.rows()
    for row in rows:
      print(json.dumps(row))
    assert [row['round'] for row in rows] == [*range(_NUM_ROUNDS)]
    for row in rows:
      assert row['trajectories'] == row['valid_trajectories'] == _NUM_SLOTS
      assert _NUM_SLOTS < row['environment_steps'] <= _NUM_SLOTS * _MAX_STEPS
      assert not any(row['successes_per_task'][:-_NUM_INFEASIBLE])
    assert [row.get('lag', 0) for row in rows] == [
        min(lag, row['round']) for row in rows]
    assert sum(row['environment_failures'] for row in rows) == num_failures
    assert any(row['grad_norm'] > 0 for row in rows)
    print('left in its temporary folder:', sorted(
        str(path.relative_to(self._folder))
        for path in (self._folder / 'tmp').glob('*')))


@contextlib.contextmanager
def _serving(folder):
  """Our server of a model; gives its address once it answers."""
  with socket.create_server(('127.0.0.1', 0)) as probe:
    port = probe.getsockname()[1]
  with subprocess.Popen([
      sys.executable, '-m', 'step_jax.rollout.actors.serve',
      f'--checkpoint={folder}', f'--port={port}', '--dtype=float32'],
      cwd=_ROOT) as served:
    try:
      address = f'http://127.0.0.1:{port}'
      while True:
        with contextlib.suppress(httpx.TransportError):
          httpx.get(f'{address}/health', trust_env=False)
          break
        assert served.poll() is None
        time.sleep(.2)
      yield address
    finally:
      served.terminate()


def main(way):
  examples = pathlib.Path(os.environ['STEP_JAX_OSWORLD']) / 'examples' / 'os'
  with contextlib.ExitStack() as stack:
    folder = pathlib.Path(stack.enter_context(
        tempfile.TemporaryDirectory(prefix='paper')))
    (folder / 'model').mkdir()
    save_checkpoint(folder / 'model')
    pair = [stack.enter_context(contextlib.closing(desktops.Desktop()))
            for _ in range(2)]
    fields = _FIELDS | {
        'env.tasks': tuple(str(examples / f'{task}.json') for task in _TASKS),
        'env.arguments.addresses': tuple(one.address for one in pair),
        'env.arguments.desktop_env_python': os.environ[
            'STEP_JAX_DESKTOP_ENV_PYTHON'],
        'policy.checkpoint': folder / 'model'}
    if way == 'far':
      fields |= _FAR | {
          'actor.addresses': (stack.enter_context(_serving(folder / 'model')),)}
    run = _Run(folder, fields)
    stack.callback(run.end)
    is_far = way == 'far'
    if is_far:
      run.kill_amid_a_round()
    run.finish(strike=is_far)
    run.check(lag=int(is_far), num_failures=int(is_far))


if __name__ == '__main__':
  main(*sys.argv[1:])
