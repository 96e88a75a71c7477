"""The shape of a model, read from and written to a Hugging Face config.json.

Three families: Qwen2-VL and Qwen2.5-VL (vision and text), and Llama-type text
models. All layouts of the file are read: the flat one of the hub's files, the
one with both that transformers 4.52 to 4.57 write, and the nested one of 5.
What a file lacks has transformers' default, as they leave defaults out.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

FAMILIES = ('qwen2_vl', 'qwen2_5_vl', 'llama')

_ROPE_TYPES = ('default', 'mrope')
_ARCHITECTURES = {
    'qwen2_vl': 'Qwen2VLForConditionalGeneration',
    'qwen2_5_vl': 'Qwen2_5_VLForConditionalGeneration',
    'llama': 'LlamaForCausalLM',
}
_QWEN = {
    'vocab_size': 152064, 'hidden_size': 8192, 'intermediate_size': 29568,
    'num_hidden_layers': 80, 'num_attention_heads': 64,
    'num_key_value_heads': 8, 'rms_norm_eps': 1e-5, 'rope_theta': 1e6}
_TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    'qwen2_vl': _QWEN,
    'qwen2_5_vl': _QWEN,
    'llama': {
        'vocab_size': 32000, 'hidden_size': 4096, 'intermediate_size': 11008,
        'num_hidden_layers': 32, 'num_attention_heads': 32,
        'rms_norm_eps': 1e-6, 'rope_theta': 1e4}}
_PATCHES = {
    'depth': 32, 'num_heads': 16, 'in_channels': 3, 'patch_size': 14,
    'spatial_merge_size': 2, 'temporal_patch_size': 2}
_VISION_DEFAULTS: dict[str, dict[str, Any]] = {
    'qwen2_vl': _PATCHES | {
        'embed_dim': 1280, 'hidden_size': 3584, 'mlp_ratio': 4},
    'qwen2_5_vl': _PATCHES | {
        'hidden_size': 3584, 'intermediate_size': 3420,
        'out_hidden_size': 3584, 'window_size': 112,
        'fullatt_block_indexes': (7, 15, 23, 31)}}
_IMAGE_TOKEN_ID = 151655


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
  """A decoder with grouped-query attention."""
  vocabulary: int
  width: int
  hidden_width: int  # of the gated MLP
  num_layers: int
  num_heads: int
  num_key_heads: int
  head_width: int
  norm_epsilon: float
  rope_theta: float
  rope_sections: tuple[int, int, int]  # frequencies of time, row and column
  qkv_bias: bool
  tied: bool  # the head is the embedding


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
  """An encoder of image patches, and the merger into text tokens."""
  width: int
  hidden_width: int
  num_layers: int
  num_heads: int
  out_width: int  # the text model's width
  gated: bool  # RMSNorm and SwiGLU, else LayerNorm and quick-GELU
  window: int  # side of a window in merged patches; 0: no windows
  full_layers: tuple[int, ...]  # the layers that look past their window
  norm_epsilon: float
  channels: int
  patch_size: int
  temporal_size: int
  merge_size: int

  @property
  def patch_width(self) -> int:
    """Numbers in one patch of pixels."""
    return self.channels * self.temporal_size * self.patch_size**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A whole model; `vision` is None for a text model."""
  family: str
  text: TextConfig
  vision: VisionConfig | None
  image_token_id: int | None


def from_dict(values: Mapping[str, Any]) -> Config:
  """Reads a parsed config.json.

  Args:
    values: what the file holds.

  Returns:
    The configuration.

  Raises:
    ValueError: for a family or a setting that this model does not have.
  """
  _expect(values, 'quantization_config', None)
  family = values.get('model_type')
  if family not in FAMILIES:
    raise ValueError(f'expected model_type of {FAMILIES}, got {family!r}')
  nested = {name: value for name, value in (
      values.get('text_config') or {}).items() if value is not None}
  # The outer file decides, as it does in transformers; where it was left out,
  # 4.52 to 4.57 have it in the inner one.
  text = {**_TEXT_DEFAULTS[family], **values, **nested}
  text['tie_word_embeddings'] = values.get(
      'tie_word_embeddings', nested.get('tie_word_embeddings', False))
  if family == 'llama':
    return Config(
        family=family, text=_read_text(text, family), vision=None,
        image_token_id=None)
  config = Config(
      family=family, text=_read_text(text, family),
      vision=_read_vision(_VISION_DEFAULTS[family] | dict(
          values.get('vision_config') or {}), family),
      image_token_id=_read(
          {'image_token_id': _IMAGE_TOKEN_ID, **values}, 'image_token_id'))
  if config.vision and config.vision.out_width != config.text.width:
    raise ValueError(
        f'expected a vision tower that puts out width {config.text.width}, '
        f'got {config.vision.out_width}')
  return config


def to_dict(config: Config) -> dict[str, Any]:
  """What config.json has to hold for transformers to load the model."""
  text = config.text
  values = {
      'architectures': [_ARCHITECTURES[config.family]],
      'model_type': config.family,
      'vocab_size': text.vocabulary,
      'hidden_size': text.width,
      'intermediate_size': text.hidden_width,
      'num_hidden_layers': text.num_layers,
      'num_attention_heads': text.num_heads,
      'num_key_value_heads': text.num_key_heads,
      'hidden_act': 'silu',
      'rms_norm_eps': text.norm_epsilon,
      'rope_theta': text.rope_theta,
      'tie_word_embeddings': text.tied,
  }
  if config.vision is None:
    return values | {'head_dim': text.head_width}
  return values | {
      'rope_scaling': {
          'type': 'mrope', 'mrope_section': list(text.rope_sections)},
      'use_sliding_window': False,
      'image_token_id': config.image_token_id,
      'vision_config': _vision_dict(config.vision, config.family),
  }


def _read(values: Mapping[str, Any], name: str) -> Any:
  if values.get(name) is None:
    raise ValueError(f'expected {name} in config.json, got none')
  return values[name]


def _expect(values: Mapping[str, Any], name: str, *allowed: Any) -> None:
  """Refuses a setting that would change the model's meaning."""
  if name in values and values[name] not in allowed:
    raise ValueError(
        f'expected {name} of {allowed}, got {values[name]!r}: this model has '
        'nothing else')


def _read_text(values: Mapping[str, Any], family: str) -> TextConfig:
  llama = family == 'llama'
  _expect(values, 'hidden_act', 'silu')
  _expect(values, 'use_sliding_window', False, None)
  _expect(values, 'attention_bias', False)
  _expect(values, 'mlp_bias', False)
  for kind in values.get('layer_types') or ():
    _expect({'layer_types': kind}, 'layer_types', 'full_attention')
  num_heads = _read(values, 'num_attention_heads')
  num_key_heads = values.get('num_key_value_heads') or num_heads
  width = _read(values, 'hidden_size')
  head_width = (llama and values.get('head_dim')) or width // num_heads
  if num_heads % num_key_heads or (not llama and width % num_heads):
    raise ValueError(
        'expected num_key_value_heads to divide num_attention_heads, and that '
        f'to divide hidden_size, got {num_key_heads}, {num_heads}, {width}')
  theta, sections = _read_rope(values, family, head_width)
  return TextConfig(
      vocabulary=_read(values, 'vocab_size'),
      width=width,
      hidden_width=_read(values, 'intermediate_size'),
      num_layers=_read(values, 'num_hidden_layers'),
      num_heads=num_heads,
      num_key_heads=num_key_heads,
      head_width=head_width,
      norm_epsilon=_read(values, 'rms_norm_eps'),
      rope_theta=theta,
      rope_sections=sections,
      qkv_bias=not llama,
      tied=values['tie_word_embeddings'])


def _read_rope(
    values: Mapping[str, Any], family: str, head_width: int,
) -> tuple[float, tuple[int, int, int]]:
  """The base, and how many frequencies go by time, row and column."""
  rope = values.get('rope_parameters') or values.get('rope_scaling') or {}
  kind = rope.get('rope_type', rope.get('type', 'default'))
  if kind not in _ROPE_TYPES:
    raise ValueError(
        f'expected rotary positions of {_ROPE_TYPES}, got {kind!r}')
  llama = family == 'llama'
  theta = rope.get('rope_theta', values['rope_theta'])
  sections = (head_width // 2, 0, 0) if llama else _read(rope, 'mrope_section')
  if len(sections) != 3 or 2 * sum(sections) != head_width:
    raise ValueError(
        f'expected three sections of {head_width // 2} frequencies together, '
        f'got mrope_section {list(sections)}')
  return float(theta), tuple(sections)


def _read_vision(values: Mapping[str, Any], family: str) -> VisionConfig:
  """The two families name the same things differently."""
  gated = family == 'qwen2_5_vl'
  _expect(values, 'hidden_act', 'silu' if gated else 'quick_gelu')
  width = _read(values, 'hidden_size' if gated else 'embed_dim')
  num_heads = _read(values, 'num_heads')
  if width % (4 * num_heads):
    raise ValueError(
        'expected a vision width that is a multiple of 4 x num_heads, got '
        f'{width} and {num_heads}')
  patch_size = _read(values, 'patch_size')
  merge_size = _read(values, 'spatial_merge_size')
  depth = _read(values, 'depth')
  return VisionConfig(
      width=width,
      hidden_width=(
          _read(values, 'intermediate_size') if gated
          else int(width * _read(values, 'mlp_ratio'))),
      num_layers=depth,
      num_heads=num_heads,
      out_width=_read(values, 'out_hidden_size' if gated else 'hidden_size'),
      gated=gated,
      window=(
          _read(values, 'window_size') // merge_size // patch_size
          if gated else 0),
      full_layers=tuple(
          _read(values, 'fullatt_block_indexes') if gated
          else range(depth)),
      norm_epsilon=1e-6,  # fixed in transformers; the text model's differs
      channels=_read(values, 'in_channels'),
      patch_size=patch_size,
      temporal_size=_read(values, 'temporal_patch_size'),
      merge_size=merge_size)


def _vision_dict(vision: VisionConfig, family: str) -> dict[str, Any]:
  values = {
      'model_type': family + '_vision',
      'depth': vision.num_layers,
      'num_heads': vision.num_heads,
      'in_channels': vision.channels,
      'patch_size': vision.patch_size,
      'temporal_patch_size': vision.temporal_size,
      'spatial_merge_size': vision.merge_size,
  }
  if not vision.gated:
    ratio, rest = divmod(vision.hidden_width, vision.width)
    if rest:
      raise ValueError(
          'expected hidden_width to be a multiple of width, got '
          f'{vision.hidden_width} and {vision.width}')
    return values | {
        'embed_dim': vision.width, 'hidden_size': vision.out_width,
        'hidden_act': 'quick_gelu', 'mlp_ratio': ratio}
  return values | {
      'hidden_size': vision.width,
      'out_hidden_size': vision.out_width,
      'intermediate_size': vision.hidden_width,
      'hidden_act': 'silu',
      'window_size': vision.window * vision.merge_size * vision.patch_size,
      'fullatt_block_indexes': list(vision.full_layers),
  }
