"""AndroidWorld's 116 task types, their apps, and a draw of 43 for training.

Source: github.com/google-research/android_world at d9c569f (24 February 2026):
names from android_world/task_metadata.json, apps from the `app_names` of each
task's class and from tasks.textproto. Of these, the 20 apps of the paper
(Rawles et al., 2024, arXiv 2405.14573) are kept; its helpers (clipper, dialer)
are left out. The two tasks of no app open any app, and fill the clipboard.
"""

import numpy as np

NUM_TRAINING_TASKS = 43  # section 6 of STEP

_BY_APP = {
    'audio recorder': '''
        AudioRecorderRecordAudio AudioRecorderRecordAudioWithFileName''',
    'broccoli app': '''
        RecipeAddMultipleRecipes RecipeAddMultipleRecipesFromImage
        RecipeAddMultipleRecipesFromMarkor RecipeAddMultipleRecipesFromMarkor2
        RecipeAddSingleRecipe RecipeDeleteDuplicateRecipes
        RecipeDeleteDuplicateRecipes2 RecipeDeleteDuplicateRecipes3
        RecipeDeleteMultipleRecipes RecipeDeleteMultipleRecipesWithConstraint
        RecipeDeleteMultipleRecipesWithNoise RecipeDeleteSingleRecipe
        RecipeDeleteSingleWithRecipeWithNoise''',
    'camera': '''
        CameraTakePhoto CameraTakeVideo''',
    'chrome': '''
        BrowserDraw BrowserMaze BrowserMultiply''',
    'clock': '''
        ClockStopWatchPausedVerify ClockStopWatchRunning ClockTimerEntry''',
    'contacts': '''
        ContactsAddContact ContactsNewContactDraft''',
    'files': '''
        FilesDeleteFile FilesMoveFile''',
    'joplin': '''
        NotesIsTodo NotesMeetingAttendeeCount NotesRecipeIngredientCount
        NotesTodoItemCount''',
    'markor': '''
        ExpenseAddMultipleFromMarkor MarkorAddNoteHeader
        MarkorChangeNoteContent MarkorCreateFolder MarkorCreateNote
        MarkorCreateNoteAndSms MarkorCreateNoteFromClipboard
        MarkorDeleteAllNotes MarkorDeleteNewestNote MarkorDeleteNote
        MarkorEditNote MarkorMergeNotes MarkorMoveNote MarkorTranscribeReceipt
        MarkorTranscribeVideo RecipeAddMultipleRecipesFromMarkor
        RecipeAddMultipleRecipesFromMarkor2''',
    'open tracks sports tracker': '''
        SportsTrackerActivitiesCountForWeek SportsTrackerActivitiesOnDate
        SportsTrackerActivityDuration SportsTrackerLongestDistanceActivity
        SportsTrackerTotalDistanceForCategoryOverInterval
        SportsTrackerTotalDurationForCategoryThisWeek''',
    'osmand': '''
        OsmAndFavorite OsmAndMarker OsmAndTrack''',
    'pro expense': '''
        ExpenseAddMultiple ExpenseAddMultipleFromGallery
        ExpenseAddMultipleFromMarkor ExpenseAddSingle ExpenseDeleteDuplicates
        ExpenseDeleteDuplicates2 ExpenseDeleteMultiple ExpenseDeleteMultiple2
        ExpenseDeleteSingle''',
    'retro music': '''
        RetroCreatePlaylist RetroPlayingQueue RetroPlaylistDuration
        RetroSavePlaylist''',
    'settings': '''
        SystemBluetoothTurnOff SystemBluetoothTurnOffVerify
        SystemBluetoothTurnOn SystemBluetoothTurnOnVerify SystemBrightnessMax
        SystemBrightnessMaxVerify SystemBrightnessMin
        SystemBrightnessMinVerify SystemWifiTurnOff SystemWifiTurnOffVerify
        SystemWifiTurnOn SystemWifiTurnOnVerify TurnOffWifiAndTurnOnBluetooth
        TurnOnWifiAndOpenApp''',
    'simple calendar pro': '''
        SimpleCalendarAddOneEvent SimpleCalendarAddOneEventInTwoWeeks
        SimpleCalendarAddOneEventRelativeDay SimpleCalendarAddOneEventTomorrow
        SimpleCalendarAddRepeatingEvent SimpleCalendarAnyEventsOnDate
        SimpleCalendarDeleteEvents SimpleCalendarDeleteEventsOnRelativeDay
        SimpleCalendarDeleteOneEvent SimpleCalendarEventOnDateAtTime
        SimpleCalendarEventsInNextWeek SimpleCalendarEventsInTimeRange
        SimpleCalendarEventsOnDate SimpleCalendarFirstEventAfterStartTime
        SimpleCalendarLocationOfEvent SimpleCalendarNextEvent
        SimpleCalendarNextMeetingWithPerson''',
    'simple draw pro': '''
        SimpleDrawProCreateDrawing''',
    'simple gallery pro': '''
        ExpenseAddMultipleFromGallery MarkorTranscribeReceipt
        RecipeAddMultipleRecipesFromImage SaveCopyOfReceiptTaskEval''',
    'simple sms messenger': '''
        MarkorCreateNoteAndSms SimpleSmsReply SimpleSmsReplyMostRecent
        SimpleSmsResend SimpleSmsSend SimpleSmsSendClipboardContent
        SimpleSmsSendReceivedAddress''',
    'tasks': '''
        TasksCompletedTasksForDate TasksDueNextWeek TasksDueOnDate
        TasksHighPriorityTasks TasksHighPriorityTasksDueOnDate
        TasksIncompleteTasksOnDate''',
    'vlc': '''
        MarkorTranscribeVideo VlcCreatePlaylist VlcCreateTwoPlaylists''',
    '': '''
        OpenAppTaskEval SystemCopyToClipboard''',
}
TASKS: tuple[str, ...] = tuple(sorted(
    {task for tasks in _BY_APP.values() for task in tasks.split()}))
APPS: dict[str, tuple[str, ...]] = {  # of each task
    task: tuple(app for app, tasks in _BY_APP.items()
                if app and task in tasks.split())
    for task in TASKS}


def training_split(seed: int = 0,
                   num_tasks: int = NUM_TRAINING_TASKS) -> tuple[str, ...]:
  """Draws tasks at random, with at least one of every app.

  STEP trains on 43 tasks, "at least one per app", and does not say which.

  Args:
    seed: of the draw.
    num_tasks: how many.

  Returns:
    Their names in alphabetical order.

  Raises:
    ValueError: for so few that an app may be left out, or more than there are.

  >>> len(training_split()), training_split() == training_split(seed=1)
  (43, False)
  """
  apps = sorted({app for apps in APPS.values() for app in apps})
  if not len(apps) <= num_tasks <= len(TASKS):
    raise ValueError(f'expected num_tasks from {len(apps)} to {len(TASKS)}, '
                     f'got {num_tasks}')
  rng = np.random.default_rng(seed)
  order = [TASKS[index] for index in rng.permutation(len(TASKS))]
  chosen: list[str] = []
  # The apps of few tasks first, as those of others may come with them.
  for app in sorted(apps, key=lambda app: len(_BY_APP[app].split())):
    if not any(app in APPS[task] for task in chosen):
      chosen.append(next(task for task in order if app in APPS[task]))
  chosen += [task for task in order if task not in chosen]
  return tuple(sorted(chosen[:num_tasks]))
