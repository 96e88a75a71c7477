"""Slow oracles: the formulas of the method in explicit numpy loops.

Written from the specification, in float64, one row at a time, and without a
look at step_jax. Shapes are those of `step_jax.algorithm.types`.
"""

import math

import numpy as np


def counts(task_ids, successes, num_tasks, where=None):
  """n_i and u_i: what was collected and what succeeded, per task run."""
  collected = [0] * num_tasks
  succeeded = [0] * num_tasks
  for b in range(len(task_ids)):
    if where is not None and not where[b]:
      continue
    collected[task_ids[b]] += 1
    if successes[b]:
      succeeded[task_ids[b]] += 1
  return np.array(collected, np.int32), np.array(succeeded, np.int32)


def adaptive_rate(success_rate, collected, succeeded, group_size):
  """(u + a s G) / (n + a G) with a = 1 - n/G below G and 0 from G on."""
  result = []
  for s, n, u in zip(success_rate, collected, succeeded):
    a = 1 - int(n) / group_size if n < group_size else 0.0
    result.append((u + a * float(s) * group_size) / (n + a * group_size))
  return np.array(result)


def ema_rate(success_rate, collected, succeeded, decay):
  """d s + (1 - d) u/n, for the tasks that were collected."""
  result = []
  for s, n, u in zip(success_rate, collected, succeeded):
    s = float(s)
    result.append(decay * s + (1 - decay) * int(u) / int(n) if n else s)
  return np.array(result)


def replacement(success_rate, threshold=0.6, sharpness=10.0):
  """p_rep(s) = 1 / (1 + exp(-kappa (s - s_0))) of one success rate."""
  return 1 / (1 + math.exp(-sharpness * (float(success_rate) - threshold)))


def slot_distribution(task, success_rate, threshold=0.6, sharpness=10.0):
  """The distribution [N] of the task in a slot that may be replaced."""
  cache = [j for j, s in enumerate(success_rate) if 0 < s < threshold]
  distribution = np.zeros(len(success_rate))
  if not cache:
    distribution[task] = 1
    return distribution
  p = replacement(success_rate[task], threshold, sharpness)
  distribution[task] += 1 - p
  for j in cache:
    distribution[j] += p / len(cache)
  return distribution


def success_weighted(returns, task_ids, success_rate, where=None):
  """(1 - s_i) R for the successful trajectories, 0 for the others."""
  result = np.zeros(len(returns))
  for b in range(len(returns)):
    if where is not None and not where[b]:
      continue
    if returns[b] > 0:
      result[b] = (1 - float(success_rate[task_ids[b]])) * float(returns[b])
  return result


def success_rate_difference(returns, task_ids, success_rate, where=None):
  """R - s_i for the valid trajectories."""
  result = np.zeros(len(returns))
  for b in range(len(returns)):
    if where is None or where[b]:
      result[b] = float(returns[b]) - float(success_rate[task_ids[b]])
  return result


def batch_normalised(returns, task_ids, values, where=None, ddof=1):
  """R - v_i, standardised over all valid trajectories as one group."""
  return group_relative(
      success_rate_difference(returns, task_ids, values, where),
      [0] * len(returns), 1, where, ddof)


def _members(group_ids, group, where):
  return [
      b for b in range(len(group_ids))
      if (where is None or where[b]) and group_ids[b] == group]


def group_relative(returns, group_ids, num_groups, where=None, ddof=1):
  """(R - mean) / std over the valid rows of a group; no spread gives 0."""
  result = np.zeros(len(returns))
  for group in range(num_groups):
    rows = _members(group_ids, group, where)
    values = [float(returns[b]) for b in rows]
    if len(values) <= ddof or min(values) == max(values):
      continue
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - ddof)
    for b, value in zip(rows, values):
      result[b] = (value - mean) / math.sqrt(variance)
  return result


def leave_one_out(returns, group_ids, num_groups, where=None):
  """R minus the mean of the others of the group; alone gives 0."""
  result = np.zeros(len(returns))
  for group in range(num_groups):
    rows = _members(group_ids, group, where)
    for b in rows:
      others = [float(returns[c]) for c in rows if c != b]
      if others:
        result[b] = float(returns[b]) - sum(others) / len(others)
  return result


def gigpo(returns, group_ids, state_ids, num_groups, step_mask,
          discount=0.95, step_weight=1.0):
  """Episode advantage plus that of a step among those of its state."""
  num_rows, num_steps = np.shape(step_mask)
  steps = [(b, t) for b in range(num_rows) for t in range(num_steps)
           if step_mask[b][t]]
  episode = group_relative(
      returns, group_ids, num_groups, [any(row) for row in step_mask])
  value = {
      (b, t): discount ** sum(bool(x) for x in step_mask[b][t + 1:])
      * float(returns[b]) for b, t in steps}
  result = np.zeros((num_rows, num_steps))
  for b, t in steps:
    shared = [
        value[c, u] for c, u in steps
        if group_ids[c] == group_ids[b] and state_ids[c][u] == state_ids[b][t]]
    result[b, t] = episode[b]
    if min(shared) < max(shared):
      mean = sum(shared) / len(shared)
      variance = sum((x - mean) ** 2 for x in shared) / (len(shared) - 1)
      result[b, t] += (
          step_weight * (value[b, t] - mean) / math.sqrt(variance))
  return result


def state_ids(observations, step_mask):
  """Number of the first valid step whose leaves hold the same bytes."""
  num_rows, num_steps = np.shape(step_mask)
  result = np.full((num_rows, num_steps), -1, np.int32)
  seen = {}
  for b in range(num_rows):
    for t in range(num_steps):
      if step_mask[b][t]:
        state = tuple(np.asarray(x)[b, t].tobytes() for x in observations)
        result[b, t] = seen.setdefault(state, b * num_steps + t)
  return result


def step_groups(advantages, matches, where=None):
  """Adv(S) (r - mean r) / std r over the candidates, population std."""
  num_steps, num_candidates = np.shape(matches)
  result = np.zeros((num_steps, num_candidates))
  for s in range(num_steps):
    columns = [
        k for k in range(num_candidates) if where is None or where[s][k]]
    rewards = [1.0 if matches[s][k] else 0.0 for k in columns]
    if not rewards or min(rewards) == max(rewards):
      continue
    mean = sum(rewards) / len(rewards)
    variance = sum((r - mean) ** 2 for r in rewards) / len(rewards)
    for k, reward in zip(columns, rewards):
      z = (reward - mean) / math.sqrt(variance)
      result[s, k] = float(advantages[s]) * z
  return result


def partition(mask):
  """The valid rows in their order, then the others in theirs."""
  valid = [s for s in range(len(mask)) if mask[s]]
  others = [s for s in range(len(mask)) if not mask[s]]
  return np.array(valid + others, np.int32), len(valid)


def surrogate_loss(log_probs, behaviour, advantages, where, clip_low=0.2,
                   clip_high=0.3, normaliser=None, importance_cap=0, old=None):
  """-J: min(rho A, clip(rho) A) over the valid tokens, one at a time."""
  total, valid = 0.0, 0
  for index in np.ndindex(np.shape(log_probs)):
    if not where[index]:
      continue
    valid += 1
    reference, weight = float(behaviour[index]), 1.0
    if importance_cap:
      reference = float(old[index])
      weight = min(
          math.exp(reference - float(behaviour[index])), importance_cap)
    rho = math.exp(float(log_probs[index]) - reference)
    per_token = np.ndim(advantages) == np.ndim(log_probs)
    advantage = float(advantages[index if per_token else index[:-1]])
    clipped = min(max(rho, 1 - clip_low), 1 + clip_high)
    total += weight * min(rho * advantage, clipped * advantage)
  if normaliser is None:
    normaliser = valid
  return -total / normaliser if valid else 0.0


def numerical_gradient(function, x, step=1e-6):
  """Central differences of a scalar function at the float64 array x."""
  gradient = np.zeros(np.shape(x))
  for index in np.ndindex(np.shape(x)):
    above, below = np.array(x, np.float64), np.array(x, np.float64)
    above[index] += step
    below[index] -= step
    gradient[index] = (function(above) - function(below)) / (2 * step)
  return gradient


def frontier_distribution(rates, target=0.5, width=0.25, uniform_share=0.2):
  """A Gaussian of each task's success rate, and a part that is uniform."""
  weights = [
      math.exp(-(float(p) - target) ** 2 / (2 * width ** 2)) for p in rates]
  return np.array([
      (1 - uniform_share) * w / sum(weights) + uniform_share / len(rates)
      for w in weights])


def replay_distribution(scores, last_seen, count, temperature=0.1,
                        staleness=0.1):
  """P_replay over the tasks seen, uniform over the others."""
  num_tasks = len(scores)
  seen = [i for i in range(num_tasks) if last_seen[i]]
  order = sorted(seen, key=lambda i: -scores[i])
  by_score = {}
  for i in seen:
    tied = [
        (k + 1) ** (-1 / temperature) for k, j in enumerate(order)
        if scores[j] == scores[i]]
    by_score[i] = sum(tied) / len(tied)
  ages = {i: count - last_seen[i] for i in seen}
  result = np.full(num_tasks, 1 / num_tasks)
  for i in seen:
    p = by_score[i] / sum(by_score.values())
    if sum(ages.values()):
      p = (1 - staleness) * p + staleness * ages[i] / sum(ages.values())
    result[i] = p * len(seen) / num_tasks
  return result


def spo_distribution(successes, failures, exploration=0.05):
  """In proportion to sqrt(v (1 - v)) + epsilon."""
  weights = []
  for alpha, beta in zip(successes, failures):
    v = float(alpha) / (float(alpha) + float(beta))
    weights.append(math.sqrt(v * (1 - v)) + exploration)
  return np.array(weights) / sum(weights)


def exploration_value(n, p):
  """V(n): whether n trajectories differ, times the gain of a step."""
  return (1 - p ** n - (1 - p) ** n) * p * (1 - p) ** 2


def knapsack_value(rates, total, minimum, maximum):
  """The largest sum of V(n_i) with sum n_i = total, minimum <= n_i <= maximum.

  By dynamic programming over tasks and what they have spent together.
  """
  best = {0: 0.0}
  for p in rates:
    reached: dict = {}
    for spent, value in best.items():
      for n in range(minimum, maximum + 1):
        if spent + n <= total:
          candidate = value + exploration_value(n, float(p))
          reached[spent + n] = max(reached.get(spent + n, -1.0), candidate)
    best = reached
  return best[total]
