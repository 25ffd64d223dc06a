"""Algorithm Distillation: what a learner did next, predicted from its own history across episodes.

    minimise −log π(a_t | o_s, a_{s−1}, r_{s−1}, episode_start_s; s = t − K + 1 … t)    over all rows of a window of K

A logged episode is one learning history: a trial of many inner episodes. A window spans several of them, so what
improves from one to the next can only be predicted by who learns from rewards inside the window; acting then improves
with all weights at rest. `label` "optimal_action" predicts the task's best action in place of the logged one: the
Decision-Pretrained Transformer, whose draws, like Thompson's, are from what may be optimal given the history.

Sources: Laskin et al. 2022 (Algorithm Distillation, arXiv 2210.14215); its form with an oracle of annealed noise,
Zisman et al. 2023 (arXiv 2312.12275); Lee et al. 2023 (Decision-Pretrained Transformer, arXiv 2306.14892). Where this
differs:

- A row is one token, with the action and the reward before it, as all agents here read them; any memory may stand in
  the transformer's place.
- Windows begin anywhere from K − 1 places before their history, so that every decision is learnt from equally often,
  and that short histories, with which acting begins, are seen. Their first row shows the action and reward before it.
- The Decision-Pretrained Transformer learns at every row of histories in their order, with the row's observation as
  the query; there, sets of transitions in any order and a query of its own.
- Adam with a warm-up and a linear decay to 0; no dropout, no label smoothing.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import torch
import tyro
from torch import Tensor, nn

from seqrl.acting import ActingModule
from seqrl.agent import Agent
from seqrl.config import device, parse_env_kwargs, require, require_at_least_one, require_not_negative
from seqrl.data import EpisodeDataset, Windows
from seqrl.data.histories import check_histories, exchanged, shuffled, strided
from seqrl.envs.trials import EPISODE_START, OPTIMAL_ACTION, unrevealed_space
from seqrl.memory import Memory, Reencoded, Transformer, make_memory
from seqrl.memory.base import State
from seqrl.nets import Encoder, PolicyHead
from seqrl.objectives import masked_mean
from seqrl.offline.config import OfflineConfig, check_shared, problem_of
from seqrl.offline.training import fit, split
from seqrl.run import Run
from seqrl.trajectory import AgentInput, to_device, tree_map

Label = Literal["action", "optimal_action"]
Context = Literal["reencode", "cache"]


@dataclass(frozen=True, kw_only=True)
class Config(OfflineConfig):
    """Algorithm Distillation, and the Decision-Pretrained Transformer. The defaults serve small problems."""

    label: Label = "action"
    """action, the logged one; or optimal_action, the task's best, from a log that was collected with reveal=true."""
    episode_stride: int = 1
    """Every so many inner episodes of a history one is kept: what is distilled then learns faster than its source."""
    shuffle_episodes: bool = False
    """Whether the inner episodes of each history are shuffled: an ablation, which shows the task but no learning."""
    exchange_episodes: bool = False
    """Whether inner episodes are dealt out anew among all histories: an ablation, which shows neither."""
    within_episode: bool = False
    """Whether the agent forgets at each inner episode's start, in training and acting: an ablation."""

    context_length: int = 100
    """Rows of a window, and rows that acting looks back."""
    context: Context = "reencode"
    """How acting reads them: reencode (afresh at each step, as in training) or cache (quicker; looks back further)."""
    hidden_size: int = 64
    """Width of the model."""
    num_layers: int = 2
    """Layers of the transformer."""
    num_heads: int = 4
    """Heads of its attention."""
    num_frames: int = 4
    """Observations that a frame stack holds, the current one included."""
    memory_horizon: int = 64
    """Steps that half of a GRU's or LSTM's units bridge from the start, by their gates' biases; 0 for none."""
    memory_kwargs: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Arguments of your own memory's class, such as state_size=16, or of linear_attention; values are JSON."""
    normalize_observations: bool = True
    """Whether vector observations are standardised by the log's statistics."""


class WithinEpisode(ActingModule):
    """An agent that forgets everything at each inner episode's start, as at a trial's, in training and acting."""

    def __init__(self, agent: Agent):
        super().__init__(agent.observation_space, agent.action_space)
        self.agent, self.reads_reward = agent, agent.reads_reward

    @property
    def heads(self) -> nn.ModuleDict:  # type: ignore[override]
        return self.agent.heads

    @property
    def encoder(self) -> Encoder:
        return self.agent.encoder

    def initial_state(self, batch_size: int) -> State:
        return self.agent.initial_state(batch_size)

    def unroll(self, inputs: AgentInput, state: State, going_on: Tensor | None = None) -> tuple[dict[str, Any], State]:
        is_first = inputs.is_first | (inputs.observation[EPISODE_START] == 1)
        if going_on is not None:
            going_on = going_on & ~is_first
        return self.agent.unroll(inputs._replace(is_first=is_first), state, going_on)


def loss(agent: Agent | WithinEpisode, windows: Windows, config: Config) -> tuple[Tensor, dict[str, Tensor]]:
    """−log π(label_t | window up to o_t), over the decisions of `windows`. The metrics are detached.

    Nothing of a row that is no decision has an influence, NaN included.
    """
    mask = windows.mask
    inputs, action = tree_map(
        lambda leaf: leaf.masked_fill(~mask.view(*mask.shape, *[1] * (leaf.ndim - 2)), 0),
        (windows.inputs, windows.action),
    )
    label = inputs.observation[OPTIMAL_ACTION] if config.label == "optimal_action" else action
    # Pads stand behind the rows that count: that nothing resets inside a window lets it be unrolled at once.
    begins = torch.zeros_like(mask).index_fill_(0, torch.tensor(0, device=mask.device), True)
    inputs = inputs._replace(is_first=begins)
    outputs, _ = agent.unroll(inputs, agent.initial_state(mask.shape[1]), windows.timestep > 0)
    policy = outputs["policy"]
    raw = policy.from_environment(label.reshape(*mask.shape, -1) if label.is_floating_point() else label)
    log_prob = policy.log_prob(raw)
    total = masked_mean(-log_prob, mask)
    metrics = {"loss": total.detach()}
    if not label.is_floating_point():
        right = policy.mode() == raw
        metrics["accuracy"] = masked_mean((right if right.ndim == 2 else right.all(-1)).float(), mask)
    return total, metrics


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    for name, kind in {"label": Label, "context": Context}.items():
        value, known = getattr(config, name), get_args(kind)
        require(value in known, f"--{name.replace('_', '-')} '{value}': choose one of {', '.join(known)}")
    check_shared(config)
    require_at_least_one(config, "hidden_size", "num_layers", "num_heads", "episode_stride", "num_frames")
    require_not_negative(config, "memory_horizon")
    require(
        config.memory != "transformer" or not config.memory_kwargs,
        f"--memory-kwargs {' '.join(config.memory_kwargs)}: the transformer is set by --num-layers, --num-heads and "
        "--context-length",
    )
    require(
        not (config.shuffle_episodes and config.exchange_episodes),
        "--shuffle-episodes and --exchange-episodes are two ablations, within a history and among all: choose one",
    )


def build(config: Config, observation_space: Any, action_space: Any) -> Agent | WithinEpisode:
    """The untrained agent. Weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        size = config.hidden_size
        agent = Agent(
            observation_space,
            action_space,
            Encoder(observation_space, size, normalize=config.normalize_observations),
            build_memory(config),
            {"policy": PolicyHead(size, action_space)},
            use_previous_action=True,
            use_previous_reward=True,
        )
    return (WithinEpisode(agent) if config.within_episode else agent).to(device(config))


def build_memory(config: Config) -> Memory:
    """The memory that `config` names, a transformer with a window of `context_length` rows; reencoded if it says so."""
    size = config.hidden_size
    if config.memory == "transformer":
        memory: Memory = Transformer(size, size, config.num_layers, config.num_heads, window=config.context_length)
    else:
        memory = make_memory(
            config.memory,
            size,
            size,
            num_frames=config.num_frames,
            memory_horizon=config.memory_horizon or None,
            kwargs=parse_env_kwargs(config.memory_kwargs, "--memory-kwargs"),
        )
    return Reencoded(memory, config.context_length) if config.context == "reencode" else memory


def train(config: Config, resume: bool = False) -> Agent | WithinEpisode:
    """Train on the histories in `config.dataset`, and return the agent. With `resume`, continue the run, bit for bit.

    Raises UserError for bad settings, a folder that holds no histories, labels that were not logged, an existing run
    folder, or a loss that is not finite.
    """
    check(config)
    require(bool(config.dataset), "no dataset given: name a folder of logged trials with --dataset (seqrl collect)")
    dataset = EpisodeDataset.open(config.dataset)
    check_histories(dataset)
    require(
        config.label == "action" or OPTIMAL_ACTION in dataset.observation,
        f"{dataset.folder} does not tell the optimal action (--label optimal_action): "
        "log it with seqrl collect --env-kwargs reveal=true",
    )
    config = problem_of(config, dataset)
    kwargs = tuple(pair for pair in config.env_kwargs if pair.partition("=")[0] != "reveal")
    config = replace(config, env_kwargs=kwargs)
    agent = build(config, unrevealed_space(dataset.observation_space), dataset.action_space)
    run = Run.open(config, agent.observation_space, agent.action_space, resume)
    histories, held_out = prepared(dataset, config)
    histories.warm()
    with run:
        fit(config, agent, histories, held_out, run, loss, describe)
    return agent


def prepared(dataset: EpisodeDataset, config: Config) -> tuple[EpisodeDataset, EpisodeDataset | None]:
    """The histories to learn from and those held out, thinned out and shuffled as `config` says: the same each time."""
    dataset, held_out = split(dataset, config)
    return _rearranged(dataset, config), None if held_out is None else _rearranged(held_out, config)


def _rearranged(dataset: EpisodeDataset, config: Config) -> EpisodeDataset:
    dataset = strided(dataset, config.episode_stride) if config.episode_stride > 1 else dataset
    if config.exchange_episodes:
        return exchanged(dataset, config.seed)
    return shuffled(dataset, config.seed) if config.shuffle_episodes else dataset


def describe(agent: Agent | WithinEpisode, dataset: EpisodeDataset, num_windows: int = 4096) -> None:
    """Give the agent the statistics of the log's vector observations, of up to `num_windows` windows."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(-(-num_windows // 256)):
        windows = to_device(dataset.windows(256, 64, generator), agent.device)
        agent.encoder.update_statistics(windows.inputs.observation, windows.mask)
