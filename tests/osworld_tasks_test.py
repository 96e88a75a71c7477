"""Task files: what is right, and the file and field of what is not."""

import json
import os
import pathlib
import re

import httpx
import pytest

from step_jax.envs.osworld import checks
from step_jax.envs.osworld import client as client_lib
from step_jax.envs.osworld import judge
from step_jax.envs.osworld import setup
from step_jax.envs.osworld import task_lists
from step_jax.envs.osworld import tasks
from tests import fake_desktop

OUTPUT = {'type': 'vm_command_line', 'command': ['cat', '/a']}
RULE = {'type': 'rule', 'rules': {'expected': 'x'}}
FILE = {'type': 'vm_file', 'path': '/a', 'dest': 'a.txt'}
TABLE = {'type': 'vm_file', 'path': '/a', 'dest': 'a.xlsx'}
CHECK = {'type': 'check_cell', 'sheet_idx': 0, 'coordinate': 'B2',
         'props': {'value': {'method': 'eq', 'ref': 1}}}


def example(**fields):
  return {
      'id': 'one', 'snapshot': 'pcmanfm', 'instruction': 'Write x to "a.txt".',
      'source': 'https://example.org', 'config': [],
      'related_apps': ['mousepad'],
      'evaluator': {'func': 'exact_match', 'result': OUTPUT,
                    'expected': RULE}, **fields}


def step(kind, **parameters):
  return {'config': [{'type': kind, 'parameters': parameters}]}


def evaluator(**fields):
  return {'evaluator': {'func': 'exact_match', 'result': OUTPUT,
                        'expected': RULE, **fields}}


def table(*rules, **fields):
  return {'evaluator': {'func': 'compare_table', 'result': TABLE,
                        'options': {'rules': list(rules)}, **fields}}


@pytest.fixture
def write(tmp_path):
  (tmp_path / 'a.txt').write_text('a')

  def write(name='one', **fields):
    path = tmp_path / f'{name}.json'
    path.write_text(json.dumps(example(id=name, **fields)))
    return path

  return write


@pytest.mark.parametrize('fields', [
    step('download', files=[{'url': 'https://a/b', 'path': '/b'}]),
    step('download', files=[{'url': 'file://a.txt', 'path': '/b'}]),
    step('upload_file', files=[{'local_path': 'a.txt', 'path': '/b'}]),
    step('launch', command='mousepad'),
    step('launch', command=['mousepad', '/a'], shell=False),
    step('open', path='{HOME}/a'),
    step('execute', command='ls | wc', shell=True,
         until={'returncode': 0, 'stdout': 'x'}),
    step('command', command=['ls']),
    step('sleep', seconds=.5),
    step('activate_window', window_name='a', strict=True, by_class=False),
    step('close_window', window_name='a'),
    step('execute', command='ls', shell='true'),
    {'hint': 'x', 'env_may_change': True, 'proxy': True},
    {'evaluator': {'func': 'infeasible'}},
    evaluator(postconfig=[{'type': 'sleep', 'parameters': {'seconds': 1}}]),
    evaluator(func=['exact_match', 'compare_text_file'], conj='or',
              result=[OUTPUT, FILE],
              expected=[RULE, {'type': 'cloud_file', 'path': 'file://a.txt',
                               'dest': 'a.txt'}],
              options=[None, {'ignore_case': True}]),
    evaluator(func=['exact_match'], result=[OUTPUT], expected=[RULE]),
    evaluator(func='check_include_exclude',
              expected={'type': 'rule', 'rules': {'include': ['x']}}),
    evaluator(func='compare_docx_files',
              result={**FILE, 'dest': 'a.docx'},
              expected={**FILE, 'dest': 'b.docx'}),
    table(CHECK),
    table({'type': 'sheet_data', 'sheet_idx0': 0, 'sheet_idx1': 'EI0'},
          {'type': 'sheet_name'}, expected=TABLE),
    table({'type': 'freeze', 'sheet_idx0': 'RNA b', 'sheet_idx1': 'ENx'},
          expected=TABLE),
])
def test_right_files(write, fields):
  task = tasks.load(write(**fields))
  assert task.id == 'one' and task.solution is None


def _wrong_steps():
  yield step('downlod', files=[]), 'config[0].type: expected one of download'
  yield step('download'), 'config[0].parameters: expected a field files'
  yield (step('download', files=[{'url': 'a', 'path': 'b'}]),
         'config[0].parameters.files[0].url: expected http://')
  yield (step('download', files=[{'url': 'https://a'}]),
         'files[0]: expected a field path')
  yield (step('download', files=[{'url': 'file://none', 'path': 'b'}]),
         'files[0].url: expected a file that exists')
  yield (step('download', files=[{'url': 'file://../../etc/passwd',
                                  'path': 'b'}]),
         'files[0].url: expected a file in the folder')
  yield (step('upload_file', files=[{'local_path': '/etc/passwd',
                                     'path': 'b'}]),
         'files[0].local_path: expected a file in the folder')
  yield step('launch', command=''), 'parameters.command: expected a text, or'
  yield step('launch', command=['a', 1]), 'parameters.command: expected a text'
  yield (step('launch', command='a', shel=True),
         'config[0].parameters.shel: expected no such field')
  yield step('open', path=3), 'parameters.path: expected a text that is not'
  yield step('sleep', seconds=-1), 'parameters.seconds: expected a number'
  yield step('sleep', seconds=True), 'parameters.seconds: expected a number'
  yield (step('execute', command='a', stdout='x'),
         'parameters.stdout: expected no such field')
  yield (step('execute', command='a', until={'retuncode': 0}),
         'parameters.until.retuncode: expected no such field')
  yield {'config': [3]}, 'config[0]: expected an object'
  yield {'config': {}}, 'config: expected a list'


def _wrong_evaluators():
  yield {'evaluator': {}}, 'evaluator: expected a field func'
  yield evaluator(func='exact_mach'), 'evaluator.func: expected one of'
  yield (evaluator(func=['infeasible'], result=[OUTPUT], expected=[RULE]),
         'evaluator.func[0]: expected one of')
  yield evaluator(func=[]), 'evaluator.func: expected at least one metric'
  yield evaluator(conj='xor'), 'evaluator.conj: expected one of and, or'
  yield evaluator(results=OUTPUT), 'evaluator.results: expected no such field'
  yield (evaluator(func=['exact_match'] * 2, result=[OUTPUT],
                   expected=[RULE] * 2),
         'evaluator.result: expected a list of 2, as long as func')
  yield (evaluator(func=['exact_match'] * 2, result=[OUTPUT] * 2,
                   expected=[RULE, {'type': 'rule', 'rules': {}}]),
         'evaluator.expected[1].rules: expected a field expected')
  yield (evaluator(postconfig=[{'type': 'x', 'parameters': {}}]),
         'evaluator.postconfig[0].type')
  yield evaluator(expected=None), 'evaluator.expected: expected an object'
  yield evaluator(result=None), 'evaluator.result: expected an object'
  yield (evaluator(result={'type': 'vm_terminal_output'}),
         'evaluator.result.type: expected one of vm_command_line')
  yield evaluator(result=FILE), 'result.type: expected one of vm_command_line'
  yield (evaluator(result={**OUTPUT, 'shel': True}),
         'result.shel: expected no such field')
  yield (evaluator(func='check_include_exclude',
                   expected={'type': 'rule', 'rules': {'includes': []}}),
         'expected.rules.includes: expected no such field')
  yield (evaluator(func='check_include_exclude',
                   expected={'type': 'rule', 'rules': {'include': 'x'}}),
         'expected.rules.include: expected a list of texts')
  yield (evaluator(options={'ignore_case': True}),
         'evaluator.options.ignore_case: expected no such field')
  yield (evaluator(func='compare_docx_files', result=FILE, expected=FILE),
         'evaluator.result.dest: expected a name with .docx')
  yield (evaluator(func='compare_docx_files', result={**FILE, 'dest': 'a.docx'},
                   expected={**FILE, 'dest': 'a.docx'},
                   options={'fuzzy_match': True}),
         'evaluator.options.fuzzy_match: expected no such field')


def _wrong_tables():
  rules = 'evaluator.options.rules'
  yield table(), rules + ': expected at least one rule'
  yield table({'type': 'chart'}), rules + '[0].type: expected one of sheet_name'
  yield table({'type': 'sheet_name'}), 'evaluator.expected: expected an object'
  yield (table({'type': 'sheet_data', 'sheet_idx0': 0, 'sheet_idx1': 'EI0'}),
         'evaluator.expected: expected an object')
  yield (table({**CHECK, 'sheet_idx': 'XI0'}),
         rules + '[0].sheet_idx: expected a sheet such as')
  yield (table({**CHECK, 'sheet_idx': True}),
         rules + '[0].sheet_idx: expected a sheet such as')
  yield (table({**CHECK, 'coordinate': 'b2'}),
         rules + '[0].coordinate: expected a cell')
  yield (table({**CHECK, 'props': {'colour': {}}}),
         rules + '[0].props.colour: expected one of value')
  yield (table({**CHECK, 'props': {'value': {'method': 'is', 'ref': 1}}}),
         rules + '[0].props.value.method: expected one of eq')
  yield (table({**CHECK, 'props': {'value': {'method': 're', 'ref': '('}}}),
         rules + '[0].props.value.ref: expected a regular expression')
  yield (table({**CHECK, 'props': {'value': {'method': 'approx:.1',
                                             'ref': 1}}}),
         rules + '[0].props.value.method: expected one of eq')


@pytest.mark.parametrize('fields, message', [
    *_wrong_steps(), *_wrong_evaluators(), *_wrong_tables(),
    ({'instruction': ''}, 'instruction: expected a text'),
    ({'instruction': '...'}, 'instruction: expected words'),
    ({'instruction': 'Type a\0b.'}, 'instruction: expected words that can be'),
    ({'evaluater': {}}, 'evaluater: expected no such field'),
    ({'id': 3}, 'id: expected a text'),
])
def test_wrong_files_name_file_and_field(write, fields, message):
  path = write()
  path.write_text(json.dumps(example(**fields)))
  with pytest.raises(checks.TaskError) as caught:
    tasks.load(path)
  assert str(caught.value).startswith(f'{path}: ')
  assert message in str(caught.value)


@pytest.mark.parametrize('missing', ['id', 'instruction', 'evaluator'])
def test_missing_fields(write, missing):
  path = write()
  value = example()
  del value[missing]
  path.write_text(json.dumps(value))
  with pytest.raises(checks.TaskError, match=f'expected a field {missing}'):
    tasks.load(path)


@pytest.mark.parametrize('text', ['', '{', '[]', '3', 'null', '[' * 100_000])
def test_files_that_are_no_object(write, text):
  path = write()
  path.write_text(text)
  with pytest.raises(checks.TaskError, match='one.json: .*expected'):
    tasks.load(path)


def test_metrics_of_the_package_are_left_to_the_package(write):
  path = write(**evaluator(func='check_gnome_favorite_apps',
                           result={'type': 'vm_terminal_output'}))
  assert tasks.load(path, evaluator='desktop_env').evaluator is None
  with pytest.raises(checks.TaskError):
    tasks.load(path)


def test_folders_and_files(write, tmp_path):
  paths = [write('b'), write('a')]
  (tmp_path / 'a.solution.json').write_text(json.dumps(
      {'steps': [{'verb': 'done'}]}))
  assert [task.id for task in tasks.load_all(tmp_path)] == ['a', 'b']
  assert [task.id for task in tasks.load_all(paths)] == ['b', 'a']
  assert tasks.load_all(str(paths[1]))[0].solution.steps == (
      {'verb': 'done'},)
  with pytest.raises(checks.TaskError, match="got 'a' twice"):
    tasks.load_all([paths[1], paths[1]])
  (tmp_path / 'empty').mkdir()
  for nothing in (tmp_path / 'empty', tmp_path / 'none', ()):
    with pytest.raises(checks.TaskError, match='expected'):
      tasks.load_all(nothing)


MENU = {'kind': 'menu', 'text': 'File'}


@pytest.mark.parametrize('solution, message', [
    ({}, 'expected a field steps'),
    ({'steps': []}, 'steps: expected steps of which the last is done'),
    ({'steps': [{'verb': 'back'}]}, 'steps: expected steps of which the last'),
    ({'steps': [{'verb': 'fail'}, {'verb': 'done'}]},
     'steps: expected steps of which the last is done'),
    ({'steps': [{'verb': 'done'}], 'right': []},
     'right: expected no such field'),
    ({'steps': [{'verb': 'press'}]}, 'steps[0].verb: expected one of click'),
    ({'steps': [{'verb': 'click'}]}, 'steps[0]: expected a field element'),
    ({'steps': [{'verb': 'click', 'element': {'name': 'File'}}]},
     'steps[0].element.name: expected no such field'),
    ({'steps': [{'verb': 'done', 'element': MENU}]},
     'steps[0].element: expected no such field'),
    ({'steps': [{'verb': 'type', 'element': MENU}]},
     'steps[0]: expected a field word'),
    ({'steps': [{'verb': 'done'}], 'wrong': []}, 'wrong: expected steps of'),
    ({'steps': [{'verb': 'done'}],
      'wrong': [{'verb': 'type', 'element': MENU, 'word': 'b.txt'}]},
     'wrong[0].word: expected a word of the instruction'),
])
def test_wrong_solutions_name_file_and_field(write, solution, message):
  path = write()
  beside = path.with_name('one.solution.json')
  beside.write_text(json.dumps(solution))
  with pytest.raises(checks.TaskError) as caught:
    tasks.load(path)
  assert str(caught.value).startswith(f'{beside}: ')
  assert message in str(caught.value)


def test_the_command_checks_folders(write, tmp_path, capsys, monkeypatch):
  path = write('a', **step('download', files=[
      {'url': 'https://a/b', 'path': '/b'}]))
  assert tasks.main([str(tmp_path)]) == 0
  assert capsys.readouterr().out == (
      '1 tasks are right, 0 have a solution\n')
  asked = []
  monkeypatch.setattr(
      client_lib, 'download', lambda url, cache: asked.append(url))
  assert tasks.main([str(tmp_path), '--download']) == 0
  assert asked == ['https://a/b']  # and not the source
  path.write_text('{}')
  assert tasks.main([str(tmp_path)]) == 2
  assert capsys.readouterr().err.startswith(f'{path}: ')


# Running the steps.


@pytest.fixture
def context(tmp_path):
  (tmp_path / 'a.txt').write_text('content')
  with fake_desktop.FakeDesktop(home='/home/ann') as fake:
    with client_lib.Client(fake.address, retry_pause=0.) as client:
      yield fake, setup.Context(
          client=client, folder=tmp_path, cache=tmp_path / 'cache',
          password='secret')


def run(context, kind, **parameters):
  setup.run_steps([{'type': kind, 'parameters': parameters}], context)


def test_steps_reach_the_desktop(context, monkeypatch):
  fake, context = context
  slept = []
  monkeypatch.setattr(setup.time, 'sleep', slept.append)
  run(context, 'upload_file', files=[
      {'local_path': 'a.txt', 'path': '{HOME}/b.txt'}])
  run(context, 'download', files=[
      {'url': 'file://a.txt', 'path': '{HOME}/c.txt'}])
  assert fake.files == {'/home/ann/b.txt': b'content',
                        '/home/ann/c.txt': b'content'}
  run(context, 'launch', command='mousepad {HOME}/b.txt')
  run(context, 'launch', command='a | b', shell=True)
  run(context, 'open', path='{HOME}/b.txt')
  run(context, 'execute', command=['echo', '{CLIENT_PASSWORD}',
                                   '{SCREEN_WIDTH}x{SCREEN_HEIGHT_HALF}'])
  run(context, 'command', command='ls', shell=True)
  run(context, 'activate_window', window_name='b', strict=True)
  run(context, 'close_window', window_name='b')
  run(context, 'sleep', seconds=7)
  assert slept == [7]
  assert [pair for pair in fake.requests if pair[0] in (
      '/execute', '/setup/launch', '/setup/open_file',
      '/setup/activate_window', '/setup/close_window')] == [
      ('/setup/launch', {'command': ['mousepad', '/home/ann/b.txt'],
                         'shell': False}),
      ('/setup/launch', {'command': 'a | b', 'shell': True}),
      ('/setup/open_file', {'path': '/home/ann/b.txt'}),
      ('/execute', {'command': ['echo', 'secret', '1280x360'],
                    'shell': False}),
      ('/execute', {'command': 'ls', 'shell': True}),
      ('/setup/activate_window', {'window_name': 'b', 'strict': True}),
      ('/setup/close_window', {'window_name': 'b'})]
  assert fake.count('/desktop_path') == 1


def test_a_web_file_goes_through_the_cache(context, monkeypatch):
  fake, context = context
  monkeypatch.setattr(
      client_lib, 'download', lambda url, cache: f'{url} {cache.name}'.encode())
  run(context, 'download', files=[{'url': 'https://a/b', 'path': '/c'}])
  assert fake.files == {'/c': b'https://a/b cache'}


def test_execute_until(context, monkeypatch):
  fake, context = context
  monkeypatch.setattr(setup, '_UNTIL_PAUSE', 0.)
  outputs = [('', 1), ('almost', 1), ('there', 1)]
  fake.on_execute = lambda _: outputs.pop(0)
  run(context, 'execute', command=['x'], until={'stdout': 'there'})
  assert not outputs
  monkeypatch.setattr(setup, '_UNTIL_SECONDS', 0.)
  fake.on_execute = lambda _: ('', 1)
  with pytest.raises(client_lib.DesktopError, match='did not get to'):
    run(context, 'execute', command=['x'], until={'returncode': 0})


def test_what_a_command_returns_and_windows_that_are_gone_are_ignored(context):
  fake, context = context
  fake.on_execute = lambda _: ('', 1)
  run(context, 'execute', command=['false'])
  fake.failures['/setup/activate_window'] = [404]
  run(context, 'activate_window', window_name='gone')
  fake.failures.update({'/execute': [500], '/setup/launch': [500]})
  run(context, 'execute', command=['not-there'])
  run(context, 'launch', command=['not-there'])


@pytest.mark.parametrize('kind, route, parameters, failure', [
    ('launch', '/setup/launch', {'command': 'a'}, 'drop'),
    ('open', '/setup/open_file', {'path': '/a'}, 'error'),
    ('execute', '/execute', {'command': 'a'}, 'drop'),
])
def test_failures_of_the_desktop_come_through(
    context, kind, route, parameters, failure):
  fake, context = context
  fake.failures[route] = [failure]
  with pytest.raises(client_lib.DesktopError, match=re.escape(route)):
    run(context, kind, **parameters)


def test_a_download_that_fails_is_one_sentence(context, monkeypatch):
  _, context = context

  def refuse(self, url):
    raise httpx.ConnectError('no network')

  monkeypatch.setattr(httpx.Client, 'get', refuse)
  with pytest.raises(client_lib.DesktopError,
                     match='^https://a/b could not be downloaded: .*network'):
    run(context, 'download', files=[{'url': 'https://a/b', 'path': '/c'}])


# Lists of ids, and what cannot be played.


@pytest.fixture
def evaluation_examples(tmp_path):
  """OSWorld's folder with four tasks, of which our evaluators cover one."""
  theirs = {'func': 'compare_pptx_files', 'result': FILE, 'expected': FILE}
  for name, fields in (
      ('os/a', {}), ('os/b', {'evaluator': theirs, 'proxy': True}),
      ('chrome/c', {'evaluator': theirs}),
      ('chrome/d', step('googledrive', settings_file='x'))):
    path = tmp_path / 'examples' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(example(id=path.stem, **fields)))
  return tmp_path


@pytest.mark.parametrize('name, text, found', [
    ('all.json', '{"os": ["b", "a"], "chrome": ["d"]}', 'bad'),
    ('mine.txt', '# mine\n\nchrome/c\n a \n', 'ca'),
    ('examples', None, 'cdab'),
    ('examples/os', None, 'ab'),
    ('wrong.txt', 'os/c', "expected ids of task files in .*, got 'os/c'"),
    ('wrong.json', '{"os": ["../os/z"]}', "got 'os/../os/z'"),
    ('none.txt', '#', 'expected ids, a line each'),
    ('examples/os/far.txt', 'a', 'expected the folder .*examples beside')])
def test_lists_of_ids(evaluation_examples, name, text, found):
  path = evaluation_examples / name
  if text:
    path.write_text(text)
  if found.startswith(('expected', 'got')):
    with pytest.raises(checks.TaskError, match=found):
      task_lists.find_split((str(path),), 'train')
  else:
    assert ''.join(pathlib.Path(file).stem for file in task_lists.find_split(
        (str(path),), 'train')) == found


def test_what_cannot_be_played_is_counted(evaluation_examples, capsys):
  paths = task_lists.find(evaluation_examples / 'examples')
  for evaluator, played, theirs, kinds in (
      ('own', 'a', 0, '2 x evaluator.func: expected one of.*; 1 x config.type'),
      ('auto', 'cab', 2, 'd.json: needs a Google account'),
      ('desktop_env', 'cab', 3, 'd.json: needs a Google account')):
    loaded, wrong = tasks.survey(paths, evaluator=evaluator)
    assert ''.join(task.id for task in loaded) == played
    assert sum(task.evaluator is None for task in loaded) == theirs
    assert len(wrong) == 4 - len(played)
    with pytest.raises(checks.TaskError, match=kinds):
      tasks.load_all(evaluation_examples / 'examples', evaluator=evaluator)
  assert tasks.load(paths[1], evaluator='auto').needs
  folder = str(evaluation_examples / 'examples')
  assert tasks.main([folder, '--evaluator=auto']) == 2
  output = capsys.readouterr()
  assert output.out == '3 tasks are right, 0 have a solution, 2 are for ' + (
      'desktop-env\n')
  assert output.err.count('needs a Google account') == 2
  wrong = evaluation_examples / 'examples/os/a.json'
  wrong.write_text(json.dumps(example(evaluator={})))
  with pytest.raises(checks.TaskError, match='evaluator: expected a field fun'):
    tasks.load(wrong, evaluator='desktop_env')


def test_notes_are_said_once(evaluation_examples):
  paths = task_lists.find(evaluation_examples / 'examples' / 'os')
  for proxies, sentences in (('', 1), ('proxies.json', 0)):
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(judge.upstream, 'check', lambda *_: None)
      patch.setattr(judge, '_ask_what_is_lacking', lambda *_: {})
      wrong, notes = judge.examine(
          paths, evaluator='auto', desktop_env_python='x', proxies=proxies,
          pause=1.)
    assert not wrong
    assert sum('1 of 2 tasks ask for a proxy' in x for x in notes) == sentences


def test_what_a_task_downloads():
  assert list(tasks.urls({'a': [
      {'url': 'https://a/b', 'path': '/b'}, {'url': 'https://a/rule'},
      {'url': 'file://near', 'path': '/c'},
      {'type': 'cloud_file', 'path': ['https://a/1', 'https://a/2']},
      {'type': 'vm_file', 'path': 'https://a/none'}]})) == [
          'https://a/b', 'file://near', 'https://a/1', 'https://a/2']


def _coverage():
  """The table of docs/osworld.md by domain: files, infeasible, ours, the
  package's, of Google, lacking, by proxy."""
  page = pathlib.Path(__file__).parents[1] / 'docs' / 'osworld.md'
  rows = re.findall(r'(?m)^\| (\w+) \| (\d+) \|(.*) (\d+) \+ (\d+) \|(.*)\|$',
                    page.read_text())
  return {domain: [int(files), *(int(cell or 0) for cell in (
      before.split('|')[-2], ours, theirs, *map(str.strip, after.split('|'))))]
          for domain, files, before, ours, theirs, after in rows}


def test_all_tasks_of_osworld():
  """Opt-in: STEP_JAX_OSWORLD is the folder evaluation_examples.

  With STEP_JAX_DESKTOP_ENV_PYTHON the package says, too, what it lacks.
  """
  folder = os.environ.get('STEP_JAX_OSWORLD')
  if not folder:
    pytest.skip('STEP_JAX_OSWORLD names no folder evaluation_examples')
  paths = task_lists.find(pathlib.Path(folder) / 'test_all.json')
  loaded, wrong = tasks.survey(paths, evaluator='auto')
  python = os.environ.get('STEP_JAX_DESKTOP_ENV_PYTHON')
  lacking = {path: '' for path in judge.examine(
      paths, evaluator='auto', desktop_env_python=python)[0]
             if path not in wrong} if python else {}
  found = {}
  for kind, these in enumerate((
      paths,
      [x.path for x in loaded if x.evaluator and not x.evaluator.tests],
      [x.path for x in loaded if x.evaluator],
      [x.path for x in loaded if not x.evaluator],
      [path for path in wrong if 'needs a Google account' in wrong[path]],
      lacking,
      [x.path for x in loaded if x.proxy])):
    for path in these:
      for domain in (pathlib.Path(path).parent.name, 'all'):
        found.setdefault(domain, [0] * 7)[kind] += 1
  for row in found.values():
    row[3] -= row[5]
  expected = _coverage()
  if not python:
    for row in expected.values():
      row[3], row[5] = row[3] + row[5], 0
  assert found == expected
  assert found['all'][:3] == [369, 29, 90]
  assert len([tasks.load(x, evaluator='desktop_env') for x in paths]) == 369
