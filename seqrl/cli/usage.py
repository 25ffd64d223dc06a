"""What `seqrl` alone says: every command in a line; and `seqrl train --help`."""

import shutil
import textwrap

from seqrl.algorithms import ALGORITHMS
from seqrl.recipes import RECIPES

USAGE = """\
seqrl: reinforcement learning with memory

  seqrl compare ENV [flags]       train several approaches on ENV, and say which one it needs
  seqrl compare NAME --env ENV [flags]
                                  the same, from the settings of a recipe of PPO, such as robot
  seqrl compare DATASET [flags]   train several methods on logged episodes, and say which to use
  seqrl compare --resume RUN [flags]
                                  continue a comparison, or add seeds, approaches, methods or a sweep to it
  seqrl train NAME [flags]        train by an algorithm, on --env ENV, or by a recipe; their names are below
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

{names}
Each command explains its flags with --help; those of an algorithm, seqrl train ppo --help.
"""

TRAIN = """\
usage: seqrl train NAME [flags]
       seqrl train --resume RUN [flags]

Train an agent by an algorithm, on --env ENV, or by a recipe; or continue a run, bit for bit.

{names}
The flags of each: seqrl train ppo --help, seqrl train --resume RUN --help.
"""

NAMES = f"""\
Algorithms: {", ".join(ALGORITHMS)}; your own as module:Class.

Recipes, an algorithm with settings that were tuned for a problem: {", ".join(RECIPES)}.
"""


def print_usage(usage: str = USAGE) -> None:
    """Print it as wide as the terminal; what follows a command stays in its column."""
    width = max(min(shutil.get_terminal_size().columns, 120), 60)
    for line in usage.format(names=NAMES).splitlines():
        column = 34 if line.startswith("  ") else 0
        print(textwrap.fill(line, width, subsequent_indent=" " * column, break_on_hyphens=False))
