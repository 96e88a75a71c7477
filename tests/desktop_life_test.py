"""Folders of desktops whose processes were all killed at once."""

import fcntl
import os
import pathlib
import tempfile

import pytest

from step_jax.envs.osworld.desktop import life


@pytest.fixture(autouse=True, name='place')
def made_place(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
  return tmp_path


def test_only_what_nobody_uses_is_removed(place):
  abandoned, lock = life.make_folder()
  os.close(lock)  # as the end of the last process does
  (pathlib.Path(abandoned) / 'closed').mkdir(mode=0)
  used, lock = life.make_folder()
  (place / 'step_jax_desktop_env_0').mkdir()
  (place / 'step_jax_desktop_aaaaaaaa').touch()
  (place / 'elsewhere').mkdir()
  (place / 'step_jax_desktop_bbbbbbbb').symlink_to(place / 'elsewhere')
  before = set(os.listdir(place))
  life.remove_abandoned(None)
  assert before - set(os.listdir(place)) == {pathlib.Path(abandoned).name}
  os.close(lock)
  life.remove_abandoned(None)
  assert not os.path.exists(used)


def test_another_users_folder_stays(monkeypatch):
  folder, lock = life.make_folder()
  os.close(lock)
  owner = os.getuid()
  monkeypatch.setattr(os, 'getuid', lambda: owner + 1)
  life.remove_abandoned(None)
  assert os.path.exists(folder)
  life.remove_abandoned(owner)
  assert not os.path.exists(folder)


@pytest.mark.parametrize('is_slow', [False, True])
def test_a_folder_that_is_taken_for_abandoned_is_made_again(
    place, monkeypatch, is_slow):
  """Another desktop starts between the folder and its lock."""
  mkdtemp, made, held = tempfile.mkdtemp, [], []

  def disturbed(**options):
    made.append(mkdtemp(**options))
    if len(made) == 1 and is_slow:  # it has locked, and not yet removed
      held.append(os.open(made[0], os.O_RDONLY))
      fcntl.flock(held[0], fcntl.LOCK_EX)
    elif len(made) == 1:
      life.remove_abandoned(None)
    return made[-1]

  monkeypatch.setattr(tempfile, 'mkdtemp', disturbed)
  folder, lock = life.make_folder()
  assert folder == made[1]
  assert len(os.listdir(place)) == 1 + is_slow
  for descriptor in (lock, *held):
    os.close(descriptor)
