"""vLLM's token-level route: ids and processed pictures in, ids out.

A picture is processed by the server's own `/v1/chat/completions/render`; what
that makes of it is sent with our ids. Log-probs are those after the temperature
if the server was started with `--logprobs-mode processed_logprobs`, and weights
can be changed if it was with VLLM_SERVER_DEV_MODE=1.
"""

import pathlib
from typing import Any

import httpx

from step_jax.policies import base
from step_jax.rollout.actors import messages


async def generate(
    client: httpx.AsyncClient, request: base.Request, draw: messages.Draw
) -> list[messages.Reply]:
  """See `messages.Dialect`."""
  content: dict[str, Any] = {
      'token_ids': request.input_ids,
      # What is cached of a prompt is of one version.
      'cache_salt': draw.version,
      'sampling_params': messages.sampling(draw) | {
          'max_tokens': draw.served.num_tokens, 'seed': draw.seed,
          'logprobs': 0}}
  try:
    if request.pictures:
      content['features'] = await _features(client, request)
    answer = await messages.post(client, '/inference/v1/generate', content)
    return [
        ([int(token) for token in choice['token_ids']],
         [float(one['logprob']) for one in choice['logprobs']['content']])
        for choice in sorted(answer['choices'], key=lambda x: x['index'])]
  except (IndexError, KeyError, TypeError, ValueError) as error:
    raise messages.BadAnswer(
        'expected an answer of /inference/v1/generate, got another '
        f'({error!r})') from error


async def _features(
    client: httpx.AsyncClient, request: base.Request) -> dict[str, Any]:
  """The processed pictures, at their places in our ids."""
  rendered = await messages.post(client, '/v1/chat/completions/render', {
      'messages': [{'role': 'user', 'content': [
          {'type': 'image_url', 'image_url': {
              'url': messages.data_url(picture)}}
          for picture in request.pictures]}]})
  features = rendered['features']
  places, start = [], 0
  for place in features['mm_placeholders']['image']:
    shown = rendered['token_ids'][
        place['offset']:place['offset'] + place['length']]
    start = _find(request.input_ids, shown, start)
    places.append(place | {'offset': start})
    start += len(shown)
  return features | {'mm_placeholders': {'image': places}}


def _find(ids: list[int], part: list[int], start: int) -> int:
  """Where `part` stands alone in `ids`, not before `start`."""
  size = len(part)
  for place in range(start, len(ids) - size + 1):
    if ids[place:place + size] == part:
      if ids[place + size:place + size + 1] == part[:1]:
        break  # a longer run of the same token: another size
      return place
  raise messages.BadAnswer(
      f'expected a picture of as many tokens as in the prompt, got {size}: the '
      'limits of pixels in preprocessor_config.json are not those of '
      'policy.min_pixels and max_pixels')


async def reload(
    client: httpx.AsyncClient, folder: pathlib.Path, version: str) -> None:
  """See `messages.Dialect`; whatever happens, the server goes on."""
  del version
  await messages.post(client, '/pause', mode='keep')
  try:
    await messages.post(client, '/collective_rpc', {
        'method': 'reload_weights', 'kwargs': {'weights_path': str(folder)}})
    await messages.post(client, '/reset_prefix_cache')
  finally:
    await messages.post(client, '/resume')


DIALECT = messages.Dialect(generate, reload)
