"""A whole run on Desk, and one that is killed on its way: processes."""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from experiments import checks
from experiments import watch
from step_jax.runs import errors
from tests import fake_config

_ROOT = pathlib.Path(__file__).parent.parent
_TASKS = ('wifi-on', 'star', 'missing-star', 'cookies-on')
_CLOCKS = {'seconds', 'rollout_seconds', 'update_seconds', 'compilations'}
# Arguments: the folder, and the round in which the process kills itself,
# after its trajectories were collected.
_PROGRAM = """
import os, pathlib, signal, sys
from experiments import rounds as rounds_lib
from experiments import train
from tests import desk_training_test
assign, rounds = rounds_lib._assign, []
def assign_or_die(*args):
  if len(rounds) == int(sys.argv[2]):
    os.kill(os.getpid(), signal.SIGKILL)
  rounds.append(args)
  return assign(*args)
rounds_lib._assign = assign_or_die
train.train(desk_training_test.make_config(), pathlib.Path(sys.argv[1]))
"""


def make_config():
  """Two rounds of 32 episodes."""
  config = fake_config.get_config()
  config.env.name = 'desk'
  config.env.tasks = _TASKS
  config.num_rounds = 2
  config.max_steps = 8
  config.policy.acting_batch_size = 8
  return config


@pytest.fixture(scope='module', name='play')
def made_play(tmp_path_factory):
  """`play(workdir, die_in)` -> exit code; compilations are shared."""
  place = tmp_path_factory.mktemp('place')
  environ = os.environ | {'XDG_CACHE_HOME': str(place / 'cache')}

  def play(workdir, die_in=-1):
    return subprocess.run(
        [sys.executable, '-c', _PROGRAM, str(workdir), str(die_in)],
        env=environ, cwd=_ROOT, check=False, timeout=900).returncode
  return play


@pytest.fixture(scope='module', name='run')
def made_run(play, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  assert play(workdir) == 0
  return workdir


def _rows(workdir):
  path = workdir / 'metrics.jsonl'
  lines = path.read_text().splitlines() if path.exists() else []
  return [{name: x for name, x in json.loads(line).items()
           if name not in _CLOCKS} for line in lines]


def _parameters(workdir, num_rounds):
  """The checksum of what the checkpoint holds, parameters included."""
  path, = (workdir / 'checkpoints').glob(f'{num_rounds}/digest/metadata')
  return json.loads(path.read_text())['crc32']


def test_a_run_on_desk(run):
  rows = _rows(run)
  assert [row['round'] for row in rows] == [0, 1]
  for row in rows:
    assert row['trajectories'] == row['valid_trajectories'] == 32
    assert row['environment_failures'] == 0
    assert 32 <= row['environment_steps'] <= 8 * 32
  assert sum(row['optimizer_steps'] for row in rows) > 0
  assert sum(row['augmented_steps'] for row in rows) > 0
  evaluation = json.loads((run / 'evaluation.json').read_text())
  assert tuple(evaluation) == _TASKS
  # The scripted solutions of the warm start have taught something.
  before = json.loads((run / 'initial_evaluation.json').read_text())
  assert np.mean([row['success_rate'] for row in before.values()]) > .2


def test_an_episode_of_a_run_can_be_watched(run):
  config = checks.read_config(run / 'config.json')
  with pytest.raises(errors.UserError, match="one of wifi-on, star.*'fly'"):
    watch.watch(config, run, 'fly', None)
  said = watch.watch(config, run, 'star', seed=3)
  steps, = re.fullmatch(
      rf'star: \w+ after (\d+) steps; {run}/report/star.gif', said).groups()
  with Image.open(run / 'report' / 'star.gif') as picture:
    assert 1 <= picture.n_frames <= int(steps) <= 8  # equal frames are one


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(run, play, tmp_path):
  assert play(tmp_path, die_in=1) == -signal.SIGKILL
  assert [row['round'] for row in _rows(tmp_path)] == [0]
  assert play(tmp_path) == 0
  assert _rows(tmp_path) == _rows(run)
  assert _parameters(tmp_path, 2) == _parameters(run, 2)
  for name in ('success_rates.npy', 'evaluation.json',
               'initial_evaluation.json'):
    assert (tmp_path / name).read_bytes() == (run / name).read_bytes()
