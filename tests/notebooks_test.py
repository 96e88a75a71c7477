"""The notebooks run from top to bottom, and show what came of it."""
import importlib
import pathlib
import re

import nbclient
import nbformat
import pytest

_PATHS = sorted(
    (pathlib.Path(__file__).parents[1] / 'notebooks').glob('*.ipynb'))
_each = pytest.mark.parametrize('path', _PATHS, ids=lambda path: path.stem)


def test_there_are_notebooks():
  assert [path.stem for path in _PATHS] == [
      'reuse_advantages', 'step_in_one_page']


def _pictures(notebook):
  return [output for cell in notebook.cells
          for output in cell.get('outputs', [])
          if 'image/png' in output.get('data', {})]


_NUM_PICTURES = {'reuse_advantages': 1, 'step_in_one_page': 3}


@_each
def test_a_notebook_is_committed_with_small_outputs(path):
  notebook = nbformat.read(path, as_version=4)
  assert len(_pictures(notebook)) == _NUM_PICTURES[path.stem]
  assert path.stat().st_size < 200_000
  for cell in notebook.cells:
    assert 'stderr' not in [one.get('name') for one in cell.get('outputs', [])]
    assert not re.search('/(home|root|tmp|work)/', str(cell.get('outputs')))
    assert len(cell.source.splitlines()) < 60


@_each
def test_a_notebook_knows_where_the_repository_is(path, monkeypatch):
  """Of setup.cfg alone; `python notebooks/address.py` writes it."""
  monkeypatch.syspath_prepend(str(path.parent))
  address = importlib.import_module('address')
  text = path.read_text()
  assert address.written(text) == text
  badge = f'/github/{address.read()}/blob/main/notebooks/{path.name})'
  assert badge in text and f"https://github.com/{address.read()}'" in text
  monkeypatch.setattr(address, 'read', lambda: 'somebody/else')
  assert address.written(text).count('somebody/else') == 2


@_each
def test_a_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  notebook = nbformat.read(path, as_version=4)
  for cell in notebook.cells:  # two small rounds show what all do
    cell.source = cell.source.replace(
        'train.train(config', 'config.trackers = ()\n'
        'config.num_rounds, config.eval_every = 2, 1\n'
        'config.num_base_tasks, config.warm_start.num_steps = 4, 20\n'
        'train.train(config').replace('num_rounds=60', 'num_rounds=3')
  nbclient.NotebookClient(
      notebook, timeout=600,
      resources={'metadata': {'path': str(path.parent)}}).execute()
  assert len(_pictures(notebook)) == _NUM_PICTURES[path.stem]
