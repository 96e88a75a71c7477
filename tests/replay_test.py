"""Tests of frames of an episode that is played again, on Desk."""
import numpy as np
import pytest

from configs import osworld
from experiments import collectors
from experiments import replay
from experiments import setups
from experiments import showing
from experiments import worlds
from step_jax.rollout import workers
from step_jax.runs import episodes
from step_jax.runs import errors
from step_jax.runs import playing
from tests import fake_config


def test_frames_show_what_the_action_hits(tmp_path):
  config = osworld.get_config()
  config.env.tasks = ('bluetooth-on',)
  world = worlds.make_world(config)
  setup = setups.make_setup(config, world)
  played = collectors.simulated(setup)(
      [workers.Job(0, 0, 5)], None, name='expert')
  episode = episodes.select(
      played, np.array([0]), world.tasks, kind='round', rounds=0)
  episodes.describe(episode, showing.make_reader(setup))
  again = replay.replay(config, tmp_path, episode, draw=True)
  assert (again.diverged, again.reward) == ('', 1)
  assert len(again.frames) == episode.about[0]['steps'] > 1
  red = [(np.asarray(frame) == [208, 48, 48]).all(axis=-1).sum()
         for frame in again.frames]
  assert red[0] > 300  # the outline of what is clicked
  playing.write_gif(tmp_path / 'x.gif', again.frames)
  assert (tmp_path / 'x.gif').read_bytes()[:3] == b'GIF'


def test_an_environment_without_pictures_is_told():
  config = fake_config.get_config()
  world = worlds.make_world(config)
  with pytest.raises(errors.UserError, match='tests.fake_world:ButtonEnv, '
                     'whose class takes no render_mode'):
    worlds.with_pictures(config, world)
  config.policy.name = 'qwen_vl'  # PictureEnv
  assert worlds.with_pictures(config, world) is world.make_env
