"""Tests of what a person sees: which rounds get a line."""

import pytest

from step_jax.runs import progress as progress_lib


def _row(number, **more):
  return {
      'round': number, 'success_rate': .5, 'tasks_above_60': 2,
      'replaced_fraction': .25, 'step_samples': 30, 'augmented_steps': 4,
      'entropy': .625, 'tasks_without_spread': .5, 'environment_failures': 1,
      'rollout_seconds': 2., 'update_seconds': 3., **more}


def _lines(capsys, num_rounds, evaluated=()):
  with progress_lib.RunProgress(num_rounds) as progress:
    for number in range(num_rounds):
      more = {'eval_success_rate': .75} if number in evaluated else {}
      progress.round_done(_row(number, **more), 8)
  return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize('num_rounds, shown', [
    (3, [0, 1, 2]), (199, range(199)), (300, range(2, 300, 3))])
def test_about_a_hundred_rounds_get_a_line(capsys, num_rounds, shown):
  lines = _lines(capsys, num_rounds)
  assert [int(line.split()[1]) for line in lines] == list(shown)


def test_a_round_that_is_evaluated_gets_a_line(capsys):
  lines = _lines(capsys, 300, evaluated=(3, 5))
  assert [int(line.split()[1]) for line in lines[:4]] == [2, 3, 5, 8]
  assert ['evaluation 75 %' in line for line in lines[:4]] == [
      False, True, True, False]


def test_what_a_line_says(capsys):
  line, = _lines(capsys, 1)
  assert line.startswith(
      'round   0  success  50 %  tasks > 60 %: 2/8  replaced 25 %  '
      'step samples 30 (4 augmented)  entropy 0.62  alike 50 %  failures 1  '
      'rollout 2 s  update 3 s  left ')


def test_an_update_that_is_not_finite_has_no_entropy(capsys):
  with progress_lib.RunProgress(1) as progress:
    progress.round_done(_row(0, entropy=None), 8)
  assert 'entropy ?  alike' in capsys.readouterr().out
