"""A small network that acts on a picture of the screen.

It reads instruction words, the picture and its last actions, and emits three
tokens: verb, cell of a grid over the screen, instruction-word pointer, each
masked to what is legal. Each of its layers reads the words, tells the picture
what was read, and looks at the picture. Any environment that yields such
pictures can be driven; what cannot be seen at this size cannot be learned.

Observation (W words, V verbs), dictionary of arrays:
  instruction [W] int32, non-zero hashes of words, 0 is padding ·
  picture [H, w, 3] uint8, H and w multiples of the grid's rows and columns ·
  history [3, 3] int32, the last actions, newest first.
"""

from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from step_jax.policies import base
from step_jax.policies import pointer

VERBS = ('click', 'long_press', 'type', 'scroll_up', 'scroll_down', 'back',
         'home', 'done')
USES_CELL = np.array([verb in ('click', 'long_press') for verb in VERBS])
USES_WORD = np.array([verb == 'type' for verb in VERBS])
NUM_TOKENS = pointer.NUM_TOKENS
HISTORY_LENGTH = pointer.HISTORY_LENGTH
GRID = (20, 9)  # rows, columns; that of a phone of 20 : 9

_USES = np.stack(
    [np.ones(len(VERBS), bool), USES_CELL, USES_WORD], axis=1)  # [V, L]


class GridNetwork(pointer.Network):
  """Encoder of a picture and an instruction, and three pointer heads."""
  rows: int
  columns: int
  num_verbs = len(VERBS)

  def setup(self):
    super().setup()
    self.places = nn.Embed(self.rows * self.columns, self.width)
    self.summary = self.param(
        'summary', nn.initializers.normal(), (1, self.width))
    self.position = nn.Dense(self.width)
    self.patches = nn.Dense(self.width)
    self.readers = [
        pointer.AttentionLayer(self.width, self.num_heads)
        for _ in range(self.num_layers)]
    self.mixers = [_Mixer(self.width) for _ in range(self.num_layers)]
    self.lookers = [
        nn.MultiHeadDotProductAttention(self.num_heads)
        for _ in range(self.num_layers)]
    self.cell_head = pointer.make_head(self.width, self.num_verbs)
    self.cell_query = nn.Dense(self.width)

  def encode(self, observation):
    """`(words [W, D], cells [R * C, D], summary [D])` of one screen."""
    words, history = observation['instruction'], observation['history']
    num_words = words.shape[0]
    tokens = jnp.concatenate([
        pointer.embed_words(self.words, words[:, None])
        + self.position(_waves(num_words)),
        pointer.embed_words(self.words, history[:, 2:])
        + self.past_verbs(history[:, 0]) + self._past_places(history[:, 1])
        + self.past_age(jnp.arange(HISTORY_LENGTH)),
        self.summary,
    ])
    valid = jnp.concatenate([words > 0, history[:, 0] > 0, jnp.ones(1, bool)])
    bias = jnp.where(valid, 0., pointer.ILLEGAL)[None, :, None]
    cells = self._embed_picture(observation['picture'])
    for read, mix, look in zip(
        self.readers, self.mixers, self.lookers, strict=True):
      tokens = read(tokens, bias)
      cells = mix(cells, tokens[-1])
      tokens = tokens.at[-1].add(
          look(tokens[-1:], cells.reshape(-1, self.width))[0])
    tokens = self.norm(tokens)
    return tokens[:num_words], cells.reshape(-1, self.width), tokens[-1]

  def target_logits(self, encoded, verb):
    """`[R * C]` given a verb."""
    _, cells, summary = encoded
    return pointer.point(
        cells, self.cell_head(cells)[:, verb], self.cell_query(summary))

  def word_logits(self, encoded, cell):
    """`[W]`; what types uses no cell."""
    del cell
    words, _, summary = encoded
    return self.point_at_words(words, summary)

  def _past_places(self, place):
    """`[3, D]` of cell + 1, nothing for 0."""
    embedded = self.places(jnp.maximum(place - 1, 0))
    return jnp.where((place > 0)[:, None], embedded, 0)

  def _embed_picture(self, picture):
    """`[R, C, D]`: all pixels of a cell, and where it lies."""
    rows, columns = self.rows, self.columns
    height, width, _ = picture.shape
    pixels = picture.reshape(
        rows, height // rows, columns, width // columns, 3)
    pixels = jnp.moveaxis(pixels, 2, 1).reshape(rows, columns, -1) / 255. - .5
    places = self.places(jnp.arange(rows * columns))
    return self.patches(pixels) + places.reshape(rows, columns, -1)


class _Mixer(nn.Module):
  """A residual convolution of cells `[R, C, D]`, scaled by what was read."""
  width: int

  @nn.compact
  def __call__(self, cells, context):
    hidden = nn.Conv(self.width, (3, 3))(cells)
    scale, shift = jnp.split(nn.Dense(2 * self.width)(context), 2)
    hidden = hidden * (1 + scale[None, None]) + shift[None, None]
    return nn.LayerNorm()(cells + nn.Dense(self.width)(nn.gelu(hidden)))


def _waves(num_words: int) -> np.ndarray:
  """`[W, 8]`: where a word stands, as waves of four lengths."""
  angles = np.arange(num_words)[:, None] / 3. ** np.arange(4)
  return np.concatenate(
      [np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def make_policy(
    example: Any,
    *,
    grid: Sequence[int] = GRID,
    width: int = 48,
    num_layers: int = 2,
    num_heads: int = 4,
    vocabulary: int = 1024,
) -> base.Policy:
  """Builds the grid policy.

  Args:
    example: one observation, unbatched, history included; only its shapes
      matter.
    grid: (rows, columns) of the cells that can be touched, R and C.
    width: size D of a token and of a cell.
    num_layers: readings of the words and looks at the picture.
    num_heads: attention heads; divides `width`.
    vocabulary: rows of the word table that hashes are folded into.

  Returns:
    A `Policy`; `sample` and `log_prob` are jitted with a static temperature.

  Raises:
    ValueError: if `num_heads` does not divide `width`, or the grid not the
      picture.
  """
  pointer.check_heads(width, num_heads)
  size = np.shape(example['picture'])[:2]
  if any(pixels % cells for pixels, cells in zip(size, grid, strict=True)):
    raise ValueError(
        'expected a picture of whole cells, got one of '
        f'{size[0]} x {size[1]} for {grid[0]} x {grid[1]} cells')
  network = GridNetwork(width, num_layers, num_heads, vocabulary, *grid)
  return pointer.make_policy(network, example, uses=_USES, legal=_legal)


def _legal(observation: Any, prefix: list[chex.Array]) -> chex.Array:
  """Any verb and cell; words, and to type, where the instruction has some."""
  is_word = observation['instruction'] > 0
  if len(prefix) == 0:
    return ~USES_WORD | jnp.any(is_word)
  if len(prefix) == 1:
    return jnp.ones((), bool)
  return is_word


def matches(observation: Any, tokens: chex.Array) -> chex.Array:
  """Whether candidate k does the same as candidate 0 (method 3).

  Same verb, same cell (which is coarser than the tolerance of points), and
  the same text to type, wherever in the instruction it was read.

  Args:
    observation: pytree of `[..., ...]`.
    tokens: `[..., K, 3]` int32.

  Returns:
    `[..., K]` bool.
  """
  return pointer.matches(_USES, observation, tokens)


def empty_history() -> np.ndarray:
  """`[3, 3]` int32: verb + 1, cell + 1, typed word; 0 where there is none."""
  return np.zeros((HISTORY_LENGTH, 3), np.int32)


def remember(
    history: chex.Array, observation: Any, tokens: chex.Array, xp: Any = np,
) -> chex.Array:
  """Puts an action in front of the history and drops the oldest.

  Args:
    history: `[3, 3]` int32.
    observation: the screen at which the action was chosen, unbatched.
    tokens: `[3]` int.
    xp: numpy on the host, jax.numpy inside a jitted rollout.

  Returns:
    A new history.
  """
  verb, cell, word = tokens
  has_cell, has_word = (
      xp.asarray(uses)[verb] for uses in (USES_CELL, USES_WORD))
  newest = xp.stack([
      verb + 1, has_cell * (cell + 1),
      has_word * observation['instruction'][word]])
  return pointer.push(history, newest, xp)


def state(observation: Any) -> Any:
  """What is on the screen: all but the history."""
  return {name: x for name, x in observation.items() if name != 'history'}


def make_codec() -> base.Codec:
  """What grid actions mean; see `matches`, `remember` and `state`."""
  return base.Codec(matches, empty_history(), remember, state, NUM_TOKENS)
