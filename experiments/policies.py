"""The policies that configs name, and what their tokens mean."""

import pathlib
import sys
from typing import Any

import ml_collections

from step_jax.envs import worlds
from step_jax.policies import base
from step_jax.policies import element
from step_jax.policies import grid
from step_jax.policies import placement as placement_lib
from step_jax.policies.qwen_vl import placement as qwen_vl_placement
from step_jax.policies.qwen_vl import versions
from step_jax.rollout import pictures
from step_jax.runs import errors


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
    drive: Any = world.make_env
    return make_vision_language(
        config, drive.keywords['folder'], drive.keywords['platform'], placement)
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


def make_vision_language(
    config: ml_collections.ConfigDict, folder: str, platform: Any = 'desktop',
    placement: placement_lib.Placement = placement_lib.NOWHERE,
) -> tuple[base.Policy, base.Codec]:
  """Builds the policy of a config; see configs/common.py for its fields.

  Args:
    config: the run's config.
    folder: of the run's pictures.
    platform: whose calls it writes, 'desktop' or 'mobile'.
    placement: of the model.

  Raises:
    UserError: the checkpoint is not one, picture and prompt do not fit, or a
      package is missing.
  """
  options, settings = config.policy, choose_settings(config)
  try:  # its packages are an extra of their own
    from step_jax.codecs import vision_policy
    lora = make_lora(options.lora)
    if settings.warning:
      print(settings.warning, file=sys.stderr)
    return vision_policy.make_policy(
        pictures.reader(folder), settings,
        source=pathlib.Path(options.checkpoint) if options.checkpoint else None,
        platform=platform, placement=placement, lora=lora,
        frozen_dtype=options.lora.frozen_dtype,
        tiny={name: options[name] for name in (
            'width', 'num_layers', 'vision_layers', 'num_heads', 'rope_theta')},
        **{name: options[name] for name in ('dtype', 'remat', 'words')})
  except ValueError as error:
    raise errors.UserError(str(error)) from error
  except ModuleNotFoundError as error:
    field, extra = ('policy.lora', 'lora') if error.name == 'qwix' else (
        "policy.name 'qwen_vl'", 'vlm')
    raise errors.UserError(
        f'{field} needs the Python package {error.name}, which is not '
        f"installed; try pip install -e '.[{extra}]'") from error


def choose_settings(
    config: ml_collections.ConfigDict) -> versions.Settings:
  """What the model of a vision-language config reads and writes."""
  options = config.policy
  return versions.settings(
      options.version,
      pathlib.Path(options.checkpoint) if options.checkpoint else None,
      {name: options[name] for name in (
          'convention', 'min_pixels', 'max_pixels', 'prompt_length',
          'response_length')},
      prompt=options.prompt,
      screen_size=tuple(options.screen_size))


def make_lora(options: ml_collections.ConfigDict) -> Any:
  """`adapters.Lora` of a config's `policy.lora`; None if there are none."""
  if not options.rank:
    return None
  from step_jax.policies.qwen_vl import adapters  # qwix is an extra
  return adapters.Lora(options.rank, options.alpha, tuple(options.targets))
