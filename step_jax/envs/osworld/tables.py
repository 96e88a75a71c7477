"""Comparing spreadsheets: the metric `compare_table` and its rules.

  sheet_name  both files have the same sheets
  sheet_data  sheet_idx0, sheet_idx1, precision: the same values
  freeze      sheet_idx0, sheet_idx1: the same rows and columns stand still
  check_cell  sheet_idx, coordinate, props: {property: {method, ref}}
A sheet is a number n or 'RIn' (of the result), 'RNname', 'EIn' or 'ENname'
(of the expected file). All rules must hold.
"""

from collections.abc import Mapping, Sequence
import datetime
import functools
import io
import operator
import re
from typing import Any
import warnings

from step_jax.envs.osworld import checks

_MAX_CELLS = 2_000_000  # of a sheet
_COMPARISONS = ('eq', 'ne', 'le', 'lt', 'ge', 'gt')
_PROPERTIES = ('value', 'number_format', 'font_bold', 'font_italic',
               'font_name', 'font_size', 'font_underline')
_SHEETS = {'sheet_idx0': 'any', 'sheet_idx1': 'any'}
# By type: required and optional fields.
_RULES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    'sheet_name': ({}, {}),
    'sheet_data': (_SHEETS, {'precision': 'whole'}),
    'freeze': (_SHEETS, {}),
    'check_cell': ({'sheet_idx': 'any', 'coordinate': 'text',
                    'props': 'object'}, {}),
}


def check_rules(options: Mapping[str, Any], field: checks.Field) -> bool:
  """Checks the rules; returns whether they need an expected file."""
  if not options.get('rules'):
    raise field['rules'].error('at least one rule', options.get('rules'))
  needs_expected = False
  for index, rule in enumerate(options['rules']):
    place = field['rules'][index]
    checks.check_kind(rule, 'object', place)
    checks.check_choice(rule.get('type'), _RULES, place['type'])
    required, optional = _RULES[rule['type']]
    checks.check_fields(rule, place, optional=optional,
                        required={'type': 'text', **required})
    sheets = [name for name in rule if name.startswith('sheet_idx')]
    for name in sheets:
      _check_sheet(rule[name], place[name])
    needs_expected |= rule['type'] == 'sheet_name' or any(
        str(rule[name]).startswith('E') for name in sheets)
    if rule['type'] == 'check_cell':
      _check_properties(rule, place)
  return needs_expected


def _check_sheet(sheet: Any, field: checks.Field) -> None:
  is_number = isinstance(sheet, int) and not isinstance(sheet, bool)
  if not (is_number and sheet >= 0 or isinstance(sheet, str)
          and re.fullmatch(r'[RE](I\d+|N.+)', sheet)):
    raise field.error(
        "a sheet such as 0, 'RI0', 'RNSheet1', 'EI0' or 'ENSheet1'", sheet)


def _check_properties(rule: Mapping[str, Any], field: checks.Field) -> None:
  if not re.fullmatch(r'[A-Z]{1,3}[1-9]\d{0,6}', rule['coordinate']):
    raise field['coordinate'].error('a cell such as B5', rule['coordinate'])
  for name, match in rule['props'].items():
    place = field['props'][name]
    checks.check_choice(name, _PROPERTIES, place)
    checks.check_fields(match, place,
                        required={'method': 'text', 'ref': 'any'})
    method, ref = match['method'], match['ref']
    if method in _COMPARISONS:
      continue
    if re.fullmatch(r'approx:\d+(\.\d+)?', method):
      checks.check_kind(ref, 'number', place['ref'])
    elif re.fullmatch(r're(\.[IMSX])*', method):
      checks.check_kind(ref, 'text', place['ref'])
      try:
        re.compile(ref)
      except re.error:
        raise place['ref'].error('a regular expression', ref) from None
    else:
      raise place['method'].error(
          f'one of {", ".join(_COMPARISONS)}, approx:0.1, re', method)


def compare_table(result: bytes, expected: bytes | None, *,
                  rules: Sequence[Mapping[str, Any]]) -> bool:
  """Whether all rules hold; False for a result that cannot be read.

  Args:
    result: an xlsx file.
    expected: another, or None where no rule needs it.
    rules: checked.
  """
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # openpyxl's, about what it leaves out
    gold = None if expected is None else _Book(expected)
    try:
      books = {'R': _Book(result), 'E': gold}
      return all(_HOLDS[rule['type']](rule, books) for rule in rules)
    except Exception:  # whatever is wrong with a file that the agent made
      return False


class _Book:
  """An xlsx file: its cells, and the values that they were saved with."""

  def __init__(self, content: bytes):
    import openpyxl

    self._content = content
    self._book, self._values = (
        openpyxl.load_workbook(io.BytesIO(content), data_only=data_only)
        for data_only in (False, True))
    self.names = [sheet.title for sheet in self._book.worksheets]
    for sheet in self._book.worksheets:
      if sheet.max_row * sheet.max_column > _MAX_CELLS:
        raise ValueError(f'expected at most {_MAX_CELLS} cells in a sheet')

  def sheet(self, name: str) -> Any:
    return self._book[name]

  def value(self, name: str, coordinate: str) -> Any:
    return self._values[name][coordinate].value

  def data(self, name: str) -> Any:
    import pandas

    return pandas.read_excel(
        io.BytesIO(self._content), name, engine='openpyxl')


def _find(index: int | str, books: Mapping[str, Any]) -> tuple[_Book, str]:
  if isinstance(index, int):
    return books['R'], books['R'].names[index]
  book, name = books[index[0]], index[2:]
  return book, book.names[int(name)] if index[1] == 'I' else name


def _same_names(rule: Mapping[str, Any], books: Mapping[str, Any]) -> bool:
  return books['R'].names == books['E'].names


def _same_data(rule: Mapping[str, Any], books: Mapping[str, Any]) -> bool:
  tables = []
  for name in _SHEETS:
    book, sheet = _find(rule[name], books)
    tables.append(book.data(sheet).round(rule.get('precision', 4)))
  return tables[0].equals(tables[1])


def _same_freeze(rule: Mapping[str, Any], books: Mapping[str, Any]) -> bool:
  panes = []
  for name in _SHEETS:
    book, sheet = _find(rule[name], books)
    panes.append(book.sheet(sheet).freeze_panes)
  return panes[0] == panes[1]


def _check_cell(rule: Mapping[str, Any], books: Mapping[str, Any]) -> bool:
  book, sheet = _find(rule['sheet_idx'], books)
  cell = book.sheet(sheet)[rule['coordinate']]
  return all(
      _matches(_number(book.value(sheet, rule['coordinate']))
               if name == 'value' else _style(cell, name), match)
      for name, match in rule['props'].items())


def _number(value: Any) -> Any:
  """As OSWorld: a date is its number of days, a truth value is nothing."""
  from openpyxl.utils import datetime as dates

  if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
    return dates.to_excel(value)
  return None if isinstance(value, bool) else value


def _style(cell: Any, name: str) -> Any:
  """As OSWorld: an empty cell has none."""
  if cell.value is None:
    return None
  if name == 'number_format':
    return cell.number_format if cell.data_type == 'n' else None
  font = {'font_bold': 'bold', 'font_italic': 'italic', 'font_name': 'name',
          'font_size': 'size', 'font_underline': 'underline'}[name]
  return getattr(cell.font, font)


def _matches(value: Any, match: Mapping[str, Any]) -> bool:
  method, ref = match['method'], match['ref']
  try:
    if method in _COMPARISONS:
      return bool(getattr(operator, method)(value, ref))
    if method.startswith('approx:'):
      return abs(float(value) - ref) <= float(method.partition(':')[2])
    flags = (getattr(re, name) for name in method.split('.')[1:])
    flag = functools.reduce(operator.or_, flags, re.RegexFlag(0))
    return re.search(ref, value, flag) is not None
  except (TypeError, ValueError):  # a text is not less than a number
    return False


_HOLDS = {
    'sheet_name': _same_names,
    'sheet_data': _same_data,
    'freeze': _same_freeze,
    'check_cell': _check_cell,
}
