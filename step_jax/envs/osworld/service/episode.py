"""One order: a task's setup or its evaluation, by desktop-env's own code.

Runs in a process that is forked for it. What desktop-env downloads comes from
a cache that all share, whose files are written whole or not at all; what it
writes goes into a folder that only this episode has.

desktop-env takes a desktop that does not answer for one that lacks what was
asked for, and scores 0. The traffic is watched here, so that this is an error;
an evaluation that fails for any other reason is the agent's doing: it scores 0.
"""

import contextlib
import os
import sys
from typing import Any
from urllib import parse

_OURS = (ImportError, MemoryError, NotImplementedError)


def import_package() -> None:
  """Imports what every order needs."""
  from desktop_env import desktop_env  # noqa: F401


def work(order: dict[str, Any]) -> dict[str, Any]:
  """Does what an order says.

  Args:
    order: `do` ('setup', 'evaluate', or 'check' with `evaluators`, those of
      tasks by name, and nothing else), `task` (its JSON), `folder` (of its
      file), `address`, `chrome_port` and `vlc_port` (of the desktop), `token`,
      `screen_size`, `password`, `cache` (of the episode), `downloads`
      (`{url: path}`), `proxies` (a file, or ''), `failed` (the agent's last
      action said that it cannot be done).

  Returns:
    `score` (of an evaluation) and perhaps a `note` on it, `lacking` (of a
    check, what this version does not have, by name), or an `error`.
  """
  if order['do'] == 'check':
    found = {name: _lacking(x) for name, x in order['evaluators'].items()}
    return {'lacking': {name: x for name, x in found.items() if x}}
  os.chdir(order['folder'])
  traffic = Traffic(order['address'], order['token'], order['downloads'])
  traffic.watch()
  env = _make_env(order)
  if order['do'] == 'setup':
    if env.enable_proxy:
      env.setup_controller._proxy_setup(order['password'])
    done = env.setup_controller.setup(env.config, env.enable_proxy)
    return {} if done is not False else {
        'error': f'{order["address"]} does not answer'}
  env.action_history.append('FAIL' if order['failed'] else 'DONE')
  note = ''
  try:
    score = float(env.evaluate())
  except _OURS:
    raise
  except (Exception, SystemExit) as error:  # it may run the agent's program
    score, note = 0., f'{type(error).__name__}: {error}'
  if score < 1 and traffic.failures:
    return {'error': '; '.join(traffic.failures.values())}
  return {'score': score, 'note': note}


def _lacking(evaluator: dict[str, Any]) -> list[str]:
  """The metrics and getters of an evaluator that the package does not have."""
  from desktop_env.evaluators import getters
  from desktop_env.evaluators import metrics

  def listed(name: str) -> list[Any]:
    value = evaluator.get(name) or []
    return value if isinstance(value, list) else [value]

  names = {f'metric {name}': hasattr(metrics, name) for name in listed('func')
           if name != 'infeasible'}
  names |= {f'getter {state["type"]}': hasattr(getters, f'get_{state["type"]}')
            for state in (*listed('result'), *listed('expected')) if state}
  return [name for name, is_there in names.items() if not is_there]


def _make_env(order: dict[str, Any]) -> Any:
  from desktop_env import desktop_env

  if order['proxies']:
    setattr(sys.modules['desktop_env.controllers.setup'],
            'PROXY_CONFIG_FILE', order['proxies'])
  provider = _Provider(order)
  desktop_env.create_vm_manager_and_provider = (
      lambda *_, **__: (provider, provider))
  env = desktop_env.DesktopEnv(
      provider_name='docker', cache_dir=order['cache'], os_type='Ubuntu',
      screen_size=tuple(order['screen_size']), require_a11y_tree=False,
      client_password=order['password'])
  env.enable_proxy = env.current_use_proxy = bool(
      order['proxies'] and order['task'].get('proxy'))
  env._set_task_info(order['task'])
  env.setup_controller.reset_cache_dir(env.cache_dir)
  return env


def split(address: str) -> tuple[str, int]:
  """Returns host and port, of which desktop-env makes its own URLs.

  >>> split('http://10.0.0.1')
  ('10.0.0.1', 80)

  Raises:
    ValueError: for https, which it does not speak.
  """
  url = parse.urlsplit(address)
  if url.scheme != 'http' or not url.hostname:
    raise ValueError(f'expected http://HOST:PORT, got {address}')
  return url.hostname, url.port or 80


class _Provider:
  """A 'virtual machine' that is simply there."""

  def __init__(self, order: dict[str, Any]):
    host, port = split(order['address'])
    self._ports = (f'{host}:{port}:{order["chrome_port"]}:8006:'
                   f'{order["vlc_port"]}')  # 8006 is of VNC

  def get_vm_path(self, **_: Any) -> str:
    return ''

  def start_emulator(self, *_: Any) -> None:
    pass

  def stop_emulator(self, *_: Any) -> None:
    pass

  def get_ip_address(self, *_: Any) -> str:
    return self._ports


class Traffic:
  """What goes through the package requests.

  Args:
    address: of the desktop.
    token: sent to the desktop, and to nobody else.
    downloads: `{url: path}`, where a URL's content lies or is to be kept.
  """

  def __init__(self, address: str, token: str, downloads: dict[str, str]):
    import requests

    self.failures: dict[str, str] = {}  # by what was asked for last in vain
    self._address = 'http://{}:{}/'.format(*split(address))
    self._token = token
    self._send: Any = requests.Session.send
    self._downloads = {  # as requests spells the URLs
        requests.Request('GET', url).prepare().url: path
        for url, path in downloads.items()}

  def watch(self) -> None:
    import requests

    traffic = self

    def send(session: Any, request: Any, **kwargs: Any) -> Any:
      path = request.method == 'GET' and traffic._downloads.get(request.url)
      if not path and not request.url.startswith(traffic._address):
        return traffic._send(session, request, **kwargs)
      try:
        if path:
          response = traffic._download(session, request, path, kwargs)
          response.raise_for_status()
        else:
          if traffic._token:
            request.headers['Authorization'] = f'Bearer {traffic._token}'
          response = traffic._send(session, request, **kwargs)
      except (requests.RequestException, OSError) as error:
        traffic.failures[request.url] = f'{request.url} failed: {error}'
        raise
      traffic.failures.pop(request.url, None)
      return response

    setattr(requests.Session, 'send', send)

  def _download(self, session: Any, request: Any, path: str,
                kwargs: dict[str, Any]) -> Any:
    """Answers with a file of the shared cache, which is fetched if need be."""
    import requests

    if not os.path.exists(path):
      draft = f'{path}.{os.getpid()}'
      response = self._send(session, request, **kwargs)
      response.raise_for_status()
      os.makedirs(os.path.dirname(path), exist_ok=True)
      try:
        with open(draft, 'wb') as file:
          for chunk in response.iter_content(2**20):
            file.write(chunk)
        os.chmod(draft, 0o444)  # what an episode changes is its own
        os.replace(draft, path)
      finally:
        with contextlib.suppress(FileNotFoundError):
          os.remove(draft)
    response = requests.Response()
    response.status_code, response.url = 200, request.url
    response.headers['Content-Length'] = str(os.path.getsize(path))
    response.raw = open(path, 'rb')
    return response
