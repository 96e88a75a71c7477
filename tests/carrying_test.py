"""Tests of pictures that travel with observations."""
import functools

import gymnasium
import numpy as np
import pytest

from step_jax.rollout import carrying
from step_jax.rollout import keeper
from step_jax.rollout import pictures


class _Filming(gymnasium.Env):
  """Three steps, each with a picture, but for the one that says -1."""
  observation_space = gymnasium.spaces.Dict({
      'screenshot': gymnasium.spaces.Box(-1, 999, (), np.int32),
      'step': gymnasium.spaces.Box(0, 9, (), np.int32)})

  def __init__(self, folder, failing=False):
    self._store = pictures.ScreenshotStore(folder)
    self._failing = failing
    self._step = 0

  def reset(self, *, seed=None, options=None):
    self._step = 0
    return self._look(), {'failure': 'broken'} if self._failing else {}

  def step(self, action):
    self._step += 1
    return self._look(), 0., self._step == 3, False, {'word': self._step}

  def _look(self):
    number = -1 if self._step == 2 else self._store.put(
        b'picture %d' % self._step)
    return {'screenshot': np.array(number, np.int32),
            'step': np.array(self._step, np.int32)}


def _say(env, *question):
  return 'result', *keeper._execute(env, *question)


def test_a_picture_comes_from_another_folder_under_a_number_of_this(
    tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  store = pictures.ScreenshotStore(tmp_path / 'here')
  for _ in range(5):  # of other environments
    store.put(b'other')
  env = carrying.CarriedPictures(_Filming, 'folder')
  there, = {*tmp_path.iterdir()} - {tmp_path / 'here'}
  messages = [_say(env, 'reset', {'seed': 1, 'options': None})]
  messages += [_say(env, 'step', 0) for _ in range(3)]
  assert len([*there.glob('*.png')]) == 2  # The last, and one nobody wants.
  got = [carrying.put_down(message, store) for message in messages]
  numbers = [message[1] and int(message[1]['screenshot']) for message in got]
  assert numbers == [5, 6, -1, None]
  assert got[1][1]['screenshot'].dtype == np.int32
  assert [store.read(number) for number in numbers[:2]] == [
      b'picture 0', b'picture 1']
  assert [message[-1] for message in got] == [
      {}, {'word': 1}, {'word': 2}, {'word': 3}]
  assert [message[3] for message in got] == [False] * 3 + [True]


@pytest.mark.parametrize('message', [
    ('ready',), ('error', 'KeyError', 'broken', ''),
    ('result', None, 0., False, {'failure': 'broken'})])
def test_what_carries_nothing_stays_as_it_is(tmp_path, message):
  assert carrying.put_down(message, None) is message
  store = pictures.ScreenshotStore(tmp_path)
  assert carrying.put_down(message, store) is message


def test_a_failure_carries_nothing(tmp_path, monkeypatch):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
  env = carrying.CarriedPictures(
      functools.partial(_Filming, failing=True), 'folder')
  _, info = env.reset()
  assert info == {'failure': 'broken'}
