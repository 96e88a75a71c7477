"""What a run writes down: metrics.jsonl, success_rates.npy and tables.

Every write leaves either the old or the new file behind, never half of one,
and a resumed run first cuts what is later than its checkpoint.
"""

import io
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np

from step_jax.runs import files


class MetricsLog:
  """One JSON object a round, and the record s_hat after each round.

  Args:
    directory: the run's folder.
    num_rounds: rounds to keep; what is later is cut off.
    num_tasks: N.
  """

  def __init__(self, directory: pathlib.Path, num_rounds: int, num_tasks: int):
    self._path = directory / 'metrics.jsonl'
    self._record_path = directory / 'success_rates.npy'
    self._num_tasks = num_tasks
    self.rows = read_metrics(directory)[:num_rounds]
    record = np.zeros((0, num_tasks), np.float32)
    if self.rows and self._record_path.exists():
      record = np.load(self._record_path)[:num_rounds]
    self._record = list(record)
    self._text = ''.join(map(_line, self.rows))
    self._write()

  def append(self, row: dict[str, Any], success_rate: np.ndarray) -> None:
    """Adds a round; numbers that are not finite become null."""
    self.rows.append({name: _plain(value) for name, value in row.items()})
    self._text += _line(self.rows[-1])  # a run may have thousands of them
    # A view would keep the device's array for as long as the run goes on.
    self._record.append(np.array(success_rate, np.float32))
    self._write()

  def _write(self) -> None:
    files.replace(self._path, self._text.encode())
    record = io.BytesIO()
    np.save(record, np.reshape(self._record, (-1, self._num_tasks)))
    files.replace(self._record_path, record.getvalue())


def _line(row: dict[str, Any]) -> str:
  return json.dumps(row, allow_nan=False) + '\n'


def read_metrics(directory: pathlib.Path) -> list[dict[str, Any]]:
  """The rounds written down so far."""
  path = directory / 'metrics.jsonl'
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes `content` as indented JSON, atomically."""
  text = json.dumps(_plain(content), indent=2, allow_nan=False)
  files.replace(path, (text + '\n').encode())


def read_json(path: pathlib.Path) -> Any:
  """Reads what `write_json` wrote."""
  return json.loads(path.read_text())


def flatten(nested: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """The values of nested dictionaries, by names such as 'a.b'."""
  flat: dict[str, Any] = {}
  for name, value in nested.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


class CompilationCounter:
  """Counts XLA compilations of this process from now on."""

  def __init__(self):
    self.count = 0
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, event: str, duration_secs: float, **kwargs: Any) -> None:
    del duration_secs, kwargs
    self.count += event == '/jax/core/compile/backend_compile_duration'


def _plain(value: Any) -> Any:
  """A JSON value of numbers, arrays, lists and dictionaries of them."""
  if isinstance(value, dict):
    return {name: _plain(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, (str, bool, type(None))):
    return value
  value = np.asarray(value).tolist()
  if isinstance(value, list):
    return _plain(value)
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
