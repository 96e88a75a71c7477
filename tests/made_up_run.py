"""The folder of a run that nobody played: many rounds, tasks and episodes."""
import json

import numpy as np
from PIL import Image

from configs import common
from step_jax.envs import base
from step_jax.runs import episodes
from step_jax.runs import metrics

HOSTILE = '</script><script>window.harmed = true</script><b id="harm">"\'&'
_STEPS, _TOKENS, _CANDIDATES = 4, 3, 4
_WORDS = 'open the settings press save type amber then close it'.split()


def make(workdir, *, num_rounds=800, num_tasks=369, num_episodes=500):
  """Writes what a run would; the last task's name is hostile.

  Returns:
    The names of the tasks.
  """
  rng = np.random.default_rng(0)
  tasks = [f'task-{i}' for i in range(num_tasks - 1)] + [HOSTILE]
  workdir.mkdir(parents=True, exist_ok=True)
  config = common.base_config()
  config.num_rounds, config.max_steps = num_rounds, _STEPS
  (workdir / 'config.json').write_text(config.to_json())
  _write_metrics(workdir, tasks, num_rounds, rng)
  folder = workdir / 'episodes'
  (folder / 'pictures').mkdir(parents=True)
  Image.new('RGB', (64, 48), '#8090a0').save(folder / 'pictures' / '1.jpg')
  episodes.save(folder / 'until_000000_rounds.npz', _episodes(
      tasks, num_rounds, num_episodes, rng))
  return tasks


def _write_metrics(workdir, tasks, num_rounds, rng):
  hard = rng.random(len(tasks))
  when = np.arange(num_rounds)[:, None] / num_rounds
  record = 1 / (1 + np.exp(-9 * (1.3 * when - hard)))
  record = np.clip(record + rng.normal(0, .06, record.shape), 0, 1)
  np.save(workdir / 'success_rates.npy', record.astype(np.float32))
  lines = []
  for i in range(num_rounds):
    chances = (1.1 - record[i]) ** 2 * rng.random(len(tasks)) ** 8
    slots = rng.multinomial(256, chances / chances.sum())
    solved = rng.binomial(slots, record[i])
    rate = float(solved.sum() / 256)
    lines.append(json.dumps({
        'round': i, 'seconds': 1., 'rollout_seconds': .6 + .1 * rng.random(),
        'update_seconds': .3, 'success_rate': rate, 'trajectories': 256,
        'valid_trajectories': 256, 'environment_failures': 0,
        'environment_steps': 2000,
        'out_of_steps': int((256 - solved.sum()) / 2),
        'tasks_above_60': int((record[i] > .6).sum()),
        'tasks_without_spread': .3 + .2 * i / num_rounds,
        'groups_without_spread': .4, 'step_samples': 1500,
        'augmented_steps': 90, 'entropy': .6 - .4 * i / num_rounds,
        'grad_norm': 1 + rng.random(), 'approx_kl': .01, 'clip_fraction': .02,
        'slots_per_task': slots.tolist(),
        'successes_per_task': solved.tolist(),
        **({'eval_success_rate': float(record[i].mean()),
            'eval_tasks_above_60': int((record[i] > .6).sum()),
            'record_error': .1} if i % 40 == 39 else {})}) + '\n')
  (workdir / 'metrics.jsonl').write_text(''.join(lines))
  metrics.write_json(workdir / 'initial_evaluation.json', {
      task: {'success_rate': .2, 'episodes': 1} for task in tasks})


def _episodes(tasks, num_rounds, count, rng):
  shape = (count, _STEPS)
  elements = [base.Element(
      kind=('button', 'field', 'checkbox', 'label')[i % 4],
      text=('open', HOSTILE, 'save', 'settings')[i % 4], value='amber' * (
          i % 4 == 1), box=(.05, .02 + .12 * i, .9, .1)) for i in range(8)]
  seen = base.encode_screen(base.make_screen(' '.join(_WORDS), elements))
  seen = {name: np.broadcast_to(x, shape + x.shape) for name, x in seen.items()}
  candidates = shape + (_CANDIDATES,)
  advantages = rng.normal(size=shape)
  successes = rng.random(count) < .5
  matches = rng.random(candidates) < .5
  matches[..., 0] = True
  arrays = metrics.flatten({'observations': seen}) | {
      'task_ids': np.arange(count) % len(tasks),
      'actions': rng.integers(9, size=shape + (_TOKENS,)),
      'log_probs': -rng.exponential(.4, size=shape + (_TOKENS,)),
      'token_mask': np.ones(shape + (_TOKENS,), bool),
      'step_mask': np.ones(shape, bool), 'returns': successes * 1.,
      'successes': successes, 'valid': np.ones(count, bool),
      'advantages': advantages, 'grouped': np.ones(shape, bool),
      'candidate_advantages': (
          np.where(matches, 1., -1.) * advantages[..., None]),
      'candidate_matches': matches}
  about = []
  for i in range(count):
    kind = 'evaluation' if i % 5 == 0 else 'round'
    number = num_rounds - 1 - i // 20
    action = {'text': f'click {HOSTILE if i % 7 == 0 else "save"}',
              'box': elements[i % 8].box}
    point = {'text': 'drag', 'point': [.2, .3], 'end': [.6, .7]}
    about.append({
        'id': f'{kind[0]}{number}-{i}', 'kind': kind, 'round': number,
        'slot': i, 'task': tasks[-1 - i % len(tasks)], 'seed': i,
        'instruction': f'{" ".join(_WORDS)} {HOSTILE if i % 3 == 0 else ""}',
        'reward': float(successes[i]), 'success': bool(successes[i]),
        'steps': _STEPS - 1 - i % 2, 's_hat': None if i % 5 == 0 else .25,
        'failure': HOSTILE if i == 11 else '',
        'actions': [point if i % 9 == 4 else action] * _STEPS,
        'alternatives': [None] + [[action, point] * (_CANDIDATES // 2)] * 3,
        **({'pictures': ['1.jpg'] * _STEPS} if i % 9 == 4 else {})})
  return episodes.Episodes(about, arrays)
