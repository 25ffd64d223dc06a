"""Words that must not be said: found in texts, and kept from being said, utterance by utterance or token by token."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqrl.errors import UserError
from seqrl.language.generation import Voice
from seqrl.text import Tokenizer


class WordList:
    """Finds whole words, and phrases of several, in any text, whatever their case.

    "fool" is found in "You FOOL!", not in "foolish"; "fool*" in both; "shut up" with any white space between its words.
    Nothing else is seen through: "f o o l" is not found.

    Raises: UserError for an empty list, and for what has no letter or digit.
    """

    def __init__(self, words: Iterable[str]) -> None:
        listed = [" ".join(word.casefold().split()) for word in words]
        if not listed:
            raise UserError("the list of words is empty: give at least one")
        for word in listed:
            if not re.fullmatch(r"\w.*", word.removesuffix("*"), re.DOTALL):
                raise UserError(f"{word[:40]!a} is no word to look for: begin it with a letter or a digit")
        self.words = tuple(dict.fromkeys(listed))
        self._pattern = re.compile("|".join(map(_pattern, sorted(self.words, key=len, reverse=True))))
        self._longest = max(map(len, self.words))
        self._prefixes = {word[:k] for word in self.words for k in range(1, len(word) + 1)}
        self._other = next(c for c in map(chr, range(0x100, 0x10000)) if _is_word(c) and c not in self._prefixes)

    @classmethod
    def of_file(cls, path: str | Path) -> "WordList":
        """The words of a text file, one a line. Raises UserError for a file that cannot be read or has none."""
        try:
            lines = Path(path).read_bytes().decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise UserError(
                f"cannot read the words in {str(path)!a} ({reason}): give a file, one word a line"
            ) from None
        if not any(line.strip() for line in lines):
            raise UserError(f"{str(path)!a} has no words: give a file, one word a line")
        return cls(line for line in lines if line.strip())

    def flags(self, text: str) -> bool:
        """Whether `text` has any of the words."""
        return bool(self._pattern.search(text.casefold()))

    def found(self, text: str) -> list[str]:
        """What was found, from left to right, in lower case."""
        return [match[0] for match in self._pattern.finditer(text.casefold())]

    def unflagged(self, texts: Sequence[str]) -> list[int]:
        """Places of the texts that have none of the words: a filter of candidates. It may leave none."""
        return [place for place, text in enumerate(texts) if not self.flags(text)]

    def tail(self, text: str) -> str:
        """As much of the end of `text` as decides what may follow: a word's beginning, or a character for the last.

        If `text` is not flagged, text + more is flagged exactly if tail(text) + more is.
        """
        text = re.sub(r"\s+", " ", text.casefold())
        for start in range(max(len(text) - self._longest, 0), len(text)):
            at_boundary = start == 0 or not _is_word(text[start - 1])
            if at_boundary and text[start:] in self._prefixes:
                return text[start:]
        return self._other if text and _is_word(text[-1]) else " "


def _pattern(word: str) -> str:
    plain = word.removesuffix("*")
    end = "" if word.endswith("*") or not _is_word(plain[-1]) else r"(?!\w)"
    spaced = r"\s+".join(map(re.escape, plain.split()))
    return rf"(?<!\w){spaced}{end}"


def _is_word(character: str) -> bool:
    return bool(re.match(r"\w", character))


class Filtered:
    """A voice that cannot say a listed word: it is as `voice` is, but tokens that would complete one have no chance.

    No beginning of an utterance has a listed word, so one that goes on as a longer word cannot be spelt either, letter
    by letter: with "fool" listed, "foolish" needs a token that is longer than "fool". The end of an utterance is always
    open. An utterance is what follows <agent>; what others say is not looked at.

    `tokenizer` decodes an utterance's tokens to the texts of each, one after the other.

    Raises: UserError for a voice that chooses whole utterances (`speak`): it does not draw by what is masked here.
    """

    def __init__(self, voice: Voice, tokenizer: Tokenizer, words: WordList) -> None:
        if hasattr(voice, "speak"):
            raise UserError(
                f"{type(voice).__name__} chooses whole utterances: filter the voice that proposes them, or its "
                "proposals with WordList.unflagged"
            )
        self.voice, self._tokenizer, self._words = voice, tokenizer, words
        first = tokenizer.end_of_dialogue_id + 1
        self._pieces = [(token, tokenizer.decode([token])) for token in range(first, len(tokenizer))]
        # Bytes of a character that are tokens of their own are known by what they complete alone.
        pieces = self._pieces if any(not word.isascii() for word in words.words) else []
        self._bytes = [token for token, piece in pieces if "\ufffd" in piece]
        self._masks: dict[str, Tensor] = {}

    def start(self, batch_size: int) -> Any:
        nothing: list[list[int] | None] = [None] * batch_size  # the agent is not speaking
        return self.voice.start(batch_size), nothing

    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        inner, said = context
        logits, inner = self.voice.read(tokens, count, inner)
        columns = [ids[:number] for ids, number in zip(tokens.T.tolist(), count.tolist(), strict=True)]
        said = [self._after(before, ids) for before, ids in zip(said, columns, strict=True)]
        forbidden = torch.stack([self._forbidden(ids, logits.shape[-1]) for ids in said]).to(logits.device)
        return logits.masked_fill(forbidden, -torch.inf), (inner, said)

    def _after(self, said: list[int] | None, ids: list[int]) -> list[int] | None:
        """The tokens of the agent's utterance so far, None outside of one."""
        for token in ids:
            if token == self._tokenizer.agent_id:
                said = []
            elif token == self._tokenizer.end_of_utterance_id:
                said = None
            elif said is not None:
                said = [*said, token]
        return said

    def _forbidden(self, said: list[int] | None, size: int) -> Tensor:
        if said is None:
            return torch.zeros(size, dtype=torch.bool)
        tail = self._words.tail(self._tokenizer.decode(said))
        if tail not in self._masks:
            mask = torch.zeros(size, dtype=torch.bool)
            mask[[token for token, piece in self._pieces if self._words.flags(tail + piece)]] = True
            self._masks[tail] = mask
        completed = [token for token in self._bytes if self._words.flags(self._tokenizer.decode([*said, token]))]
        return self._masks[tail].index_fill(0, torch.tensor(completed, dtype=torch.int64), True)
