"""What a round costs on many machines, and what to buy next: by a model.

  python benchmarks/fleet.py --environments=128 --servers=2 --update=120
  python benchmarks/fleet.py --check

The first line is the fleet that is asked for, each other one what would come of
twice as much of one thing, of a lag, or of closing early. A server is taken by
a row for what its prompt and its response take of the rates of tokens, and its
answer is there when the response has been written at its own pace. --check
plays small rounds in real processes by the real loop, too (`fleet_check`).
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app  # noqa: E402
from absl import flags  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import fleet_model  # noqa: E402

_ENVIRONMENTS = flags.DEFINE_integer('environments', 128, 'at once')
_SLOTS = flags.DEFINE_integer('slots', 256, 'Q*G, episodes of a round')
_STEPS = flags.DEFINE_integer('steps', 15, 'T, of each episode')
_STEP = flags.DEFINE_float('step', 3., 'mean seconds of a step')
_RESET = flags.DEFINE_float('reset', 60., 'mean seconds of a reset')
_SIGMA = flags.DEFINE_float('sigma', .5, 'of the logarithm of both')
_LATENCIES = flags.DEFINE_string(
    'latencies', '', 'a file of seconds of steps, one a line, to draw from')
_FAILURE = flags.DEFINE_float('failure', 0., 'probability, of each operation')
_RESTART = flags.DEFINE_float(
    'restart', 90., 'seconds until a failure is noticed and mended')
_SERVERS = flags.DEFINE_integer('servers', 1, 'inference servers')
_PROMPT = flags.DEFINE_float('prompt', 1500., 'tokens of a prompt')
_RESPONSE = flags.DEFINE_float('response', 60., 'tokens of a response')
_READS = flags.DEFINE_float('reads', 25e3, 'tokens a second of a server')
_WRITES = flags.DEFINE_float('writes', 8e3, 'likewise, of all its responses')
_PACE = flags.DEFINE_float('pace', 100., 'tokens a second of one response')
_UPDATE = flags.DEFINE_float('update', 120., 'seconds of credit and update')
_LAG = flags.DEFINE_integer('lag', 0, 'config.lag')
_CLOSE_AT = flags.DEFINE_float('close_at', 1., 'config.close_at')
_CLOSE_AFTER = flags.DEFINE_float('close_after', 30., 'config.close_after')
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'that are played')
_CHECK = flags.DEFINE_boolean('check', False, 'beside real processes')


def from_flags() -> fleet_model.Fleet:
  """The fleet that is asked for."""
  found = np.loadtxt(_LATENCIES.value, ndmin=1) if _LATENCIES.value else ()
  return fleet_model.Fleet(
      environments=_ENVIRONMENTS.value, slots=_SLOTS.value,
      steps=_STEPS.value, latency=fleet_model.make_latency(
          _SLOTS.value * _ROUNDS.value, _STEPS.value, step=_STEP.value,
          reset=_RESET.value, sigma=_SIGMA.value, found=found),
      channels=_SERVERS.value,
      answer=(_PROMPT.value / _READS.value + _RESPONSE.value / _WRITES.value),
      delay=_RESPONSE.value / _PACE.value, update=_UPDATE.value,
      lag=_LAG.value, close_at=_CLOSE_AT.value,
      close_after=_CLOSE_AFTER.value, failure=_FAILURE.value,
      restart=_RESTART.value)


def main(_):
  if _CHECK.value:
    from benchmarks import fleet_check  # as processes are started from there
    fleet_check.show()
    return
  print('| | round, s | playing, s | idle: environments | servers | learner '
        '| closed | lost |')
  print('|---|---|---|---|---|---|---|---|')
  for name, fleet in fleet_model.others(from_flags()).items():
    result = fleet_model.predict(fleet, _ROUNDS.value)
    seconds = ' | '.join(f'{x / _ROUNDS.value:.0f}' for x in result[:2])
    shares = ' | '.join(f'{x:.2f}' for x in result[2:])
    print(f'| {name} | {seconds} | {shares} |')


if __name__ == '__main__':
  app.run(main)
