"""Inference servers that a config names: what they load, and the actor."""

from collections.abc import Iterator
import contextlib
import functools
import pathlib
from typing import Any

import jax
import ml_collections

from experiments import policies
from step_jax.envs import worlds
from step_jax.policies import base
from step_jax.rollout import processes
from step_jax.rollout.actors import base as actors
from step_jax.runs import errors
from step_jax.runs import files


def make_remote(
    config: ml_collections.ConfigDict, policy: base.Policy,
    world: worlds.World) -> Any:
  """The actor of a config's inference servers; None if there are none.

  Args:
    config: of the run, checked.
    policy: has `served`.
    world: of the run; parameters are written beside its pictures, unless
      `actor.folder` is another place.

  Raises:
    UserError: a package is missing, or the run has several hosts.
  """
  options = config.actor
  if options.name != 'local' and jax.process_count() > 1:
    raise errors.UserError(
        "expected actor.name to be 'local' on several hosts, which draw "
        f'together, got {options.name!r}')
  if options.name in ('local', 'continuous'):
    return None
  try:
    from step_jax.rollout.actors import server  # httpx is an extra
    from step_jax.rollout.actors import sglang
    from step_jax.rollout.actors import vllm
  except ModuleNotFoundError as error:
    raise errors.UserError(
        f'actor.name {options.name!r} needs the Python package {error.name}, '
        "which is not installed; try pip install -e '.[server]'") from error
  drive: Any = world.make_env
  beside = pathlib.Path(drive.keywords['folder']).with_name('served')
  dialects = {'sglang': sglang.DIALECT, 'vllm': vllm.DIALECT}
  return server.Remote(
      policy, dialects[options.name], tuple(options.addresses),
      save=functools.partial(
          save, config.policy, policy, dtype=options.dtype),
      folder=pathlib.Path(options.folder or beside).absolute(),
      temperature=config.temperature, bound=options.bound,
      timeout=options.timeout)


@contextlib.contextmanager
def telling() -> Iterator[None]:
  """Ends a run whose actor or environments cannot go on.

  Raises:
    RunError: in the place of an ActorError or a KeeperError.
  """
  try:
    yield
  except (actors.ActorError, processes.KeeperError) as error:
    raise errors.RunError(str(error)) from error


def save(
    options: ml_collections.ConfigDict, policy: base.Policy,
    output: pathlib.Path, params: Any, *, dtype: str) -> None:
  """Writes a folder that transformers and inference servers load.

  Args:
    options: `config.policy`, with a checkpoint.
    policy: of the config.
    output: made, if need be.
    params: that learn; adapters among them are merged.
    dtype: of the parameters in the files.

  Raises:
    WriteError: it cannot be written.
  """
  from step_jax.policies.qwen_vl import saving  # its packages are an extra
  with files.writing(output):
    saving.save_policy(
        output, policy, params, source=pathlib.Path(options.checkpoint),
        lora=policies.make_lora(options.lora), dtype=dtype)
