"""The whole loop with a vision-language policy, in this process."""

import functools
import json

import jax
import numpy as np
import pytest

from configs import androidworld as androidworld_config
from configs import osworld as osworld_config
from experiments import checks
from experiments import collectors
from experiments import export
from experiments import policies
from experiments import setups
from experiments import train
from experiments import view
from experiments import warm_start
from experiments import worlds
from step_jax.learning import loader
from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import saving
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.runs import episodes
from step_jax.runs import errors
from step_jax.runs import progress as progress_lib
from step_jax.runs import stopping
from tests import fake_phone
from tests import fake_phone_tasks
from tests import fake_world
from tests import qwen_vl_examples
from tests import vision_language_test

_CLOCKS = {'seconds', 'rollout_seconds', 'update_seconds', 'compilations'}


@pytest.fixture(autouse=True)
def host(monkeypatch, tmp_path):
  """Plays in this process; the user's caches are left alone."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(
      worlds, 'make_pool', lambda world, config: fake_world.LocalPool(
          world.make_env, num_workers=config.env.num_workers))


def _config(**changes):
  return vision_language_test.make_config(**{
      'num_rounds': 3, 'num_base_tasks': 2, 'group_size': 4, 'max_steps': 3,
      'env.num_workers': 2, 'eval_episodes': 1,
      'env.tasks': ('click',), 'warm_start.demonstrations': 8,
      'warm_start.num_steps': 150, 'warm_start.batch_size': 8,
      'warm_start.learning_rate': 1e-2, 'optimizer.num_minibatches': 2,
      'optimizer.learning_rate': 1e-3, **changes})


def _rows(workdir):
  return [json.loads(line, parse_constant=pytest.fail) for line in (
      workdir / 'metrics.jsonl').read_text().splitlines()]


def test_a_run_trains_and_can_be_resumed(tmp_path, capsys, monkeypatch):
  make_setup, made = setups.make_setup, {}

  def make_setup_once(config, world):  # to compile once for each folder
    folder = world.make_env.keywords['folder']
    if folder not in made:
      made[folder] = make_setup(config, world)
    return made[folder]._replace(config=config, world=world)

  monkeypatch.setattr(setups, 'make_setup', make_setup_once)
  config = _config()
  train.train(config, tmp_path / 'whole')
  rows = _rows(tmp_path / 'whole')
  assert '8 of 8 demonstrations solved' in capsys.readouterr().out
  # The first alternatives, in whatever round, compile three functions.
  assert sum(row['compilations'] for row in rows[1:]) <= 3
  assert sum(row['step_samples'] for row in rows) > 0
  assert all(row['environment_failures'] == 0 for row in rows)
  for config.num_rounds in (1, 3):
    train.train(config, tmp_path / 'parts')
  for one, other in zip(rows, _rows(tmp_path / 'parts'), strict=True):
    # The first part evaluates after its last round, which is none of the whole.
    names = one.keys() - _CLOCKS
    assert names <= other.keys()
    assert {name: other[name] for name in names} == {
        name: one[name] for name in names}
  _assert_shown(config, tmp_path / 'whole')


def _assert_shown(config, workdir):
  """What was seen and written is kept, and has its pages."""
  kept = [about for part in episodes.load_all(workdir / 'episodes')
          for about in part.about]
  actions = [action for about in kept for action in about['actions']]
  assert len(kept) >= 3 and all(action['text'] for action in actions)
  assert any(action.get('kind') == 'click' and len(action['point']) == 2
             for action in actions)
  names = {name for about in kept for name in about['pictures']}
  assert names == {path.name for path in (
      workdir / 'episodes' / 'pictures').iterdir()}
  page = view.view(config, workdir)
  assert names == {path.name for path in page.with_name('pictures').iterdir()}


def test_imitation_fits_the_demonstrations(tmp_path):
  config = _config()
  world = worlds.make_world(config, workdir=tmp_path)
  setup = setups.make_setup(config, world)
  said = []
  params = setup.policy.init(jax.random.key(0))
  with (stopping.StopRequest() as stop,
        progress_lib.RunProgress(1) as progress,
        collectors.open_collector(setup, progress, stop) as collect):
    collect = functools.partial(collect, name='warm start')
    fitted = warm_start.warm_start(
        config, world, setup.policy, params, collect, said.append)
    again = warm_start.warm_start(
        config, world, setup.policy, fitted, collect, said.append)
  before, after = map(float, said[-2].split('loss ')[1].split(' -> '))
  assert after < before / 2
  assert 'read from' in said[-1]
  for one, other in zip(jax.tree.leaves(fitted), jax.tree.leaves(again)):
    np.testing.assert_array_equal(one, other)


def test_states_that_look_alike_are_one_for_gigpo(tmp_path):
  train.train(_config(method='gigpo', num_rounds=1), tmp_path / 'run')
  row, = _rows(tmp_path / 'run')
  assert np.isfinite(row['loss'])


def _save_tiny_checkpoint(folder):
  """A random Qwen2.5-VL of few weights under the whole vocabulary."""
  config = qwen_vl_examples.few_weights(tied=True)
  params = model_lib.init_params(
      model_lib.Model(config), jax.random.key(0))
  saving.save_params(folder, config, params)
  tokenizer_lib.load().save(str(folder / 'tokenizer.json'))


def _paper(config, tmp_path, fake, **changes):
  config.update_from_flattened_dict({
      'num_rounds': 1, 'num_base_tasks': 1, 'group_size': 4, 'max_steps': 2,
      'env.arguments.addresses': (fake.address,),
      'policy.checkpoint': str(tmp_path / 'model'),
      'policy.response_length': 8, 'policy.prompt_length': 480,
      'policy.min_pixels': 56 * 56, 'policy.acting_batch_size': 2, **changes})
  return config


def _check_export(config, tmp_path):
  """Nothing was learned, so that the export is the model it began with."""
  output = tmp_path / 'exported'
  export.export(config, tmp_path / 'run', output, 'float32')
  assert (output / 'tokenizer.json').exists()
  jax.tree.map(np.testing.assert_array_equal, *(
      checkpoint.load_params(folder, checkpoint.read_config(folder))
      for folder in (output, tmp_path / 'model')))
  with pytest.raises(errors.UserError, match='to be empty'):
    export.export(config, tmp_path / 'run', output, 'float32')
  with pytest.raises(errors.UserError, match='began with policy.checkpoint'):
    export.export(_config(), tmp_path / 'run', tmp_path / 'other', 'float32')


def test_the_paper_s_experiment_runs_on_a_fake_phone(tmp_path):
  _save_tiny_checkpoint(tmp_path / 'model')
  with fake_phone.FakePhone() as fake:
    config = _paper(
        androidworld_config.get_config('paper'), tmp_path, fake, **{
            'env.tasks': fake_phone_tasks.TASKS[:1],
            'policy.screen_size': (240, 540), 'policy.max_pixels': 84 * 196,
            'policy.lora.rank': 2, 'policy.lora.frozen_dtype': 'float32'})
    train.train(config, tmp_path / 'run')
    row, = _rows(tmp_path / 'run')
    assert row['trajectories'] == row['valid_trajectories'] == 4
    assert row['environment_steps'] == 8  # nothing that it writes is an action
    assert row['environment_failures'] == 0
    assert fake.count('/task/score') >= 4
  _check_export(config, tmp_path)
  config.policy.response_length = 32
  world = worlds.make_world(config, workdir=tmp_path)
  _, codec = policies.make_policy(config, world)
  text = "Action: long_press(start_box='<|box_start|>(1,2)<|box_end|>')"
  tokens = np.concatenate([codec.encode(None, text)] * 2).reshape(1, 2, -1)
  row = {'element_box': np.zeros((1, 48, 4)), 'size': np.array([[240, 540]])}
  assert codec.matches(row, tokens).all(), 'it reads the calls of a phone'


@pytest.mark.parametrize('module', [androidworld_config, osworld_config])
def test_the_paper_s_experiment_needs_a_checkpoint(module):
  with pytest.raises(errors.UserError, match='policy.checkpoint=DIR') as error:
    checks.check_config(module.get_config('paper'))
  assert '\n' not in str(error.value)


def test_a_mistake_leaves_no_folder_behind(tmp_path):
  (tmp_path / 'model').mkdir()
  with pytest.raises(errors.UserError, match='tokenizer.json'):
    train.train(_config(**{'policy.checkpoint': str(tmp_path / 'model')}),
                tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_prompt_that_is_too_long_ends_the_run(tmp_path):
  config = _config(**{'policy.prompt_length': 30})
  with pytest.raises(errors.UserError, match='prompt_length 30'):
    train.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run' / 'checkpoints').exists()


def test_the_loader_is_the_policys(tmp_path):
  config = _config()
  world = worlds.make_world(config, workdir=tmp_path)
  policy, codec = policies.make_policy(config, world)
  env = world.make_env()
  observation, info = env.reset(seed=0, options={'task_id': 0})
  row = codec.observe(observation, info, codec.empty_history)
  rows = jax.tree.map(lambda x: x[None], row)
  loaded = list(loader.prefetch(policy.load, [rows, rows]))
  assert len(loaded) == 2
  for one, other in zip(*map(jax.tree.leaves, (loaded[0], policy.load(rows)))):
    np.testing.assert_array_equal(one, other)
