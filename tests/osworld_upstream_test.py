"""Opt-in: OSWorld's own tasks, played on the bare desktop.

  STEP_JAX_OSWORLD=evaluation_examples \\
  STEP_JAX_DESKTOP_ENV_PYTHON=DIR/bin/python \\
  pytest tests/osworld_upstream_test.py

OSWorld's package prepares and evaluates them. None of them downloads a file.
The last test is the paper's experiment with a tiny model: two rounds on two
desktops, and, where Ray is installed, again on a cluster with the model on a
server of its own, a round ahead, killed in the second round and resumed.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import httpx
import pytest

from step_jax.codecs import actions
from step_jax.envs.osworld import env as env_lib
from step_jax.envs.osworld import program
from tests import desktops
from tests import vision_language_training_test

_OSWORLD = os.environ.get('STEP_JAX_OSWORLD')
_PYTHON = os.environ.get('STEP_JAX_DESKTOP_ENV_PYTHON')
_WINDOW = 'GNU Image Manipulation Program'  # where keys go
_FOLDERS = {'vlc': '~/.config/vlc', 'gimp': '~/.config/GIMP/2.10'}

pytestmark = pytest.mark.skipif(
    not (_OSWORLD and _PYTHON), reason='opt-in, see above')


def _configure(program_name, file, line):
  """Ends an application and writes a line into its settings."""
  folder = _FOLDERS[program_name]
  return (f'pkill -9 -x {program_name}; pkill -9 {program_name}-2.10; '
          f'mkdir -p {folder}; echo \'{line}\' >> {folder}/{file}')


_OFFICE = '''python - <<'end'
import glob, os
path = os.path.expanduser(
    '~/.config/libreoffice/4/user/registrymodifications.xcu')
text = open(path).read()
item = ('<item oor:path="/org.openoffice.Office.Common/Save/Document"><prop '
        'oor:name="AutoSaveTimeIntervall" oor:op="fuse"><value>3</value>'
        '</prop></item>')
open(path, 'w').write(text.replace('</oor:items>', item + '</oor:items>'))
end'''

_CHROME = '''pkill chrome; sleep 2; python - <<'end'
import json, os
path = os.path.expanduser('~/.config/google-chrome/Default/Preferences')
preferences = json.load(open(path)) | {'enable_do_not_track': True}
json.dump(preferences, open(path, 'w'))
end'''

# Of a task, what solves it: a line for the shell, or keys.
_SOLUTIONS = {
    'os/a4d98375-215b-4a4d-aee9-3d4370fccc41':
        'gsettings set org.gnome.desktop.screensaver lock-enabled true',
    'os/bedcedc4-4d72-425e-ad62-21960b11fe0d':
        'gsettings set org.gnome.desktop.session idle-delay 0',
    'os/f9be0997-4b7c-45c5-b05c-4612b44a6118':
        'gsettings set org.gnome.desktop.notifications show-banners false',
    'os/3ce045a0-877b-42aa-8d2c-b4a863336ab8':
        'gsettings set org.gnome.desktop.interface text-scaling-factor 1.5',
    'libreoffice_impress/2cd43775-7085-45d8-89fa-9e35c0a915cf': _OFFICE,
    'vlc/215dfd39-f493-4bc3-a027-8a97d72c61bf':
        _configure('vlc', 'vlcrc', 'qt-bgcone=0'),
    'vlc/8ba5ae7a-5ae5-4eab-9fcc-5dd4fe3abf89':
        _configure('vlc', 'vlcrc', 'input-record-path=/home/user/Desktop'),
    'vlc/9195653c-f4aa-453d-aa95-787f6ccfaae9':
        _configure('vlc', 'vlcrc', 'qt-max-volume=200'),
    'vlc/a5bbbcd5-b398-4c91-83d4-55e1e31bbb81':
        _configure('vlc', 'vlcrc', 'qt-minimal-view=1'),
    'vlc/d06f0d4d-2cd5-4ede-8de9-598629438c6e':
        _configure('vlc', 'vlcrc', f'qt-slider-colours={";".join("9" * 12)}'),
    'vlc/f3977615-2b45-4ac5-8bba-80c17dbe2a37':
        _configure('vlc', 'vlcrc', 'one-instance-when-started-from-file=0'),
    'chrome/030eeff7-b492-4218-b312-701ec99ee0cc': _CHROME,
    'gimp/7767eef2-56a3-4cea-8c9f-48c070c7d65b':
        _configure('gimp', 'gimprc', '(theme "Light")'),
    'gimp/7b7617bd-57cc-468e-9c91-40c4ec2bcb3d':
        _configure('gimp', 'gimprc', '(undo-levels 100)'),
    'gimp/d52d6308-ec58-42b7-a2c9-de80e4837b2b': ('tab',),
}


@pytest.fixture(name='env', scope='module')
def made_env():
  paths = [pathlib.Path(_OSWORLD) / 'examples' / f'{task}.json'
           for task in _SOLUTIONS]
  with contextlib.closing(env_lib.OSWorldEnv(
      paths, evaluator='desktop_env', desktop_env_python=_PYTHON,
      read_tree=False)) as env:
    yield env


def _play(env, task, solution):
  """Plays an episode; returns its score, and what there is to say of it."""
  env.reset(seed=0, options={'task_id': env.tasks.index(task.split('/')[1])})
  client = env._machine.client
  if isinstance(solution, str):
    client.execute(solution, shell=True)
  elif solution:
    client.execute(f'until wmctrl -a "{_WINDOW}"; do sleep .5; done; sleep 2',
                   shell=True)
    program.perform(
        client, [actions.Action(kind='hotkey', keys=solution),
                 actions.Action(kind='wait')],
        screen_size=env._machine.screen_size, pause=1.)
  *_, info = env.step(actions.Action(kind='done'))
  return info['score'], info.get('evaluation')


@pytest.mark.parametrize('task', _SOLUTIONS)
def test_a_task_is_solved_and_only_by_its_solution(env, task):
  before, after = (
      _play(env, task, solution) for solution in ((), _SOLUTIONS[task]))
  assert (before[0], after[0]) == (0, 1), (before, after)


# The paper's experiment, with five of these tasks.

# The last one is solved as it is, the others never, and all copies of a task
# end alike: `spo` alone, which compares tasks, finds something to learn.
_FIVE = (
    *tuple(_SOLUTIONS)[:4], 'multi_apps/937087b6-f668-4ba6-9110-60682ee33441')
_FEW = {  # what makes it small; the model has random weights
    'method': 'spo', 'num_rounds': 2, 'num_base_tasks': 2, 'group_size': 4,
    'max_steps': 3,
    'env.num_workers': 2, 'env.arguments.pause': .1,
    'env.arguments.settle_after_reset': 0.,
    'env.arguments.settle_before_evaluation': 0.,
    'env.arguments.evaluator': 'desktop_env',
    'policy.response_length': 8, 'policy.prompt_length': 512,
    'policy.min_pixels': 56 * 56, 'policy.max_pixels': 112 * 112,
    'policy.dtype': 'float32', 'policy.acting_batch_size': 2}
_FAR = {'lag': 1, 'env.backend': 'ray', 'actor.name': 'sglang',
        'actor.dtype': 'float32'}


@contextlib.contextmanager
def _serving(folder):
  """Our server of a model; gives its address once it answers."""
  with socket.create_server(('127.0.0.1', 0)) as probe:
    port = probe.getsockname()[1]
  with subprocess.Popen([
      sys.executable, '-m', 'step_jax.rollout.actors.serve',
      f'--checkpoint={folder}', f'--port={port}', '--dtype=float32']) as served:
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


def _rows(workdir):
  path = workdir / 'metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()] if (
      path.exists()) else []


def _run(command, workdir, *, kill):
  """Runs a command to its end, killed once amid its second round."""
  if kill:
    with subprocess.Popen(command) as process:
      while not _rows(workdir):
        assert process.poll() is None
        time.sleep(.2)
      time.sleep(5.)
      assert process.poll() is None
      process.kill()
    print('before the kill:', *_rows(workdir), sep='\n')
    assert len(_rows(workdir)) == 1
  subprocess.run(command, check=True)
  print('at the end:', *_rows(workdir), sep='\n')


@pytest.mark.parametrize('far', [False, pytest.param(True, marks=[
    pytest.mark.skipif(not importlib.util.find_spec('ray'), reason='no Ray')])])
def test_the_paper_s_experiment_on_two_desktops(far, tmp_path):
  (tmp_path / 'model').mkdir()
  vision_language_training_test._save_tiny_checkpoint(tmp_path / 'model')
  paths = tuple(f'{_OSWORLD}/examples/{task}.json' for task in _FIVE)
  with contextlib.ExitStack() as stack:
    pair = [stack.enter_context(contextlib.closing(desktops.Desktop()))
            for _ in range(2)]
    fields = {
        **_FEW, 'env.tasks': paths, 'policy.checkpoint': tmp_path / 'model',
        'env.arguments.addresses': tuple(one.address for one in pair),
        'env.arguments.desktop_env_python': _PYTHON}
    if far:
      fields |= {**_FAR, 'actor.addresses': (
          stack.enter_context(_serving(tmp_path / 'model')),)}
    _run([sys.executable, 'experiments/run.py', f'--workdir={tmp_path / "run"}',
          '--config=configs/osworld.py:paper',
          *(f'--config.{name}={value}' for name, value in fields.items())],
         tmp_path / 'run', kill=far)
  rows = _rows(tmp_path / 'run')
  assert [row['round'] for row in rows] == [0, 1]
  for row in rows:
    assert row['trajectories'] == row['valid_trajectories'] == 8
    assert row['environment_failures'] == 0
    # A random model's text is no action: no episode ends before its last step.
    assert row['environment_steps'] == 24
  assert sum(row['optimizer_steps'] for row in rows) > 0
  assert [row.get('lag', 0) for row in rows][-1] == int(far)
