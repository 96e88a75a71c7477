"""The command that holds a checkpoint against another implementation."""

import subprocess
import sys

import numpy as np
import pytest

from step_jax.policies.qwen_vl import check_model
from tests import qwen_vl_examples as examples

NAME = 'qwen2_5_vl_tied'
KEYS = ('input_ids', 'attention_mask', 'pixel_values', 'image_grid_thw')


def _arrays(title='images_left', keys=KEYS):
  return {
      key: x for key in keys
      if (x := examples.read(NAME, title, key)) is not None}


def _run(folder, model, **arrays):
  """From another folder, as people do."""
  inputs, outputs = folder / 'inputs.npz', folder / 'outputs.npz'
  if arrays:
    np.savez(inputs, **arrays)
  return outputs, subprocess.run(
      [sys.executable, '-m', 'step_jax.policies.qwen_vl.check_model',
       f'--model={model}', f'--inputs={inputs}', f'--outputs={outputs}'],
      cwd=folder, text=True, capture_output=True, timeout=120)


def test_writes_the_logits_of_transformers(tmp_path):
  outputs, result = _run(tmp_path, examples.DATA / NAME, **_arrays())
  assert result.returncode == 0, result.stderr
  assert result.stdout == f'wrote logits [3, 30, 40] to {outputs}\n'
  with np.load(outputs) as found:
    logits = found['logits']
  expected = examples.read(NAME, 'images_left', 'logits')
  valid = examples.read(NAME, 'images_left', 'attention_mask') > 0
  assert logits.dtype == np.float32 and logits.shape == expected.shape
  np.testing.assert_allclose(logits[valid], expected[valid], atol=1e-4)


@pytest.mark.parametrize('name', ['qwen2_vl_tied', 'qwen2_5_vl_tied'])
@pytest.mark.parametrize('title, rows, patches, grids', [
    ('text_left', slice(None), 0, 0),  # no picture at all
    ('images_left', slice(1, None), 32, 1),  # one, and none in a row
])
def test_pictures_may_be_none_or_in_some_rows(
    name, title, rows, patches, grids):
  inputs = {key: examples.read(name, title, key)[rows] for key in KEYS[:2]}
  for key, count in zip(KEYS[2:], (patches, grids), strict=True):
    whole = examples.read(name, 'images_left', key)
    inputs[key] = whole[len(whole) - count:]
  logits = check_model.run_model(examples.DATA / name, inputs)
  valid = inputs['attention_mask'] > 0
  np.testing.assert_allclose(
      logits[valid], examples.read(name, title, 'logits')[rows][valid],
      atol=1e-4)


@pytest.mark.parametrize('model,arrays,message', [
    (NAME, {}, 'expected the inputs in'),
    (NAME, _arrays(keys=KEYS[:1]), "got no ['attention_mask']"),
    (NAME, _arrays(keys=KEYS[:3]), 'expected 0 image tokens'),
    ('nothing', _arrays(), 'expected config.json in'),
    ('llama_tied', _arrays(), 'expected no images for a text model'),
])
def test_mistakes_get_one_sentence(model, arrays, message, tmp_path):
  outputs, result = _run(tmp_path, examples.DATA / model, **arrays)
  assert result.returncode == 2
  assert message in result.stderr and result.stderr.count('\n') == 1
  assert not outputs.exists()
