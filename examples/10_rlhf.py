"""RLHF, step by step: clone a speaker, ask which of two answers is better, learn a reward from that, follow it.

The labeller is simulated, and has a taste that it tells nobody: the fewer words, the better. PPO follows what the
reward model makes of its choices, and is held near the clone by their KL, so that answers stay language.
"""

from pathlib import Path

import tyro

from seqrl.algorithms import bc, reward_model, rlhf, train
from seqrl.data.dialogues import read_dialogues, write_dialogues
from seqrl.language.generation import DRAWN
from seqrl.language.labellers import SimulatedLabeller
from seqrl.language.play import play
from seqrl.language.prompted import Prompted, prompts_of
from seqrl.language.rewards import length
from seqrl.language.scripted import scripted_dialogues
from seqrl.people.labelling import Questions, Session
from seqrl.text import Negotiation

LONGEST = 30  # tokens of an answer


def main(
    steps: int = 60, dialogues: int = 400, labels: int = 400, conversations: int = 64, run_dir: str = "runs/10_rlhf"
) -> dict[str, float]:
    """Fine-tune for `steps` rollouts, after ten times as many updates of cloning; gives the mean words of an answer."""
    log, clone, judge, choices = (f"{run_dir}/{name}" for name in ("log.jsonl", "clone", "judge", "choices.jsonl"))
    Path(run_dir).mkdir(parents=True)
    write_dialogues(log, scripted_dialogues(Negotiation(), ["good", "bad"], dialogues))
    learning = {"hidden_size": 64, "learning_rate": 5e-3, "batch_size": 16}
    policy = train(bc.Config(dialogues=log, task="negotiation", num_steps=10 * steps, run_dir=clone, **learning))

    # Questions: two answers to what was said before a turn of the log. `seqrl label` asks people the same.
    answering = Prompted(prompts_of(read_dialogues(log)), policy.tokenizer)
    asked = {"name": "talks", "tokenizer": policy.tokenizer, "sampling": DRAWN, "max_tokens": LONGEST}
    with Session(choices, Questions(answering, policy.voice(), labels, **asked), "ada") as session:
        session.simulate(SimulatedLabeller(temperature=2.0), lambda answer: [-words for words in length(answer)])

    train(reward_model.Config(preferences=choices, policy=clone, num_steps=5 * steps, batch_size=16, run_dir=judge))
    near = {"kl_budget": 3.0, "learning_rate": 1e-3, "num_conversations": conversations, "max_tokens": LONGEST}
    following = rlhf.Config(
        policy=clone, prompts=log, reward=(judge,), num_steps=steps, run_dir=f"{run_dir}/tuned", **near
    )
    tuned = train(following)

    words = {}
    for name, speaker in (("clone", policy), ("tuned", tuned)):
        talks = play(answering, speaker.voice(), 5 * conversations, seed=10_000, max_tokens=LONGEST)
        words[name] = sum(len(talk.dialogue.texts[1].split()) for talk in talks) / len(talks)
        print(f"{name}: {words[name]:.1f} words an answer, such as {talks[0].dialogue.texts[1]!r}")
    return words


if __name__ == "__main__":
    tyro.cli(main)
