"""Adds config.json files of a transformers version to the tests' table.

  python tests/make_qwen_vl_configs.py tests/data/qwen_vl_configs.json

Needs transformers and nothing of torch, in a virtual environment of its own for
each version. A flat file such as the hub's is loaded and saved again; the model
is Qwen2-VL-7B or Qwen2.5-VL-7B with two layers of text, its head apart or tied.
"""

import json
import pathlib
import sys
import tempfile

TEXT = {
    'hidden_size': 3584, 'intermediate_size': 18944, 'num_hidden_layers': 2,
    'num_attention_heads': 28, 'num_key_value_heads': 4, 'rms_norm_eps': 1e-6,
    'vocab_size': 152064, 'rope_theta': 1e6, 'image_token_id': 151655,
    'video_token_id': 151656, 'vision_start_token_id': 151652,
    'vision_end_token_id': 151653,
    'rope_scaling': {'type': 'mrope', 'mrope_section': [16, 24, 24]}}
VISION = {
    'qwen2_vl': {'in_chans': 3, 'spatial_patch_size': 14},
    'qwen2_5_vl': {'hidden_size': 1280, 'in_chans': 3,
                   'spatial_patch_size': 14}}


def save(family, tied):
  """What transformers writes for a flat file that it has read."""
  import transformers
  kind = getattr(transformers, {
      'qwen2_vl': 'Qwen2VLConfig', 'qwen2_5_vl': 'Qwen2_5_VLConfig'}[family],
      None)
  if kind is None:
    return None
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'config.json')
    path.write_text(json.dumps(TEXT | {
        'model_type': family, 'tie_word_embeddings': tied,
        'vision_config': VISION[family]}))
    kind.from_pretrained(folder).save_pretrained(folder)
    return json.loads(path.read_text())


def main(path):
  """Puts the files of this version among the others of the table."""
  table = json.loads(path.read_text()) if path.exists() else {}
  for family in VISION:
    for tied in (False, True):
      values = save(family, tied)
      if values is not None:
        version = values['transformers_version']
        table[f'{version} {family} {"tied" if tied else "untied"}'] = values
  lines = (f'{json.dumps(name)}: {json.dumps(values, sort_keys=True)}'
           for name, values in table.items())
  path.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
