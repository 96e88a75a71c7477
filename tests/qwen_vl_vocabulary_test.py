"""The tokens a tiny model knows, and the bytes that spell all others."""

import json

import hypothesis
from hypothesis import strategies
import numpy as np
import pytest

from step_jax.policies.qwen_vl import prompts
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import vocabulary as vocabulary_lib

CLICK = "Action: click(start_box='<|box_start|>(12,345)<|box_end|>')"


@pytest.fixture(scope='module', name='tokenizer')
def made_tokenizer():
  return tokenizer_lib.load()


@pytest.fixture(scope='module', name='tiny')
def made_tiny(tokenizer):
  return vocabulary_lib.Vocabulary(
      tokenizer, tokenizer_lib.encode(tokenizer, 'Click the button'))


def test_a_tiny_vocabulary_is_bytes_kept_and_special_tokens(tokenizer, tiny):
  # 'Click', ' the', ' button'; the bytes are the tokenizer's first 256 ids.
  assert len(tiny) == 256 + 3 + len(tokenizer_lib.SPECIAL)
  ids = tokenizer_lib.encode(tokenizer, 'Click the button')
  assert len(ids) == 3 and min(ids) > 255
  assert tiny.widen(range(256)) == list(range(256))
  assert tiny.widen(tiny.narrow(ids)) == ids


def test_an_unknown_token_becomes_its_bytes(tokenizer, tiny):
  known, unknown = (
      tokenizer_lib.encode(tokenizer, text) for text in ('Click', ' window'))
  assert len(unknown) == 1
  narrowed = tiny.narrow(known + unknown)
  assert len(narrowed) == 1 + len(' window')
  assert [tokenizer.decode([token]) for token in tiny.widen(narrowed)] == [
      'Click', *' window']


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(strategies.text())
def test_every_text_can_be_read_and_written(tokenizer, tiny, text):
  ids = tokenizer_lib.encode(tokenizer, text)
  narrowed = tiny.narrow(ids)
  assert all(0 <= token < len(tiny) for token in narrowed)
  assert tokenizer.decode(tiny.widen(narrowed)) == tokenizer.decode(ids)
  # What was sampled is not rewritten when it becomes part of a prompt.
  assert tiny.narrow(tiny.widen(narrowed)) == narrowed


def test_special_tokens_stay_whole(tokenizer, tiny):
  ids = prompts.response(tokenizer, CLICK)
  narrowed = tiny.narrow(ids)
  assert narrowed.count(tiny.find(tokenizer_lib.BOX_START)) == 1
  assert tokenizer.decode(
      tiny.widen(narrowed), skip_special_tokens=False) == CLICK


def test_a_whole_vocabulary_keeps_the_numbers(tokenizer):
  whole = vocabulary_lib.Vocabulary(tokenizer)
  ids = prompts.response(tokenizer, CLICK)
  assert whole.narrow(ids) == whole.widen(ids) == ids
  assert len(whole) == 151_657


@pytest.mark.parametrize('name', ['tiny', 'whole'])
def test_what_may_be_written(tokenizer, tiny, name):
  vocabulary = tiny if name == 'tiny' else vocabulary_lib.Vocabulary(tokenizer)
  size = len(vocabulary) + 5  # rows of padding
  allowed = (tokenizer_lib.END, tokenizer_lib.BOX_START)
  legal = vocabulary.legal(size, allowed)
  assert legal.dtype == bool and legal.shape == (size,)
  forbidden = {vocabulary.find(token) for token in tokenizer_lib.SPECIAL
               if token not in allowed} | set(range(len(vocabulary), size))
  assert len(forbidden) == len(tokenizer_lib.SPECIAL) - 2 + 5
  np.testing.assert_array_equal(np.flatnonzero(~legal), sorted(forbidden))


_SAID = "Thought: né, ok!\n\nAction: type(content='12 x\\n')"


@pytest.fixture(scope='module', name='folder')
def made_folder(tokenizer, tmp_path_factory):
  """vocab.json and merges.txt, without tokenizer.json."""
  folder = tmp_path_factory.mktemp('vocabulary')
  tokenizer.model.save(str(folder))
  return folder


@pytest.mark.parametrize('file', [
    None, 'added_tokens.json', 'tokenizer_config.json'])
def test_a_vocabulary_and_merges_are_a_tokenizer(file, tokenizer, folder):
  size = len(json.loads((folder / 'vocab.json').read_text('utf-8')))
  ids = {token: size + place for place, token in enumerate(
      (*tokenizer_lib.SPECIAL, '<tool_call>'))}
  content = ids if file == 'added_tokens.json' else {
      'added_tokens_decoder': {
          str(number): {'content': token, 'special': token != '<tool_call>'}
          for token, number in ids.items()}}
  if file:
    (folder / file).write_text(json.dumps(content))
  read = tokenizer_lib.load(folder)
  assert tokenizer_lib.encode(read, _SAID) == (
      tokenizer_lib.encode(tokenizer, _SAID))
  assert read.decode(tokenizer_lib.encode(read, _SAID)) == _SAID
  for token in tokenizer_lib.SPECIAL:
    assert read.token_to_id(token) == tokenizer.token_to_id(token)
    assert read.get_added_tokens_decoder()[read.token_to_id(token)].special
  more = ids['<tool_call>']
  assert read.token_to_id('<tool_call>') == (more if file else None)
  if file:
    assert not read.get_added_tokens_decoder()[more].special
    (folder / file).unlink()


@pytest.mark.parametrize('file, content, message', [
    ('vocab.json', '{"a": 0', 'expected a vocabulary in'),
    ('merges.txt', 'a b', 'a b merges into no token'),
    ('merges.txt', 'ab', 'expected a vocabulary in'),
    ('added_tokens.json', '{"<|im_end|>": 7}', 'expected token 7 to be'),
    ('tokenizer_config.json', '[]', 'expected a vocabulary in'),
    ('vocab.json', None, 'or vocab.json with merges.txt'),
])
def test_a_vocabulary_that_fits_nothing_is_refused(
    file, content, message, tmp_path):
  files = {'vocab.json': '{"a": 0, "b": 1}', 'merges.txt': '#version: 0.2\n',
           file: content}
  for name, text in files.items():
    if text is not None:
      (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match=message) as error:
    tokenizer_lib.load(tmp_path)
  assert '\n' not in str(error.value)
