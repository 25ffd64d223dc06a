"""Answering prompts: a task of one turn, whose beginnings are those of logged conversations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from seqrl.data.dialogues import Dialogue
from seqrl.errors import UserError
from seqrl.text import TextTask, Tokenizer
from seqrl.text.task import TaskState, Turn

Prompt = tuple[tuple[bool, str], ...]
"""What was said, turn by turn: whether the agent said it, and the text."""


@dataclass(frozen=True, kw_only=True)
class PromptState(TaskState):
    """Which prompt is answered."""

    number: int


class Prompted(TextTask[PromptState]):
    """The agent answers a prompt, each as likely, and the conversation is over. It earns nothing by itself: answers are
    scored from outside (`seqrl.language.scoring`)."""

    max_turns = 1

    def __init__(self, prompts: Sequence[Prompt], tokenizer: Tokenizer) -> None:
        """Raises UserError where there is no prompt."""
        if not prompts:
            raise UserError("there are no prompts: give a log in which the agent speaks")
        self.prompts, self.tokenizer = tuple(prompts), tokenizer

    def start(self, generator: torch.Generator) -> tuple[PromptState, str]:
        number = int(torch.randint(len(self.prompts), (), generator=generator))
        prompt = self.prompts[number]
        opens = bool(prompt) and not prompt[-1][0]
        return PromptState(number=number), prompt[-1][1] if opens else ""

    def history(self, state: PromptState) -> Prompt:
        prompt = self.prompts[state.number]
        return prompt[:-1] if prompt and not prompt[-1][0] else prompt

    def _reply(self, state: PromptState, utterance: str, generator: torch.Generator) -> Turn[PromptState]:
        return Turn(state=PromptState(number=state.number, turns=1, ended=True), text="", reward=0.0)

    def facts(self, state: PromptState) -> dict[str, str | bool | int | float]:
        return {"prompt": state.number}


def prompts_of(dialogues: Iterable[Dialogue]) -> list[Prompt]:
    """What was said before each of the agent's turns."""
    prompts: list[Prompt] = []
    for dialogue in dialogues:
        said: list[tuple[bool, str]] = []
        for turn in dialogue.turns:
            agent = turn.speaker == dialogue.agent
            if agent:
                prompts.append(tuple(said))
            said.append((agent, turn.text))
    return prompts
