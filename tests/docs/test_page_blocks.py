"""Every code block of README.md and docs/ runs, one after the other, with settings that take seconds.

A page is a story: its blocks, Python and shell, run in order in one namespace and one folder, which holds what the page
takes as given (`NEEDS`). Commands run in this process. Nothing of them is changed but the flags of `QUICK`.
"""

import dataclasses
import functools
import gc
import http.client
import io
import json
import multiprocessing
import re
import shlex
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from page_blocks import KNOWN, NOT_RUN, PAGES, Block, blocks, commands
from page_stories import NAMES, NEEDS, QUICK, SETTINGS, STATUSES, TYPED, add_given

import seqrl
from seqrl.cli import exporting, main
from seqrl.comparison import run_pool
from seqrl.data.dialogues import read_dialogues
from seqrl.data.preferences import read_preferences
from seqrl.envs.make import _register_installed
from seqrl.errors import UserError
from seqrl.text import make_task

WITH_BLOCKS = [page for page in PAGES if blocks(page)]


# Golden: a block whose language is taken away, or is none of KNOWN, is named here.
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    assert [f"{page}:{block.line}" for block in blocks(page) if block.language not in KNOWN] == []


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what pages take as given is made, once for all."""
    return tmp_path_factory.mktemp("given")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forked_actors: None) -> Iterator[None]:
    """Training and the look at parity take a moment, comparisons train in this process; then all is as before."""
    _register_installed()  # a package registers its ids once in a process: they are to outlive this
    train, handler, registered = seqrl.train, signal.getsignal(signal.SIGINT), dict(gym.registry)
    monkeypatch.setattr(seqrl, "train", lambda config: train(quickened(config)))
    monkeypatch.setattr(run_pool, "_run_all", run_in_turn)
    monkeypatch.setattr(run_pool, "_stop", multiprocessing.Event(), raising=False)
    monkeypatch.setattr(exporting, "export_run", functools.partial(exporting.export_run, num_steps=50))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("COLUMNS", "160")
    yield
    signal.signal(signal.SIGINT, handler)
    gym.registry.clear()
    gym.registry.update(registered)


def quickened(config: Any) -> Any:
    """With those of SETTINGS that it has."""
    return dataclasses.replace(config, **{name: value for name, value in SETTINGS.items() if hasattr(config, name)})


def run_in_turn(jobs: Any, measure: Any, workers: int, folder: Path, progress: Any) -> list[UserError]:
    """In place of the processes of a comparison."""
    for job in jobs:
        run_pool._train_and_measure(job.config, measure)
    return []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Pages that are served are asked for once and closed; what they answered."""
    uvicorn = pytest.importorskip("uvicorn", reason="pages need gradio: pip install 'seqrl[chat]'")
    serve, answers = uvicorn.Server.run, []

    def run(server: Any, sockets: Any) -> None:
        def ask() -> None:
            connection = http.client.HTTPConnection(*sockets[0].getsockname(), timeout=20)
            connection.request("GET", "/")
            answers.append(connection.getresponse().status)
            connection.close()
            server.should_exit = True

        asking = threading.Thread(target=ask)
        asking.start()
        serve(server, sockets)
        asking.join()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    yield answers
    if not answers:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # Gradio leaves event loops behind


# Golden: a flag that a command of a page does not have; a Python line that names what is not there.
@pytest.mark.filterwarnings("ignore:.*Overriding environment")  # a block that is a file is imported by its command too
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_blocks_run(
    page: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None, opened: list[int]
) -> None:
    run = runner(monkeypatch)
    for name in NEEDS.get(page.name, []):
        add_given(name, tmp_path, shared, run, monkeypatch.chdir)
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": page.stem, **NAMES.get(page.name, dict)()}
    for block in blocks(page):
        tell(page, block, namespace, run)
    web = sum("--web" in command for block in blocks(page) for command in commands(block.text))
    assert opened == [200] * web


def tell(page: Path, block: Block, namespace: dict[str, Any], run: Callable[[str], None]) -> None:
    """Run a block, or look at what it shows."""
    if block.title:
        Path(block.title).write_text(block.text)
    if block.language == "python":
        code = "\n" * block.line + block.text  # so that a traceback names the page's own line
        exec(compile(code, str(page), "exec"), namespace)
    elif block.language == "json":
        read(json.loads(block.text))
    elif block.language == "shell":
        for command in commands(block.text):
            run(command)


def read(row: dict[str, Any]) -> None:
    """A line of a file, as the page shows it, is what its strict reader takes."""
    Path("shown.jsonl").write_text(json.dumps(row))
    assert len(list((read_dialogues if "turns" in row else read_preferences)("shown.jsonl"))) == 1


def runner(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What runs a command line with the flags of QUICK, and what is typed; or looks at it, if it is not to be run."""

    def run(command: str) -> None:
        program, *words = shlex.split(command)
        if program.startswith("PYTHONPATH="):
            monkeypatch.syspath_prepend(str(Path(program.partition("=")[2]).absolute()))
            program, *words = words
        if program != "seqrl":
            assert NOT_RUN[program][1](words), command
            return
        line = " ".join(words)
        fitting = max((start for start in QUICK if line.startswith(start)), key=len, default="")
        monkeypatch.setattr("sys.stdin", io.StringIO(TYPED.get(words[0], "")))
        status = main([*words, *shlex.split(QUICK.get(fitting, ""))])
        assert status in STATUSES.get(words[0], (0,)), f"{command}: exit status {status}"

    return run


# Golden: another number in what the counterpart offers in docs/negotiation.md; `first=21` of `fair` made 15.
def test_the_negotiation_that_is_shown_takes_place() -> None:
    shown = next(block for page in PAGES if page.name == "negotiation.md" for block in blocks(page))
    texts = [re.split(r"\s{2,}", line)[1] for line in shown.text.splitlines()]
    task, draws = (
        make_task("negotiation"),
        torch.Generator().manual_seed(2164),
    )  # a seed with these priorities and words
    state, said = task.start(draws)
    for utterance, heard in zip(texts[1::2], texts[0::2], strict=False):
        assert said == heard
        turn = task.reply(state, utterance, draws)
        state, said = turn.state, turn.text
    assert (said, turn.reward, task.outcome(state)["points"]) == (texts[-1], 17, 17)
