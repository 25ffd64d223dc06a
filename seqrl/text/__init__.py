"""Conversations as problems: tasks whose actions are utterances, their vocabularies and their exact optima."""

from seqrl.text.speakers import SPEAKERS, make_speaker
from seqrl.text.task import Dialogue, Speaker, TaskState, TextTask, Turn, converse
from seqrl.text.tasks import TASKS, make_task
from seqrl.text.text_maze import MazeOptimum, TextMaze
from seqrl.text.tokenizer import Tokenizer
from seqrl.text.twenty_questions import QuestionsOptimum, TwentyQuestions
from seqrl.text.wordle import Wordle
from seqrl.text.wordle_optimum import GreedyWordle, RandomConsistent, WordleOptimum

__all__ = [
    "SPEAKERS",
    "TASKS",
    "Dialogue",
    "GreedyWordle",
    "MazeOptimum",
    "QuestionsOptimum",
    "RandomConsistent",
    "Speaker",
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
