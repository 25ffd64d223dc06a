"""The settings of fine-tuning by rewards (`seqrl.algorithms.rlhf`)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from seqrl.config import require, require_above_zero, require_at_least_one, require_not_negative
from seqrl.engine_config import ActorsConfig, check_engine
from seqrl.language.scoring import weights_of
from seqrl.language_runs.config import LanguageConfig, check_shared
from seqrl.language_runs.kl_control import Control
from seqrl.language_runs.learners import check_learners

Method = Literal["ppo", "rloo", "grpo"]
Kl = Literal["exact", "k1", "k3"]
KlIn = Literal["reward", "loss"]
Watch = Literal["off", "warn", "stop"]
SpeaksBy = Literal["own", "vllm"]
Correction = Literal["importance", "none"]
NOT_OF_PROMPTS = ("task", "logged", "thumbs", "clicks", "sentiment", "points", "agreement", "satisfaction")
"""Rewards that an answer to a prompt cannot have: nobody replies to it, and no task pays for it or comes out."""
SENSIBLE = {("exact", "reward"), ("exact", "loss"), ("k1", "reward"), ("k3", "loss")}


@dataclass(frozen=True, kw_only=True)
class Config(ActorsConfig, LanguageConfig):
    """Fine-tuning by rewards. The model is the policy's: --model and its sizes are not read. The defaults serve small
    models; the recipes rlhf_ppo, rloo and grpo hold what differs by method."""

    policy: str = ""
    """Run of bc whose policy is fine-tuned; it is also what the KL is measured from."""
    method: Method = "ppo"
    """ppo, rloo or grpo."""
    prompts: str = ""
    """A log of dialogues: what was said before each turn of its agent is a prompt to answer, in place of a task."""
    reward: tuple[str, ...] = ("task",)
    """What is earned, NAME or NAME=WEIGHT each: task, a reward by name, such as own_sentiment=1 length=-0.01, or the
    run folder of a reward model. With --prompts one that judges the answer itself: own_sentiment, length, a model."""
    gold: tuple[str, ...] = ()
    """Rewards that are not learnt from, named likewise: what is really meant, for the log and the monitor."""
    unfinished_penalty: float = 1.0
    """What an utterance that is cut off loses."""
    normalize_rewards: bool = False
    """Whether a rollout's rewards are divided by the standard deviation of its conversations' returns."""

    num_actors: int = 0
    """Actors that speak while the learner learns, a whole rollout each, by --engine; 0: the learner speaks itself."""
    generator: SpeaksBy = "own"
    """What speaks: own, or vllm, with a copy of the weights, for a gpt2 or a folder's model (pip install
    'seqrl[vllm]')."""
    correction: Correction = "importance"
    """How learning allows for the age of the policy that spoke: importance (V-trace for ppo, a truncated ratio of each
    token for rloo and grpo) or none."""
    clip_rho: float = 1.0
    """ρ̄: importance weights of temporal differences and of the policy's gradient are clipped to it."""
    clip_c: float = 1.0
    """c̄: importance weights of V-trace's traces are clipped to it."""

    num_learners: int = 1
    """Processes that learn together, each of which says and learns from its share of every rollout; on cuda, each on
    its own GPU."""
    shard: bool = False
    """Whether several learners keep a part of each weight only, and put a transformer's blocks together while they are
    computed (FSDP); to speak, each has all of the policy for a while."""
    num_conversations: int = 64
    """Conversations of a rollout, of which each update learns."""
    group_size: int = 8
    """Conversations of a group, for rloo and grpo."""
    temperature: float = 1.0
    """Tokens are drawn from softmax(logits / temperature): that is the policy which is trained."""
    num_steps: int = 200
    """Updates to train for, each on a rollout of its own."""
    num_epochs: int = 4
    """Passes over each rollout."""
    batch_size: int = 16
    """Conversations of a minibatch."""
    learning_rate: float = 3e-4
    """Adam's largest step size; it falls linearly to 0 at the last update."""
    warmup: int = 10
    """Updates in which it rises to that."""
    gamma: float = 1.0
    """Discount of one of the agent's tokens, for ppo."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    clip: float = 0.2
    """ε of the clipped surrogate."""

    kl: Kl = "exact"
    """How the KL from the reference is measured: exact, k1 or k3."""
    kl_in: KlIn = "reward"
    """Where it counts: reward, or loss alone."""
    kl_weight: float = 0.05
    """c, its coefficient; with a budget or an adaptive one, at first."""
    kl_control: Control = "fixed"
    """How c goes on: fixed, or adaptive towards --kl-target."""
    kl_target: float = 6.0
    """Nats a conversation that an adaptive coefficient aims at."""
    kl_horizon: float = 10_000.0
    """Conversations in which it changes by a fifth at most."""
    kl_budget: float = 0.0
    """Nats a conversation that the policy may be from the reference: an update that leads beyond is taken back, and c
    rises. 0 for no budget."""
    monitor: Watch = "warn"
    """What is done when answers look as if the reward was being hacked: off, warn, or stop training."""
    precision: str = "float32"
    """float32, or bfloat16 for the models' matrix products in training; speaking is in float32."""
    log_every: int = 1
    """Updates between two lines of the log."""
    checkpoint_every: int = 20
    """Updates between checkpoints."""


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    check_shared(replace(config, lora_rank=0), needs_log=False)
    choices = {
        "method": Method, "kl": Kl, "kl_in": KlIn, "kl_control": Control, "monitor": Watch, "correction": Correction,
        "generator": SpeaksBy,
    }  # fmt: skip
    for name, kind in choices.items():
        value, known = getattr(config, name), get_args(kind)
        require(value in known, f"--{name.replace('_', '-')} '{value}': choose one of {', '.join(known)}")
    require(config.precision in ("float32", "bfloat16"), f"--precision '{config.precision}': float32 or bfloat16")
    require_at_least_one(config, "num_conversations", "num_epochs")
    require_above_zero(config, "temperature", "clip", "kl_target", "kl_horizon", "clip_rho", "clip_c")
    require_not_negative(config, "kl_weight", "unfinished_penalty", "kl_budget")
    require(0 < config.gamma <= 1, f"--gamma is {config.gamma}: it must be above 0, and at most 1")
    require(0 <= config.gae_lambda <= 1, f"--gae-lambda is {config.gae_lambda}: it must be from 0 to 1")
    require(
        (config.kl, config.kl_in) in SENSIBLE,
        f"--kl {config.kl} with --kl-in {config.kl_in} has not the gradient of a KL: "
        "choose exact for either, k1 for reward, k3 for loss",
    )
    if config.method != "ppo":
        require(
            config.group_size >= 2 and config.num_conversations % config.group_size == 0,
            f"--num-conversations {config.num_conversations} does not part into groups of --group-size "
            f"{config.group_size}: choose 2 or more, and a divisor",
        )
    require(not (config.task and config.prompts), "give either a --task to speak in or a log of --prompts, not both")
    require(bool(config.policy), "no policy to fine-tune: name a run of bc with --policy (seqrl train bc)")
    check_actors(config)
    check_shares(config)
    weights_of(config.reward)
    weights_of(config.gold or ("task",), "--gold")
    if config.prompts:
        check_prompted(config.reward)
        check_prompted(config.gold, "--gold")


def check_prompted(rewards: Sequence[str], flag: str = "--reward") -> None:
    """Raise UserError where `rewards` name one that no answer to a prompt can have."""
    for name in weights_of(rewards, flag) if rewards else ():
        require(
            name not in NOT_OF_PROMPTS or (name != "task" and Path(name).is_dir()),
            f"{flag} {name} says nothing of an answer to a prompt, which nobody replies to or pays for (--prompts): "
            f"name what judges the answer itself, such as {flag} own_sentiment, length=-0.01 or a reward model's run",
        )


def check_actors(config: Config) -> None:
    """Raise UserError for settings of actors that make no sense, or that a budget of KL cannot have."""
    check_engine(config if config.num_actors else replace(config, num_actors=1))
    lags = config.engine != "sync" or config.forced_lag > 0
    require(
        config.num_actors > 0 or not lags,
        f"--engine {config.engine} --forced-lag {config.forced_lag} without actors: give --num-actors",
    )
    require(
        config.kl_budget == 0 or not lags,
        f"--kl-budget {config.kl_budget} with --engine {config.engine} --forced-lag {config.forced_lag}: what older "
        "policies said does not tell how far the newest has gone: use --kl-control adaptive, or no lag",
    )


def check_shares(config: Config) -> None:
    """Raise UserError where several learners could not have equal shares of a rollout, of whole groups, or would have
    actors besides."""
    check_learners(config)
    number = config.num_learners
    if number == 1:
        return
    require(
        config.num_actors == 0,
        f"--num-actors {config.num_actors} with --num-learners {number}: several learners speak themselves: "
        "leave out one of the two",
    )
    require(
        config.generator == "own",
        f"--generator {config.generator} with --num-learners {number}: vLLM does not begin among learners: "
        "leave out one of the two",
    )
    size = 1 if config.method == "ppo" else config.group_size
    require(
        config.num_conversations % (number * size) == 0 and config.batch_size % number == 0,
        f"--num-learners {number} cannot share --num-conversations {config.num_conversations} and --batch-size "
        f"{config.batch_size} equally: choose multiples of {number * size} (whole groups) and {number}",
    )
