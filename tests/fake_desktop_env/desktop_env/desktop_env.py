"""The package's environment, with the getters and metrics of the tests."""

import os
import sys
import time

import requests

from desktop_env.controllers import setup

create_vm_manager_and_provider = None  # the service has its own


def _exact_match(result, expected):
  return float(result == expected)


def _length(result, expected):
  return float(len(result) == len(expected))  # a TypeError where there is none


def _import_nothing(*_):
  import no_such_package  # noqa: F401


def _hang(*_):
  os.system('sleep 60')


def _exit(*_):
  sys.exit('done')  # as a program of the agent's that is run


def _die(*_):
  print('out of memory')
  os._exit(1)


METRICS = {'exact_match': _exact_match, 'length': _length, 'die': _die,
           'exit': _exit, 'hang': _hang, 'import_nothing': _import_nothing}


class DesktopEnv:

  def __init__(self, *, provider_name, cache_dir, os_type, screen_size,
               require_a11y_tree, client_password):
    print('noise of the package')
    self.cache_dir_base = cache_dir
    self.enable_proxy = False
    self.action_history = []
    manager, provider = create_vm_manager_and_provider(provider_name, None)
    host, port, chrome, _, vlc = provider.get_ip_address('').split(':')
    self.server = f'http://{host}:{port}'
    self.setup_controller = setup.SetupController(
        host, int(port), int(chrome), int(vlc), cache_dir, client_password)

  def _set_task_info(self, task):
    self.cache_dir = os.path.join(self.cache_dir_base, task['id'])
    os.makedirs(self.cache_dir, exist_ok=True)
    self.config = task.get('config', [])
    self.evaluator = task['evaluator']
    if self.evaluator['func'] != 'infeasible':
      self.metric = METRICS[self.evaluator['func']]

  def evaluate(self):
    self.setup_controller.setup(
        self.evaluator.get('postconfig', []), self.enable_proxy)
    failed = self.action_history == ['FAIL']
    if self.evaluator['func'] == 'infeasible' or failed:
      return int(failed and self.evaluator['func'] == 'infeasible')
    return self.metric(*(
        getattr(self, f'_{getter["type"]}')(getter)
        for getter in (self.evaluator['result'], self.evaluator['expected'])))

  def _vm_file(self, getter):
    for _ in range(2):
      try:
        response = requests.post(
            self.server + '/file', {'file_path': getter['path']})
        if response.status_code == 200:
          return response.content
      except requests.RequestException:
        time.sleep(.01)
    return None

  def _vm_command_line(self, getter):
    response = requests.post(
        self.server + '/execute', json={'command': getter['command']})
    return response.json()['output'] if response.status_code == 200 else None

  def _cloud_file(self, getter):
    path = os.path.join(self.cache_dir, getter['dest'])
    if not os.path.exists(path):
      response = requests.get(getter['path'], stream=True)
      response.raise_for_status()
      with open(path, 'wb') as file:
        for chunk in response.iter_content(chunk_size=8):
          file.write(chunk)
          time.sleep(.01)
    with open(path, 'rb') as file:
      return file.read()
