"""Imitation of scripted demonstrations, cached by what determines them."""

from collections.abc import Callable, Iterable
import contextlib
import hashlib
import inspect
import os
import pathlib
from typing import Any

import gymnasium
import jax
import numpy as np

import step_jax
from step_jax.algorithm import types
from step_jax.learning import of_policy
from step_jax.policies import base
from step_jax.rollout import collect as collect_lib
from step_jax.rollout import episodes
from step_jax.rollout import workers
from step_jax.runs import files
from step_jax.runs import hosts

_DEMONSTRATIONS = 2**32 - 1  # in the place of a round in seeds
_ROOMS = (  # on whose code the result depends
    'codecs', 'envs', 'learning', 'policies', 'policies/qwen_vl', 'rollout')


def warm_start(
    policy: base.Policy,
    params: Any,
    collect: Callable[..., collect_lib.Collection],
    path: pathlib.Path,
    *,
    num_tasks: int,
    demonstrations: int,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    temperature: float,
    seed: int,
    say: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Any:
  """Returns parameters after imitation, from a file if it is there.

  Args:
    policy: the policy.
    params: fresh parameters.
    collect: `(jobs, player)` -> `Collection`; no player is the expert.
    path: of the file, see `cache_path`; made if it is missing.
    num_tasks: N.
    demonstrations: of each task.
    num_steps: of imitation.
    batch_size: see `imitation.imitate`.
    learning_rate: likewise.
    temperature: likewise.
    seed: of episodes, and of the order of their steps.
    say: tells the person a line.
    should_stop: asked now and then; True raises KeyboardInterrupt.
  """
  if hosts.from_leader(np.array(path.exists())):
    say(f'warm start: read from {path}')
    return _read(path, params)
  trajectory, where = _demonstrate(
      collect, num_tasks, demonstrations, seed, say)
  if not where.any():
    return params
  observations = jax.tree.map(lambda x: x[where], trajectory.observations)
  tokens = trajectory.actions[where]
  tenth = max(num_steps // 10, 1)

  def tell(step, loss):
    if should_stop():
      raise KeyboardInterrupt
    if step % tenth == 0:
      say(f'warm start: step {step} of {num_steps}, loss {loss:.2f}')

  params, losses = of_policy.imitate(
      policy, jax.random.key(seed), params, observations, tokens,
      num_steps=num_steps, batch_size=batch_size, learning_rate=learning_rate,
      temperature=temperature, on_step=tell)
  losses = jax.device_get(losses)
  say(f'warm start: imitation loss {losses[0]:.2f} -> {losses[-1]:.2f}')
  _keep(path, params, say)
  return params


def _demonstrate(
    collect: Callable[..., collect_lib.Collection], num_tasks: int,
    demonstrations: int, seed: int, say: Callable[[str], None],
) -> tuple[types.Trajectory, np.ndarray]:
  """The expert's trajectories, and which steps of them, `[B, T]`, are good."""
  jobs = [
      workers.Job(
          slot, slot // demonstrations,
          episodes.training_seed(seed, _DEMONSTRATIONS, slot), expert=True)
      for slot in range(num_tasks * demonstrations)]
  trajectory = collect(jobs, None).trajectory
  solved = trajectory.valid & trajectory.successes
  where = np.asarray(trajectory.step_mask & solved[:, None])
  say(f'warm start: {int(solved.sum())} of {len(jobs)} demonstrations solved '
      f'their task, {int(where.sum())} steps to imitate')
  return trajectory, where


def _read(path: pathlib.Path, params: Any) -> Any:
  """What the leader's cache has in the place of `params`, on every host."""
  leaves, structure = jax.tree.flatten(params)
  if hosts.is_leader():
    with np.load(path, allow_pickle=False) as saved:
      leaves = [saved[f'{i}'] for i in range(len(leaves))]
  return jax.tree.unflatten(structure, hosts.from_leader(leaves))


def _keep(path: pathlib.Path, params: Any, say: Callable[[str], None]) -> None:
  """Writes parameters into the cache, if it can."""
  partial = path.with_suffix(f'.{os.getpid()}.npz')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(partial, **{
        f'{i}': leaf for i, leaf in enumerate(
            jax.device_get(jax.tree.leaves(hosts.whole(params))))})
    files.sync(partial)
    os.replace(partial, path)
  except OSError as error:  # It is but a cache.
    with contextlib.suppress(OSError):
      partial.unlink()
    say(f'warm start: not kept in {path}: {error}')


def cache_path(
    settings: Any, make_env: Any, more: Iterable[pathlib.Path] = ()
) -> pathlib.Path:
  """Named by all that the result depends on: settings and source code.

  Args:
    settings: what their `repr` tells apart.
    make_env: a partial of the environment's class, or of what shows pictures of
      one; its argument `tasks` can name files.
    more: source files, besides those of this package and of the environment.
  """
  make_env = make_env.keywords.get('make_env', make_env)  # that of pictures
  package = pathlib.Path(step_jax.__file__).parent
  folders = {package / room for room in _ROOMS}
  folders |= {  # of the environment, and of what it derives from
      pathlib.Path(inspect.getfile(parent)).parent
      for parent in make_env.func.__mro__
      if issubclass(parent, gymnasium.Env) and parent is not gymnasium.Env}
  sources = [path for folder in sorted(folders)
             for path in sorted(folder.glob('*.py'))]
  sources += [pathlib.Path(__file__), *more]
  tasks = map(pathlib.Path, make_env.keywords['tasks'])
  sources += [  # files of tasks, and of their solutions
      path for task in tasks if task.is_file()
      for path in sorted(task.parent.glob(f'{task.stem}.*'))]
  digest = hashlib.sha256(repr(
      (settings, jax.__version__, jax.default_backend())).encode())
  for source in sources:
    digest.update(source.read_bytes())
  root = pathlib.Path(
      os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
  return root / 'step_jax' / f'warm_start_{digest.hexdigest()[:16]}.npz'
