"""What the agents of a comparison have played, as a log; and what methods that only read it make of it.

The log is of the best run, a middling one and the weakest, by their evaluations, and of random actions, so that what
was good and what was not stand side by side, as in logs of people or of controllers that improved.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.algorithms import load
from seqrl.collect import collect, random_policy, watched
from seqrl.comparison import offline as compare_offline
from seqrl.comparison.config import LOG, OFFLINE, Config
from seqrl.comparison.report_offline import OfflineComparison
from seqrl.comparison.run_pool import EVALUATION
from seqrl.config import make_environment
from seqrl.data import EpisodeDataset, EpisodeWriter
from seqrl.data.episode_files import INDEX
from seqrl.evaluate import equal_shares
from seqrl.run_folder import read_json
from seqrl.seeds import derived_seed

RANDOM = "random"
"""What plays random actions, among those who play the log."""


def compare_methods(config: Config, runs: Sequence[Path]) -> tuple[OfflineComparison, list[str]]:
    """The comparison of the methods on what `runs`, which are evaluated, have played; and its verdict."""
    dataset = config.folder / LOG
    if not (dataset / INDEX).is_file():
        collect_log(config, runs, dataset)
    methods = config.methods(dataset)
    result, verdict = compare_offline.compare(methods, resumed=(config.folder / OFFLINE / "config.json").is_file())
    return result, [*verdict, *_played_before(runs, dataset)]


def _played_before(runs: Sequence[Path], dataset: Path) -> list[str]:
    """A sentence where runs were added since the log was played, and others would play it now."""
    policies = [policy["policy"] for policy in EpisodeDataset.open(dataset).about.get("policies", ())]
    if not policies or policies == _names(players(runs)):
        return []
    return [
        f"Log: played by {', '.join(policies)}, before runs were added that would play it now; every method learnt "
        f"from it. For one that all runs may play, remove the folders {LOG} and {OFFLINE}, and resume."
    ]


def _names(playing: Sequence[Path]) -> list[str]:
    """Who plays the log: runs' folders, and random actions."""
    return [*(run.name for run in playing), RANDOM]


def players(runs: Sequence[Path]) -> list[Path]:
    """The best of `runs`, a middling one, and the weakest, by the mean returns of their evaluations; of few, fewer."""
    means = {run: float(np.mean(read_json(run, EVALUATION)["returns"])) for run in runs}
    ordered = sorted(runs, key=lambda run: -means[run])
    return list(dict.fromkeys((ordered[0], ordered[len(ordered) // 2], ordered[-1])))


def collect_log(config: Config, runs: Sequence[Path], dataset: Path) -> None:
    """Write what the players and random actions play, drawn from their policies, as episodes."""
    playing = players(runs)
    names = _names(playing)
    shares = equal_shares(config.log_episodes, len(names)).tolist()
    problem: dict[str, Any] = {
        name: getattr(config.settings, name) for name in ("env", "env_kwargs", "hide", "flicker", "noise")
    }
    about = problem | {
        "source": f"what was played in {config.folder.name}",
        "policies": [{"policy": name, "num_episodes": share} for name, share in zip(names, shares, strict=True)],
    }
    with contextlib.closing(make_environment(config.settings, min(50, min(shares)))) as environment:
        spaces = environment.single_observation_space, environment.single_action_space
        with EpisodeWriter(dataset, *spaces, about=about) as writer:
            for k, (name, share) in enumerate(zip(names, shares, strict=True)):
                policy = random_policy(spaces[1]) if name == RANDOM else load(playing[k])
                seed = derived_seed(config.settings.seed, k) >> 2
                for episode in watched(collect(policy, environment, share, seed), share, f"log of {name}"):
                    writer.add(episode)
