"""Tests of a run's files: one owner, whole or not at all, sentences."""
import errno
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from step_jax.runs import files

_OWN_AND_DIE = """
import os, pathlib, runpy, signal, sys
files = runpy.run_path(sys.argv[1])
with files['owned'](pathlib.Path(sys.argv[2])):
  print('owned', flush=True)
  sys.stdin.read()
"""


def test_a_folder_has_one_owner_until_its_process_ends(tmp_path):
  folder = tmp_path / 'new' / 'run'
  command = sys.executable, '-c', _OWN_AND_DIE, files.__file__, str(folder)
  with subprocess.Popen(
      command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
    assert owner.stdout.readline() == b'owned\n'
    (folder / 'x.json.1.partial').touch()  # what it is writing
    with pytest.raises(files.FolderError, match='another process') as caught:
      with files.owned(folder):
        pass
    assert '\n' not in str(caught.value) and '--workdir' in str(caught.value)
    assert (folder / 'x.json.1.partial').exists()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
  with files.owned(folder) as is_new:
    assert not is_new
    assert os.listdir(folder) == ['lock']
  with files.owned(folder) as is_new:
    assert is_new


def test_a_file_is_no_folder(tmp_path):
  (tmp_path / 'file').touch()
  for folder in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    with pytest.raises(files.FolderError, match='to be a folder'):
      with files.owned(folder):
        pass


@pytest.mark.parametrize('step', ['write_bytes', 'replace', 'fsync'])
def test_a_full_disk_leaves_the_old_file_and_says_so(
    tmp_path, monkeypatch, step):
  path = tmp_path / 'x.json'
  files.replace(path, b'old')

  def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  with monkeypatch.context() as patch:
    patch.setattr(pathlib.Path if step == 'write_bytes' else os, step, full)
    with pytest.raises(files.WriteError) as caught:
      files.replace(path, b'new')
  assert str(path) in str(caught.value)
  assert 'No space left' in str(caught.value)
  assert '\n' not in str(caught.value)
  assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['x.json']


def test_a_file_is_on_the_disk_before_it_replaces_another(
    tmp_path, monkeypatch):
  seen = []

  def note(name):
    original = getattr(os, name)
    monkeypatch.setattr(
        os, name, lambda *args: (seen.append(name), original(*args))[1])

  for name in ('fsync', 'replace'):
    note(name)
  files.replace(tmp_path / 'x.json', b'new')
  assert seen == ['fsync', 'replace', 'fsync']  # the content, then its name
  assert (tmp_path / 'x.json').read_bytes() == b'new'
