"""STEP inside Tunix: its GRPO learner with our record, sampler and advantages.

  pip install 'google-tunix==0.1.7' -e .
  python examples/tunix_step.py

A toy: eight words are to be spelt, half of them of two letters, by a model of
a few weights. It prints the mean success of each tenth round. What is between
the two lines is all that another task and another model need.

What goes wrong otherwise, with Tunix 0.1.7:
  * Its plain sampler draws from PRNGKey(0) where no seed is given, so that each
    round draws the same noise: `StepLearner` gives a new seed each time.
  * An advantage estimator sees rewards and no task: here it is the learner.
  * A prompt has a fixed number of completions, so a task that gets more slots
    comes more than once; the number of rows, and so of optimiser steps, stays.
  * A resumed run knows nothing of the sampler: the record is in a file.
"""

import functools
import os
import pathlib
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tunix.rl import rl_cluster as rl_cluster_lib
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout

import step_jax

# --- What STEP adds to Tunix. ---


class StepLearner(grpo_learner.GRPOLearner):
  """GRPO's learner with success-weighted advantages and a success record.

  Its batches have a column `task_id`; rewards are 1 or 0.

  Args:
    *args: of `GRPOLearner`.
    num_tasks: N.
    group_size: G, completions that a task gets in a round without sampler.
    record_path: the record's file, read if there is one.
    seed: of sampling.
    **kwargs: of `GRPOLearner`.
  """

  def __init__(self, *args: Any, num_tasks: int, group_size: int,
               record_path: pathlib.Path, seed: int = 0, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self._group_size = group_size
    self._path = record_path
    self._key = jax.random.key(seed)
    self.sampler = step_jax.samplers.sr_traj(smoothing=functools.partial(
        step_jax.update_success_rate, group_size=group_size))
    self.record = self.sampler.init(num_tasks)
    if record_path.exists():
      self.record = jnp.asarray(np.load(record_path))

  def batches(self, prompts: list[str], num_rounds: int):
    """Prompts of each round, of the tasks that the sampler proposes."""
    base = jnp.arange(len(prompts))
    slots = self._group_size // self.algo_config.num_generations
    for index in range(num_rounds):  # read as late as the round begins
      task_ids = np.asarray(self.sampler.propose(
          jax.random.fold_in(self._key, index), base, self.record,
          group_size=slots))
      yield {'prompts': np.array(prompts)[task_ids], 'task_id': task_ids}

  def _compute_rewards(self, prompts, completions, mode, **columns):
    rewards = super()._compute_rewards(prompts, completions, mode, **columns)
    self._outcome = np.asarray(rewards, np.float32), np.asarray(
        columns['task_id'])
    return rewards

  def _generate_and_compute_advantage(
      self, training_input, mode=rl_cluster_lib.Mode.TRAIN):
    rollout = self.rl_cluster.cluster_config.rollout_config
    rollout.seed = jax.random.key_data(jax.random.fold_in(
        self._key, 1_000_000 + self.rl_cluster.global_steps))
    example = super()._generate_and_compute_advantage(training_input, mode)
    rewards, task_ids = self._outcome
    if mode == rl_cluster_lib.Mode.TRAIN:
      self.record = self.sampler.update(self.record, task_ids, rewards)
      partial = self._path.with_suffix('.partial.npy')
      np.save(partial, self.record)
      os.replace(partial, self._path)
    return example.replace(advantages=step_jax.success_weighted_advantages(
        rewards, task_ids, self.record))


# --- A toy task and a toy model. ---

WORDS = ('b', 'd', 'f', 'h', 'a b', 'c d', 'e f', 'g h')
_TOKENS = ('<pad>', '<s>', '</s>', *'abcdefgh',
           *(f'spell-{i}' for i in range(len(WORDS))))
_NUM_LEGAL = 3 + 8  # letters, and what begins and ends
GROUP_SIZE, _NUM_GENERATIONS = 8, 2


class Vocabulary:
  """A word is a token."""

  def encode(self, text: str, **_: Any) -> list[int]:
    return [_TOKENS.index(word) for word in text.split()]

  def decode(self, ids: Any, **_: Any) -> str:
    return ' '.join(_TOKENS[i] for i in ids)

  def pad_id(self) -> int:
    return 0

  def bos_id(self) -> int:
    return 1

  def eos_id(self) -> int:
    return 2


class _CacheSizes(NamedTuple):
  """What Tunix makes a cache by."""
  num_layers: int = 1
  num_kv_heads: int = 1
  head_dim: int = 1


class Bigrams(nnx.Module):
  """The next token by the last; a cache is passed through, as it needs none."""

  config = _CacheSizes()

  def __init__(self, rngs: nnx.Rngs):
    self.embed = nnx.Embed(len(_TOKENS), 32, rngs=rngs)
    self.out = nnx.Linear(32, len(_TOKENS), rngs=rngs)

  def __call__(self, x, positions, cache=None, attention_mask=None, **_: Any):
    legal = (jnp.arange(len(_TOKENS)) > 1) & (
        jnp.arange(len(_TOKENS)) < _NUM_LEGAL)
    return jnp.where(legal, self.out(self.embed(x)), -1e9), cache

  @property
  def num_embed(self) -> int:
    return len(_TOKENS)


def spelt(prompts, completions, task_id, **_: Any) -> list[float]:
  """The reward: 1 if the completion begins with the word."""
  return [float(f'{said} '.startswith(f'{WORDS[task]} '))
          for said, task in zip(completions, task_id)]


def make_learner(folder: pathlib.Path, num_rounds: int) -> StepLearner:
  """A learner of the toy; `folder` keeps the record."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1),
                           ('fsdp', 'tp'))
  cluster = rl_cluster_lib.RLCluster(
      actor=Bigrams(nnx.Rngs(0)), tokenizer=Vocabulary(),
      cluster_config=rl_cluster_lib.ClusterConfig(
          role_to_mesh={role: mesh for role in (
              rl_cluster_lib.Role.ACTOR, rl_cluster_lib.Role.REFERENCE,
              rl_cluster_lib.Role.ROLLOUT)},
          training_config=rl_cluster_lib.RLTrainingConfig(
              actor_optimizer=optax.adam(0.05), max_steps=num_rounds,
              eval_every_n_steps=num_rounds + 1),
          rollout_config=base_rollout.RolloutConfig(
              max_tokens_to_generate=2, max_prompt_length=4, kv_cache_size=16,
              temperature=1.0)))
  return StepLearner(
      cluster, grpo_learner.GRPOConfig(
          num_generations=_NUM_GENERATIONS, beta=0.0,
          loss_agg_mode='token-mean'),
      spelt, num_tasks=len(WORDS), group_size=GROUP_SIZE,
      record_path=folder / 'record.npy')


def train(folder: pathlib.Path, num_rounds: int = 60) -> StepLearner:
  """Trains on the toy; the learner's `record` says how far it came."""
  learner = make_learner(folder, num_rounds)
  prompts = [f'spell-{i}' for i in range(len(WORDS))]

  def told():
    for index, batch in enumerate(learner.batches(prompts, num_rounds)):
      if index % 10 == 0:
        print(f'round {index}: record {learner.record.mean():.2f}')
      yield batch

  learner.train(told())
  print(f'after {num_rounds} rounds: record '
        f'{np.round(np.asarray(learner.record), 2).tolist()}')
  return learner


if __name__ == '__main__':
  folder = pathlib.Path('runs/tunix_step')
  folder.mkdir(parents=True, exist_ok=True)
  train(folder)
