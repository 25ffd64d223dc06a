"""Texts as token ids, for tasks with a small vocabulary of their own."""

import operator
import re
from collections.abc import Iterable, Sequence

from seqrl.errors import UserError

SPECIALS = ("<pad>", "<begin>", "<agent>", "<end of utterance>", "<end of reply>", "<end of dialogue>")

_WORD = re.compile(r" ?\w+|[\s\S]")


class Tokenizer:
    """A fixed vocabulary of pieces of text, characters or words, behind six special tokens (ids 0 … 5).

    Encoding takes the longest piece that fits, from left to right, and gives nothing back: decode(encode(text)) == text
    for every text that can be encoded. It never gives a special token, whatever the text says ("<pad>" in an
    utterance is five characters). The converse does not hold: ids that a model drew may cut a text in other places,
    and decoding names specials as `SPECIALS` does. So ids are kept from where they were drawn; texts are for reading.

    Raises: UserError if a piece is empty, stands there twice, or there is none.
    """

    pad_id, begin_id, agent_id, end_of_utterance_id, end_of_reply_id, end_of_dialogue_id = range(len(SPECIALS))

    def __init__(self, pieces: Sequence[str]) -> None:
        if not pieces or "" in pieces:
            raise UserError("a vocabulary needs pieces of text, none of them empty: see pieces")
        if len(set(pieces)) < len(pieces):
            twice = next(piece for piece in pieces if list(pieces).count(piece) > 1)
            raise UserError(f"the piece {twice!a} stands in the vocabulary twice: leave one out")
        self.pieces = tuple(pieces)
        self._ids = {piece: index for index, piece in enumerate(pieces, start=len(SPECIALS))}
        longest_first = sorted(pieces, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    @classmethod
    def of_words(cls, texts: Iterable[str]) -> "Tokenizer":
        """The vocabulary of all words of `texts`, each with the space before it, and of their punctuation, sorted."""
        return cls(sorted({piece for text in texts for piece in _WORD.findall(text)}))

    def __len__(self) -> int:
        return len(SPECIALS) + len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special token.

        Raises: UserError if no piece fits somewhere.
        """
        if not isinstance(text, str):
            raise UserError(f"what is encoded is a str, not {type(text).__name__}")
        ids, at = [], 0
        while at < len(text):
            match = self._pattern.match(text, at)
            if match is None:
                raise UserError(
                    f"no token fits {text[at : at + 12]!a} at character {at}: "
                    f"write it with the {len(self.pieces)} pieces of this task's vocabulary (tokenizer.pieces)"
                )
            ids.append(self._ids[match[0]])
            at = match.end()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (numbers, or a tensor of one dimension); special tokens are named.

        Raises: UserError for what is no id of this vocabulary.
        """
        return "".join(self._token(token) for token in ids)

    def _token(self, token: int) -> str:
        try:
            index = operator.index(token)
        except TypeError:
            raise UserError(f"a token id is a whole number, not {type(token).__name__}") from None
        if not 0 <= index < len(self):
            raise UserError(f"there is no token {index}: ids of this vocabulary are 0 … {len(self) - 1}")
        return SPECIALS[index] if index < len(SPECIALS) else self.pieces[index - len(SPECIALS)]
