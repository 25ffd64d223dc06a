"""What runs share that learn from judged answers in several processes at once."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from seqrl.config import require, require_at_least_one
from seqrl.distributed import ALONE, Group, spawn

C = TypeVar("C")


def check_learners(config: Any) -> None:
    """Raise UserError where the learners of `config` cannot each have a part of every batch, or a GPU of its own."""
    require_at_least_one(config, "num_learners")
    require(
        config.num_learners <= config.batch_size,
        f"--num-learners {config.num_learners} have less than one each of --batch-size {config.batch_size}: "
        "enlarge the batch",
    )
    require(
        config.num_learners == 1 or not config.device.startswith("cuda:"),
        f"--device {config.device} with several learners: use cuda, and each has a GPU of its own",
    )


def learn_together(work: Callable[[Group, C, bool], Any], config: C, resume: bool) -> Any:
    """What work(group, config, resume) gives where one learns alone; None where several do, who end with the run."""
    number, device = config.num_learners, config.device  # type: ignore[attr-defined]
    if number == 1:
        return work(ALONE, config, resume)
    spawn(work, number, config, resume, cuda=device == "cuda")
    return None


def of_one(group: Group, config: C) -> C:
    """The settings of one of several learners, who share the cores, and have a GPU each."""
    if group.size == 1:
        return config
    torch.set_num_threads(max(1, torch.get_num_threads() // group.size))
    device = config.device  # type: ignore[attr-defined]
    return replace(config, device=f"cuda:{group.rank}" if device == "cuda" else device)  # type: ignore[type-var]
