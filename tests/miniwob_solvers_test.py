"""The scripted solvers solve their tasks, through real steps."""

import pytest

from step_jax.envs import base
from step_jax.envs.miniwob import env as miniwob
from step_jax.envs.miniwob import solvers as miniwob_solvers

TASKS = tuple(miniwob_solvers.SOLVERS)
SEEDS = (0, 7)


@pytest.fixture(scope='module')
def env():
  env = miniwob.MiniWobEnv(TASKS)
  yield env
  env.close()


@pytest.mark.chromium
@pytest.mark.parametrize('task', TASKS)
def test_the_solver_solves_its_task(env, task):
  for seed in SEEDS:
    _, info = env.reset(
        seed=seed, options={'task_id': TASKS.index(task), 'expert': True})
    ended = False
    while not ended:
      action = info['expert_action']
      assert env.action_space.contains(action)
      _, reward, terminated, truncated, info = env.step(action)
      ended = terminated or truncated
    assert reward == 1., f'seed {seed}'


@pytest.mark.chromium
def test_the_solver_finds_back_from_a_wrong_step(env):
  task_id = TASKS.index('click-checkboxes-large')
  observation, info = env.reset(
      seed=0, options={'task_id': task_id, 'expert': True})
  wrong = next(index for index, text in enumerate(observation['element_text'])
               if text[0] not in observation['instruction'])
  result = env.step(base.make_action('click', wrong))
  while not result[2]:
    result = env.step(result[4]['expert_action'])
  assert result[1] == 1.


def _screen(instruction, *records, verbs=()):
  elements = [base.Element(kind=kind, text=text, selected=selected)
              for kind, text, selected in records]
  return base.make_screen(instruction, elements, verbs=verbs)


def _propose(task, screen):
  verb, target, word = miniwob_solvers.propose(task, screen)
  return base.VERBS[verb], target, word


def test_links_are_looked_for_below_and_then_behind_the_next_tab():
  tabs = [('tab', 'One', False), ('tab', 'Two', True)]
  ask = 'click on the link "sit".'
  assert _propose('click-tab-2', _screen(ask, *tabs)) == ('click', 0, 0)
  assert _propose('click-tab-2', _screen(
      ask, *tabs, verbs=['scroll_down'])) == ('scroll_down', 0, 0)
  assert _propose('click-tab-2', _screen(
      ask, *tabs, ('span', 'sit.', False))) == ('click', 2, 0)


@pytest.mark.parametrize('wanted', ['enter-text', 'click-dialog', 'click-link'])
def test_a_solver_has_an_answer_even_for_an_empty_screen(wanted):
  assert _propose(wanted, _screen('Enter it')) == ('click', 0, 0)


def test_a_task_without_a_solver_is_refused():
  with pytest.raises(ValueError, match="with a solver, got 'draw-circle'"):
    miniwob_solvers.propose('draw-circle', _screen(''))


@pytest.mark.chromium
def test_the_expert_is_asked_for_by_tasks_with_a_solver_only():
  env = miniwob.MiniWobEnv(['draw-circle'])
  with pytest.raises(ValueError, match="with a solver, got 'draw-circle'"):
    env.reset(seed=0, options={'expert': True})
