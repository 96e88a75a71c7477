"""The client of OSWorld's protocol: contract, retries, limits, token."""

import httpx
import pytest

from step_jax.envs.osworld import client as client_lib
from tests import fake_desktop

DesktopError = client_lib.DesktopError


@pytest.fixture
def fake():
  with fake_desktop.FakeDesktop() as fake:
    yield fake


@pytest.fixture
def client(fake, monkeypatch):
  monkeypatch.setattr(client_lib, '_SHORT', 1.)
  with client_lib.Client(fake.address, retry_pause=0.) as client:
    yield client


def test_it_speaks_the_contract(fake, client):
  fake.on_execute = lambda command: ('seen', 3)
  assert client.screenshot() == fake.picture
  assert client.accessibility() == fake.tree
  assert client.screen_size() == (1280, 720)
  assert client.home == '/home/user'
  client.write_file('/home/user/a b.txt', b'\0\xff')
  assert client.read_file('/home/user/a b.txt') == b'\0\xff'
  assert client.read_file('/home/user/none') is None
  assert client.execute(['ls', 'a b']) == ('seen', '', 3)
  client.launch('mousepad', shell=True)
  client.open_file('/a')
  client.activate_window(window_name='w', strict=True)
  client.close_window(window_name='w')
  assert [pair for pair in fake.requests if pair[0] != '/screen_size'] == [
      ('/screenshot', {}),
      ('/accessibility', {}),
      ('/desktop_path', {}),
      ('/setup/upload', {'file_path': '/home/user/a b.txt',
                         'file_data': b'\0\xff'}),
      ('/file', {'file_path': '/home/user/a b.txt'}),
      ('/file', {'file_path': '/home/user/none'}),
      ('/execute', {'command': ['ls', 'a b'], 'shell': False}),
      ('/setup/launch', {'command': 'mousepad', 'shell': True}),
      ('/setup/open_file', {'path': '/a'}),
      ('/setup/activate_window', {'window_name': 'w', 'strict': True}),
      ('/setup/close_window', {'window_name': 'w'})]


_READS = {
    '/screenshot': lambda c: c.screenshot(),
    '/accessibility': lambda c: c.accessibility(),
    '/screen_size': lambda c: c.screen_size(),
    '/file': lambda c: c.read_file('/a'),
    '/setup/upload': lambda c: c.write_file('/a', b'x'),
    '/desktop_path': lambda c: c.home,
}
_ACTIONS = {
    '/execute': lambda c: c.execute(['true']),
    '/setup/launch': lambda c: c.launch(['true']),
    '/setup/open_file': lambda c: c.open_file('/a'),
    '/setup/activate_window': lambda c: c.activate_window(window_name='w'),
    '/setup/close_window': lambda c: c.close_window(window_name='w'),
    '/reset': lambda c: c.reset(),
}


@pytest.mark.parametrize('route', _READS)
@pytest.mark.parametrize('failure', ['error', 'drop'])
def test_what_is_safe_to_repeat_is_repeated_twice(
    fake, client, route, failure):
  fake.failures[route] = [failure] * 2
  _READS[route](client)
  assert fake.count(route) >= 3
  before = fake.count(route)
  fake.failures[route] = [failure] * 3
  client._home = None
  with pytest.raises(DesktopError, match=route):
    _READS[route](client)
  assert fake.count(route) == before + 3


@pytest.mark.parametrize('route', _ACTIONS)
@pytest.mark.parametrize('failure', ['error', 'drop'])
def test_an_action_is_sent_once(fake, client, route, failure):
  fake.failures[route] = [failure]
  with pytest.raises(DesktopError, match=route):
    _ACTIONS[route](client)
  assert fake.count(route) == 1


@pytest.mark.parametrize('route', ['/screenshot', '/accessibility',
                                   '/screen_size', '/execute'])
def test_garbage_is_an_error(fake, client, route):
  fake.failures[route] = ['garbage']
  with pytest.raises(DesktopError, match=route):
    {**_READS, **_ACTIONS}[route](client)
  assert fake.count(route) == 1


def test_an_answer_without_its_field_is_an_error(client, monkeypatch, fake):
  monkeypatch.setattr(fake, '_reply', lambda *_: (200, b'{"width": "wide"}'))
  for call in (client.accessibility, client.screen_size,
               lambda: client.execute(['x'])):
    with pytest.raises(DesktopError, match='the answer has no'):
      call()


def test_a_refusal_is_not_repeated(fake, client):
  fake.failures['/screenshot'] = [403]
  with pytest.raises(DesktopError, match='403'):
    client.screenshot()
  assert fake.count('/screenshot') == 1


def test_a_frozen_server_ends_the_wait(fake, client, monkeypatch):
  monkeypatch.setattr(client_lib, '_SHORT', .2)
  monkeypatch.setattr(client_lib, '_RETRIES', 0)
  fake.failures['/accessibility'] = ['freeze']
  with pytest.raises(DesktopError, match='ReadTimeout'):
    client.accessibility()
  fake.failures['/execute'] = ['freeze']
  with pytest.raises(DesktopError, match='ReadTimeout'):
    client.execute(['true'], timeout=.2)


def test_an_answer_that_drips_is_cut_off_by_the_whole_limit(monkeypatch):
  now = [0.]
  monkeypatch.setattr(client_lib.time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(client_lib, '_RETRIES', 0)

  def drip():
    while True:
      now[0] += 1
      yield b' '

  transport = httpx.MockTransport(
      lambda request: httpx.Response(200, content=drip()))
  with client_lib.Client('http://x', transport=transport) as client:
    with pytest.raises(DesktopError, match='no end after'):
      client.screenshot()


def test_large_answers_are_cut_or_refused(fake, client, monkeypatch):
  monkeypatch.setattr(client_lib, 'MAX_FILE', 100)
  fake.files['/a'] = b'x' * 5000
  assert client.read_file('/a') == b'x' * 101
  with pytest.raises(DesktopError, match='more than 100 bytes'):
    client.screenshot()
  fake.on_execute = lambda _: 'x' * 200  # which an agent can cause
  with pytest.raises(client_lib.AnswerError, match='/execute failed: more'):
    client.execute(['cat', '/a'])


def test_a_command_may_take_as_long_as_osworld_s_server_lets_it():
  """120 s, then it answers with 500: a score of 0, and no lost episode."""
  def answer(request):
    assert request.extensions['timeout']['read'] > 120
    return httpx.Response(500, json={'message': 'timed out'})

  with client_lib.Client(
      'http://x', transport=httpx.MockTransport(answer)) as client:
    with pytest.raises(client_lib.AnswerError, match='timed out'):
      client.execute(['sleep', '1000'])


def test_nobody_at_the_address():
  with fake_desktop.FakeDesktop() as fake:
    address = fake.address
  with client_lib.Client(address, retry_pause=0.) as client:
    with pytest.raises(DesktopError, match=f'{address}/execute.*ConnectError'):
      client.execute(['true'])


def test_the_token_is_sent_with_every_request():
  with fake_desktop.FakeDesktop(token='secret') as fake:
    with client_lib.Client(fake.address, token='secret') as client:
      client.screenshot()
      assert client.reset()
    with client_lib.Client(fake.address, token='wrong') as client:
      with pytest.raises(DesktopError, match='401'):
        client.screenshot()


def test_the_token_follows_no_redirect(fake):
  hosts = []

  def answer(request):
    hosts.append(request.url.host)
    return httpx.Response(302, headers={'Location': fake.address})

  with client_lib.Client('http://desktop', token='secret',
                         transport=httpx.MockTransport(answer)) as client:
    with pytest.raises(DesktopError, match='302'):
      client.screenshot()
  assert hosts == ['desktop'] and not fake.requests


def test_proxies_of_the_surroundings_are_not_used(fake, client, monkeypatch):
  monkeypatch.setenv('http_proxy', 'http://127.0.0.1:9')
  with client_lib.Client(fake.address) as client:
    assert client.screen_size() == (1280, 720)


def test_a_server_without_reset_is_asked_once():
  with fake_desktop.FakeDesktop(can_reset=False) as fake:
    with client_lib.Client(fake.address) as client:
      assert not client.reset() and not client.reset()
    assert fake.count('/reset') == 1


@pytest.mark.parametrize('told, names', [
    (None, []), ([], []), (['a', 'b'], ['a', 'b']), ('odd', [])])
def test_applications_that_broke(fake, client, told, names):
  fake.crashed = told
  assert client.crashed() == names


@pytest.mark.parametrize('address', [
    '', 'localhost:5000', 'ftp://a', 'http://', 'http://a:b'])
def test_addresses_are_checked(address):
  with pytest.raises(ValueError, match='expected a desktop.s address'):
    client_lib.Client(address)


def test_downloads_are_kept_by_their_url(tmp_path):
  asked = []

  def answer(request):
    asked.append(str(request.url))
    status = 404 if 'none' in str(request.url) else 200
    return httpx.Response(status, content=str(request.url).encode())

  transport = httpx.MockTransport(answer)
  for url in ('https://a/x', 'https://a/y', 'https://a/x'):
    content = client_lib.download(url, tmp_path / 'c', transport=transport)
    assert content == url.encode()
  assert asked == ['https://a/x', 'https://a/y']
  assert {path.stat().st_mode & 0o777
          for path in (tmp_path / 'c').iterdir()} == {0o444}  # all share them
  for _ in range(2):  # a failure is not kept
    with pytest.raises(DesktopError, match='https://a/none could not be'):
      client_lib.download('https://a/none', tmp_path, transport=transport)
