"""The bar that shows how far a run is; plain lines where standard error is no terminal, such as in a log file."""

import contextlib
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text


class _LabelColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True, overflow="ellipsis")  # the only column that a narrow terminal cuts


class _ReturnColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        value = task.fields["episode_return"]
        return Text("return     –" if value is None else f"return {value:7.2f}", style="green")


class _SpeedColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.fields['steps_per_second']:8,.0f} steps/s", style="cyan")


class Bar(Progress):
    """A bar for each task, or plain lines.

    Lines are for long work: what is said in its first seconds is held back until they are over, so that what is done
    by then says nothing. A single task tells how far it is; of several only what is `say`-ed is told.
    """

    QUIET = 30.0
    """Seconds before the first line, and between two of how far a task is."""

    def __init__(self, *columns: ProgressColumn, lines: bool, **options: Any):
        super().__init__(*columns, **options)
        self.lines, self._held = lines, list[str]()
        self._began = self._told = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell()

    def say(self, line: str) -> None:
        """A line on standard error, where there is no bar."""
        self._held.append(line)
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if not self.lines or now - self._began < self.QUIET:
            return
        if len(self.tasks) == 1 and now - self._told >= self.QUIET:
            self._held.append(_how_far(self.tasks[0]))
            self._told = now
        for line in self._held:
            print(line, file=sys.stderr, flush=True)
        self._held.clear()


def _how_far(task: Task) -> str:
    total = "" if task.total is None else f" of {task.total:,.0f}"
    speed, value = task.fields["steps_per_second"], task.fields["episode_return"]
    facts = [f"{task.completed:,.0f}{total}"]
    facts += [f"{speed:,.0f} steps/s"] if speed else []
    facts += [] if value is None else [f"return {value:.2f}"]
    return f"{task.description}: {', '.join(facts)}"


def progress_bar() -> Bar:
    """On standard error, as lines where that is no terminal; silent in a worker whose parent shows its progress."""
    watched = multiprocessing.parent_process() is None or multiprocessing.current_process().name == "learner 0"
    is_terminal = sys.stderr.isatty()
    whole = Column(no_wrap=True)
    columns = (
        _LabelColumn(), BarColumn(15, table_column=whole), TextColumn("{task.percentage:3.0f}%", table_column=whole),
        _ReturnColumn(whole), _SpeedColumn(whole), TimeRemainingColumn(compact=True, table_column=whole),
    )  # fmt: skip
    return Bar(
        *columns, console=Console(stderr=True), disable=not (is_terminal and watched), lines=watched and not is_terminal
    )


@contextlib.contextmanager
def episodes_bar(label: str, num_episodes: int) -> Iterator[Callable[[int, int], None]]:
    """The bar of an evaluation: gives what is to be told how many episodes are over, after how many steps."""
    with progress_bar() as progress:
        task = progress.add_task(label, total=num_episodes, episode_return=None, steps_per_second=0.0)
        begin = time.monotonic()

        def watch(num_over: int, num_steps: int) -> None:
            rate = num_steps / max(time.monotonic() - begin, 1e-9)
            progress.update(task, completed=num_over, steps_per_second=rate)

        yield watch
