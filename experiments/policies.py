"""The policies that configs name, and what their tokens mean."""

import ml_collections

from experiments import checks
from experiments import worlds
from step_jax.policies import base
from step_jax.policies import element
from step_jax.policies import grid


def make_policy(
    config: ml_collections.ConfigDict, world: worlds.World
) -> tuple[base.Policy, base.Codec]:
  """Builds the policy of a config for what the world yields.

  Args:
    config: the run's config; `policy.name` is 'element' or 'grid'. The cells
      of 'grid' are those of `env.arguments.grid`, where that is given.
    world: its environments.

  Raises:
    UserError: the world yields other observations than the policy reads.
  """
  module, field = {
      'element': (element, 'element_text'), 'grid': (grid, 'picture'),
  }[config.policy.name]
  if field not in world.example:
    raise checks.UserError(
        f'expected policy.name to be of a policy that reads '
        f'{", ".join(world.example)}, as {config.env.name} gives them, got '
        f'{config.policy.name!r}, which reads {field}')
  options = {name: config.policy[name] for name in (
      'width', 'num_layers', 'num_heads', 'vocabulary')}
  if module is grid:
    codec = grid.make_codec()
    options['grid'] = tuple(config.env.arguments.get('grid', grid.GRID))
  else:
    codec = element.make_codec(world.example[field].shape[-1])
  example = world.example | {'history': codec.empty_history}
  try:
    return module.make_policy(example, **options), codec
  except ValueError as error:
    raise checks.UserError(str(error)) from error
