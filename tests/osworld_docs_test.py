"""The commands of docs/osworld.md, and its scripts, against what is fake."""

import contextlib
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

from absl import flags
from ml_collections import config_flags
import pytest

from experiments import checks
from experiments import worlds
from step_jax.envs.osworld import env as env_lib
from step_jax.envs.osworld.desktop import __main__ as desktop
from step_jax.envs.osworld import machines
from step_jax.envs.osworld import tasks
from step_jax.envs.osworld import upstream
from tests import fake_desktop
from tests import fake_venv
from tests import osworld_env_test

_ROOT = pathlib.Path(__file__).parents[1]
_DOCS = _ROOT / 'docs'
_PAGE = (_DOCS / 'osworld.md').read_text()
_COMMANDS = [
    line.strip() for block in re.findall(
        r'```bash\n(.*?)```', _PAGE, re.DOTALL)
    for line in block.splitlines() if line.strip()]
_IN_SENTENCES = sorted({' '.join(words.split()) for words in re.findall(
    r'`((?:python|apt-get|benchmarks/|STEP_JAX_OSWORLD=)[^`]+)`',
    re.sub(r'```bash\n.*?```', '', _PAGE, flags=re.DOTALL))})


def _stub(folder, name, body):
  (folder / name).write_text(f'#!/bin/bash\n{body}\n')
  (folder / name).chmod(0o755)


@pytest.fixture
def place(tmp_path, monkeypatch, own_leases):
  """A folder in which the commands find what they name."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(machines, '_LEASE_SECONDS', 0.)
  monkeypatch.setattr(env_lib, '_LOOK_PAUSE', 0.)
  (tmp_path / 'UI-TARS').mkdir()
  _stub(tmp_path, 'restore.sh', 'echo "$1" >> restored')
  examples = tmp_path / 'evaluation_examples'
  osworld_env_test.make_osworld(examples)
  (examples / 'test_success_uitars1.5_wo_impossible.json').write_text(
      '{"os": ["zero"]}')
  (tmp_path / 'desktop_env/bin').mkdir(parents=True)
  fake_venv.make(tmp_path / 'desktop_env/bin')
  return tmp_path


@pytest.mark.filterwarnings('ignore:the load_module')  # ml_collections'
@pytest.mark.parametrize('command', [
    x for x in _COMMANDS if 'experiments/' in x])
def test_commands_of_experiments_reach_a_machine(place, command, monkeypatch):
  """The config is right, and an episode of the first task begins and ends."""
  with contextlib.ExitStack() as stack:
    fakes = [stack.enter_context(fake_desktop.FakeDesktop(can_reset=False))
             for _ in range(2)]
    for n, fake in enumerate(fakes, 1):
      command = command.replace(f'http://10.0.0.{n}:5000', fake.address)
    _, script, *rest = shlex.split(command.replace('$HOME', str(place)))
    assert (_ROOT / script).is_file()
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values)
    flags.DEFINE_string('workdir', None, '', flag_values=values)
    if script.endswith('evaluate.py'):
      flags.DEFINE_string('split', None, '', flag_values=values)
      flags.DEFINE_integer('episodes', None, '', flag_values=values)
      flags.DEFINE_string('checkpoint', None, '', flag_values=values)
    argv = ['', *(x.replace('configs/', f'{_ROOT}/configs/') for x in rest)]
    monkeypatch.setattr(sys, 'argv', argv)  # where overrides are looked for
    values(argv)
    config = values.config
    if 'checkpoint' in values:
      config.policy.checkpoint = values.checkpoint
    checks.check_config(config)
    assert config.env.arguments.settle_after_reset == 60
    config.env.arguments.settle_after_reset = 0.
    config.env.arguments.settle_before_evaluation = 0.
    config.env.arguments.pause = 0.
    world = worlds.make_world(config, workdir=place)
    make_env = getattr(world.make_env, 'keywords')
    make_env = make_env.get('make_env', world.make_env)
    with contextlib.closing(make_env()) as env:
      env.reset(seed=0, options={'task_id': 0})
      assert env.step(None)[1:4] == (0, False, False)
    assert (place / 'restored').read_text().split() == [fakes[0].address]


def test_commands_of_the_package(place, monkeypatch, capsys):
  left = [x for x in _COMMANDS if 'experiments/' not in x]
  monkeypatch.setattr(upstream.subprocess, 'run', lambda command, check: None)
  monkeypatch.setattr(upstream, 'check', lambda *_: None)
  mains = {'step_jax.envs.osworld.tasks': (tasks.main, 2),
           'step_jax.envs.osworld.upstream': (upstream.main, 0)}
  for command in left:
    _, option, module, *argv = shlex.split(command)
    main, code = mains.pop(module)
    assert option == '-m' and main(argv) == code
  assert not mains
  output = capsys.readouterr()
  assert 'needs a Google account' in output.err
  assert '2 tasks are right' in output.out


@pytest.mark.filterwarnings('ignore:the load_module')  # ml_collections'
@pytest.mark.parametrize('command', _IN_SENTENCES)
def test_commands_in_sentences(command, monkeypatch):
  """What would take minutes, or what is not here, is checked as it is read."""
  monkeypatch.chdir(_ROOT)
  name, *rest = shlex.split(command)
  if name == 'apt-get':  # of a desktop's programs, or only of OSWorld's tasks
    wanted = set(desktop._APT.split()[2:])
    given = {word for word in rest[1:] if not word.startswith('-')}
    assert given == wanted or not given & wanted
  elif name.startswith('STEP_JAX_'):  # opt-in tests: they read what is given
    asked = set(re.findall("'(STEP_JAX_[A-Z_]+)'", (
        _ROOT / rest[-1]).read_text()))
    assert {'STEP_JAX_OSWORLD'} <= set(
        re.findall('STEP_JAX_[A-Z_]+', command)) <= asked
  elif 'step_jax.envs.osworld.desktop' in rest:
    assert desktop._parse(rest[2:]).port == 5000
  elif 'show_result.py' in rest:  # OSWorld's, which joins them to a folder
    folder = rest[rest.index('--result_dir') + 1].replace('DIR', 'workdir')
    parts = [rest[rest.index(option) + 1] for option in (
        '--action_space', '--observation_type', '--model')]
    assert [folder, *parts] == [
        'workdir/results', 'pyautogui', 'screenshot', 'step_jax']
  else:
    script = name if name != 'python' else rest[0]
    assert (_ROOT / script).is_file()
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values)
    flags.DEFINE_list('methods', None, '', flag_values=values)
    values(['', *(word for word in rest if word != script)])
    checks.check_config(values.config)
    assert len(worlds.make_world(values.config).tasks) == 22


@pytest.mark.parametrize('script, calls', [
    ('docker.sh', ['docker rm --force osworld-5001',
                   'docker run --detach --name osworld-5001 ']),
    ('vmware.sh', ['vmrun -T ws revertToSnapshot /my vm.vmx init_state',
                   'vmrun -T ws start /my vm.vmx nogui'])])
def test_scripts_that_restore(tmp_path, script, calls):
  for name in ('docker', 'vmrun'):
    _stub(tmp_path, name, f'echo {name} "$@" >> "{tmp_path}/log"')
  given = tmp_path / 'given'
  given.write_text('http://h:5000 /other.vmx\nhttp://h:5001 /my vm.vmx\n')
  run = [str(_DOCS / 'osworld' / script), 'http://h:5001', str(given)]
  subprocess.run(run, check=True, env={
      **os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'})
  lines = (tmp_path / 'log').read_text().splitlines()
  assert [line.startswith(call) for line, call in zip(
      lines, calls, strict=True)] == [True, True]
  if script == 'docker.sh':
    assert all(x in lines[1] for x in (
        f'{given}:/System.qcow2:ro', '127.0.0.1:5001:5000',
        '127.0.0.1:9223:9222', '127.0.0.1:8081:8080'))


@pytest.fixture
def qemu(tmp_path):
  """Runs qemu.sh with stubs that log; returns what it did, and its folder."""
  bin_ = tmp_path / 'bin'
  bin_.mkdir()
  log = tmp_path / 'log'
  _stub(bin_, 'qemu-img', f'echo qemu-img "$@" >> "{log}"')
  _stub(bin_, 'sleep', '')
  _stub(bin_, 'pgrep', f'''
echo pgrep "$@" >> "{log}"
cat "{tmp_path}/pid" 2> /dev/null''')
  _stub(bin_, 'curl', f'! [ -e "{tmp_path}/mute" ]')
  _stub(bin_, 'qemu-system-x86_64', f'''
[ "$*" != --version ] || exec echo version 1
line="qemu $* with $(tr '\\n' ';')"  # what its monitor was told
echo "$line" >> "{log}"
[[ $line != *"info migrate"* ]] || echo Migration status: completed''')
  image = tmp_path / "a machine.qcow2"
  image.write_text('')

  def run(*arguments, check=True):
    log.write_text('')
    subprocess.run(
        [str(_DOCS / 'osworld/qemu.sh'), 'http://127.0.0.1:5001', *arguments],
        check=check, env={**os.environ, 'PATH': f'{bin_}:{os.environ["PATH"]}'})
    deadline = time.monotonic() + 10
    while arguments and 'share=off' not in log.read_text() and (
        check and time.monotonic() < deadline):
      time.sleep(.01)  # the machine is left to itself
    return log.read_text().splitlines()

  return run, image


def _folders(image):
  return sorted(x for x in image.parent.iterdir()
                if x.is_dir() and x.name.startswith(image.name))


def test_qemu_boots_once_and_then_restores(qemu):
  run, image = qemu
  look, create, boot, restore = run(str(image))
  folder, = _folders(image)
  assert look.endswith('^qemu-system-x86_64 -name osworld-5001 ')
  assert f'-b {image} {folder}.' in create
  assert 'share=on' in boot and boot.endswith('info migrate;quit;')
  for line in (boot, restore):
    assert all(x in line for x in (
        '-name osworld-5001 ', 'tcp:127.0.0.1:5001-:5000',
        'tcp:127.0.0.1:9223-:9222', 'tcp:127.0.0.1:8081-:8080'))
  assert 'share=off' in restore and f'{folder}/disk,if=virtio,snapshot=on' in (
      restore)
  again = run(str(image))
  assert [x.split()[0] for x in again] == ['pgrep', 'qemu']
  assert again[1] == restore
  run(str(image), '-bios', 'of UEFI')  # is another machine
  assert len(_folders(image)) == 2
  image.write_text('changed')
  run(str(image))
  assert len(_folders(image)) == 3


def test_qemu_keeps_no_machine_that_did_not_boot(qemu):
  run, image = qemu
  (image.parent / 'mute').touch()
  lines = run(str(image), check=False)
  assert {x.split()[0] for x in lines} == {'pgrep', 'qemu-img', 'qemu'}
  assert lines[-1].endswith('with quit;')
  (image.parent / 'mute').unlink()
  assert len(run(str(image))) == 4
  assert len(_folders(image)) == 1


def test_qemu_ends_a_machine_that_hangs(qemu):
  run, image = qemu
  with subprocess.Popen(['/bin/sleep', '60']) as machine:
    os.kill(machine.pid, signal.SIGSTOP)
    (image.parent / 'pid').write_text(f'{machine.pid}\n')
    assert len(run()) == 1
    assert machine.wait(10) == -signal.SIGKILL
