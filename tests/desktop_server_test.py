"""The bare desktop: its routes, its doors, its time limits and its end."""

import http.server
import io
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import xml.etree.ElementTree

import httpx
import numpy as np
import openpyxl
import PIL.Image
import pytest

from step_jax.envs.osworld.desktop import processes
from step_jax.envs.osworld.desktop import programs
from step_jax.envs.osworld.desktop import window_routes
from tests import desktops
from tests.desktops import desktop_fixture   # noqa: F401
from tests.desktops import session_desktop_fixture   # noqa: F401
from tests.desktops import start_desktop_fixture   # noqa: F401

pytestmark = pytest.mark.desktop

OWN = '\'); import os; os.system("touch owned"); (\''
NAMESPACES = {
    name: f'https://accessibility.ubuntu.example.org/ns/{word}'
    for name, word in (('st', 'state'), ('cp', 'component'))}


def _wait_for(condition, seconds=60):
  """Returns the first true value of `condition`, which must come in time."""
  deadline = time.monotonic() + seconds
  while not (value := condition()):
    assert time.monotonic() < deadline, condition
    time.sleep(0.05)
  return value


def _get_tree(machine):
  answer = machine.client.get('/accessibility')
  assert answer.status_code == 200
  return xml.etree.ElementTree.fromstring(answer.json()['AT'])


def _find(machine, path):
  """Waits for an element; spaces after GTK's menu names do not count."""
  return _wait_for(lambda: _get_tree(machine).findall(path, NAMESPACES))[0]


def _get_titles(machine):
  return machine.execute(['wmctrl', '-l'])['output']


def _open_mousepad(machine, *files):
  answer = machine.client.post(
      '/setup/launch', json={'command': ['mousepad', *files]})
  assert answer.text == ' '.join(['mousepad', *files]) + \
      ' launched successfully'
  _find(machine, './/frame[@st:active="true"]//text[@st:focused="true"]')


def _read_text(machine):
  return _get_tree(machine).find('.//text').text


def _get_middle(element):
  left, top, width, height = (
      int(number) for name in ('screencoord', 'size')
      for number in re.findall(r'-?\d+', element.get(
          f'{{{NAMESPACES["cp"]}}}{name}')))
  return left + width // 2, top + height // 2


def _upload(machine, path, data):
  return machine.client.post(
      '/setup/upload', data={'file_path': path},
      files={'file_data': ('name', data)})


# What can be seen.


def test_ready_line(desktop):
  assert re.fullmatch(
      r'desktop ready on http://127\.0\.0\.1:\d+ display :\d+\n', desktop.line)
  health = desktop.client.get('/health').json()
  assert health == {
      'status': 'ok', 'display': desktop.display, 'home': str(desktop.home),
      'crashed': [],
      'width': 1280, 'height': 720}


def test_screenshot_shows_the_window_and_the_pointer(desktop):
  def look():
    answer = desktop.client.get('/screenshot')
    assert answer.headers['Content-Type'] == 'image/png'
    image = PIL.Image.open(io.BytesIO(answer.content))
    assert (image.mode, image.size) == ('RGB', (1280, 720))
    return np.asarray(image)
  empty = look()
  assert set(np.unique(empty[:300])) == {0}   # nothing but the pointer
  assert empty[700:, 1260:].any()
  _open_mousepad(desktop)
  desktop.execute(['xdotool', 'mousemove', '0', '0'])
  assert (look()[200:500, 400:800] == 255).mean() > 0.9   # white paper


def test_accessibility_tree(desktop):
  _open_mousepad(desktop)
  root = _get_tree(desktop)
  assert root.tag == 'desktop-frame' and root.get('incomplete') is None
  assert [child.tag for child in root] == ['application']
  menu = root.find('.//menu[@name="File"]')
  assert len(menu) == 0   # It is closed.
  assert menu.get(f'{{{NAMESPACES["st"]}}}showing') == 'true'
  _click(desktop, './/menu[@name="File"]')
  item = _find(desktop, './/menu-item')
  assert item.get('name').strip() == 'New'
  assert item.get(f'{{{NAMESPACES["cp"]}}}size') == '(304, 25)'


def test_tree_has_what_is_typed(desktop):
  _open_mousepad(desktop)
  desktop.execute(['xdotool', 'type', '--', 'one & two < three'])
  _wait_for(lambda: _read_text(desktop) == 'one & two < three')


def test_tree_begins_with_the_active_window(desktop):
  _open_mousepad(desktop)
  desktop.client.post('/setup/launch', json={'command': ['pcmanfm']})
  for name in ('mousepad', 'pcmanfm', 'mousepad'):
    _wait_for(lambda: len(_get_tree(desktop)) == 2)
    title = {'mousepad': 'Mousepad', 'pcmanfm': 'user'}[name]
    assert desktop.client.post(
        '/setup/activate_window', json={'window_name': title}).text == \
        'Window activated successfully'
    _wait_for(lambda: _get_tree(desktop)[0].get('name') == name)
  desktop.execute(['xdotool', 'getactivewindow', 'windowminimize'])
  _wait_for(lambda: len(_get_tree(desktop)) == 1)


def test_file_manager_shows_the_files(desktop):
  _upload(desktop, '~/Documents/report.txt', b'1')
  desktop.client.post('/setup/launch', json={
      'command': ['pcmanfm', '~/Documents']})
  _find(desktop, './/icon')
  assert [icon.text for icon in _get_tree(desktop).iter('icon')] == [
      'report.txt']


def test_a_large_folder_gives_what_is_visible(desktop):
  desktop.client.post('/run_bash_script', json={
      'script': 'touch ~/Documents/file_{000..799}'})
  desktop.client.post('/setup/launch', json={
      'command': ['pcmanfm', '~/Documents']})
  _find(desktop, './/icon')
  assert 10 < len(list(_get_tree(desktop).iter('icon'))) < 100
  desktop.execute(['xdotool', 'key', 'ctrl+4'])
  _find(desktop, './/table-cell[@name="file_000"]')
  desktop.execute(['xdotool', 'key', 'End'])
  _find(desktop, './/table-cell[@name="file_799"]')
  tree = _get_tree(desktop)
  assert tree.find('.//table-cell[@name="file_000"]') is None


def _click(machine, path, button='1'):
  x, y = _get_middle(_find(machine, path))
  machine.execute([
      'xdotool', 'mousemove', str(x), str(y), 'click', button])


def _list_items(machine):
  return [item.get('name').strip()
          for item in _get_tree(machine).iter('menu-item')]


def test_menus_of_the_file_manager(desktop):
  """GTK 2 does not say which of its menus are open."""
  desktop.client.post('/setup/launch', json={'command': ['pcmanfm']})
  _click(desktop, './/menu[@name="File"]')
  _wait_for(lambda: 'Close Window' in _list_items(desktop))
  desktop.execute(['xdotool', 'key', 'Right'])
  _wait_for(lambda: 'Rename...' in _list_items(desktop))
  assert 'Close Window' not in _list_items(desktop)
  desktop.execute(['xdotool', 'key', 'Escape', 'Escape'])
  _wait_for(lambda: not _list_items(desktop))
  _click(desktop, './/icon', '3')
  _wait_for(lambda: 'Move to Trash' in _list_items(desktop))


def test_menus_of_calc(desktop):
  """They lie outside of the viewport that their bar lies in."""
  desktop.client.post('/setup/launch', json={'command': ['soffice', '--calc']})
  _find(desktop, './/table-cell')
  _click(desktop, './/menu[@name="Format"]')
  _click(desktop, './/menu-item[@name="Cells..."]')
  dialog = _find(desktop, './/dialog[@name="Format Cells"]//page-tab')
  assert dialog.get('name')
  assert _get_tree(desktop)[0][0].tag == 'dialog'   # It comes first.


def test_calc_shows_the_visible_cells(desktop):
  book = openpyxl.Workbook()
  for row in (('name', 'amount'), ('rent', 500), ('food', '=B2+1')):
    book.active.append(row)
  data = io.BytesIO()
  book.save(data)
  _upload(desktop, '~/sums.xlsx', data.getvalue())
  answer = desktop.client.post('/setup/open_file', json={'path': '~/sums.xlsx'})
  assert answer.text == 'File opened and window activated successfully'

  def read():
    cells = {cell.get('name'): cell.text
             for cell in _get_tree(desktop).iter('table-cell')}
    return 'M20' in cells and cells  # else cut: the server's time is limited

  cells = _wait_for(read, seconds=60)
  assert len(cells) < 1000
  assert [cells[name] for name in ('A1', 'B2', 'B3', 'C1', 'M20')] == [
      'name', '500', '501', None, None]
  _click(desktop, './/table-cell[@name="B3"]')   # It is where the tree says.
  _find(desktop, './/table-cell[@name="B3"][@st:focused="true"]')
  desktop.execute(['xdotool', 'key', 'ctrl+End', 'Next', 'Next'])
  _wait_for(lambda: _get_tree(desktop).find(
      './/table-cell[@name="A1"]') is None)


def test_small_questions(desktop):
  client = desktop.client
  assert client.get('/platform').text == 'Linux'
  assert client.post('/screen_size').json() == {'width': 1280, 'height': 720}
  assert client.get('/cursor_position').json() == [1270, 710]
  assert client.get('/terminal').json() == {
      'output': None, 'status': 'success'}
  assert client.post('/desktop_path').json() == {
      'desktop_path': str(desktop.home / 'Desktop')}
  _open_mousepad(desktop)
  size = client.post('/window_size', data={'app_class_name': 'mousepad'})
  assert size.json() == {'width': 640, 'height': 480}
  assert client.post('/window_size', data={
      'app_class_name': 'nothing'}).status_code == 404


# What can be done.


def test_execute(desktop):
  assert desktop.execute(['sh', '-c', 'echo out; echo err >&2; exit 3']) == {
      'status': 'success', 'output': 'out\n', 'error': 'err\n',
      'returncode': 3}
  assert desktop.execute('echo "two words"')['output'] == 'two words\n'
  assert desktop.execute('echo $HOME | tr / -', shell=True)['output'] == \
      str(desktop.home).replace('/', '-') + '\n'
  assert desktop.execute(['ls', '-d', '~/Desktop'])['output'] == \
      f'{desktop.home}/Desktop\n'
  answer = desktop.client.post('/setup/execute', json={'command': ['nothing']})
  assert answer.status_code == 500
  assert 'nothing' in answer.json()['message']


def test_pyautogui_as_the_upstream_client_sends_it(desktop):
  code = ('import pyautogui; import time; pyautogui.FAILSAFE = False; '
          'pyautogui.moveTo(100, 50, 0.1, pyautogui.easeInQuad); '
          'print(pyautogui.size())')
  assert desktop.execute(['python', '-c', code])['output'] == \
      'Size(width=1280, height=720)\n'
  assert desktop.client.get('/cursor_position').json() == [100, 50]


def test_reset_restores_the_window_manager(desktop):
  def get_borders():
    return desktop.execute('xprop -id $(xdotool getactivewindow) '
                           '_NET_FRAME_EXTENTS', shell=True)['output']
  _open_mousepad(desktop)
  usual = get_borders()
  assert desktop.client.post('/run_bash_script', json={
      'script': 'mkdir -p ~/.config/openbox && sed '
                's/Clearlooks/Bear2/ /etc/xdg/openbox/rc.xml '
                '> ~/.config/openbox/rc.xml && openbox --reconfigure'
  }).json()['status'] == 'success'
  _wait_for(lambda: get_borders() != usual)
  desktop.reset()
  _open_mousepad(desktop)
  _wait_for(lambda: get_borders() == usual)


@pytest.mark.parametrize('typist', [
    ['xdotool', 'type', '--'],
    ['python', '-c', 'import pyautogui, sys; pyautogui.write(sys.argv[1])']])
def test_text_is_typed_and_nothing_else(desktop, typist):
  text = ''.join(map(chr, range(32, 127))) + OWN
  _open_mousepad(desktop)
  desktop.execute([*typist, text])
  _wait_for(lambda: _read_text(desktop) == text)
  assert not list(desktop.home.rglob('owned'))


@pytest.mark.parametrize('command, shell', [
    ('mousepad & echo on', True), (['mousepad'], False),
    (['python', '-c', 'import subprocess; subprocess.Popen(["mousepad"])'],
     False)])
def test_a_window_does_not_block(desktop, command, shell):
  start = time.monotonic()
  answer = desktop.execute(command, shell=shell)
  assert time.monotonic() - start < 20   # and not the limit of 120
  assert answer['returncode'] == 0
  _wait_for(lambda: 'Mousepad' in _get_titles(desktop))


def test_scripts(desktop):
  client = desktop.client
  assert client.post('/run_python', json={'code': 'print(1 + 1)'}).json() == {
      'status': 'success', 'message': '2\n', 'need_more': False,
      'output': '2\n', 'error': '', 'return_code': 0}
  failed = client.post('/run_python', json={'code': 'raise OSError(7)'}).json()
  assert (failed['status'], failed['return_code']) == ('error', 1)
  assert failed['error'].endswith('OSError: 7\n')
  assert client.post('/run_bash_script', json={
      'script': 'pwd; echo bad >&2; exit 4', 'working_dir': '~/Desktop'
  }).json() == {'status': 'error', 'error': '', 'returncode': 4,
                'output': f'{desktop.home}/Desktop\nbad\n'}
  late = client.post('/run_bash_script', json={
      'script': 'sleep 60', 'timeout': 0.2})
  assert late.status_code == 500
  assert late.json()['returncode'] == -1
  assert 'timed out' in late.json()['output']


def test_execute_with_verification(desktop):
  request = {'command': 'mousepad &', 'shell': True, 'max_wait_time': 15,
             'check_interval': 0.1}
  answer = desktop.client.post('/setup/execute_with_verification', json={
      **request, 'verification': {
          'window_exists': 'mousepad', 'command_success': 'true'}})
  assert answer.json()['verification'] == 'passed'
  answer = desktop.client.post('/execute_with_verification', json={
      **request, 'max_wait_time': 0.2,
      'verification': {'command_success': 'false'}})
  assert answer.status_code == 500
  assert answer.json()['verification'] == 'failed'


def test_windows(desktop):
  _open_mousepad(desktop)
  for name, fields in (
      ('mouse', {}), ('Untitled 1 - Mousepad', {'strict': True}),
      ('mousepad.Mousepad', {'strict': True, 'by_class': True})):
    assert desktop.client.post('/setup/activate_window', json={
        'window_name': name, **fields}).status_code == 200, name
  for name, fields in (('mouse', {'strict': True}), ('calc', {})):
    assert desktop.client.post('/setup/close_window', json={
        'window_name': name, **fields}).status_code == 404
  assert desktop.client.post('/setup/close_window', json={
      'window_name': 'mousepad'}).text == 'Window closed successfully.'
  _wait_for(lambda: not _get_titles(desktop))


@pytest.mark.parametrize('data', [
    b'', b'text', b'\r\n--\r\n\0\xff--', bytes(range(256)) * 5000])
def test_files_arrive_whole(desktop, data):
  path = 'Desktop/new folder/a file'
  answer = _upload(desktop, f'~/{path}', data)
  assert answer.text == f'File Uploaded: {len(data)} bytes'
  for name in (f'~/{path}', f'$HOME/{path}', path, str(desktop.home / path)):
    assert desktop.client.post('/file', data={
        'file_path': name}).content == data
  assert desktop.client.post('/list_directory', json={
      'path': str(desktop.home / 'Desktop')}).json() == {'directory_tree': {
          'type': 'directory', 'name': 'Desktop', 'children': [
              {'type': 'directory', 'name': 'new folder', 'children': [
                  {'type': 'file', 'name': 'a file'}]}]}}


def test_download(desktop):
  with http.server.ThreadingHTTPServer(
      ('127.0.0.1', 0), _HelloHandler) as site:
    threading.Thread(target=site.serve_forever).start()
    url = f'http://127.0.0.1:{site.server_port}'
    answers = [desktop.client.post('/setup/download_file', json={
        'url': f'{url}/{name}', 'path': '~/new/hello'})
        for name in ('hello', 'missing')]
    site.shutdown()
  assert answers[0].text == 'File downloaded successfully: 5 bytes'
  assert answers[1].status_code == 500
  assert '404' in answers[1].text


class _HelloHandler(http.server.BaseHTTPRequestHandler):

  def do_GET(self):
    found = self.path == '/hello'
    self.send_response(200 if found else 404)
    self.end_headers()
    self.wfile.write(b'hello' if found else b'')

  def log_message(self, *_):
    pass


@pytest.mark.parametrize('command, process', [
    (['mousepad'], 'mousepad'), (['soffice', '--calc'], 'soffice.bin')])
def test_a_program_that_is_killed_has_crashed(desktop, command, process):
  def crashed():
    return desktop.client.get('/health').json()['crashed']

  desktop.client.post('/setup/launch', json={'command': command})
  desktop.execute(['true'])  # ends, and is no crash
  desktop.execute('exit 3', shell=True)
  _wait_for(lambda: 'mousepad' in _get_titles(desktop).lower()
            or 'calc' in _get_titles(desktop).lower())
  assert crashed() == []
  os.kill(desktop.find_process(process), signal.SIGKILL)
  assert _wait_for(crashed) == [command[0]]
  desktop.reset()
  assert crashed() == []


def test_wallpaper(desktop):
  assert desktop.client.post('/wallpaper').status_code == 404
  assert desktop.client.post('/setup/change_wallpaper', json={
      'path': '~/none'}).status_code == 404
  _upload(desktop, '~/sky.png', b'blue')
  assert desktop.client.post('/setup/change_wallpaper', json={
      'path': '~/sky.png'}).text == 'Wallpaper changed successfully'
  assert desktop.client.post('/wallpaper').content == b'blue'


def test_reset_restores(desktop):
  _open_mousepad(desktop)
  desktop.execute(['xdotool', 'type', 'unsaved'])
  desktop.execute('setsid sleep 1000 & echo 1 > ~/Desktop/left; rm -r '
                  '~/Music; mkdir ~/locked ~/locked/in; chmod 0 ~/locked; '
                  'echo ~/.config/mimeapps.list > ~/.config/mimeapps.list; '
                  'mkdir $TMPDIR/more; xdotool keydown shift', shell=True)
  before = desktop.list_processes()
  desktop.reset()
  assert not _get_titles(desktop)
  after = desktop.list_processes()
  assert set(after) < set(before)
  assert 'sleep' not in {pathlib.Path(f'/proc/{pid}/comm').read_text().strip()
                         for pid in after}
  assert sorted(path.name for path in desktop.home.glob('[!.]*')) == [
      'Desktop', 'Documents', 'Downloads', 'Music', 'Pictures', 'Public',
      'Templates', 'Videos']
  assert not list((desktop.home / 'Desktop').iterdir())
  assert 'pcmanfm' in (desktop.home / '.config/mimeapps.list').read_text()
  _open_mousepad(desktop)
  assert not _read_text(desktop)
  desktop.execute(['xdotool', 'type', 'a'])
  _wait_for(lambda: _read_text(desktop) == 'a')   # Shift is up again.


# The doors.


@pytest.mark.parametrize('options, sentence', [
    (['--host=0.0.0.0'], 'expected --token with --host 0.0.0.0, got none'),
    (['--host=::'], 'expected --token with --host ::, got none'),
    (['--port=65536'], 'expected a --port from 0 to 65535, got 65536'),
    (['--screen=big'], 'expected a --screen of WIDTHxHEIGHT'),
    (['--packages=/'], 'expected pyautogui in'),
    (['--host=127.0.0.1', '--port={busy}'],
     'expected a free address, got 127.0.0.1:{busy}: Address already in use'),
])
def test_wrong_options_are_refused(options, sentence):
  with socket.create_server(('127.0.0.1', 0)) as busy:
    port = busy.getsockname()[1]
    run = subprocess.run(
        desktops.make_command(*(o.format(busy=port) for o in options)),
        capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (2, '')
    assert run.stderr.startswith(sentence.format(busy=port))
    assert run.stderr.count('\n') == 1


def test_missing_programs_are_named():
  run = subprocess.run(
      desktops.make_command(), env={'PATH': '/nowhere'}, capture_output=True,
      text=True, timeout=60)
  assert run.returncode == 2
  assert re.fullmatch('expected Xvfb, openbox, .*, soffice on this machine, '
                      'got none: apt-get install xvfb .*\n', run.stderr)


@pytest.fixture(scope='module')
def guarded(start_desktop):
  """A desktop with a token, started as a user would."""
  return start_desktop(token='secret', command=[
      sys.executable, '-m', 'step_jax.envs.osworld.desktop', '--port=0',
      '--token=secret', '--screen=800x600'])


@pytest.mark.parametrize('header', [
    None, '', 'secret', 'Bearer wrong', 'Bearer secret2', 'Basic secret',
    'Bearer \xe9'.encode('latin-1')])
@pytest.mark.parametrize('method, path', [
    ('GET', '/health'), ('GET', '/screenshot'), ('POST', '/execute'),
    ('POST', '/setup/upload'), ('POST', '/reset'), ('POST', '/nothing')])
def test_token_is_asked_on_every_route(guarded, method, path, header):
  answer = httpx.request(
      method, guarded.address + path, trust_env=False,
      headers=None if header is None else {'Authorization': header},
      json={'command': ['touch', 'owned']} if path == '/execute' else None)
  assert answer.status_code == 401
  assert answer.json()['message'] == 'expected Authorization: Bearer SECRET'
  assert not (guarded.home / 'owned').exists()


@pytest.mark.skipif(os.geteuid() != 0, reason='asks for root')
def test_home_is_where_osworld_s_tasks_look_for_it(desktop, guarded):
  if guarded.execute('[ /home -ef ../ ]', shell=True)['returncode']:
    pytest.skip('mounts are forbidden here')
  for one in (desktop, guarded):
    assert one.client.post('/setup/upload', data={
        'file_path': '/home/user/Desktop/a'}, files={
            'file_data': one.display.encode()}).status_code == 200
    assert (one.home / 'Desktop/a').read_text() == one.display
  desktop.reset()
  assert desktop.execute(['ls', '/home/user/Desktop'])['output'] == ''
  assert not pathlib.Path('/home/user').exists() or not os.path.samefile(
      '/home/user', desktop.home)


def test_chromium_stands_for_chrome(tmp_path, monkeypatch):
  """Under the name that tasks start and kill, with its profile."""
  chromium = tmp_path / 'chromium'
  chromium.write_text('#!/bin/sh\necho $0 $*\n')
  chromium.chmod(0o755)
  monkeypatch.setattr(programs, '_CHROMIUM', str(chromium))
  monkeypatch.setenv('PATH', '/usr/bin:/bin')
  monkeypatch.setenv('HOME', '/h')
  monkeypatch.setattr(programs.shutil, 'which', lambda name: None)
  programs.name_chrome(str(tmp_path))
  said = subprocess.run(
      [tmp_path / 'google-chrome', '--remote-debugging-port=1337'],
      capture_output=True, text=True, check=True).stdout.split()
  assert said[0] == str(chromium)
  assert '--user-data-dir=/h/.config/google-chrome' in said
  assert said[-1] == '--remote-debugging-port=1337'
  assert '-x chromium' in (tmp_path / 'pkill').read_text()
  (tmp_path / 'other').mkdir()
  monkeypatch.setattr(programs.shutil, 'which', lambda name: '/usr/bin/x')
  programs.name_chrome(str(tmp_path / 'other'))
  assert not os.listdir(tmp_path / 'other')


def test_names_of_attributes_are_xml_s():
  """Which Debian's Python alone can import."""
  program = ('import runpy, sys; path, *names = sys.argv[1:]; '
             'load = runpy.run_path(path)["_import_sibling"]; '
             'print(*(load("markup").qualify("act", x) for x in names))')
  said = subprocess.run(
      ['/usr/bin/python3', '-I', '-c', program, str(desktops.PROGRAM),
       'press', '-', '1st', 'a b', ''],
      capture_output=True, text=True, check=True).stdout
  assert [name.partition('}')[2] for name in said.split()] == [
      'press', '_-', '_1st', 'a-b', '_']


def test_the_window_of_chromium_is_found_as_chrome_s():
  shown = [{'title': 'New Tab - Chromium', 'class': ['a', 'B'], 'id': 3},
           {'title': 'notes', 'class': ['c', 'D'], 'id': 4}]
  desktop = types.SimpleNamespace(ask_screen=lambda what: shown)
  for name, strict, expected in (
      ('google chrome', False, [3]), ('New Tab - Google Chrome', True, [3]),
      ('Chromium', False, [3]), ('Google Chrome', True, []),
      ('notes', True, [4])):
    assert window_routes.find(desktop, name, strict=strict) == expected


def test_token_opens_and_is_told_to_nobody(guarded):
  assert guarded.client.post('/screen_size').json() == {
      'width': 800, 'height': 600}
  assert guarded.execute(['env'])['output'].count('secret') == 0
  seen = guarded.execute('cat /proc/[0-9]*/cmdline', shell=True)['output']
  assert 'osworld/desktop' in seen and 'secret' not in seen


def test_desktops_are_apart(desktop, guarded):
  guarded.reset()
  assert desktop.display != guarded.display
  assert desktop.home != guarded.home
  _open_mousepad(desktop)
  assert not _get_titles(guarded)
  assert len(_get_tree(guarded)) == 0
  guarded.reset()
  assert _get_titles(desktop)


def test_pages_in_a_browser_are_refused(desktop):
  answer = desktop.client.post(
      '/execute', json={'command': ['touch', 'owned']},
      headers={'Origin': 'http://example.org'})
  assert answer.status_code == 403
  answer = desktop.client.post(   # A page may send this without being asked.
      '/execute', content='{"command": ["touch", "owned"]}',
      headers={'Content-Type': 'text/plain'})
  assert answer.status_code == 415
  assert not list(desktop.home.rglob('owned'))


def test_programs_have_no_privileges(desktop):
  user = int(desktop.execute(['id', '-u'])['output'])
  assert user != 0
  assert desktop.execute(['id', '-G'])['output'].split() == [
      str(user)] or os.geteuid()
  assert desktop.client.post(
      '/file', data={'file_path': '/etc/shadow'}).status_code == 500
  assert _upload(desktop, '/etc/owned', b'').status_code == 500
  assert desktop.folder.stat().st_mode & 0o077 == 0


def test_names_are_never_code(desktop):
  name = OWN.replace('/', '')
  assert _upload(desktop, f'~/{name}', b'data').status_code == 200
  assert desktop.client.post(
      '/file', data={'file_path': f'~/{name}'}).content == b'data'
  _open_mousepad(desktop, f'~/{name}'.replace('~', str(desktop.home)))
  _wait_for(lambda: name in _get_titles(desktop))
  for route in ('activate_window', 'close_window'):
    assert desktop.client.post(
        f'/setup/{route}', json={'window_name': name}).status_code == 200
  for route, field in (
      ('open_file', 'path'), ('change_wallpaper', 'path'),
      ('activate_window', 'window_name')):
    assert desktop.client.post(
        f'/setup/{route}', json={field: f'$(touch owned); {OWN}'}
    ).status_code == 404
  assert desktop.client.post('/setup/download_file', json={
      'url': f'http://127.0.0.1:9/{OWN}', 'path': OWN}).status_code == 500
  assert not list(desktop.home.rglob('owned'))


@pytest.mark.parametrize('path, request_, status, sentence', [
    ('/execute', {'content': '{'}, 400, 'expected JSON, got '),
    ('/execute', {'content': '[' * 100_000}, 400, 'expected JSON, got '),
    ('/execute', {'json': []}, 400, 'expected a JSON object, got list'),
    ('/execute', {'json': {}}, 400,
     'expected command in the request, got none'),
    ('/execute', {'json': {'command': []}}, 400, 'expected a command, got'),
    ('/execute', {'json': {'command': [1]}}, 400, 'expected words in command'),
    ('/execute', {'json': {'command': ['a\0b']}}, 400, 'expected words in'),
    ('/execute', {'json': {'command': '"'}}, 400, 'expected a command, got'),
    ('/execute', {'json': {'command': 'ls', 'shell': 'yes'}}, 400,
     'expected shell of type bool, got str'),
    ('/run_python', {'json': {'code': 3}}, 400,
     'expected code of type str, got int'),
    ('/setup/download_file', {'json': {'url': 'file:///etc', 'path': 'x'}},
     400, 'expected an http or https url, got file:///etc'),
    ('/file', {'data': {}}, 400, 'expected file_path in the request, got none'),
    ('/file', {'data': {'file_path': '/dev/zero'}}, 400, 'expected a file of'),
    ('/file', {'data': {'file_path': 'pipe'}}, 400, 'expected a file of at'),
    ('/setup/upload', {'data': {'file_path': 'x'}}, 400,
     'expected file_data in the request, got none'),
    ('/setup/upload', {
        'content': b'x', 'headers': {'Content-Type': 'multipart/form-data'}},
     400, 'expected a multipart form with a boundary, got none'),
    ('/screenshot', {}, 405, 'expected another method than POST for'),
    ('/nothing', {}, 404, 'expected a route of OSWorld, got /nothing'),
    ('/execute', {'content': iter([b'{}'])}, 411, 'expected a Content-Length'),
])
def test_bad_requests(desktop, path, request_, status, sentence):
  desktop.execute(['mkfifo', 'pipe'])
  if 'content' in request_:
    request_ = {**request_, 'headers': {
        'Content-Type': 'application/json', **request_.get('headers', {})}}
  answer = desktop.client.post(path, **request_)
  assert answer.status_code == status
  message = answer.json()['message']
  assert message.startswith(sentence) and '\n' not in message
  assert desktop.client.get('/platform').status_code == 200   # It goes on.


def test_a_large_request_is_refused_before_it_comes(desktop):
  url = httpx.URL(desktop.address)
  with socket.create_connection((url.host, url.port), timeout=10) as connection:
    connection.sendall(b'POST /execute HTTP/1.1\r\nContent-Length: 99999999\r\n'
                       b'Content-Type: application/json\r\n\r\n')
    answer = connection.makefile('rb').read()
  assert answer.startswith(b'HTTP/1.1 413 ')
  assert b'expected at most 67108864 bytes, got 99999999' in answer


# The time limits.


def test_a_hung_application_does_not_hang_the_tree(desktop):
  desktop.client.post('/setup/launch', json={'command': ['pcmanfm']})
  _find(desktop, './/frame[@name="user"]//icon')
  _open_mousepad(desktop)
  pid = desktop.find_process('mousepad')
  os.kill(pid, signal.SIGSTOP)
  tree = _get_tree(desktop)
  os.kill(pid, signal.SIGCONT)
  assert tree.get('incomplete') == 'true'
  assert tree.find('.//icon').text == 'Desktop'   # The other one is whole.
  assert _get_tree(desktop).get('incomplete') is None


def test_a_hung_screen_is_an_error(desktop):
  pid = desktop.find_process('Xvfb')
  os.kill(pid, signal.SIGSTOP)
  answer = desktop.client.get('/screenshot')
  os.kill(pid, signal.SIGCONT)
  assert answer.status_code == 500
  assert answer.json()['message'] == \
      'the helper for screen gave no answer within 5 s'
  assert _wait_for(lambda: desktop.client.get('/screenshot').is_success)


# The end.


def _get_alive(pids):
  alive = []
  for pid in pids:
    path = pathlib.Path(f'/proc/{pid}/stat')
    if path.exists() and path.read_text().rpartition(')')[2].split()[0] != 'Z':
      alive.append(pid)
  return alive


def test_the_office_leaves_nothing(start_desktop):
  machine = start_desktop()
  before = set(pathlib.Path('/tmp').glob('OSL_PIPE_*'))
  machine.client.post('/setup/launch', json={'command': ['soffice', '--calc']})
  _find(machine, './/table-cell')
  pipe, = set(pathlib.Path('/tmp').glob('OSL_PIPE_*')) - before
  machine.process.terminate()
  assert machine.process.wait(timeout=120) == 0
  assert not pipe.exists()


@pytest.mark.parametrize('victim, number, code', [
    ('first', signal.SIGTERM, 0), ('first', signal.SIGINT, 0),
    ('first', signal.SIGKILL, -9), ('keeper', signal.SIGKILL, 1),
    ('server', signal.SIGKILL, 1), ('Xvfb', signal.SIGKILL, 1),
    ('openbox', signal.SIGKILL, 1), ('at-spi2-registr', signal.SIGKILL, 1)])
def test_nothing_is_left(start_desktop, victim, number, code):
  machine = start_desktop()
  machine.execute(['setsid', '-f', 'sleep', '1000'])
  machine.execute(['sh', '-c', 'trap "" TERM; setsid -f mousepad'])
  first = machine.process.pid
  keeper, = processes.children(first)
  server = processes.children(keeper)[0]
  pids = machine.list_processes()
  assert len(pids) > 10
  os.kill({'first': first, 'keeper': keeper, 'server': server}.get(
      victim) or machine.find_process(victim), number)
  assert machine.process.wait(timeout=120) == code
  errors = machine.process.stderr.read()
  _wait_for(lambda: not _get_alive(pids))
  assert not machine.list_processes() - {first}
  _wait_for(lambda: not machine.folder.exists())
  assert not os.path.exists(f'/tmp/.X{machine.display[1:]}-lock')
  if code == 1 and victim not in ('keeper', 'server'):
    assert errors == f'the desktop ends: {victim} has ended\n'
  else:
    assert not errors


def test_ends_with_its_parent(tmp_path):
  line = tmp_path / 'line'
  with open(line, 'w') as file:
    parent = subprocess.Popen(
        ['sh', '-c', '"$@" & wait', 'sh',
         *desktops.make_command('--with-parent')], stdout=file)
  _wait_for(line.read_text)
  pids = processes.descendants(parent.pid)
  assert len(pids) > 8
  parent.kill()
  parent.wait()
  _wait_for(lambda: not _get_alive(pids))
