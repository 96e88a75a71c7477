"""Tests of acting by inference servers: our own, and fakes that fail."""

import functools
import json
import threading
import time

from fastapi import testclient
import httpx
import jax
import numpy as np
import pytest
from scipy import stats
import tokenizers

from experiments import collectors
from experiments import rounds
from experiments import serving
from experiments import setups
from experiments import train
from experiments import worlds
from step_jax.algorithm import types
from step_jax.policies import base as policies
from step_jax.policies.qwen_vl import model as model_lib
from step_jax.policies.qwen_vl import policy as policy_lib
from step_jax.policies.qwen_vl import saving
from step_jax.policies.qwen_vl import tokenizer as tokenizer_lib
from step_jax.policies.qwen_vl import vocabulary as vocabulary_lib
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import workers
from step_jax.rollout.actors import alternatives
from step_jax.rollout.actors import base as actors
from step_jax.rollout.actors import engine as engine_lib
from step_jax.rollout.actors import fleet as fleet_lib
from step_jax.rollout.actors import local
from step_jax.rollout.actors import messages
from step_jax.rollout.actors import serve
from step_jax.runs import errors
from tests import fake_servers
from tests import fake_world
from tests import vision_language_test

_JOBS = [workers.Job(slot, 0, 100 + slot) for slot in range(4)]
_STEPS = 2
_KEY = jax.random.key(7)
_LENGTH = 3  # of a response
_START = 257  # <|im_start|>, which may not be written
_NUM_TOKENS = 270  # of the vocabulary


@pytest.fixture(scope='module', name='folder')
def made_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('actors')
  _save_checkpoint(folder / 'model')
  return folder


def _save_checkpoint(folder):
  """A random Qwen2.5-VL that spells, so that a token costs little."""
  letters = tokenizer_lib.byte_letters()
  tokenizer = tokenizer_lib._bpe(tokenizers.models.BPE(
      vocab={letter: place for place, letter in enumerate(letters)},
      merges=[]))
  tokenizer_lib._add(tokenizer, {
      len(letters) + place: (token, True)
      for place, token in enumerate(tokenizer_lib.SPECIAL)})
  vocabulary = vocabulary_lib.Vocabulary(tokenizer)
  config = policy_lib.tiny_config(
      vocabulary, width=16, num_layers=1, vision_layers=1, num_heads=2,
      rope_theta=100.)
  params = jax.jit(functools.partial(
      model_lib.init_params, model_lib.Model(config)))(jax.random.key(0))
  saving.save_params(folder, config, params)
  tokenizer.save(str(folder / 'tokenizer.json'))


@pytest.fixture(scope='module', name='setup')
def made_setup(folder):
  config = vision_language_test.make_config(**{
      'actor.name': 'sglang', 'actor.addresses': ('http://127.0.0.1:1',),
      'actor.dtype': 'float32', 'actor.bound': 1e-4,
      'policy.response_length': _LENGTH, 'max_steps': _STEPS,
      **_of_checkpoint(folder)})
  return setups.make_setup(config, worlds.make_world(config, workdir=folder))


def _of_checkpoint(folder):
  return {'policy.checkpoint': str(folder / 'model'),
          'policy.min_pixels': 56 * 56, 'policy.prompt_length': 200,
          'env.tasks': ('click',)}


@pytest.fixture(scope='module', name='params')
def made_params(setup):
  """Parameters that prefer some tokens, unlike those of the checkpoint."""
  return jax.jit(functools.partial(jax.tree.map, lambda x: 5 * x))(
      setup.policy.init(jax.random.key(0)))


@pytest.fixture(scope='module', name='engine')
def made_engine(setup, params, folder):
  """Has compiled what is asked for."""
  engine = engine_lib.Engine(
      folder / 'model', batch_size=2, dtype='float32')
  fake = fake_servers.FakeSGLang(engine, folder / 'model')
  with (fake_servers.serving(fake) as address,
        _remote(setup, (address,)) as remote):
    remote.publish(params, 1)
  yield engine
  engine.close()


@pytest.fixture(name='servers')
def made_servers(engine, folder, monkeypatch):
  """Two servers of one engine, and their addresses."""
  monkeypatch.setattr(fleet_lib, '_MIN_PAUSE', .01)
  fakes = [fake_servers.FakeSGLang(engine, folder / 'model') for _ in range(2)]
  with (fake_servers.serving(fakes[0]) as first,
        fake_servers.serving(fakes[1]) as second):
    yield fakes, (first, second)


def _remote(setup, addresses, **changes):
  config = setup.config.copy_and_resolve_references()
  with config.unlocked():
    config.actor.addresses = addresses
    config.actor.update(changes)
  return serving.make_remote(config, setup.policy, setup.world)


def _wait_for_all(remote):
  """Until every server has proven itself, not just the first."""
  while not all(server.is_up for server in remote._fleet._servers):
    time.sleep(.01)


def _collect(setup, actor, temperature):
  player = actors.Player(None, _KEY, temperature)
  with fake_world.LocalPool(setup.world.make_env, num_workers=3) as pool:
    return collect_lib.collect(
        pool, _JOBS, actor, player, example=setup.world.example,
        codec=setup.codec, num_tokens=_LENGTH, max_steps=_STEPS)


def _comparable(trajectory):
  """Pictures have other numbers where they come in another order."""
  observations = trajectory.observations | {'screenshot': 0}
  return jax.tree.leaves(trajectory.replace(observations=observations))


def _own_log_probs(setup, params, observations, tokens, temperature=.7):
  """Our model's, two rows at a time."""
  parts = [np.asarray(setup.policy.log_prob(
      params, setup.policy.load(jax.tree.map(
          lambda x: x[start:start + 2], observations)),
      tokens[start:start + 2], temperature=temperature)[0])
           for start in range(0, len(tokens), 2)]
  return np.concatenate(parts)


def _check_log_probs(setup, params, trajectory):
  """Every step's are our own model's, to 1e-4."""
  where = trajectory.step_mask
  tokens = trajectory.token_mask[where]
  own = _own_log_probs(setup, params, jax.tree.map(
      lambda x: x[where], trajectory.observations), trajectory.actions[where])
  assert tokens[:, 0].all() and own[tokens].std() > .1
  np.testing.assert_allclose(
      trajectory.log_probs[where][tokens], own[tokens], atol=1e-4)


def _check_counts(collection):
  trajectory = collection.trajectory
  assert trajectory.valid.all() and trajectory.step_mask.all()
  assert collection.environment_steps == len(_JOBS) * _STEPS
  assert collection.environment_failures == 0


def test_at_temperature_0_it_plays_what_the_local_policy_plays(
    setup, params, servers):
  fakes, addresses = servers
  policy = local.Local(setup.policy, batch_size=2)
  policy.publish(params, 1)
  expected = _collect(setup, policy, 0.)
  with _remote(setup, addresses) as remote:
    remote.publish(params, 1)
    _wait_for_all(remote)
    collection = _collect(setup, remote, 0.)
  _check_counts(collection)
  for one, other in zip(*map(
      _comparable, (collection.trajectory, expected.trajectory)), strict=True):
    np.testing.assert_array_equal(one, other)
  assert not collection.trajectory.log_probs.any()
  for fake in fakes:  # each was proven, and used
    assert len([route for route, _ in fake.seen if route == '/generate']) > 1
  body = fakes[0].seen[-1][1]
  assert body['sampling_params'] | {'logit_bias': 0, 'sampling_seed': 0} == {
      'temperature': 0., 'n': 1, 'max_new_tokens': _LENGTH, 'sampling_seed': 0,
      'stop_token_ids': list(setup.policy.served.stop_ids), 'logit_bias': 0,
      'top_p': 1., 'top_k': -1, 'min_p': 0., 'frequency_penalty': 0.,
      'presence_penalty': 0., 'repetition_penalty': 1.}


def _group(setup, trajectory):
  """Singles of a round, every other step low, of one advantage."""
  rows = jax.tree.map(
      lambda x: x.reshape((-1,) + x.shape[2:]), trajectory.observations)
  shape = (len(_JOBS) * _STEPS, 1)
  singles = types.StepBatch(
      observations=rows, advantages=np.ones(shape, np.float32),
      mask=np.ones(shape, bool), **{
          name: getattr(trajectory, name).reshape(shape + (_LENGTH,))
          for name in ('actions', 'log_probs', 'token_mask')})
  return singles, np.arange(shape[0]) % 2 == 1


@pytest.mark.parametrize('kind', ['sglang', 'vllm'])
def test_log_probs_are_those_of_our_own_model(
    setup, params, engine, folder, kind):
  """Of actions and of alternatives, which stored rows give."""
  fake = {'sglang': fake_servers.FakeSGLang, 'vllm': fake_servers.FakeVLLM}[
      kind](engine, folder / 'model')
  with (fake_servers.serving(fake) as address,
        _remote(setup, (address,), name=kind) as remote):
    remote.publish(params, 1)
    collection = _collect(setup, remote, .7)
    singles, low = _group(setup, collection.trajectory)
    batch = alternatives.augment_steps(
        _KEY, None, singles, low, actor=remote, temperature=.7,
        matches_fn=setup.codec.matches, max_steps=_STEPS, num_candidates=4)
  _check_counts(collection)
  _check_log_probs(setup, params, collection.trajectory)
  groups = jax.tree.map(lambda x: x[low], batch.groups)
  np.testing.assert_array_equal(groups.actions[:, 0], singles.actions[low, 0])
  assert not np.asarray(batch.groups.mask)[~low].any()
  for candidate in range(1, 4):
    tokens, where = (x[:, candidate] for x in (
        groups.actions, groups.token_mask))
    own = _own_log_probs(setup, params, groups.observations, tokens)
    assert where[:, 0].all()
    np.testing.assert_allclose(
        groups.log_probs[:, candidate][where], own[where], atol=1e-4)
  assert any(len({row.tobytes() for row in candidates[1:]}) > 1
             for candidates in groups.actions)
  generated = [body for route, body in fake.seen if 'generate' in route]
  drawn = [body['sampling_params'] for body in generated]
  assert {options['n'] for options in drawn[1 + len(_JOBS) * _STEPS:]} == {3}
  seeds = {options.get('sampling_seed', options.get('seed'))
           for options in drawn}
  assert len(seeds) == len(drawn)


def _p_value(tokens, probabilities):
  """Of a chi-square test of first tokens; those that are rare count as one."""
  wanted = len(tokens) * probabilities
  seen = np.bincount(tokens[:, 0], minlength=len(wanted))
  often = wanted >= 5
  seen, wanted = (np.append(x[often], x[~often].sum()) for x in (seen, wanted))
  assert len(seen) > 20 and wanted.min() >= 5
  return stats.chisquare(seen, wanted).pvalue


def test_draws_are_distributed_as_those_of_the_local_policy(
    setup, params, servers):
  """First tokens, and whole responses: 64 to each of 16 rows."""
  env = setup.world.make_env()
  row = setup.codec.observe(*env.reset(seed=100, options={'task_id': 0}),
                            setup.codec.empty_history)

  def repeated(count):
    return jax.tree.map(lambda x: np.stack([x] * count), row)

  answers = []
  with _remote(setup, servers[1]) as remote:
    remote.publish(params, 1)
    remote.submit(actors.Rows(
        np.arange(16), np.zeros(16, int), repeated(16), [{}] * 16),
        rng_key=_KEY, temperature=.7, candidates=range(1, 65))
    while len(answers) < 16:
      answers += remote.receive(1.)
  sample = jax.tree.map(lambda *x: np.concatenate(x), *(
      answer.sample for answer in sorted(answers)))
  assert len(sample.tokens) == 1024

  illegal = set(setup.policy.served.illegal_ids)
  first = [x for x in range(_NUM_TOKENS) if x not in illegal]
  tokens = np.zeros((len(first), _LENGTH), np.int32)
  tokens[:, 0] = first
  wanted = np.zeros(_NUM_TOKENS)
  wanted[first] = np.exp(_own_log_probs(
      setup, params, repeated(len(first)), tokens)[:, 0])
  assert wanted.sum() == pytest.approx(1, abs=1e-5)
  assert _p_value(sample.tokens, wanted / wanted.sum()) > .01
  untempered = wanted**.7
  assert _p_value(sample.tokens, untempered / untempered.sum()) < 1e-9

  # The mean of p_0.5 / p_0.7 over responses drawn at 0.7 is 1.
  tokens, own, where = (x[:128] for x in sample)
  sharp = _own_log_probs(setup, params, repeated(128), tokens, .5)
  ratio = np.exp(np.where(where, sharp - own, 0).sum(axis=1))
  assert ratio.std() > .1
  assert abs(ratio.mean() - 1) < 3 * ratio.std() / np.sqrt(len(ratio))


def _edit(name, change):
  """A fault: something else in `meta_info`."""
  def fault(answer, fake):
    del fake
    about = answer['meta_info']
    about[name] = change(about[name])
    return answer
  return fault


def _tokens(change):
  """A fault: other tokens, or log-probs of them, than were drawn."""
  return _edit('output_token_logprobs', lambda x: [
      [one[0], one[1], None] for one in change(x)])


_FAULTS = {
    'statuses, and no JSON': ['error', 'garbage', 'error'],
    'tokens and log-probs too few, or of no kind': [
        _tokens(lambda x: x[1:]), _tokens(lambda x: [[None, 5]] * len(x)),
        _edit('completion_tokens', lambda x: x + 1)],
    'an illegal token, an abort, another prompt': [
        _tokens(lambda x: [[one[0], _START] for one in x]),
        _edit('finish_reason', lambda x: {'type': 'abort'}),
        _edit('prompt_tokens', lambda x: x + 1)],
    'a lost connection': ['drop'],
    'a slow answer': ['slow'],
    'another version': [_edit('weight_version', lambda x: 'default')],
    'a restart': ['restart'],
}


@pytest.mark.parametrize('name', _FAULTS)
def test_a_round_outlives(setup, params, servers, name):
  """It ends with the right counts, by the published parameters alone."""
  fakes, addresses = servers
  with _remote(setup, addresses) as remote:
    remote.publish(params, 1)
    _wait_for_all(remote)
    for fake in fakes:
      fake.seen.clear()
    fakes[0].faults['/generate'] += [None, *_FAULTS[name]]
    if name == 'a slow answer':
      remote._fleet._servers[0].client.timeout = httpx.Timeout(.2)
    collection = _collect(setup, remote, .7)
  _check_counts(collection)
  _check_log_probs(setup, params, collection.trajectory)
  assert not fakes[0].faults['/generate']
  reloads = [route for fake in fakes for route, _ in fake.seen
             if route == '/update_weights_from_disk']
  assert bool(reloads) == (name == 'a restart')


@pytest.mark.parametrize('ids, log_probs, message', [
    ([5, 6, 7], [-1., 0., -.5], None),
    ([5, 9], [-1., -2.], None),
    ([9], [-1.], None),
    ([], [], 'of 3 tokens'),
    ([5, 6], [-1., -2.], 'of 3 tokens'),
    ([5, 6, 7, 8], [-1.] * 4, 'of 3 tokens'),
    ([5, 9, 9], [-1.] * 3, 'of 2 tokens'),
    ([5, 9], [-1.], 'log-probs of 2 tokens'),
    ([5, 4, 9], [-1.] * 3, 'legal'),
    ([5, 9], [-1., float('nan')], 'at most 0'),
    ([5, 9], [-1., -float('inf')], 'at most 0'),
    ([5, 9], [-1., .1], 'at most 0'),
])
def test_a_response_is_what_it_has_to_be(ids, log_probs, message):
  draw = messages.Draw(.7, 0, 1, policies.Served(
      None, None, stop_ids=(9,), illegal_ids=(4,), num_tokens=3), '')
  if message is None:
    sample = messages.read_sample([(ids, log_probs)], draw)
    np.testing.assert_array_equal(sample.tokens, [ids + [0] * (3 - len(ids))])
    np.testing.assert_array_equal(
        sample.token_mask, [np.arange(3) < len(ids)])
    np.testing.assert_array_equal(
        sample.log_probs[sample.token_mask], np.float32(log_probs))
    greedy = messages.read_sample(
        [(ids, log_probs)], draw._replace(temperature=0.))
    assert not greedy.log_probs.any()
    return
  with pytest.raises(messages.BadAnswer, match=message):
    messages.read_sample([(ids, log_probs)], draw)
  with pytest.raises(messages.BadAnswer, match='expected 1 responses, got 0'):
    messages.read_sample([], draw)


def _claim(answer, fake):
  """Loads the parameters of the checkpoint, under the name that was asked."""
  fake.engine.load(
      fake.folder, fake.seen[-1][1]['weight_version']).result()
  return answer


def _refuse(answer, fake):
  del answer, fake
  return {'success': False, 'message': 'no room'}


@pytest.mark.parametrize('faults, message', [
    ({'/update_weights_from_disk': [_claim]}, 'log-probs of a fixed prompt'),
    ({'/generate': [_edit('weight_version', lambda x: 'default')]},
     'got default'),
    ({'/update_weights_from_disk': [_refuse] * 999},
     'has answered for 2 s .*no room'),
    ({'/generate': ['error'] * 999}, 'has answered for 2 s .*answered 500'),
    ({'/generate': [None] + ['error'] * 99}, 'in 5 attempts'),
    ({'/generate': [None] + [_edit('prompt_tokens', lambda x: 3)] * 99},
     'preprocessor_config.json'),
    (None, 'no inference server has answered for 2 s'),
])
def test_what_no_server_can_do_ends_in_one_sentence(
    setup, params, servers, faults, message, monkeypatch):
  (fake, _), (address, _) = servers
  monkeypatch.setattr(fleet_lib, '_FAILURES', 99)
  with _remote(setup, (address,)) as remote:
    if faults is None:
      remote.publish(params, 1)
      fake.is_down = True
    else:
      for route in faults:
        fake.faults[route] += faults[route]
    if 'has answered' in message:
      remote._fleet._timeout = 2.
    with pytest.raises(actors.ActorError, match=message) as error:
      remote.publish(params, 2)
      _collect(setup, remote, .7)
  assert 'resume with the same command' in str(error.value)
  assert '\n' not in str(error.value)


def test_what_is_published_is_used_from_then_on(setup, params, servers, engine):
  fakes, addresses = servers
  with _remote(setup, addresses) as remote:
    for version, scale in enumerate((1., .9, 1.1), 1):
      scaled = jax.tree.map(lambda x: x * scale, params)
      remote.publish(scaled, version)
    collection = _collect(setup, remote, .7)
  _check_log_probs(setup, scaled, collection.trajectory)
  assert len(list(remote._folder.iterdir())) == 2
  assert engine._version.endswith('-000003')


def test_a_run_stops_when_its_servers_do_and_goes_on(
    engine, folder, setup, servers, tmp_path, monkeypatch):
  """With step-level groups; evaluations at its ends are by servers, too."""
  monkeypatch.setattr(
      worlds, 'make_pool', lambda world, config: fake_world.LocalPool(
          world.make_env, num_workers=config.env.num_workers))
  fakes, addresses = servers
  config = setup.config.copy_and_resolve_references()
  config.update_from_flattened_dict({
      'actor.addresses': addresses, 'num_rounds': 2, 'num_base_tasks': 1,
      'group_size': 4, 'env.num_workers': 2, 'eval_episodes': 1,
      'warm_start.demonstrations': 0, 'optimizer.num_minibatches': 1,
      'low_threshold': 1.})
  play_round, ends = rounds.play_round, []

  def play(setup, state, round_index, *rest):
    if round_index == 1 and not ends:
      ends.append(setup.remote)
      for fake in fakes:
        fake.is_down = True
      setup.remote._fleet._timeout = .1
    return play_round(setup, state, round_index, *rest)

  monkeypatch.setattr(rounds, 'play_round', play)
  with pytest.raises(errors.RunError, match='no inference server'):
    train.train(config, tmp_path / 'run')
  for fake in fakes:
    fake.is_down = False
  train.train(config, tmp_path / 'run')
  rows = [json.loads(line) for line in (
      tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  assert [row['round'] for row in rows] == [0, 1]
  for row in rows:
    assert row['trajectories'] == row['valid_trajectories'] == 4
    assert row['environment_steps'] == 8
  assert len(list((tmp_path / 'run' / 'served').iterdir())) == 2
  assert not [name for name in threading.enumerate() if name.name == 'servers']


@pytest.mark.parametrize('changes, message', [
    ({'top_p': .9}, 'top_p'), ({'min_new_tokens': 2}, 'min_new_tokens'),
    ({'n': 0}, 'n from 1'), ({'logit_bias': {'7': 1.}}, 'logit_bias'),
    ({'max_new_tokens': 0}, 'num_tokens'),
    ({'stop_token_ids': [10**7]}, 'stop ids'), (None, 'sampling_params')])
def test_our_server_says_what_it_does_not_know(
    engine, folder, changes, message):
  app = testclient.TestClient(serve.make_app(engine))
  options = {'max_new_tokens': 3, 'stop_token_ids': [2]}
  answer = app.post('/generate', json={
      'input_ids': [5], **({} if changes is None else {
          'sampling_params': options | changes})})
  assert answer.status_code == 400 and message in answer.text
  answer = app.post('/update_weights_from_disk', json={
      'model_path': str(folder)})
  assert answer.status_code == 400 and 'config.json' in answer.text
  assert app.get('/health').status_code == 200
  assert serve.main([f'--checkpoint={folder}']) == 2


def test_slots_give_what_a_call_gives(folder):
  """Rows come while others are answered; some responses end early."""
  config = vision_language_test.make_config(**{
      'policy.response_length': 12, 'max_steps': 3,
      'actor.name': 'continuous', **_of_checkpoint(folder)})
  setup = setups.make_setup(config, worlds.make_world(config, workdir=folder))
  assert setup.policy.slots is not None and setup.remote is None
  params = setup.policy.init(jax.random.key(0))
  stop, = setup.policy.served.stop_ids[:1]
  params['text']['head'] = params['text']['head'].at[stop].multiply(60.)
  collected = []
  for actor in (local.Local(setup.policy, batch_size=2),
                collectors._in_this_process(setup)):
    actor.publish(params, 1)
    with fake_world.LocalPool(setup.world.make_env, num_workers=3) as pool:
      collected.append(collect_lib.collect(
          pool, _JOBS, actor, actors.Player(None, _KEY, .7),
          example=setup.world.example, codec=setup.codec, num_tokens=12,
          max_steps=3).trajectory)
  one, other = (
      trajectory.replace(log_probs=0) for trajectory in collected)
  jax.tree.map(np.testing.assert_array_equal, *map(_comparable, (one, other)))
  np.testing.assert_allclose(*(
      trajectory.log_probs for trajectory in collected), atol=1e-5)
  lengths = one.token_mask.sum(axis=-1)
  assert 1 <= lengths.min() < lengths.max()
  assert setup.policy.slots.decode._cache_size() == 1
  with pytest.raises(ValueError, match='candidates'):
    actor.submit(actors.Rows(np.zeros(1), np.zeros(1), {}, ()), rng_key=_KEY,
                 temperature=.7, candidates=(1, 2))
