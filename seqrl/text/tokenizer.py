"""Texts as token ids."""

import operator
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from seqrl.errors import UserError

SPECIALS = ("<pad>", "<begin>", "<agent>", "<end of utterance>", "<end of reply>", "<end of dialogue>")

_WORD = re.compile(r" ?\w+|[\s\S]")


class Tokenizer:
    """A fixed vocabulary of pieces of text, characters or words, behind six special tokens (ids 0 … 5).

    Encoding takes the longest piece that fits, from left to right, and gives nothing back: decode(encode(text)) == text
    for every text that can be encoded. With `byte_fallback` that is every text: 256 bytes stand between the specials
    and the pieces (ids 6 … 261), and where no piece fits, a character is the bytes of its UTF-8. Encoding never gives a
    special token, whatever the text says ("<pad>" in an utterance is five characters).

    The converse does not hold: ids that a model drew may cut a text in other places, bytes that are no UTF-8 are read
    as U+FFFD, and decoding names specials as `SPECIALS` does. So ids are kept from where they were drawn; texts are for
    reading.

    Raises: UserError if a piece is empty, stands there twice, or there is none and no byte.
    """

    pad_id, begin_id, agent_id, end_of_utterance_id, end_of_reply_id, end_of_dialogue_id = range(len(SPECIALS))

    def __init__(self, pieces: Sequence[str] = (), *, byte_fallback: bool = False) -> None:
        if "" in pieces or not (pieces or byte_fallback):
            raise UserError("a vocabulary needs pieces of text, none of them empty: see pieces")
        if len(set(pieces)) < len(pieces):
            twice = next(piece for piece, count in Counter(pieces).items() if count > 1)
            raise UserError(f"the piece {twice!a} stands in the vocabulary twice: leave one out")
        self.pieces = tuple(pieces)
        self.byte_fallback = byte_fallback
        self._first_piece = len(SPECIALS) + 256 * byte_fallback
        self._ids = {piece: index for index, piece in enumerate(pieces, start=self._first_piece)}
        self._lengths = sorted({len(piece) for piece in pieces}, reverse=True)
        # As bytes, since those of one character may come from several tokens. Half of a surrogate pair may be a piece:
        # it comes back as U+FFFD, as all that is no UTF-8.
        texts = [*SPECIALS, *pieces]
        self._bytes = [text.encode(errors="surrogatepass") for text in texts]
        if byte_fallback:
            self._bytes[len(SPECIALS) : len(SPECIALS)] = [bytes([byte]) for byte in range(256)]

    @classmethod
    def of_words(cls, texts: Iterable[str], *, byte_fallback: bool = False, min_count: int = 1) -> "Tokenizer":
        """The vocabulary of the words of `texts`, each with the space before it, and of their punctuation, sorted.

        Left out are those that occur less than `min_count` times: for logs with `byte_fallback`, that spells them.
        """
        counts = Counter(piece for text in texts for piece in _WORD.findall(text))
        pieces = sorted(piece for piece, count in counts.items() if count >= min_count)
        return cls(pieces, byte_fallback=byte_fallback)

    @property
    def reads_all(self) -> bool:
        """Whether any text has tokens."""
        return self.byte_fallback

    def spells(self, text: str) -> bool:
        """Whether some of `text` has bytes alone for tokens."""
        return self.byte_fallback and any(token < self._first_piece for token in self.encode(text))

    def __len__(self) -> int:
        return self._first_piece + len(self.pieces)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without any special token.

        Raises: UserError if no piece fits somewhere.
        """
        if not isinstance(text, str):
            raise UserError(f"what is encoded is a str, not {type(text).__name__}")
        ids, at = list[int](), 0
        while at < len(text):
            piece = next((p for n in self._lengths if (p := text[at : at + n]) in self._ids), None)
            if piece is not None:
                ids.append(self._ids[piece])
            elif self.byte_fallback:
                piece = text[at]
                ids += [len(SPECIALS) + byte for byte in _bytes_of(piece, at)]
            else:
                raise UserError(
                    f"no token fits {text[at : at + 12]!a} at character {at}: "
                    f"write it with the {len(self.pieces)} pieces of this task's vocabulary (tokenizer.pieces)"
                )
            at += len(piece)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` (numbers, or a tensor of one dimension); special tokens are named.

        Raises: UserError for what is no id of this vocabulary.
        """
        known = self._bytes
        plain = [i if type(i) is int and 0 <= i < len(known) else self.checked_id(i) for i in ids]  # few need the call
        return b"".join([known[i] for i in plain]).decode(errors="replace")

    def checked_id(self, token: int) -> int:
        """`token` as a plain number. Raises UserError for what is no id of this vocabulary."""
        try:
            index = operator.index(token)
        except TypeError:
            raise UserError(f"a token id is a whole number, not {type(token).__name__}") from None
        if not 0 <= index < len(self):
            raise UserError(f"there is no token {index}: ids of this vocabulary are 0 … {len(self) - 1}")
        return index

    def to_json(self) -> dict[str, Any]:
        """What `seqrl.language.tokenizers.tokenizer_of` makes this tokenizer of again."""
        return {"kind": "words and bytes" if self.byte_fallback else "words", "pieces": list(self.pieces)}


def _bytes_of(character: str, at: int) -> bytes:
    try:
        return character.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"half of a surrogate pair ({character!a}) at character {at} is no text: write the whole character"
        ) from None
