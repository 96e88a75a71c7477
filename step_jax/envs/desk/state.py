"""Desk's tables, and the state of one desktop in the middle of a task."""

from typing import NamedTuple

import chex

from step_jax.envs.desk import apps
from step_jax.envs.desk import tasks as tasks_lib

TABLES = apps.compile_apps()
TASKS = tasks_lib.compile_tasks(TABLES)


class State(NamedTuple):
  """One desktop in the middle of a task; words and variables by number."""
  task: chex.Array  # [] int32
  view: chex.Array  # [] uint8
  focus: chex.Array  # [] uint8, the variable that takes the typed word
  drafts: chex.Array  # [M] uint8, words
  saved: chex.Array  # [M] uint8, words
  instruction: chex.Array  # [W] uint8, words
  variables: chex.Array  # [C] uint8, of the conditions
  targets: chex.Array  # [C] uint8, words they have to hold
  num_steps: chex.Array  # [] int32
  done: chex.Array  # [] bool
