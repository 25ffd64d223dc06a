"""Wordle as a conversation: five letters are said, five colours are said back."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from seqrl.errors import UserError
from seqrl.text.task import TaskState, TextTask, Turn
from seqrl.text.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
BLACK, YELLOW, GREEN = "B", "Y", "G"
LENGTH = 5
INVALID = "invalid"  # seven letters, so neither of the two can be taken for colours or for a guess
UNKNOWN = "unknown"


def feedback(guess: str, word: str) -> str:
    """The colours of `guess`, a character a letter: G in its place, Y elsewhere in `word`, B not (again) in it.

    Greens are given first; each other letter of `word` then accounts for one yellow, from left to right.
    """
    left = Counter(there for said, there in zip(guess, word, strict=True) if said != there)
    colours = []
    for said, there in zip(guess, word, strict=True):
        if said == there:
            colours.append(GREEN)
        elif left[said] > 0:
            colours.append(YELLOW)
            left[said] -= 1
        else:
            colours.append(BLACK)
    return "".join(colours)


@dataclass(frozen=True, kw_only=True)
class WordleState(TaskState):
    """A conversation, and the word to be found."""

    word: str


class Wordle(TextTask[WordleState]):
    """Find one of `words`, each as likely, in six guesses; the conversation opens with nothing said.

    An utterance is a guess of five letters, and the reply its colours, such as "BYGBB" (`feedback`). What is not five
    letters a–z is answered "invalid", a word that is not in `allowed` (by default `words`) "unknown". All three use up
    a guess. Reward: 0 for the word, −1 for all else, so the return is minus the number of utterances before the right
    one, and −6 if there is none. It ends with the word or after six utterances.

    The vocabulary has 35 tokens: 26 letters, 3 colours, 6 specials.
    Source: Snell et al. 2022 (ILQL, arXiv 2206.11871) and LMRL-Gym (Abdulhai et al. 2023, arXiv 2311.18232), whose
    35 tokens are of the same kinds. Differs: there a letter that is in the word twice, or guessed twice, is coloured
    by what is known of the letter (yellow for each that is not in place); here by the game's rules. There what is not
    five letters is answered with nothing; in ILQL every five letters are taken, here those of `allowed`. Colours are
    written B, Y, G, a character each.

    Raises: UserError for a list that is empty, has a word twice, or one that is not five letters a–z; for a word that
    `allowed` lacks.
    """

    max_turns = 6

    def __init__(self, words: Sequence[str], allowed: Sequence[str] | None = None) -> None:
        self.words = _checked(words, "words")
        self.allowed = self.words if allowed is None else _checked(allowed, "allowed")
        self._known = frozenset(self.allowed)
        missing = [word for word in self.words if word not in self._known]
        if missing:
            raise UserError(f"'{missing[0]}' may be the word but not be guessed: add all words to allowed")
        self.tokenizer = Tokenizer([*LETTERS, BLACK, YELLOW, GREEN])

    def start(self, generator: torch.Generator) -> tuple[WordleState, str]:
        return WordleState(word=self.words[int(torch.randint(len(self.words), (), generator=generator))]), ""

    def _reply(self, state: WordleState, utterance: str, generator: torch.Generator) -> Turn[WordleState]:
        solved = utterance == state.word
        turns = state.turns + 1
        state = replace(state, turns=turns, ended=solved or turns == self.max_turns)
        if not _is_word(utterance):
            text = INVALID
        elif utterance not in self._known:
            text = UNKNOWN
        else:
            text = feedback(utterance, state.word)
        return Turn(state=state, text=text, reward=0.0 if solved else -1.0)


def _is_word(text: str) -> bool:
    return len(text) == LENGTH and all(character in LETTERS for character in text)


def _checked(words: Sequence[str], name: str) -> tuple[str, ...]:
    if isinstance(words, str) or not words:
        raise UserError(f"{name} is a list of at least one word of five letters, not {str(words)[:20]!a}")
    for word in words:
        if not isinstance(word, str) or not _is_word(word):
            raise UserError(f"{str(word)[:20]!a} in {name} is not {LENGTH} letters a–z, in lower case: leave it out")
    if len(set(words)) < len(words):
        twice = next(word for word, count in Counter(words).items() if count > 1)
        raise UserError(f"'{twice}' stands in {name} twice: leave one out")
    return tuple(words)
