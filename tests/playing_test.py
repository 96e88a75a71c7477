"""Tests of an episode that is played for people, on Desk."""
import types

import gymnasium
import numpy as np
from PIL import Image
import pytest

from step_jax.envs.desk import env as desk
from step_jax.policies import element
from step_jax.rollout import simulation
from step_jax.rollout import workers
from step_jax.rollout.actors import local
from step_jax.runs import episodes
from step_jax.runs import errors
from step_jax.runs import playing

_TASKS = ('bluetooth-on',)
_CODEC = element.make_codec(1)


class _WithExpert(gymnasium.Wrapper):

  def reset(self, *, seed=None, options=None):
    return self.env.reset(seed=seed, options=options | {'expert': True})


def test_what_is_played_can_be_played_again(tmp_path):
  collect = simulation.make_collect(
      desk.make_simulator(_TASKS, 15), None, _CODEC, max_steps=15, num_lanes=1)
  episode = episodes.select(
      collect([workers.Job(0, 0, 5)]), np.array([0]), _TASKS, kind='round',
      rounds=0)
  env = _WithExpert(desk.DeskEnv(_TASKS, render_mode='rgb_array'))
  again = playing.replay(env, _CODEC, episode, task_id=0)
  assert again == ('', 1, [])
  frames, reward = playing.play(
      env, _CODEC, local.expert_actor, task_id=0, seed=5)
  assert (len(frames), reward) == (episode.about[0]['steps'], 1)
  env.reset(seed=5, options={'task_id': 0})
  np.testing.assert_array_equal(np.asarray(frames[0]), env.render())
  playing.write_gif(tmp_path / 'x.gif', frames)
  with Image.open(tmp_path / 'x.gif') as picture:
    assert 1 < picture.n_frames <= len(frames)  # equal frames are one
    assert picture.info['duration'] % 700 == 0


def test_points_are_drawn_where_there_is_a_picture():
  env = types.SimpleNamespace(render=lambda: np.zeros((100, 200, 3), np.uint8))
  env.unwrapped = env
  frame = np.asarray(playing._frame(
      env, {'text': '', 'point': [.5, .25], 'box': [.1, .1, .2, .2]},
      np.zeros(3)))
  places = np.argwhere(frame[..., 0] > 100)
  assert places.min(0).tolist() == [10, 20]
  assert abs(places[places[:, 1] > 70].mean(0) - [25, 100]).max() < 1


def test_an_environment_that_renders_nothing_is_told():
  env = desk.DeskEnv(_TASKS)
  with pytest.raises(errors.UserError, match='shows pictures for a GIF'):
    playing.play(env, _CODEC, lambda rows: None, task_id=0, seed=5)
  env = types.SimpleNamespace(render=lambda: None, unwrapped=None)
  with pytest.raises(errors.UserError, match='shows pictures for a GIF'):
    playing._frame(env, {'text': ''}, np.zeros(3))
