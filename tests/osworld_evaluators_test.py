"""Getters and metrics: golden examples of desktop_env.evaluators' meaning."""

import io
import pathlib
import warnings
import zipfile

import docx
import openpyxl
from openpyxl import styles
import pytest

from step_jax.envs import base
from step_jax.envs.osworld import checks
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import evaluators
from step_jax.envs.osworld import setup
from tests import fake_desktop

OUTPUT = {'type': 'vm_command_line', 'command': ['cat', '/a'], 'shell': False}


@pytest.fixture
def fake():
  with fake_desktop.FakeDesktop() as fake:
    yield fake


@pytest.fixture
def context(fake, tmp_path):
  with client_lib.Client(fake.address, retry_pause=0.) as client:
    yield setup.Context(client=client, folder=tmp_path, cache=tmp_path)


def load(**fields):
  return evaluators.load(fields, checks.Field(pathlib.Path('task.json')))


def score(context, *, failed=False, **fields):
  return evaluators.evaluate(load(**fields), context, failed=failed)


def rule(**rules):
  return {'type': 'rule', 'rules': rules}


def file(path, dest):
  return {'type': 'vm_file', 'path': path, 'dest': dest}


def book(*sheets, edit=lambda book: None):
  """An xlsx file of sheets, each a name and rows."""
  workbook = openpyxl.Workbook()
  workbook.remove(workbook.active)
  for name, rows in sheets:
    sheet = workbook.create_sheet(name)
    for row in rows:
      sheet.append(row)
  edit(workbook)
  content = io.BytesIO()
  workbook.save(content)
  return content.getvalue()


def document(*paragraphs):
  made = docx.Document()
  for text in paragraphs:
    made.add_paragraph(text)
  content = io.BytesIO()
  made.save(content)
  return content.getvalue()


@pytest.mark.parametrize('output, rules, expected', [
    ('abc', {'include': ['a', 'bc']}, 1),
    ('abc', {'include': ['a', 'd']}, 0),
    ('abc', {'include': ['a'], 'exclude': ['d']}, 1),
    ('abc', {'include': ['a'], 'exclude': ['c']}, 0),
    ('Abc', {'include': ['abc']}, 0),
    ('', {}, 1),
    ('', {'exclude': ['x']}, 1),
])
def test_check_include_exclude(fake, context, output, rules, expected):
  fake.on_execute = lambda _: output
  assert score(context, func='check_include_exclude', result=OUTPUT,
               expected=rule(**rules)) == expected


@pytest.mark.parametrize('output, expected, value', [
    ('yes\n', 'yes\n', 1), ('yes\n', 'yes', 0), ('Yes', 'yes', 0),
    ('3', 3, 0)])
def test_exact_match(fake, context, output, expected, value):
  fake.on_execute = lambda command: (output, 5)
  assert score(context, func='exact_match', result=OUTPUT,
               expected=rule(expected=expected)) == value
  assert fake.requests == [
      ('/execute', {'command': ['cat', '/a'], 'shell': False})]


@pytest.mark.parametrize('result, expected, options, value', [
    (b'a b\n', b'a b\n', {}, 1),
    (b'a b\r\n', b'a b\n', {}, 1),  # as files of text are read
    (b'a b', b'a b\n', {}, 0),
    (b' a \t\n b\n', b'a b', {'ignore_blanks': True}, 1),
    (b'ab', b'a b', {'ignore_blanks': True}, 0),
    (b'A', b'a', {'ignore_case': True}, 1),
    (b'A', b'a', {}, 0),
    (b'\xff', b'a', {}, 0),
    (b'PK is a text', b'PK is a text', {}, 1),
    (None, b'a', {}, 0),
])
def test_compare_text_file(fake, context, result, expected, options, value):
  fake.files = {'/gold': expected}
  if result is not None:
    fake.files['/a'] = result
  assert score(context, func='compare_text_file', result=file('/a', 'a'),
               expected=file('/gold', 'g'), options=options) == value


def table_score(fake, context, result, *rules, gold=None):
  fake.files = {'/a': result}
  fields = {}
  if gold is not None:
    fake.files['/gold'] = gold
    fields['expected'] = file('/gold', 'gold.xlsx')
  return score(context, func='compare_table', result=file('/a', 'a.xlsx'),
               options={'rules': list(rules)}, **fields)


DATA = {'type': 'sheet_data', 'sheet_idx0': 0, 'sheet_idx1': 'EI0'}
ROWS = [['Name', 'Price'], ['ant', 1], ['bee', 2.5]]


@pytest.mark.parametrize('rows, value', [
    (ROWS, 1),
    ([['Name', 'Price'], ['ant', 1], ['bee', 2.50001]], 1),  # four digits
    ([['Name', 'Price'], ['ant', 1], ['bee', 2.501]], 0),
    ([['Name', 'Price'], ['bee', 2.5], ['ant', 1]], 0),
    ([['Name', 'Price '], ['ant', 1], ['bee', 2.5]], 0),
    ([['Name', 'Price'], ['ant', 1]], 0),
    ([*ROWS, [None, None]], 1),
    ([*ROWS, ['cat', None]], 0),
    ([['Name', 'Price'], ['ant', '1'], ['bee', '2.5']], 1),  # as pandas reads
])
def test_sheet_data(fake, context, rows, value):
  gold = book(('Sheet1', ROWS))
  assert table_score(
      fake, context, book(('Other', rows)), DATA, gold=gold) == value


@pytest.mark.parametrize('rule0, rule1, value', [
    ('RI1', 'EI0', 1), (1, 'ENone', 1), ('RNtwo', 'RI1', 1), (0, 1, 0),
    ('RNnone', 'EI0', 0), (7, 'EI0', 0)])
def test_sheets_are_named_as_in_the_package(
    fake, context, rule0, rule1, value):
  result = book(('one', [['x'], [1]]), ('two', [['y'], [2]]))
  gold = book(('one', [['y'], [2]]))
  assert table_score(
      fake, context, result, {**DATA, 'sheet_idx0': rule0,
                              'sheet_idx1': rule1}, gold=gold) == value


def test_precision(fake, context):
  result, gold = book(('a', [['x'], [1.26]])), book(('a', [['x'], [1.3]]))
  assert table_score(fake, context, result, DATA, gold=gold) == 0
  assert table_score(
      fake, context, result, {**DATA, 'precision': 1}, gold=gold) == 1


def test_sheet_names_and_frozen_panes(fake, context):
  def freeze(workbook):
    workbook['a'].freeze_panes = 'A2'

  names = {'type': 'sheet_name'}
  frozen = {'type': 'freeze', 'sheet_idx0': 0, 'sheet_idx1': 'EI0'}
  sheet = ('a', [['x'], [1]])
  assert table_score(
      fake, context, book(sheet), names, gold=book(sheet, edit=freeze)) == 1
  assert table_score(
      fake, context, book(sheet, ('b', [])), names, gold=book(sheet)) == 0
  assert table_score(
      fake, context, book(sheet), frozen, gold=book(sheet, edit=freeze)) == 0
  assert table_score(fake, context, book(sheet, edit=freeze), frozen,
                     gold=book(sheet, edit=freeze)) == 1


def cell(coordinate, **props):
  return {'type': 'check_cell', 'sheet_idx': 0, 'coordinate': coordinate,
          'props': {name: {'method': method, 'ref': ref}
                    for name, (method, ref) in props.items()}}


@pytest.mark.parametrize('coordinate, method, ref, value', [
    ('B2', 'eq', 1, 1), ('B2', 'eq', 1., 1), ('B2', 'ne', 1, 0),
    ('B3', 'eq', 2, 0), ('B3', 'lt', 3, 1), ('B3', 'ge', 2.5, 1),
    ('B3', 'approx:0.1', 2.45, 1), ('B3', 'approx:0.01', 2.45, 0),
    ('B3', 'approx:0.5', 2, 1),  # both are exact
    ('A2', 'eq', 'ant', 1), ('A2', 're', '^a.t$', 1), ('A2', 're', 'N', 0),
    ('A2', 're.I', 'N', 1),
    ('A2', 'lt', 3, 0),  # a text is not less than a number
    ('Z9', 'eq', 1, 0), ('Z9', 're', '.', 0), ('Z9', 'eq', None, 1),
    ('B2', 're', '1', 0), ('A2', 'approx:1', 1, 0)])
def test_check_cell(fake, context, coordinate, method, ref, value):
  assert table_score(fake, context, book(('a', ROWS)),
                     cell(coordinate, value=(method, ref))) == value


def test_check_cell_of_styles(fake, context):
  def edit(workbook):
    sheet = workbook['a']
    sheet['A1'].font = styles.Font(bold=True, size=20, name='Arial')
    sheet['C1'].font = styles.Font(bold=True)  # empty
    sheet['B2'].number_format = '0.00'

  def check(coordinate, **props):
    return table_score(fake, context, book(('a', ROWS), edit=edit),
                       cell(coordinate, **props))

  assert check('A1', font_bold=('eq', True), font_size=('eq', 20),
               font_name=('eq', 'Arial'), value=('eq', 'Name')) == 1
  assert check('A1', font_bold=('eq', True), font_italic=('eq', True)) == 0
  assert check('C1', font_bold=('eq', True)) == 0
  assert check('B2', number_format=('eq', '0.00')) == 1
  assert check('A1', number_format=('eq', '0.00')) == 0


def test_a_formula_counts_by_the_value_that_was_saved(fake, context):
  content = book(('a', [['x'], ['=1+1']]))  # openpyxl saves no value
  assert table_score(fake, context, content,
                     cell('A2', value=('eq', 2))) == 0
  assert table_score(fake, context, content,
                     cell('A2', value=('eq', None))) == 1


def test_all_rules_must_hold(fake, context):
  content = book(('a', ROWS))
  right, wrong = cell('B2', value=('eq', 1)), cell('B2', value=('eq', 2))
  assert table_score(fake, context, content, right, right) == 1
  assert table_score(fake, context, content, right, wrong) == 0


@pytest.mark.parametrize('result, options, value', [
    (['One', 'two'], {}, 1),
    (['One  two'], {}, 1),  # white space is one space
    (['one', 'two'], {}, 0),
    (['one', 'two'], {'ignore_case': True}, 1),
    (['One  two'], {'ignore_blanks': False}, 0),
    (['two', 'One'], {}, 0),
    (['two', 'One'], {'ignore_order': True}, 1),
    (['One', ' ', 'two'], {'ignore_blanks': False}, 0),
    (['One', ' ', 'two'], {'ignore_blanks': False,
                           'delete_empty_lines': True}, 1),
])
def test_compare_docx_files(fake, context, result, options, value):
  fake.files = {'/a': document(*result), '/gold': document('One', 'two')}
  assert score(context, func='compare_docx_files', result=file('/a', 'a.docx'),
               expected=file('/gold', 'g.docx'), options=options) == value


def _bomb():
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('xl/workbook.xml', b' ' * 10_000_000)
  return content.getvalue()


def _broken(content):
  middle = len(content) // 2
  return content[:middle] + b'\0' * 40 + content[middle + 40:]


def _wide():
  def edit(workbook):
    workbook['a'].cell(1_000_000, 10_000, 'far away')

  return book(('a', [['x']]), edit=edit)


SPOILT = {
    'empty': b'', 'text': b'Name,Price', 'cut': book(('a', ROWS))[:900],
    'zip': b'PK\x03\x04', 'broken': _broken(book(('a', ROWS))),
    'bomb': _bomb(), 'wide': _wide(), 'docx': document('x'),
    'pickle': b'\x80\x04K\x01.', 'none': None}


@pytest.mark.parametrize('name, metric, ending, options', [
    (name, *metric) for name in SPOILT for metric in (
        ('compare_table', 'xlsx', {'rules': [DATA]}),
        ('compare_table', 'xlsx',
         {'rules': [cell('A1', value=('eq', 'Name'))]}),
        ('compare_docx_files', 'docx', {}))
    if name != metric[1]])
def test_a_spoilt_file_scores_0(
    fake, context, monkeypatch, name, metric, ending, options):
  monkeypatch.setattr(evaluators, '_MAX_UNPACKED', 1_000_000)
  gold = book(('a', ROWS)) if ending == 'xlsx' else document('y')
  fake.files = {'/gold': gold}
  if SPOILT[name] is not None:
    fake.files['/a'] = SPOILT[name]
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert score(context, func=metric, result=file('/a', f'a.{ending}'),
                 expected=file('/gold', f'g.{ending}'), options=options) == 0


def test_a_file_that_is_too_large_scores_0(fake, context, monkeypatch):
  monkeypatch.setattr(client_lib, 'MAX_FILE', 10)
  fake.files = {'/a': b'x' * 11, '/gold': b'x' * 10}
  fields = dict(func='compare_text_file', expected=file('/gold', 'g'))
  assert score(context, result=file('/a', 'a'), **fields) == 0
  assert score(context, result=file('/gold', 'a'), **fields) == 1


@pytest.mark.parametrize('metric, content, options', [
    ('compare_table', book(('a', ROWS)), {'rules': [DATA]}),
    ('compare_docx_files', document('x'), {})])
def test_a_whole_file_that_unpacks_to_too_much_scores_0(
    fake, context, monkeypatch, metric, content, options):
  fake.files = {'/a': content}
  ending = 'xlsx' if metric == 'compare_table' else 'docx'
  fields = dict(func=metric, result=file('/a', f'a.{ending}'),
                expected=file('/a', f'g.{ending}'), options=options)
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    size = sum(part.file_size for part in archive.infolist())
  assert len(content) < size
  for limit, value in ((size, 1), (size - 1, 0)):
    monkeypatch.setattr(evaluators, '_MAX_UNPACKED', limit)
    assert score(context, **fields) == value


@pytest.mark.parametrize('route, result', [
    ('/execute', OUTPUT), ('/file', file('/a', 'a'))])
def test_a_desktop_that_fails_is_no_score(fake, context, route, result):
  fake.failures[route] = ['drop'] * 9
  text = result is OUTPUT
  with pytest.raises(client_lib.DesktopError, match=route):
    score(context, func='exact_match' if text else 'compare_text_file',
          result=result,
          expected=rule(expected='') if text else file('/b', 'b'))


TEXT_FILE = dict(func='compare_text_file', result=file('/a', 'a'),
                 expected=file('/gold', 'g'))
# What the agent can cause, and what the desktop answers then.
AGENTS = {
    'it removed the result': (TEXT_FILE, {'/file': [404]}),
    'it removed what it is compared with': (TEXT_FILE, {'/file': [200, 404]}),
    'it spoilt what it is compared with': (
        dict(func='compare_docx_files', result=file('/b', 'b.docx'),
             expected=file('/a', 'a.docx')), {}),
    'it made a folder of the file': (TEXT_FILE, {'/file': [500] * 3}),
    'output that is not UTF-8, or no such program': (
        dict(func='exact_match', result=OUTPUT, expected=rule(expected='')),
        {'/execute': [500]}),
    'it removed what is opened before the evaluation': (
        dict(TEXT_FILE, postconfig=[
            {'type': 'open', 'parameters': {'path': '/a'}}]),
        {'/setup/open_file': [404]}),
    'it cannot be opened any more': (
        dict(TEXT_FILE, postconfig=[
            {'type': 'open', 'parameters': {'path': '/a'}}]),
        {'/setup/open_file': [500] * 3}),
    'it removed the program that is launched, which writes the result': (
        dict(TEXT_FILE, postconfig=[
            {'type': 'launch', 'parameters': {'command': 'x'}}]),
        {'/setup/launch': [500] * 3, '/file': [404]}),
}


@pytest.mark.parametrize('row', AGENTS)
def test_what_the_agent_can_cause_scores_0(fake, context, row):
  fields, failures = AGENTS[row]
  fake.files = {'/a': b'x', '/gold': b'x', '/b': document('x')}
  fake.failures.update(failures)
  assert score(context, **fields) == 0
  fake.failures.clear()
  assert not failures or fields['func'] == 'exact_match' or (
      score(context, **fields) == 1)


def test_an_expected_file_of_the_task_folder(fake, context):
  (context.folder / 'gold.txt').write_text('x')
  fake.files = {'/home/user/a': b'x'}
  gold = {'type': 'cloud_file', 'path': 'file://gold.txt', 'dest': 'g.txt'}
  loaded = evaluators.load(
      {'func': 'compare_text_file', 'result': file('{HOME}/a', 'a'),
       'expected': gold}, checks.Field(context.folder / 'task.json'))
  assert evaluators.evaluate(loaded, context, failed=False) == 1


@pytest.mark.parametrize('outputs, conj, value, asked', [
    ('xx', 'and', 1, 2), ('xy', 'and', 0, 2), ('yx', 'and', 0, 1),
    ('yx', 'or', 1, 2), ('xy', 'or', 1, 1), ('yy', 'or', 0, 2)])
def test_several_metrics(fake, context, outputs, conj, value, asked):
  left = list(outputs)
  fake.on_execute = lambda _: left.pop(0)
  assert score(context, func=['exact_match'] * 2, conj=conj,
               result=[OUTPUT] * 2, expected=[rule(expected='x')] * 2) == value
  assert fake.count('/execute') == asked


def test_postconfig_comes_first(fake, context):
  order = []
  fake.on_execute = lambda command: order.append(command) or 'x'
  assert score(
      context, func='exact_match', result=OUTPUT, expected=rule(expected='x'),
      postconfig=[{'type': 'execute', 'parameters': {'command': 'save'}}]) == 1
  assert order == ['save', ['cat', '/a']]


def test_only_saying_so_solves_an_infeasible_task(fake, context):
  assert score(context, func='infeasible', failed=True) == 1
  assert score(context, func='infeasible', failed=False) == 0
  fake.on_execute = lambda _: 'x'
  feasible = dict(func='exact_match', result=OUTPUT,
                  expected=rule(expected='x'))
  assert score(context, failed=False, **feasible) == 1
  assert score(context, failed=True, **feasible) == 0


@pytest.mark.parametrize('metric, package, ending, options', [
    ('compare_table', 'openpyxl', 'xlsx', {'rules': [{'type': 'sheet_name'}]}),
    ('compare_table', 'pandas', 'xlsx', {'rules': [{'type': 'sheet_name'}]}),
    ('compare_docx_files', 'docx', 'docx', {})])
def test_a_missing_package_is_one_sentence(
    monkeypatch, metric, package, ending, options):
  find = evaluators.importlib.util.find_spec
  monkeypatch.setattr(
      evaluators.importlib.util, 'find_spec',
      lambda name: None if name == package else find(name))
  place = file('/a', f'a.{ending}')
  with pytest.raises(base.MissingProgramError,
                     match=rf'{package} .* `pip install .*osworld\]'):
    load(func=metric, result=place, expected=place, options=options)
