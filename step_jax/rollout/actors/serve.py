"""Serves our own model by SGLang's contract: tokens in, tokens out.

  python -m step_jax.rollout.actors.serve --checkpoint=DIR --port=30000

One more machine with JAX answers rows (`config.actor`), without torch. What
waits is answered together, `--batch_size` requests at a time. Of SGLang's
`/generate` it knows `input_ids`, `image_data` (PNG, base64), `return_logprob`
and the sampling parameters that `_read` names; `logit_bias` forbids tokens.
Besides, there are `/update_weights_from_disk` and `/health`.
"""

import argparse
import asyncio
import base64
from collections.abc import Sequence
import io
import pathlib
import random
import sys
from typing import Any, NamedTuple

import fastapi
import numpy as np
from PIL import Image
import uvicorn

from step_jax.rollout.actors import engine as engine_lib

_NEUTRAL = {'top_p': 1, 'top_k': -1, 'min_p': 0, 'frequency_penalty': 0,
            'presence_penalty': 0, 'repetition_penalty': 1}
_FORBIDDEN = -100  # a bias that leaves a token no chance


class Asked(NamedTuple):
  """What a request asks for, as `Engine.submit` takes it."""
  way: engine_lib.Way
  input_ids: list[int]
  pictures: list[np.ndarray]
  seed: int


def make_app(engine: engine_lib.Engine) -> fastapi.FastAPI:
  """The routes of a server; 400 tells what a request has wrong."""
  app = fastapi.FastAPI()

  @app.get('/health')
  async def health() -> dict[str, str]:
    return {'status': 'ok'}

  @app.post('/generate')
  async def generate(body: dict[str, Any]) -> Any:
    try:
      asked = await asyncio.to_thread(_read, body)
      result = await asyncio.wrap_future(engine.submit(*asked))
    except (KeyError, TypeError, ValueError, OSError) as error:
      raise fastapi.HTTPException(400, f'{error!r}') from error
    answers = [_write(asked, result, row) for row in range(asked.way.num)]
    return answers if len(answers) > 1 else answers[0]

  @app.post('/update_weights_from_disk')
  async def update(body: dict[str, Any]) -> Any:
    try:
      folder, version = body['model_path'], body.get('weight_version')
      await asyncio.wrap_future(
          engine.load(pathlib.Path(folder), version or 'default'))
    except (KeyError, TypeError, ValueError, OSError) as error:
      raise fastapi.HTTPException(400, f'{error!r}') from error
    return {'success': True, 'message': f'loaded {folder}'}

  return app


def _read(body: dict[str, Any]) -> Asked:
  """Reads a request.

  Raises:
    KeyError, TypeError, ValueError, OSError: for what is none.
  """
  options = dict(body['sampling_params'])
  num_tokens, num = options.pop('max_new_tokens'), options.pop('n', 1)
  stops = options.pop('stop_token_ids')
  biases = options.pop('logit_bias', None) or {}
  temperature = float(options.pop('temperature', 1.))
  seed = options.pop('sampling_seed', None)
  for name, value in options.items():
    if value != _NEUTRAL.get(name):
      raise ValueError(f'expected no {name} but a neutral one, got {value!r}')
  if any(bias > _FORBIDDEN for bias in biases.values()):
    raise ValueError(f'expected a logit_bias of {_FORBIDDEN}, got others')
  if not 1 <= num <= 64:
    raise ValueError(f'expected n from 1 to 64, got {num}')
  pictures = [
      np.asarray(Image.open(io.BytesIO(base64.b64decode(
          picture.rpartition(',')[2]))).convert('RGB'))
      for picture in body.get('image_data') or ()]
  return Asked(
      engine_lib.Way(num_tokens, tuple(stops), tuple(sorted(map(int, biases))),
                     temperature, num, len(pictures)),
      [int(token) for token in body['input_ids']], pictures,
      random.getrandbits(31) if seed is None else seed)


def _write(
    asked: Asked, result: engine_lib.Result, row: int) -> dict[str, Any]:
  """Answer number `row` of those that were asked for."""
  tokens, log_probs, where = (x[row] for x in result.sample)
  ids = tokens[where].tolist()
  stopped = ids[-1] in asked.way.stop_ids
  return {
      'text': '',  # there is no tokenizer here
      'output_ids': ids,
      'meta_info': {
          'finish_reason': {'type': 'stop', 'matched': ids[-1]} if stopped
          else {'type': 'length', 'length': len(ids)},
          'prompt_tokens': len(asked.input_ids),
          'completion_tokens': len(ids),
          'weight_version': result.version,
          'output_token_logprobs': [
              [log_prob, token, None] for log_prob, token in zip(
                  log_probs[where].tolist(), ids)]}}


def main(argv: Sequence[str]) -> int:
  """Serves until it is interrupted; returns the exit code."""
  parser = argparse.ArgumentParser(
      prog='python -m step_jax.rollout.actors.serve',
      description='serves a checkpoint by SGLang\'s contract')
  parser.add_argument('--checkpoint', type=pathlib.Path, required=True)
  parser.add_argument('--host', default='127.0.0.1')
  parser.add_argument('--port', type=int, default=30000)
  parser.add_argument('--batch_size', type=int, default=8)
  parser.add_argument('--dtype', choices=('bfloat16', 'float32'),
                      default='bfloat16')
  options = parser.parse_args(argv)
  try:
    engine = engine_lib.Engine(
        options.checkpoint, batch_size=options.batch_size,
        dtype=options.dtype)
  except ValueError as error:
    print(error, file=sys.stderr)
    return 2
  uvicorn.run(make_app(engine), host=options.host, port=options.port,
              log_level='warning')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
