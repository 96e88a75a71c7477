"""Runs a checkpoint on given inputs, to hold its logits against another's.

  python -m step_jax.policies.qwen_vl.check_model --model=DIR
      --inputs=inputs.npz --outputs=outputs.npz [--dtype=float32|bfloat16]

DIR holds config.json and safetensors of Qwen2-VL, Qwen2.5-VL or a Llama-type
text model. inputs.npz: input_ids [B, L], attention_mask [B, L] and, with
images, pixel_values [patches, patch_width] and image_grid_thw [images, 3], as
transformers' processors make them. outputs.npz: logits [B, L, V] float32.
"""

import argparse
import pathlib
import sys
import zipfile

import jax
import numpy as np
import safetensors

from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib

_NEEDED = ('input_ids', 'attention_mask')
_IMAGES = ('pixel_values', 'image_grid_thw')


def run_model(
    folder: pathlib.Path,
    arrays: dict[str, np.ndarray],
    *,
    dtype: str = 'float32',
) -> np.ndarray:
  """Logits of a checkpoint.

  Args:
    folder: holds the checkpoint.
    arrays: of inputs.npz.
    dtype: of the parameters and products.

  Returns:
    `[B, L, V]` float32; at padding they mean nothing.

  Raises:
    ValueError: for a checkpoint or arrays that do not fit.
  """
  config = checkpoint.read_config(folder)
  missing = [name for name in _NEEDED if name not in arrays]
  if missing:
    raise ValueError(f'expected {_NEEDED} in the inputs, got no {missing}')
  inputs = inputs_lib.make_inputs(
      config, *(arrays[name] for name in _NEEDED),
      *(arrays.get(name) for name in _IMAGES))
  params = checkpoint.load_params(folder, config, dtype=dtype)
  model = model_lib.Model(config, dtype=dtype)
  return np.asarray(jax.jit(model.apply)({'params': params}, inputs))


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path) as arrays:
      return dict(arrays)
  except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
    raise ValueError(
        f'expected the inputs in {path}, an .npz file: {error}') from error


def main() -> int:
  """Runs the command; returns its exit code."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
      '--model', type=pathlib.Path, required=True, help='of the checkpoint')
  parser.add_argument(
      '--inputs', type=pathlib.Path, required=True, help='.npz file to read')
  parser.add_argument(
      '--outputs', type=pathlib.Path, required=True, help='.npz file to write')
  parser.add_argument(
      '--dtype', choices=('float32', 'bfloat16'), default='float32',
      help='of parameters and products')
  arguments = parser.parse_args()
  try:
    logits = run_model(
        arguments.model, _read(arguments.inputs), dtype=arguments.dtype)
    with open(arguments.outputs, 'wb') as file:
      np.savez(file, logits=logits)
    print(f'wrote logits {list(logits.shape)} to {arguments.outputs}')
    return 0
  except KeyboardInterrupt:
    return 130
  except (ValueError, OSError, safetensors.SafetensorError) as error:
    print(error, file=sys.stderr)
    return 2


if __name__ == '__main__':
  sys.exit(main())
