"""SGLang's `/generate`: token ids and pictures in, ids and log-probs out.

Ids come from `output_token_logprobs`, beside their log-probs and with the stop
that ends them; text is never read. SGLang's log-probs are those after the
temperature, unless its variable SGLANG_RETURN_ORIGINAL_LOGPROB is set.
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
  content = {
      'input_ids': request.input_ids,
      'image_data': [
          messages.data_url(picture) for picture in request.pictures],
      'return_logprob': True,
      'sampling_params': messages.sampling(draw) | {
          'max_new_tokens': draw.served.num_tokens,
          'sampling_seed': draw.seed}}
  answers = await messages.post(client, '/generate', content)
  answers = answers if isinstance(answers, list) else [answers]
  try:
    return [_read(answer, request, draw.version) for answer in answers]
  except (KeyError, TypeError, ValueError) as error:
    raise messages.BadAnswer(
        f'expected an answer of /generate, got another ({error!r})') from error


def _read(
    answer: dict[str, Any], request: base.Request, version: str
) -> messages.Reply:
  about = answer['meta_info']
  if about['finish_reason']['type'] not in ('stop', 'length'):
    raise messages.BadAnswer(f'it ended by {about["finish_reason"]}')
  if about.get('weight_version', version) != version:
    raise messages.StaleWeights(
        f'expected weights {version}, got {about["weight_version"]}')
  if about['prompt_tokens'] != len(request.input_ids):
    raise messages.BadAnswer(
        f'expected a prompt of {len(request.input_ids)} tokens to be read as '
        f'it is, got {about["prompt_tokens"]}: the limits of pixels in '
        'preprocessor_config.json are not those of policy.min_pixels and '
        'max_pixels, or the server makes text of ids')
  chosen = about['output_token_logprobs']
  if about['completion_tokens'] != len(chosen):
    raise messages.BadAnswer(
        f'expected log-probs of {about["completion_tokens"]} tokens, got '
        f'{len(chosen)}')
  return ([int(one[1]) for one in chosen], [float(one[0]) for one in chosen])


async def reload(
    client: httpx.AsyncClient, folder: pathlib.Path, version: str) -> None:
  """See `messages.Dialect`."""
  answer = await messages.post(client, '/update_weights_from_disk', {
      'model_path': str(folder), 'weight_version': version,
      'abort_all_requests': True, 'flush_cache': True})
  if not (isinstance(answer, dict) and answer.get('success')):
    raise messages.BadAnswer(f'it does not load {folder}: {answer}')


DIALECT = messages.Dialect(generate, reload)
