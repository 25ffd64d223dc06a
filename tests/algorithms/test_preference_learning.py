"""Slow: choices and thumbs by a hidden reward raise that reward, on letters."""

import random

import pytest
import torch

from seqrl.algorithms import bc, dpo, kto, train
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.preferences import Preference, Thumb, write_preferences, write_thumbs
from seqrl.language.labellers import SimulatedLabeller, uniform
from seqrl.language.play import play
from seqrl.language.prompted import Prompted, prompts_of


def turn(speaker, text):
    return (Turn(speaker=speaker, text=text),)


def worth(text):
    return text.count("a") - text.count("b")


def answers(agent, task, count, seed):
    played = play(task, agent.voice(), count, tokenizer=agent.tokenizer, seed=seed, max_tokens=12, group_size=2)
    return [(each.dialogue.texts[0], each.dialogue.texts[1]) for each in played]


def write_labels(folder, said, seed):
    """Choices between two answers each, and thumbs for each alone, both with noise."""
    labeller = SimulatedLabeller(seed=seed)
    pairs, thumbs = [], []
    for k, ((prompt, first), (_, second)) in enumerate(zip(said[::2], said[1::2], strict=True)):
        asked = turn("user", prompt)
        better, worse = (
            (first, second) if labeller.prefers_first(str(k), worth(first), worth(second)) else (second, first)
        )
        pairs.append(Preference(
            id=str(k), prompt=asked, chosen=turn("assistant", better), rejected=turn("assistant", worse)
        ))  # fmt: skip
        for number, text in enumerate((first, second)):
            up = uniform(seed, k, number) < labeller.probability(worth(text), 0.0)
            thumbs.append(Thumb(id=f"{k}-{number}", prompt=asked, completion=turn("assistant", text), label=up))
    write_preferences(folder / "pairs.jsonl", pairs)
    write_thumbs(folder / "thumbs.jsonl", thumbs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_by_a_hidden_reward_raise_it(tmp_path, seed):
    """Among letters that are as likely as each other, a's less b's go from 0 to above 1."""
    torch.set_num_threads(1)
    letters = random.Random(seed)
    log = [
        Dialogue(
            id=str(k), agent="assistant",
            turns=turn("user", letters.choice("xy")) + turn("assistant", "".join(letters.choices("ab", k=1 + k % 6))),
        )
        for k in range(400)
    ]  # fmt: skip
    write_dialogues(tmp_path / "log.jsonl", log)
    shared = {"batch_size": 32, "warmup": 10, "max_tokens": 12, "seed": seed, "num_steps": 150}
    cloned = train(
        bc.Config(
            dialogues=str(tmp_path / "log.jsonl"), run_dir=str(tmp_path / "bc"), hidden_size=16, learning_rate=1e-2,
            **shared,
        )
    )  # fmt: skip
    task = Prompted(prompts_of(log), cloned.tokenizer)
    write_labels(tmp_path, answers(cloned, task, 800, seed), seed)
    shared |= {"policy": str(tmp_path / "bc"), "learning_rate": 3e-3}
    configs = {
        "cloned": None,
        "dpo": dpo.Config(preferences=str(tmp_path / "pairs.jsonl"), beta=0.5, run_dir=str(tmp_path / "dpo"), **shared),
        "kto": kto.Config(thumbs=str(tmp_path / "thumbs.jsonl"), beta=0.2, run_dir=str(tmp_path / "kto"), **shared),
    }
    reached = {}
    for name, config in configs.items():
        agent = train(config) if config else cloned
        reached[name] = sum(worth(text) for _, text in answers(agent, task, 600, 77)) / 600
    print(reached)
    assert abs(reached["cloned"]) < 0.4
    assert reached["dpo"] > 1.0
    assert reached["kto"] > 1.0
