"""Tokenizers by their name, and as JSON in a run's folder."""

from collections.abc import Callable
from typing import Any

from seqrl.errors import UserError, nearest
from seqrl.text import Tokenizer


def byte_tokenizer() -> Tokenizer:
    """256 bytes behind the specials: any text has tokens, one for each byte of its UTF-8."""
    return Tokenizer(byte_fallback=True)


def tokenizer_of(content: Any, where: str) -> Tokenizer:
    """The tokenizer whose `to_json` gave `content`, as {"kind": …, …}. Raises UserError, beginning with `where`."""
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        raise UserError(f"{where} is damaged (it names no kind of vocabulary): restore it from a copy")
    if kind not in KINDS:
        raise UserError(f"{where} has a vocabulary of the unknown kind '{kind}': {nearest(kind, KINDS)}")
    return KINDS[kind](content, where)


def _words(content: dict[str, Any], where: str) -> Tokenizer:
    pieces = content.get("pieces")
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise UserError(f"{where} is damaged (it has no list of pieces): restore it from a copy")
    try:
        return Tokenizer(pieces, byte_fallback=content["kind"] != "words")
    except UserError as error:
        raise UserError(f"{where} is damaged ({error})") from None


def _hugging_face(content: dict[str, Any], where: str) -> Tokenizer:
    from seqrl.language.hugging_face import HuggingFaceTokenizer  # needs transformers

    return HuggingFaceTokenizer.of_json(content, where)


KINDS: dict[str, Callable[[dict[str, Any], str], Tokenizer]] = {
    "words": _words,
    "words and bytes": _words,
    "hugging face": _hugging_face,
}
