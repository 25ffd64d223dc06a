"""seqrl compare."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from seqrl import compare as comparison
from seqrl.cli.arguments import parse, positional, take_flag
from seqrl.errors import UserError
from seqrl.recipes import settings_for
from seqrl.report import advice
from seqrl.run import default_run_dir


def compare(args: list[str]) -> int:
    env, args = positional(args)
    run, args = take_flag(args, "--resume")
    if run is not None:
        parse(ResumeComparison, args, ResumeComparison(), "seqrl compare --resume RUN")
        config, resumed = comparison.read_comparison(Path(run)), True
    else:
        if memory := take_flag(args, "--memory")[0]:
            raise UserError(f"compare takes several memories: give --memories {memory} and others, not --memory")
        settings = settings_for(env) if env else settings_for("")
        default = comparison.Config(settings=settings)
        config, resumed = parse(comparison.Config, args, default, "seqrl compare ENV"), False
        if not config.settings.run_dir:
            run_dir = default_run_dir(config.settings.env, "compare", config.settings.seed)
            config = dataclasses.replace(config, settings=dataclasses.replace(config.settings, run_dir=run_dir))
    try:
        result = comparison.compare(config, resumed)
    except KeyboardInterrupt:
        folder = config.settings.run_dir
        print(f"seqrl: interrupted; continue with: seqrl compare --resume {folder}", file=sys.stderr)
        return 130
    console = Console()
    console.print(result.table())
    console.print(advice(result))
    console.print(f"Plot and figures: {Path(config.settings.run_dir) / 'compare.png'}, table.md, results.json")
    return 0


@dataclass(frozen=True)
class ResumeComparison:
    """Continue a comparison: runs that are done are kept, the others go on where they were."""
