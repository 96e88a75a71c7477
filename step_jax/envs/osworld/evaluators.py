"""Whether a task was done: OSWorld's getters and metrics, by their names.

A getter reads a state ('text' or 'file' of the desktop, or a 'rule' of the
task), a metric compares a result with what is expected. Names, options and
meaning are those of `desktop_env.evaluators` 1.0.2; what is not here is
refused when a task is loaded.

  vm_command_line        what a command writes
  vm_file, cloud_file    a file of the desktop, or of a URL
  rule                   the rules themselves
  check_include_exclude  texts that must be, and must not be, in the result
  exact_match            the result is the expected text
  compare_text_file      ignore_blanks, ignore_case
  compare_table          rules: sheet_name, sheet_data, freeze, check_cell
  compare_docx_files     ignore_blanks, ignore_case, ignore_order,
                         delete_empty_lines
  infeasible             the agent said that it cannot be done

What the agent can cause scores 0: a file that it spoilt or removed, a desktop
that answers that it cannot. A desktop that does not answer raises.
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib.util
import io
import re
from typing import Any, NamedTuple
import zipfile

from step_jax.envs import base
from step_jax.envs.osworld import checks
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import documents
from step_jax.envs.osworld import setup
from step_jax.envs.osworld import tables

_MAX_UNPACKED = 256 * 2**20  # bytes of a document without its compression
_PACKAGES = {'compare_table': ('openpyxl', 'pandas'),
             'compare_docx_files': ('docx',)}


class Getter(NamedTuple):
  gives: str  # 'text', 'file' or 'rule'
  required: dict[str, str]
  optional: dict[str, str]


class Metric(NamedTuple):
  function: Callable[..., float]
  result: str  # what a getter must give
  expected: str
  options: dict[str, str]
  ending: str = ''  # of the names of the files
  rules: dict[str, str] = {}  # of the expected rule, required
  optional_rules: dict[str, str] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Test:
  """One metric and what it is applied to."""
  metric: str
  result: Mapping[str, Any]  # of a getter
  expected: Mapping[str, Any] | None
  options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
  """A checked `evaluator` of a task file."""
  postconfig: tuple[setup.Step, ...]
  tests: tuple[Test, ...]  # none: the task is infeasible
  conj: str  # 'and' or 'or'


def load(value: Any, field: checks.Field) -> Evaluator:
  """Checks an evaluator.

  Raises:
    TaskError: naming the field.
    MissingProgramError: for a package that a metric needs.
  """
  checks.check_fields(value, field, required={'func': 'any'}, optional={
      'postconfig': 'list', 'conj': 'text', 'result': 'any',
      'expected': 'any', 'options': 'any'})
  setup.check_steps(value.get('postconfig', []), field['postconfig'])
  conj = value.get('conj', 'and')
  checks.check_choice(conj, ('and', 'or'), field['conj'])
  tests = [] if value['func'] == 'infeasible' else [
      _load_test(parts, places)
      for parts, places in _split(value, field)]
  return Evaluator(postconfig=tuple(value.get('postconfig', [])),
                   tests=tuple(tests), conj=conj)


def _split(value: Mapping[str, Any], field: checks.Field) -> list[
    tuple[dict[str, Any], dict[str, checks.Field]]]:
  """The parts of each metric: one, or as many as `func` is long."""
  names = ('func', 'result', 'expected', 'options')
  if not isinstance(value['func'], list):
    return [({name: value.get(name) for name in names},
             {name: field[name] for name in names})]
  count = len(value['func'])
  if not count:
    raise field['func'].error('at least one metric', value['func'])
  for name in names:
    given = value.get(name)
    if given and not (isinstance(given, list) and len(given) == count):
      raise field[name].error(f'a list of {count}, as long as func', given)
  return [({name: (value.get(name) or [None] * count)[index]
            for name in names},
           {name: field[name][index] for name in names})
          for index in range(count)]


def _load_test(parts: dict[str, Any], places: dict[str, checks.Field]) -> Test:
  name = parts['func']
  choices = tuple(METRICS)
  if places['func'].name.endswith('.func'):
    choices += ('infeasible',)  # never one of several
  checks.check_choice(name, choices, places['func'])
  metric = METRICS[name]
  for package in _PACKAGES.get(name, ()):
    if importlib.util.find_spec(package) is None:
      raise base.MissingProgramError(
          f'The package {package} is not installed, which {name} needs: '
          "install with `pip install 'step_jax[osworld]'`.")
  options = parts['options'] or {}
  checks.check_fields(options, places['options'], optional=metric.options)
  needs_expected = True
  if name == 'compare_table':
    needs_expected = tables.check_rules(options, places['options'])
  _check_state(parts['result'], metric.result, metric, places['result'])
  if parts['expected'] or needs_expected:
    _check_state(parts['expected'], metric.expected, metric,
                 places['expected'])
  return Test(metric=name, result=parts['result'],
              expected=parts['expected'] or None, options=options)


def _check_state(value: Any, kind: str, metric: Metric,
                 field: checks.Field) -> None:
  """Checks a getter and that it gives what a metric takes."""
  checks.check_kind(value, 'object', field)
  fitting = tuple(
      name for name, getter in _GETTERS.items() if getter.gives == kind)
  checks.check_choice(value.get('type'), fitting, field['type'])
  getter = _GETTERS[value['type']]
  checks.check_fields(value, field, optional=getter.optional,
                      required={'type': 'text', **getter.required})
  if kind == 'file' and not value['dest'].endswith(metric.ending):
    raise field['dest'].error(f'a name with {metric.ending}', value['dest'])
  if value['type'] == 'cloud_file':
    checks.check_source(value['path'], field['path'])
  if kind == 'rule':
    checks.check_fields(value['rules'], field['rules'], required=metric.rules,
                        optional=metric.optional_rules)


def evaluate(evaluator: Evaluator, context: setup.Context, *,
             failed: bool) -> float:
  """Returns the score, 0 to 1, of the desktop as it is now.

  Args:
    evaluator: checked.
    context: the desktop.
    failed: the agent's last action said that the task cannot be done.

  Raises:
    DesktopError: the desktop does not answer, or the web, where an expected
      file is.
  """
  try:
    setup.run_steps(evaluator.postconfig, context)
  except client_lib.AnswerError:
    return 0.
  if not evaluator.tests or failed:
    return float(failed and not evaluator.tests)
  scores = []
  for test in evaluator.tests:
    score = _score(test, context)
    if evaluator.conj == 'and' and score == 0:
      return 0.
    if evaluator.conj == 'or' and score == 1:
      return 1.
    scores.append(score)
  return sum(scores) / len(scores) if evaluator.conj == 'and' else max(scores)


def _score(test: Test, context: setup.Context) -> float:
  metric = METRICS[test.metric]
  result = _get(test.result, context)
  expected = None
  if test.expected is not None:
    expected = _get(test.expected, context)
    if expected is None:
      return 0.
  if result is None or metric.result == 'file' and (
      not _is_readable(result, metric.ending)):
    return 0.
  try:
    return float(metric.function(result, expected, **test.options))
  except Exception:  # whatever is wrong with a file that the agent has spoilt
    if test.expected is None or test.expected['type'] != 'vm_file':
      raise
    return 0.


def _get(config: Mapping[str, Any], context: setup.Context) -> Any:
  config = context.fill(dict(config))
  if config['type'] == 'rule':
    return config['rules']
  if config['type'] == 'cloud_file':
    return context.read(config['path'])
  try:
    if config['type'] == 'vm_file':
      return context.client.read_file(config['path'])
    return context.client.execute(
        config['command'], shell=config.get('shell', False)).output
  except client_lib.AnswerError:
    return None


def _is_readable(content: bytes, ending: str) -> bool:
  """False for what is too large, packed or unpacked."""
  if len(content) > client_lib.MAX_FILE:
    return False
  if not ending:
    return True
  try:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
      return sum(x.file_size for x in archive.infolist()) <= _MAX_UNPACKED
  except (zipfile.BadZipFile, ValueError):
    return False


def _check_include_exclude(result: str, rules: Mapping[str, Any]) -> bool:
  return all(text in result for text in rules.get('include', ())) and (
      all(text not in result for text in rules.get('exclude', ())))


def _exact_match(result: str, rules: Mapping[str, Any]) -> bool:
  return result == rules['expected']


def _compare_text_file(result: bytes, expected: bytes, *,
                       ignore_blanks: bool = False,
                       ignore_case: bool = False) -> bool:
  try:
    texts = [io.TextIOWrapper(io.BytesIO(content), 'utf-8').read()
             for content in (result, expected)]
  except UnicodeDecodeError:
    return False
  if ignore_blanks:
    texts = [re.sub(r'\s+', ' ', re.sub(r'[\t\n]', ' ', text).strip())
             for text in texts]
  if ignore_case:
    texts = [text.lower() for text in texts]
  return texts[0] == texts[1]


_BLANKS = {'ignore_blanks': 'flag', 'ignore_case': 'flag'}
_GETTERS = {
    'vm_command_line': Getter('text', {'command': 'command'},
                              {'shell': 'flag'}),
    'vm_file': Getter('file', {'path': 'text', 'dest': 'text'}, {}),
    'cloud_file': Getter('file', {'path': 'text', 'dest': 'text'}, {}),
    'rule': Getter('rule', {'rules': 'object'}, {}),
}
METRICS = {
    'check_include_exclude': Metric(
        _check_include_exclude, 'text', 'rule', {},
        optional_rules={'include': 'texts', 'exclude': 'texts'}),
    'exact_match': Metric(
        _exact_match, 'text', 'rule', {}, rules={'expected': 'any'}),
    'compare_text_file': Metric(_compare_text_file, 'file', 'file', _BLANKS),
    'compare_table': Metric(
        tables.compare_table, 'file', 'file', {'rules': 'list'}, '.xlsx'),
    'compare_docx_files': Metric(
        documents.compare_docx_files, 'file', 'file',
        {**_BLANKS, 'ignore_order': 'flag', 'delete_empty_lines': 'flag'},
        '.docx'),
}
