"""What tests of the pages' blocks know besides the pages: quick settings, what is typed, what is taken as given."""

import json
import shutil
from abc import ABC
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

RUN = "--num-steps 64 --num-envs 4 --rollout-length 8 --hidden-size 8 --num-minibatches 1 --num-epochs 1"
REPLAYED = "--num-steps 96 --num-envs 4 --hidden-size 8 --learning-starts 64 --batch-size 2 --length 4 --overlap 2"
REPLAYED += " --burn-in 2 --rollout-length 4 --replay-ratio 1 --replay-capacity 1000"
LOGGED = "--num-steps 2 --hidden-size 8 --num-layers 1 --batch-size 4 --context-length 5"
SPOKEN = "--num-steps 2 --hidden-size 8 --batch-size 4 --max-tokens 6"
JUDGED = "--num-steps 2 --batch-size 4"
TUNED = "--num-steps 1 --num-conversations 8 --group-size 4 --batch-size 4 --max-tokens 6"

QUICK = {
    "train masked_cartpole": RUN,
    "train ppo": RUN,
    "train ppo --env Acrobot-v1": RUN + " --env-kwargs max_episode_steps=20",
    "train tmaze": RUN,
    "train rl2_bandit": RUN + " --rollout-length 11",
    "train a2c:Config": "--num-steps 64 --num-envs 4 --rollout-length 8 --hidden-size 8",
    "train --resume runs/a2c": "--num-steps 128",
    "train impala": "--num-steps 256 --num-envs 4 --rollout-length 8 --hidden-size 8",
    "train r2d2": REPLAYED,
    "train recurrent_sac": REPLAYED,
    "train decision_transformer": LOGGED,
    "train algorithm_distillation": LOGGED,
    "train bc": SPOKEN,
    "train ilql": SPOKEN,
    "train ilql --task text_maze": SPOKEN + " --task-kwargs max_turns=2",
    "train ilql --task twenty_questions": SPOKEN + " --task-kwargs max_turns=2",
    "train chai": SPOKEN,
    "train dpo": JUDGED,
    "train kto": JUDGED,
    "train reward_model": JUDGED,
    "train rloo": TUNED,
    "train grpo": TUNED,
    "train rlhf_ppo": TUNED,
    "collect runs/cloned --task": "--num-episodes 6 --task-kwargs max_turns=2",
    "compare datasets": f"{LOGGED} --num-seeds 1 --num-episodes 2 --target-episodes 2 --value-updates 2",
    "compare": f"--num-seeds 1 --num-episodes 2 --workers 1 {RUN}",
    "evaluate": "--num-episodes 2",
    "evaluate runs/judge": "",
    "calibrate": "--num-targets 3 --num-episodes 2",
    "collect": "--num-episodes 6",
    "adapt": "--num-trials 2",
    "frontier": "--num-dialogues 2 --betas 0,1",
    "ship": "--no-fit --num-resamples 100",
    "inspect": "--max-steps 20",
    "inspect runs/steered": "--num-episodes 1",
    "label": "--num-questions 8",
    "label --agreement": "",
}
"""Flags that are appended to a command so that it takes a second or less: those of the longest beginning that fits."""

SETTINGS = {
    "num_steps": 32,
    "num_envs": 4,
    "rollout_length": 8,
    "hidden_size": 8,
    "num_minibatches": 1,
    "num_epochs": 1,
}
"""The same for `seqrl.train` in Python."""

TYPED = {"chat": "I am thinking of something.\n/quit\n", "label": "1\n2\n1\n2\n1\n2\n1\n2\n"}
"""What a person types to a command that asks."""

STATUSES = {"audit": (0, 1), "ship": (1,)}
"""Exit statuses besides 0: a tiny log is seldom fit to learn from, an untrained speaker never ships."""

NEEDS = {
    "README.md": ["logs/talks.jsonl", "prefs.jsonl", "RUN=runs/cloned"],
    "chai.md": [],
    "chat.md": ["runs/questions", "RUN=runs/questions", "words.txt"],
    "decision_transformer.md": ["runs/cartpole"],
    "dialogues.md": ["LOG.jsonl=chats.jsonl"],
    "export.md": ["runs/cartpole", "datasets/CartPole-v1"],
    "language.md": ["chats.jsonl"],
    "preference_algorithms.md": ["logs/talks.jsonl", "logs/others.jsonl", "prefs.jsonl", "thumbs.jsonl"],
    "preferences.md": ["logs/talks.jsonl", "prefs.jsonl", "others.jsonl"],
    "report.md": ["runs/tmaze", "RUN=runs/tmaze", "RUNS/one=runs/tmaze", "COMPARISON"],
    "rewards.md": ["LOG.jsonl=logs/deals.jsonl", "WORDS.txt=words.txt"],
    "shipping.md": ["runs/cloned=runs/walker", "runs/ilql=runs/maze"],
    "rlhf.md": ["logs/talks.jsonl", "runs/judge", "runs/negotiator", "RUN=runs/negotiator"],
}
"""What a page takes as given, by name, or NAME=WHAT where the page has a placeholder."""

LABEL = "seqrl label runs/cloned --prompts logs/talks.jsonl --simulate length"
GIVEN = {
    "runs/cartpole": ["seqrl train masked_cartpole --run-dir runs/cartpole"],
    "runs/tmaze": ["seqrl train tmaze --run-dir runs/tmaze"],
    "datasets/CartPole-v1": ["seqrl collect random --env CartPole-v1"],
    "COMPARISON": ["seqrl compare CartPole-v1 --hide 1,3 --memories none,gru --run-dir COMPARISON"],
    "runs/cloned": ["logs/talks.jsonl", "seqrl train bc --dialogues logs/talks.jsonl --run-dir runs/cloned"],
    "prefs.jsonl": ["runs/cloned", f"{LABEL} --output prefs.jsonl --labeller bo"],
    "others.jsonl": ["runs/cloned", f"{LABEL} --output others.jsonl --seed 1"],
    "runs/judge": [
        "prefs.jsonl",
        "seqrl train reward_model --preferences prefs.jsonl --policy runs/cloned --run-dir runs/judge",
    ],
    "logs/deals.jsonl": ["seqrl collect good rude --task negotiation --output logs/deals.jsonl"],
    "runs/negotiator": [
        "logs/deals.jsonl",
        "seqrl train bc --task negotiation --dialogues logs/deals.jsonl --run-dir runs/negotiator",
    ],
    "logs/maze.jsonl": ["seqrl collect random optimal --task text_maze --output logs/maze.jsonl"],
    "runs/walker": [
        "logs/maze.jsonl",
        "seqrl train bc --task text_maze --dialogues logs/maze.jsonl --run-dir runs/walker",
    ],
    "runs/maze": [
        "runs/walker",
        "seqrl train ilql --task text_maze --dialogues logs/maze.jsonl --policy runs/walker --run-dir runs/maze",
    ],
    "runs/questions": [
        "seqrl collect random optimal --task twenty_questions --output logs/questions.jsonl",
        "seqrl train ilql --task twenty_questions --dialogues logs/questions.jsonl --run-dir runs/questions",
    ],
}
"""How each is made: of others, by commands, which are those of a page; else it is written by `WRITTEN`."""

TALKS = [
    ["Is the lamp still there?", "Yes. 40 and it is yours.", "35?", "Deal."],
    ["Hello, is it any good?", "It is, thank you for asking!", "I take it.", "Great, see you on Sunday."],
    ["Does it work?", "No.", "That is a pity.", "Sorry, it is broken."],
]


def talks(number: int = 12, **of_the_agent: float) -> str:
    """A log of dialogues as docs/dialogues.md has it, with what each turn of the agent has besides."""
    lines = []
    for k in range(number):
        first, *rest = TALKS[k % len(TALKS)]
        texts = [f"{first} I am number {k}.", *rest]
        turns = [{"speaker": ("customer", "shop")[i % 2], "text": text} for i, text in enumerate(texts)]
        turns = [turn | of_the_agent if turn["speaker"] == "shop" else turn for turn in turns]
        lines.append(json.dumps({"id": f"chat-{k}", "agent": "shop", "turns": turns}) + "\n")
    return "".join(lines)


def thumbs() -> str:
    """Thumbs as docs/preference_algorithms.md has them."""
    pairs = [(talk[0], talk[1], good) for talk in TALKS for good in (True, False)]
    rows = [{"prompt": prompt, "completion": said, "label": good} for prompt, said, good in pairs * 4]
    return "".join(json.dumps(row) + "\n" for row in rows)


WRITTEN: dict[str, Callable[[], str]] = {
    "logs/talks.jsonl": talks,
    "logs/others.jsonl": talks,
    "chats.jsonl": lambda: talks(60, reward=1.0, propensity=0.5),
    "thumbs.jsonl": thumbs,
    "words.txt": lambda: "horse\nfool*\n",
}
"""What a user has before anything else."""


def add_given(name: str, folder: Path, shared: Path, run: Callable[[str], None], enter: Callable[[Path], None]) -> None:
    """Put what a page takes as given, NAME or NAME=WHAT, into its folder; made in `shared`, if it is not there yet."""
    name, _, what = name.partition("=")
    what = what or name
    enter(shared)
    make(what, shared, run)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    copy = shutil.copytree if (shared / what).is_dir() else shutil.copy
    for path in [what, *(f"{what}_policy" for _ in [0] if (shared / f"{what}_policy").exists())]:
        copy(shared / path, folder / path.replace(what, name))


def make(what: str, shared: Path, run: Callable[[str], None]) -> None:
    if (shared / what).exists():
        return
    if what in WRITTEN:
        (shared / what).parent.mkdir(parents=True, exist_ok=True)
        (shared / what).write_text(WRITTEN[what]())
    for step in GIVEN.get(what, []):
        if step.startswith("seqrl "):
            run(step)
        else:
            make(step, shared, run)


NAMES: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": lambda: {"batch_size": 2, "x": torch.zeros(3, 2, 8), "is_first": torch.zeros(3, 2, dtype=torch.bool)},
    "design.md": lambda: {"nn": torch.nn, "ABC": ABC, "State": Any, "Tensor": torch.Tensor},
    "export.md": lambda: {
        "observation": np.zeros(2, np.float32),
        "episode": [{"observation": [0.01 * k, 0.0]} for k in range(3)],
    },
}
"""What a page's Python takes from its reader's program."""
