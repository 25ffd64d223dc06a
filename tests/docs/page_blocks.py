"""The code blocks of README.md and docs/, as they stand on their pages, and what each line of a shell block is."""

import importlib.util
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)(?: title=\"([\w./]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = ("bash", "sh", "shell")
KNOWN = ("python", "shell", "json", "text")


class Block(NamedTuple):
    """A code block: its language, of KNOWN; the file that it is, or nothing; the page's line that it begins in."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order. One without a language is shell where each of its lines begins with a program."""
    content = page.read_text()
    found = []
    for match in FENCE.finditer(content):
        language, title, text = match.groups()
        found.append(Block(_language(language, text), title or "", text, content[: match.start()].count("\n") + 1))
    assert 2 * len(found) == len(re.findall(r"^\s*```", content, re.MULTILINE)), f"{page}: a fence stands apart"
    return found


def _language(name: str, text: str) -> str:
    if name in SHELL:
        return "shell"
    if name == "":
        programs = {command.split()[0] for command in commands(text)}
        return "shell" if programs and programs <= {"seqrl", *NOT_RUN} else "unmarked"
    return name


def commands(text: str) -> list[str]:
    """The command lines of a shell block, continued ones joined, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := line.partition(" #")[0].strip()) and not command.startswith("#")]


def make_target_is_there(words: list[str]) -> bool:
    return f"\n{words[0]}:" in (ROOT / "Makefile").read_text()


def extras_are_there(words: list[str]) -> bool:
    """`pip install` of this project, in the folder of its pyproject.toml or by name, with extras that it has."""
    match = re.fullmatch(r"(\.|seqrl)(?:\[([\w,-]+)\])?", words[-1])
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return words[0] == "install" and match is not None and set((match[2] or "dev").split(",")) <= set(known)


def tensorboard_is_there(words: list[str]) -> bool:
    return importlib.util.find_spec("tensorboard") is not None and words[0] == "--logdir"


NOT_RUN: dict[str, tuple[str, Callable[[list[str]], bool]]] = {
    "make": ("makes environments, or runs these very tests: its targets exist", make_target_is_there),
    "pip": ("installs from the network: what is named can be installed", extras_are_there),
    "tensorboard": ("serves until it is ended: it is installed, with the flag", tensorboard_is_there),
}
"""Programs of shell blocks that are not run, why, and what is checked instead."""
