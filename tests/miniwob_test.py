"""MiniWoB++ in a real Chromium: episodes, seeds, steps and what goes wrong."""

import glob
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from gymnasium.utils import env_checker
import numpy as np
import pytest

from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.miniwob import browser
from step_jax.envs.miniwob import env as miniwob
from step_jax.envs.miniwob import solvers as miniwob_solvers

TASKS = miniwob.TRAIN_TASKS + miniwob.HELD_OUT_TASKS
MAX_STEPS = 12

chromium = pytest.mark.chromium


@pytest.fixture(scope='module')
def env():
  env = miniwob.MiniWobEnv(TASKS, max_steps=MAX_STEPS, render_mode='rgb_array')
  yield env
  env.close()


def _reset(env, task, seed=0, expert=False):
  return env.reset(seed=seed, options={
      'task_id': TASKS.index(task), 'expert': expert})


def _wander(env, task, seed):
  """Observations and rewards of an episode, half of its actions random."""
  rng = np.random.default_rng(seed)
  observation, info = _reset(env, task, seed, expert=True)
  observations, rewards, ended = [observation], [], False
  while not ended:
    action = info['expert_action']
    if rng.random() < 0.5:
      verbs = np.flatnonzero(observation['verb_mask'])
      action = np.array([rng.choice(verbs), rng.integers(6), rng.integers(6)])
    observation, reward, terminated, truncated, info = env.step(action)
    observations.append(observation)
    rewards.append(reward)
    ended = terminated or truncated
  return observations, rewards


def _assert_same(one, other):
  assert len(one) == len(other)
  for first, second in zip(one, other, strict=True):
    for name in first:
      np.testing.assert_array_equal(first[name], second[name], err_msg=name)


# Without a browser.


def test_task_sets_are_disjoint_and_have_solvers():
  assert len(miniwob.TRAIN_TASKS) == 16
  assert len(miniwob.HELD_OUT_TASKS) >= 4
  assert len(set(TASKS)) == len(TASKS)
  assert set(TASKS) <= set(miniwob_solvers.SOLVERS)


@pytest.mark.parametrize('present, missing', [
    (['chromedriver'], 'chromium not found'),
    (['chromium'], 'chromedriver not found'),
    ([], 'chromium and chromedriver not found'),
])
def test_missing_programs_are_one_sentence(
    monkeypatch, tmp_path, present, missing):
  for name in present:
    (tmp_path / name).write_text('#!/bin/sh\n')
    (tmp_path / name).chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path))
  for name in ('MINIWOB_CHROME_BINARY', 'MINIWOB_CHROMEDRIVER'):
    monkeypatch.delenv(name, raising=False)
  sentence = f'^{missing}.*apt-get install chromium chromium-driver`.$'
  with pytest.raises(base.MissingProgramError, match=sentence):
    browser.find_programs()


def test_programs_can_be_named_by_environment_variables(
    monkeypatch, tmp_path):
  for name in ('one', 'two'):
    (tmp_path / name).write_text('#!/bin/sh\n')
    (tmp_path / name).chmod(0o755)
  monkeypatch.setenv('MINIWOB_CHROME_BINARY', str(tmp_path / 'one'))
  monkeypatch.setenv('MINIWOB_CHROMEDRIVER', str(tmp_path / 'two'))
  monkeypatch.setattr(browser.importlib.util, 'find_spec', lambda _: True)
  assert browser.find_programs() == (
      str(tmp_path / 'one'), str(tmp_path / 'two'))
  monkeypatch.setenv('MINIWOB_CHROMEDRIVER', str(tmp_path / 'three'))
  with pytest.raises(base.MissingProgramError, match='chromedriver not found'):
    browser.find_programs()


def test_missing_packages_are_one_sentence(monkeypatch):
  monkeypatch.setattr(miniwob.importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(base.MissingProgramError,
                     match=r"miniwob .* `pip install 'step_jax\[miniwob\]'`"):
    miniwob.MiniWobEnv()
  monkeypatch.setattr(browser.shutil, 'which', lambda name: name)
  with pytest.raises(base.MissingProgramError,
                     match=r"selenium .* `pip install 'step_jax\[miniwob\]'`"):
    browser.find_programs()


@pytest.mark.parametrize('user, sandbox', [(0, False), (1000, True)])
def test_the_flags_of_a_browser(monkeypatch, user, sandbox):
  """MiniWoB-plusplus #90: DevToolsActivePort file doesn't exist.

  So says a driver that waits for a port, of a browser that did not start: root
  has no sandbox, and /dev/shm may be small.
  """
  monkeypatch.setattr(os, 'geteuid', lambda: user)
  flags = browser.make_flags('folder')
  assert ('--no-sandbox' not in flags) == sandbox
  assert {'--headless', '--remote-debugging-pipe', '--disable-dev-shm-usage',
          '--user-data-dir=folder/profile'} <= {*flags}


# With a browser, one for all of these.


@chromium
@pytest.mark.parametrize('arguments, message', [
    ({'tasks': ['click-buton']}, 'such as click-button.*got .click-buton.'),
    ({'tasks': ['../core/core']}, 'expected a MiniWoB'),
    ({'tasks': []}, 'sequence of task names'),
    ({'tasks': 'click-button'}, 'sequence of task names'),
    ({'max_steps': 0}, 'at least 1, got 0'),
    ({'render_mode': 'human'}, "'rgb_array', got 'human'"),
])
def test_bad_arguments_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    miniwob.MiniWobEnv(**arguments)


@chromium
def test_gymnasium_accepts_the_environment(env):
  env_checker.check_env(env, skip_render_check=True, skip_close_check=True)


@chromium
def test_bad_reset_options_are_refused(env):
  for task_id in (-1, len(TASKS)):
    with pytest.raises(ValueError, match='expected a task_id below'):
      env.reset(seed=0, options={'task_id': task_id})


@chromium
def test_equal_seeds_are_equal_episodes_whatever_was_before(env):
  tasks = ('click-button-sequence', 'email-inbox-delete', 'search-engine',
           'click-collapsible-2-nodelay', 'login-user', 'navigate-tree')
  first = {task: _wander(env, task, 3) for task in tasks}
  for task in reversed(tasks):
    _wander(env, task, 4)
    again = _wander(env, task, 3)
    _assert_same(first[task][0], again[0])
    assert first[task][1] == again[1]


@chromium
def test_other_seeds_are_other_episodes(env):
  instructions = {
      _reset(env, 'enter-text', seed)[0]['instruction'].tobytes()
      for seed in range(6)}
  assert len(instructions) > 3


@chromium
def test_without_a_seed_episodes_follow_from_the_last_one(env):
  def play():
    _reset(env, 'enter-text', 1)
    return [env.reset()[0] for _ in range(3)]

  one, other = play(), play()
  _assert_same(one, other)
  assert len({
      observation['instruction'].tobytes() for observation in one}) == 3


@chromium
def test_an_episode_ends_with_its_last_observation(env):
  observation, info = _reset(env, 'click-test-2', 0, expert=True)
  assert info['task'] == 'click-test-2'
  last, reward, terminated, truncated, _ = env.step(info['expert_action'])
  assert (reward, terminated, truncated) == (1., True, False)
  _assert_same([observation], [last])
  last, reward, terminated, truncated, _ = env.step(info['expert_action'])
  assert (reward, terminated, truncated) == (0., True, False)
  _assert_same([observation], [last])


@chromium
def test_doing_nothing_succeeds_at_no_task():
  """android_world #315."""
  env = miniwob.MiniWobEnv(TASKS, max_steps=1)
  nothing = np.array([-1, 0, 0]), actions.Action(kind='done')
  for task_id, action in itertools.product(range(len(TASKS)), nothing):
    env.reset(seed=task_id, options={'task_id': task_id})
    _, reward, *ends, _ = env.step(action)
    assert reward == 0 and any(ends), TASKS[task_id]
  env.close()


@chromium
def test_a_failure_and_a_part_of_a_success_are_worth_nothing(env):
  _reset(env, 'click-test-2', 0)
  assert env.step(base.make_action('click', 1))[1:3] == (0., True)
  observation, _ = _reset(env, 'click-checkboxes-large', 0)
  submit = np.count_nonzero(observation['element_type']) - 1
  for index in (2, 4, submit):
    result = env.step(base.make_action('click', index))
  assert result[1:3] == (0., True)


@chromium
@pytest.mark.parametrize('action', [
    [5, 0, 0], [0, 47, 0], [1, 1, 0], [99, 0, 0], [-1, 0, 0], [0], None,
    'alert(1)'])
def test_an_illegal_action_does_nothing_and_counts(env, action):
  observation, _ = _reset(env, 'enter-text', 0)
  for step in range(MAX_STEPS):
    after, reward, terminated, truncated, _ = env.step(action)
    _assert_same([observation], [after])
    assert (reward, terminated) == (0., False)
    assert truncated == (step == MAX_STEPS - 1)


@chromium
def test_typing_replaces_the_text_of_a_field(env):
  before, info = _reset(env, 'login-user', 0, expert=True)
  field = int(info['expert_action'][1])
  for word in (0, 3):
    after = env.step(base.make_action('type', field, word))[0]
    assert after['element_value'][field, 0] == before['instruction'][word]
  focused, changed = after['element_flags'][field, :2]
  assert focused and changed and not before['element_flags'][:, 1].any()


@chromium
def test_a_checkbox_shows_its_label_and_whether_it_is_checked(env):
  _, info = _reset(env, 'click-checkboxes-large', 0, expert=True)
  box = int(info['expert_action'][1])
  after = env.step(info['expert_action'])[0]
  assert after['element_type'][box] == base.word_id('input_checkbox')
  assert after['element_text'][box, 0] in after['instruction']
  selected = after['element_flags'][:, base.FLAGS.index('selected')]
  np.testing.assert_array_equal(np.flatnonzero(selected), [box])


@chromium
def test_what_does_not_fit_the_screen_is_scrolled_to(env):
  down, up = (base.VERBS.index(verb) for verb in ('scroll_down', 'scroll_up'))
  _reset(env, 'click-tab-2', 1)
  # Whether the page itself fits depends on the fonts of the machine.
  env._browser.run('area.style.paddingTop = "100px"')
  before, _ = _reset(env, 'click-tab-2', 1)
  assert before['verb_mask'][down] and not before['verb_mask'][up]
  after = env.step(base.make_action('scroll_down'))[0]
  assert after['verb_mask'][up] and not after['verb_mask'][down]
  assert after['element_box'][0, 1] < before['element_box'][0, 1]
  back = env.step(base.make_action('scroll_up'))[0]
  _assert_same([before], [back])


@chromium
def test_the_clock_does_not_end_an_episode(env):
  for task in ('click-test', 'email-inbox-delete'):
    _reset(env, task)
    limit = env._browser.run('return core.EPISODE_MAX_TIME')
    assert limit == 2**31 - 1


@chromium
def test_a_picture_shows_the_task(env):
  _reset(env, 'click-test-2')
  picture = env.render()
  assert picture.shape == (210, 160, 3) and picture.dtype == np.uint8
  np.testing.assert_array_equal(picture[48, 150], [255, 255, 0])  # the query


@chromium
@pytest.mark.parametrize('victim', ['driver', 'browser'])
def test_a_broken_browser_raises_and_the_next_reset_starts_another(
    env, victim):
  observation, _ = _reset(env, 'enter-text')
  folder = env._browser._folder.name
  assert _processes_with(folder)
  os.kill({'driver': env._browser._service.process.pid,
           'browser': env._browser._driver.capabilities['goog:processID'],
           }[victim], signal.SIGKILL)
  with pytest.raises(browser.BrowserError, match='The browser failed'):
    env.step(base.make_action('click', 0))
  assert not _processes_with(folder) and not os.path.exists(folder)
  again, _ = _reset(env, 'enter-text')
  _assert_same([observation], [again])


@chromium
def test_a_browser_is_renewed_before_it_has_grown(env, monkeypatch):
  env.close()
  monkeypatch.setattr(miniwob, '_EPISODES_OF_A_BROWSER', 2)
  folders, observations = [], []
  for _ in range(5):
    observations.append(_reset(env, 'enter-text')[0])
    folders.append(env._browser._folder.name)
  assert [folders.index(folder) for folder in folders] == [0, 0, 2, 2, 4]
  assert not _processes_with(folders[0]) and not os.path.exists(folders[0])
  _assert_same(observations[:1] * 5, observations)


@chromium
def test_fifty_resets_that_fail_after_loading_leave_nothing(env, monkeypatch):
  """Whatever fails then is not the browser, which goes on."""
  def look():
    folder, pid = env._browser._folder.name, env._browser._service.process.pid
    return (folder, len(_processes_with(folder)), len(os.listdir(
        '/proc/self/fd')), len(os.listdir(f'/proc/{pid}/fd')))

  def fail(report):
    raise KeyError(report['instruction'])

  observation, _ = _reset(env, 'enter-text')
  before = look()
  with monkeypatch.context() as patch:
    patch.setattr(env, '_read', fail)
    for _ in range(50):
      with pytest.raises(KeyError):
        _reset(env, 'enter-text')
  assert look() == before
  again, info = _reset(env, 'enter-text', expert=True)
  _assert_same([observation], [again])
  while not any((result := env.step(info['expert_action']))[2:4]):
    info = result[4]
  assert result[1] == 1


@chromium
def test_closing_leaves_nothing_behind(monkeypatch, tmp_path):
  monkeypatch.setattr(browser.tempfile, 'tempdir', str(tmp_path))
  env = miniwob.MiniWobEnv(['click-test'])
  env.close()
  env.reset(seed=0)
  assert _processes_with(str(tmp_path)) and os.listdir(tmp_path)
  env.close()
  env.close()
  assert not _processes_with(str(tmp_path)) and not os.listdir(tmp_path)


@chromium
@pytest.mark.skipif(not shutil.which('setpriv'), reason='setpriv not found')
def test_a_killed_owner_takes_its_browser_along():
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    owner = subprocess.Popen(
        [sys.executable, '-c', _OWNER], stdout=subprocess.PIPE,
        env={**os.environ, 'TMPDIR': folder})
    with owner:
      assert owner.stdout.readline() == b'ready\n'
      assert _processes_with(folder)
      owner.kill()
    give_up = time.monotonic() + 10
    while _processes_with(folder) and time.monotonic() < give_up:
      time.sleep(0.05)
    assert not _processes_with(folder)


_OWNER = '''
import time
from step_jax.envs.miniwob import env as miniwob
env = miniwob.MiniWobEnv(['click-test'])
env.reset(seed=0)
print('ready', flush=True)
time.sleep(60)
'''


def _processes_with(argument):
  found = []
  for path in glob.glob('/proc/[0-9]*/cmdline'):
    try:
      with open(path, 'rb') as file:
        found += [path] if argument.encode() in file.read() else []
    except OSError:
      continue  # it ended while we looked
  return found


def test_a_browser_that_does_not_start_is_a_browser_error(
    monkeypatch, tmp_path):
  pytest.importorskip('selenium')
  program = tmp_path / 'broken'
  program.write_text('#!/bin/sh\nexit 3\n')
  program.chmod(0o755)
  monkeypatch.setenv('MINIWOB_CHROME_BINARY', str(program))
  monkeypatch.setenv('MINIWOB_CHROMEDRIVER', str(program))
  monkeypatch.setattr(browser.tempfile, 'tempdir', str(tmp_path))
  assert shutil.which(str(program))
  with pytest.raises(browser.BrowserError, match='The browser failed'):
    browser.Browser(10, 10)
  assert os.listdir(tmp_path) == ['broken']
