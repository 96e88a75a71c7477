"""The rounds of a run in a pool of environments, by an actor or the expert."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from step_jax.policies import base
from step_jax.rollout import closing
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import local

Collect = Callable[..., collect_lib.Collection]


def make_collect(
    pool: workers.WorkerPool,
    actor: actors.Actor,
    codec: base.Codec,
    example: Any,
    *,
    max_steps: int,
    batch_size: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    stragglers: closing.Stragglers | None = None,
    lead: Callable[[Collect], Collect] = lambda collect: collect,
) -> Collect:
  """Builds the function that plays jobs, as `simulation.make_collect` does.

  Args:
    pool, codec, example, max_steps, batch_size, should_stop: see
      `collect.collect`.
    actor: plays; it is given a player's parameters where they are others than
      the last one's.
    stragglers: plays on what a round has left in a later one.
    lead: tells other hosts of it, such as `hosts.Channel.leading`.

  Returns:
    `collect(jobs, player=None, **options)` -> `Collection`, with `on_progress`
    and `closes` of `collect.collect`; without a player the scripted solution
    plays.
  """
  expert = local.Immediate(functools.partial(
      local.expert_actor, encode=codec.encode))
  play = lead(functools.partial(
      collect_lib.collect, pool, example=example, codec=codec,
      num_tokens=codec.num_tokens, max_steps=max_steps,
      stragglers=stragglers or closing.Stragglers()))
  published, version = None, 0

  def collect(jobs: Sequence[workers.Job],
              player: collect_lib.Player | None = None,
              **options: Any) -> collect_lib.Collection:
    nonlocal published, version
    if player is not None and player.params is not published:
      version += 1
      actor.publish(player.params, version)
      published = player.params
    return play(
        jobs, actor if player else expert, player or actors.EXPERT,
        batch_size=batch_size, should_stop=should_stop, **options)

  return collect
