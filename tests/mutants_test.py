"""Tests that the list of mutants fits the code; `mutants` itself runs them."""

import pytest

from tests import mutant_list
from tests import mutants


@pytest.mark.parametrize(
    'mutant', mutant_list.MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_mutant_can_be_put_in(mutant):
  assert not mutants.problems(mutant, mutants.ROOT)


def test_no_two_mutants_are_the_same():
  assert len({(mutant.file, mutant.old, mutant.new)
              for mutant in mutant_list.MUTANTS}) == len(mutant_list.MUTANTS)
