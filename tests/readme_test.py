"""README's example runs, and what is public is documented."""

import ast
import inspect
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import step_jax

_ROOT = pathlib.Path(__file__).parents[1]
_README = (_ROOT / 'README.md').read_text()
_LIBRARY = (_ROOT / 'docs' / 'library.md').read_text()


def _run_example(name):
  """Runs the example that defines a name; returns its names."""
  example, = [code for code in re.findall(
      r'```python\n(.*?)```', _README + _LIBRARY, re.DOTALL)
      if f'{name} = ' in code]
  names: dict = {}
  exec(example, names)  # our own file
  return names


def test_the_example_runs():
  names = _run_example('advantages')
  advantages = np.asarray(names['advantages'])
  assert advantages.shape == (8,) and names['task_ids'].shape == (8,)
  assert np.array_equal(advantages > 0, np.asarray(names['successes']) & (
      np.asarray(names['success_rate'])[names['task_ids']] < 1))


def test_the_round_on_desk_learns_from_its_successes():
  names = _run_example('simulate')
  assert names['trajectory'].valid.all()
  assert names['trajectory'].step_mask.shape == (64, 15)
  assert names['state'].step > 0 and names['success_rate'].max() > 0


def test_a_world_is_made_from_a_name():
  names = _run_example('world')
  assert tuple(names['env'].tasks) == names['world'].tasks
  assert names['world'].simulator is not None


def test_the_package_needs_nothing_of_the_run_loop():
  unwanted = ('gymnasium', 'matplotlib', 'ml_collections', 'orbax', 'rich')
  code = ('import sys, step_jax; '
          f'print(*[name for name in {unwanted} if name in sys.modules])')
  found = subprocess.run([sys.executable, '-c', code], check=True,
                         capture_output=True, text=True)
  assert found.stdout.split() == []


def test_all_is_sorted():
  assert list(step_jax.__all__) == sorted(step_jax.__all__)


@pytest.mark.parametrize('name', step_jax.__all__)
def test_a_public_name_is_documented(name):
  doc = inspect.getdoc(getattr(step_jax, name))
  assert doc and len(doc.splitlines()[0]) < 80


def test_ci_runs_the_command_that_is_printed():
  assert _README.count('<!-- test command -->') == 1
  ci = (_ROOT / '.ci' / 'run').read_text()
  assert '<!-- test command -->' in ci


def test_every_link_of_a_page_is_there():
  pages = [_ROOT / 'README.md', *(_ROOT / 'docs').rglob('*.md')]
  for page in pages:
    for link in re.findall(r'\]\(([^)#]+)', page.read_text()):
      assert '://' in link or (page.parent / link).exists(), (page.name, link)


def _texts(folder):
  """All strings of the code, with {} for values."""
  for path in (_ROOT / folder).rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        yield ''.join(part.value if isinstance(part, ast.Constant) else '{}'
                      for part in node.values)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def test_troubleshooting_quotes_what_the_program_says():
  page = (_ROOT / 'docs' / 'troubleshooting.md').read_text()
  quoted = re.findall(r'^\| `(.+?)` \| ', page, re.MULTILINE)
  tables = page.count('| it says | do |')
  assert len(quoted) > 40 and page.count('\n| ') == len(quoted) + tables
  said = [*_texts('experiments'), *_texts('step_jax')]
  for sentence in quoted:
    assert any(sentence in text for text in said), sentence


def test_the_tests_that_a_page_names_are_there():
  page = (_ROOT / 'docs' / 'robustness.md').read_text()
  named = re.findall(r'`(\w+_test)::(\w+)`((?:, `\w+`)*)', page)
  assert len(named) > 25
  for file, *names in named:
    code = (_ROOT / 'tests' / f'{file}.py').read_text()
    for name in re.findall(r'\w+', ' '.join(names)):
      assert re.search(rf'^def test_\w*{name}', code, re.MULTILINE), name


def test_the_results_are_those_of_their_files():
  folder = _ROOT / 'docs' / 'results'
  table = re.findall(r'^\| .*\| (\d+) \| (.*)\|$', (
      folder / 'README.md').read_text(), re.MULTILINE)
  said = [[int(x) for x in re.findall(r'\d+', f'{tasks} {rates}')]
          for tasks, rates in table]
  found = []
  for names, field in ((('initial_evaluation', 'evaluation'), ''),
                       (('initial_evaluation', 'evaluation'), 'drawn_'),
                       (('evaluation_held_out',), '')):
    rates = [[row[f'{field}success_rate'] for row in json.loads(
        (folder / 'desk' / f'{name}.json').read_text()).values()]
        for name in names]
    found.append([len(rates[0]), *(round(100 * np.mean(x)) for x in rates)])
  assert said == found
  assert sum(path.stat().st_size for path in folder.rglob('*')) < 5e6


def test_the_first_screen_is_short():
  assert len(_README.split()) < 900


def test_the_site_is_built_without_a_warning(tmp_path):
  result = subprocess.run(
      [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-q', '-d',
       str(tmp_path)], cwd=_ROOT, capture_output=True, text=True, check=False)
  assert result.returncode == 0, result.stderr
  page = (tmp_path / 'reference.html').read_text()
  assert all(f'id="step_jax.{name}"' in page for name in step_jax.__all__
             if name not in ('METHODS', 'samplers'))
  for page, text in (('configs', 'config.sharpness = 10.0'),
                     ('metrics', 'replaced_fraction')):
    assert text in (tmp_path / f'{page}.html').read_text()
  assert not re.findall('(?:src|href)="https://cdn', page)
