"""Pictures in, UI-TARS text out.

Over a painted world, a browser, a desktop and a phone.
"""

import functools
import json

import numpy as np
import pytest

from step_jax.codecs import actions
from step_jax.codecs import ui_tars
from step_jax.envs.androidworld import env as androidworld
from step_jax.envs.miniwob import env as miniwob
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import env as osworld_env
from step_jax.envs.osworld import machines
from step_jax.envs import picture_env
from step_jax.policies.qwen_vl import images
from step_jax.rollout import pictures
from step_jax.rollout import workers
from tests import fake_desktop
from tests import fake_phone
from tests import fake_phone_tasks
from tests import fake_pictures

Action = actions.Action
CLICK = "Action: click(start_box='<|box_start|>({},{})<|box_end|>')"
NONSENSE = ('', 'click(', 'Action: fly()', 'Thought: I', None,
            "Action: click(start_box='(1,2000)')")


def make_painted(**options):
  return fake_pictures.PaintedEnv(('click-type',), 9, **options)


def _click(env):
  """The text of a click into the middle of the square."""
  x, y = ((env.unwrapped.corner + 14) / 56 * 1000).round().astype(int)
  return CLICK.format(x, y)


@pytest.fixture(name='env')
def made_env(tmp_path):
  return picture_env.PictureEnv(make_painted, tmp_path)


def test_what_is_seen_is_in_the_store(env, tmp_path):
  observation, info = env.reset(seed=0)
  assert info == {'instruction': 'Do click-type.'}
  assert observation in env.observation_space
  assert {name: (x.shape, x.dtype) for name, x in observation.items()} == {
      name: (x.shape, x.dtype) for name, x in picture_env.example().items()}
  first = int(observation['screenshot'])
  assert observation['size'].tolist() == [56, 56]
  left, top = env.unwrapped.corner
  after = env.step(_click(env))[0]
  store = pictures.ScreenshotStore(tmp_path)
  assert int(after['screenshot']) == first + 1
  for number, shade in ((first, 0), (first + 1, 100)):
    picture = np.asarray(store.get(number))
    np.testing.assert_array_equal(picture[top, left], [0, 0, shade])
  np.testing.assert_array_equal(
      observation['element_box'][0],
      np.array([left / 56, top / 56, .5, .5], np.float32))


def test_digests_are_equal_iff_pictures_are(env):
  seen = [env.reset(seed=seed)[0]['digest'] for seed in (0, 1, 0)]
  after = env.step(_click(env))[0]['digest']
  assert (seen[0] == seen[2]).all()
  assert (seen[0] != seen[1]).any() and (after != seen[0]).any()
  flat = images.digest(repr((2, 8, 3)).encode() + bytes(48))
  tall = images.digest(repr((4, 4, 3)).encode() + bytes(48))
  assert (flat != tall).any()


def test_text_is_read_as_an_action(env):
  env.reset(seed=0)
  env.step(CLICK.format(250, 500))
  env.step("Thought: I drag.\nAction: drag(start_box='(0,0)', "
           "end_box='(1000,1000)')")
  assert env.unwrapped.taken == [
      Action(kind='click', point=(.25, .5)),
      Action(kind='drag', point=(0., 0.), end=(1., 1.))]


@pytest.mark.parametrize('text', NONSENSE)
def test_what_cannot_be_read_does_nothing_and_counts(env, text):
  env.reset(seed=0)
  _, reward, terminated, truncated, _ = env.step(text)
  assert env.unwrapped.taken == [None]
  assert (reward, terminated, truncated) == (0., False, False)


def test_pixels_are_those_of_the_picture_that_the_model_sees(tmp_path):
  # 56 x 56 is made 84 x 84, a multiple of 28 with so many pixels.
  env = picture_env.PictureEnv(
      make_painted, tmp_path, convention='pixels', min_pixels=84 * 84)
  _, info = env.reset(seed=0, options={'expert': True})
  x, y = ((env.unwrapped.corner + 14) / 56 * 84).round().astype(int)
  assert info['expert_action'] == f"Action: click(start_box='({x},{y})')"
  env.step("Action: click(start_box='(21,84)')")
  assert env.unwrapped.taken == [Action(kind='click', point=(.25, 1.))]


def test_an_expert_action_becomes_text_step_by_step(env):
  _, info = env.reset(seed=3, options={'expert': True})
  assert info['expert_action'] == _click(env)
  *_, info = env.step(info['expert_action'])
  assert info['expert_action'] == "Action: type(content='ok')"
  # Who goes astray is shown the whole way again.
  *_, info = env.step('nonsense')
  assert info['expert_action'] == _click(env)
  *_, info = env.step(info['expert_action'])
  _, reward, terminated, _, info = env.step(info['expert_action'])
  assert (reward, terminated) == (1., True) and 'expert_action' not in info


def test_an_end_shows_the_last_picture_again(env, tmp_path):
  env.reset(seed=0)
  before = env.step(_click(env))[0]
  after, _, terminated, *_ = env.step("Action: type(content='ok')")
  assert terminated and after is before
  assert len(list(tmp_path.glob('*.png'))) == 2


def test_the_store_is_bounded(tmp_path):
  env = picture_env.PictureEnv(make_painted, tmp_path, capacity=3)
  for seed in range(5):
    env.reset(seed=seed)
  assert sorted(int(path.stem) for path in tmp_path.glob('*.png')) == [2, 3, 4]


def test_an_environment_without_pictures_is_refused(tmp_path):
  env = picture_env.PictureEnv(
      lambda: make_painted(render_mode=None), tmp_path)
  with pytest.raises(ValueError, match='shows pictures'):
    env.reset(seed=0)


def test_a_crash_is_a_failure_of_infrastructure(tmp_path):
  make_env = functools.partial(
      picture_env.PictureEnv, functools.partial(make_painted, breaks=True),
      tmp_path)
  with workers.WorkerPool(
      make_env, num_workers=1, step_timeout=60., max_retries=0) as pool:
    pool.submit([workers.Job(0, 0, 0)])
    event, = pool.wait()
    assert event.kind == 'observation'
    pool.act(event.worker, CLICK.format(1, 1))
    event, = pool.wait()
    assert event.kind == 'lost' and 'it broke' in event.message
    assert pool.failures == {'exception': 1}


@pytest.mark.chromium
@pytest.mark.parametrize('task', ['click-test-2', 'enter-text', 'click-tab-2'])
def test_scripted_solutions_in_a_browser_work_as_text(task, tmp_path):
  env = picture_env.PictureEnv(
      lambda: miniwob.MiniWobEnv([task], 12, render_mode='rgb_array'),
      tmp_path)
  try:
    for seed in range(2):
      observation, info = env.reset(seed=seed, options={'expert': True})
      assert info['instruction'].endswith('.')
      done = False
      while not done:
        text = info['expert_action']
        assert ui_tars.decode(text, convention='thousand')
        observation, reward, *ends, info = env.step(text)
        done = any(ends)
      assert reward == 1.
    store = pictures.ScreenshotStore(tmp_path)
    assert store.get(int(observation['screenshot'])).size == (160, 210) == (
        tuple(observation['size'].tolist()))
  finally:
    env.close()


@pytest.fixture(name='desktop')
def made_desktop(monkeypatch):
  monkeypatch.setattr(machines, '_LEASE_SECONDS', 0.)
  monkeypatch.setattr(osworld_env, '_LOOK_PAUSE', 0.)
  with fake_desktop.FakeDesktop() as fake:
    def execute(command):
      if command[0] != 'python':
        return fake.text
      for name, *arguments in json.loads(command[3]):
        if name == 'type':
          fake.text += arguments[0]
      return ''

    fake.text = ''
    fake.tree = fake_desktop.small_tree()
    fake.on_execute = execute
    fake.picture = fake_desktop.picture((64, 36))
    yield fake


def _make_desktop_env(fake, folder, **options):
  tasks = folder / 'tasks'
  tasks.mkdir()
  (tasks / 'write.json').write_text(json.dumps({
      'id': 'write', 'instruction': 'Write word.',
      'config': [{'type': 'launch', 'parameters': {'command': ['mousepad']}}],
      'evaluator': {
          'func': 'exact_match',
          'result': {'type': 'vm_command_line', 'command': ['cat', '/a']},
          'expected': {'type': 'rule', 'rules': {'expected': 'word'}}}}))
  (tasks / 'write.solution.json').write_text(json.dumps({'steps': [
      {'verb': 'type', 'element': {'kind': 'text'}, 'word': 'word'},
      {'verb': 'done'}]}))
  return picture_env.PictureEnv(
      lambda: osworld_env.OSWorldEnv(
          tasks, addresses=[fake.address], pause=0., render_mode='rgb_array',
          **options), folder / 'store')


def test_a_solution_on_a_desktop_works_as_text(desktop, tmp_path):
  env = _make_desktop_env(desktop, tmp_path, read_tree=False)
  observation, info = env.reset(seed=0, options={'expert': True})
  assert info['instruction'] == 'Write word.'
  assert observation['element_box'].any()
  texts, done = [], False
  while not done:
    texts.append(info['expert_action'])
    observation, reward, *ends, info = env.step(texts[-1])
    done = any(ends)
  assert reward == 1.
  assert [text[8:12] for text in texts] == ['clic', 'hotk', 'type', 'fini']
  assert desktop.orders() == [
      [['click', 640, 370]], [['hotkey', 'ctrl', 'end']], [['type', 'word']]]
  env.close()


def test_a_desktops_elements_need_not_be_read_at_every_step(desktop, tmp_path):
  env = _make_desktop_env(desktop, tmp_path, read_tree=False)
  env.reset(seed=0)
  before = desktop.count('/accessibility')
  observation = env.step("Action: type(content='word')")[0]
  assert desktop.count('/accessibility') == before
  assert not observation['element_box'].any()  # not known any more
  assert env.step('Action: finished()')[1:3] == (1., True)
  env.close()


def test_a_broken_desktop_raises(desktop, tmp_path):
  env = _make_desktop_env(desktop, tmp_path)
  env.reset(seed=0)
  desktop.failures['/screenshot'] = [500] * 9
  with pytest.raises(client_lib.DesktopError):
    env.step("Action: wait()")
  env.close()


@pytest.fixture(name='phone')
def made_phone(tmp_path):
  """The environment of a fake phone as a model drives it."""
  with fake_phone.FakePhone() as fake:
    env = picture_env.PictureEnv(
        functools.partial(
            androidworld.AndroidWorldEnv, fake_phone_tasks.TASKS, 6,
            addresses=[fake.address], solver=fake_phone_tasks.solve,
            render_mode='rgb_array'),
        tmp_path, platform='mobile')
    yield env
    env.close()


def test_solutions_on_a_phone_work_as_text(phone, tmp_path):
  called = set()
  for task_id in range(len(fake_phone_tasks.TASKS)):
    observation, info = phone.reset(
        seed=task_id, options={'task_id': task_id, 'expert': True})
    done = False
    while not done:
      text = info['expert_action']
      called.add(text.removeprefix('Action: ').partition('(')[0])
      observation, reward, *ends, info = phone.step(text)
      done = any(ends)
    assert reward == 1.
  assert called == {
      'click', 'long_press', 'type', 'scroll', 'press_home', 'finished'}
  store = pictures.ScreenshotStore(tmp_path)
  assert store.get(int(observation['screenshot'])).size == (240, 540)
  assert info['instruction'] == 'Turn wifi on.'


def test_a_phone_is_told_what_only_a_phone_knows(phone):
  first, _ = phone.reset(seed=0, options={'task_id': 0})
  for text in ("Action: hotkey(key='ctrl c')",
               "Action: right_single(start_box='(1,2)')"):
    observation, reward, *ends, _ = phone.step(text)
    assert (observation['digest'] == first['digest']).all()
    assert (reward, ends) == (0., [False, False])
  observation = phone.step("Action: open_app(app_name='notes')")[0]
  assert (observation['digest'] != first['digest']).any()
  observation = phone.step('Action: press_home()')[0]
  assert (observation['digest'] == first['digest']).all()
