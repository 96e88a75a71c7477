"""How a policy learns: streaming where its rows have to be loaded.

The same calls for a policy whose rows are what it reads, for which all of it is
one jitted program, and for one with `load`, such as a vision-language model.
"""

from collections.abc import Callable
import functools
from typing import Any

import optax

from step_jax.algorithm import credit
from step_jax.algorithm import types
from step_jax.learning import imitation
from step_jax.learning import learner as learner_lib
from step_jax.learning import loader
from step_jax.learning import streaming
from step_jax.policies import base


def make_learner(
    policy: base.Policy,
    optimizer: optax.GradientTransformation,
    *,
    temperature: float,
    **options: Any,
) -> learner_lib.Learner:
  """The learner of a policy: streaming where its rows have to be loaded.

  Args:
    policy: what learns.
    optimizer: an optax transformation.
    temperature: at which the policy acts in training.
    **options: what `learner.make_learner` takes besides.
  """
  make: Callable[..., learner_lib.Learner] = learner_lib.make_learner
  if policy.load is not None:
    make = functools.partial(
        streaming.make_learner, load=_batches(policy.load),
        frozen=policy.frozen)
  return make(functools.partial(policy.log_prob, temperature=temperature),
              optimizer, **options)


def make_augment(
    policy: base.Policy, *, temperature: float, micro_batch_size: int
) -> Callable[..., types.RoundBatch]:
  """A policy's second half-round: streaming where its rows have to be loaded.

  Args:
    policy: what draws the step-level groups.
    temperature: at which it acts in training.
    micro_batch_size: states sampled at once, where they have to be loaded.

  Returns:
    `augment_steps(rng_key, params, singles, low, *, matches_fn, max_steps,
    num_candidates, group_weight='sum')` -> `RoundBatch`, as `credit` has it.
    Keep it for a run: another one is compiled anew.
  """
  if policy.load is None:
    return functools.partial(
        credit.augment_steps, sample_fn=functools.partial(
            policy.sample, temperature=temperature))
  assert policy.sample_many is not None  # see `base.Policy`
  return functools.partial(
      streaming.augment_steps, load=_batches(policy.load),
      sample_many=functools.partial(
          policy.sample_many, temperature=temperature),
      micro_batch_size=micro_batch_size)


def imitate(
    policy: base.Policy, *demonstrations: Any,
    on_step: Callable[[int, float], None], **options: Any
) -> tuple[Any, Any]:
  """Fits a policy to demonstrated steps, loaded where they have to be.

  Args:
    policy: what is fitted.
    *demonstrations: key, parameters, observations and tokens, as
      `imitation.imitate` takes them.
    on_step: see `imitation.imitate_loaded`; not told where all steps are one
      program.
    **options: what both take besides.

  Returns:
    `(params, losses [num_steps])`.
  """
  fit: Callable[..., Any] = imitation.imitate
  if policy.load is not None:
    fit = functools.partial(
        imitation.imitate_loaded, load=_batches(policy.load),
        frozen=policy.frozen, on_step=on_step)
  return fit(*demonstrations, log_prob_fn=policy.log_prob, **options)


def _batches(load: base.LoadFn) -> loader.LoadBatches:
  """A policy's `load`, of one batch after the other."""
  return functools.partial(loader.prefetch, load)
