"""Tests of collecting: by slot, whatever happens on the way."""

import chex
import jax
import numpy as np
import pytest

from step_jax.envs import base as envs_base
from step_jax.policies import element
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import collector
from step_jax.rollout import workers
from step_jax.rollout.actors import local
from tests import fake_world

_TASKS = ('press-1', 'press-2', 'press-3', 'type-1')
_MAX_STEPS = 4
_CODEC = element.make_codec(envs_base.TEXT_WORDS)
_EXAMPLE = fake_world.example()
_JOBS = [workers.Job(slot, (slot // 2) % 4, 100 + slot // 2)
         for slot in range(12)]


class _PatientEnv(fake_world.ButtonEnv):
  """Lets one go on after a wrong action; its first task has scores."""

  def step(self, action):
    observation, reward, terminated, truncated, info = super().step(action)
    terminated &= not self._wanted
    truncated = not terminated and self._step >= self._max_steps
    if (terminated or truncated) and self._task == _TASKS[0]:
      info = {**info, 'score': self._step / 8}
    return observation, reward, terminated, truncated, info


def _make_env():
  return _PatientEnv(_TASKS, _MAX_STEPS)


@pytest.fixture(scope='module', name='actor')
def made_actor():
  """`actor(batch_size) -> (ActFn, policy, params)`; counts its traces."""
  policy = element.make_policy(
      _EXAMPLE | {'history': _CODEC.empty_history}, width=16, num_layers=1,
      num_heads=2, vocabulary=32)
  params = jax.jit(policy.init)(jax.random.key(0))

  def make(batch_size=4, temperature=.7, policy=policy):
    player = collect_lib.Player(params, jax.random.key(7), temperature)
    return local.policy_actor(policy, player, batch_size=batch_size)

  make.policy, make.params = policy, params
  return make


def _half_expert(rows):
  """Knows the way, and goes astray at every other screen."""
  sample = local.expert_actor(rows)
  astray = np.sum(rows.observations['element_text'], (1, 2)) % 2 == 0
  sample.tokens[astray] = 0, 3, 0
  return sample._replace(
      log_probs=-np.ones(sample.tokens.shape, np.float32)
      * rows.slots[:, None])


def _expert_jobs(jobs=tuple(_JOBS)):
  return [job._replace(expert=True) for job in jobs]


def _collect(pool, act, jobs=tuple(_JOBS), make=local.Immediate, **options):
  with pool:
    return collect_lib.collect(
        pool, jobs, make(act), example=_EXAMPLE, codec=_CODEC,
        num_tokens=element.NUM_TOKENS, max_steps=_MAX_STEPS, **options)


class _Elsewhere(local.Immediate):
  """Answers one row at a time, in any order, some of them after a while."""
  rng = np.random.default_rng(3)

  def __init__(self, act):
    super().__init__(act)
    self.asked = []  # rows at once

  def submit(self, rows, **options):
    self.asked.append(len(rows.slots))
    return super().submit(rows, **options)

  def receive(self, timeout):
    if not self._answers or self.rng.random() < .5:
      return []
    return [self._answers.pop(self.rng.integers(len(self._answers)))]


def _local(**options):
  return fake_world.LocalPool(_make_env, **options)


@pytest.fixture(scope='module', name='undisturbed')
def made_undisturbed(actor):
  return _collect(_local(), actor())


def _assert_same(actual, expected):
  """Compares trees of numpy arrays bit for bit."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  chex.assert_trees_all_equal_dtypes(actual, expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert a.tobytes() == b.tobytes()


def test_records_have_their_shapes(undisturbed):
  trajectory = undisturbed.trajectory
  shape = (len(_JOBS), _MAX_STEPS)
  assert {name: (x.shape, x.dtype.name) for name, x in vars(
      trajectory).items() if name != 'observations'} == {
          'task_ids': (shape[:1], 'int32'),
          'actions': (shape + (3,), 'int32'),
          'log_probs': (shape + (3,), 'float32'),
          'token_mask': (shape + (3,), 'bool'),
          'step_mask': (shape, 'bool'),
          'returns': (shape[:1], 'float32'),
          'successes': (shape[:1], 'bool'),
          'valid': (shape[:1], 'bool')}
  assert {name: (x.shape[2:], x.dtype)
          for name, x in trajectory.observations.items()} == {
              name: (x.shape, x.dtype) for name, x in (
                  _EXAMPLE | {'history': _CODEC.empty_history}).items()}
  assert trajectory.valid.all() and undisturbed.environment_failures == 0
  assert undisturbed.environment_steps == trajectory.step_mask.sum()
  np.testing.assert_array_equal(
      trajectory.task_ids, [job.task_id for job in _JOBS])
  # Steps are filled from the front.
  lengths = trajectory.step_mask.sum(axis=1)
  assert 1 <= lengths.min() < lengths.max() == _MAX_STEPS  # of all kinds
  np.testing.assert_array_equal(
      trajectory.step_mask, np.arange(_MAX_STEPS) < lengths[:, None])
  assert not trajectory.token_mask[~trajectory.step_mask].any()


def test_scores_are_noted_where_there_are_any(undisturbed):
  trajectory, scores = undisturbed.trajectory, undisturbed.notes.scores
  np.testing.assert_array_equal(scores, np.where(
      trajectory.task_ids == 0, trajectory.step_mask.sum(axis=1) / 8, np.nan))


def test_returns_are_the_rewards_of_the_world():
  trajectory = _collect(_local(), _half_expert, _expert_jobs()).trajectory
  expected = []
  for job in _expert_jobs():
    env = _make_env()
    observation, info = env.reset(
        seed=job.seed, options={'task_id': job.task_id, 'expert': True})
    done, length = False, 0
    while not done:
      rows = collect_lib.Rows(np.zeros(1, int), None, jax.tree.map(
          lambda x: x[None], observation), [info])
      observation, reward, *ends, info = env.step(_half_expert(rows).tokens[0])
      done, length = any(ends), length + 1
    expected.append((reward, length))
  rewards, lengths = np.array(expected).T
  assert 0 < rewards.sum() < len(_JOBS)  # of both kinds
  np.testing.assert_array_equal(trajectory.returns, rewards)
  np.testing.assert_array_equal(trajectory.successes, rewards == 1)
  np.testing.assert_array_equal(trajectory.step_mask.sum(axis=1), lengths)


@pytest.mark.parametrize('num_workers, seed', [(1, 0), (3, 1), (5, 2), (12, 3)])
def test_the_order_of_arrival_changes_nothing(
    actor, undisturbed, num_workers, seed):
  pool = _local(num_workers=num_workers, rng=np.random.default_rng(seed))
  collection = _collect(pool, actor())
  _assert_same(collection.trajectory, undisturbed.trajectory)
  assert collection[1:4] == undisturbed[1:4]
  jax.tree.map(
      np.testing.assert_array_equal, collection.notes, undisturbed.notes)
  if num_workers > 1:
    assert pool.arrivals != sorted(pool.arrivals)


def test_the_order_of_submission_changes_nothing(actor, undisturbed):
  collection = _collect(_local(), actor(), _JOBS[::-1])
  _assert_same(collection.trajectory, undisturbed.trajectory)


def test_real_workers_store_the_same(actor, undisturbed):
  pool = workers.WorkerPool(
      _make_env, num_workers=3, step_timeout=60., start_timeout=120.)
  collection = _collect(pool, actor())
  _assert_same(collection.trajectory, undisturbed.trajectory)
  assert collection[1:4] == undisturbed[1:4]
  jax.tree.map(
      np.testing.assert_array_equal, collection.notes, undisturbed.notes)


def test_what_is_stored_is_what_the_policy_read(actor):
  read = {}
  inner = actor()

  def act(rows):
    sample = inner(rows)
    for i, where in enumerate(zip(rows.slots, rows.step_ids)):
      read[where] = (jax.tree.map(lambda x, i=i: x[i].copy(),
                                  rows.observations),
                     [x[i].copy() for x in sample])
    return sample

  trajectory = _collect(
      _local(num_workers=3, rng=np.random.default_rng(0)), act).trajectory
  assert sorted(read) == list(zip(*np.nonzero(trajectory.step_mask)))
  for where, (observation, sample) in read.items():
    _assert_same(jax.tree.map(
        lambda x, where=where: x[where], trajectory.observations), observation)
    _assert_same([trajectory.actions[where], trajectory.log_probs[where],
                  trajectory.token_mask[where]], sample)


def test_the_history_is_that_of_the_episode():
  trajectory = _collect(
      _local(num_workers=5, rng=np.random.default_rng(1)),
      local.expert_actor, _expert_jobs()).trajectory
  assert trajectory.step_mask.sum(axis=1).max() == 3
  for slot, step in zip(*np.nonzero(trajectory.step_mask)):
    history = _CODEC.empty_history
    for earlier in range(step):
      history = _CODEC.remember(
          history, jax.tree.map(
              lambda x: x[slot, earlier], trajectory.observations),
          trajectory.actions[slot, earlier])
    np.testing.assert_array_equal(
        trajectory.observations['history'][slot, step], history)
    assert history.any() == (step > 0)


def test_stored_log_probs_are_those_of_the_policy(actor):
  trajectory = _collect(_local(), actor()).trajectory
  mask = trajectory.step_mask
  log_probs, _ = actor.policy.log_prob(
      actor.params, jax.tree.map(lambda x: x[mask], trajectory.observations),
      trajectory.actions[mask], temperature=.7)
  stored, tokens = trajectory.log_probs[mask], trajectory.token_mask[mask]
  assert tokens[:, 0].all() and stored[tokens].min() < -.1
  np.testing.assert_allclose(
      np.exp(log_probs - stored)[tokens], 1., rtol=1e-5)


def test_a_retried_episode_is_the_same_episode(actor, undisturbed):
  longest = int(undisturbed.trajectory.step_mask.sum(axis=1).argmax())
  faults = {(slot, 0): 1 + slot % 2 for slot in (2, 5, 7) if slot != longest}
  faults[longest, 1] = 2  # after a step was played and stored
  pool = _local(
      num_workers=3, rng=np.random.default_rng(2), faults=faults)
  collection = _collect(pool, actor())
  _assert_same(collection.trajectory, undisturbed.trajectory)
  assert collection.environment_failures == sum(faults.values())
  # Two attempts were lost in their second step.
  assert (collection.environment_steps
          == undisturbed.environment_steps + 2 * 2)


def test_actions_are_sent_before_the_next_call(actor, undisturbed):
  log = []
  inner = actor()

  def act(rows):
    log.append(len(rows.slots))
    return inner(rows)

  class Pool(fake_world.LocalPool):

    def act(self, worker, action):
      log.append('sent')
      super().act(worker, action)

  collection = _collect(Pool(_make_env, num_workers=5), act, batch_size=2)
  _assert_same(collection.trajectory, undisturbed.trajectory)
  calls = [i for i, entry in enumerate(log) if entry != 'sent']
  assert {log[i] for i in calls} == {1, 2}
  for i in calls:
    assert log[i + 1:i + 1 + log[i]] == ['sent'] * log[i]


def test_what_a_lost_worker_had_shown_is_not_answered(actor, undisturbed):
  """It breaks while its observation waits for a policy that is busy."""
  class Pool(fake_world.LocalPool):
    killed = None

    def wait(self, timeout=None):
      if self.killed is None and self._waiting:
        self.killed, (job, attempt, _) = self._waiting.popitem()
        self._queue.append((job, attempt + 1))
        self.num_failures += 1
        return [workers.Event('failed', job, self.killed, attempt)]
      return super().wait(timeout)

  pool = Pool(_make_env, num_workers=5)
  collection = _collect(pool, actor(), batch_size=2)
  assert pool.killed is not None and collection.environment_failures == 1
  _assert_same(collection.trajectory, undisturbed.trajectory)
  assert collection.environment_steps == undisturbed.environment_steps


@pytest.mark.parametrize('kills', [0, 3])
def test_an_actor_elsewhere_is_not_waited_for(actor, undisturbed, kills):
  """What dies meanwhile is asked again; a late answer to it is no one's."""
  made = []

  class Pool(fake_world.LocalPool):
    left = kills
    together = 0

    def wait(self, timeout=None):
      self.together = max(self.together, len(self._waiting))
      if self.left and len(self._waiting) == 5:
        self.left -= 1
        worker, (job, attempt, _) = self._waiting.popitem()
        self._queue.append((job, attempt + 1))
        self.num_failures += 1
        return [workers.Event('failed', job, worker, attempt)]
      return super().wait(timeout)

  def make(act):
    made.append(_Elsewhere(act))
    return made[-1]

  pool = Pool(_make_env, num_workers=5)
  collection = _collect(pool, actor(), make=make)
  _assert_same(collection.trajectory, undisturbed.trajectory)
  assert pool.left == 0 and pool.together == made[0].asked[0] == 5
  assert collection.environment_failures == kills
  assert sum(made[0].asked) == kills + collection.environment_steps


def test_alternatives_have_keys_of_their_own(actor):
  policy = local.Local(actor.policy, batch_size=4)
  policy.publish(actor.params, 6)
  rows = collect_lib.Rows(
      np.arange(5), np.zeros(5, int), _screens(5, np.random.default_rng(0)), ())
  key = jax.random.key(7)
  for candidates in ((0,), (1, 2, 3)):
    assert len(policy.submit(rows, rng_key=key, temperature=.7,
                             candidates=candidates)) == 5
  answers = policy.receive(0.)
  assert [answer.ticket for answer in answers] == list(range(10))
  assert {answer.version for answer in answers} == {6}
  stacked = jax.tree.map(
      lambda *x: np.stack(x), *(answer.sample for answer in answers[5:]))
  for place, candidate in enumerate((1, 2, 3)):
    _assert_same(jax.tree.map(lambda x: x[:, place], stacked),
                 local.policy_actor(
                     actor.policy, collect_lib.Player(actor.params, key, .7),
                     batch_size=4, candidate=candidate)(rows))
  assert stacked.tokens.shape == (5, 3, 3) and len({
      row.tobytes() for row in stacked.tokens[0]}) > 1
  assert answers[0].sample.tokens.shape == (3,)


def test_a_lost_trajectory_counts_for_nothing(actor, undisturbed):
  longest = int(undisturbed.trajectory.step_mask.sum(axis=1).argmax())
  other = (longest + 1) % len(_JOBS)
  pool = _local(faults={(longest, 1): 9, (other, 0): 9})
  collection = _collect(pool, actor())
  lost = collection.trajectory
  rest = np.ones(len(_JOBS), bool)
  rest[[longest, other]] = False
  np.testing.assert_array_equal(lost.valid, rest)
  for mask in (lost.step_mask, lost.token_mask):
    assert not mask[~rest].any()
  assert not lost.returns[~rest].any() and not lost.successes[~rest].any()
  assert collection.environment_failures == 6
  whole = undisturbed.trajectory
  _assert_same(jax.tree.map(lambda x: x[rest], lost),
               jax.tree.map(lambda x: x[rest], whole))
  np.testing.assert_array_equal(lost.task_ids, whole.task_ids)
  assert collection.environment_steps == lost.step_mask.sum() + 3 * 2


def test_nine_of_ten_resets_fail():
  """NeMo-Gym #2552: who is lost is not valid, who is not is as without."""
  jobs = [workers.Job(slot, slot % 4, slot, True) for slot in range(40)]
  lost = np.arange(40) % 10 != 2
  faults = {(slot, 0): 9 for slot in np.flatnonzero(lost)}
  actual, whole = (
      _collect(_local(faults=x), _half_expert, jobs).trajectory
      for x in (faults, {}))
  np.testing.assert_array_equal(actual.valid, ~lost)
  assert 0 < actual.returns[~lost].sum() < 4
  _assert_same(jax.tree.map(lambda x: x[~lost], actual),
               jax.tree.map(lambda x: x[~lost], whole))
  assert not actual.returns[lost].any()


def test_counts_are_of_this_collection_alone(actor, undisturbed):
  pool = _local(faults={(0, 0): 1})
  assert _collect(pool, actor(), _JOBS[:2]).environment_failures == 1
  pool._faults = {}
  again = _collect(pool, actor())
  assert again.environment_failures == 0
  assert (again.environment_steps
          == undisturbed.trajectory.step_mask.sum()
          == undisturbed.environment_steps)


@pytest.mark.parametrize('num_rows', [1, 3, 4, 5, 9])
def test_the_policy_is_called_with_one_shape(actor, num_rows):
  shapes = []

  def sample(params, keys, observations, *, temperature):
    shapes.append(jax.tree.map(np.shape, (keys, observations)))
    return actor.policy.sample(
        params, keys, observations, temperature=temperature)

  act = actor(policy=actor.policy._replace(sample=sample))
  rng = np.random.default_rng(0)
  rows = collect_lib.Rows(
      np.arange(num_rows, dtype=np.int32), np.zeros(num_rows, np.int32),
      _screens(num_rows, rng), [{}] * num_rows)
  result = act(rows)
  assert all(shape == shapes[0] for shape in shapes)
  assert shapes[0][0] == (4,) and len(shapes) == -(-num_rows // 4)
  # No row knows of the others, nor of the padding.
  alone = [act(jax.tree.map(
      lambda x, i=i: x[i:i + 1], rows._replace(infos=None)))
           for i in range(num_rows)]
  _assert_same(result, jax.tree.map(lambda *x: np.concatenate(x), *alone))


def _screens(num_rows, rng):
  env = _make_env()
  rows = [env.reset(seed=int(rng.integers(99)), options={'task_id': i % 4})[0]
          | {'history': _CODEC.empty_history} for i in range(num_rows)]
  return jax.tree.map(lambda *x: np.stack(x), *rows)


def test_the_policy_is_traced_once(actor, undisturbed):
  assert undisturbed.environment_steps
  before = actor.policy.sample._cache_size()
  for num_workers in (1, 4, 7):
    _collect(_local(num_workers=num_workers), actor())
  assert actor.policy.sample._cache_size() == before == 1


def test_temperature_0_repeats_itself_whatever_the_key(actor):
  jobs = [job._replace(slot=slot, task_id=2, seed=5)
          for slot, job in enumerate(_JOBS[:4])]
  trajectory = _collect(_local(), actor(temperature=0.), jobs).trajectory
  for x in jax.tree.leaves((trajectory.observations, trajectory.actions)):
    np.testing.assert_array_equal(x, np.broadcast_to(x[:1], x.shape))
  assert not trajectory.log_probs.any()


def test_copies_of_an_episode_differ_by_their_slot_alone(actor):
  jobs = [workers.Job(slot, 2, 5) for slot in range(12)]
  trajectory = _collect(_local(), actor(), jobs).trajectory
  first = trajectory.observations['element_text'][:, 0]
  np.testing.assert_array_equal(first, np.broadcast_to(first[:1], first.shape))
  assert len({row.tobytes() for row in trajectory.actions[:, 0]}) > 1


def test_a_request_to_stop_is_heard(actor):
  pool = _local()
  progress = []
  with pytest.raises(KeyboardInterrupt):
    _collect(pool, actor(), should_stop=lambda: len(progress) >= 3,
             on_progress=progress.append)
  assert 3 <= len(progress) < len(_JOBS)
  with pytest.raises(KeyboardInterrupt):
    _collect(_local(), pytest.fail, should_stop=lambda: True)


def test_progress_is_told():
  told = []
  trajectory = _collect(
      _local(faults={(3, 0): 9}), _half_expert, _expert_jobs(),
      on_progress=told.append).trajectory
  assert [news.finished for news in told] == list(range(1, len(_JOBS) + 1))
  assert {news.total for news in told} == {len(_JOBS)}
  assert told[-1].succeeded == trajectory.successes.sum() > 0


def test_an_environment_that_outlasts_its_steps_is_a_bug():
  def make_env():
    return _PatientEnv(_TASKS, 99)

  jobs = [workers.Job(0, 2, 0, True)]
  with pytest.raises(RuntimeError, match='task 2'):
    collect_lib.collect(
        fake_world.LocalPool(make_env), jobs,
        local.Immediate(local.expert_actor), example=_EXAMPLE, codec=_CODEC,
        num_tokens=3, max_steps=2)


def test_no_jobs_no_trajectories():
  trajectory, *counts = _collect(_local(), pytest.fail, [])
  assert counts[:3] == [0, 0, ''] and trajectory.valid.shape == (0,)
  assert [len(x) for x in counts[3]] == [0, 0, 0, 0]


def test_a_player_s_parameters_are_published_when_they_are_others(
    actor, undisturbed):
  """Round after round in one pool; the scripted solution needs none."""
  versions, led = [], []

  class Actor(local.Local):

    def publish(self, params, version):
      versions.append(version)
      super().publish(params, version)

  def lead(collect):
    return lambda *args, **options: led.append(options['closes']) or collect(
        *args, **options)

  player = collect_lib.Player(actor.params, jax.random.key(7), .7)
  with _local() as pool:
    collect = collector.make_collect(
        pool, Actor(actor.policy, batch_size=4), _CODEC, _EXAMPLE,
        max_steps=_MAX_STEPS, batch_size=4, lead=lead)
    first, expert, again, other = (
        collect(jobs, player, closes=False) for jobs, player in (
            (_JOBS, player), (_expert_jobs(), None), (_JOBS, player),
            (_JOBS, player._replace(params=jax.tree.map(
                np.negative, actor.params)))))
  assert versions == [1, 2] and led == [False] * 4
  for collection in (first, again):
    _assert_same(collection.trajectory, undisturbed.trajectory)
  assert expert.trajectory.successes.all()
  assert not expert.trajectory.log_probs.any()
  assert (other.trajectory.actions != first.trajectory.actions).any()
