"""What does not change during a run, built from its config.

The policy with its codec, the method, and the learner with its optimiser.
"""

from collections.abc import Callable
import functools
import inspect
from typing import Any, NamedTuple

import ml_collections
import optax

from experiments import policies
from experiments import serving
from step_jax.algorithm import methods
from step_jax.algorithm import samplers
from step_jax.algorithm import success_rate
from step_jax.algorithm import types
from step_jax.envs import worlds
from step_jax.learning import clipping
from step_jax.learning import learner as learner_lib
from step_jax.learning import of_policy
from step_jax.policies import base
from step_jax.policies import placement as placement_lib
from step_jax.rollout.actors import alternatives
from step_jax.runs import errors


class Setup(NamedTuple):
  """What does not change during a run."""
  config: ml_collections.ConfigDict
  world: worlds.World
  method: methods.Method
  policy: base.Policy
  codec: base.Codec
  learner: learner_lib.Learner
  augment: Callable[..., types.RoundBatch]  # method 3, as `credit` has it
  placement: placement_lib.Placement
  remote: Any = None  # `server.Remote`, where inference servers act

  @property
  def acting_batch_size(self) -> int:
    """Rows of a policy call, so many that the mesh can cut them."""
    return self.placement.pad(self.config.policy.acting_batch_size)

  @property
  def sampler_name(self) -> str:
    """The config's, or the method's own."""
    return self.config.sampler or self.method.sampler

  @property
  def sampler(self) -> samplers.Sampler:
    """Which tasks fill the slots."""
    return make_sampler(self.config, self.sampler_name)


def make_setup(
    config: ml_collections.ConfigDict, world: worlds.World) -> Setup:
  """Builds the policy, the optimiser, the learner and what acts elsewhere."""
  placement = policies.make_placement(config)
  policy, codec = policies.make_policy(config, world, placement)
  remote = serving.make_remote(config, policy, world)
  if remote is None:
    augment = of_policy.make_augment(
        policy, temperature=config.temperature,
        micro_batch_size=placement.pad(config.policy.acting_batch_size))
  else:
    augment = functools.partial(
        alternatives.augment_steps, actor=remote,
        temperature=config.temperature)
  return Setup(config, world, methods.METHODS[config.method], policy, codec,
               make_learner(config, policy, placement), augment, placement,
               remote)


def make_sampler(
    config: ml_collections.ConfigDict, name: str) -> samplers.Sampler:
  """Builds a sampler; but for SR-Traj's, its numbers are its paper's.

  Args:
    config: of the run.
    name: one of `checks.SAMPLERS`.
  """
  if name != 'sr_traj':
    return _made(getattr(samplers, name))
  if config.smoothing == 'ema':
    rule = _made(functools.partial, success_rate.ema_success_rate,
                 decay=config.ema_decay)
  else:
    rule = _made(functools.partial, success_rate.update_success_rate,
                 group_size=config.group_size)
  return _made(samplers.sr_traj, threshold=config.threshold,
               sharpness=config.sharpness, smoothing=rule)


@functools.cache
def _made(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
  """The same functions for the same options, so that jit knows them again."""
  return make(*args, **options)


def make_learner(
    config: ml_collections.ConfigDict, policy: base.Policy,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> learner_lib.Learner:
  """Builds the optimiser and the learner of a policy, on its devices."""
  options = config.optimizer
  optimizer = optax.chain(
      clipping.clip_by_global_norm(options.max_grad_norm),
      make_optimizer(options))
  return of_policy.make_learner(
      policy, optimizer, temperature=config.temperature, placement=placement,
      **{name: options[name] for name in (
          'num_epochs', 'num_minibatches', 'clip_low', 'clip_high',
          'importance_cap', 'entropy_bonus', 'micro_batch_size')})


def make_optimizer(
    options: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """The optimiser of optax that `optimizer.name` names.

  Raises:
    UserError: there is none, or it does not take the arguments.
  """
  make: Any = getattr(optax, options.name, None)
  arguments = dict(options.arguments)
  try:
    known = inspect.signature(make).parameters
    if 'weight_decay' in known:
      arguments.setdefault('weight_decay', options.weight_decay)
    if options.mu_dtype:
      arguments['mu_dtype'] = options.mu_dtype
    return make(make_schedule(options), **arguments)
  except TypeError as error:
    raise errors.UserError(
        'expected optimizer.name and optimizer.arguments to be of an optimizer '
        f'of optax, got {options.name!r} with {arguments}: {error}') from error


def make_schedule(options: ml_collections.ConfigDict) -> optax.Schedule:
  """The learning rate: warm-up, then constant or a cosine to a tenth."""
  steps_a_round = options.num_epochs * options.num_minibatches
  rate = options.learning_rate
  warmup_steps = options.warmup_rounds * steps_a_round
  first = rate / (warmup_steps + 1)
  if not options.decay_rounds:
    return optax.warmup_constant_schedule(first, rate, warmup_steps)
  return optax.warmup_cosine_decay_schedule(
      first, rate, warmup_steps, options.decay_rounds * steps_a_round,
      end_value=rate / 10)
