"""Bargaining over water, food and firewood: a language model proposes what to say, a critic chooses (CHAI).

Both learn from a log of scripted negotiators, good, mediocre and bad; nobody is talked to until the end. The hidden
state of a negotiation, what each side needs, is drawn by its number: both speakers meet the same ones.
"""

from pathlib import Path

import tyro

from seqrl.algorithms import chai, train
from seqrl.data.dialogues import write_dialogues
from seqrl.language.play import play
from seqrl.language.scripted import scripted_dialogues
from seqrl.statistics import mean_and_half_width
from seqrl.text import Negotiation


def main(
    steps: int = 600, dialogues: int = 1_500, played: int = 200, run_dir: str = "runs/09_negotiation"
) -> dict[str, float]:
    """Clone and learn for `steps` updates each; gives the mean points of a negotiation by who spoke."""
    task = Negotiation()  # the counterpart's manner is hidden, and one of six
    log = Path(run_dir) / "log.jsonl"
    log.parent.mkdir(parents=True)
    write_dialogues(log, scripted_dialogues(task, ["good", "mediocre", "bad"], dialogues))

    config = chai.Config(
        dialogues=str(log),
        task="negotiation",
        critic="cql",
        hidden_size=64,
        num_steps=steps,
        batch_size=16,
        learning_rate=3e-3,
        max_tokens=48,
        run_dir=f"{run_dir}/chai",
    )
    agent = train(config)  # clones the log first, into run_dir/chai_policy, since no policy is named

    points = {}
    for name, voice in (("language model", agent.cloned().voice()), ("CHAI", agent.voice())):
        talks = play(task, voice, played, seed=10_000, max_tokens=48)
        points[name], half_width = mean_and_half_width([talk.total for talk in talks])
        print(f"{name:>14}: {points[name]:.1f} ± {half_width:.1f} points")
    for agent_turn, text in zip([False, True] * 3, talks[0].dialogue.texts[:6], strict=False):
        print("agent:" if agent_turn else "other:", text)
    return points


if __name__ == "__main__":
    tyro.cli(main)
