"""Opt-in: the paper's experiment on two bare desktops, see paper_examples."""

import importlib.util
import os

import pytest

from tests import paper_examples

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not {'STEP_JAX_OSWORLD', 'STEP_JAX_DESKTOP_ENV_PYTHON'} <= set(os.environ),
    reason='opt-in, see tests/paper_examples.py')]


@pytest.mark.parametrize('way', ['plain', pytest.param(
    'far', marks=pytest.mark.skipif(
        not importlib.util.find_spec('ray'), reason='no Ray'))])
def test_it_plays_and_learns_and_leaves_nothing(way):
  paper_examples.main(way)
