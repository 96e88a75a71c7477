"""The steps of a task; as in the package, some errors are swallowed."""

import os
import uuid

import requests

PROXY_CONFIG_FILE = 'none'


class SetupController:

  def __init__(self, vm_ip, server_port, chromium_port, vlc_port, cache_dir,
               client_password):
    self.http_server = f'http://{vm_ip}:{server_port}'
    self.chrome = f'http://{vm_ip}:{chromium_port}'
    self.vlc = f'http://{vm_ip}:{vlc_port}'
    self.cache_dir = cache_dir
    self.client_password = client_password

  def reset_cache_dir(self, cache_dir):
    self.cache_dir = cache_dir

  def setup(self, config, use_proxy=False):
    for step in config:
      getattr(self, f'_{step["type"]}_setup')(**step['parameters'])
    return True

  def _proxy_setup(self, client_password):
    self._execute_setup(['proxy', PROXY_CONFIG_FILE, client_password])

  def _download_setup(self, files):
    for file in files:
      path = os.path.join(
          self.cache_dir, str(uuid.uuid5(uuid.NAMESPACE_URL, file['url'])))
      if not os.path.exists(path):
        response = requests.get(file['url'], stream=True)
        response.raise_for_status()
        with open(path, 'wb') as cached:
          for chunk in response.iter_content(chunk_size=8):
            cached.write(chunk)
      with open(path, 'rb') as cached:
        requests.post(
            self.http_server + '/setup/upload', {'file_path': file['path']},
            files={'file_data': cached}).raise_for_status()

  def _execute_setup(self, command, shell=False):
    try:
      requests.post(self.http_server + '/execute', json={
          'command': command, 'shell': shell})
    except requests.RequestException:
      print('logged')

  def _launch_setup(self, command):
    requests.post(self.http_server + '/setup/launch', json={
        'command': command})  # what it answers is logged

  def _open_setup(self, path):
    requests.post(self.http_server + '/setup/open_file',
                  json={'path': path}).raise_for_status()

  def _chrome_open_tabs_setup(self, urls_to_open):
    for url in urls_to_open:
      requests.post(self.chrome + '/setup/tab', json={'url': url})
      requests.post(self.vlc + '/setup/tab', json={'url': url})
