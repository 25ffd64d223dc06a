"""seqrl report."""

from dataclasses import dataclass
from pathlib import Path

from seqrl.cli.arguments import parse, positional
from seqrl.errors import UserError
from seqrl.pages.comparison_page import write_comparison_page
from seqrl.pages.run_page import write_run_page
from seqrl.pages.sweep_page import run_folders, write_sweep_page
from seqrl.reports.run import plot_run
from seqrl.run_folder import read_json


@dataclass(frozen=True)
class Report:
    """A page about a run, one that is still training too: report.html in its folder, and its curves as report.png.

    Of a comparison, its table, advice and curves, and a page for each of its runs; of a folder with runs inside, a
    table of them and their curves.
    """


def report(args: list[str]) -> int:
    run, args = positional(args)
    parse(Report, args, Report(), "seqrl report RUN")
    if run is None:
        raise UserError("report needs a run folder, named first: seqrl report RUN")
    folder = Path(run)
    if run_folders(folder):
        print(write_sweep_page(folder))
    elif str(read_json(folder, "config.json").get("type")).startswith("compare"):
        print(write_comparison_page(folder))
    else:
        print(plot_run(folder))
        print(write_run_page(folder))
    return 0
