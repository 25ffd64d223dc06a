"""seqrl export: a trained agent as a file that acts. (Of a dataset of logged episodes: `seqrl.cli.datasets`.)"""

from dataclasses import dataclass
from pathlib import Path

from seqrl.cli.arguments import parse, positional
from seqrl.cli.datasets import export as export_dataset
from seqrl.errors import UserError
from seqrl.export import SUFFIXES, default_path, export_run


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained agent as one file that acts without PyTorch; or a dataset in another program's format.

    Which of the two is told by the folder: a run's has a config.json. The agent's file holds its network and its
    statistics; the memory's state is an input and an output. It is compared with the agent before it is written.
    """

    format: str = ""
    """Of a run: onnx or torch. By default what --output ends in, .onnx or .pt2; else onnx."""
    output: str = ""
    """Of a run: the file to write; must not exist yet. By default agent.onnx or agent.pt2 in the run's folder, which is
    written over where it is an exported agent."""
    to_minari: str = ""
    """Of a dataset: id of the Minari dataset to make, such as cartpole/random-v0."""


def export(args: list[str]) -> int:
    folder, flags = positional(args)
    options = parse(Export, flags, Export(), "seqrl export RUN|DATASET")
    if folder is None:
        raise UserError("export needs a run folder, or a dataset, named first: seqrl export RUN")
    if not Path(folder).exists():
        raise UserError(f"there is no folder {folder}: name a run's, or a dataset's")
    is_run = (Path(folder) / "config.json").is_file()
    for_runs = options.format or options.output
    if options.to_minari and (is_run or for_runs):
        raise UserError("--to-minari is for datasets, --format and --output are for runs: give what fits the folder")
    if not is_run and not for_runs:
        return export_dataset(args)
    format = options.format or _format_of(options.output)
    path = Path(options.output) if options.output else default_path(folder, format)
    exported = export_run(folder, options.output or None, format)
    figures = ", ".join(
        f"{found['difference']:.1e} on {found['steps']:,} {name} steps"
        for name, found in exported.about["parity"].items()
    )
    print(f"{path}: {path.stat().st_size:,} bytes; differs from the agent by at most {figures}")
    print(f'seqrl.exported.load("{path}") acts{"" if format == "torch" else " without PyTorch"}')
    return 0


def _format_of(output: str) -> str:
    return {suffix: format for format, suffix in SUFFIXES.items()}.get(Path(output).suffix, "onnx")
