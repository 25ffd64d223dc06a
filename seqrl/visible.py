"""Text whose characters can all be seen, wherever it comes from: for terminals and pages alike."""

import re

IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
"""What cannot be seen besides control and format characters: Unicode's Default_Ignorable_Code_Points that are neither
(fillers, variation selectors), and the empty Braille pattern."""


def visible(text: str, keep: str = "") -> str:
    """`text` with an escape such as \\u202e for each character that cannot be seen, or could steer what shows it.

    These are control and format characters (line ends, escape sequences, marks that turn the direction of writing),
    lone surrogates, spaces other than the common one, and what is `IGNORABLE`; of these, what is in `keep` stays.
    """
    if _can_be_seen(text):  # long ones, of images and weights, are
        return text
    return "".join(char if char in keep or _can_be_seen(char) else _escaped(char) for char in text)


def _can_be_seen(text: str) -> bool:
    return text.isprintable() and not IGNORABLE.search(text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()
