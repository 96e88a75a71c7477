"""Samplers: which tasks fill the slots of a round, and what they learn of it.

  sampler = samplers.frontier(width=0.2)
  state = sampler.init(num_tasks)
  task_ids = sampler.propose(rng_key, base_task_ids, state, group_size=16)
  state = sampler.update(state, task_ids, returns, where=valid)
"""

from step_jax.algorithm.samplers.base import Sampler
from step_jax.algorithm.samplers.base import uniform
from step_jax.algorithm.samplers.budgets import knapsack
from step_jax.algorithm.samplers.budgets import knapsack_budgets
from step_jax.algorithm.samplers.rates import frontier
from step_jax.algorithm.samplers.rates import sr_traj
from step_jax.algorithm.samplers.replay import ReplayState
from step_jax.algorithm.samplers.replay import plr
from step_jax.algorithm.samplers.values import ValueTracker
from step_jax.algorithm.samplers.values import kl_discount
from step_jax.algorithm.samplers.values import spo
from step_jax.algorithm.samplers.values import tracked_values

__all__ = (
    'ReplayState',
    'Sampler',
    'ValueTracker',
    'frontier',
    'kl_discount',
    'knapsack',
    'knapsack_budgets',
    'plr',
    'spo',
    'sr_traj',
    'tracked_values',
    'uniform',
)
