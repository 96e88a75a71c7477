"""The list of AndroidWorld's tasks, and the draw of those for training."""

import collections

import pytest

from step_jax.envs.androidworld import tasks as androidworld_tasks


def test_the_suite_is_that_of_the_paper():
  tasks, apps = androidworld_tasks.TASKS, androidworld_tasks.APPS
  assert len(tasks) == len(set(tasks)) == 116
  assert tasks == tuple(sorted(tasks)) == tuple(apps)
  counts = collections.Counter(app for names in apps.values() for app in names)
  assert len(counts) == 20
  assert counts['markor'] == 17 and counts['simple draw pro'] == 1
  assert apps['MarkorCreateNoteAndSms'] == ('markor', 'simple sms messenger')
  assert [task for task in tasks if not apps[task]] == [
      'OpenAppTaskEval', 'SystemCopyToClipboard']


@pytest.mark.parametrize('num_tasks', [20, 43, 116])
def test_every_draw_covers_every_app(num_tasks):
  apps = androidworld_tasks.APPS
  every_app = {app for names in apps.values() for app in names}
  splits = [androidworld_tasks.training_split(seed, num_tasks)
            for seed in range(50)]
  for split in splits:
    assert len(split) == len(set(split)) == num_tasks
    assert set(split) <= set(androidworld_tasks.TASKS)
    assert {app for task in split for app in apps[task]} == every_app
  assert splits == [androidworld_tasks.training_split(seed, num_tasks)
                    for seed in range(50)]
  drawn = set().union(*splits)
  assert len(drawn) > 100  # no task is left out by the way it is drawn


def test_the_draw_of_seed_0_stays():
  split = androidworld_tasks.training_split()
  assert split == androidworld_tasks.training_split(0, 43)
  # As numpy draws it; a run that is resumed has to find its tasks again.
  assert split[:3] == ('AudioRecorderRecordAudioWithFileName',
                       'BrowserMultiply', 'CameraTakePhoto')
  assert split[-1] == 'TurnOnWifiAndOpenApp'


@pytest.mark.parametrize('num_tasks', [19, 117])
def test_too_few_or_too_many_are_refused(num_tasks):
  with pytest.raises(
      ValueError, match=f'expected num_tasks from 20 to 116, got {num_tasks}'):
    androidworld_tasks.training_split(num_tasks=num_tasks)
