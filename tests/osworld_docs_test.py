"""The commands of docs/osworld.md, and its scripts, against what is fake."""

import ast
import contextlib
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import types

from absl import flags
import jax
from ml_collections import config_flags
import numpy as np
from packaging import requirements
import pytest

from experiments import checks
from experiments import evaluate
from experiments import evaluating
from experiments import export
from experiments import setups
from experiments import train
from experiments import worlds
from step_jax.envs.osworld import check_tasks
from step_jax.envs.osworld import env as env_lib
from step_jax.envs.osworld.desktop import __main__ as desktop
from step_jax.envs.osworld import machines
from step_jax.envs.osworld import tasks
from step_jax.envs.osworld import upstream
from step_jax.policies.qwen_vl import checkpoint
from step_jax.runs import errors
from step_jax.runs import evaluation as evaluation_lib
from step_jax.runs import metrics
from tests import desktops
from tests import fake_desktop
from tests import fake_venv
from tests import fake_world
from tests import osworld_env_test
from tests import paper_examples

_ROOT = pathlib.Path(__file__).parents[1]
_DOCS = _ROOT / 'docs'
_PAGE = (_DOCS / 'osworld.md').read_text()
_BLOCKS = re.compile(r'```bash\n(.*?)```', re.DOTALL)
_COMMANDS = sorted({
    *(line.strip() for block in _BLOCKS.findall(_PAGE)
      for line in block.splitlines() if line.strip()),
    *(' '.join(words.split()) for words in re.findall(
        r'`((?:python|pip|apt-get|benchmarks/|docs/|STEP_JAX_)[^`]* [^`]+)`',
        _BLOCKS.sub('', _PAGE)))})
_OF_TASKS = ('chromium socat gimp vlc libreoffice-writer libreoffice-impress '
             'thunderbird')
# Of a run that takes seconds.
_SHORT = {
    'num_base_tasks': 1, 'group_size': 4, 'num_rounds': 1, 'max_steps': 3,
    'eval_episodes': 1, 'trackers': (), 'policy.width': 8,
    'policy.num_layers': 1, 'policy.num_heads': 1, 'policy.vocabulary': 16,
    'warm_start.num_steps': 2, 'warm_start.batch_size': 2,
    'optimizer.num_minibatches': 1}
_SHORT_PAPER = {
    'num_base_tasks': 2, 'group_size': 4, 'num_rounds': 2, 'max_steps': 2,
    'trackers': (), 'low_threshold': .5, 'optimizer.learning_rate': 1e-2,
    'optimizer.num_minibatches': 2, 'policy.response_length': 8,
    'policy.prompt_length': 480, 'policy.screen_size': (64, 36),
    'policy.lora.rank': 2, 'policy.lora.frozen_dtype': 'float32',
    'policy.remat': False, 'policy.acting_batch_size': 2}


def _stub(folder, name, body):
  (folder / name).write_text(f'#!/bin/bash\n{body}\n')
  (folder / name).chmod(0o755)


@pytest.fixture
def place(tmp_path, monkeypatch, own_leases):
  """A folder in which the commands find what they name."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(machines, '_LEASE_SECONDS', 0.)
  monkeypatch.setattr(env_lib, '_LOOK_PAUSE', 0.)
  monkeypatch.setattr(env_lib, '_EXPERT_SECONDS', 0.)
  monkeypatch.setattr(
      worlds, 'make_pool', lambda world, config: fake_world.LocalPool(
          world.make_env, num_workers=config.env.num_workers))
  _stub(tmp_path, 'restore.sh', 'echo "$1" >> restored')
  examples = tmp_path / 'evaluation_examples'
  listed = pathlib.Path(osworld_env_test.make_osworld(examples))
  (examples / 'test_success_uitars1.5_wo_impossible.json').write_bytes(
      listed.read_bytes())
  (tmp_path / 'desktop_env/bin').mkdir(parents=True)
  fake_venv.make(tmp_path / 'desktop_env/bin')
  return tmp_path


@pytest.fixture(autouse=True, scope='module')
def compile_once():
  """Runs whose policies and learners are equal share what is compiled."""
  make_setup, made = setups.make_setup, {}

  def make_setup_once(config, world):
    if config.policy.name == 'qwen_vl':  # which reads pictures of a folder
      return make_setup(config, world)
    key = repr((
        config.method, config.policy, config.optimizer, config.max_steps))
    if key not in made:
      made[key] = make_setup(config, world)
    return made[key]._replace(config=config, world=world)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(setups, 'make_setup', make_setup_once)
    yield


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  """A checkpoint's folder, which a command finds where it names one."""
  folder = tmp_path_factory.mktemp('model')
  paper_examples.save_checkpoint(folder)
  return folder


@pytest.fixture
def fakes():
  """Two machines of OSWorld's, with a file that two tasks ask for."""
  with contextlib.ExitStack() as stack:
    pair = [stack.enter_context(fake_desktop.FakeDesktop(can_reset=False))
            for _ in range(2)]
    for fake in pair:
      fake.picture = fake_desktop.picture((64, 36))
      fake.files = {'/a': b'it is equal to itself'}
    yield pair


def _parse(words, fakes, monkeypatch):
  """The flags of a script; the addresses of its machines are the fakes'."""
  script, *rest = words[words[0] == 'python':]
  assert (_ROOT / script).is_file()
  for n, fake in enumerate(fakes, 1):
    rest = [x.replace(f'http://10.0.0.{n}:5000', fake.address) for x in rest]
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values)
  for name in ('workdir', 'split', 'checkpoint'):
    flags.DEFINE_string(name, None, '', flag_values=values)
  flags.DEFINE_integer('episodes', None, '', flag_values=values)
  flags.DEFINE_list('methods', None, '', flag_values=values)
  argv = ['', *(
      x.replace('configs/', f'{_ROOT}/configs/').replace('$HOME', os.getcwd())
      for x in rest)]
  monkeypatch.setattr(sys, 'argv', argv)  # where overrides are looked for
  values(argv)
  return values


def _impatient(config, short):
  """Makes a run of a command short, and its machines quick."""
  assert config.env.arguments.settle_after_reset == 60
  assert config.env.arguments.settle_before_evaluation == 20
  config.update_from_flattened_dict({
      'env.arguments.settle_after_reset': 0.,
      'env.arguments.settle_before_evaluation': 0.,
      'env.arguments.pause': 0., **short})


def _rows(workdir):
  return [json.loads(line, parse_constant=pytest.fail) for line in (
      workdir / 'metrics.jsonl').read_text().splitlines()]


def _run(words, place, request):
  """`run.py`, of elements or of the paper's experiment."""
  if '--config=configs/osworld.py:desktop' in words:
    return _run_desktop(words, place, request)
  fakes = request.getfixturevalue('fakes')
  values = _parse(words, fakes, request.getfixturevalue('monkeypatch'))
  config, workdir = values.config, pathlib.Path(values.workdir)
  is_paper = config.policy.name == 'qwen_vl'
  assert config.env.skip_unsupported
  _impatient(config, _SHORT_PAPER if is_paper else _SHORT)
  if is_paper:
    pathlib.Path(config.policy.checkpoint).symlink_to(
        request.getfixturevalue('model'))
  config.env.skip_unsupported = False
  with pytest.raises(errors.UserError, match=(
      'needs a Google account.*skip_unsupported=True goes on .* other 5')):
    worlds.make_world(config)
  config.env.skip_unsupported = True  # as the command says
  train.train(config, workdir)
  rows = _rows(workdir)
  slots = config.num_base_tasks * config.group_size
  assert len(rows) == config.num_rounds
  assert all(row['trajectories'] == row['valid_trajectories'] == slots
             and row['environment_failures'] == 0 for row in rows)
  assert {*(place / 'restored').read_text().split()} == {
      fake.address for fake in fakes}
  skipped = metrics.read_json(workdir / 'skipped_tasks.json')
  assert [pathlib.Path(path).stem for path in skipped] == ['google']
  assert '2 of 5 tasks are prepared and evaluated by desktop-env' in (
      request.getfixturevalue('capsys').readouterr().err)
  if is_paper:
    assert all(fake.count('/screenshot') > 8 for fake in fakes)
    assert any(row['grad_norm'] > 0 for row in rows)
    _check_export(config, workdir)


def _check_export(config, workdir):
  """It has learned, and stands in the folder as the model it began with."""
  model, output = pathlib.Path(config.policy.checkpoint), workdir / 'exported'
  export.export(config, workdir, output, 'float32')
  assert {path.name for path in output.iterdir()} == {
      path.name for path in model.iterdir()}
  before, after = (
      jax.tree.leaves(checkpoint.load_params(
          folder, checkpoint.read_config(folder)))
      for folder in (model, output))
  assert max(np.abs(one - other).max() for one, other in zip(
      before, after, strict=True)) > 1e-4


def _run_desktop(words, place, request):
  """`run.py` on desktops of its own, which are fake here, as their tasks."""
  monkeypatch = request.getfixturevalue('monkeypatch')
  config = _parse(words, (), monkeypatch).config
  _play_elements(config, place, request, lambda: train.train(
      config, place / 'run'))
  row, = _rows(place / 'run')
  assert row['valid_trajectories'] == 4


def _play_elements(config, place, request, play):
  """Calls `play` with a short config of a fake editor; it is warm-started."""
  monkeypatch = request.getfixturevalue('monkeypatch')
  checks.check_config(config)
  with monkeypatch.context() as patch:
    patch.chdir(_ROOT)
    assert len(worlds.make_world(config).tasks) == 22
  folder = place / 'tasks'
  folder.mkdir()
  osworld_env_test.write_editor_tasks(folder)
  with contextlib.ExitStack() as stack:
    fakes = [osworld_env_test.make_editor(stack.enter_context(
        fake_desktop.FakeDesktop())) for _ in range(2)]
    with config.unlocked():
      config.env.arguments.update({
          'addresses': tuple(fake.address for fake in fakes), 'pause': 0.})
    config.update_from_flattened_dict({
        **_SHORT, 'env.tasks': (str(folder),)})
    play()
    output = request.getfixturevalue('capsys').readouterr().out
    assert '2 of 2 demonstrations solved their task' in output
  return output


def _measure_steps(words, place, request):
  """`step_cost.py`; its flags are of its process alone."""
  monkeypatch = request.getfixturevalue('monkeypatch')
  values = _parse(words, (), monkeypatch)
  with monkeypatch.context() as patch:
    for kind in ('DEFINE_list', 'DEFINE_integer'):
      patch.setattr(flags, kind, lambda *_, **__: None)
    patch.setattr(config_flags, 'DEFINE_config_file', lambda *_: None)
    from benchmarks import step_cost
  monkeypatch.setattr(step_cost, '_CONFIG', values['config'])
  monkeypatch.setattr(step_cost, '_METHODS', values['methods'])
  assert values.methods == []
  output = _play_elements(
      values.config, place, request, lambda: step_cost.main(None))
  assert re.search(r'(?m)^environment: \d+ steps', output)
  assert re.search(r'(?m)^ratio \d', output)


def _evaluate(words, place, request):
  """`evaluate.py`, of a model as it comes, and what OSWorld reads of it."""
  fakes = request.getfixturevalue('fakes')
  values = _parse(words, fakes, request.getfixturevalue('monkeypatch'))
  pathlib.Path(values.checkpoint).symlink_to(request.getfixturevalue('model'))
  workdir = pathlib.Path(values.workdir)
  config = evaluate._find_config(workdir, values.config, values.checkpoint)
  checks.check_config(config)
  _impatient(config, _SHORT_PAPER)
  evaluation = evaluating.evaluate_run(
      config, workdir, split=values.split, episodes=values.episodes, fresh=True)
  assert (workdir / f'evaluation_{values.split}.json').is_file()
  assert (workdir / f'skipped_tasks_{values.split}.json').is_file()
  command, = [x for x in _COMMANDS if ' show_result.py ' in x]
  results = _show_result(shlex.split(command), workdir)
  assert {name: sorted(x) for name, x in results.items()} == {
      'gimp': ['length'], 'os': ['never', 'word', 'zero'], 'vlc': ['theirs']}
  assert {task: score for x in results.values() for task, score in x.items()
          } == {task: row['score'] for task, row in evaluation.items()}


def _show_result(words, workdir):
  """The scores by domain, as OSWorld's script reads and writes them."""
  options = dict(zip(words[2::2], words[3::2], strict=True))
  folder = pathlib.Path(
      options['--result_dir'].replace('DIR', str(workdir)),
      *(options[name] for name in (
          '--action_space', '--observation_type', '--model')))
  found = {domain.name: {
      path.parent.name: float(path.read_text())
      for path in domain.glob('*/result.txt')} for domain in folder.iterdir()}
  script = pathlib.Path(
      os.environ.get('STEP_JAX_OSWORLD') or '/').parent / 'show_result.py'
  if script.is_file():
    subprocess.run([
        sys.executable, str(script),
        *(x.replace('DIR', str(workdir)) for x in words[2:])], check=True)
    written = folder / 'all_result.json'  # a dictionary as Python writes it
    assert ast.literal_eval(written.read_text()) == found
    written.unlink()
  return found


def _show(words, place, request):
  """`show_result.py`: OSWorld's own where it is, and what it does."""
  del request
  evaluation = {'a': {'success_rate': 0., 'score': .5},
                'os/b': {'success_rate': 1.}, 'c': {'success_rate': None}}
  evaluation_lib.write_results(
      place / 'results' / 'pyautogui' / 'screenshot' / 'step_jax', evaluation,
      ('vlc', 'os', 'os'))
  assert _show_result(words, place) == {'vlc': {'a': .5}, 'os': {'b': 1.}}


def _main_of_tasks(words, place, request):
  del place
  assert tasks.main(words[3:]) == 2
  output = request.getfixturevalue('capsys').readouterr()
  assert 'needs a Google account' in output.err
  assert '5 tasks are right' in output.out


def _main_of_upstream(words, place, request):
  """The commands that make the environment are OSWorld's, so not run."""
  monkeypatch = request.getfixturevalue('monkeypatch')
  called = []
  for checkout in words[4:]:
    (place / checkout / 'desktop_env/evaluators').mkdir(parents=True)
  monkeypatch.setattr(upstream.subprocess, 'run', lambda command, **_: (
      called.append(command), types.SimpleNamespace(stdout='it is there'))[1])
  assert upstream.main([x.replace('~', str(place)) for x in words[3:]]) == 0
  assert [command[1:3] for command in called[:2]] == [
      ['-m', 'venv'], ['-m', 'pip']]
  assert str(place / 'desktop_env/bin/python') in (
      request.getfixturevalue('capsys').readouterr().out)


def _main_of_check_tasks(words, place, request):
  """A task of the fake editor stands for one of ours."""
  folder = place / 'tasks'
  folder.mkdir()
  osworld_env_test.write_editor_tasks(folder)
  monkeypatch = request.getfixturevalue('monkeypatch')
  with fake_desktop.FakeDesktop(can_reset=False) as fake:
    osworld_env_test.make_editor(fake)
    restored = place / 'restored'
    monkeypatch.setattr(machines.Machine, '_answers', lambda _: (
        fake.on_reset(), True)[1])
    values = dict(word[2:].split('=') for word in words[4:])
    assert values.keys() == {'tasks', 'address', 'reset_command'}
    for name, value in (
        ('_TASKS', ['write']), ('_ADDRESS', fake.address), ('_SCREENSHOTS', ''),
        ('_RESET_COMMAND', values['reset_command'])):
      monkeypatch.setattr(
          check_tasks, name, types.SimpleNamespace(value=value))
    with pytest.raises(SystemExit) as end:
      check_tasks.main(['', str(folder)])
    assert end.value.code == 0
    assert restored.read_text().split() == [fake.address] * 3
  assert re.search(r'(?m)^write +0 +1 +0 ', (
      request.getfixturevalue('capsys').readouterr().out))


def _serve(words, place, request):
  """`desktop`, at whatever port is free."""
  del place, request
  assert words[-2:] == ['--port', '5000']
  with contextlib.closing(desktops.Desktop(command=[
      sys.executable, *words[1:-1], '0'])) as served:
    assert served.client.post('/screen_size').json() == {
        'width': 1280, 'height': 720}


def _install(words, place, request):
  """Compared with what the desktop asks for, and with OSWorld's programs."""
  del place, request
  assert {word for word in words[2:] if not word.startswith('-')} in (
      set(desktop._APT.split()[2:]), set(_OF_TASKS.split()))


def _install_package(words, place, request):
  """The extra is one of ours, and this machine has all of it."""
  del place, request
  assert words[1:-1] == ['install', '-e']
  extra = re.fullmatch(r'\.\[(\w+)\]', words[-1])[1]
  needed = [requirements.Requirement(x)
            for x in importlib.metadata.requires('step-jax')]
  needed = [x for x in needed if x.marker and 'extra' in str(x.marker)
            and x.marker.evaluate({'extra': extra})]
  assert needed
  for one in needed:
    assert importlib.metadata.version(one.name) in one.specifier


def _collect(words, place, request):
  """Opt-in tests are found, and read what they are given."""
  del place
  given = dict(word.split('=') for word in words if '=' in word)
  module = _ROOT / words[-1]
  assert words[len(given):-1] == ['pytest']
  assert given.keys() <= set(
      re.findall("'(STEP_JAX_[A-Z_]+)'", module.read_text()))
  monkeypatch = request.getfixturevalue('monkeypatch')
  monkeypatch.delenv('PYTEST_ADDOPTS', raising=False)  # are of this session
  for name, value in given.items():
    monkeypatch.setenv(name, value)
  found = []
  assert pytest.main(
      ['--collect-only', '-qq', '--noconftest', '-p', 'no:cacheprovider',
       str(module)], plugins=[types.SimpleNamespace(
           pytest_collection_finish=lambda session: found.extend(
               session.items))]) == 0
  assert found


def _image(words, place, request):
  """image.sh, with stubs of what makes disks and systems."""
  del request
  log, bin_ = place / 'log', place / 'bin'
  bin_.mkdir()
  for name in ('python3', 'chroot', 'sfdisk', 'grub-mkimage', 'dd'):
    _stub(bin_, name, f'echo {name} "$@" >> "{log}"; cat > /dev/null')
  _stub(bin_, 'mmdebstrap', f'''
echo mmdebstrap "$@" >> "{log}"
for root; do :; done
mkdir "$root" && cd "$root"
mkdir -p etc/xdg/openbox usr/lib/chromium home/user
echo '</keyboard>' > etc/xdg/openbox/rc.xml''')
  _stub(bin_, 'mke2fs', f'''
line="$*" && root=${{line##*-d }}
cat "${{root%% *}}"/home/user/server/main.py >> "{log}"''')
  _stub(bin_, 'qemu-img', 'for image; do :; done; echo made > "$image"')
  server = place / 'OSWorld/desktop_env/server'
  server.mkdir(parents=True)
  (server / 'main.py').write_text('its server\n')
  (server / 'osworld_server.service').touch()
  before = {*place.iterdir()}
  subprocess.run([str(_ROOT / words[0]), *words[1:]], check=True, env={
      **os.environ, 'PATH': f'{bin_}:{os.environ["PATH"]}'})
  assert {*place.iterdir()} - before == {log, place / words[2]}
  assert (place / words[2]).read_text() == 'made\n'
  lines = log.read_text().splitlines()
  assert _OF_TASKS.split()[0] in lines[0] and 'its server' in lines


_WAYS = {
    'apt-get install -y ': _install,
    'pip install ': _install_package,
    'python experiments/run.py ': _run,
    'python experiments/evaluate.py ': _evaluate,
    'python -m step_jax.envs.osworld.tasks ': _main_of_tasks,
    'python -m step_jax.envs.osworld.upstream ': _main_of_upstream,
    'python -m step_jax.envs.osworld.check_tasks ': _main_of_check_tasks,
    'python -m step_jax.envs.osworld.desktop ': _serve,
    'python show_result.py ': _show,
    'benchmarks/step_cost.py ': _measure_steps,
    'docs/osworld/image.sh ': _image,
    'STEP_JAX_OSWORLD=': _collect}


def _way(command):
  """What executes a command; an error for one that nothing does."""
  way, = [way for start, way in _WAYS.items() if command.startswith(start)]
  return way


@pytest.mark.filterwarnings('ignore:the load_module')  # ml_collections'
@pytest.mark.parametrize('command', [
    pytest.param(x, marks=pytest.mark.desktop if ' --port ' in x else ())
    for x in _COMMANDS])
def test_commands(place, command, monkeypatch, capsys, request):
  """Each is executed, against what is fake where it needs a machine."""
  del monkeypatch, capsys  # at work from here, and for what asks for them
  _way(command)(shlex.split(command), place, request)


def test_every_way_is_a_commands():
  assert {_way(command) for command in _COMMANDS} == {*_WAYS.values()}
  with pytest.raises(ValueError, match='not enough values'):
    _way('python -m step_jax.envs.osworld.nothing x')


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


def test_the_script_of_osworlds_own_server(tmp_path):
  """In a copy whose /home and /tmp are of this test, with stubs of users."""
  log, bin_ = tmp_path / 'log', tmp_path / 'bin'
  for folder in ('bin', 'venv/bin', 'home', 'tmp', 'OSWorld'):
    (tmp_path / folder).mkdir(parents=True)
  for name in ('useradd', 'pkill', 'chown', 'xauth', 'runuser'):
    _stub(bin_, name, f'echo {name} "$@" >> "{log}"')
  _stub(bin_, 'setsid', '"$@"')
  _stub(bin_, 'pgrep', 'exit 1')
  _stub(bin_, 'install', 'shift 5; mkdir -p "$@"')  # of a user
  _stub(tmp_path / 'venv/bin', 'python', f'echo python "$2" >> "{log}"')
  (tmp_path / 'OSWorld/main.py').write_text('its server')
  script = tmp_path / 'server.sh'
  script.write_text(re.sub(r'(?<![\w$])(?=/(home|tmp)/)', str(tmp_path), (
      _DOCS / 'osworld/server.sh').read_text()))
  script.chmod(0o755)
  for count in (1, 2):  # the user stays
    log.write_text('')
    (tmp_path / 'home/user').mkdir(exist_ok=True)
    (tmp_path / 'home/user/of_the_last_episode').touch()
    subprocess.run(
        [str(script), 'http://127.0.0.1:5001', 'OSWorld', 'venv'], check=True,
        cwd=tmp_path, env={**os.environ, 'PATH': f'{bin_}:/usr/bin:/bin'})
    deadline = time.monotonic() + 10
    while 'runuser' not in log.read_text() and time.monotonic() < deadline:
      time.sleep(.01)  # it is left to itself
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines if 'useradd' in line] == (
        ['useradd'] if count == 1 else [])
    assert 'pkill -KILL -u user' in lines
    assert 'python http://127.0.0.1:5001' in lines
  home = tmp_path / 'home/user'
  assert sorted(x.name for x in home.iterdir()) == [
      'Desktop', 'Documents', 'Downloads', 'Music', 'Pictures', 'Videos', 'bin',
      'server', 'session']
  assert (home / 'server/main.py').read_text() == 'its server'
  assert '--app main run --port 5001' in (home / 'session').read_text()


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
