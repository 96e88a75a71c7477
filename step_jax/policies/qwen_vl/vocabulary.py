"""Which token ids a model knows, and what stands for the others.

A checkpoint knows all of the tokenizer's. A tiny model keeps the tokens of a
few texts and the 256 single bytes, so that it can read and write every text
with an embedding of a few hundred rows.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import tokenizers

from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib


class Vocabulary:
  """Maps the tokenizer's ids to a model's and back.

  Args:
    tokenizer: see `tokenizer.load`.
    kept: the tokenizer's ids that the model knows, besides special tokens and
      single bytes; None for a model that knows all, by the same numbers.

  Raises:
    ValueError: for a tokenizer that lacks a single byte.
  """

  def __init__(self, tokenizer: tokenizers.Tokenizer,
               kept: Iterable[int] | None = None):
    self._tokenizer = tokenizer
    self._added = tokenizer.get_added_tokens_decoder()
    if kept is None:
      self._ids = list(range(tokenizer.get_vocab_size()))
      self._bytes: dict[str, int] = {}
    else:
      letters = tokenizer_lib.byte_letters()
      self._bytes = {letter: tokenizer_lib.special_id(tokenizer, letter)
                     for letter in letters}
      self._ids = sorted({*kept, *self._bytes.values(), *self._added})
    self._places = {token: place for place, token in enumerate(self._ids)}

  def __len__(self) -> int:
    return len(self._ids)

  def narrow(self, ids: Iterable[int]) -> list[int]:
    """The model's ids of the tokenizer's; unknown tokens become bytes."""
    narrowed = []
    for token in ids:
      place = self._places.get(int(token))
      if place is not None:
        narrowed.append(place)
      else:
        letters = self._tokenizer.id_to_token(int(token)) or ''
        narrowed += [self._places[self._bytes[letter]] for letter in letters]
    return narrowed

  def widen(self, ids: Iterable[int]) -> list[int]:
    """The tokenizer's ids of the model's."""
    return [self._ids[token] for token in ids]

  def find(self, token: str) -> int:
    """The model's id of a special token."""
    return self._places[tokenizer_lib.special_id(self._tokenizer, token)]

  def legal(self, size: int, allowed: Sequence[str]) -> np.ndarray:
    """`[size]` bool, what a model with so many rows may write.

    Args:
      size: of the model's embedding, which can have rows that mean nothing.
      allowed: the special tokens among what it may write.
    """
    legal = np.arange(size) < len(self)
    for token, added in self._added.items():
      if added.special and added.content not in allowed:
        legal[self._places[token]] = False
    return legal
