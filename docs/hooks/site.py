"""What the site holds besides the pages in docs/: the glossary of flags, the API, and tables of measured figures.

MkDocs calls `on_files` and `on_page_markdown` (mkdocs.yml, `hooks`). Everything here is made anew at each build, and
nothing of it is committed:

- flags.md from the dataclasses of flags: of each algorithm's `Config`, and of each command in `seqrl.cli`;
- api/… a page for each package, from docstrings;
- in a page, `<!-- learning: NAME … -->` becomes the table of benchmarks/results/learning_NAME.json, `<!-- export -->`
  that of export.json, and `<!-- table: FILE KEY NAME=VALUE … | COLUMN, COLUMN -->` that of the rows under a key of FILE
  whose fields have these values; a column such as return.mean lies deeper;
- plots of benchmarks/results, under pictures/.
"""

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = sorted(
    path.parent.name for path in ROOT.glob("seqrl/*/__init__.py") if path.parent.name not in ("cli", "pages")
)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from the code."""
    from mkdocs.structure.files import File

    for path, content in {"flags.md": flags_page(), **api_pages()}.items():
        files.append(File.generated(config, path, content=content))
    for plot in sorted(RESULTS.glob("*.png")):
        files.append(File.generated(config, f"pictures/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put measured figures where a page asks for them."""
    markdown = re.sub(r"<!-- learning: ([\w\- ]+) -->", lambda found: learning_table(found[1].split()), markdown)
    markdown = re.sub(
        r"<!-- table: (\w+) (\w+)((?: \w+=\S+)*) \| ([^>]+) -->",
        lambda found: result_table(found[1], found[2], found[3].split(), found[4].split(", ")),
        markdown,
    )
    markdown = markdown.replace("](../benchmarks/results/", "](pictures/")  # as they stand in the repository
    return markdown.replace("<!-- export -->", export_table())


# ---------------------------------------------------------------------------------------------------------------- flags


def flags_page() -> str:
    """Every flag of every algorithm and command, its default and its docstring."""
    from seqrl.algorithms import ALGORITHMS

    lines = ["# Flags", "", "Made from the docstrings of the settings themselves. In Python a flag is a field:"]
    lines += ["`--num-steps` is `Config(num_steps=…)`.", "", "## Of algorithms", ""]
    lines += ["`seqrl train ALGORITHM --flag value`. Where algorithms differ, each says so in a row of its own.", ""]
    lines += ["| flag | default | meaning | algorithms |", "|---|---|---|---|"]
    rows: dict[tuple[str, str, str], list[str]] = {}
    for name, module in ALGORITHMS.items():
        for flag, default, meaning in flags_of(module.Config):
            rows.setdefault((flag, default, meaning), []).append(name)
    for (flag, default, meaning), names in sorted(rows.items()):
        where = "all" if len(names) == len(ALGORITHMS) else ", ".join(names)
        lines.append(f"| `{flag}` | {default} | {meaning} | {where} |")
    lines += ["", "## Of commands", ""]
    found = commands()
    names = [command for command, _ in found]
    for command, kind in found:
        words = re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).lower()
        heading = f"{command} ({words})" if names.count(command) > 1 else command
        lines += [f"### {heading}", "", (inspect.getdoc(kind) or "").partition("\n\n")[0], ""]
        lines += ["| flag | default | meaning |", "|---|---|---|"]
        lines += [f"| `{flag}` | {default} | {meaning} |" for flag, default, meaning in flags_of(kind)]
        lines.append("")
    return "\n".join(lines) + "\n"


def flags_of(kind: type) -> Iterator[tuple[str, str, str]]:
    """A dataclass's flags, defaults and docstrings, each as a cell of a table."""
    documents = docstrings(kind)
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING:
            continue  # a comparison's settings are flags of their own
        default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
        meaning = " ".join(documents.get(field.name, "").split()).replace("|", "\\|")
        shown = f"`{default}`" if default and field.default is not None else "none"
        yield f"--{field.name.replace('_', '-')}", shown, meaning


def docstrings(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass, and of those that it extends."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(part):
            continue
        (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(part))).body
        assert isinstance(definition, ast.ClassDef)
        for field, below in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
                found[field.target.id] = str(ast.literal_eval(below.value))
    return found


def commands() -> list[tuple[str, type]]:
    """What each command calls itself, and its dataclass of flags: from the calls of `parse` in `seqrl.cli`."""
    import seqrl.cli

    found = set()
    for info in pkgutil.iter_modules(seqrl.cli.__path__, "seqrl.cli."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        source = inspect.getsource(module)
        for name, command in re.findall(r'parse\(\s*([\w.]+),[^"]*?"(seqrl \w[^"]*)"', source):
            kind = _attribute(module, name)
            if (command, kind) != ("seqrl export DATASET", module.__dict__.get("Export")):  # part of seqrl export
                found.add((command, kind))
    return sorted(found, key=lambda pair: (pair[0], pair[1].__name__))


def _attribute(module: ModuleType, dotted: str) -> Any:
    value: Any = module
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


# ------------------------------------------------------------------------------------------------------------------ API


def api_pages() -> dict[str, str]:
    """A page of every package, and of the modules beside them together."""
    pages = {}
    index = [
        "# API",
        "",
        "From the docstrings. `seqrl` itself has `train`, `resume`, `load`, `Agent` and `UserError`.",
        "",
    ]
    for name in PACKAGES:
        summary = (importlib.import_module(f"seqrl.{name}").__doc__ or "").partition("\n")[0]
        pages[f"api/{name}.md"] = _api_page(f"seqrl.{name}", list(_modules(name)))
        index.append(f"- [seqrl.{name}]({name}.md): {summary}")
    import seqrl

    others = [info.name for info in pkgutil.iter_modules(seqrl.__path__) if not info.ispkg and info.name[0] != "_"]
    pages["api/others.md"] = _api_page("The modules beside them", [f"seqrl.{name}" for name in sorted(others)])
    index.append("- [the modules beside them](others.md): agents, acting, settings, runs")
    pages["api/index.md"] = "\n".join(index) + "\n"
    return pages


def _modules(package: str) -> Iterator[str]:
    """The public modules of a package, and of the packages in it."""
    folder = ROOT / "seqrl" / package
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if not any(part.startswith("_") and part != "__init__" for part in parts):
            yield name


def _api_page(title: str, modules: list[str]) -> str:
    return f"# {title}\n\n" + "\n".join(f"::: {name}\n{_own_members(name)}" for name in modules)


def _own_members(name: str) -> str:
    """What mkdocstrings is to show of a package: what it defines itself, not what it only passes on."""
    path = ROOT.joinpath(*name.split(".")) / "__init__.py"
    if not path.exists():
        return ""
    body = ast.parse(path.read_text()).body
    own = [part.name for part in body if isinstance(part, ast.FunctionDef | ast.ClassDef) and part.name[0] != "_"]
    return f"    options: {{members: {json.dumps(own) if own else 'false'}}}\n"


# -------------------------------------------------------------------------------------------------------------- figures


def learning_table(names: list[str]) -> str:
    """Returns, seconds and command of `python -m benchmarks.learning NAME`, for each name."""
    lines = [
        "| problem | memory | return, mean (each seed) | steps | seconds a run | machine |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        result = json.loads((RESULTS / f"learning_{name}.json").read_text())
        runs, config = result["runs"], result["config"]
        each = ", ".join(f"{run['return']:.4g}" for run in runs)
        seconds = [run["seconds"] for run in runs]
        memory = config.get("memory", "")
        lines.append(
            f"| `{name}` | {memory} | {result['mean']:.4g} ({each}) | {config['num_steps']:,} "
            f"| {min(seconds):,.0f} to {max(seconds):,.0f} | {_where(result)} |"
        )
    return "\n".join([*lines, "", "By `python -m benchmarks.learning NAME`, from `benchmarks/results/`."])


def result_table(file: str, key: str, wanted: list[str], columns: list[str]) -> str:
    """Rows of a benchmark's results, as they are in its file."""
    result = json.loads((RESULTS / f"{file}.json").read_text())
    rows = result[key]
    if isinstance(rows, dict):
        rows = [{"": name, **row} for name, row in rows.items()]
        columns = ["", *columns]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        if all(str(row.get(name)) == value for name, value in (pair.split("=") for pair in wanted)):
            lines.append(f"| {' | '.join(_cell(row, column) for column in columns)} |")
    assert len(lines) > 2, f"{file}.json has no rows of {key} with {wanted}"
    where = f" ({_where(result)})" if _where(result) else ""  # where runs have come from several, each says its own
    return "\n".join([*lines, "", f"By `{result['command']}`{where}."])


def _where(result: dict[str, Any]) -> str:
    return ", ".join(str(result[key]) for key in ("processor", "date") if key in result)


def _cell(row: Any, column: str) -> str:
    for name in [column] if column in row else column.split("."):
        row = row.get(name) if isinstance(row, dict) else None
    return "" if row is None else f"{row:.4g}" if isinstance(row, float) else str(row)


def export_table() -> str:
    """Parity and speed of `python -m benchmarks.export`."""
    path = RESULTS / "export.json"
    if not path.exists():
        return "(Not measured yet: `python -m benchmarks.export --output benchmarks/results/export.json`.)"
    result = json.loads(path.read_text())
    lines = [
        "| memory | parity, ONNX | parity, .pt2 | `agent.act`, steps/s | ONNX | .pt2 | ONNX file, KiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["memories"]:
        rate = row["steps_per_second"]
        lines.append(
            f"| {row['memory']} | {row['onnx']['parity']:.1e} | {row['torch']['parity']:.1e} | {rate['agent']:,.0f} "
            f"| {rate['onnx']:,.0f} | {rate['torch']:,.0f} | {row['onnx']['bytes'] / 1024:,.0f} |"
        )
    about = (
        f"{result['processor']}, {result['date']}, one thread, {result['hidden_size']} units: `{result['command']}`."
    )
    return "\n".join([*lines, "", about])
