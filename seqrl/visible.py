"""Text whose characters can all be seen, wherever it comes from: for terminals and pages alike."""

import re
import unicodedata

IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""What cannot be seen besides control and format characters: Unicode's Default_Ignorable_Code_Points that are neither
(fillers, variation selectors), and the empty Braille pattern."""


def visible(text: str, keep: str = "") -> str:
    """`text` with an escape such as \\u202e for each character that cannot be seen, or could steer what shows it.

    These are control and format characters (line ends, escape sequences, marks that turn the direction of writing),
    lone surrogates, spaces other than the common one, and what is `IGNORABLE`; of these, what is in `keep` stays, and
    what makes one emoji of symbols (a red heart, a family), as people write them.
    """
    if _can_be_seen(text):  # long ones, of images and weights, are
        return text
    return "".join(
        char if char in keep or _can_be_seen(char) or _makes_an_emoji(text, k) else _escaped(char)
        for k, char in enumerate(text)
    )


def _can_be_seen(text: str) -> bool:
    return text.isprintable() and not IGNORABLE.search(text)


def _makes_an_emoji(text: str, k: int) -> bool:
    """Whether character k asks for the symbol before it in colour (U+FE0F), or joins two (U+200D)."""
    before, behind = text[k - 1 : k], text[k + 1 : k + 2]
    if text[k] == "\ufe0f":
        return _is_symbol(before)
    return text[k] == "\u200d" and (_is_symbol(before) or before == "\ufe0f") and _is_symbol(behind)


def _is_symbol(char: str) -> bool:
    return char > "\u2000" and unicodedata.category(char) in ("So", "Sm", "Sk")  # the last are tones of skin


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
