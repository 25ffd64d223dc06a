"""How friendly a text is, by VADER's word list and rules (Hutto & Gilbert 2014). The only file that imports it."""

from functools import cache
from typing import Any

from seqrl.errors import UserError

MAX_CHARACTERS = 5000
"""Of a text that are read: VADER's time grows with the square of a text's words."""


def sentiment(text: str) -> float:
    """From −1, most unfriendly, to 1; VADER's compound score. English.

    Raises: UserError where vaderSentiment is not installed.
    """
    return float(_analyser().polarity_scores(text[:MAX_CHARACTERS])["compound"])


@cache
def _analyser() -> Any:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UserError("sentiment needs vaderSentiment: pip install 'seqrl[language]'") from None
    return SentimentIntensityAnalyzer()
