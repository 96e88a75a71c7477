r"""Rows in slots against rows in calls: what responses of many lengths cost.

  python benchmarks/admission.py [--environments=32] [--rows=8]

A tiny random vision-language model writes responses of 1 to 128 tokens, about
geometric: a stop has one chance in `--length`. Environments show the same
screen after a log-normal pause, and end after `--steps` actions. Both actors
answer the same rows, in this process, one after the other and again; the
figures are whole rounds, without compiling.
"""

import collections
import functools
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app  # noqa: E402
from absl import flags  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from experiments import setups  # noqa: E402
from experiments import worlds  # noqa: E402
from step_jax.rollout import collect as collect_lib  # noqa: E402
from step_jax.rollout import workers  # noqa: E402
from step_jax.rollout.actors import base as actors  # noqa: E402
from step_jax.rollout.actors import continuous  # noqa: E402
from step_jax.rollout.actors import local  # noqa: E402
from tests import vision_language_test  # noqa: E402

_ENVIRONMENTS = flags.DEFINE_integer('environments', 32, 'at once')
_ROWS = flags.DEFINE_integer('rows', 8, 'of a call, or slots')
_STEPS = flags.DEFINE_integer('steps', 4, 'of an episode')
_LENGTH = flags.DEFINE_integer('length', 50, 'tokens of a response, about')
_PAUSE = flags.DEFINE_float('pause', .05, 'mean seconds of a step')
_TOKENS = 128  # of a response, at most


class Pool:
  """Environments that show one screen; stands for a `WorkerPool`."""
  num_failures = 0

  def __init__(self, seen, num_steps: int, pause: float):
    self._seen = seen
    self._num_steps = num_steps
    self._pause = pause
    self._rng = np.random.default_rng(0)
    self._due: dict[int, float] = {}
    self._taken: collections.Counter[int] = collections.Counter()

  @property
  def pending(self) -> int:
    """Episodes that go on."""
    return len(self._jobs)

  def submit(self, jobs) -> None:
    """Starts all of them at once."""
    self._jobs = {job.slot: job for job in jobs}
    for slot in self._jobs:
      self._wake(slot)

  def act(self, worker: int, action) -> None:
    """Goes on after a pause."""
    del action
    self._taken[worker] += 1
    self._wake(worker)

  def wait(self, timeout: float) -> list[workers.Event]:
    """Those whose pause is over."""
    if self._due:
      time.sleep(max(0., min(
          timeout, min(self._due.values()) - time.monotonic())))
    events = []
    for slot in [slot for slot, due in self._due.items()
                 if due <= time.monotonic()]:
      del self._due[slot]
      kind, job = 'observation', self._jobs[slot]
      if self._taken[slot] == self._num_steps:
        kind = 'finished'
        del self._jobs[slot]
      events.append(workers.Event(kind, job, slot, 0, *self._seen))
    return events

  def _wake(self, slot: int) -> None:
    self._due[slot] = time.monotonic() + (
        self._pause * self._rng.lognormal(-.5, 1.))


def make_setup(folder: pathlib.Path, length: int):
  """The policy's setup, its parameters, and what every environment shows."""
  config = vision_language_test.make_config(**{
      'policy.response_length': _TOKENS, 'policy.width': 64,
      'policy.num_layers': 2, 'policy.num_heads': 4,
      'policy.prompt_length': 512})
  world = worlds.make_world(config, workdir=folder)
  setup = setups.make_setup(config, world)
  params = setup.policy.init(jax.random.key(0))
  # The head sees one large number, by which a stop has a chance in `length`.
  stops = jnp.array(setup.policy.served.stop_ids)
  text = params['text']
  num_legal = len(text['head']) - len(setup.policy.served.illegal_ids)
  odds = np.log((num_legal / len(stops) - 1) / (length - 1))
  text['embed']['embedding'] = text['embed']['embedding'].at[:, 0].set(100.)
  text['norm']['scale'] = jnp.zeros_like(text['norm']['scale']).at[0].set(1.)
  text['head'] = jnp.zeros_like(text['head']).at[stops, 0].set(
      odds / np.sqrt(text['head'].shape[1]))
  env = world.make_env()
  observation, info = env.reset(seed=0, options={'task_id': 0})
  return setup, params, (observation, 0., info)


def play(setup, params, seen, actor, *, num_jobs: int, num_steps: int,
         pause: float, batch_size: int | None):
  """Seconds of a round, and the lengths of its responses."""
  actor.publish(params, 1)
  start = time.monotonic()
  trajectory = collect_lib.collect(
      Pool(seen, num_steps, pause),
      [workers.Job(slot, 0, 0) for slot in range(num_jobs)], actor,
      actors.Player(params, jax.random.key(1), 1.),
      example=setup.world.example, codec=setup.codec, num_tokens=_TOKENS,
      max_steps=num_steps, batch_size=batch_size).trajectory
  return time.monotonic() - start, trajectory.token_mask.sum(axis=-1)


def main(_):
  """Prints a table."""
  with tempfile.TemporaryDirectory() as folder:
    setup, params, seen = make_setup(pathlib.Path(folder), _LENGTH.value)
    both = {
        'calls': (local.Local(setup.policy, batch_size=_ROWS.value),
                  _ROWS.value),
        'slots': (continuous.Continuous(
            setup.policy, num_slots=_ROWS.value), None)}
    measure = functools.partial(
        play, setup, params, seen, pause=_PAUSE.value)
    print('| rows in | round, s | tokens, s^-1 | lengths: least, mean, most |\n'
          '|---|---|---|---|')
    for actor, size in both.values():
      measure(actor, num_jobs=_ROWS.value, num_steps=1, batch_size=size)
    for name in ('calls', 'slots', 'calls', 'slots'):
      actor, size = both[name]
      seconds, lengths = measure(
          actor, num_jobs=_ENVIRONMENTS.value, num_steps=_STEPS.value,
          batch_size=size)
      print(f'| {name} | {seconds:.1f} | {lengths.sum() / seconds:.0f} | '
            f'{lengths.min()}, {lengths.mean():.0f}, {lengths.max()} |',
            flush=True)


if __name__ == '__main__':
  app.run(main)
