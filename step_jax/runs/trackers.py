"""Trackers: what a run writes down, shown by programs of others.

metrics.jsonl stays the truth. A tracker gets the numbers of its rows, by the
same names and with the round as step, and pictures of episodes. One that fails
says so in a sentence, gets nothing more, and never stops a run.
"""

from collections.abc import Callable, Sequence
import functools
import importlib.util
import io
import os
import pathlib
import time
from typing import Any, Protocol
import uuid

from PIL import Image

from step_jax.runs import metrics

Pictures = dict[str, Image.Image]  # by name, such as 'episodes/0'

_MODULES = {'tensorboard': 'tensorboardX', 'wandb': 'wandb', 'mlflow': 'mlflow'}
NAMES = ('auto', *_MODULES)
_PROJECT = 'step_jax'
_LONGEST = 300  # characters of what a tracker says when it fails


class _Tracker(Protocol):
  """One of them; each method may raise anything."""

  def add(self, numbers: dict[str, float], step: int) -> None: ...

  def show(self, pictures: Pictures, step: int) -> None: ...

  def close(self) -> None: ...


def missing(names: Sequence[str]) -> list[str]:
  """Those that are asked for by name and not installed, as extras."""
  return [name for name in names if name != 'auto' and not _is_installed(name)]


def _is_installed(name: str) -> bool:
  found = importlib.util.find_spec(_MODULES[name])
  # A folder `wandb`, as its runs leave one, is a package without a file.
  return found is not None and found.origin is not None


class Trackers:
  """The trackers of a run.

  Args:
    names: some of `NAMES`; 'auto' is tensorboard if tensorboardX is installed.
    workdir: of the run.
    num_rounds: rounds that are done; those are not told again, and what was
      told of later ones is taken back where a tracker can do that.
    config: of the run, for trackers that show it.
    say: is told what fails.
  """

  def __init__(self, names: Sequence[str], workdir: pathlib.Path,
               num_rounds: int, config: dict[str, Any],
               say: Callable[[str], None]):
    self._say = say
    self._open: dict[str, _Tracker] = {}
    for name in dict.fromkeys(
        'tensorboard' if name == 'auto' else name for name in names
        if name != 'auto' or _is_installed('tensorboard')):
      self._try(name, lambda: self._open.update(
          {name: _MAKE[name](workdir, num_rounds, config)}))

  def add(self, row: dict[str, Any]) -> None:
    """Tells a row of metrics.jsonl: what in it is one number."""
    numbers = {name: float(x) for name, x in row.items()
               if isinstance(x, (int, float)) and name != 'round'}
    self._each(lambda tracker: tracker.add(numbers, row['round']))

  def show(self, num_rounds: int, draw: Callable[[], Sequence[Image.Image]]
           ) -> None:
    """Shows the pictures of an evaluation after `num_rounds` rounds.

    They stand at the step of the last of these rounds, as its row does.
    """
    folder = 'episodes' if num_rounds else 'before_training'
    pictures = functools.cache(lambda: {
        f'{folder}/{i}': picture for i, picture in enumerate(draw())})
    self._each(lambda tracker: tracker.show(
        pictures(), max(num_rounds - 1, 0)))

  def close(self) -> None:
    """Waits until what was told has arrived."""
    self._each(lambda tracker: tracker.close())
    self._open.clear()

  def _each(self, call: Callable[[_Tracker], None]) -> None:
    for name, tracker in list(self._open.items()):
      self._try(name, functools.partial(call, tracker))

  def _try(self, name: str, call: Callable[[], None]) -> None:
    try:
      call()
    # What programs of others raise, and their networks, nobody can list; a run
    # of days shall not end of any of it.
    except Exception as error:
      self._open.pop(name, None)
      told = ' '.join(f'{type(error).__name__}: {error}'.split())[:_LONGEST]
      self._say(f'the tracker {name} failed and is told no more of this run, '
                f'metrics.jsonl has all of it ({told})')


class _TensorBoard:
  """Event files in DIR/tensorboard, a new one each time a run goes on."""

  def __init__(self, workdir: pathlib.Path, num_rounds: int, config: Any):
    del config
    # Not SummaryWriter: its thread dies of a full disk, and its queue then
    # keeps whoever adds to it waiting for ever.
    from tensorboardX import event_file_writer
    from tensorboardX import proto
    from tensorboardX.proto import event_pb2  # noqa: F401  (proto.event_pb2)
    from tensorboardX.proto import summary_pb2  # noqa: F401
    self._proto: Any = proto
    folder = workdir / 'tensorboard'
    folder.mkdir(exist_ok=True)
    self._writer = event_file_writer.EventsWriter(
        str(folder / 'events'), f'.{os.getpid()}.{num_rounds}')
    # TensorBoard's purge_step: what earlier files tell of it and later.
    self._write(num_rounds, session_log=proto.event_pb2.SessionLog(
        status=proto.event_pb2.SessionLog.START))

  def add(self, numbers: dict[str, float], step: int) -> None:
    self._write(step, summary=self._proto.summary_pb2.Summary(value=[
        {'tag': name, 'simple_value': x} for name, x in numbers.items()]))

  def show(self, pictures: Pictures, step: int) -> None:
    self._write(step, summary=self._proto.summary_pb2.Summary(value=[
        {'tag': name, 'image': {
            'width': picture.width, 'height': picture.height, 'colorspace': 3,
            'encoded_image_string': _png(picture)}}
        for name, picture in pictures.items()]))

  def close(self) -> None:
    self._writer.close()

  def _write(self, step: int, **content: Any) -> None:
    self._writer.write_event(self._proto.event_pb2.Event(
        wall_time=time.time(), step=step, **content))
    self._writer.flush()


def _png(picture: Image.Image) -> bytes:
  content = io.BytesIO()
  picture.save(content, 'PNG')
  return content.getvalue()


class _Memory:
  """Which run of a tracker it is, and which round that is told next.

  Some trackers take nothing back, so what is played again is not told again.
  It is written before the round is told: one may be lacking, none is doubled.
  """

  def __init__(self, workdir: pathlib.Path, name: str):
    self._path = workdir / f'{name}.json'
    known = metrics.read_json(self._path) if self._path.exists() else {}
    self.run: str | None = known.get('run')
    self._next: int = known.get('next_round', 0)

  def is_news(self, step: int) -> bool:
    return step >= self._next

  def note(self, next_round: int | None = None) -> None:
    self._next = self._next if next_round is None else next_round
    metrics.write_json(
        self._path, {'run': self.run, 'next_round': self._next})


class _WeightsAndBiases:
  """A run of wandb; WANDB_PROJECT, WANDB_MODE and others are heeded."""

  def __init__(self, workdir: pathlib.Path, num_rounds: int, config: Any):
    del num_rounds
    import wandb  # an extra
    self._wandb = wandb
    self._memory = _Memory(workdir, 'wandb')
    self._memory.run = self._memory.run or uuid.uuid4().hex
    self._memory.note()
    self._run = wandb.init(
        project=os.environ.get('WANDB_PROJECT', _PROJECT), name=workdir.name,
        id=self._memory.run, resume='allow', dir=str(workdir), config=config,
        allow_val_change=True, settings={'finish_timeout': 60.})

  def add(self, numbers: dict[str, float], step: int) -> None:
    if self._memory.is_news(step):
      self._memory.note(step + 1)
      self._run.log(numbers, step=step, commit=True)

  def show(self, pictures: Pictures, step: int) -> None:
    if self._memory.is_news(step):
      self._run.log({name: self._wandb.Image(picture)
                     for name, picture in pictures.items()}, step=step)

  def close(self) -> None:
    self._run.finish()


class _MLflow:
  """A run of MLflow; MLFLOW_TRACKING_URI and others are heeded."""

  def __init__(self, workdir: pathlib.Path, num_rounds: int, config: Any):
    del num_rounds
    # Of a server that is gone, a run shall learn soon.
    os.environ.setdefault('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '2')
    os.environ.setdefault('MLFLOW_HTTP_REQUEST_TIMEOUT', '20')
    import mlflow  # an extra
    self._mlflow = mlflow
    self._client = mlflow.MlflowClient()
    self._memory = _Memory(workdir, 'mlflow')
    if self._memory.run is None:
      experiment = self._client.get_experiment_by_name(_PROJECT)
      number = (experiment.experiment_id if experiment
                else self._client.create_experiment(_PROJECT))
      self._memory.run = self._client.create_run(
          number, run_name=workdir.name).info.run_id
      self._memory.note()
    self._id: str = self._memory.run
    self._client.update_run(self._id, 'RUNNING')
    self._client.log_dict(self._id, config, 'config.json')

  def add(self, numbers: dict[str, float], step: int) -> None:
    if self._memory.is_news(step):
      self._memory.note(step + 1)
      now = int(1000 * time.time())
      self._client.log_batch(self._id, metrics=[
          self._mlflow.entities.Metric(name, x, now, step)
          for name, x in numbers.items()])

  def show(self, pictures: Pictures, step: int) -> None:
    if self._memory.is_news(step):
      for name, picture in pictures.items():
        self._client.log_image(self._id, picture, key=name, step=step)

  def close(self) -> None:
    self._client.set_terminated(self._id)


_MAKE: dict[str, Callable[[pathlib.Path, int, Any], _Tracker]] = {
    'tensorboard': _TensorBoard, 'wandb': _WeightsAndBiases, 'mlflow': _MLflow}
