"""The bar that shows how far a run is."""

import multiprocessing
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
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


def progress_bar() -> Progress:
    """On standard error, and silent where nobody watches: in a file, or in a worker whose parent shows its progress."""
    watched = multiprocessing.parent_process() is None or multiprocessing.current_process().name == "learner 0"
    silent = not (sys.stderr.isatty() and watched)
    whole = Column(no_wrap=True)
    columns = (
        _LabelColumn(), BarColumn(15, table_column=whole), TextColumn("{task.percentage:3.0f}%", table_column=whole),
        _ReturnColumn(whole), _SpeedColumn(whole), TimeRemainingColumn(compact=True, table_column=whole),
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), disable=silent)
