"""The fields of a row of metrics.jsonl, which docs/metrics.md shows.

A row is one round; a number that is not finite is null. Shares are in [0, 1].
Sizes are as in step_jax/algorithm/types.py: Q base tasks, G copies of each, N
tasks of the world.
"""

FIELDS = {
    'round': 'counted from 0',
    # Time.
    'seconds': 'of the round, s, without an evaluation after it',
    'rollout_seconds': 's, to play the trajectories; with config.lag, before '
                       'and beside the rest',
    'update_seconds': 'of these, s: credit, step-level groups, optimiser',
    'lag': 'updates that the parameters that played were behind',
    'compilations': 'by XLA since the last row; 0 after the first rounds',
    # What was played.
    'trajectories': 'Q*G slots of the round',
    'valid_trajectories': 'of these, those that ended, and were not lost to '
                          'failures',
    'closed_slots': 'those that the round did not wait for (config.close_at); '
                    'they go on beside the next one',
    'late_trajectories': 'of earlier rounds that ended in this one: they count '
                         'for s_hat, and for nothing else here',
    'success_rate': 'share of the valid trajectories that succeeded, as '
                    'sampled: the mix becomes harder as tasks are mastered',
    'out_of_steps': 'valid trajectories that failed with all steps used',
    'environment_steps': 'actions that environments were sent, those of lost '
                         'attempts included',
    'environment_failures': 'attempts that infrastructure broke; each was '
                            'tried again, or its trajectory was lost',
    'slots_per_task': '[N] trajectories of each task',
    'successes_per_task': '[N] of these, those that succeeded',
    'replaced_fraction': 'share of the slots that the sampler, or a redraw, '
                         'gave to another task than the base task',
    'tasks_above_60': 'of N, those with s_hat above 0.6 after the round',
    # What teaches nothing.
    'tasks_without_spread': 'share of the tasks with two valid trajectories or '
                            'more whose trajectories all end alike',
    'groups_without_spread': 'share of the step-level groups in which all '
                             'candidates agree',
    # What was learned from.
    'step_samples': 'steps with a signal, a step-level group as one',
    'augmented_steps': 'steps of low-success tasks that got a group',
    'rows_computed': 'responses in all micro-batches, padding included',
    'rows_useful': 'of these, those of steps with a signal',
    'optimizer_steps': 'that were taken',
    'skipped_steps': 'that were not, as a gradient was not finite',
    'loss': '-J, the mean over optimiser steps',
    'grad_norm': 'before it is clipped, the mean over optimiser steps',
    'mean_abs_advantage': 'of responses with a signal',
    'entropy': 'of the policy, nats a token, the mean over tokens learned from',
    'clip_fraction': 'share of these tokens whose gradient the clip removes',
    'approx_kl': 'KL(behaviour || policy), nats a token, the estimator '
                 'rho - 1 - log rho',
    # After rounds with an evaluation (eval_every, and the last).
    'eval_success_rate': 'mean over tasks, at eval_temperature',
    'eval_tasks_above_60': 'tasks with a success rate above 0.6',
    'record_error': 'mean over tasks of |s_hat - success rate|; the evaluation '
                    'is greedy, so a good record is not at 0 either',
    # With env.episodes='fixed' where the world can draw instances.
    'eval_drawn_success_rate': 'of fresh draws of the tasks, which training '
                               'never saw',
}
