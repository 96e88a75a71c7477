"""STEP in JAX: success-rate-aware training of agents that use computers.

The functions and records listed here are pure and work on plain arrays; the
host side (environments, workers, checkpoints) is imported by module.
"""

from step_jax.algorithm import samplers
from step_jax.algorithm.advantages import batch_normalised_advantages
from step_jax.algorithm.advantages import gigpo_advantages
from step_jax.algorithm.advantages import group_relative_advantages
from step_jax.algorithm.advantages import leave_one_out_advantages
from step_jax.algorithm.advantages import step_group_advantages
from step_jax.algorithm.advantages import success_rate_advantages
from step_jax.algorithm.advantages import success_weighted_advantages
from step_jax.algorithm.credit import assign_credit
from step_jax.algorithm.credit import augment_steps
from step_jax.algorithm.credit import propose_tasks
from step_jax.algorithm.losses import clipped_surrogate_loss
from step_jax.algorithm.methods import METHODS
from step_jax.algorithm.methods import Method
from step_jax.algorithm.resampling import replacement_probability
from step_jax.algorithm.resampling import resample_tasks
from step_jax.algorithm.steps import flatten_steps
from step_jax.algorithm.success_rate import count_outcomes
from step_jax.algorithm.success_rate import ema_success_rate
from step_jax.algorithm.success_rate import update_success_rate
from step_jax.algorithm.types import LearnerState
from step_jax.algorithm.types import RoundBatch
from step_jax.algorithm.types import StepBatch
from step_jax.algorithm.types import Trajectory
from step_jax.learning.learner import Learner
from step_jax.learning.learner import make_learner

__all__ = (
    'Learner',
    'LearnerState',
    'METHODS',
    'Method',
    'RoundBatch',
    'StepBatch',
    'Trajectory',
    'assign_credit',
    'augment_steps',
    'batch_normalised_advantages',
    'clipped_surrogate_loss',
    'count_outcomes',
    'ema_success_rate',
    'flatten_steps',
    'gigpo_advantages',
    'group_relative_advantages',
    'leave_one_out_advantages',
    'make_learner',
    'propose_tasks',
    'replacement_probability',
    'resample_tasks',
    'samplers',
    'step_group_advantages',
    'success_rate_advantages',
    'success_weighted_advantages',
    'update_success_rate',
)
