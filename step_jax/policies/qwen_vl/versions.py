"""What each model was trained to read and write, and what its folder says.

  version      coordinates  pixels of a picture    tokens of text, of a response
  ui_tars_dpo  thousandths  to 1350 x 28 x 28      1024, 128
  ui_tars_1_5  pixels       from 100 x 28 x 28
                            to 16384 x 28 x 28     2048, 400
  qwen2_5_vl   pixels       to 16384 x 28 x 28     2048, 400

Each has prompts of its own, but for the last, which is asked as UI-TARS-1.5 is.
The limits of pixels are those of OSWorld's agent for DPO and of UI-TARS-1.5's
own code, and lengths leave room for a prompt and three responses. A folder's
files go before them: processor_config.json of transformers 5, or else
preprocessor_config.json, with limits, and generation_config.json with more
tokens that end a response. What a user gives goes before all.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, NamedTuple

from step_jax.policies.qwen_vl import images

SYSTEM = 'You are a helpful assistant.'  # of Qwen's template
_AREA = 28 * 28  # pixels of a token
_OF_FAMILY = {'qwen2_vl': 'ui_tars_dpo', 'qwen2_5_vl': 'ui_tars_1_5'}
_CONVENTIONS = {'qwen2_vl': 'thousand', 'qwen2_5_vl': 'pixels'}


class Version(NamedTuple):
  """What a model was trained on."""
  prompt: str  # of `prompts.UI_TARS`
  convention: str  # of coordinates
  min_pixels: int  # of a picture as the model sees it
  max_pixels: int
  text_length: int  # tokens of a prompt besides the picture's
  response_length: int


class Settings(NamedTuple):
  """What a model reads and writes in one run."""
  prompt: str  # of `prompts.UI_TARS`, or '' for none
  convention: Any  # 'thousand' or 'pixels'
  min_pixels: int
  max_pixels: int
  prompt_length: int  # P
  response_length: int  # L
  stop_ids: tuple[int, ...]  # of the folder, of the tokenizer
  warning: str  # a sentence if these do not fit the model; or ''
  screen_size: tuple[int, int]  # (width, height) of the largest picture


VERSIONS = {
    'ui_tars_dpo': Version(
        'ui_tars_dpo', 'thousand', images.MIN_PIXELS, 1350 * _AREA,
        1024, 128),
    'ui_tars_1_5': Version(
        'ui_tars_1_5', 'pixels', 100 * _AREA, 16384 * _AREA, 2048, 400),
    'qwen2_5_vl': Version(
        'ui_tars_1_5', 'pixels', images.MIN_PIXELS, 16384 * _AREA,
        2048, 400),
}


def settings(
    version: str,
    source: pathlib.Path | None,
    given: Mapping[str, Any],
    *,
    prompt: str,
    screen_size: tuple[int, int],
) -> Settings:
  """Chooses what a run does.

  Args:
    version: a name of VERSIONS; 'auto' is by the folder's config.json, DPO's
      for what is not Qwen2.5-VL.
    source: folder of the checkpoint, which is read as far as it is there; None
      for a random model.
    given: by names of `Settings`, what the user wants; None is nothing.
    prompt: 'ui_tars' is the version's, 'short' none, others a name.
    screen_size: (width, height) of the largest picture.
  """
  family = str(_read(source, 'config.json').get('model_type'))
  name = _OF_FAMILY.get(family, 'ui_tars_dpo') if version == 'auto' else version
  chosen = VERSIONS[name]
  processor = _read(source, 'processor_config.json').get(
      'image_processor') or _read(source, 'preprocessor_config.json')
  size = processor.get('size') or {}
  values: dict[str, Any] = {
      'convention': chosen.convention,
      'min_pixels': _first(
          processor.get('min_pixels'), size.get('min_pixels'),
          size.get('shortest_edge'), chosen.min_pixels),
      'max_pixels': _first(
          processor.get('max_pixels'), size.get('max_pixels'),
          size.get('longest_edge'), chosen.max_pixels),
      'response_length': chosen.response_length,
  } | {name: value for name, value in given.items() if value is not None}
  if values.get('prompt_length') is None:
    height, width = images.smart_resize(
        *screen_size[::-1], min_pixels=values['min_pixels'],
        max_pixels=values['max_pixels'])
    values['prompt_length'] = height * width // _AREA + chosen.text_length
  stops = _read(source, 'generation_config.json').get('eos_token_id')
  return Settings(
      prompt={'ui_tars': chosen.prompt, 'short': ''}.get(prompt, prompt),
      stop_ids=tuple(stops) if isinstance(stops, list) else (
          () if stops is None else (stops,)),
      warning=_warning(family, values['convention']) or _template_warning(
          source), screen_size=screen_size, **values)


def _warning(family: str, convention: str) -> str:
  expected = _CONVENTIONS.get(family, convention)
  if convention == expected:
    return ''
  return (f"expected policy.convention {expected!r} for a checkpoint of "
          f'{family}, got {convention!r}: its clicks will go elsewhere')


def _template_warning(source: pathlib.Path | None) -> str:
  """Whether the folder's own template marks turns as `prompts.chat` does."""
  template = str(
      _read(source, 'chat_template.json').get('chat_template')
      or _read(source, 'tokenizer_config.json').get('chat_template') or '')
  try:
    template = (source / 'chat_template.jinja').read_text() if source else ''
  except (OSError, ValueError):
    pass  # an older transformers wrote one of the others
  missing = [part for part in ('<|im_start|>', '<|im_end|>', SYSTEM)
             if part not in template]
  return (f'expected a chat template with {missing[0]!r} in the checkpoint, '
          'which prompts have, got one without') if template and missing else ''


def _first(*values: int | None) -> int:
  """The first that is given."""
  return next(value for value in values if value is not None)


def _read(source: pathlib.Path | None, name: str) -> dict[str, Any]:
  """A file of the folder; what is wrong with it is told where it is loaded."""
  if source is None:
    return {}
  try:
    values = json.loads((source / name).read_text())
  except (OSError, ValueError):
    return {}
  return values if isinstance(values, dict) else {}
