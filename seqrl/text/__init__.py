"""Conversations as problems: tasks whose actions are utterances, their vocabularies and their exact optima."""

from seqrl.text.negotiation import Negotiation
from seqrl.text.negotiation_counterparts import COUNTERPARTS, Manner
from seqrl.text.negotiation_optimum import NegotiationOptimum
from seqrl.text.negotiation_speakers import STYLES, ScriptedNegotiator, Style
from seqrl.text.speakers import SPEAKERS, make_speaker
from seqrl.text.task import Dialogue, Speaker, TaskState, TextTask, Turn, converse
from seqrl.text.tasks import TASKS, make_task
from seqrl.text.text_maze import MazeOptimum, TextMaze
from seqrl.text.tokenizer import Tokenizer
from seqrl.text.twenty_questions import QuestionsOptimum, TwentyQuestions
from seqrl.text.wordle import Wordle
from seqrl.text.wordle_optimum import GreedyWordle, RandomConsistent, WordleOptimum

__all__ = [
    "COUNTERPARTS",
    "SPEAKERS",
    "STYLES",
    "TASKS",
    "Dialogue",
    "GreedyWordle",
    "Manner",
    "MazeOptimum",
    "Negotiation",
    "NegotiationOptimum",
    "QuestionsOptimum",
    "RandomConsistent",
    "ScriptedNegotiator",
    "Speaker",
    "Style",
    "TaskState",
    "TextMaze",
    "TextTask",
    "Tokenizer",
    "Turn",
    "TwentyQuestions",
    "Wordle",
    "WordleOptimum",
    "converse",
    "make_speaker",
    "make_task",
]
