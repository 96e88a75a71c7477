"""The environment on a fake desktop: episodes, rewards, what goes wrong."""

import contextlib
import functools
import json
import multiprocessing
import sys

import gymnasium
from gymnasium.utils import env_checker
import numpy as np
import pytest

from configs import osworld as osworld_config
from experiments import worlds
from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.osworld import checks
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import env as env_lib
from step_jax.envs.osworld import machines
from step_jax.rollout import workers
from step_jax.runs import errors
from tests import fake_desktop

DesktopError = client_lib.DesktopError
HOSTILE = '\'); import os; os.system("touch owned")'
TEXT = {'kind': 'text'}


def write_task(folder, name, *, instruction='Write word and save.', steps=None,
               wrong=(), **fields):
  value = {
      'id': name, 'instruction': instruction,
      'config': [{'type': 'launch', 'parameters': {'command': ['mousepad']}}],
      'evaluator': {
          'func': 'exact_match',
          'result': {'type': 'vm_command_line', 'command': ['cat', '/a']},
          'expected': {'type': 'rule', 'rules': {'expected': 'word'}}},
      **fields}
  (folder / f'{name}.json').write_text(json.dumps(value))
  if steps:
    (folder / f'{name}.solution.json').write_text(json.dumps(
        {'steps': steps, **({'wrong': wrong} if wrong else {})}))


def make_osworld(folder):
  """OSWorld's folder: three tasks for ours, two for its package, and one
  that nobody can play."""
  same = {'type': 'vm_file', 'path': '/a'}
  for domain, name, fields in (
      ('os', 'zero', {'evaluator': {'func': 'infeasible'}}),
      ('os', 'never', {'evaluator': {'func': 'infeasible'}}),
      ('os', 'word', {}),
      ('gimp', 'length', {'config': [], 'evaluator': {
          'func': 'length', 'result': same, 'expected': same}}),
      ('vlc', 'theirs', {'config': [], 'evaluator': {
          'func': 'exact_match', 'result': same, 'expected': same}}),
      ('vlc', 'google', {'config': [{'type': 'googledrive',
                                     'parameters': {}}]})):
    (folder / 'examples' / domain).mkdir(parents=True, exist_ok=True)
    write_task(folder / 'examples' / domain, name, **{
        'instruction': 'Fly to the moon.', **fields})
  path = folder / 'test_all.json'
  path.write_text(json.dumps({
      'vlc': ['theirs', 'google'], 'os': ['zero', 'never', 'word'],
      'gimp': ['length']}))
  return str(path)


def write_editor_tasks(folder):
  """A task for `make_editor`, and one that cannot be done, with solutions."""
  typed = {'verb': 'type', 'element': TEXT, 'word': 'word'}
  write_task(folder, 'write', steps=[
      typed,
      {'verb': 'click', 'element': {'kind': 'push-button', 'text': 'Save'}},
      {'verb': 'done'}], wrong=[typed, {'verb': 'fail'}])
  write_task(folder, 'zero', instruction='Fly to the moon.',
             evaluator={'func': 'infeasible'}, steps=[{'verb': 'fail'}])


@pytest.fixture
def folder(tmp_path):
  write_editor_tasks(tmp_path)
  return tmp_path


@pytest.fixture
def fake():
  with fake_desktop.FakeDesktop() as fake:
    yield make_editor(fake)


def make_editor(fake):
  """A text editor of one program: what is typed is seen, Save saves it."""
  def begin():
    fake.text = fake.saved = ''
    fake.tree = fake_desktop.small_tree()

  def execute(command):
    if command[0] != 'python':
      return fake.saved
    for name, *arguments in json.loads(command[3]):
      if name == 'type':
        fake.text += arguments[0]
        fake.tree = fake_desktop.small_tree(fake.text)
      if name == 'click' and arguments[1] < 20 and arguments[0] > 100:
        fake.saved = fake.text
    return ''

  begin()
  fake.on_reset, fake.on_execute = begin, execute
  return fake


@pytest.fixture(autouse=True)
def impatience(monkeypatch):
  """No waiting."""
  monkeypatch.setattr(machines, '_LEASE_SECONDS', 0.)
  monkeypatch.setattr(env_lib, '_LOOK_PAUSE', 0.)
  monkeypatch.setattr(env_lib, '_EXPERT_SECONDS', 0.)


@pytest.fixture
def env(folder, fake):
  env = make(folder, fake)
  yield env
  env.close()


def make(folder, *fakes, **fields):
  return env_lib.OSWorldEnv(
      folder, addresses=[fake.address for fake in fakes], pause=0., **fields)


def reset(env, task, **options):
  return env.reset(seed=0, options={
      'task_id': env.tasks.index(task), **options})


def act(env, verb, kind='', word=0):
  kinds = [record.kind for record in env._screen.elements]
  return env.step(base.make_action(
      verb, kinds.index(kind) if kind else 0, word))


def test_a_solution_is_rewarded_at_its_end(env, fake):
  assert env.tasks == ('write', 'zero')
  observation, info = reset(env, 'write', expert=True)
  assert observation in env.observation_space
  assert fake.count('/reset') == 2  # one to see that it can
  assert fake.count('/setup/launch') == 1
  rewards = []
  for _ in range(3):
    assert info['task'] == 'write'
    observation, reward, terminated, truncated, info = env.step(
        info['expert_action'])
    rewards.append((reward, terminated, truncated))
    assert observation in env.observation_space
  assert rewards == [(0, False, False), (0, False, False), (1, True, False)]
  assert fake.saved == 'word'
  assert fake.orders() == [
      [['click', 640, 370], ['hotkey', 'ctrl', 'end'], ['type', 'word']],
      [['click', 120, 10]]]
  assert 'expert_action' not in info


def test_a_wrong_end_is_not_rewarded(env):
  reset(env, 'write')
  assert act(env, 'done')[1:4] == (0, True, False)


def test_giving_up_is_right_where_nothing_can_be_done(env):
  _, info = reset(env, 'zero', expert=True)
  assert env.step(info['expert_action'])[1:4] == (1, True, False)
  reset(env, 'zero')
  assert act(env, 'done')[1:4] == (0, True, False)


def test_giving_up_loses_what_was_done(env, fake):
  reset(env, 'write')
  fake.saved = 'word'
  assert act(env, 'fail')[1:4] == (0, True, False)


def test_the_last_step_is_evaluated_too(folder, fake):
  env = make(folder, fake, max_steps=2)
  reset(env, 'write')
  assert act(env, 'type', 'text', 1)[1:4] == (0, False, False)
  assert act(env, 'click', 'push-button')[1:4] == (1, False, True)
  assert fake.count('/execute') == 3
  assert env.step(base.make_action('done'))[1] == 0  # only once
  assert fake.count('/execute') == 3
  env.close()


def test_an_illegal_action_does_nothing_and_counts(folder, fake):
  """ms-swift #9745: text that cannot be parsed."""
  env = make(folder, fake, max_steps=5)
  reset(env, 'zero')
  before = len(fake.requests)
  for action in ([99, 0, 0], 'x', base.make_action('type', 0, 0),
                 actions.Action(kind='press_home')):
    assert env.step(action)[1:4] == (0, False, False)
  assert len(fake.requests) == before
  assert env.step(None)[3]
  env.close()


def test_internal_actions_are_taken_as_well(env, fake):
  reset(env, 'write')
  env.step(actions.Action(kind='type', text='word'))
  env.step(actions.Action(kind='click', point=(.1, .01)))
  env.step(actions.Action(kind='wait'))
  assert env.step(actions.Action(kind='done', text='yes'))[1:4] == (
      1, True, False)
  assert fake.orders() == [[['type', 'word']], [['click', 128, 7]],
                           [['wait', 0.]]]


def test_a_partial_score_is_no_success(env, monkeypatch):
  for score, reward in ((.99, 0), (1., 1)):
    monkeypatch.setattr(
        env_lib.judge.evaluators, 'evaluate', lambda *_, **__: score)
    reset(env, 'write')
    assert act(env, 'done')[1] == reward


def test_screens_and_legal_verbs(env, fake):
  observation, _ = reset(env, 'write')
  assert [record.kind for record in env._screen.elements] == [
      'frame', 'menu', 'push-button', 'text']
  assert env._screen.words == ('Write', 'word', 'and', 'save')
  assert observation['verb_mask'].all()
  assert observation['target_mask'][base.VERBS.index('type')].tolist()[:5] == [
      False, False, False, True, False]


def test_an_episode_begins_with_a_restored_desktop(env, fake):
  for _ in range(2):
    fake.requests.clear()
    reset(env, 'write')
    assert [route for route, _ in fake.requests if route != '/screen_size'
            ][:3] == ['/reset', '/setup/launch', '/accessibility']


def test_the_checker_of_gymnasium(env):
  env_checker.check_env(env, skip_render_check=True)


def test_errors_of_use(folder, env, fake):
  with pytest.raises(gymnasium.error.ResetNeeded):
    env.step(base.make_action('done'))
  with pytest.raises(ValueError, match='below 2, got 2'):
    env.reset(options={'task_id': 2})
  (folder / 'zero.solution.json').unlink()
  env.close()
  for fields, message in (
      ({'max_steps': 0}, 'max_steps of at least 1'),
      ({'pause': -1.}, 'pause of at least 0'),
      ({'settle_after_reset': -1.}, 'settle_after_reset of at least 0'),
      ({'render_mode': 'human'}, "render_mode 'rgb_array'"),
      ({'evaluator': 'mine'}, 'an evaluator of own, desktop_env, auto'),
      ({'evaluator': 'desktop_env', 'desktop_env_python': sys.executable},
       'an interpreter that has the package desktop-env'),
      ({'addresses': 'http://a:1'}, 'a list of addresses')):
    with pytest.raises(ValueError, match=message):
      env_lib.OSWorldEnv(folder, **{'addresses': [fake.address], **fields})
  again = make(folder, fake)
  with pytest.raises(ValueError, match="a task with a solution, got 'zero'"):
    reset(again, 'zero', expert=True)
  again.close()
  with pytest.raises(checks.TaskError, match='expected a folder'):
    make(folder / 'none', fake)


def test_a_part_of_a_screen_is_read_again(env, fake):
  reset(env, 'write')
  fake.tree = fake.tree.replace('<desktop-frame', (
      '<desktop-frame incomplete="true"'))
  fake.requests.clear()
  act(env, 'back')  # and taken as it is, when it stays so
  assert [route for route, _ in fake.requests] == [
      '/execute', *['/accessibility'] * 3]


# The scripted solution.


def test_the_script_waits_for_a_step_that_was_not_taken(env):
  _, info = reset(env, 'write', expert=True)
  first = info['expert_action']
  for action in (base.make_action('back'), base.make_action('click', 1)):
    *_, info = env.step(action)
    assert info['expert_action'].tolist() == first.tolist()
  *_, info = env.step(first)
  assert info['expert_action'].tolist() != first.tolist()


def test_the_script_waits_until_its_element_appears(env, fake, monkeypatch):
  monkeypatch.setattr(env_lib, '_EXPERT_SECONDS', 60.)
  later = fake.tree
  fake.on_reset = lambda: None
  fake.tree = fake_desktop.tree(fake_desktop.node('frame', 'x'))
  looks = fake.count('/accessibility')

  def pause(_):
    if fake.count('/accessibility') > looks + 6:
      fake.tree = later

  monkeypatch.setattr(env_lib.time, 'sleep', pause)
  _, info = reset(env, 'write', expert=True)
  assert info['expert_action'].tolist() == [1, 3, 1]


def test_a_script_whose_element_never_comes_ends(env, fake):
  fake.on_reset = lambda: None
  fake.tree = fake_desktop.tree(fake_desktop.node('frame', 'x'))
  _, info = reset(env, 'write', expert=True)
  assert base.VERBS[info['expert_action'][0]] == 'done'
  assert env.step(info['expert_action'])[1:3] == (0, True)


def test_a_part_of_a_score_is_told_and_not_rewarded(env, fake, monkeypatch):
  scores = [.5, 1.]
  monkeypatch.setattr(env_lib.judge.evaluators, 'evaluate',
                      lambda *_, **__: scores.pop(0))
  for score, reward in ((.5, 0.), (1., 1.)):
    _, info = reset(env, 'write')
    assert 'score' not in info
    _, found, *_, info = act(env, 'done')
    assert (found, info['score']) == (reward, score)


def test_the_wrong_way_can_be_gone_too(env):
  _, info = reset(env, 'write', expert='wrong')
  *_, info = env.step(info['expert_action'])
  assert base.VERBS[info['expert_action'][0]] == 'fail'


# Which tasks.


def test_task_files_of_splits(tmp_path):
  for name in ('train', 'held_out'):
    (tmp_path / 'all' / name).mkdir(parents=True)
    write_task(tmp_path / 'all' / name, f'in_{name}')
  (tmp_path / 'flat').mkdir()
  write_task(tmp_path / 'flat', 'b', steps=[{'verb': 'done'}])
  write_task(tmp_path / 'flat', 'a')
  write_task(tmp_path, 'file')
  given = tuple(str(tmp_path / name) for name in ('all', 'flat', 'file.json'))
  names = {
      split: [path.rpartition('/')[2]
              for path in env_lib.find_tasks(given, split)]
      for split in ('train', 'held_out', 'all')}
  assert names['train'] == ['in_train.json', 'a.json', 'b.json', 'file.json']
  assert names['held_out'] == ['in_held_out.json']
  assert names['all'] == names['train'] + names['held_out']
  with pytest.raises(ValueError, match='expected env.tasks to name'):
    env_lib.find_tasks((), 'train')
  with pytest.raises(ValueError, match='expected a folder with task files'):
    env_lib.find_tasks((str(tmp_path / 'none'),), 'train')


def test_an_id_in_two_domains_is_two_tasks(tmp_path, fake):
  """As in OSWorld's older lists."""
  for domain, name in (('os', 'a'), ('os', 'b'), ('vlc', 'a')):
    (tmp_path / 'examples' / domain).mkdir(parents=True, exist_ok=True)
    write_task(tmp_path / 'examples' / domain, name)
  listed = tmp_path / 'test_all.json'
  listed.write_text('{"os": ["b", "a"], "vlc": ["a"]}')
  config = osworld_config.get_config('servers')
  config.env.tasks = (str(listed),)
  config.env.arguments.addresses = (fake.address,)
  world = worlds.make_world(config)
  assert world.tasks == ('b', 'os/a', 'vlc/a')
  assert world.domains == ('os', 'os', 'vlc')
  with contextlib.closing(world.make_env()) as env:
    assert env.tasks == ('b', 'a', 'a')
  config.env.tasks *= 2
  with pytest.raises(errors.UserError, match='every task once'):
    worlds.make_world(config)
  bare = tmp_path / 'mine.txt'
  bare.write_text('b\na\n')
  with pytest.raises(checks.TaskError, match="where two have it, got 'a'"):
    env_lib.find_tasks((str(bare),), 'train')


def test_examples_have_the_shapes_of_observations(folder, fake, tmp_path):
  for arguments in ({}, {'screenshots': tmp_path / 'shots'}):
    env = make(folder, fake, **arguments)
    observation, _ = reset(env, 'write')
    shown = env_lib.example(pause=1., **arguments)
    assert {name: (x.shape, x.dtype) for name, x in shown.items()} == {
        name: (x.shape, x.dtype) for name, x in observation.items()}
    assert shown in env.observation_space
    env.close()


# What breaks is never the agent's failure.

RESETS = ['/reset', '/setup/launch', '/screen_size', '/accessibility']
STEPS = ['/execute', '/accessibility']


@pytest.mark.parametrize('failure', ['error', 'drop'])
@pytest.mark.parametrize('route', RESETS)
def test_failures_of_a_reset(env, fake, route, failure):
  if (route, failure) == ('/setup/launch', 'error'):
    return  # as in OSWorld: a program that is not there
  env._machine._screen_size = None
  fake.failures[route] = [failure] * 3
  with pytest.raises(DesktopError, match=route):
    reset(env, 'write')
  fake.failures.clear()
  reset(env, 'write')


@pytest.mark.parametrize('failure', ['error', 'drop', 'garbage'])
@pytest.mark.parametrize('route', STEPS)
def test_failures_of_a_step(env, fake, route, failure):
  reset(env, 'write')
  fake.failures[route] = [failure] * 3
  with pytest.raises(DesktopError, match=route):
    act(env, 'back')
  with pytest.raises(gymnasium.error.ResetNeeded):
    act(env, 'done')


@pytest.mark.parametrize('failure', ['drop', 'garbage'])
def test_failures_of_an_evaluation(env, fake, failure):
  """NeMo-Gym #2295: a judge that breaks is not the policy's failure."""
  reset(env, 'write')
  fake.saved = 'word'
  fake.failures['/execute'] = [failure]
  with pytest.raises(DesktopError, match='/execute'):
    act(env, 'done')


def test_a_frozen_desktop(env, fake, monkeypatch):
  monkeypatch.setattr(env_lib.program, '_TIMEOUT', .1)
  reset(env, 'write')
  fake.failures['/execute'] = ['freeze']
  with pytest.raises(DesktopError, match='ReadTimeout'):
    act(env, 'back')


def test_an_application_that_hangs(env, fake, monkeypatch):
  monkeypatch.setattr(env_lib.looks, '_ANSWER_SECONDS', 0.)
  reset(env, 'write')
  fake.tree = '<desktop-frame incomplete="true"/>'
  with pytest.raises(DesktopError, match='an application does not answer'):
    act(env, 'back')


def test_an_application_that_broke(env, fake):
  for crashed in ([], ['mousepad']):
    fake.crashed = crashed
    _, info = reset(env, 'write', expert=True)
    while 'expert_action' in info:
      _, reward, _, _, info = env.step(info['expert_action'])
    assert reward == 1  # in spite of it
    reset(env, 'write')
    if crashed:
      with pytest.raises(DesktopError, match='mousepad broke'):
        act(env, 'done')
    else:
      assert act(env, 'done')[1] == 0


def test_a_program_that_the_evaluation_kills_has_not_broken(env, fake):
  fake.crashed = []
  reset(env, 'write')

  def kill(_):
    fake.crashed = ['mousepad']
    return 'something else'

  fake.on_execute = kill
  assert act(env, 'done')[1] == 0


def test_a_tree_that_is_none(env, fake):
  reset(env, 'write')
  fake.tree = '<a'
  with pytest.raises(DesktopError, match='expected an accessibility tree'):
    act(env, 'back')


def test_an_application_that_does_not_start(env, fake, monkeypatch):
  monkeypatch.setattr(env_lib.looks, '_START_SECONDS', 0.)
  fake.on_reset = lambda: None
  fake.tree = '<desktop-frame/>'
  with pytest.raises(DesktopError, match='write shows no window in'):
    reset(env, 'write')


@pytest.mark.parametrize('tree', ['', '<a', '<desktop-frame/>'])
def test_pictures_need_no_elements(folder, fake, tmp_path, monkeypatch, tree):
  """OSWorld's server cannot read every program; VLC has no elements."""
  monkeypatch.setattr(env_lib.looks, '_START_SECONDS', 0.)
  env = make(folder, fake, screenshots=tmp_path / 'shots', read_tree=False)
  fake.on_reset = lambda: None
  fake.tree = tree
  if not tree:
    fake.failures['/accessibility'] = ['error'] * 3
  reset(env, 'write')
  click = actions.Action(kind='click', point=(.5, .5))
  assert env.step(click)[0]['screenshot'] == 1
  assert env.step(actions.Action(kind='done'))[1:3] == (0., True)
  with pytest.raises(DesktopError):  # whose solution names elements
    reset(env, 'write', expert=True)
  fake.failures['/screenshot'] = ['drop'] * 3
  with pytest.raises(DesktopError, match='/screenshot'):
    reset(env, 'write')
  env.close()


def test_a_pool_retries_what_broke(folder, fake):
  """A garbled look and a lost action cost two workers and no reward."""
  fake.failures['/accessibility'] = ['garbage']
  fake.failures['/execute'] = ['drop']
  factory = functools.partial(
      env_lib.OSWorldEnv, folder, addresses=[fake.address], pause=0.)
  rewards = {}
  with workers.WorkerPool(factory, num_workers=1, step_timeout=30.) as pool:
    pool.submit(workers.Job(slot, slot % 2, seed=0, expert=True)
                for slot in range(4))
    while pool.pending:
      for event in pool.wait():
        if event.kind == 'observation':
          pool.act(event.worker, event.info['expert_action'])
        elif event.kind == 'finished':
          rewards[event.job.slot] = event.reward
    failures = pool.failures
  assert rewards == dict.fromkeys(range(4), 1.)
  assert failures == {'exception': 2}


# Which desktop.


@pytest.mark.usefixtures('own_leases')
def test_each_environment_has_an_address_of_its_own(folder, fake):
  with fake_desktop.FakeDesktop() as other:
    one, two = make(folder, fake, other), make(folder, fake, other)
    assert one._machine.client.address == fake.address
    assert two._machine.client.address == other.address
    with pytest.raises(DesktopError, match='2 desktops to be free, got none'):
      make(folder, fake, other)
    one.close()
    three = make(folder, fake, other)
    assert three._machine.client.address == fake.address
    two.close()
    three.close()


@pytest.mark.parametrize('ports', ['#chrom=1', '#chrome=', '#vlc=x'])
def test_ports_that_are_none(folder, ports):
  with pytest.raises(ValueError, match='expected ports such as #chrome=9222'):
    env_lib.OSWorldEnv(folder, addresses=['http://a:1' + ports])


def test_an_address_that_does_not_answer_is_passed_over(folder, fake):
  with fake_desktop.FakeDesktop() as gone:
    pass
  env = make(folder, gone, fake)
  assert env._machine.client.address == fake.address
  env.close()
  with pytest.raises(DesktopError, match=f'{gone.address}/reset failed'):
    make(folder, gone)


def _hold(folder, address, queue):
  env = env_lib.OSWorldEnv(folder, addresses=[address])
  queue.put(env.tasks)
  queue.get(timeout=60)  # never: it is killed


def test_an_address_is_free_again_when_its_process_is_killed(
    folder, fake):
  context = multiprocessing.get_context('spawn')
  queue = context.Queue()
  holder = context.Process(target=_hold, args=(folder, fake.address, queue))
  holder.start()
  assert queue.get(timeout=60) == ('write', 'zero')
  with pytest.raises(DesktopError, match='got none'):
    make(folder, fake)
  holder.kill()
  holder.join()
  make(folder, fake).close()


def test_a_token_opens_a_desktop(folder):
  with fake_desktop.FakeDesktop(token='secret') as fake:
    env = make(folder, fake, token='secret')
    reset(env, 'write')
    env.close()
    with pytest.raises(DesktopError, match='401'):
      make(folder, fake, token='guess')


def test_a_machine_that_cannot_restore_itself(folder, tmp_path):
  with fake_desktop.FakeDesktop(can_reset=False) as fake:
    with pytest.raises(ValueError, match='expected reset_command'):
      make(folder, fake)
    log = tmp_path / 'log'
    command = [sys.executable, '-c',
               'import sys; open(sys.argv[1], "a").write(sys.argv[2] + "\\n")',
               str(log), 'vm of {address}']
    env = make(folder, fake, reset_command=command)
    for count in (1, 2):  # it was restored when it was taken
      reset(env, 'write')
      assert log.read_text() == f'vm of {fake.address}\n' * count
    env.close()
    failing = [sys.executable, '-c', 'import sys; sys.exit("no snapshot")']
    with pytest.raises(DesktopError, match='failed: no snapshot'):
      make(folder, fake, reset_command=failing)
    with pytest.raises(DesktopError, match='nothing-of-this-name'):
      make(folder, fake, reset_command=['nothing-of-this-name'])


def test_a_machine_that_is_down_is_restored(folder, fake):
  fake.failures['/reset'] = ['drop'] * 9
  env = make(folder, fake, reset_command=[sys.executable, '-c', ''])
  reset(env, 'write')
  env.close()
  assert fake.count('/reset') == 0


# Pictures.


def test_observations_name_pictures(folder, fake, tmp_path):
  env = make(folder, fake, screenshots=tmp_path / 'shots',
             render_mode='rgb_array')
  observation, _ = reset(env, 'write')
  assert observation in env.observation_space
  assert observation['screenshot'].shape == ()
  first = int(observation['screenshot'])
  observation = act(env, 'back')[0]
  assert int(observation['screenshot']) == first + 1
  assert env._store.get(first + 1).size == (1280, 720)
  assert env.render().shape == (720, 1280, 3)
  observation = act(env, 'done')[0]  # the last thing that was seen
  assert int(observation['screenshot']) == first + 1
  env.close()


def test_no_pictures_unless_asked_for(env, fake):
  observation, _ = reset(env, 'write')
  assert 'screenshot' not in observation
  assert fake.count('/screenshot') == 0
  assert env.render() is None


def test_hostile_instructions_are_words(folder, fake, tmp_path):
  write_task(tmp_path, 'hostile', instruction=f'Type {HOSTILE} now')
  env = make(tmp_path / 'hostile.json', fake)
  reset(env, 'hostile')
  for word in range(len(env._screen.words)):
    act(env, 'type', 'text', word)
  typed = [order[-1][1].strip() for order in fake.orders()]
  assert typed == ['Type', 'import', 'os', 'os.system("touch', 'owned', 'now']
  assert np.all([len(body['command']) == 4 for route, body in fake.requests
                 if route == '/execute'])
  env.close()
