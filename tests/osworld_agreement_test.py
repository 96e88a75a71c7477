"""Opt-in: our evaluators and OSWorld's package give equal scores.

  STEP_JAX_OSWORLD=evaluation_examples \\
  STEP_JAX_DESKTOP_ENV_PYTHON=DIR/bin/python \\
  pytest tests/osworld_agreement_test.py

plays every task file that our evaluators cover on a fake desktop. What a task
downloads is made up, by the ends of the names, and so is what the agent leaves:
what is expected, something else, and nothing.
"""

from concurrent import futures
import contextlib
import functools
import hashlib
import io
import json
import os
import pathlib
import types

import docx
import openpyxl
import pytest

from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import judge as judge_lib
from step_jax.envs.osworld import task_lists
from step_jax.envs.osworld import tasks
from step_jax.envs.osworld import upstream
from tests import fake_desktop

_OSWORLD = os.environ.get('STEP_JAX_OSWORLD')
_PYTHON = os.environ.get('STEP_JAX_DESKTOP_ENV_PYTHON')
_NUM_THREADS = 16
_WAYS = ('expected', 'else', 'nothing')


def _content(name, text):
  """A file of the kind that its name says."""
  file = io.BytesIO()
  if name.endswith('.xlsx'):
    book = openpyxl.Workbook()
    book.active.title = 'Sheet1'
    for row in range(1, 9):
      book.active.append([text, row, row / 4])
    book.save(file)
  elif name.endswith('.docx'):
    document = docx.Document()
    for part in (text, 'the same', ''):
      document.add_paragraph(part)
    document.save(file)
  else:
    return f'{text}\nthe same\n'.encode()
  return file.getvalue()


def _listed(value):
  return value if isinstance(value, list) else [value]


def _leave(fake, evaluator, way):
  """Leaves on the desktop what an agent could have left there."""
  fake.files, outputs = {}, []
  for result, expected in zip(
      _listed(evaluator.get('result')), _listed(
          evaluator.get('expected') or [None] * 9)):
    if not result or way == 'nothing':
      continue
    if result['type'] == 'vm_file':
      fake.files[result['path']] = _content(
          result['dest'], 'gold' if way == 'expected' else way)
    elif way == 'expected' and expected:
      rules = expected['rules']
      outputs.append(rules.get('expected') or '\n'.join(
          rules.get('include', ())))
  for expected in _listed(evaluator.get('expected')):
    if expected and expected['type'] == 'vm_file' and way != 'nothing':
      fake.files.setdefault(expected['path'], _content(
          expected['dest'], 'gold'))
  fake.on_execute = lambda _: '\n'.join(map(str, outputs))


def _score(fake, task, way, failed, python):
  machine = types.SimpleNamespace(
      client=client_lib.Client(fake.address, retry_pause=0.), token='',
      ports={'chrome': 1, 'vlc': 1}, screen_size=(1280, 720))
  with contextlib.closing(judge_lib.Judge(
      machine, python=python, num_processes=_NUM_THREADS, password='password',
      proxies='', settle_after_reset=0.,
      settle_before_evaluation=0.)) as judge:
    judge.prepare(task)
    _leave(fake, task_lists.read(task.path)['evaluator'], way)
    return judge.evaluate(task, failed=failed)[0]


def _compare(folder, task):
  """What the two give for all ways, `[(way, failed, ours, theirs)]`."""
  value = task_lists.read(task.path)
  value['config'] = []
  value['evaluator'].pop('postconfig', None)
  for url in tasks.urls(value):
    name = hashlib.sha256(url.encode()).hexdigest()
    (tasks.default_cache() / name).write_bytes(_content(
        url.partition('?')[0], 'gold'))
  path = folder / f'{task.id}.json'
  path.write_text(json.dumps(value))
  pair = [tasks.load(path, evaluator=x) for x in ('own', 'desktop_env')]
  with fake_desktop.FakeDesktop() as fake:
    return [(way, failed, *(
        _score(fake, one, way, failed, _PYTHON) for one in pair))
            for way, failed in (
                *((way, False) for way in _WAYS), ('else', True))]


@pytest.mark.skipif(not (_OSWORLD and _PYTHON), reason='opt-in, see above')
def test_both_evaluators_agree(tmp_path, monkeypatch):
  """In threads, as the package sleeps for 15 s over each file that is gone."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  tasks.default_cache().mkdir(parents=True)
  paths = task_lists.find(pathlib.Path(_OSWORLD) / 'test_all.json')
  covered, _ = tasks.survey(paths, evaluator='own')
  with (upstream.Service(_PYTHON, num_processes=_NUM_THREADS),
        futures.ThreadPoolExecutor(_NUM_THREADS) as pool):
    found = list(pool.map(functools.partial(_compare, tmp_path), covered))
  scores = [row for rows in found for row in rows]
  print(f'{len(covered)} tasks, {len(scores)} scores, '
        f'{sum(row[2] == 1 for row in scores)} of them 1')
  different = [(str(task.path), *row) for task, rows in zip(covered, found)
               for row in rows if row[2] != row[3]]
  assert not different
  assert len(covered) >= 90
