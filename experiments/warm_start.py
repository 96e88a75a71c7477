"""Imitation before the first round, as a config asks for it."""

from collections.abc import Callable
import pathlib
from typing import Any

import ml_collections

from experiments import policies
from experiments import worlds as make_worlds
from step_jax.envs import worlds
from step_jax.policies import base
from step_jax.rollout import collect as collect_lib
from step_jax.runs import warm_start as warm_start_lib


def warm_start(
    config: ml_collections.ConfigDict,
    world: worlds.World,
    policy: base.Policy,
    params: Any,
    collect: Callable[..., collect_lib.Collection],
    say: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Any:
  """Returns parameters after imitation, from the cache if they are there.

  Args:
    config: of the run.
    world: its environments.
    policy: the policy.
    params: fresh parameters.
    collect: `(jobs, player)` -> `Collection`; no player is the expert.
    say: tells the person a line.
    should_stop: asked now and then; True raises KeyboardInterrupt.
  """
  return warm_start_lib.warm_start(
      policy, params, collect, _cache_path(config, world),
      num_tasks=len(world.tasks), temperature=config.temperature,
      seed=config.seed, say=say, should_stop=should_stop, **config.warm_start)


def _cache_path(
    config: ml_collections.ConfigDict, world: worlds.World) -> pathlib.Path:
  settings = (
      world.tasks, config.env.name, config.max_steps, config.seed,
      config.temperature, sorted(
          (name, value) for name, value in config.env.arguments.items()
          if name != 'addresses'),
      sorted(config.warm_start.items()), sorted(config.policy.items()))
  return warm_start_lib.cache_path(settings, world.make_env, [
      pathlib.Path(str(module.__file__)) for module in (policies, make_worlds)])
