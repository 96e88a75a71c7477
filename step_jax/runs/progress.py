"""What a person sees while a run is going on."""

from collections.abc import Callable
from typing import Any

from rich import console as rich_console
from rich import progress as rich_progress

from step_jax.rollout import collect as collect_lib


class RunProgress:
  """Bars with estimates of the time left, and a line a round.

  Of hundreds of rounds only about a hundred, and those that are evaluated, get
  a line. A context manager; where the output is no terminal only the lines
  appear.
  """

  def __init__(self, num_rounds: int):
    self.console = rich_console.Console()
    columns = (
        rich_progress.TextColumn('{task.description:<12}'),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn('{task.fields[note]}'),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn('left'),
        rich_progress.TimeRemainingColumn())
    self._bars = rich_progress.Progress(
        *columns, console=self.console, speed_estimate_period=3600.,
        disable=not self.console.is_terminal)
    self._line_every = max(1, num_rounds // 100)
    self._rounds = self._bars.add_task(
        'rounds', total=num_rounds, note='')
    self._episodes = self._bars.add_task('', total=1, note='', visible=False)

  def __enter__(self) -> 'RunProgress':
    self._bars.start()
    return self

  def __exit__(self, *_: Any) -> None:
    self._bars.stop()

  def say(self, line: str) -> None:
    """Prints a line above the bars."""
    self.console.print(line, highlight=False, soft_wrap=True, markup=False)

  def resume(self, done: int) -> None:
    """Begins to count, and to estimate, after the rounds that are done."""
    self._bars.reset(self._rounds, completed=done)

  def episodes(self, name: str) -> Callable[[collect_lib.Progress], None]:
    """Starts the lower bar; returns what `collect` reports to."""
    self._bars.reset(
        self._episodes, description=name, total=None, visible=True, note='')

    def report(progress: collect_lib.Progress) -> None:
      self._bars.update(
          self._episodes, completed=progress.finished, total=progress.total,
          note=f'{progress.succeeded} succeeded')
    return report

  def round_done(self, row: dict[str, Any], num_tasks: int) -> None:
    """Prints a round's line and moves the upper bar."""
    self._bars.update(self._rounds, completed=row['round'] + 1)
    if ('eval_success_rate' not in row
        and (row['round'] + 1) % self._line_every):
      return
    # An update that is not finite has no numbers.
    entropy = '?' if row['entropy'] is None else f'{row["entropy"]:.2f}'
    line = (
        f'round {row["round"]:3d}  success {100 * row["success_rate"]:3.0f} %  '
        f'tasks > 60 %: {row["tasks_above_60"]}/{num_tasks}  '
        f'replaced {100 * row["replaced_fraction"]:2.0f} %  '
        f'step samples {row["step_samples"]} '
        f'({row["augmented_steps"]} augmented)  '
        f'entropy {entropy}  '
        f'alike {100 * row["tasks_without_spread"]:.0f} %  '
        f'failures {row["environment_failures"]}  '
        f'rollout {row["rollout_seconds"]:.0f} s  '
        f'update {row["update_seconds"]:.0f} s')
    if 'eval_success_rate' in row:
      line += f'  evaluation {100 * row["eval_success_rate"]:.0f} %'
    if not self.console.is_terminal:
      line += f'  left {self._time_left()}'
    self.say(line)

  def _time_left(self) -> str:
    seconds = self._bars.tasks[0].time_remaining
    return '?' if seconds is None else f'{seconds / 60:.0f} min'
