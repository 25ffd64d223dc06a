"""What can be done with a run of what speaks that has no task to play."""

from pathlib import Path
from typing import Any

from seqrl.algorithms import chai, ilql
from seqrl.errors import quoted
from seqrl.language_runs.config import LanguageConfig
from seqrl.language_runs.rewards import is_reward_run

NO_TASK = "was trained without a task to play"


def plays_nothing(run: str | Path, config: Any) -> bool:
    """Whether `seqrl evaluate RUN` alone has nothing to play."""
    is_speaker = isinstance(config, LanguageConfig) and not is_reward_run(run)
    return is_speaker and not config.task and not getattr(config, "prompts", "")


def ways(run: str | Path, config: Any) -> str:
    """The commands that judge such a run, the one that says most first."""
    name = quoted(run)
    first = f"seqrl evaluate {name} --prompts HELD_OUT"
    if isinstance(config, ilql.Config) and config.level == "token":
        first = f"seqrl ship {name} --dialogues HELD_OUT"  # what values are for, they do not foretell what was said
    elif isinstance(config, ilql.Config | chai.Config):  # what is foretold is what they choose among
        first = f"seqrl inspect {name} --prompts HELD_OUT"
    return f"{first}, seqrl chat {name} or seqrl report {name}"
