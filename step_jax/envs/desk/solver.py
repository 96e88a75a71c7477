"""The scripted solution of Desk's tasks, as a pure function of the state."""

import chex
import jax.numpy as jnp

from step_jax.envs.desk.state import State
from step_jax.envs.desk.state import TABLES
from step_jax.envs.desk.state import TASKS
from step_jax.policies import element

_CLICK, _TYPE, _UP, _DOWN, _BACK, _DONE, _FAIL = range(len(element.VERBS))
_NUM_WIDGETS = TABLES.kind.shape[1]


def solve(state: State) -> chex.Array:
  """The scripted solution's next action, whatever was done before.

  It sees the whole state. It makes and saves one change after the other, says
  DONE when all are made, and FAIL where it is seen that a task cannot be done.

  Returns:
    `[3]` int32 tokens.
  """
  variables, targets = state.variables, state.targets
  group = jnp.asarray(TABLES.group)[variables]
  save_at = jnp.asarray(TABLES.save_at)[variables]
  wanted = (variables > 0) & (state.saved[variables] != targets)
  first = jnp.argmax(wanted)
  # What is saved together is changed before it is saved.
  together = (jnp.arange(len(variables)) == first) | (
      (group > 0) & (save_at == save_at[first]))
  unmade = wanted & together & (state.drafts[variables] != targets)
  makes = jnp.any(unmade)
  chosen = jnp.where(makes, jnp.argmax(unmade), first)
  variable, target = variables[chosen], targets[chosen]

  is_feasible = jnp.asarray(TASKS.tables.is_feasible)[state.task]
  look_at = jnp.asarray(TASKS.tables.look_at)[state.task]
  goal = jnp.where(
      makes, jnp.asarray(TABLES.set_at)[variable], save_at[chosen])
  goal = jnp.where(is_feasible, goal, look_at)

  def here(table):
    return jnp.asarray(table)[state.view]

  edited = here(TABLES.edits) == variable
  makes_it = (
      (here(TABLES.set_variable) == variable) & (here(TABLES.set_word) ==
                                                  target)
      | (here(TABLES.toggles) == variable) | edited)
  place = jnp.argmax(jnp.where(
      makes, makes_it, here(TABLES.saves) == group[chosen]))
  types = makes & edited[place] & (state.focus == variable)
  position = jnp.argmax(state.instruction == target)
  act = jnp.stack([jnp.where(types, _TYPE, _CLICK), place, jnp.where(
      types, position, 0)])

  move = here(TABLES.way)[goal].astype(jnp.int32)
  verb = jnp.where(
      move < _NUM_WIDGETS, _CLICK,
      jnp.array([_UP, _DOWN, _BACK])[move - _NUM_WIDGETS])
  go = jnp.stack([verb, jnp.where(move < _NUM_WIDGETS, move, 0), 0])

  fails = ~is_feasible & ((look_at == 0) | (state.view == look_at))
  done = is_feasible & ~jnp.any(wanted)
  end = jnp.stack([jnp.where(done, _DONE, _FAIL), 0, 0])
  action = jnp.where(state.view == goal, act, go)
  return jnp.where(done | fails, end, action).astype(jnp.int32)
