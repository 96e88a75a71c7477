"""The records: frozen, keyword-only, trees of arrays."""

import collections.abc
import dataclasses

import chex
import jax
import numpy as np
import pytest

import step_jax
from step_jax.algorithm import types

FIELDS = {
    'Trajectory': (
        'task_ids', 'observations', 'actions', 'log_probs', 'token_mask',
        'step_mask', 'returns', 'successes', 'valid'),
    'StepBatch': (
        'observations', 'actions', 'log_probs', 'token_mask', 'advantages',
        'mask'),
    'LearnerState': ('params', 'opt_state', 'step'),
}
RECORDS = pytest.mark.parametrize('name', FIELDS)


def _record(name, value=0.0):
  """A record of scalars, each field another number, one a nested tree."""
  arrays = {
      field: np.float32(i + value) for i, field in enumerate(FIELDS[name])}
  first = FIELDS[name][0]
  arrays[first] = {'nested': arrays[first]}
  return getattr(types, name)(**arrays)


@RECORDS
def test_fields(name):
  names = [f.name for f in dataclasses.fields(getattr(types, name))]
  assert sorted(names) == sorted(FIELDS[name])


@RECORDS
def test_frozen(name):
  record = _record(name)
  with pytest.raises(dataclasses.FrozenInstanceError):
    setattr(record, FIELDS[name][0], 1)


@RECORDS
def test_keyword_only_and_complete(name):
  with pytest.raises((TypeError, ValueError)):
    getattr(types, name)(*range(len(FIELDS[name])))
  with pytest.raises(TypeError):
    getattr(types, name)(**{FIELDS[name][0]: 0})


@RECORDS
def test_not_a_mapping(name):
  """numpy's assert would pass silently on a record that is one."""
  assert not isinstance(_record(name), collections.abc.Mapping)


@RECORDS
def test_is_a_tree_of_its_fields(name):
  record = _record(name)
  assert len(jax.tree.leaves(record)) == len(FIELDS[name])
  doubled = jax.tree.map(lambda x: 2 * x, record)
  assert isinstance(doubled, getattr(types, name))
  for field in FIELDS[name][1:]:
    assert getattr(doubled, field) == 2 * getattr(record, field)


@RECORDS
def test_differences_are_seen(name):
  chex.assert_trees_all_equal(_record(name), _record(name))
  with pytest.raises(AssertionError):
    chex.assert_trees_all_equal(_record(name), _record(name, value=1.0))


@RECORDS
def test_passes_through_jit_and_vmap_with_one_trace(name):
  chex.clear_trace_counter()
  halve = jax.jit(chex.assert_max_traces(
      lambda record: jax.tree.map(lambda x: x / 2, record), n=1))
  for value in (0.0, 2.0):
    record = _record(name, value)
    chex.assert_trees_all_close(
        halve(record), jax.tree.map(lambda x: x / 2, record))
  stacked = jax.tree.map(lambda *x: np.stack(x), record, _record(name))
  mapped = jax.vmap(lambda r: jax.tree.map(lambda x: x / 2, r))(stacked)
  assert isinstance(mapped, getattr(types, name))
  chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], mapped),
                              halve(record))


@RECORDS
def test_replace_makes_another_record(name):
  record = _record(name)
  field = FIELDS[name][-1]
  other = dataclasses.replace(record, **{field: np.float32(9)})
  assert getattr(other, field) == 9 and getattr(record, field) != 9


def test_trajectory_and_step_batch_are_public():
  assert step_jax.Trajectory is types.Trajectory
  assert step_jax.StepBatch is types.StepBatch


@RECORDS
def test_every_field_has_its_shape_in_a_comment(name):
  """One line of the source for each field, with a comment."""
  with open(types.__file__, encoding='utf-8') as source:
    lines = [line.strip() for line in source]
  start = next(
      i for i, line in enumerate(lines) if line.startswith(f'class {name}'))
  for field in FIELDS[name]:
    line = next(x for x in lines[start:] if x.startswith(f'{field}:'))
    assert '#' in line, line
