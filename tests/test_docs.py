"""What the pages say holds: their commands parse, their code runs or at least names what there is, their tests exist.

Of README.md and docs/*.md:

- A Python block below the comment `<!-- runs -->` is run, blocks of a page one after the other in one namespace; where
  it trains, then with the settings of `TINY`. What a page takes from elsewhere stands in `GIVEN`.
- Any other Python block is compiled, its imports of seqrl are made, and each keyword of a `Config` it makes is a field
  (but for design.md's, which is a sketch).
- Of a shell block, each line that begins with `seqrl` goes through the parser of its command, and is not run.
- A `tests/FILE.py::NAME` exists.
"""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import seqrl
import seqrl.exported
from seqrl.algorithms import ALGORITHMS
from seqrl.cli.arguments import parse
from seqrl.errors import UserError
from seqrl.recipes import RECIPES
from tests.export.test_step import eager
from tests.exported_agents import agent

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(<!-- runs -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TAKEN = {"train": "--resume", "compare": "--resume", "label": "--agreement"}
"""Flags that a command takes itself, before its parser, with the words behind them."""
TINY = {"num_steps": 32, "num_envs": 4, "rollout_length": 8, "hidden_size": 8, "num_epochs": 1, "num_minibatches": 1}
GIVEN: dict[str, dict[str, Any]] = {"export.md": {"observation": {"v": np.zeros(3, np.float32), "n": 2}}}


@functools.cache
def site() -> ModuleType:
    """The hook that makes pages from the code, docs/hooks/site.py."""
    spec = importlib.util.spec_from_file_location("site_hook", ROOT / "docs" / "hooks" / "site.py")
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(page: Path, *languages: str) -> list[tuple[bool, str]]:
    """Whether each block of these languages is to be run, and its text."""
    return [(bool(runs), text) for runs, language, text in BLOCK.findall(page.read_text()) if language in languages]


def test_python_that_runs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train = seqrl.train
    monkeypatch.setattr(seqrl, "train", lambda config: train(dataclasses.replace(config, **TINY)))
    monkeypatch.setattr(seqrl.exported, "load", lambda _: eager(agent("none"))[1])
    ran = 0
    for page in PAGES:
        namespace = {"__name__": page.stem, **GIVEN.get(page.name, {})}
        for runs, text in blocks(page, "python"):
            if runs:
                exec(compile(text, str(page), "exec"), namespace)
                ran += 1
    assert ran >= 6


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "design.md"], ids=lambda page: page.name)
def test_other_python_names_what_there_is(page: Path) -> None:
    for _, text in blocks(page, "python"):
        tree = ast.parse(text)
        known: dict[str, Any] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                if str(names[0]).partition(".")[0] == "seqrl":
                    exec(compile(ast.Module([node], []), str(page), "exec"), known)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(kind := _value(node.func, known), type):
                if dataclasses.is_dataclass(kind):
                    fields = {field.name for field in dataclasses.fields(kind)}
                    assert {keyword.arg for keyword in node.keywords} <= fields, ast.unparse(node)
            elif isinstance(node, ast.Attribute):
                _value(node, known)


def _value(node: ast.AST, known: dict[str, Any]) -> Any:
    """What a dotted name that begins with an import is; AttributeError where there is nothing of the name."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, known)
        return getattr(owner, node.attr) if isinstance(owner, ModuleType) else None
    return None


def commands() -> list[tuple[str, str]]:
    """Each `seqrl …` line, without comment and repetitions, and its page."""
    lines = {}
    for page in PAGES:
        for _, text in blocks(page, "", "bash", "shell", "sh"):
            for line in text.replace("\\\n", " ").splitlines():
                if line.startswith("seqrl "):
                    lines.setdefault(line.partition("   #")[0].strip(), page.name)
    return list(lines.items())


def test_commands_are_understood() -> None:
    found = commands()
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
    page = site().on_page_markdown("<!-- learning: masked_cartpole-gru -->")
    assert "| `masked_cartpole-gru` | gru | 500 (500, 500, 500, 500, 500) |" in page
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
