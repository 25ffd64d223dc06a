"""Decision Transformer: actions predicted from the return that is asked for, learnt from logged episodes alone.

Source: Chen et al. 2021, arXiv 2106.01345. Where this differs:

- Windows begin anywhere from `context_length` − 1 places before their episode, so that every decision is learnt from
  equally often; a window's first row shows the action before it, as it does when acting. With `return_bins` they are
  drawn from low and high returns equally often.
- The agent's differences from the paper's model stand in `DecisionAgent`, no dropout among them. AdamW, by
  default without weight decay, with a warm-up and a linear decay to 0.
- A Gaussian of one learned width for continuous actions, or the mean squared error.
- The default target is the highest return of the log; `seqrl calibrate` finds a better one.

The baselines share all of it: `condition` "none" is behaviour cloning; with a `best_share` below 1, of the best
episodes (filtered BC, "%BC"); `relabel` "values" raises returns-to-go to what values learnt from the same log promise,
after Yamagata et al. 2023 (QDT, arXiv 2209.03993), so that one episode's beginning can be joined to another's end.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium as gym
import torch
from torch import Tensor

from seqrl.config import device, require, require_at_least_one
from seqrl.data import EpisodeDataset, Windows
from seqrl.decision_agent import Context, DecisionAgent, Timestep
from seqrl.nets import Gaussian, Mixed
from seqrl.objectives import masked_mean, squared_error
from seqrl.offline.config import OfflineConfig, check_shared, problem_of
from seqrl.offline.relabel import ValueConfig, relabelled_returns
from seqrl.offline.training import fit, split
from seqrl.run import Run
from seqrl.trajectory import to_device, tree_map

Condition = Literal["return", "none"]
Relabel = Literal["none", "values"]
ActionLoss = Literal["likelihood", "squared_error"]


@dataclass(frozen=True, kw_only=True)
class Config(OfflineConfig):
    """Decision Transformer, and behaviour cloning with the same model. The defaults serve small problems."""

    condition: Condition = "return"
    """return, or none: behaviour cloning."""
    best_share: float = 1.0
    """Share of the episodes, those with the highest returns, that are learnt from."""
    return_bins: int = 1
    """Bins of equal width, from the lowest return to the highest, that windows are drawn from equally often. With 1,
    every decision is learnt from equally often; more help where the returns asked for are rare in the log."""
    relabel: Relabel = "none"
    """none, or values: returns-to-go are raised to what values learnt from the log promise (QDT)."""
    gamma: float = 1.0
    """Discount of a step, in returns-to-go."""

    context: Context = "reencode"
    """How acting reads them: reencode (afresh at each step, as in training) or cache (quicker, looks back further)."""
    timestep: Timestep = "sinusoidal"
    """How a row tells its time: sinusoidal, learned (acting beyond the longest logged episode is refused) or none."""
    hidden_size: int = 128
    """Width of the model."""
    num_layers: int = 3
    """Layers of the transformer."""
    num_heads: int = 1
    """Heads of its attention. One alone looks at the return first, and may miss what else must be remembered."""
    normalize_observations: bool = True
    """Whether vector observations are standardised by the log's statistics."""

    action_loss: ActionLoss = "likelihood"
    """likelihood, or squared_error for continuous actions."""
    value_updates: int = 5_000
    """Updates of the values that relabel returns."""
    value_expectile: float = 0.9
    """τ of these values: ½ for the mean over logged actions, towards 1 for the best of them."""


def loss(
    agent: DecisionAgent, windows: Windows, config: Config, counted: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """−log π(a_t | window up to o_t), or ½ (mean − a)², over the decisions of `windows`. The metrics are detached.

    Nothing of a row that is no decision has an influence, NaN included. With `counted` [T, N] only those decisions
    count, and the others are read.
    """
    mask = windows.mask
    inputs, return_to_go, action = tree_map(
        lambda leaf: leaf.masked_fill(~mask.view(*mask.shape, *[1] * (leaf.ndim - 2)), 0),
        (windows.inputs, windows.return_to_go, windows.action),
    )
    # Pads stand behind the rows that count: that nothing resets inside a window lets it be unrolled at once.
    inputs = inputs._replace(is_first=torch.zeros_like(mask).index_fill_(0, torch.tensor(0, device=mask.device), True))
    state = agent.memory.initial_state(mask.shape[1])
    outputs, _ = agent.unroll_rows(inputs, return_to_go, windows.timestep, state)
    mask = mask if counted is None else mask & counted
    policy = outputs["policy"]
    raw = policy.from_environment(action.reshape(*mask.shape, -1) if action.is_floating_point() else action)
    with torch.no_grad():
        foreseen = {"log_likelihood": policy.log_prob(raw)} | _foreseen(policy, raw)
        metrics = {name: masked_mean(values, mask) for name, values in foreseen.items()}
    if config.action_loss == "squared_error":
        total = masked_mean(squared_error(policy.mode(), raw).sum(-1), mask)
    else:
        total = masked_mean(-policy.log_prob(raw), mask)
    return total, {"loss": total.detach(), **metrics}


def _foreseen(policy: Any, raw: Tensor) -> dict[str, Tensor]:
    """Of each decision [T, B]: whether its discrete choices were foreseen, and how far off its numbers were."""
    guess = policy.mode()
    if not isinstance(policy, Mixed):
        leaves = [(policy, guess, raw)]
    else:
        leaves = list(zip(policy.parts, guess.split(policy.sizes, -1), raw.split(policy.sizes, -1), strict=True))
    right, far = [], []
    for part, likeliest, leaf in leaves:
        if isinstance(part, Gaussian):
            far.append((likeliest - leaf).square().sum(-1))
        else:
            same = likeliest == leaf
            right.append(same if same.ndim == 2 else same.all(-1))
    found = {"accuracy": torch.stack(right).all(0).float()} if right else {}
    return found | ({"squared_error": torch.stack(far).sum(0)} if far else {})


def check(config: Config) -> None:
    """Raise UserError for settings that contradict each other or make no sense."""
    choices = {"condition": Condition, "relabel": Relabel, "context": Context, "timestep": Timestep}
    for name, kind in {**choices, "action_loss": ActionLoss}.items():
        value, known = getattr(config, name), get_args(kind)
        require(value in known, f"--{name.replace('_', '-')} '{value}': choose one of {', '.join(known)}")
    check_shared(config)
    require(
        config.memory == "transformer",
        f"--memory {config.memory}: a Decision Transformer remembers with its transformer; leave --memory out",
    )
    require_at_least_one(config, "hidden_size", "num_layers", "num_heads", "value_updates", "return_bins")
    require(0 < config.gamma <= 1, f"--gamma is {config.gamma}: it must be above 0, and at most 1")
    require(0 < config.best_share <= 1, f"--best-share is {config.best_share}: it must be above 0, and at most 1")
    require(0 < config.value_expectile < 1, f"--value-expectile is {config.value_expectile}: choose between 0 and 1")
    require(
        config.condition == "return" or config.relabel == "none",
        f"--relabel {config.relabel} with --condition none: returns that nobody reads need no relabelling",
    )
    require(
        config.condition == "return" or config.return_bins == 1,
        f"--return-bins {config.return_bins} with --condition none: cloning would imitate rare returns more often than "
        "they were logged; choose what it imitates with --best-share",
    )


def build(config: Config, observation_space: Any, action_space: Any) -> DecisionAgent:
    """The untrained agent. Weights depend on the seed alone."""
    require(
        config.action_loss == "likelihood" or isinstance(action_space, gym.spaces.Box),
        f"--action-loss squared_error for the action space {action_space}: it needs continuous actions",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        agent = DecisionAgent(
            observation_space,
            action_space,
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            context_length=config.context_length,
            context=config.context,
            timestep=config.timestep,
            max_timestep=config.max_timestep,
            gamma=config.gamma,
            conditioned=config.condition == "return",
            normalize_observations=config.normalize_observations,
        )
    return agent.to(device(config))


def train(config: Config, resume: bool = False) -> DecisionAgent:
    """Train on the log in `config.dataset`, and return the agent. With `resume`, continue the run folder, bit for bit.

    Raises UserError for bad settings, a folder that holds no episodes, an existing run folder, relabelled returns that
    are not this log's, or a loss that is not finite.
    """
    check(config)
    require(bool(config.dataset), "no dataset given: name a folder of logged episodes with --dataset (seqrl collect)")
    dataset = EpisodeDataset.open(config.dataset, config.gamma)
    config = problem_of(config, dataset)
    if config.timestep == "learned":
        config = replace(config, max_timestep=last_timestep(config, dataset))
    agent = build(config, dataset.observation_space, dataset.action_space)
    run = Run.open(config, agent.observation_space, agent.action_space, resume)
    dataset, held_out = chosen_episodes(dataset, config)
    if config.relabel == "values":
        dataset, held_out = relabelled(dataset, held_out, config)
    if config.return_bins > 1:
        dataset = dataset.balanced(config.return_bins)
    dataset.warm()
    with run:
        fit(config, agent, dataset, held_out, run, loss, describe)
    return agent


def last_timestep(config: Config, dataset: EpisodeDataset) -> int:
    """The last timestep that is learnt: `config`'s, or if it names none, that of the longest episode's end."""
    longest = int(dataset.lengths.max())
    require(
        config.max_timestep == 0 or config.max_timestep >= longest,
        f"--max-timestep is {config.max_timestep}, and the longest episode of {dataset.folder} has {longest} "
        f"decisions: give at least {longest}, or 0 for just that",
    )
    return config.max_timestep or longest


def chosen_episodes(dataset: EpisodeDataset, config: Config) -> tuple[EpisodeDataset, EpisodeDataset | None]:
    """The episodes to learn from, the best of them if `config` says so, and those held out: the same each time."""
    dataset, held_out = split(dataset, config)
    return (dataset.best(config.best_share) if config.best_share < 1 else dataset), held_out


def relabelled(
    dataset: EpisodeDataset, held_out: EpisodeDataset | None, config: Config
) -> tuple[EpisodeDataset, EpisodeDataset | None]:
    """Both with returns-to-go relabelled by values of `dataset`, which are learnt once and kept in the run's folder: an
    agent is asked for what it was trained to be asked for."""
    settings = ValueConfig(
        num_updates=config.value_updates, gamma=config.gamma, expectile=config.value_expectile, seed=config.seed
    )
    path = Path(config.run_dir) / "return_to_go.npy"
    found = relabelled_returns(dataset, settings, path, held_out)
    return dataset.with_returns_to_go(found), None if held_out is None else held_out.with_returns_to_go(found)


def describe(agent: DecisionAgent, dataset: EpisodeDataset, num_windows: int = 4096) -> None:
    """Give the agent the log's statistics (of up to `num_windows` windows) and returns, and its default target."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(-(-num_windows // 256)):
        windows = to_device(dataset.windows(256, 64, generator), agent.device)
        agent.update_statistics(windows.inputs.observation, windows.return_to_go, windows.mask)
    first = torch.from_numpy(dataset.return_to_go[dataset.starts[:-1]])
    agent.return_range.copy_(torch.stack([first.min(), first.max()]))
    agent.target_return = float(first.max())
