"""Signals of collapse: golden rounds, and when there is a sentence."""

import dataclasses

import numpy as np
import pytest

from step_jax.algorithm import types
from step_jax.runs import signals
from tests import examples


def _round(task_ids, returns, valid=None):
  returns = np.array(returns, np.float32)
  valid = np.ones(len(returns), bool) if valid is None else np.array(valid)
  return dataclasses.replace(
      examples.trajectory(0, np.array(task_ids), 2, lost=0), returns=returns,
      successes=returns > 0, valid=valid)


def _batch(advantages, mask):
  rows = examples.step_batch(np.random.default_rng(0), np.array(mask))
  groups = dataclasses.replace(rows, advantages=np.array(advantages))
  return types.RoundBatch(
      singles=rows, groups=groups, single_units=np.arange(len(mask)))


_NO_GROUPS = types.RoundBatch(singles=None, groups=None, single_units=None)


@pytest.mark.parametrize('returns, valid, expected', [
    ([1, 0, 1, 1, 0], None, 1 / 2),  # task 1 alike; task 2 ran once
    ([1, 1, 0, 0, 1], None, 1),
    ([1, 0, 1, 0, 0], None, 0),
    ([1, 0, 1, 0, 0], [1, 1, 1, 0, 1], 0),  # task 1 is left with one
    ([1, 0, 1, 1, 0], [1, 0, 1, 1, 1], 1),  # so is task 0
    ([1, 0, 1, 0, 0], [1, 0, 0, 1, 1], 0),  # no task has two
])
def test_tasks_without_spread(returns, valid, expected):
  valid = None if valid is None else np.array(valid, bool)
  row = signals.of_round(_round([0, 0, 1, 1, 2], returns, valid), _NO_GROUPS)
  assert row == {
      'tasks_without_spread': expected, 'groups_without_spread': 0}


def test_groups_without_spread():
  advantages = [[0., 0.], [1., -1.], [0., 0.], [9., 9.]]
  mask = [[1, 1], [1, 1], [1, 1], [0, 0]]  # the last one is no group
  row = signals.of_round(
      _round([0, 0], [1, 0]), _batch(advantages, np.array(mask, bool)))
  assert row['groups_without_spread'] == pytest.approx(2 / 3)
  nothing = signals.of_round(
      _round([0, 0], [1, 0]), _batch(advantages, np.zeros((4, 2), bool)))
  assert nothing['groups_without_spread'] == 0


@pytest.mark.parametrize('alike, samples, entropy, rates, told', [
    (1, 0, 0, [1, .3], True), (1, 9, .04, [1, .3], True),
    (1, 9, .06, [1, .3], False),  # it still tries
    (1, 9, None, [1, .3], False),  # an update that was not finite
    (.9, 0, 0, [1, .3], False), (1, 0, 0, [1, .9], False)])
def test_the_sentence(alike, samples, entropy, rates, told):
  row = {'round': 7, 'tasks_without_spread': alike, 'step_samples': samples,
         'entropy': entropy}
  sentence = signals.sentence(row, np.array(rates))
  assert bool(sentence) == told
  if told:
    assert 'round 7' in sentence and '1 of 2 tasks' in sentence
    assert '\n' not in sentence
    assert ('deterministic' in sentence) == bool(samples)  # else unknown


def test_the_record_is_compared_where_there_was_an_evaluation():
  evaluation = {
      'a': {'success_rate': 1., 'episodes': 4},
      'b': {'success_rate': None, 'episodes': 0},
      'c': {'success_rate': .25, 'episodes': 4}}
  error = signals.record_error(
      np.float32([.5, .5, .75]), ['a', 'b', 'c'], evaluation)
  assert error == .5  # of .5 and .5; b was lost
