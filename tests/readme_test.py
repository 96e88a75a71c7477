"""README's example runs, and what is public is documented."""

import inspect
import pathlib
import re

import numpy as np
import pytest

import step_jax

_README = (pathlib.Path(__file__).parents[1] / 'README.md').read_text()


def test_the_example_runs():
  example, = re.findall(r'```python\n(.*?)```', _README, re.DOTALL)
  names: dict = {}
  exec(example, names)  # our own file
  advantages = np.asarray(names['advantages'])
  assert advantages.shape == (8,) and names['task_ids'].shape == (8,)
  assert np.array_equal(advantages > 0, np.asarray(names['successes']) & (
      np.asarray(names['success_rate'])[names['task_ids']] < 1))


def test_all_is_sorted():
  assert list(step_jax.__all__) == sorted(step_jax.__all__)


@pytest.mark.parametrize('name', step_jax.__all__)
def test_a_public_name_is_documented(name):
  doc = inspect.getdoc(getattr(step_jax, name))
  assert doc and len(doc.splitlines()[0]) < 80


def test_ci_runs_the_command_that_is_printed():
  assert _README.count('<!-- test command -->') == 1
  ci = (pathlib.Path(__file__).parents[1] / '.ci' / 'run').read_text()
  assert '<!-- test command -->' in ci
