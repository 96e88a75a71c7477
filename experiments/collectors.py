"""Who plays a round: environment processes, or a simulator on the device."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

import jax

from experiments import serving
from experiments import worlds
from step_jax.policies import base
from step_jax.rollout import closing
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import collector
from step_jax.rollout import pictures
from step_jax.rollout import simulation
from step_jax.rollout import workers
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import continuous
from step_jax.rollout.actors import local
from step_jax.runs import errors
from step_jax.runs import hosts
from step_jax.runs import progress as progress_lib

# (jobs, player, name, closes=False) -> Collection; no player is the expert,
# and a round that closes may leave its last episodes to the next one.
Collector = Callable[..., collect_lib.Collection]


@contextlib.contextmanager
def open_collector(
    setup: Any,
    progress: progress_lib.RunProgress,
    should_stop: Callable[[], bool],
) -> Iterator[Collector]:
  """Starts the environments of a run; they end with the context.

  Args:
    setup: `setups.Setup` of the run.
    progress: told of episodes that ended.
    should_stop: asked now and then; True raises KeyboardInterrupt.

  Raises:
    UserError: no environment can be made, or what it shows does not fit the
      policy, for the reason that is told.
    RunError: what keeps them cannot start.
  """
  if jax.process_count() > 1 and setup.config.lag:
    raise errors.UserError(
        'expected lag to be 0 on several hosts, which compute in one order, '
        f'got {setup.config.lag}')
  if setup.config.close_at < 1 and (
      jax.process_count() > 1 or setup.world.simulator is not None):
    raise errors.UserError(
        'expected close_at to be 1 on several hosts and in a simulator, whose '
        f'episodes end together, got {setup.config.close_at}')
  if setup.world.simulator is not None:
    yield simulated(setup, hosts.agreed(should_stop))
    return
  if not hosts.is_leader():
    yield _following(setup, should_stop)
    return
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(setup.world.open_services())
    except RuntimeError as error:
      raise errors.UserError(str(error)) from error
    pool = stack.enter_context(worlds.make_pool(setup.world, setup.config))
    if setup.remote is not None:
      stack.enter_context(setup.remote)
    try:
      with serving.telling():
        while not pool.wait_for_start(collect_lib.POLL_SECONDS):
          if should_stop():
            raise KeyboardInterrupt
      yield _in_processes(setup, pool, progress, should_stop)
    except (workers.WorkerStartError, base.InputError) as error:
      raise errors.UserError(str(error)) from error


def _in_processes(
    setup: Any, pool: workers.WorkerPool,
    progress: progress_lib.RunProgress, should_stop: Callable[[], bool],
) -> Collector:
  config, options = setup.config, dict[str, Any]()
  if config.actor.name == 'local':  # servers and slots take whatever waits
    options['batch_size'] = setup.acting_batch_size
  if jax.process_count() > 1:
    options['lead'] = _channel(setup, should_stop).leading
  play = collector.make_collect(
      pool, setup.remote or _in_this_process(setup), setup.codec,
      setup.world.example, max_steps=config.max_steps, should_stop=should_stop,
      stragglers=closing.Stragglers(config.close_at, config.close_after),
      **options)

  def collect(jobs, player, name, closes=False):
    with serving.telling():
      collection = play(
          jobs, player, on_progress=progress.episodes(name), closes=closes)
    num_lost = int(
        (~collection.trajectory.valid).sum()) - collection.closed_slots
    if 2 * num_lost > len(jobs):
      progress.say(f'{name}: {num_lost} of {len(jobs)} episodes were lost, the '
                   f'last one to {collection.lost_to}')
    return collection
  return collect


def _in_this_process(setup: Any) -> actors.Actor:
  """The policy on its devices: rows in calls, or in slots."""
  rows = setup.acting_batch_size
  if setup.config.actor.name != 'continuous':
    return local.Local(setup.policy, batch_size=rows)
  if setup.placement.mesh is not None:
    raise errors.UserError(
        "expected actor.name to be 'local' on a mesh of devices, got "
        "'continuous', which was never tried there")
  return continuous.Continuous(setup.policy, num_slots=rows)


def _channel(setup: Any, should_stop: Callable[[], bool]) -> hosts.Channel:
  """Between the hosts of a run whose environments are the leader's."""
  folder = setup.world.make_env.keywords.get('folder')  # of pictures
  row = setup.codec.observe(
      setup.world.example, {}, setup.codec.empty_history)
  return hosts.Channel(row, should_stop, folder and pictures.ScreenshotStore(
      folder, capacity=setup.world.make_env.keywords['capacity']))


def _following(setup: Any, should_stop: Callable[[], bool]) -> Collector:
  """Plays in the leader's environments."""
  channel = _channel(setup, should_stop)
  policy = local.Local(setup.policy, batch_size=setup.acting_batch_size)

  def collect(jobs, player, name, closes=False):
    del jobs, name, closes
    if player is not None:
      policy.publish(player.params, 0)
    return channel.follow(policy, player or actors.EXPERT)
  return collect


def simulated(
    setup: Any, should_stop: Callable[[], bool] = lambda: False) -> Collector:
  """Plays in the world's simulator; `setup` is a `setups.Setup`."""
  play = simulation.make_collect(
      setup.world.simulator, setup.policy, setup.codec,
      max_steps=setup.config.max_steps, num_lanes=setup.acting_batch_size,
      placement=setup.placement, should_stop=should_stop)

  def collect(jobs, player, name, closes=False):
    del name, closes
    return play(jobs, player)
  return collect
