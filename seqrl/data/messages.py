"""Columns of conversational datasets, as TRL and Hugging Face have them: messages of {role, content}, or strings."""

import difflib
from typing import Any

from seqrl.data.dialogues import shown
from seqrl.errors import UserError

PARTS = ("messages", "prompt", "completion", "chosen", "rejected")
"""The columns of a conversational dataset that hold text."""


def check_columns(content: dict[str, Any], where: str, known: tuple[str, ...] = (*PARTS, "label", "id")) -> None:
    """Raise UserError for further columns that are nearly named like one of `known`, or hold lists or objects."""
    for key, value in content.items():
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if near:
            raise UserError(f"{where} has the column '{shown(key)}': did you mean '{near[0]}'? If not, rename it")
        if not isinstance(value, str | int | float):
            raise UserError(f"{where}: column '{shown(key)}' holds a list or an object: drop it, or write it as text")


def messages_of(part: Any, speaker: str, where: str) -> list[dict[str, Any]]:
    """The turns of a list of messages; a string is one."""
    if isinstance(part, str):
        return [{"speaker": speaker, "text": part}]
    if not isinstance(part, list):
        raise UserError(f"{where} is neither a string nor a list: give messages of role and content")
    turns = []
    for k, message in enumerate(part):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise UserError(f"{where}[{k}] is no message: give an object of role and content")
        extra = [key for key, value in message.items() if key not in ("role", "content") and value is not None]
        if extra:
            raise UserError(f"{where}[{k}] has '{shown(extra[0])}' besides role and content: drop it, or put it there")
        if not isinstance(message["content"], str) or not isinstance(message["role"], str):
            raise UserError(f"{where}[{k}] has a role or content that is no string: give text alone")
        turns.append({"speaker": message["role"], "text": message["content"]})
    return turns


def after_prompt(prompt: list[dict[str, Any]], said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is said after the prompt, where `said` may have the prompt at its beginning."""
    return said[len(prompt) :] if prompt and said[: len(prompt)] == prompt else said
