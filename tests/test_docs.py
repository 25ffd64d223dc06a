"""What the pages say in their text holds: commands are understood, what is named is there.

Their code blocks run: `tests/docs/test_page_blocks.py`.
"""

import argparse
import ast
import functools
import importlib
import importlib.util
import pydoc
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from seqrl.algorithms import ALGORITHMS
from seqrl.cli.arguments import parse
from seqrl.errors import UserError
from seqrl.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TAKEN = {"train": "--resume", "compare": "--resume", "label": "--agreement"}
"""Flags that a command takes itself, before its parser, with the words behind them."""


@functools.cache
def site() -> ModuleType:
    """The hook that makes pages from the code, docs/hooks/site.py."""
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "hooks" / "site.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(program: str) -> list[tuple[str, str]]:
    """Each command of a program that stands in a page's text, and its page; but for those with NAME for a name."""
    found = {}
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL).replace("\n", " ")
        for line in re.findall(rf"`({program}[^`]*)`", text):
            if not {"NAME", "ALGORITHM", "PROBLEM", "|"} & set(line.split()):
                found.setdefault(line, page.name)
    return list(found.items())


def test_commands_are_understood() -> None:
    found = commands("seqrl ")
    assert len(found) > 30
    wrong = [f"{page}: {line}: {problem}" for line, page in found if (problem := _problem(line))]
    assert not wrong, "\n".join(wrong)


def _problem(line: str) -> str:
    """What the command's parser has against a line, or nothing. A command with several kinds of input has several."""
    _, command, *words = shlex.split(line, comments=True)
    if command.startswith("-"):
        return ""
    flags = next((words[index:] for index, word in enumerate(words) if word.startswith("-")), [])
    if command == "train" and words[:1] not in (["--resume"], []) and not words[0].startswith("-"):
        known = {**{name: module.Config for name, module in ALGORITHMS.items()}, **RECIPES}
        kinds = [known[words[0]]] if words[0] in known else []
    else:
        kinds = [kind for program, kind in site().commands() if program.split()[1] == command]
    if TAKEN.get(command) in flags[:1]:
        flags = next((flags[index:] for index, word in enumerate(flags[1:], 1) if word.startswith("-")), [])
    problem = f"no command {command} {' '.join(words[:1])}"
    for kind in kinds:
        default = kind()
        try:
            parse(type(default), flags, default, line)
            return ""
        except UserError as error:
            problem = str(error)
    return problem


class UnderstoodError(Exception):
    """In place of what a benchmark would do. (Without flags or words it is only a name, which others look at.)"""


# Golden: `--seed 0` for `--seeds 0` in a benchmark's command is told here.
def test_commands_of_benchmarks_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def understand(self: argparse.ArgumentParser) -> None:
        raise UnderstoodError(parse_args(self))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understand)
    found = [
        words
        for line, _ in commands("python -m benchmarks.(?!learning|offline)")
        if (words := shlex.split(line)[2:])[1:]
    ]
    assert len(found) > 20
    wrong = []
    for words in found:
        module = importlib.import_module(words[0])
        module = module if hasattr(module, "main") else importlib.import_module(f"{words[0]}.__main__")
        assert "parse_args()" in Path(str(module.__file__)).read_text(), f"{words[0]} would run"
        monkeypatch.setattr("sys.argv", words)
        try:
            module.main()
        except UnderstoodError:
            continue
        except SystemExit:
            wrong.append(words)
    assert wrong == []


def test_goals_that_are_named_are_measured() -> None:
    from benchmarks.learning import GOALS

    named = {name for line, _ in commands("python -m benchmarks.learning") for name in line.split()[3:]}
    assert named
    assert named <= set(GOALS)


def test_tests_that_are_named_exist() -> None:
    named = [pair for page in PAGES for pair in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text())]
    assert len(named) > 30
    for file, name in named:
        source = (ROOT / file).read_text()
        assert not name or f"def {name}(" in source, f"{file} has no {name}"


def test_functions_that_are_linked_exist() -> None:
    found = [pair for page in PAGES for pair in re.findall(r"\[`(\w+)`\]\[(seqrl[\w.]*)\]", page.read_text())]
    assert len(found) > 30
    for name, dotted in found:
        owner = dotted.removesuffix(f".{name}")
        assert hasattr(importlib.import_module(owner), name), f"{owner} has no {name}"


def test_names_of_ours_exist() -> None:
    found = {name for page in PAGES for name in re.findall(r"`(seqrl(?:\.\w+)+)", page.read_text())}
    assert len(found) > 20
    assert [name for name in sorted(found) if pydoc.locate(name) is None] == []


def test_files_and_modules_that_are_named_exist() -> None:
    for page in PAGES:
        for path in re.findall(r"`((?:benchmarks|docs|examples)/[\w/]+\.\w+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
        for module in re.findall(r"python -m (benchmarks\.\w+)", page.read_text()):
            path = ROOT.joinpath(*module.split("."))
            assert path.with_suffix(".py").exists() or path.is_dir(), f"{page.name} names {module}"


# Golden: a field of a Config whose docstring is taken away is named here.
def test_every_flag_is_explained() -> None:
    page = site().flags_page()
    rows = re.findall(r"^\| `(--[\w-]+)` \| ([^|]*) \| ([^|]*)", page, re.MULTILINE)
    assert len(rows) > 200
    assert [flag for flag, _, meaning in rows if not meaning.strip()] == []
    assert "| `--clip` | `0.2` |" in page


def test_tables_are_those_of_the_results() -> None:
    page = site().on_page_markdown("<!-- learning: masked_cartpole-lstm -->")
    assert "| `masked_cartpole-lstm` | lstm | 500 (500, 500, 500, 500, 500) |" in page
    for path in PAGES:
        text = site().on_page_markdown(path.read_text())
        assert "<!-- learning" not in text and "<!-- table" not in text, path.name  # noqa: PT018


def public_names() -> list[tuple[str, bool]]:
    """Every public function, class and module of seqrl, and whether it has a docstring. Commands have their flags'."""
    found = []
    for path in sorted((ROOT / "seqrl").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if name.startswith("seqrl.cli.") or path.name == "__main__.py":
            continue
        tree = ast.parse(path.read_text())
        found.append((name, ast.get_docstring(tree) is not None))
        for part in tree.body:
            if isinstance(part, ast.FunctionDef | ast.ClassDef) and part.name[0] != "_":
                found.append((f"{name}.{part.name}", ast.get_docstring(part) is not None))
    return found


def test_every_public_name_has_a_docstring() -> None:
    names = public_names()
    assert len(names) > 800
    assert [name for name, documented in names if not documented] == []


def test_what_packages_offer_is_there() -> None:
    for name in site().PACKAGES:
        module = importlib.import_module(f"seqrl.{name}")
        assert all(hasattr(module, offered) for offered in getattr(module, "__all__", ())), name
