"""What runs of speakers share that learn in several processes at once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seqrl.config import require, require_at_least_one
from seqrl.distributed import ALONE, Group, spawn
from seqrl.distributed.learners import Follower
from seqrl.distributed.sharding import shard
from seqrl.language.model import LanguageModel
from seqrl.language_runs.config import LanguageConfig
from seqrl.language_runs.run import open_run
from seqrl.run import Run
from seqrl.text import Tokenizer

C = TypeVar("C")


def check_learners(config: Any) -> None:
    """Raise UserError where the learners of `config` cannot each have a part of every batch, or a GPU of its own."""
    require_at_least_one(config, "num_learners")
    require(
        config.num_learners > 1 or not getattr(config, "shard", False),
        "--shard with --num-learners 1: there is nobody to share weights with: give several learners",
    )
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


def open_shared(group: Group, config: LanguageConfig, tokenizer: Tokenizer, resume: bool) -> Run:
    """`open_run` by the first learner; the others read the folder, and write nothing.

    What is written down is the device that was asked for, cuda, and not the first learner's: the run is resumed by all.
    """
    if group.rank:
        return Follower(Path(config.run_dir))
    several = group.size > 1 and config.device.startswith("cuda")
    return open_run(replace(config, device="cuda") if several else config, tokenizer, resume)


def share_weights(root: nn.Module, model: LanguageModel, config: LanguageConfig, methods: Sequence[str] = ()) -> None:
    """Leave this learner a part of each weight of `root`, which has `model` in it, on its device, if `config` says so.

    Raises UserError for a model that is no stack of blocks.
    """
    if not config.shard:  # type: ignore[attr-defined]
        return
    blocks = model.blocks()
    require(
        bool(blocks),
        f"--shard with --model {config.model}: only transformers have blocks to put together: leave it out",
    )
    shard(root, blocks, config.device, methods)


def before_sharing(config: C) -> C:
    """The settings of a model as it is made: a learner that keeps a part of it has the whole on the CPU, at first."""
    return replace(config, device="cpu") if config.shard else config  # type: ignore[attr-defined, type-var]


def of_all(group: Group, numbers: Tensor) -> Tensor:
    """The rows of all learners, the first one's first."""
    if group.size == 1:
        return numbers
    return torch.cat([numbers.new_tensor(part) for part in group.gather(numbers.tolist())])
