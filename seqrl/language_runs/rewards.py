"""The run folder of a reward model: how it is told from others, and how it is read."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch

from seqrl.config import device
from seqrl.errors import UserError
from seqrl.language.model import LanguageModel
from seqrl.language.reward_model import RewardAgent, RewardEnsemble, RewardModel
from seqrl.language_runs.config import LanguageConfig, make_model
from seqrl.language_runs.run import read_tokenizer
from seqrl.run_folder import config_from_json, holds_part, load_weights, read_json
from seqrl.seeds import derived_seed
from seqrl.text import Tokenizer

TYPE = "reward_model"
"""What config.json says that ours is."""
REPORT = "held_out.json"


def is_reward_run(run: str | Path) -> bool:
    """Whether a folder is a reward model's run, of ours or of a copy of it."""
    return (Path(run) / "config.json").is_file() and _is_like_ours(run, read_json(Path(run), "config.json"))


def _is_like_ours(run: str | Path, settings: dict[str, Any]) -> bool:
    kind = str(settings.get("type"))
    return kind == TYPE or (":" in kind and "num_models" in settings and holds_part(run, "ensemble"))


def make_reward_agent(config: LanguageConfig, tokenizer: Tokenizer, num_models: int, policy: str = "") -> RewardAgent:
    """Untrained reward models, each of weights that depend on its number and the seed alone.

    They begin as the policy of the run folder `policy`, if it is given, and differ in their heads.
    """
    members = []
    trunk: LanguageModel | None = None
    if policy:
        trunk = make_model(config, tokenizer)
        load_weights(trunk, policy, "policy")
    for number in range(num_models):
        seed = derived_seed(config.seed, 8, number) >> 1
        model = copy.deepcopy(trunk) if trunk else make_model(dataclasses.replace(config, seed=seed), tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            members.append(RewardModel(model))
    return RewardAgent(tokenizer, RewardEnsemble(members)).to(device(config))


def load_reward_model(run: str | Path, device: str = "cpu") -> RewardAgent:
    """The reward models of a run folder, ready to score.

    Raises UserError where the folder is no run of reward_model, or its checkpoint is missing or damaged.
    """
    folder = Path(run)
    content: dict[str, Any] = read_json(folder, "config.json")
    if not _is_like_ours(folder, content):
        raise UserError(f"{run} is a run of {content.get('type')}: give one of reward_model (seqrl train reward_model)")
    known = {field.name for field in dataclasses.fields(LanguageConfig)}
    settings = {key: value for key, value in content.items() if key in known} | {"device": device}
    config = config_from_json(settings, LanguageConfig, folder / "config.json")
    number = content.get("num_models")
    if type(number) is not int or number < 1:
        raise UserError(
            f"{folder / 'config.json'} has num_models {number!r}, no number of models: restore it from a copy"
        )
    agent = make_reward_agent(config, read_tokenizer(folder), number)
    load_weights(agent, folder)
    return agent.eval().requires_grad_(False)
