"""Real clicks and keys in a MiniWoB++ page, and what a browser cannot do."""

import numpy as np
import pytest

from step_jax.codecs import actions
from step_jax.envs import base
from step_jax.envs.miniwob import env as miniwob
from step_jax.envs.miniwob import input as browser_input

Action = actions.Action
TASKS = ('click-test-2', 'enter-text', 'login-user', 'click-tab-2')
MAX_STEPS = 6
# Notes [kind, x, y, button, clicks] of every mouse event from now on.
LISTEN = """
if (!window.seen) for (const kind of [
    'mousedown', 'mouseup', 'dblclick', 'contextmenu'])
  document.addEventListener(kind, event => seen.push(
    [kind, event.clientX, event.clientY, event.button, event.detail,
     event.isTrusted]), true);
if (!window.seen) document.addEventListener('mousemove', event => moves.push(
  [event.clientX, event.clientY, event.buttons]), true);
window.seen = [];
window.moves = [];
"""

chromium = pytest.mark.chromium


@pytest.fixture(scope='module', name='env')
def made_env():
  env = miniwob.MiniWobEnv(TASKS, max_steps=MAX_STEPS)
  yield env
  env.close()


def _reset(env, task, seed=0, expert=True):
  return env.reset(seed=seed, options={
      'task_id': TASKS.index(task), 'expert': expert})


def _point(x, y):
  return x / 160, y / 210


def _same(one, other):
  return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize('action, legal', [
    (Action(kind='click', point=(.5, .5)), True),
    (Action(kind='wait'), True),
    (Action(kind='hotkey', keys=('ctrl', 'shift', 'f12')), True),
    (Action(kind='hotkey', keys=('ctrl', '+')), True),
    (Action(kind='hotkey', keys=('printscreen',)), False),
    (Action(kind='hotkey', keys=('f24',)), False),
    (Action(kind='type', text='naïve\n'), True),
    (Action(kind='type', text='a\ue009b'), False),  # WebDriver's Control
    (Action(kind='long_press', point=(.5, .5)), False),
    (Action(kind='press_home'), False),
    (Action(kind='done'), False),
    (Action(kind='fail'), False),
])
def test_what_a_browser_can_do(action, legal):
  assert browser_input.is_legal(action) == legal


@chromium
@pytest.mark.parametrize('seed', range(3))
def test_a_click_on_an_element_is_a_click_at_its_point(env, seed):
  _, info = _reset(env, 'click-test-2', seed)
  action, = env.expand(info['expert_action'])
  assert action.kind == 'click'
  assert env.step(action)[1:4] == (1., True, False)
  _reset(env, 'click-test-2', seed)
  wrong = env.expand(base.make_action('click', 1 - info['expert_action'][1]))
  assert env.step(*wrong)[1:4] == (0., True, False)


@chromium
def test_mouse_events_are_those_of_a_person(env):
  """cua-lite #24: at the point itself, not at its element's centre."""
  _reset(env, 'login-user')
  env._browser.run(LISTEN)
  point = _point(40, 20)
  for kind in ('click', 'double_click', 'right_click'):
    env.step(Action(kind=kind, point=point))
  seen = env._browser.run('return window.seen')
  assert all(trusted for *_, trusted in seen)
  assert all((x, y) == (40, 20) for _, x, y, *_ in seen)
  assert [(kind, button, clicks) for kind, _, _, button, clicks, _ in seen] == [
      ('mousedown', 0, 1), ('mouseup', 0, 1),
      ('mousedown', 0, 1), ('mouseup', 0, 1),
      ('mousedown', 0, 2), ('mouseup', 0, 2), ('dblclick', 0, 2),
      ('mousedown', 2, 1), ('contextmenu', 2, 0), ('mouseup', 2, 1)]


@chromium
def test_the_corners_are_on_the_screen(env):
  """MiniWoB-plusplus #94: a click near the lower edge is out of bounds."""
  _reset(env, 'login-user')
  env._browser.run(LISTEN)
  for point in ((0., 0.), (1., 1.)):
    env.step(Action(kind='click', point=point))
  assert [event[:3] for event in env._browser.run('return window.seen')] == [
      ['mousedown', 0, 0], ['mouseup', 0, 0],
      ['mousedown', 159, 209], ['mouseup', 159, 209]]
  assert env._browser.run('return innerHeight') == 210


@chromium
def test_a_drag_holds_the_button_on_its_way(env):
  _reset(env, 'login-user')
  env._browser.run(LISTEN)
  env.step(Action(kind='drag', point=_point(20, 10), end=_point(120, 20)))
  seen = env._browser.run('return window.seen')
  assert [event[:3] for event in seen] == [
      ['mousedown', 20, 10], ['mouseup', 120, 20]]
  moves = env._browser.run('return window.moves')
  assert moves[0] == [20, 10, 0] and moves[-1] == [120, 20, 1]
  assert [40, 12, 1] in moves


@chromium
def test_an_element_action_expands_to_what_solves_the_task(env):
  _, info = _reset(env, 'enter-text', 3)
  click, select, write = env.expand(info['expert_action'])
  assert (click.kind, select.keys, write.kind) == (
      'click', ('ctrl', 'a'), 'type')
  for action in (click, Action(kind='type', text='wrong'), select, write):
    observation, *_, info = env.step(action)
  assert observation['element_value'][0, 0] == base.word_id(write.text)
  submit, = env.expand(info['expert_action'])
  assert env.step(submit)[1:4] == (1., True, False)


@chromium
def test_text_is_typed_as_it_is_said(env):
  _, info = _reset(env, 'login-user')
  env.step(env.expand(info['expert_action'])[0])
  env.step(Action(kind='type', text='Ünï "x"\tnext'))
  values = env._browser.run(
      'return [...document.querySelectorAll("input")].map(x => x.value)')
  assert values == ['Ünï "x"', 'next']
  env.step(Action(kind='hotkey', keys=('shift', 'home')))
  env.step(Action(kind='hotkey', keys=('delete',)))
  assert env._browser.run(
      'return document.querySelectorAll("input")[1].value') == ''


@chromium
def test_a_scroll_moves_the_page(env):
  _reset(env, 'click-tab-2', 1)
  env._browser.run('area.style.paddingTop = "300px"')
  _reset(env, 'click-tab-2', 1)
  top = 'return document.scrollingElement.scrollTop'
  scroll = Action(kind='scroll', direction='down', amount=5)
  env.step(scroll)
  assert env._browser.run(top) == 5 * browser_input.NOTCH
  env.step(Action(kind='scroll', direction='up', amount=2, point=(.1, .9)))
  assert env._browser.run(top) == 3 * browser_input.NOTCH
  down, = env.expand(base.make_action('scroll_down'))
  env.step(down)
  assert env._browser.run(top) == 8 * browser_input.NOTCH
  env._browser.run('area.style.paddingTop = ""')


@chromium
@pytest.mark.parametrize('action', [
    Action(kind='press_back'), Action(kind='fail'), Action(kind='wait'),
    Action(kind='hotkey', keys=('printscreen',))])
def test_what_does_nothing_counts_as_a_step(env, action):
  observation, _ = _reset(env, 'enter-text')
  for step in range(MAX_STEPS):
    after, reward, terminated, truncated, _ = env.step(action)
    assert _same(observation, after)
    assert (reward, terminated) == (0., False)
    assert truncated == (step == MAX_STEPS - 1)


@chromium
def test_done_ends_an_unsolved_episode(env):
  _reset(env, 'enter-text')
  assert env.step(Action(kind='done'))[1:4] == (0., True, False)
  assert env.step(Action(kind='wait'))[1:4] == (0., True, False)


@chromium
def test_the_task_is_told_in_words(env):
  _, info = _reset(env, 'click-test-2')
  assert info['instruction'] == 'Click button ONE.'
