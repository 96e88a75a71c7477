"""Inference servers in this process, which fail on demand.

`FakeSGLang` is our own server, `FakeVLLM` the same engine by vLLM's routes.
"""

import asyncio
import base64
import contextlib
import io
import json
import pathlib
import threading
import time

import fastapi
import numpy as np
from PIL import Image
import uvicorn

from step_jax.rollout.actors import engine as engine_lib
from step_jax.rollout.actors import serve


class FakeSGLang:
  """An ASGI application; `faults[route]` is what its next requests meet.

  'error' (status 500), 'slow' (no answer until the end), 'drop' (the
  connection ends), 'restart' (that, and the parameters are the first ones),
  'garbage' (no JSON), or a function that changes the answer.
  """

  def __init__(self, engine, folder: pathlib.Path):
    self.app = serve.make_app(engine)
    self.engine = engine
    self.folder = folder
    self.faults = {'/generate': [], '/update_weights_from_disk': []}
    self.seen = []  # (route, body)
    self.is_down = False
    self.over = threading.Event()

  async def __call__(self, scope, receive, send):
    if scope['type'] != 'http':
      await self.app(scope, receive, send)
      return
    faults = self.faults.get(scope['path'])
    fault = faults.pop(0) if faults else None
    body = await _read(receive)
    self.seen.append((scope['path'], json.loads(body or b'{}')))
    if fault == 'slow':
      while not self.over.is_set():
        await asyncio.sleep(.02)
    if fault == 'restart':
      await asyncio.wrap_future(self.engine.load(self.folder, 'default'))
    if fault in ('drop', 'restart', 'slow') or self.is_down:
      await _send(send, 200, b'{', length=9)  # too little: it hangs up
      return
    if fault == 'error':
      await _send(send, 500, b'{}')
      return
    answer = await self._answer(scope, body)
    if fault == 'garbage':
      answer = 200, b'<html>'
    elif fault is not None:
      answer = 200, json.dumps(fault(json.loads(answer[1]), self)).encode()
    await _send(send, *answer)

  async def _answer(self, scope, body):
    sent = []

    async def receive():
      return {'type': 'http.request', 'body': body, 'more_body': False}

    async def send(message):
      sent.append(message)

    await self.app(scope, receive, send)
    return sent[0]['status'], b''.join(
        message.get('body', b'') for message in sent[1:])


class FakeVLLM(FakeSGLang):
  """The engine by vLLM's token-level routes."""

  def __init__(self, engine, folder):
    super().__init__(engine, folder)
    self.app = app = fastapi.FastAPI()
    self.is_paused = False
    image = engine._config.image_token_id

    @app.post('/v1/chat/completions/render')
    async def render(body: dict):
      part, = body['messages'][0]['content']
      url = part['image_url']['url']
      height, width = np.shape(_picture(url))[:2]
      length = height * width // 28**2
      return {'token_ids': [7, 8] + [image] * length + [9], 'features': {
          'mm_hashes': {'image': ['x']}, 'kwargs_data': {'image': [url]},
          'mm_placeholders': {'image': [{'offset': 2, 'length': length}]}}}

    @app.post('/inference/v1/generate')
    async def generate(body: dict):
      assert not self.is_paused
      options = body['sampling_params']
      assert options['logprobs'] == 0 and options['top_k'] == -1
      place, = body['features']['mm_placeholders']['image']
      assert set(body['token_ids'][place['offset']:][:place['length']]) == {
          image}
      result = await asyncio.wrap_future(engine.submit(
          engine_lib.Way(
              options['max_tokens'], tuple(options['stop_token_ids']),
              tuple(sorted(map(int, options['logit_bias']))),
              options['temperature'], options['n'], 1), body['token_ids'],
          [_picture(body['features']['kwargs_data']['image'][0])],
          options['seed']))
      return {'choices': [
          {'index': index, 'token_ids': tokens[where].tolist(),
           'logprobs': {'content': [
               {'token': '', 'logprob': x} for x in log_probs[where].tolist()]}}
          for index, (tokens, log_probs, where) in enumerate(
              zip(*result.sample))][::-1]}

    @app.post('/collective_rpc')
    async def rpc(body: dict):
      assert self.is_paused and body['method'] == 'reload_weights'
      path = body['kwargs']['weights_path']
      await asyncio.wrap_future(engine.load(pathlib.Path(path), path))
      return {'results': [None]}

    @app.post('/pause')
    async def pause(mode: str):
      assert mode == 'keep'
      self.is_paused = True

    @app.post('/resume')
    async def resume():
      self.is_paused = False
    image = engine._config.image_token_id

    @app.post('/reset_prefix_cache')
    async def reset():
      return fastapi.Response(status_code=200)


@contextlib.contextmanager
def serving(app):
  """Serves on a free port of loopback; yields the address."""
  server = uvicorn.Server(uvicorn.Config(
      app, host='127.0.0.1', port=0, log_level='critical', lifespan='off',
      timeout_graceful_shutdown=1))
  thread = threading.Thread(target=server.run, daemon=True)
  thread.start()
  while not server.started:
    time.sleep(.005)
  port = server.servers[0].sockets[0].getsockname()[1]
  yield f'http://127.0.0.1:{port}'
  app.over.set()
  server.should_exit = True
  thread.join()


def _picture(url):
  return np.asarray(Image.open(io.BytesIO(
      base64.b64decode(url.partition(',')[2]))))


async def _read(receive):
  body, more = b'', True
  while more:
    message = await receive()
    body += message.get('body', b'')
    more = message.get('more_body', False)
  return body


async def _send(send, status, body, length=None):
  await send({'type': 'http.response.start', 'status': status, 'headers': [
      (b'content-type', b'application/json'),
      (b'content-length', str(length or len(body)).encode())]})
  await send({'type': 'http.response.body', 'body': body})
