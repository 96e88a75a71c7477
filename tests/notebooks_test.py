"""The notebooks run from top to bottom and are committed without outputs."""
import pathlib

import nbclient
import nbformat
import pytest

_PATHS = sorted(
    (pathlib.Path(__file__).parents[1] / 'notebooks').glob('*.ipynb'))
_each = pytest.mark.parametrize('path', _PATHS, ids=lambda path: path.stem)


def test_there_are_notebooks():
  assert [path.stem for path in _PATHS] == [
      'reuse_advantages', 'step_in_one_page']


@_each
def test_a_notebook_has_no_outputs(path):
  for cell in nbformat.read(path, as_version=4).cells:
    assert not cell.get('outputs') and cell.get('execution_count') is None


@_each
def test_a_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  notebook = nbformat.read(path, as_version=4)
  for cell in notebook.cells:  # three rounds show what all do
    cell.source = cell.source.replace(
        'train.train(config', 'config.num_rounds, config.eval_every = 3, 2\n'
        'train.train(config')
  nbclient.NotebookClient(
      notebook, timeout=600,
      resources={'metadata': {'path': str(path.parent)}}).execute()
  pictures = [
      output for cell in notebook.cells for output in cell.get('outputs', [])
      if 'image/png' in output.get('data', {})]
  assert len(pictures) == {'reuse_advantages': 1, 'step_in_one_page': 3}[
      path.stem]
