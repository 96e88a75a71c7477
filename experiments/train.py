"""The host loop: a thin layer over environments, files and clocks.

A round: propose tasks, collect trajectories, assign credit, draw alternatives,
update, write down, save. Keys are re-derived from (seed, round), so a resumed
run equals an uninterrupted one wherever the environment is deterministic.
"""

from collections.abc import Callable
import contextlib
import functools
import pathlib
import shutil
import signal
import sys
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments import checks
from experiments import collectors
from experiments import evaluate as evaluate_lib
from experiments import policies
from experiments import progress as progress_lib
from experiments import redrawing
from experiments import warm_start
from experiments import worlds
from step_jax import checkpoint
from step_jax import credit
from step_jax import learner as learner_lib
from step_jax import metrics
from step_jax import report
from step_jax import rollout
from step_jax import streaming
from step_jax import types
from step_jax.policies import base


class Setup(NamedTuple):
  """What does not change during a run."""
  config: ml_collections.ConfigDict
  world: worlds.World
  method: credit.Method
  policy: base.Policy
  codec: base.Codec
  learner: learner_lib.Learner


class RunState(NamedTuple):
  """What a checkpoint holds, but for the number of completed rounds."""
  learner: types.LearnerState
  success_rate: jax.Array  # [N] s_hat


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Trains, or resumes the run in `workdir`.

  Args:
    config: see configs/common.py.
    workdir: made if it is missing.

  Raises:
    UserError: for a mistake in the config or a missing program.
    RunError: if most trajectories are lost.
    KeyboardInterrupt: interrupted; completed rounds are saved, unless a second
      signal came amid an update.
  """
  checks.check_config(config)
  if (workdir / 'config.json').exists():
    checks.check_same_config(workdir / 'config.json', config)
  setup = make_setup(config, worlds.make_world(config, workdir=workdir))
  is_empty = not workdir.exists() or (
      workdir.is_dir() and not any(workdir.iterdir()))
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise checks.UserError(
        f'expected --workdir to be a folder: {error}') from error
  metrics.replace_file(
      workdir / 'config.json', config.to_json(indent=2).encode())
  checkpoints = checkpoint.Checkpoints(workdir / 'checkpoints', _warn)
  try:
    with (StopRequest() as stop,
          progress_lib.RunProgress(config.num_rounds) as progress,
          collectors.open_collector(setup, progress, stop) as collect):
      params = setup.policy.init(jax.random.key(config.seed))
      done, state = _restore(setup, checkpoints, params) or (0, None)
      if done > config.num_rounds:
        raise checks.UserError(
            f'the run in {workdir} has {done} rounds already; expected '
            f'num_rounds to be at least that, got {config.num_rounds}')
      log = metrics.MetricsLog(workdir, done, len(setup.world.tasks))
      progress.resume(done)
      if state is None:
        state = _start(setup, params, collect, progress)
        checkpoints.save(0, state)
      del params
      is_empty = False
      _run_rounds(setup, workdir, state, done, checkpoints, log, collect,
                  progress)
      _report(workdir, log, setup, progress)
  except checks.UserError:
    if is_empty:
      shutil.rmtree(workdir)  # where the right command will go
    raise
  finally:
    checkpoints.close()


def evaluate_run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, *, split: str,
    episodes: int) -> evaluate_lib.Evaluation:
  """Evaluates the newest checkpoint of a run and writes the result there."""
  setup = make_setup(config, worlds.make_world(config, workdir=workdir))
  shown = setup._replace(world=worlds.make_world(config, split, workdir))
  with (contextlib.closing(checkpoint.Checkpoints(
            workdir / 'checkpoints', _warn)) as checkpoints,
        StopRequest() as stop, progress_lib.RunProgress(1) as progress,
        collectors.open_collector(shown, progress, stop) as collect):
    restored = _restore(
        setup, checkpoints, setup.policy.init(jax.random.key(config.seed)))
    if restored is None:
      raise checks.UserError(f'the run in {workdir} has no checkpoint yet')
    evaluation = evaluate_lib.evaluate(
        config, shown.world.tasks, restored[1].learner.params,
        functools.partial(collect, name='evaluation'), episodes=episodes)
  name = 'evaluation' if split == 'train' else f'evaluation_{split}'
  metrics.write_json(workdir / f'{name}.json', evaluation)
  return evaluation


def make_setup(
    config: ml_collections.ConfigDict, world: worlds.World) -> Setup:
  """Builds the policy, the optimiser and the learner."""
  policy, codec = policies.make_policy(config, world)
  return Setup(config, world, credit.METHODS[config.method], policy, codec,
               make_learner(config, policy))


def make_learner(
    config: ml_collections.ConfigDict, policy: base.Policy
) -> learner_lib.Learner:
  """Builds the optimiser and the learner of a policy."""
  options = config.optimizer
  optimizer = optax.chain(
      optax.clip_by_global_norm(options.max_grad_norm),
      optax.adamw(make_schedule(options), weight_decay=options.weight_decay))
  make: Callable[..., learner_lib.Learner] = learner_lib.make_learner
  if policy.load is not None:
    make = functools.partial(
        streaming.make_learner, load=policies.make_loader(policy))
  return make(
      functools.partial(policy.log_prob, temperature=config.temperature),
      optimizer, num_epochs=options.num_epochs,
      num_minibatches=options.num_minibatches, clip_low=options.clip_low,
      clip_high=options.clip_high, importance_cap=options.importance_cap,
      micro_batch_size=options.micro_batch_size)


def make_schedule(options: ml_collections.ConfigDict) -> optax.Schedule:
  """The learning rate: warm-up, then constant or a cosine to a tenth."""
  steps_a_round = options.num_epochs * options.num_minibatches
  rate = options.learning_rate
  warmup_steps = options.warmup_rounds * steps_a_round
  first = rate / (warmup_steps + 1)
  if not options.decay_rounds:
    return optax.warmup_constant_schedule(first, rate, warmup_steps)
  return optax.warmup_cosine_decay_schedule(
      first, rate, warmup_steps, options.decay_rounds * steps_a_round,
      end_value=rate / 10)


class StopRequest:
  """Turns SIGINT and SIGTERM into a request; a second SIGINT is immediate."""

  def __init__(self):
    self._requested = False
    self._previous: dict[int, Any] = {}

  def __call__(self) -> bool:
    return self._requested

  def __enter__(self) -> 'StopRequest':
    if threading.current_thread() is threading.main_thread():
      for number in (signal.SIGINT, signal.SIGTERM):
        self._previous[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: Any) -> None:
    del number, frame
    if self._requested:
      raise KeyboardInterrupt
    self._requested = True
    print('stopping; once more to stop at once', file=sys.stderr)


def _warn(sentence: str) -> None:
  print(sentence, file=sys.stderr)


def _restore(
    setup: Setup, checkpoints: checkpoint.Checkpoints, params: Any
) -> tuple[int, RunState] | None:
  """The newest checkpoint, of the shapes and placement of `params`."""
  template = RunState(
      setup.learner.init(params), jnp.zeros(len(setup.world.tasks)))
  try:
    return checkpoints.restore(template)
  except ValueError as error:
    raise checks.UserError(str(error)) from error


def _start(
    setup: Setup,
    params: Any,
    collect: collectors.Collector,
    progress: progress_lib.RunProgress,
) -> RunState:
  """Fresh parameters, after imitation where the config asks for it."""
  if setup.config.warm_start.demonstrations:
    params = warm_start.warm_start(
        setup.config, setup.world, setup.policy, params,
        functools.partial(collect, name='warm start'), progress.say)
  return RunState(
      setup.learner.init(params), jnp.zeros(len(setup.world.tasks)))


def _run_rounds(
    setup: Setup,
    workdir: pathlib.Path,
    state: RunState,
    done: int,
    checkpoints: checkpoint.Checkpoints,
    log: metrics.MetricsLog,
    collect: collectors.Collector,
    progress: progress_lib.RunProgress,
) -> None:
  """All rounds that are left, and the evaluations."""
  config, tasks = setup.config, setup.world.tasks
  before_path = workdir / 'initial_evaluation.json'

  def evaluate(params):
    evaluation = evaluate_lib.evaluate(
        config, tasks, params,
        functools.partial(collect, name='evaluation'),
        episodes=config.eval_episodes)
    if not evaluate_lib.success_rates(evaluation).size:
      raise checks.RunError(
          'every evaluation episode was lost to environment failures; see to '
          'the environments, then resume with the same command.')
    return evaluation

  if done == 0 and not before_path.exists():
    before = evaluate(state.learner.params)
    metrics.write_json(before_path, before)
    rate = evaluate_lib.success_rates(before).mean()
    progress.say(f'before training: evaluation {100 * rate:.0f} %')
  compilations = metrics.CompilationCounter()
  for round_index in range(done, config.num_rounds):
    is_last = round_index + 1 == config.num_rounds
    is_evaluated = is_last or (
        config.eval_every and (round_index + 1) % config.eval_every == 0)
    if is_evaluated:  # An evaluation can be interrupted after the update.
      checkpoints.save(round_index, state)
    try:
      new_state, row = play_round(setup, state, round_index, collect)
      if is_evaluated:
        evaluation = evaluate(new_state.learner.params)
        rates = evaluate_lib.success_rates(evaluation)
        row['eval_success_rate'] = rates.mean()
        row['eval_tasks_above_60'] = int((rates > 0.6).sum())
        metrics.write_json(workdir / 'evaluation.json', evaluation)
    except (KeyboardInterrupt, checks.RunError):
      if not state.learner.step.is_deleted():  # donated: amid the update
        checkpoints.save(round_index, state)
      raise
    state = new_state
    row['compilations'] = compilations.count
    compilations.count = 0
    log.append(row, np.asarray(state.success_rate))
    progress.round_done(log.rows[-1], len(tasks))
    if (round_index + 1) % config.checkpoint_every == 0 or is_last:
      checkpoints.save(round_index + 1, state)


def play_round(
    setup: Setup,
    state: RunState,
    round_index: int,
    collect: collectors.Collector,
) -> tuple[RunState, dict[str, Any]]:
  """One round; returns the new state and what is written down of it."""
  started = time.monotonic()
  config, num_tasks = setup.config, len(setup.world.tasks)
  key = jax.random.fold_in(jax.random.key(config.seed), round_index)
  task_key, rollout_key = jax.random.split(key)
  base_ids = worlds.base_task_ids(
      config.seed, round_index, config.num_base_tasks, num_tasks)
  collection = _collect_round(
      setup, state, round_index, base_ids, task_key, rollout_key, collect)
  trajectory = collection.trajectory
  total, valid = trajectory.valid.size, int(trajectory.valid.sum())
  if 2 * valid < total:
    raise checks.RunError(
        f'{total - valid} of {total} trajectories of round '
        f'{round_index} were lost to environment failures; see to the '
        'environments, then resume with the same command.')

  collected = time.monotonic()
  batch, success_rate, augmented = _assign(
      setup, state, trajectory, rollout_key)
  new_learner, results = setup.learner.update(state.learner, batch)
  results = jax.device_get(results)
  if not results.pop('finite'):
    _warn(f'The update of round {round_index} was refused: a gradient is not '
          'finite; parameters and optimiser state are kept.')
  now = time.monotonic()
  return RunState(new_learner, success_rate), {
      'round': round_index,
      'seconds': now - started,
      'rollout_seconds': collected - started,
      'update_seconds': now - collected,
      'success_rate': trajectory.successes.sum() / valid,
      'tasks_above_60': int((success_rate > 0.6).sum()),
      'replaced_fraction': np.mean(
          trajectory.task_ids != np.repeat(base_ids, config.group_size)),
      'trajectories': total,
      'valid_trajectories': valid,
      'environment_failures': collection.environment_failures,
      'environment_steps': collection.environment_steps,
      'augmented_steps': augmented,
      'slots_per_task': np.bincount(
          trajectory.task_ids, minlength=num_tasks),
      'successes_per_task': np.bincount(
          trajectory.task_ids, trajectory.successes, num_tasks).astype(int),
  } | results


def _collect_round(
    setup: Setup,
    state: RunState,
    round_index: int,
    base_ids: np.ndarray,
    task_key: jax.Array,
    rollout_key: jax.Array,
    collect: collectors.Collector,
) -> rollout.Collection:
  """The round's Q*G trajectories, of the tasks that the method proposes."""
  config, method = setup.config, setup.method

  def play(key, task_ids):
    jobs = collectors.make_jobs(
        config.seed, round_index, task_ids,
        np.zeros(0, int) if method.redraw else base_ids)
    player = rollout.Player(state.learner.params, key, config.temperature)
    return collect(jobs, player, name=f'round {round_index}')

  if method.redraw:
    num_tasks = len(setup.world.tasks)
    later_ids = worlds.task_order(
        config.seed, round_index + 1, config.num_base_tasks, num_tasks)
    return redrawing.collect(
        rollout_key, base_ids, later_ids, play,
        group_size=config.group_size, num_tasks=num_tasks)
  return play(rollout_key, np.asarray(credit.propose_tasks(
      task_key, base_ids, state.success_rate, method=method,
      group_size=config.group_size, threshold=config.threshold,
      sharpness=config.sharpness)))


def _assign(
    setup: Setup, state: RunState, trajectory: types.Trajectory,
    rollout_key: jax.Array,
) -> tuple[types.RoundBatch, jax.Array, int]:
  """The round's batch, the new record and the number of augmented steps."""
  config, method = setup.config, setup.method
  singles, low, success_rate = credit.assign_credit(
      trajectory, state.success_rate, method=method,
      group_size=config.group_size, low_threshold=config.low_threshold,
      ema_decay=config.ema_decay if config.smoothing == 'ema' else None,
      state_fn=setup.codec.state)
  if not method.augment:
    return credit.without_groups(
        singles, method=method, max_steps=config.max_steps), success_rate, 0
  sample = _sampler(setup.policy, config.temperature)
  augment: Callable[..., types.RoundBatch] = functools.partial(
      credit.augment_steps, sample_fn=sample)
  if setup.policy.load is not None:
    augment = functools.partial(
        streaming.augment_steps, load=policies.make_loader(setup.policy),
        sample_many=sample, micro_batch_size=config.policy.acting_batch_size)
  batch = augment(
      rollout_key, state.learner.params, singles, low,
      matches_fn=setup.codec.matches, max_steps=config.max_steps,
      num_candidates=config.group_size // 2)
  return batch, success_rate, int(low.sum())


@functools.lru_cache(maxsize=1)
def _sampler(policy: base.Policy, temperature: float) -> Callable[..., Any]:
  """The same function object every round, so that jit knows it again."""
  return functools.partial(
      policy.sample_many or policy.sample, temperature=temperature)


def _report(
    workdir: pathlib.Path, log: metrics.MetricsLog, setup: Setup,
    progress: progress_lib.RunProgress) -> None:
  """The table per task and the pictures at the end of a run."""
  before, after = (
      metrics.read_json(workdir / f'{name}.json')
      for name in ('initial_evaluation', 'evaluation'))
  progress.console.print(evaluate_lib.make_table(before, after))
  environment = setup.config.env
  paths = report.write_report(
      workdir / 'report', log.rows, setup.world.tasks,
      environment=environment.description or environment.name,
      initial_success_rate=evaluate_lib.success_rates(before).mean())
  progress.say('pictures: ' + ', '.join(str(path) for path in paths))
