"""Tests of checkpoints: whole ones come back, damaged ones are passed over."""
import json
import os
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from step_jax.algorithm import types
from step_jax.runs import checkpoint
from step_jax.runs import files

# Reads of other chunks fail after orbax has given up on the first.
pytestmark = [
    pytest.mark.filterwarnings(
        'ignore::pytest.PytestUnraisableExceptionWarning'),
    pytest.mark.usefixtures('clean_up')]


@jax.jit
def _state(seed):
  """A learner state with moments, a schedule's count and bfloat16."""
  keys = jax.random.split(jax.random.key(seed), 3)
  params = {
      'dense': {'kernel': jax.random.normal(keys[0], (40, 30)),
                'bias': jnp.zeros(30)},
      'half': jax.random.normal(keys[1], (7,), jnp.bfloat16)}
  optimizer = optax.chain(
      optax.clip_by_global_norm(1.),
      optax.adamw(optax.warmup_constant_schedule(1e-3, 1e-2, 3)))

  def step(_, carry):
    params, opt_state = carry
    gradients = jax.tree.map(lambda x: x * 0 + x.size, params)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  params, opt_state = jax.lax.fori_loop(
      0, seed, step, (params, optimizer.init(params)))
  learner = types.LearnerState(
      params=params, opt_state=opt_state, step=jnp.asarray(seed, jnp.int32))
  return learner, jax.random.uniform(keys[2], (16,))


@pytest.fixture(scope='module', name='states')
def made_states():
  return [_state(seed) for seed in range(5)]


@pytest.fixture(name='opened')
def made_opened(tmp_path):
  """`open() -> (Checkpoints, sentences)`, closed at the end."""
  everything = []

  def open_checkpoints(**options):
    sentences = []
    checkpoints = checkpoint.Checkpoints(
        tmp_path / 'ck', sentences.append, **options)
    everything.append(checkpoints)
    return checkpoints, sentences

  yield open_checkpoints
  for checkpoints in everything:
    checkpoints.close()


@pytest.fixture(name='saved')
def made_saved(tmp_path, opened, states):
  """A folder with the checkpoints of rounds 1, 2 and 3 (so of 2 and 3)."""
  checkpoints, _ = opened()
  for i in (1, 2, 3):
    checkpoints.save(i, states[i])
  return tmp_path / 'ck'


def _assert_same(actual, expected):
  chex.assert_trees_all_equal_structs(actual, expected)
  chex.assert_trees_all_equal_dtypes(actual, expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_what_is_saved_comes_back_bit_for_bit(saved, opened, states):
  """slime #1547, maxdiffusion #484: moments and a schedule's count, too."""
  assert saved.exists()
  checkpoints, sentences = opened()
  num_rounds, state = checkpoints.restore(states[0])
  assert num_rounds == 3 and not sentences
  _assert_same(state, states[3])
  assert state[0].params['half'].dtype == jnp.bfloat16
  assert jax.tree.leaves(state)[0].devices() == jax.tree.leaves(
      states[0])[0].devices()


def test_values_that_are_not_finite_come_back(opened, states):
  learner, record = states[1]
  learner = learner.replace(params=jax.tree.map(
      lambda x: x.at[..., 0].set(jnp.nan).at[..., 1].set(-jnp.inf),
      learner.params))
  checkpoints, sentences = opened()
  checkpoints.save(1, (learner, record))
  _assert_same(checkpoints.restore(states[0])[1], (learner, record))
  assert not sentences


def test_the_newest_two_are_kept(saved):
  assert sorted(path.name for path in saved.iterdir()) == ['2', '3']


def test_without_a_checkpoint_there_is_none(opened, states):
  checkpoints, sentences = opened()
  assert checkpoints.restore(states[0]) is None
  assert not sentences


def test_a_round_is_saved_once(opened, states):
  checkpoints, _ = opened()
  checkpoints.save(2, states[2])
  checkpoints.save(2, states[3])
  _assert_same(checkpoints.restore(states[0])[1], states[2])


def _files(folder):
  return sorted(path for path in folder.rglob('*') if path.is_file())


def _chunks(folder):
  """Files that hold arrays, the largest first."""
  return sorted(
      (path for path in _files(folder) if path.parent.name == 'd'),
      key=lambda path: -path.stat().st_size)


def _truncate_files(folder):
  for path in _files(folder):
    os.truncate(path, path.stat().st_size // 2)


def _empty_files(folder):
  for path in _files(folder):
    os.truncate(path, 0)


def _truncate_chunk(folder):
  os.truncate(_chunks(folder)[0], 100)


def _delete_files(folder):
  for path in _files(folder):
    path.unlink()


def _delete_chunks(folder):
  for path in _chunks(folder):
    path.unlink()


def _delete_digest(folder):
  shutil.rmtree(folder / 'digest')


def _delete_state(folder):
  shutil.rmtree(folder / 'state')


def _write_garbage(folder):
  rng = np.random.default_rng(0)
  for path in _files(folder):
    path.write_bytes(rng.bytes(path.stat().st_size))


def _flip_a_byte(folder):
  content = bytearray(_chunks(folder)[0].read_bytes())
  content[len(content) // 2] ^= 1
  _chunks(folder)[0].write_bytes(content)


def _change_the_digest(folder):
  path = folder / 'digest' / 'metadata'
  path.write_text(path.read_text().replace('crc32": ', 'crc32": 1'))


def _empty_folder(folder):
  shutil.rmtree(folder)
  folder.mkdir()


_DAMAGES = [
    _truncate_files, _empty_files, _truncate_chunk, _delete_files,
    _delete_chunks, _delete_digest, _delete_state, _write_garbage,
    _flip_a_byte, _change_the_digest, _empty_folder]


@pytest.mark.parametrize('damage', _DAMAGES)
def test_a_damaged_newest_one_is_passed_over(saved, opened, states, damage):
  damage(saved / '3')
  checkpoints, sentences = opened()
  num_rounds, state = checkpoints.restore(states[0])
  assert num_rounds == 2
  _assert_same(state, states[2])
  sentence, = sentences
  assert 'round 3' in sentence and '\n' not in sentence
  assert sentence.endswith('.')

  checkpoints.save(3, states[4])  # The round is played, and saved, again.
  checkpoints.close()
  checkpoints, sentences = opened()
  num_rounds, state = checkpoints.restore(states[0])
  assert num_rounds == 3 and not sentences
  _assert_same(state, states[4])


def test_the_same_round_may_be_damaged_twice(saved, opened, states):
  for _ in range(2):
    _delete_state(saved / '3')
    checkpoints, sentences = opened()
    assert checkpoints.restore(states[0])[0] == 2
    assert len(sentences) == 1
    checkpoints.save(3, states[3])


def test_without_a_whole_one_there_is_a_sentence(saved, opened, states):
  _delete_chunks(saved / '2')
  _flip_a_byte(saved / '3')
  for _ in range(2):  # and again, when none is left to be passed over
    checkpoints, _ = opened()
    with pytest.raises(
        checkpoint.CheckpointError, match='--workdir') as caught:
      checkpoints.restore(states[0])
    assert '\n' not in str(caught.value)


def _lost_chunk(state):
  """As a lost chunk reads: zeros in the place of values."""
  learner, record = state
  kernel = learner.params['dense']['kernel'].at[10:20].set(0)
  params = learner.params | {
      'dense': learner.params['dense'] | {'kernel': kernel}}
  return learner.replace(params=params), record


def _swapped(state):
  """Two leaves of one shape in each other's place."""
  learner, record = state
  adam = learner.opt_state[1][0]
  adam = adam._replace(mu=adam.nu, nu=adam.mu)
  opt_state = (learner.opt_state[0], (adam, *learner.opt_state[1][1:]))
  return learner.replace(opt_state=opt_state), record


@pytest.mark.parametrize('change', [_lost_chunk, _swapped])
def test_values_that_read_well_but_differ_are_found(
    opened, states, monkeypatch, change):
  checkpoints, _ = opened()
  checkpoints.save(1, states[1])
  digest = checkpoint._digest(states[2])
  monkeypatch.setattr(checkpoint, '_digest', lambda _: digest)
  checkpoints.save(2, change(states[2]))
  monkeypatch.undo()
  checkpoints, sentences = opened()
  num_rounds, state = checkpoints.restore(states[0])
  assert num_rounds == 1 and 'digest' in sentences[0]
  _assert_same(state, states[1])


def test_a_save_that_was_killed_is_ignored(
    saved, opened, states, monkeypatch):
  """Stopped before the folder gets its name: what SIGKILL leaves behind."""
  rename = os.rename

  def stop_at_the_end(source, target):
    if pathlib.Path(target).name == '4':
      raise KeyboardInterrupt
    rename(source, target)

  monkeypatch.setattr(os, 'rename', stop_at_the_end)
  checkpoints, _ = opened()
  with pytest.raises(KeyboardInterrupt):
    checkpoints.save(4, states[4])
  monkeypatch.undo()
  left, = set(os.listdir(saved)) - {'2', '3'}
  assert _chunks(saved / left) and left != '4'
  checkpoints, sentences = opened()
  num_rounds, state = checkpoints.restore(states[0])
  assert num_rounds == 3 and not sentences
  _assert_same(state, states[3])
  checkpoints.save(4, states[4])
  _assert_same(checkpoints.restore(states[0])[1], states[4])


def _names(folder):
  """All that is there, but for what is being written."""
  return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


@pytest.mark.parametrize('error', [MemoryError, OSError, ValueError])
def test_what_is_no_damage_is_not_taken_for_it(
    saved, opened, states, monkeypatch, error):
  before = _names(saved.parent)
  checkpoints, sentences = opened()

  def fail(*_):
    raise error('not the files')

  monkeypatch.setattr(checkpoints, '_read', fail)
  with pytest.raises(error, match='not the files'):
    checkpoints.restore(states[0])
  assert _names(saved.parent) == before and not sentences


def test_another_structure_is_told_and_is_no_damage(saved, opened, states):
  before = _names(saved.parent)
  checkpoints, sentences = opened()
  learner, record = states[0]
  for template, told in (
      ((learner, record, jnp.zeros(3)), '[2] (none there, float32[3] now)'),
      ((learner,), '[1] (float32[16] there, none now)'),
      ((learner, record[1:]), '[1] (float32[16] there, float32[15] now)'),
      ((learner, record.astype(int)), '[1] (float32[16] there, int32[16]')):
    with pytest.raises(checkpoint.CheckpointError) as caught:
      checkpoints.restore(template)
    assert told in str(caught.value) and '\n' not in str(caught.value)
  assert _names(saved.parent) == before and not sentences


def test_a_reader_moves_nothing(saved, opened, states):
  _delete_chunks(saved / '3')
  (saved / '4-tmp').mkdir()  # what the run is writing
  before = _names(saved.parent)
  checkpoints, sentences = opened(read_only=True)
  num_rounds, state = checkpoints.restore(states[0])
  assert num_rounds == 2 and 'round 3 is damaged' in sentences[0]
  _assert_same(state, states[2])
  assert _names(saved.parent) == before


def test_without_a_folder_a_reader_makes_none(tmp_path, opened, states):
  assert opened(read_only=True)[0].restore(states[0]) is None
  assert not (tmp_path / 'ck').exists()


def test_a_reader_goes_on_when_the_run_does(
    saved, opened, states, monkeypatch):
  """What it has begun to read is removed, as there are two newer ones."""
  owner, _ = opened()
  reader, sentences = opened(read_only=True)
  read = reader._read

  def read_late(folder, template):
    if folder.name == '3':
      owner.save(4, states[4])
      owner.save(5, states[1])
    return read(folder, template)

  monkeypatch.setattr(reader, '_read', read_late)
  num_rounds, state = reader.restore(states[0])
  assert num_rounds == 5 and not sentences
  _assert_same(state, states[1])
  assert sorted(os.listdir(saved)) == ['4', '5']


def test_a_full_disk_is_a_sentence_and_costs_nothing(
    saved, opened, states, monkeypatch):
  checkpoints, _ = opened()
  save = checkpoints._checkpointer.save

  def fill(path, **kwargs):
    save(path, **kwargs)
    raise ValueError('RESOURCE_EXHAUSTED: Error writing "a/0":\nFailed to '
                     "write: No space left on device [os_error_code='28']")

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints._checkpointer, 'save', fill)
    with pytest.raises(files.WriteError, match='No space left') as caught:
      checkpoints.save(4, states[4])
  assert '\n' not in str(caught.value)
  assert sorted(os.listdir(saved)) == ['2', '3']
  checkpoints.save(4, states[4])
  _assert_same(checkpoints.restore(states[0])[1], states[4])


def test_a_disk_without_room_is_told_before_orbax_is_asked(
    saved, opened, states, monkeypatch):
  """It would print a traceback for each array."""
  checkpoints, _ = opened()
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(states[4]))
  usage = shutil.disk_usage(saved)
  with monkeypatch.context() as patch:
    patch.setattr(checkpoints._checkpointer, 'save', pytest.fail)
    patch.setattr(shutil, 'disk_usage',
                  lambda path: usage._replace(free=size - 1))
    with pytest.raises(files.WriteError, match='No space left'):
      checkpoints.save(4, states[4])
  checkpoints.save(4, states[4])
  assert sorted(os.listdir(saved)) == ['3', '4']


def test_none_is_removed_before_the_next_is_known_to_be_good(
    saved, opened, states, monkeypatch):
  """verl #4873: the old one was deleted first."""
  checkpoints, _ = opened()
  monkeypatch.setattr(checkpoints, '_read', lambda *_: states[3])
  with pytest.raises(files.WriteError, match='reads otherwise'):
    checkpoints.save(4, states[4])
  assert sorted(os.listdir(saved)) == ['2', '3']


def test_one_is_on_the_disk_before_it_has_its_name(
    tmp_path, opened, states, monkeypatch):
  checkpoints, _ = opened()
  synced, fsync, rename = [], os.fsync, pathlib.Path.rename

  def note(path, target):
    if target.name == '1':
      assert {x.stat().st_ino for x in (path, *path.rglob('*'))} <= set(synced)
      synced.clear()
    return rename(path, target)

  monkeypatch.setattr(os, 'fsync', lambda descriptor: (
      synced.append(os.fstat(descriptor).st_ino), fsync(descriptor)))
  monkeypatch.setattr(pathlib.Path, 'rename', note)
  checkpoints.save(1, states[1])
  assert synced == [(tmp_path / 'ck').stat().st_ino]  # the name


def test_shapes_are_enough_of_a_template(saved, opened, states):
  assert saved.exists()
  checkpoints, _ = opened()
  abstract = jax.eval_shape(lambda: states[0])
  _assert_same(checkpoints.restore(abstract)[1], states[3])


def test_one_of_an_earlier_version_is_read_and_never_moved(
    saved, opened, states):
  path = saved / '3' / 'digest' / 'metadata'
  content = json.loads(path.read_text())
  del content['leaves']
  path.write_text(json.dumps(content))
  (saved / '3' / 'files.json').unlink()
  checkpoints, _ = opened()
  _assert_same(checkpoints.restore(states[0])[1], states[3])
  before = _names(saved.parent)
  with pytest.raises(ValueError):  # orbax's own
    checkpoints.restore((*states[0], jnp.zeros(3)))
  assert _names(saved.parent) == before


_FOUR_DEVICES = """
import pathlib, sys
import jax, numpy as np
from step_jax.runs import checkpoint
mesh = jax.sharding.Mesh(np.array(jax.devices()), 'x')
rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('x'))
state = {'x': jax.device_put(np.arange(24.).reshape(8, 3), rows)}
assert len(state['x'].sharding.device_set) == 4
checkpoints = checkpoint.Checkpoints(pathlib.Path(sys.argv[1]), print)
checkpoints.save(1, state)
print('saved', flush=True)
sys.stdin.readline()
num_rounds, found = checkpoints.restore(state)
assert num_rounds == 2 and found['x'].sharding == rows
np.testing.assert_array_equal(found['x'], state['x'] + 1)
print('found', flush=True)
"""


def test_four_devices_save_and_one_resumes_and_back(tmp_path, opened):
  """orbax #648: another number of devices."""
  command = sys.executable, '-c', _FOUR_DEVICES, str(tmp_path / 'ck')
  environ = os.environ | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
      'PYTHONPATH': str(pathlib.Path(__file__).parents[1])}
  with subprocess.Popen(command, env=environ, text=True, stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE) as four:
    assert four.stdout.readline() == 'saved\n'
    checkpoints, sentences = opened()
    template = {'x': jax.ShapeDtypeStruct((8, 3), jnp.float32)}
    num_rounds, state = checkpoints.restore(template)
    assert num_rounds == 1 and not sentences
    assert state['x'].devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(state['x'], np.arange(24.).reshape(8, 3))
    checkpoints.save(2, {'x': state['x'] + 1})
    output, _ = four.communicate('go on\n')
  assert (four.returncode, output) == (0, 'found\n')
