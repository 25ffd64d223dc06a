"""What `seqrl` alone says: every command in a line."""

from seqrl.algorithms import ALGORITHMS
from seqrl.recipes import RECIPES

USAGE = """\
seqrl: reinforcement learning with memory

  seqrl compare ENV [flags]       train several approaches on ENV, and say which one it needs
  seqrl compare DATASET [flags]   train several methods on logged episodes, and say which to use
  seqrl compare --resume RUN [flags]
                                  continue a comparison, or add seeds, approaches, methods or a sweep to it
  seqrl train NAME [flags]        train a recipe ({recipes})
                                  or an algorithm ({algorithms};
                                  your own as module:Class) on --env ENV
  seqrl train --resume RUN        continue a run, bit for bit
  seqrl chat RUN [flags]          talk to a trained speaker, and see what else it might have said
  seqrl label RUN [flags]         choose which of two answers is better: preferences to learn from
  seqrl actors RUN N              change the number of actors of a run, while it trains too
  seqrl evaluate RUN [flags]      play episodes with a trained agent
  seqrl report RUN                a run's or a comparison's page: report.html in its folder, and report.png
  seqrl inspect RUN [flags]       step through episodes: what is seen, done and remembered
  seqrl collect RUN|random [flags]
                                  log episodes that an agent or random actions play: a dataset
  seqrl collect SPEAKER --task TASK
                                  log dialogues of scripted speakers, or of a run, with a task of words
  seqrl import SOURCE [flags]     make a dataset of what another program logged
  seqrl export RUN [flags]        write a trained agent as a file that acts without PyTorch
  seqrl export DATASET [flags]    write a dataset as a Minari dataset
  seqrl audit DATASET [flags]     is a dataset, or a log of dialogues, fit to learn from?
  seqrl reward LOG [flags]        give a log of dialogues other rewards: points, toxicity, sentiment, …
  seqrl calibrate RUN [flags]     which return should a Decision Transformer be asked for?
  seqrl adapt RUN [flags]         how well an agent learns inside a trial of a new task, its weights frozen
  seqrl frontier RUN [flags]      what steering a speaker brings, against how far it leads from the cloned policy
  seqrl turns RUN [flags]         which turns of a log of dialogues raised or lowered the value
  seqrl ship RUN [flags]          would a speaker do better than what was logged? Ship, or do not
  seqrl envs                      list seqrl's environments (any Gymnasium id works too)

Each command explains its flags with --help.
"""


def print_usage() -> None:
    print(USAGE.format(recipes=", ".join(RECIPES), algorithms=", ".join(ALGORITHMS)), end="")
