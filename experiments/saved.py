"""The checkpoints of a run, as its state: also of several hosts, as one."""

import contextlib
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from experiments import rounds
from experiments import setups
from step_jax.runs import checkpoint
from step_jax.runs import errors
from step_jax.runs import hosts


def newest_params(setup: setups.Setup, workdir: pathlib.Path) -> Any:
  """The parameters of a run's newest checkpoint; nothing is moved.

  Raises:
    UserError: there is none yet, or it is of another structure.
  """
  with contextlib.closing(checkpoint.Checkpoints(
      workdir / 'checkpoints', warn, read_only=True)) as checkpoints:
    restored = restore(setup, checkpoints)
  if restored is None:
    raise errors.UserError(f'the run in {workdir} has no checkpoint yet')
  return restored[1].learner.params


def restore(
    setup: setups.Setup, checkpoints: checkpoint.Checkpoints
) -> tuple[int, rounds.RunState] | None:
  """The newest checkpoint; nothing but its shapes is made besides.

  Raises:
    UserError: it is of another structure, or there are some, none of which
      can be read.
  """
  is_alone = jax.process_count() == 1
  if is_alone and not checkpoints.rounds:
    return checkpoints.restore(None)
  template = setup.placement.structs(jax.eval_shape(
      lambda key: rounds.start(setup, setup.policy.init(key)),
      jax.random.key(setup.config.seed)))
  try:
    if is_alone:
      return checkpoints.restore(template)
    host = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), template)
    found = hosts.is_leader() and checkpoints.restore(host)
    done, state = hosts.from_leader(found or (np.array(-1), host))
    return None if done < 0 else (int(done), setup.placement.place(state))
  except checkpoint.CheckpointError as error:
    raise errors.UserError(str(error)) from error


def save(
    checkpoints: checkpoint.Checkpoints, num_rounds: int,
    state: rounds.RunState) -> None:
  """Writes a checkpoint, on the first host."""
  if hosts.from_leader(np.array(num_rounds in checkpoints.rounds)):
    return  # before anything is gathered
  state = hosts.whole(state)
  if hosts.is_leader():
    checkpoints.save(num_rounds, state)


def warn(sentence: str) -> None:
  """Tells a person what is not as it should be."""
  print(sentence, file=sys.stderr)
