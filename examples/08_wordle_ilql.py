"""Wordle from logged games: a speaker is cloned; values of its tokens, learnt from the same log, steer it (ILQL).

The log is of players who take the best guess half of the time. Eight words only: with long lists small models do not
learn to spell consistent guesses (docs/language.md).
"""

from pathlib import Path

import tyro

from seqrl.algorithms import ilql, train
from seqrl.data.dialogues import write_dialogues
from seqrl.language.play import play
from seqrl.language.scripted import scripted_dialogues
from seqrl.statistics import mean_and_half_width
from seqrl.text import make_task


def main(
    steps: int = 1_500, games: int = 2_000, played: int = 200, run_dir: str = "runs/08_wordle"
) -> dict[str, float]:
    """Clone and learn for `steps` updates each; gives the mean return of a game, −1 a guess that was not right."""
    task = make_task("wordle", num_words=8)
    log = Path(run_dir) / "log.jsonl"
    log.parent.mkdir(parents=True)
    write_dialogues(log, scripted_dialogues(task, ["greedy:0.5", "random"], games))

    config = ilql.Config(
        dialogues=str(log),
        task="wordle",
        task_kwargs=("num_words=8",),
        hidden_size=64,
        num_steps=steps,
        batch_size=32,
        polyak=0.05,  # how fast target values follow
        learning_rate=3e-3,
        run_dir=f"{run_dir}/ilql",
    )
    agent = train(config)  # clones first, into run_dir/ilql_policy, since no policy is named

    returns = {}
    # The same weights speak in both: what was cloned, and what was cloned plus β times the values.
    for name, voice in (("cloned", agent.cloned().voice()), ("steered", agent.voice())):
        talks = play(task, voice, played, seed=10_000)
        returns[name], half_width = mean_and_half_width([talk.total for talk in talks])
        print(f"{name:>8}: {returns[name]:.2f} ± {half_width:.2f}; such as {talks[0].dialogue.texts[1:6:2]}")
    return returns


if __name__ == "__main__":
    tyro.cli(main)
