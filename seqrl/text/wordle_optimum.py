"""Who plays Wordle: the exact optimum by branch and bound, and two who look one guess ahead."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from seqrl.errors import UserError
from seqrl.text.wordle import BLACK, GREEN, LENGTH, LETTERS, YELLOW, Wordle

_COLOURS = BLACK + YELLOW + GREEN
_SOLVED = 3**LENGTH - 1  # all green


def feedback_codes(guesses: tuple[str, ...], words: tuple[str, ...]) -> np.ndarray:
    """`feedback` of all guesses [G] to all words [W], as five base-3 digits, B 0, Y 1, G 2: uint8 [G, W]."""
    said = np.array([[LETTERS.index(letter) for letter in guess] for guess in guesses], np.int8)[:, None]
    there = np.array([[LETTERS.index(letter) for letter in word] for word in words], np.int8)[None]
    green = said == there  # [G, W, 5]
    codes = np.zeros(green.shape[:2], np.uint8)
    for i in range(LENGTH):
        free = np.zeros(codes.shape, np.int8)  # letters of the word that a yellow at i could stand for
        for j in range(LENGTH):
            free += (there[..., j] == said[..., i]) & ~green[..., j]
            if j < i:
                free -= (said[..., j] == said[..., i]) & ~green[..., j]
        codes = codes * np.uint8(3) + np.where(green[..., i], 2, free > 0).astype(np.uint8)
    return codes


def consistent(task: Wordle, texts: tuple[str, ...], codes: np.ndarray | None = None) -> np.ndarray:
    """Indices of the words of `task` that all colours in `texts` (opening, guess, colours, …) allow, ascending."""
    left = np.arange(len(task.words))
    for guess, reply in zip(texts[1::2], texts[2::2], strict=True):
        if all(colour in _COLOURS for colour in reply):
            row = feedback_codes((guess,), task.words)[0] if codes is None else codes[task.allowed.index(guess)]
            left = left[row[left] == _code(reply)]
    if not len(left):
        raise UserError("no word of this task's list fits the colours: they are another list's, or were changed")
    return left


class RandomConsistent:
    """Says any word that the colours allow, each as likely. A speaker for `converse`."""

    def __init__(self, task: Wordle, generator: torch.Generator) -> None:
        self._task, self._generator = task, generator
        self._codes = feedback_codes(task.allowed, task.words)

    def __call__(self, texts: tuple[str, ...]) -> str:
        left = consistent(self._task, texts, self._codes)
        return self._task.words[left[int(torch.randint(len(left), (), generator=self._generator))]]


class GreedyWordle:
    """Says the guess whose colours tell most, one guess ahead: the most different answers, or the greatest entropy.

    Of equal guesses the first that may be the word, then the first in `task.allowed`.
    """

    def __init__(self, task: Wordle, by: Literal["parts", "entropy"] = "parts") -> None:
        if by not in ("parts", "entropy"):
            raise UserError(f"by is 'parts' or 'entropy', not {str(by)[:20]!a}")
        self._task, self._by = task, by
        self._codes = feedback_codes(task.allowed, task.words)
        self._word_of = _word_of(task)

    def __call__(self, texts: tuple[str, ...]) -> str:
        left = consistent(self._task, texts, self._codes)
        if len(left) == 1:  # no guess tells more than another
            return self._task.words[left[0]]
        sizes = np.stack([np.bincount(row, minlength=_SOLVED + 1) for row in self._codes[:, left]])
        if self._by == "parts":
            score = (sizes > 0).sum(1).astype(float)
        else:
            share = sizes / len(left)
            score = -(share * np.log(share, where=share > 0, out=np.zeros_like(share))).sum(1)
        best = np.flatnonzero(score >= score.max() - 1e-9)
        may_be = best[np.isin(self._word_of[best], left)]
        return self._task.allowed[may_be[0] if len(may_be) else best[0]]


@dataclass
class _Known:
    """What is known of the words that are left: their least cost is at least `lower`, and equals it if `guess` ≥ 0."""

    lower: int
    guess: int = -1


class WordleOptimum:
    """The exact optimum of a Wordle task, and the speaker that attains it.

    The cost of a set S of n words that are left, with k guesses, is the number of wrong guesses summed over its words:

        C(S, k) = min over guesses g of n − [g ∈ S] + Σ_P C(P, k − 1), where the colours of g split S∖g into parts P

    with C(S, k) = n − 1 for k = 1 or n ≤ 2, and ≥ n − 1 always. So a guess costs at least 2n − [g ∈ S] − (its number of
    parts): guesses are tried in the order of this bound and given up as soon as their parts' bounds exceed the best,
    first all parts' (by the bound over one more guess), then one part's exact cost after the other's. Expected return:
    −C(all, 6) / number of words. Guesses are those of `task.allowed`. Nothing is left out, so the value is exact.

    It answers from any history, not only its own. Time on one core: lists of 236 and 431 words 0.02 s and 0.2 s; with
    2,315 guesses allowed 0.1 s and 3 s; all 2,315 words were not solved in six minutes.
    """

    def __init__(self, task: Wordle) -> None:
        self._task = task
        self._codes = feedback_codes(task.allowed, task.words)  # [G, W]
        self._word_of = _word_of(task)
        self._known: dict[tuple[bytes, int], _Known] = {}

    @property
    def expected_return(self) -> float:
        words = np.arange(len(self._task.words))
        return -self._cost(words, self._task.max_turns, 10**9) / len(words)

    def __call__(self, texts: tuple[str, ...]) -> str:
        left = consistent(self._task, texts, self._codes)
        tries = self._task.max_turns - len(texts) // 2
        if len(left) <= 2 or tries == 1:
            return self._task.words[left[0]]
        self._cost(left, tries, 10**9)
        return self._task.allowed[self._known[left.tobytes(), tries].guess]

    def _cost(self, words: np.ndarray, tries: int, limit: int) -> int:
        """C(words, tries) if it is below `limit`; else some lower bound of it that is not."""
        if len(words) <= 2 or tries == 1:
            return len(words) - 1
        key = words.tobytes(), tries
        known = self._known.get(key)
        if known and (known.guess >= 0 or known.lower >= limit):
            return known.lower
        bounds = self._bounds(words)
        known = self._known.setdefault(key, _Known(int(bounds.min())))
        best, best_guess = limit, -1
        for guess in np.argsort(bounds, kind="stable"):
            if bounds[guess] >= best or known.lower >= best:
                break
            cost = self._guess_cost(words, int(guess), tries, best)
            if cost < best:
                best, best_guess = cost, int(guess)
        known.lower, known.guess = best, best_guess  # without a guess: none is below the limit, so it is a lower bound
        return best

    def _guess_cost(self, words: np.ndarray, guess: int, tries: int, limit: int) -> int:
        """The cost of `guess` at `words` if it is below `limit`; else some lower bound of it that is not."""
        parts = self._split(words, guess)
        total = sum(map(len, parts))
        lower = [len(part) - 1 for part in parts]
        pending = sum(lower)
        for i, part in enumerate(parts):  # cheap bounds of all parts, before any of them is solved
            pending += (bound := self._lower(part, tries - 1)) - lower[i]
            lower[i] = bound
            if total + pending >= limit:
                return total + pending
        for i, part in enumerate(parts):
            pending -= lower[i]
            total += self._cost(part, tries - 1, limit - total - pending)
            if total + pending >= limit:
                return total + pending
        return total

    def _lower(self, words: np.ndarray, tries: int) -> int:
        if len(words) <= 2 or tries == 1:
            return len(words) - 1
        key = words.tobytes(), tries
        if key not in self._known:
            self._known[key] = _Known(int(self._bounds(words).min()))
        return self._known[key].lower

    def _bounds(self, words: np.ndarray) -> np.ndarray:
        """A lower bound of each guess's cost at `words` [n]: int64 [G]; endless for one that tells nothing."""
        codes = self._codes[:, words]
        if len(words) < 40:
            ordered = np.sort(codes, axis=1)
            parts = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)
        else:
            seen = np.zeros((len(codes), _SOLVED + 1), bool)
            seen[np.arange(len(codes))[:, None], codes] = True
            parts = seen.sum(1)
        bounds = 2 * len(words) - parts
        bounds -= (codes == _SOLVED).any(1)
        bounds[parts == 1] = 10**9
        return bounds

    def _split(self, words: np.ndarray, guess: int) -> list[np.ndarray]:
        """The parts of `words` by the colours of `guess`, the largest first, without the one that ends the game."""
        codes = self._codes[guess, words]
        parts = [words[codes == code] for code in np.unique(codes) if code != _SOLVED]
        return sorted(parts, key=len, reverse=True)


def _code(colours: str) -> int:
    code = 0
    for colour in colours:
        code = 3 * code + _COLOURS.index(colour)
    return code


def _word_of(task: Wordle) -> np.ndarray:
    """For each allowed guess its index among the words, or −1: int64 [G]."""
    index = {word: i for i, word in enumerate(task.words)}
    return np.array([index.get(guess, -1) for guess in task.allowed])
