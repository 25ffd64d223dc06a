"""What an utterance of a negotiation means: an offer in words, a yes, a no, priorities, courtesy."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

ITEMS = ("food", "water", "firewood")
PACKAGES = 3
"""Of each item."""
Share = tuple[int, int, int]
"""Packages of food, water and firewood."""

MAX_HEARD = 1000
"""Characters of an utterance that are heard; what stands behind them means nothing."""

INSULTS = ("stupid", "fool", "foolish", "silly", "greedy", "nonsense", "ridiculous", "shut up")
"""Mild ones, which scripted speakers use and counterparts mind."""
COURTESIES = ("please", "thank you", "thanks", "sorry", "appreciate", "kind of you", "glad")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What an utterance means. One means one act; priorities, a question and tone may come with any."""

    act: Literal["offer", "partial", "wrong", "accept", "reject", "walk", "tell", "ask", "greet", "other"] = "other"
    """partial: an offer that leaves an item open; wrong: one whose packages are not three of each."""
    share: Share | None = None
    """Of an offer, what its speaker would get; the other gets the rest of the three of each."""
    tells: tuple[int | None, int | None] = (None, None)
    """The items (0 … 2) that the speaker says to need most and least."""
    asks: bool = False
    """Whether it asks what the other needs."""
    courteous: bool = False
    insults: bool = False


def parse(text: str) -> Said:
    """The meaning of any text; never raises. Case does not count, nor does what stands behind `MAX_HEARD` characters.

    Offers: "I take 2 food, 1 water and you get the rest", "You can have all the water. 3 food and no firewood for me",
    "Submit-Deal Firewood=2 Food=1 Water=1". A number (digits, no, none, a, one, two, three, all) counts with the item
    behind it. It goes to whom the sentence names last: I and me, or you; turned round by give ("I give 2
    food"), or by "for me" and "to you" right behind it; to the speaker if nobody is named. "The rest" is all that is
    not named. Numbers behind a not do not count. An offer that leaves an item open is partial, one that gives an item
    in two ways, or more than three of it, wrong.

    An utterance that does several things does the first of: walking away, an offer, rejecting, accepting, asking,
    telling priorities, greeting.
    """
    return _parsed(text[:MAX_HEARD].lower().replace("’", "'"))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Said:
    offer = _offer(text)
    tells, asks = _priorities(text), bool(_ASKS.search(text))
    act = offer.act
    if _WALKS.search(text):
        act = "walk"
    elif act == "other":
        kinds = {"reject": _REJECTS, "accept": _ACCEPTS}
        found = [kind for kind, pattern in kinds.items() if pattern.search(text)]
        told = ["ask"] * asks + ["tell"] * (tells != (None, None)) + ["greet"] * bool(_GREETS.search(text))
        act = [*found, *told, "other"][0]  # type: ignore[assignment]
    return Said(
        act=act,
        share=offer.share if act == "offer" else None,
        tells=tells,
        asks=asks,
        courteous=bool(_COURTEOUS.search(text)),
        insults=bool(_INSULTS.search(text)),
    )


def _words(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words)})\b")


_COURTEOUS, _INSULTS = _words(COURTESIES), _words(INSULTS)
_GREETS = re.compile(r"\b(?:hello|hi|hey|good (?:morning|day|evening)|nice to meet you)\b")
_WALKS = re.compile(r"\bwalk-away\b|\bi(?:'ll| will| am|'m)? (?:walk|walking) away\b")
_REJECTS = re.compile(
    r"\breject-deal\b|\bno deal\b|\bi (?:must |have to |will )?(?:reject|refuse|decline)\b"
    r"|\bi (?:cannot|can't|can not|do not|don't|will not|won't) (?:accept|agree)\b"
)
_ACCEPTS = re.compile(
    r"\baccept-deal\b|\bi(?:'ll| will| can| do| am happy to)? (?:accept|agree)\b"
    r"|\b(?:it is|it's|that is|that's|we have|you have) a deal\b(?! ?\?)"
    r"|^ ?(?:ok(?:ay)?,? |yes,? )?(?:deal|agreed) ?[.!]*$"
)
_NEED = r"\b(?:need|want|prefer|value|important|priority|priorities|most)\b"
_ASKS = re.compile(
    rf"\b(?:what|which)\b[^.?!]{{0,40}}(?:\byou(?:r|'d)?\b[^.?!]{{0,40}}{_NEED}|{_NEED}[^.?!]{{0,20}}\byou\b)"
)

# Priorities

_ITEM = r"(food|water|firewood|wood)"
_RANKED = re.compile(rf"\bmy priorities are {_ITEM},? (?:then )?{_ITEM},? (?:and |then |and then )?{_ITEM}\b")
_MOST = (
    re.compile(rf"\bi (?:really |mostly )?(?:need|want|value|prefer) (?:the )?{_ITEM} (?:the )?most\b"),
    re.compile(
        rf"\b{_ITEM} is (?:my (?:top|first|highest|main|biggest) (?:priority|need)|(?:the )?most important to me)\b"
    ),
    re.compile(rf"\bmy (?:top|first|highest|main|biggest) (?:priority|need) is (?:the )?{_ITEM}\b"),
)
_LEAST = (
    re.compile(rf"\bi (?:need|want|value) [^.?!]{{0,30}}?{_ITEM} (?:the )?least\b"),
    re.compile(rf"\b{_ITEM} (?:is )?(?:my (?:lowest|last)(?: priority)?|(?:the )?least important to me)\b"),
    re.compile(rf"\bmy (?:lowest|last) (?:priority|need) is (?:the )?{_ITEM}\b"),
)


def _priorities(text: str) -> tuple[int | None, int | None]:
    ranked = _RANKED.search(text)
    if ranked:
        items = [_item(ranked[k]) for k in (1, 2, 3)]
        return (items[0], items[2]) if len(set(items)) == 3 else (None, None)
    most, least = (
        next((_item(match[1]) for pattern in patterns if (match := pattern.search(text))), None)
        for patterns in (_MOST, _LEAST)
    )
    return (None, None) if most is not None and most == least else (most, least)


def _item(word: str) -> int:
    return 2 if "wood" in word else ITEMS.index(word.rstrip("s"))


# Offers

_NUMBERS = {"no": 0, "none": 0, "zero": 0, "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "all": 3, "every": 3}
_FILLERS = frozenset((
    "of", "the", "package", "packages", "bag", "bags", "bundle", "bundles", "bottle", "bottles", "unit", "units",
    "piece", "pieces", "extra", "more", "additional", "my", "your", "our", "these", "those",
))  # fmt: skip
_GIVES = frozenset(("give", "gives", "giving", "spare", "hand", "offer"))
_OFFERS_AS_A_NOUN = frozenset(("my", "an", "the", "your", "this"))
_TRADES = frozenset(("trade", "swap", "exchange"))
_OWNERS = {
    **dict.fromkeys(("i", "i'll", "i'd", "i'm", "i've", "me", "mine", "myself"), "mine"),
    **dict.fromkeys(("you", "you'll", "you'd", "you're", "u", "yours", "yourself"), "yours"),
}
_OTHER = {"mine": "yours", "yours": "mine"}
_TOKEN = re.compile(
    r"(?P<rest>\b(?:(?:all )?the rest|everything else|what is left|the remainder|all that is left)\b)"
    r"|(?P<item>\bfire ?woods?\b|\bwoods?\b|\bfoods?\b|\bwaters?\b)"
    r"|(?P<number>[0-9]+)(?:x\b)?|(?P<stop>[.?!;\n])|(?P<equals>[=:])|(?P<comma>,)|(?P<word>\w+(?:'\w+)?)"
)


@dataclass
class _Offer:
    """What has been read of an offer: pieces (whose, the item or −1 for the rest, how many), and how to read on."""

    pieces: list[tuple[str, int, int]]
    owner: str = "mine"
    group: int = 0
    """The first piece that "for me" right behind it would turn round."""
    in_front: bool = False
    """Whether this sentence puts "for me" in front of the pieces."""
    negated: bool = False
    trading: bool = False

    def name(self, owner: str) -> None:
        self.owner, self.group = owner, len(self.pieces)


def _offer(text: str) -> Said:
    tokens = [(str(match.lastgroup), match[match.lastgroup or 0]) for match in _TOKEN.finditer(text)]
    reading = _Offer([])
    k = 0
    while k < len(tokens):
        k = _read(tokens, k, reading)
    return _whole(reading.pieces)


def _read(tokens: list[tuple[str, str]], k: int, reading: _Offer) -> int:
    """Read the token at `k` and those that belong to it; returns where to go on."""
    kind, word = tokens[k]
    if kind == "stop":
        reading.name("mine")
        reading.negated = reading.in_front = reading.trading = False
    elif kind == "rest":
        _, after = _skip(tokens, k + 1)
        if after != "item":  # "the rest of the food" says nothing that the other side does not
            reading.group = len(reading.pieces)
            _add(reading, -1, 0)
            return _behind(tokens, k + 1, reading)
    elif kind == "number" or word in _NUMBERS:
        return _number(tokens, k, reading)
    elif kind == "item" and k + 2 < len(tokens) and tokens[k + 1][0] == "equals" and tokens[k + 2][0] == "number":
        _add(reading, _item(word), _value(tokens[k + 2][1]))
        return k + 3
    elif word in _OWNERS:
        reading.name(_OWNERS[word])
    elif word in _GIVES and (word != "offer" or k == 0 or tokens[k - 1][1] not in _OFFERS_AS_A_NOUN):
        reading.name(_OTHER[reading.owner])
    elif word in _TRADES:
        reading.name(_OTHER[reading.owner])
        reading.trading = True
    elif word in ("for", "to") and k + 1 < len(tokens) and tokens[k + 1][1] in _OWNERS:
        reading.name(_OWNERS[tokens[k + 1][1]])
        reading.in_front = True
        return k + 2
    elif word == "for" and reading.trading:
        reading.name(_OTHER[reading.owner])
    elif word in ("not", "never", "cannot", "dont", "cant", "wont") or word.endswith("n't"):
        reading.negated = True
    elif word == "but":
        reading.negated = False
    return k + 1


def _number(tokens: list[tuple[str, str]], k: int, reading: _Offer) -> int:
    """A number and the item behind it; "all the food and water" is all of both."""
    place, kind = _skip(tokens, k + 1)
    if kind == "number" or (place < len(tokens) and tokens[place][1] in _NUMBERS):
        return place  # "all three of the food": the last number counts
    if kind != "item":
        return k + 1
    number = _value(tokens[k][1])
    _add(reading, _item(tokens[place][1]), number)
    place += 1
    while tokens[k][1] in ("all", "no") and place < len(tokens) and tokens[place][1] in ("and", "or"):
        following, kind = _skip(tokens, place + 1)
        if kind != "item":
            break
        _add(reading, _item(tokens[following][1]), number)
        place = following + 1
    return _behind(tokens, place, reading)


def _behind(tokens: list[tuple[str, str]], k: int, reading: _Offer) -> int:
    """Right behind pieces, "for me" or "goes to you" turns them to whom it names, unless such words stand in front."""
    start = k
    while k < len(tokens) and tokens[k][1] in ("package", "packages", "is", "are", "goes", "go"):
        k += 1
    if k + 1 < len(tokens) and tokens[k][1] in ("for", "to") and tokens[k + 1][1] in _OWNERS and not reading.in_front:
        owner = _OWNERS[tokens[k + 1][1]]
        reading.pieces[reading.group :] = [(owner, *piece[1:]) for piece in reading.pieces[reading.group :]]
        reading.name(owner)
        return k + 2
    return start


def _skip(tokens: list[tuple[str, str]], k: int) -> tuple[int, str]:
    """The first place from `k` on that is not filled, and its kind."""
    while k < len(tokens) and tokens[k][1] in _FILLERS:
        k += 1
    return k, tokens[k][0] if k < len(tokens) else ""


def _value(word: str) -> int:
    if word in _NUMBERS:
        return _NUMBERS[word]
    digits = word.lstrip("0")
    return int(digits or "0") if len(digits) < 3 else 100


def _add(reading: _Offer, item: int, number: int) -> None:
    if not reading.negated:
        reading.pieces.append((reading.owner, item, number))


def _whole(pieces: list[tuple[str, int, int]]) -> Said:
    """The offer that pieces make."""
    named: dict[int, set[int]] = {}
    for owner, item, number in pieces:
        if item >= 0:
            named.setdefault(item, set()).add(number if owner == "mine" else PACKAGES - number)
    rests = {owner for owner, item, _ in pieces if item < 0}
    if not named:
        return Said()
    if len(rests) > 1 or any(len(numbers) > 1 or not 0 <= min(numbers) <= PACKAGES for numbers in named.values()):
        return Said(act="wrong")
    rest = PACKAGES if rests == {"mine"} else 0
    if len(named) < len(ITEMS) and not rests:
        return Said(act="partial")
    food, water, firewood = (min(named.get(item, {rest})) for item in range(len(ITEMS)))
    return Said(act="offer", share=(food, water, firewood))
