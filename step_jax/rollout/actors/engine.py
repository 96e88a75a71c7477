"""Our own model as an inference engine: what waits is answered together.

Requests come from many threads; one thread computes. Prompts and pictures are
padded to sizes that come again, as every new size is compiled.
"""

from concurrent import futures
import functools
import pathlib
import queue
import threading
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from step_jax.policies import base
from step_jax.policies.qwen_vl import checkpoint
from step_jax.policies.qwen_vl import images
from step_jax.policies.qwen_vl import inputs as inputs_lib
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import positions
from step_jax.policies.qwen_vl import sampling

_SHORTEST = 64  # tokens; prompts are padded to this times a power of two
_QUERIES = 512  # of attention at a time
_ANY_SIZE = {'min_pixels': 1, 'max_pixels': 1 << 40}


class Way(NamedTuple):
  """How a request is answered; those with one way are answered together."""
  num_tokens: int  # L
  stop_ids: tuple[int, ...]
  illegal_ids: tuple[int, ...]
  temperature: float
  num: int  # K, responses
  num_pictures: int


class Result(NamedTuple):
  """The responses to one request."""
  sample: base.ActionSample  # numpy, [K, L]
  version: str  # of the parameters


class _Work(NamedTuple):
  way: Way
  input_ids: list[int]
  pictures: list[tuple[np.ndarray, np.ndarray]]  # patches and grid
  seed: int
  answer: futures.Future


class _Load(NamedTuple):
  folder: pathlib.Path
  version: str
  answer: futures.Future


class Engine:
  """A model of a checkpoint, and the thread that computes with it.

  Args:
    folder: of the checkpoint.
    batch_size: requests that are answered at once.
    dtype: of the parameters and products, 'float32' or 'bfloat16'.

  Raises:
    ValueError: the folder holds no checkpoint.
  """

  def __init__(self, folder: pathlib.Path, *, batch_size: int, dtype: str):
    self._config = checkpoint.read_config(folder)
    self._params = checkpoint.load_params(folder, self._config, dtype=dtype)
    self._model = model_lib.Model(
        self._config, dtype=dtype, attention_chunk=_QUERIES)
    self._batch_size = batch_size
    self._dtype = dtype
    self._version = 'default'
    self._num_patches = 0  # of the largest picture so far
    self._sampler = functools.lru_cache(maxsize=8)(self._make_sampler)
    self._queue: queue.SimpleQueue = queue.SimpleQueue()
    self._thread = threading.Thread(
        target=self._compute, name='engine', daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Ends the thread, after what it computes."""
    self._queue.put(None)
    self._thread.join()

  def submit(
      self, way: Way, input_ids: list[int], pictures: list[np.ndarray],
      seed: int) -> futures.Future:
    """The future `Result` of a request.

    Args:
      way: how it is answered.
      input_ids: of the prompt, with as many tokens for a picture as it has.
      pictures: `[H, W, 3]` uint8; their sizes are rounded to whole tokens.
      seed: of all that is drawn.

    Raises:
      ValueError: a picture that the model does not see.
    """
    patches = []
    if pictures:
      if self._config.vision is None:
        raise ValueError('expected no pictures, as the model sees none')
      patches = [images.to_patches(picture, self._config.vision, **_ANY_SIZE)
                 for picture in pictures]
    answer: futures.Future = futures.Future()
    self._queue.put(_Work(way, input_ids, patches, seed, answer))
    return answer

  def load(self, folder: pathlib.Path, version: str) -> futures.Future:
    """Takes the parameters of a folder once what is computed is answered."""
    answer: futures.Future = futures.Future()
    self._queue.put(_Load(folder, version, answer))
    return answer

  def _compute(self) -> None:
    waiting: list[_Work] = []
    while True:
      while not waiting or not self._queue.empty():
        asked = self._queue.get()
        if asked is None:
          return
        if not asked.answer.set_running_or_notify_cancel():
          continue  # whoever asked has gone
        if isinstance(asked, _Work):
          waiting.append(asked)
        else:
          self._load(asked)
      way = waiting[0].way
      fitting = [work for work in waiting if work.way == way]
      waiting = [work for work in waiting if work.way != way] + (
          fitting[self._batch_size:])
      self._respond(way, fitting[:self._batch_size])

  def _load(self, asked: _Load) -> None:
    try:
      if checkpoint.read_config(asked.folder) != self._config:
        raise ValueError(
            f'expected a checkpoint of the same model in {asked.folder}')
      self._params = checkpoint.load_params(
          asked.folder, self._config, dtype=self._dtype)
      self._version = asked.version
      asked.answer.set_result(None)
    except Exception as error:  # ends the request, not the thread
      asked.answer.set_exception(error)

  def _respond(self, way: Way, batch: list[_Work]) -> None:
    try:
      # Idle rows repeat the first one.
      rows = batch + batch[:1] * (self._batch_size - len(batch))
      sample = jax.device_get(self._sampler(way[:3]).sample_many(
          self._params, _keys(np.array(
              [row.seed for row in rows], np.uint32), num=way.num),
          self._inputs(rows), temperature=way.temperature))
    except Exception as error:  # ends the requests, not the thread
      for work in batch:
        work.answer.set_exception(error)
      return
    for index, work in enumerate(batch):
      work.answer.set_result(Result(
          base.ActionSample(*(x[index] for x in sample)), self._version))

  def _make_sampler(
      self, key: tuple[int, tuple[int, ...], tuple[int, ...]]
  ) -> sampling.Sampler:
    num_tokens, stop_ids, illegal_ids = key
    legal = np.ones(self._config.text.vocabulary, bool)
    legal[list(illegal_ids)] = False
    return sampling.make_policy(
        self._model, num_tokens=num_tokens, stop_ids=stop_ids, legal=legal)

  def _inputs(self, rows: list[_Work]) -> inputs_lib.Inputs:
    longest = max(len(row.input_ids) for row in rows)
    length = _SHORTEST
    while length < longest:
      length *= 2
    ids = np.zeros((len(rows), length), np.int32)
    where = np.zeros(ids.shape, bool)
    for index, row in enumerate(rows):
      ids[index, length - len(row.input_ids):] = row.input_ids
      where[index, length - len(row.input_ids):] = True
    shown = [picture for row in rows for picture in row.pictures]
    if not shown:
      return inputs_lib.make_inputs(self._config, ids, where)
    pixels, grids = zip(*shown)
    vision = self._config.vision
    assert vision is not None
    self._num_patches = max(self._num_patches, positions.padded_patches(
        np.stack(grids), merge_size=vision.merge_size, window=vision.window))
    return inputs_lib.make_inputs(
        self._config, ids, where, np.concatenate(pixels), np.stack(grids),
        buckets=inputs_lib.Buckets(
            tokens=(length,), images=(len(shown),),
            patches=(self._num_patches,)))


@functools.partial(jax.jit, static_argnames='num')
def _keys(seeds: jax.Array, *, num: int) -> jax.Array:
  """`[B, num]` keys."""
  return jax.vmap(lambda seed: jax.vmap(
      lambda index: jax.random.fold_in(jax.random.key(seed), index))(
          jnp.arange(num)))(seeds)
