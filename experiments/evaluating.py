"""Evaluations of a policy: of a run on its way, or after it."""

from collections.abc import Callable
import pathlib
from typing import Any

import jax
import ml_collections

from experiments import collectors
from experiments import saved
from experiments import setups
from experiments import worlds
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import episodes as episodes_lib
from step_jax.runs import evaluation as evaluation_lib
from step_jax.runs import metrics
from step_jax.runs import progress as progress_lib
from step_jax.runs import stopping


def evaluate_run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, *, split: str,
    episodes: int, fresh: bool = False) -> evaluation_lib.Evaluation:
  """Evaluates a policy and writes the result into the folder of a run.

  Args:
    config: of the run.
    workdir: of the run.
    split: see `worlds.make_world`.
    episodes: a task.
    fresh: evaluates what `policy.checkpoint` holds, not what the run made.

  Returns:
    The evaluation; `evaluation.json`, or `evaluation_<split>.json`, has it,
    and for task files `results/` in OSWorld's layout.
  """
  setup = setups.make_setup(config, worlds.make_world(config, workdir=workdir))
  shown = setup._replace(  # the servers are the run's
      world=worlds.make_world(config, split, workdir), remote=None)
  params = setup.policy.init(jax.random.key(config.seed)) if fresh else (
      saved.newest_params(setup, workdir))
  worlds.tell_tasks(
      shown.world, workdir / f'skipped_tasks_{split}.json', saved.warn)
  with (stopping.StopRequest() as stop, progress_lib.RunProgress(1) as progress,
        collectors.open_collector(shown, progress, stop) as collect):
    evaluation = evaluate(shown, params, collect, episodes)
  name = 'evaluation' if split == 'train' else f'evaluation_{split}'
  metrics.write_json(workdir / f'{name}.json', evaluation)
  if shown.world.domains:
    observed = 'a11y_tree' if config.policy.name == 'element' else 'screenshot'
    evaluation_lib.write_results(
        workdir / 'results' / 'pyautogui' / observed / 'step_jax', evaluation,
        shown.world.domains)
  return evaluation


def evaluate(
    setup: setups.Setup, params: Any, collect: collectors.Collector,
    episodes: int, keep: Callable[..., None] = lambda collection, **_: None,
) -> evaluation_lib.Evaluation:
  """Evaluates parameters on the tasks of a world.

  Args:
    setup: of the run.
    params: of the policy.
    collect: plays.
    episodes: draws a task, and playings of an instance that are not certain.
    keep: `(collection, is_drawn)`, is shown all that is played.
  """
  config, world = setup.config, setup.world
  is_fixed = config.env.episodes == 'fixed'

  def collect_and_keep(jobs, player):
    collection = collect(jobs, player, name='evaluation')
    keep(collection, is_drawn=jobs[0].seed >= episodes_lib.FIRST_EVAL_SEED)
    return collection

  # Without chance, an instance played again is the same episode.
  certain = world.simulator is not None and config.eval_temperature == 0
  return evaluation_lib.evaluate(
      world.tasks, collect_lib.Player(
          params, jax.random.key(config.seed), config.eval_temperature),
      collect_and_keep,
      draws=episodes if world.draws or not is_fixed else 0,
      instances=is_fixed and (1 if certain else episodes))
