"""Leases: one holder an address, across processes, however they end."""

import os
import pathlib
import subprocess
import sys
import uuid

import pytest

from step_jax.envs import leases


class _Broken(RuntimeError):
  pass


@pytest.fixture
def take():
  """Takes one of some addresses, under a name that nobody else uses."""
  name = f'test_{uuid.uuid4().hex}'

  def lease(*addresses, check=lambda address: None, seconds=0.0):
    return leases.lease(addresses, name=name, check=check, error=_Broken,
                        seconds=seconds)

  lease.name = name
  yield lease
  folder = pathlib.Path('/tmp') / f'step_jax_{name}_{os.getuid()}'
  for path in folder.iterdir():
    path.unlink()
  folder.rmdir()


def test_an_address_has_one_holder_until_it_is_closed(take):
  with take('a', 'b') as first, take('a', 'b') as second:
    assert (first.address, second.address) == ('a', 'b')
    with pytest.raises(_Broken, match=f'one of 2 {take.name} to be free, got '
                       'none: use as many workers as there are addresses'):
      take('a', 'b')
    first.close()
    with take('a', 'b') as third:
      assert third.address == 'a'


def test_other_names_have_other_locks(take):
  with take('a'), leases.lease(
      ['a'], name=take.name + 'x', check=lambda address: None,
      error=_Broken) as other:
    assert other.address == 'a'
  folder = pathlib.Path('/tmp') / f'step_jax_{take.name}x_{os.getuid()}'
  for path in folder.iterdir():
    path.unlink()
  folder.rmdir()


def test_the_first_that_passes_the_check_is_taken(take):
  def check(address):
    if address != 'c':
      raise _Broken(f'{address} is broken')

  with take('a', 'b', 'c', check=check) as lease:
    assert lease.address == 'c'
    with pytest.raises(_Broken, match='a is broken'):
      take('a', 'b', 'c', check=check)
  with take('a', 'b') as lease:  # what failed is free again
    assert lease.address == 'a'


def test_another_error_of_the_check_frees_the_address(take):
  def check(address):
    raise KeyError(address)

  with pytest.raises(KeyError):
    take('a', check=check)
  with take('a') as lease:
    assert lease.address == 'a'


def test_what_failed_goes_last(take):
  with take('a', 'b') as lease:
    lease.distrust()
  with take('a', 'b') as lease:
    assert lease.address == 'b'
    lease.distrust()
  with take('a', 'b') as lease:
    assert lease.address == 'a'  # failed too, but longer ago


_HOLDER = '''
import sys
from step_jax.envs import leases
lease = leases.lease(['a'], name=sys.argv[1], check=lambda address: None,
                     error=RuntimeError)
print(lease.address, flush=True)
sys.stdin.read()
'''


def test_a_killed_process_holds_nothing(take):
  with subprocess.Popen(
      [sys.executable, '-c', _HOLDER, take.name], text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
    assert holder.stdout.readline() == 'a\n'
    with pytest.raises(_Broken, match='got none'):
      take('a')
    holder.kill()
    with take('a', seconds=10.) as lease:
      assert lease.address == 'a'


def test_what_is_taken_may_come_free_although_another_is_broken(
    take, monkeypatch):
  checked = []

  def check(address):
    checked.append(address)
    if address == 'a':
      raise _Broken('a is broken')

  held = take('b')
  with pytest.raises(_Broken, match='^a is broken$'):
    take('a', 'b', check=check, seconds=1000.)  # but not for long
  assert checked == ['a']
  monkeypatch.setattr(leases.time, 'sleep', lambda seconds: held.close())
  with take('a', 'b', check=check, seconds=1000.) as lease:
    assert lease.address == 'b' and checked == ['a', 'a', 'b']


def test_an_address_that_is_given_twice_is_one(take):
  with take('a', 'a/') as lease:
    assert lease.address == 'a'
    with pytest.raises(_Broken, match='one of 1 '):
      take('a/', 'a')


@pytest.mark.parametrize('addresses', ['abc', ()])
def test_addresses_have_to_be_a_list(addresses):
  with pytest.raises(ValueError, match='expected a list of addresses, got'):
    leases.lease(addresses, name='none', check=lambda address: None,
                 error=_Broken)


def test_a_folder_of_somebody_else_is_refused(take, tmp_path):
  folder = pathlib.Path('/tmp') / f'step_jax_{take.name}_{os.getuid()}'
  folder.symlink_to(tmp_path)
  with pytest.raises(ValueError, match='to belong to this user'):
    take('a')
  folder.unlink()
  folder.mkdir()
