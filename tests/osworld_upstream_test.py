"""Opt-in: OSWorld's own tasks, played on a bare desktop or by OSWorld's server.

  STEP_JAX_OSWORLD=evaluation_examples \\
  STEP_JAX_DESKTOP_ENV_PYTHON=DIR/bin/python \\
  pytest tests/osworld_upstream_test.py

OSWorld's package prepares and evaluates them. None of them downloads a file.
With STEP_JAX_OSWORLD_ADDRESS they are played there, on a machine that the
command STEP_JAX_OSWORLD_RESTORE restores, such as docs/osworld/server.sh, and
where programs start slowly, STEP_JAX_OSWORLD_SETTLE gives them seconds.
"""

import contextlib
import os
import pathlib
import shlex

import pytest

from step_jax.codecs import actions
from step_jax.envs.osworld import env as env_lib
from step_jax.envs.osworld import program

_OSWORLD = os.environ.get('STEP_JAX_OSWORLD')
_PYTHON = os.environ.get('STEP_JAX_DESKTOP_ENV_PYTHON')
_ADDRESS = os.environ.get('STEP_JAX_OSWORLD_ADDRESS')
_RESTORE = shlex.split(os.environ.get('STEP_JAX_OSWORLD_RESTORE', ''))
_SETTLE = float(os.environ.get('STEP_JAX_OSWORLD_SETTLE', '0'))
_WINDOW = 'GNU Image Manipulation Program'  # where keys go
_FOLDERS = {'vlc': '~/.config/vlc', 'gimp': '~/.config/GIMP/2.10'}

pytestmark = pytest.mark.skipif(
    not (_OSWORLD and _PYTHON), reason='opt-in, see above')


def _configure(program_name, file, line):
  """Ends an application and writes a line into its settings."""
  folder = _FOLDERS[program_name]
  return (f'pkill -9 -x {program_name}; pkill -9 {program_name}-2.10; '
          f'mkdir -p {folder}; echo \'{line}\' >> {folder}/{file}')


# It writes its settings when it has started, and when it ends.
_OFFICE = '''pkill -9 soffice.bin; sleep 1; python - <<'end'
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
      addresses=(_ADDRESS,) if _ADDRESS else (), reset_command=_RESTORE,
      read_tree=False, settle_after_reset=_SETTLE)) as env:
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
