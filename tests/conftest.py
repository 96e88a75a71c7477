"""Settings of every test: strict ranks, and real browsers where they are."""

import os
import shutil

import jax
import pytest

jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_collection_modifyitems(items):
  """Skips Chromium's tests where it is missing; in CI that is a failure."""
  missing = [
      name for name in ('chromium', 'chromedriver') if not shutil.which(name)]
  if not missing:
    return
  reason = f'{" and ".join(missing)} not found; apt-get install chromium ' \
      'chromium-driver'
  for item in items:
    if item.get_closest_marker('chromium'):
      if os.environ.get('STEP_JAX_NO_SKIP'):
        raise pytest.UsageError(f'STEP_JAX_NO_SKIP is set, but {reason}')
      item.add_marker(pytest.mark.skip(reason=reason))
