"""The policies that configs name, and what their tokens mean."""

from collections.abc import Callable
import functools
from typing import Any

import ml_collections

from experiments import worlds
from step_jax.learning import loader
from step_jax.policies import base
from step_jax.policies import element
from step_jax.policies import grid
from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import placement as qwen_vl_placement
from step_jax.runs import errors

_LOADED = 2  # batches that wait while one is used


def make_loader(policy: base.Policy) -> Callable[..., Any]:
  """What `streaming` takes to load the rows that a policy reads."""
  assert policy.load is not None
  return functools.partial(loader.prefetch, policy.load, depth=_LOADED)


def make_placement(
    config: ml_collections.ConfigDict) -> placement_lib.Placement:
  """Where the config's policy and its rows lie.

  Raises:
    UserError: the devices, or the rows of imitation, do not fit `config.mesh`.
  """
  try:
    mesh = placement_lib.make_mesh(config.mesh)
  except ValueError as error:
    raise errors.UserError(f'config.mesh: {error}') from error
  is_large = config.policy.name == 'qwen_vl'
  placement = placement_lib.Placement(
      mesh, qwen_vl_placement.RULES if is_large else ())
  rows = config.warm_start.batch_size
  if config.warm_start.demonstrations and placement.pad(rows) != rows:
    raise errors.UserError(
        'expected warm_start.batch_size to be a multiple of '
        f"{placement.num_parts}, the size of the mesh's axis 'data', got "
        f'{rows}')
  return placement


def make_policy(
    config: ml_collections.ConfigDict, world: worlds.World,
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> tuple[base.Policy, base.Codec]:
  """Builds the policy of a config for what the world yields.

  Args:
    config: the run's config; `policy.name` is 'element', 'grid' or 'qwen_vl'.
      The cells of 'grid' are those of `env.arguments.grid`, where it is given.
    world: its environments.
    placement: of a large model.

  Raises:
    UserError: the world yields other observations than the policy reads, a
      package is missing, or a checkpoint is none.
  """
  if config.policy.name == 'qwen_vl':
    return _make_vision_language(config, world, placement)
  module, field = {
      'element': (element, 'element_text'), 'grid': (grid, 'picture'),
  }[config.policy.name]
  if field not in world.example:
    raise errors.UserError(
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
    raise errors.UserError(str(error)) from error


def _make_vision_language(
    config: ml_collections.ConfigDict, world: worlds.World,
    placement: placement_lib.Placement,
) -> tuple[base.Policy, base.Codec]:
  drive: Any = world.make_env
  try:  # its packages are an extra of their own
    from experiments import vision_language
    return vision_language.make_policy(
        config, drive.keywords['folder'], drive.keywords['platform'],
        placement)
  except ModuleNotFoundError as error:
    field, extra = ('policy.lora', 'lora') if error.name == 'qwix' else (
        "policy.name 'qwen_vl'", 'vlm')
    raise errors.UserError(
        f'{field} needs the Python package {error.name}, which is not '
        f"installed; try pip install -e '.[{extra}]'") from error
