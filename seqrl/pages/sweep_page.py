"""The page of a folder of runs, such as a loop of a shell left: a table of them, and their curves in one chart."""

from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from seqrl.errors import UserError
from seqrl.pages.charts import LARGE, line_chart, styles_of
from seqrl.pages.html import Html, element, figure, page, section, table, write_page
from seqrl.pages.run_page import EVALUATED, RETURN, last_tenth, shown, smoothed, write_run_page
from seqrl.reports.common import number
from seqrl.reports.run import read_curves, read_settings, x_axis


class _Run(NamedTuple):
    name: str
    settings: dict[str, Any]
    curves: dict[str, list[tuple[float, float]]]


def run_folders(folder: Path) -> list[Path]:
    """The folders of runs right inside `folder`; none where it is a run itself."""
    if (folder / "config.json").exists() or not folder.is_dir():
        return []
    return sorted(path.parent for path in folder.glob("*/metrics.jsonl") if (path.parent / "config.json").is_file())


def write_sweep_page(folder: Path) -> Path:
    """Write report.html into a folder of runs, and one into each run's; returns the path of the first.

    Raises UserError where none of them has logged anything.
    """
    runs = []
    for path in run_folders(folder):
        try:
            write_run_page(path)
        except UserError:
            continue  # it has logged nothing, or is damaged: its own report says so
        runs.append(_Run(path.name, read_settings(path), read_curves(path)))
    if not runs:
        raise UserError(f"no run in {folder} has logged anything yet: wait for a first update")
    return write_page(folder / "report.html", sweep_page(folder.name or str(folder.resolve()), runs))


def sweep_page(title: str, runs: list[_Run]) -> Html:
    """The page. Of settings those are shown in which runs differ."""
    body = [section("Runs", element("div", _table(runs), class_="card spaced"))]
    earned = [run for run in runs if RETURN in run.curves]
    if earned:
        styles = styles_of([run.name for run in earned])
        lines = [
            smoothed(run.name, run.curves[RETURN], styles[run.name], number(last_tenth(run.curves[RETURN])))
            for run in earned
        ]
        chart = line_chart(lines, x_label=x_axis(earned[0].settings), y_label="return", size=LARGE)
        caption = "Training episodes, smoothed over five updates. Beside the names: the last tenth of training."
        body.append(section("Return", figure(chart, caption)))
    return page(title, *body, kind="runs", subtitle=f"{len(runs)} runs, and the settings in which they differ.")


def _table(runs: list[_Run]) -> Html:
    names = dict.fromkeys(name for run in runs for name in run.settings if name != "run_dir")
    differ = [name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1]
    evaluated = any(EVALUATED in run.curves for run in runs)
    header = ["run", "return, last tenth", *(["evaluated last"] if evaluated else []), "steps", "seconds"]
    header += [name.replace("_", " ") for name in differ]  # last: there may be more than fit
    rows = []
    for run in runs:
        link = element("a", run.name, href=quote(f"{run.name}/report.html"))
        steps = max(step for curve in run.curves.values() for step, _ in curve)
        speed = run.curves.get("steps_per_second")
        scores = [number(last_tenth(run.curves[RETURN])) if RETURN in run.curves else "–"]
        if evaluated:
            scores.append(number(run.curves[EVALUATED][-1][1]) if EVALUATED in run.curves else "–")
        seconds = f"{steps / speed[-1][1]:,.0f}" if speed and speed[-1][1] > 0 else "–"
        rows.append([link, *scores, f"{steps:,.0f}", seconds, *(shown(run.settings.get(name)) for name in differ)])
    return table(header, rows)
