"""Desk: a desktop of six applications as two pure functions.

`reset(key, task) -> (state, observation)` and
`step(state, action) -> (state, observation, reward, done)` work on one
desktop; vmap and scan them. All choices are made at the reset: which words
name things, how switches stand, and which items of a list a task is about.

The observation is that of `step_jax.policies.element` without history, with
W = 16 words, E = 12 widgets, and one word of text and of value each. Only the
widgets in the window are in it. `solve(state)` is the scripted solution.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from step_jax.envs import base
from step_jax.envs.desk import apps
from step_jax.envs.desk import solver
from step_jax.envs.desk import tasks as tasks_lib
from step_jax.envs.desk.state import State
from step_jax.envs.desk.state import TABLES
from step_jax.envs.desk.state import TASKS
from step_jax.policies import element

MAX_STEPS = 15  # T

_CLICK, _TYPE, _UP, _DOWN, _BACK, _DONE, _FAIL = range(len(element.VERBS))
_NUM_WIDGETS = TABLES.kind.shape[1]
_NUM_VARIABLES = len(TABLES.group)
_OFF, _ON = (TASKS.words.index(word) for word in apps.ON_OFF)
_WORD_IDS = np.array([base.word_id(word) for word in TASKS.words], np.int32)
_KIND_IDS = _WORD_IDS[TABLES.kind]
# What a widget shows: its draft, or whether its switch stands at a word.
_SWITCHED = np.maximum(TABLES.set_variable, TABLES.toggles)
_SWITCHED_TO = np.where(TABLES.toggles > 0, _ON, TABLES.set_word).astype(
    np.uint8)
_SHOWN = np.maximum(TABLES.shows, _SWITCHED)
# Variables that hold a name, numbered from 0.
_IS_NAME = (TABLES.num_options == 0) & (np.arange(_NUM_VARIABLES) > 0)
_NAME_SLOT = np.where(_IS_NAME, np.cumsum(_IS_NAME) - 1, 0).astype(np.int32)

Observation = dict[str, chex.Array]
solve = solver.solve


def reset(key: chex.PRNGKey, task: chex.Array) -> tuple[State, Observation]:
  """Begins an episode.

  Args:
    key: decides names, switches and items.
    task: `[]` int in [0, 369).

  Returns:
    The state and the first observation.
  """
  bits = jax.random.bits(key, (4,), jnp.uint32)
  shift = bits[0] % apps.NUM_ITEMS
  row = jax.tree.map(lambda x: jnp.asarray(x)[task], TASKS.tables)
  drawn, other = _draw_words(bits[1:])
  variables = _resolve(row.base, row.stride, row.offset, shift)
  targets = jnp.where(
      row.target_word > 0, row.target_word, drawn[row.target_variable])
  is_condition = variables[:, None] == jnp.arange(_NUM_VARIABLES)[None]
  # What is asked for is not so yet.
  spoilt = jnp.any(is_condition & (targets[:, None] == drawn[None]), axis=0)
  words = jnp.where(spoilt, other, drawn)
  readable = _resolve(
      row.text_base, row.text_stride, row.text_offset, shift)
  state = State(
      task=jnp.asarray(task, jnp.int32), view=row.start,
      focus=jnp.asarray(TABLES.focus)[row.start], drafts=words, saved=words,
      instruction=jnp.where(
          row.text_word > 0, row.text_word, words[readable]),
      variables=variables, targets=targets,
      num_steps=jnp.zeros((), jnp.int32), done=jnp.zeros((), bool))
  return state, observe(state)


def step(
    state: State, action: chex.Array, *, max_steps: int = MAX_STEPS
) -> tuple[State, Observation, chex.Array, chex.Array]:
  """Acts; what is illegal does nothing and counts as a step.

  Args:
    state: of an episode; one that has ended stays as it is.
    action: `[3]` int tokens: verb, element and instruction word.
    max_steps: T.

  Returns:
    `(state, observation, reward [] float32, done [] bool)`. The reward is 0
    until the end, then 1 for success.
  """
  verb, target, word = action[0], action[1], action[2]
  effect = _effect(state, verb, target, word)
  drafts, saved = _write(state, effect)
  view, focus = _move(state, verb, effect)
  num_steps = state.num_steps + 1
  fails = verb == _FAIL
  done = (verb == _DONE) | fails | (num_steps >= max_steps)
  is_feasible = jnp.asarray(TASKS.tables.is_feasible)[state.task]
  success = jnp.where(
      fails, ~is_feasible,
      is_feasible & _holds(saved, state.variables, state.targets))
  reward = (success & done & ~state.done).astype(jnp.float32)
  state = state._replace(
      **{name: jnp.where(state.done, getattr(state, name), value)
         for name, value in dict(
             view=view, focus=focus, drafts=drafts, saved=saved,
             num_steps=num_steps, done=done).items()})
  return state, observe(state), reward, state.done


class _Effect(NamedTuple):
  """What an action does; each is 0 for none."""
  changed: chex.Array  # [] the variable whose draft changes
  word: chex.Array  # [] uint8, which it then holds
  saves: chex.Array  # [] uint8 group
  reverts: chex.Array  # [] uint8 group
  click: chex.Array  # [] bool, a widget that is there is clicked
  opens: chex.Array  # [] uint8 view, of a click
  edits: chex.Array  # [] uint8 variable, of a click


def _effect(state: State, verb: chex.Array, target: chex.Array,
            word: chex.Array) -> _Effect:
  place = jnp.clip(target, 0, _NUM_WIDGETS - 1)
  position = jnp.clip(word, 0, tasks_lib.MAX_WORDS - 1)

  def clicked(table):
    return jnp.asarray(table)[state.view, place]

  is_there = (place == target) & (clicked(TABLES.kind) > 0)
  click = (verb == _CLICK) & is_there
  typed = state.instruction[position]
  edits = clicked(TABLES.edits)
  types = ((verb == _TYPE) & is_there & (edits > 0) & (edits == state.focus)
           & (position == word) & (typed > 0))
  switched, new_word = clicked(_SWITCHED), clicked(_SWITCHED_TO)
  is_on = state.drafts[switched] == _ON
  new_word = jnp.where(
      (clicked(TABLES.toggles) > 0) & is_on, jnp.uint8(_OFF), new_word)
  return _Effect(
      changed=jnp.where(click, switched, jnp.where(types, state.focus, 0)),
      word=jnp.where(types, typed, new_word),
      saves=jnp.where(click, clicked(TABLES.saves), 0),
      reverts=jnp.where(
          click, clicked(TABLES.reverts), jnp.where(
              verb == _BACK, jnp.asarray(TABLES.back_reverts)[state.view], 0)),
      click=click, opens=clicked(TABLES.opens), edits=edits)


def _write(state: State, effect: _Effect) -> tuple[chex.Array, chex.Array]:
  """The drafts `[M]` and what is saved `[M]` after an action."""
  group, index = jnp.asarray(TABLES.group), jnp.arange(
      _NUM_VARIABLES, dtype=jnp.uint8)
  drafts = jnp.where((index == effect.changed) & (effect.changed > 0),
                     effect.word, state.drafts)
  is_saved = (group == 0) | (group == effect.saves)
  saved = jnp.where(is_saved, drafts, state.saved)
  drafts = jnp.where(
      (group == effect.reverts) & (effect.reverts > 0), saved, drafts)
  return drafts, saved


def _move(state: State, verb: chex.Array, effect: _Effect
          ) -> tuple[chex.Array, chex.Array]:
  """The view and the focus after an action."""
  view = jnp.where(effect.click, effect.opens, state.view)
  for moving, table in ((_UP, TABLES.up), (_DOWN, TABLES.down),
                        (_BACK, TABLES.back)):
    view = jnp.where(verb == moving, jnp.asarray(table)[state.view], view)
  focus = jnp.where(
      view != state.view, jnp.asarray(TABLES.focus)[view],
      jnp.where(effect.click & (effect.edits > 0), effect.edits, state.focus))
  return view, focus


def observe(state: State) -> Observation:
  """What is on the screen; `step_jax.envs.base` describes the arrays."""
  def seen(table):
    return jnp.asarray(table)[state.view]

  shown, switched = seen(_SHOWN), seen(_SWITCHED)
  drafts = state.drafts[shown]
  text_variable, edits = seen(TABLES.text_variable), seen(TABLES.edits)
  text = jnp.where(
      text_variable > 0, state.saved[text_variable], seen(TABLES.text_word))
  kind = seen(_KIND_IDS)
  focused = (edits > 0) & (edits == state.focus)
  flags = jnp.stack([
      focused, drafts != state.saved[shown],
      (switched > 0) & (drafts == seen(_SWITCHED_TO)), edits > 0], axis=-1)
  can_type = jnp.any(focused)
  word_ids = jnp.asarray(_WORD_IDS)
  nothing = jnp.zeros((), bool)
  return {
      'instruction': word_ids[state.instruction],
      'element_type': kind,
      'element_text': word_ids[text][:, None],
      'element_value': word_ids[
          jnp.where(seen(TABLES.shows) > 0, drafts, 0)][:, None],
      'element_flags': flags,
      'element_box': seen(TABLES.box),
      'verb_mask': jnp.stack([
          ~nothing, can_type, seen(TABLES.up) != state.view,
          seen(TABLES.down) != state.view, seen(TABLES.back) != state.view,
          ~nothing, ~nothing]),
      'target_mask': jnp.stack(
          [kind > 0, focused] + [jnp.zeros_like(focused)] * 5),
  }


def example() -> Any:
  """Zeros of the observation's shapes and types, as numpy arrays."""
  shapes = jax.eval_shape(
      lambda: reset(jax.random.key(0), jnp.zeros((), jnp.int32))[1])
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def _resolve(base_, stride, offset, shift):
  """The variables that a task's references mean in this episode."""
  item = (offset + shift.astype(jnp.uint8)) % apps.NUM_ITEMS
  return base_ + stride * item


def _draw_words(bits: chex.Array) -> tuple[chex.Array, chex.Array]:
  """`[M]` initial words, and others for variables with several options.

  Names lie a random stride apart in the list, whose length is a prime, so no
  two are equal.
  """
  num_names = len(apps.NAMES)
  stride = (bits[0] % (num_names - 1) + 1).astype(jnp.int32)
  offset = (bits[1] % num_names).astype(jnp.int32)
  names = 1 + (offset + stride * jnp.asarray(_NAME_SLOT)) % num_names
  # A multiplicative hash of (bits, variable), a few of whose bits are used.
  hashed = (bits[2] ^ (jnp.arange(_NUM_VARIABLES, dtype=jnp.uint32)
                       * np.uint32(0x9E3779B1))) * np.uint32(0x85EBCA6B)
  hashed = (hashed ^ (hashed >> 15)) * np.uint32(0xC2B2AE35)
  count = jnp.asarray(TABLES.num_options)
  choice = (((hashed >> 16) * count) >> 16).astype(jnp.uint8)
  choice = jnp.where(jnp.asarray(TABLES.guarded), 0, choice)
  following = jnp.where(choice + 1 < count, choice + 1, 0)

  def option(chosen):
    words = jnp.zeros(_NUM_VARIABLES, jnp.uint8)
    for index in range(TABLES.options.shape[1]):
      words = jnp.where(
          chosen == index, jnp.asarray(TABLES.options[:, index]), words)
    return jnp.where(
        jnp.asarray(_IS_NAME), names.astype(jnp.uint8), words)

  return option(choice), option(following)


def _holds(saved: chex.Array, variables: chex.Array,
           targets: chex.Array) -> chex.Array:
  """Whether all conditions hold and nothing guarded was changed besides."""
  is_condition = jnp.any(
      variables[:, None] == jnp.arange(_NUM_VARIABLES)[None], axis=0)
  harmless = ~jnp.asarray(TABLES.guarded) | is_condition | (
      saved == jnp.asarray(TABLES.options[:, 0]))
  return jnp.all(saved[variables] == targets) & jnp.all(harmless)
