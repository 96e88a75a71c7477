"""Settings of every test: strict ranks; browsers and desktops if they are.

What is compiled is compiled once, for all workers of pytest-xdist and for the
runs that tests start, and kept for the next time; and quickly, as most of it
runs but for a moment. `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` compiles as a
user's run does; CI does so with the algorithm and the learner, see .ci/run.
"""

import gc
import os
import pathlib
import shutil
import sys

# A hundred processes import the same files, which are to be compiled once.
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
sys.dont_write_bytecode = False
_ROOT = pathlib.Path(__file__).parents[1]
os.environ |= {
    'JAX_COMPILATION_CACHE_DIR': str(_ROOT / '.pytest_cache' / 'compilations'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.05'}
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
# Hundreds of checkpoints are synced and deleted: a quarter of a test of runs.
_MEMORY = pathlib.Path('/dev/shm')
if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > 4e9:
  os.environ.setdefault('PYTEST_DEBUG_TEMPROOT', str(_MEMORY))
gc.set_threshold(100_000, 20)  # traces are millions of objects that stay

import hypothesis  # noqa: E402, F401  (looks for what `settled` hides)
import jax  # noqa: E402  (it reads these)
import pytest  # noqa: E402

# The older emitters compile in 0.6 of the time, and in one part instead of
# several in 0.8 of that; jax 0.11 has the former no more, and dies of a flag
# that it does not know.
if (os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] == '1'
    and jax.__version_info__ < (0, 11)):
  os.environ['XLA_FLAGS'] = ' '.join([
      os.environ.get('XLA_FLAGS', ''), '--xla_cpu_use_fusion_emitters=false',
      '--xla_cpu_parallel_codegen_split_count=1'])

jax.config.update('jax_numpy_rank_promotion', 'raise')


@pytest.fixture(scope='module', autouse=True)
def settled():
  """What earlier files have compiled is let go; the collector forgets the rest.

  A worker of pytest-xdist holds half of the memory so, in the same time.
  """
  jax.clear_caches()
  gc.collect()
  gc.freeze()


@pytest.fixture
def clean_up():
  """What a test leaves behind fails in it, or is ignored there, not later."""
  gc.freeze()
  yield
  gc.collect()


@pytest.fixture
def own_leases(monkeypatch, tmp_path):
  """What failed in an earlier test says nothing: ports come again."""
  monkeypatch.setattr('step_jax.envs.leases.folder', lambda name: tmp_path)


# What the tests of a marker need.
_PROGRAMS = {
    'chromium': ('chromium', 'chromedriver'),
    'desktop': ('Xvfb', 'openbox', 'dbus-daemon', 'wmctrl', 'xclip', 'mousepad',
                'obconf', 'pcmanfm', 'soffice'),
}


# Floors 0 to 2, codecs and a round on Desk: `pytest -m quick`.
_QUICK = set("""
    actions advantages computer_13 credit element imitation json_action learner
    losses masking readme resampling samplers steps success_rate types ui_tars
""".split())
_NOT_QUICK = {
    'test_shared_words_generalise_to_words_never_seen',
    'test_the_same_key_gives_the_same_parameters',
    'test_the_site_is_built_without_a_warning',
    'test_a_mesh_of_four_devices_equals_one'}
# The longest first, so that no worker ends with one of them alone.
_LONGEST = """
    run train vision_language_training osworld_docs desktop_server workers
    actors osworld_desktop notebooks vlm_benchmarks androidworld desktop_pool
    desktop_tasks samplers adapters static placement miniwob desk_training hosts
""".split()


def _order(item):
  name = item.path.stem.removesuffix('_test')
  return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)


def pytest_collection_modifyitems(items):
  """Marks the quick tests, and sorts whole files by how long they take.

  Skips tests whose programs are missing; in CI that is a failure.
  """
  items.sort(key=_order)
  for item in items:
    if (item.path.stem.removesuffix('_test') in _QUICK
        and item.name not in _NOT_QUICK):
      item.add_marker('quick')
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
