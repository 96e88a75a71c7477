"""What each version of a model is asked, and how it counts."""

import json

import pytest

from step_jax.policies.qwen_vl import prompts
from step_jax.policies.qwen_vl import versions

_NOTHING = dict.fromkeys((
    'convention', 'min_pixels', 'max_pixels', 'prompt_length',
    'response_length'))
_DPO = ('ui_tars_dpo', 'thousand', 3136, 1_058_400, 1296 + 1024, 128)
_1_5 = ('ui_tars_1_5', 'pixels', 78_400, 12_845_056, 2691 + 2048, 400)
_QWEN = ('ui_tars_1_5', 'pixels', 3136, 12_845_056, 2691 + 2048, 400)


def _choose(folder, version='auto', prompt='ui_tars', **given):
  return versions.settings(
      version, folder, _NOTHING | given, prompt=prompt,
      screen_size=(1920, 1080))


@pytest.mark.parametrize('family, version, expected, warns', [
    ('qwen2_vl', 'auto', _DPO, False),
    ('qwen2_5_vl', 'auto', _1_5, False),
    ('qwen2_vl', 'ui_tars_dpo', _DPO, False),
    ('qwen2_5_vl', 'ui_tars_1_5', _1_5, False),
    ('qwen2_5_vl', 'qwen2_5_vl', _QWEN, False),
    ('qwen2_5_vl', 'ui_tars_dpo', _DPO, True),
    ('qwen2_vl', 'ui_tars_1_5', _1_5, True),
    ('llama', 'auto', _DPO, False),  # which is refused elsewhere
])
def test_versions(family, version, expected, warns, tmp_path):
  """Of bytedance/UI-TARS #119 and #173: UI-TARS-1.5 counts in pixels."""
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': family}))
  *found, stops, warning, size = _choose(tmp_path, version)
  assert tuple(found) == expected and stops == () and size == (1920, 1080)
  assert bool(warning) is warns and '\n' not in warning
  if warns:
    assert f'checkpoint of {family}, got {expected[1]!r}' in warning


@pytest.mark.parametrize('name, values, expected', [
    ('preprocessor_config.json', {'min_pixels': 3136, 'max_pixels': 2_116_800},
     {'min_pixels': 3136, 'max_pixels': 2_116_800,
      'prompt_length': 2691 + 2048}),
    ('preprocessor_config.json',
     {'size': {'shortest_edge': 784, 'longest_edge': 78_400}},
     {'min_pixels': 784, 'max_pixels': 78_400, 'prompt_length': 91 + 2048}),
    ('preprocessor_config.json', {'size': {'max_pixels': 78_400}},
     {'min_pixels': 78_400, 'max_pixels': 78_400}),
    ('processor_config.json',  # which transformers 5 writes alone
     {'image_processor': {
         'size': {'shortest_edge': 784, 'longest_edge': 78_400}}},
     {'min_pixels': 784, 'max_pixels': 78_400}),
    ('processor_config.json', {'processor_class': 'Qwen2_5_VLProcessor'},
     {'min_pixels': 78_400}),
    ('generation_config.json', {'eos_token_id': [151645, 151643]},
     {'stop_ids': (151645, 151643)}),
    ('generation_config.json', {'eos_token_id': 7}, {'stop_ids': (7,)}),
    ('generation_config.json', [], {'stop_ids': ()}),
])
def test_the_folder_s_files_go_before_the_version(
    name, values, expected, tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "qwen2_5_vl"}')
  (tmp_path / name).write_text(json.dumps(values))
  found = _choose(tmp_path)._asdict()
  assert {key: found[key] for key in expected} == expected
  given = {'min_pixels': 1, 'max_pixels': 9_999, 'prompt_length': 8,
           'response_length': 9, 'convention': 'thousand'}
  found = _choose(tmp_path, prompt='short', **given)
  assert given.items() <= found._asdict().items() and found.prompt == ''
  assert "expected policy.convention 'pixels'" in found.warning


_TEMPLATE = '<|im_start|>system\nYou are a helpful assistant.<|im_end|>'


@pytest.mark.parametrize('name, text, missing', [
    ('chat_template.json', json.dumps({'chat_template': _TEMPLATE}), ''),
    ('chat_template.json', json.dumps({'chat_template': '[INST]'}), 'im_start'),
    ('tokenizer_config.json', json.dumps({
        'chat_template': _TEMPLATE.replace('helpful', 'terse')}), 'helpful'),
    ('tokenizer_config.json', '{}', ''),
    ('chat_template.jinja', _TEMPLATE, ''),
    ('chat_template.jinja', _TEMPLATE[:-10], 'im_end')])
def test_a_template_with_other_turns_is_told(name, text, missing, tmp_path):
  (tmp_path / 'config.json').write_text('{"model_type": "qwen2_vl"}')
  (tmp_path / name).write_text(text)
  warning = _choose(tmp_path).warning
  assert bool(warning) == bool(missing) and missing in warning


def test_without_a_folder_it_is_dpo_s(tmp_path):
  for folder in (None, tmp_path):
    assert tuple(_choose(folder)[:6]) == _DPO and not _choose(folder).warning
  assert _choose(None, prompt='ui_tars_1_5').prompt == 'ui_tars_1_5'


def test_prompts_offer_what_each_version_was_given():
  """Of bytedance/UI-TARS #122: two prompts for phones."""
  asked = {
      (name, platform): {line.partition('(')[0] for line in text.splitlines()
                         if '(' in line and not line.startswith('-')}
      for name, texts in prompts.UI_TARS.items()
      for platform, text in texts.items()}
  desktop = {'click', 'left_double', 'right_single', 'drag', 'hotkey', 'type',
             'scroll', 'wait', 'finished'}
  mobile = {'click', 'long_press', 'type', 'scroll', 'press_home',
            'press_back', 'finished'}
  assert asked == {
      ('ui_tars_dpo', 'desktop'): desktop | {'call_user'},
      ('ui_tars_1_5', 'desktop'): desktop,
      ('ui_tars_dpo', 'mobile'): mobile,
      ('ui_tars_1_5', 'mobile'): mobile | {'open_app', 'drag'}}
  for name, texts in prompts.UI_TARS.items():
    for platform, text in texts.items():
      assert text.startswith('You are a GUI agent.')
      assert text.endswith('\n\n## User Instruction\n')
      assert ('Write a small plan' in text) is (
          (name, platform) != ('ui_tars_dpo', 'desktop'))
      assert ("finished(content='xxx') # Use escape" in text) is (
          name == 'ui_tars_1_5')
      # Which is how a phone's task that cannot be done ends, too.
      assert ('solved or not' in text) is (
          (name, platform) == ('ui_tars_dpo', 'mobile'))
  assert "end_box='" in prompts.UI_TARS['ui_tars_dpo']['mobile'].split(
      'scroll(')[1].split('\n')[0]
