"""Settings of every test: strict ranks; browsers and desktops if they are.

What is compiled is compiled once, for all workers of pytest-xdist and for the
runs that tests start, and kept for the next time.
"""

import gc
import os
import pathlib
import shutil

_ROOT = pathlib.Path(__file__).parents[1]
os.environ |= {
    'JAX_COMPILATION_CACHE_DIR': str(_ROOT / '.pytest_cache' / 'compilations'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.05'}

import jax  # noqa: E402  (it reads these)
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture
def clean_up():
  """What a test leaves behind fails in it, or is ignored there, not later."""
  yield
  gc.collect()


# What the tests of a marker need.
_PROGRAMS = {
    'chromium': ('chromium', 'chromedriver'),
    'desktop': ('Xvfb', 'openbox', 'dbus-daemon', 'wmctrl', 'xclip', 'mousepad',
                'obconf', 'pcmanfm', 'soffice'),
}


def pytest_collection_modifyitems(items):
  """Skips tests whose programs are missing; in CI that is a failure."""
  for marker, programs in _PROGRAMS.items():
    missing = [name for name in programs if not shutil.which(name)]
    marked = [item for item in items if item.get_closest_marker(marker)]
    if not missing or not marked:
      continue
    reason = f'{", ".join(missing)} not found; see the test command in README'
    if os.environ.get('STEP_JAX_NO_SKIP'):
      raise pytest.UsageError(f'STEP_JAX_NO_SKIP is set, but {reason}')
    for item in marked:
      item.add_marker(pytest.mark.skip(reason=reason))
