"""Tiny conversations, all of which can be enumerated: what is expected of a policy can be computed exactly."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from seqrl.algorithms import bc
from seqrl.data.dialogues import write_dialogues
from seqrl.language.model import MemoryModel
from seqrl.language.play import Played
from seqrl.language.rows import TokenTurn
from seqrl.language.scripted import scripted_dialogues
from seqrl.language.tuned import TunedAgent
from seqrl.language.tuning import Experience
from seqrl.memory import make_memory
from seqrl.text import Dialogue, TextTask, Tokenizer, make_task
from seqrl.text.task import TaskState, Turn

TOKENIZER = Tokenizer(["a", "b"])  # 6, 7


@dataclass(frozen=True, kw_only=True)
class Said(TaskState):
    texts: tuple[str, ...] = ()


class Rated(TextTask[Said]):
    """What is said has a reward, by all that the agent has said; it ends after `max_turns`, or what is not "a"."""

    tokenizer = TOKENIZER

    def __init__(self, rewards: dict[tuple[str, ...], float], max_turns: int = 1) -> None:
        self.rewards, self.max_turns = rewards, max_turns

    def start(self, generator: torch.Generator) -> tuple[Said, str]:
        return Said(), "a"

    def _reply(self, state: Said, utterance: str, generator: torch.Generator) -> Turn[Said]:
        texts = (*state.texts, utterance)
        ended = len(texts) == self.max_turns or utterance != "a"
        following = Said(turns=len(texts), ended=ended, texts=texts)
        return Turn(state=following, text="" if ended else "b", reward=self.rewards.get(texts, 0.0))


def utterances(max_tokens: int) -> Iterator[tuple[tuple[int, ...], bool]]:
    """All that can be said: ids, and whether it was ended."""
    for length in range(max_tokens + 1):
        for ids in itertools.product((6, 7), repeat=length):
            yield ids, length < max_tokens


def conversations(task: Rated, max_tokens: int) -> list[Played]:
    """All that can be had."""
    generator = torch.Generator()
    state, opening = task.start(generator)
    found: list[Played] = []

    def go_on(state: Said, texts: tuple[str, ...], rewards: tuple[float, ...], turns: tuple[TokenTurn, ...]) -> None:
        if state.ended:
            found.append(Played(dialogue=Dialogue(texts=texts, rewards=rewards), turns=turns))
            return
        for ids, ended in utterances(max_tokens):
            text = TOKENIZER.decode(ids)
            turn = task.reply(state, text, generator)
            mine = TokenTurn(agent=True, ids=ids, reward=turn.reward, ended=ended)
            heard = TokenTurn(agent=False, ids=tuple(TOKENIZER.encode(turn.text)))
            go_on(turn.state, (*texts, text, turn.text), (*rewards, turn.reward), (*turns, mine, heard))

    go_on(state, (opening,), (), (TokenTurn(agent=False, ids=tuple(TOKENIZER.encode(opening))),))
    return found


def alone(batch: Experience, column: int) -> Experience:
    """One of a batch's conversations, as long as it is."""
    length, own = int(batch.said.valid[:, column].sum()), batch.said.valid.nonzero()[:, 1] == column
    said = type(batch.said)(*(leaf[:length, column : column + 1] for leaf in batch.said))
    leaves = {name: getattr(batch, name)[:length, column : column + 1] for name in batch._fields[4:-2]}
    return Experience(
        batch.tokens[:, column : column + 1], said, batch.log_prob[:length, column : column + 1], batch.reference[own],
        **leaves,
    )  # fmt: skip


def tuned(seed: int = 0, has_values: bool = False, move: float = 0.0, **options) -> TunedAgent:
    """A small agent; with `move` its policy has gone that far from its reference."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = MemoryModel(len(TOKENIZER), make_memory("gru", 8, 8))
        agent = TunedAgent(TOKENIZER, policy, has_values=has_values, **options)
        with torch.no_grad():
            for parameter in agent.policy.parameters():
                parameter.add_(move * torch.randn_like(parameter))
    return agent


WORDLE = {"task": "wordle", "task_kwargs": ("num_words=6",), "max_tokens": 6}


def cloned(path: Path, num_steps: int, **model) -> Path:
    """A folder with a log of Wordle, `log.jsonl`, and `bc`, a run that cloned it by this model."""
    write_dialogues(path / "log.jsonl", scripted_dialogues(make_task("wordle", num_words=6), ["random"], 20))
    bc.train(bc.Config(
        dialogues=str(path / "log.jsonl"), run_dir=str(path / "bc"), num_steps=num_steps, batch_size=8,
        learning_rate=1e-2, warmup=2, held_out=0.0, **{"hidden_size": 8, **WORDLE, **model},
    ))  # fmt: skip
    return path
