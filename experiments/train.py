"""The host loop: a thin layer over environments, files and clocks.

Restores or starts, then plays rounds, evaluates, writes down and saves, and
reports at the end. What happens in a round is told in `rounds`.
"""

import contextlib
import functools
import json
import pathlib
import shutil
import tempfile

import jax
import ml_collections
import numpy as np

from experiments import checks
from experiments import collectors
from experiments import evaluating
from experiments import rounds
from experiments import saved
from experiments import setups
from experiments import showing
from experiments import warm_start
from experiments import worlds
from step_jax.rollout import ahead as ahead_lib
from step_jax.runs import checkpoint
from step_jax.runs import episode_log
from step_jax.runs import errors
from step_jax.runs import evaluation as evaluation_lib
from step_jax.runs import files
from step_jax.runs import hosts
from step_jax.runs import metrics
from step_jax.runs import progress as progress_lib
from step_jax.runs import rows
from step_jax.runs import signals
from step_jax.runs import stopping
from step_jax.runs import trackers


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Trains, or resumes the run in `workdir`.

  Args:
    config: see configs/common.py.
    workdir: made if it is missing; of several hosts (see `runs.hosts`) only
      the first one's.

  Raises:
    UserError: for a mistake in the config or a missing program.
    HostError: of several hosts, the first gave up.
    RunError: if most trajectories are lost.
    FolderError: if another process trains there, or if it is no folder.
    WriteError: if a file cannot be written; what was saved is still there.
    KeyboardInterrupt: interrupted; completed rounds are saved, unless a second
      signal came amid an update.
  """
  checks.check_config(config)
  with contextlib.ExitStack() as stack:
    if not hosts.is_leader():  # what it writes is nobody's
      workdir = pathlib.Path(
          stack.enter_context(tempfile.TemporaryDirectory()))
      config = config.copy_and_resolve_references()
      config.episodes.rounds, config.trackers = 0, ()
    setup = setups.make_setup(
        config, worlds.make_world(config, workdir=workdir))
    is_new = stack.enter_context(files.owned(workdir))
    config_path = workdir / 'config.json'
    if config_path.exists():
      checks.check_same_config(config_path, config)
    files.replace(config_path, config.to_json(indent=2).encode())
    worlds.tell_tasks(
        setup.world, workdir / 'skipped_tasks.json', saved.warn)
    checkpoints = stack.enter_context(contextlib.closing(
        checkpoint.Checkpoints(workdir / 'checkpoints', saved.warn)))
    try:
      _train(setup, workdir, checkpoints)
    except errors.UserError:
      if is_new and not checkpoints.rounds:
        shutil.rmtree(workdir)  # where the right command will go
      raise


def _train(
    setup: setups.Setup, workdir: pathlib.Path,
    checkpoints: checkpoint.Checkpoints) -> None:
  """Starts or goes on, with the folder to itself."""
  config, ahead = setup.config, ahead_lib.Ahead()
  with (stopping.StopRequest() as stop,
        progress_lib.RunProgress(config.num_rounds) as progress,
        collectors.open_collector(
            setup, progress, lambda: stop() or ahead.gives_up()) as collect,
        ahead):
    done, state = saved.restore(setup, checkpoints) or (0, None)
    if done > config.num_rounds:
      raise errors.UserError(
          f'the run in {workdir} has {done} rounds already; expected '
          f'num_rounds to be at least that, got {config.num_rounds}')
    log = metrics.MetricsLog(workdir, done, len(setup.world.tasks))
    progress.resume(done)
    if state is None:
      state = _start(setup, collect, progress, stop)
      saved.save(checkpoints, 0, state)
    kept = showing.open_log(setup, workdir, done)
    with contextlib.closing(trackers.Trackers(
        config.trackers, workdir, done, json.loads(config.to_json()),
        progress.say)) as tracked:
      _run_rounds(setup, workdir, state, done, checkpoints, log, kept, tracked,
                  collect, ahead, progress)
    if hosts.is_leader():
      _report(workdir, log, setup, progress)


def _start(
    setup: setups.Setup,
    collect: collectors.Collector,
    progress: progress_lib.RunProgress,
    should_stop: stopping.StopRequest,
) -> rounds.RunState:
  """Fresh parameters, after imitation where the config asks for it."""
  params = setup.policy.init(jax.random.key(setup.config.seed))
  if setup.config.warm_start.demonstrations:
    params = warm_start.warm_start(
        setup.config, setup.world, setup.policy, params,
        functools.partial(collect, name='warm start'), progress.say,
        hosts.agreed(should_stop))
  return rounds.start(setup, params)


def _run_rounds(
    setup: setups.Setup,
    workdir: pathlib.Path,
    state: rounds.RunState,
    done: int,
    checkpoints: checkpoint.Checkpoints,
    log: metrics.MetricsLog,
    kept: episode_log.EpisodeLog,
    tracked: trackers.Trackers,
    collect: collectors.Collector,
    ahead: ahead_lib.Ahead,
    progress: progress_lib.RunProgress,
) -> None:
  """All rounds that are left, and the evaluations."""
  config, tasks = setup.config, setup.world.tasks
  before_path = workdir / 'initial_evaluation.json'

  def evaluate(params, num_rounds):
    evaluation = evaluating.evaluate(
        setup, params, collect, config.eval_episodes,
        functools.partial(kept.add_evaluation, num_rounds))
    if not evaluation_lib.success_rates(evaluation).size:
      raise errors.RunError(
          'every evaluation episode was lost to environment failures; see to '
          'the environments, then resume with the same command.')
    tracked.show(num_rounds, functools.partial(
        showing.draw_evaluation, kept, workdir, num_rounds))
    return evaluation

  def save(num_rounds, state):
    kept.write(num_rounds)
    saved.save(checkpoints, num_rounds, state)
    kept.prune(num_rounds)

  if done == 0 and not before_path.exists():
    before = evaluate(state.learner.params, 0)
    kept.write(0)
    metrics.write_json(before_path, before)
    rate = evaluation_lib.success_rates(before).mean()
    progress.say(f'before training: evaluation {100 * rate:.0f} %')
  compilations, told = metrics.CompilationCounter(), False
  for round_index in range(done, config.num_rounds):
    is_evaluated = rounds.is_evaluated(config, round_index + 1)
    if is_evaluated:  # An evaluation can be interrupted after the update.
      save(round_index, state)
    try:
      new_state, row = rounds.play_round(
          setup, state, round_index, collect, kept.add_round, ahead)
      if is_evaluated:
        evaluation = evaluate(new_state.learner.params, round_index + 1)
        row |= rows.of_evaluation(
            evaluation, tasks, np.asarray(new_state.success_rate))
        metrics.write_json(workdir / 'evaluation.json', evaluation)
    except (KeyboardInterrupt, errors.RunError):
      if not state.learner.step.is_deleted():  # donated: amid the update
        save(round_index, state)
      raise
    state = new_state
    row['compilations'] = compilations.count
    compilations.count = 0
    record = np.asarray(state.success_rate)
    log.append(row, record)
    tracked.add(log.rows[-1])
    progress.round_done(log.rows[-1], len(tasks))
    if not told and (sentence := signals.sentence(log.rows[-1], record)):
      progress.say(sentence)
      told = True
    if (round_index + 1) % config.checkpoint_every == 0 or (
        round_index + 1 == config.num_rounds):
      save(round_index + 1, state)


def _report(
    workdir: pathlib.Path, log: metrics.MetricsLog, setup: setups.Setup,
    progress: progress_lib.RunProgress) -> None:
  """The table per task and the pictures at the end of a run."""
  from step_jax.runs import report  # importing matplotlib takes a second
  before, after = (
      metrics.read_json(workdir / f'{name}.json')
      for name in ('initial_evaluation', 'evaluation'))
  progress.console.print(evaluation_lib.make_table(before, after))
  paths = report.write_report(
      workdir / 'report', log.rows, setup.world.tasks,
      environment=setup.config.env.description or setup.config.env.name,
      initial_success_rate=evaluation_lib.success_rates(before).mean())
  progress.say('pictures: ' + ', '.join(str(path) for path in paths))
  for purpose, command in (
      ('curves, tasks and episodes as pages', 'view.py'),
      ('other tasks', 'evaluate.py --split=held_out'),
      ('an episode to watch', 'watch.py')):
    progress.say(f'{purpose}: python experiments/{command} '
                 f'--workdir={workdir}')
