"""seqrl calibrate."""

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from seqrl import calibrate as calibration
from seqrl.algorithms import decision_transformer, load, read_config
from seqrl.cli.arguments import parse, positional
from seqrl.config import make_environment, require
from seqrl.data import EpisodeDataset
from seqrl.decision_agent import DecisionAgent
from seqrl.errors import UserError
from seqrl.progress import episodes_bar
from seqrl.run_folder import check_spaces


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Which return should a Decision Transformer be asked for? Targets against what they achieve, and a recommendation.

    Without an environment, how well it foresees held-out actions, by their returns-to-go.
    """

    targets: tuple[float, ...] = ()
    """Returns to ask for; by default a grid over the log's returns, one above them, and what the run asks for now."""
    num_targets: int = 11
    """Targets of that grid."""
    num_episodes: int = 40
    """Episodes for each target, at least: those that are played side by side are as many for each."""
    seed: int = 10_000
    """Seed of the episodes."""
    play: bool = True
    """Whether the environment is played; without, only the log is asked."""
    set_target: bool = False
    """Make the recommended target the agent's default."""


def calibrate(args: list[str]) -> int:
    name, args = positional(args)
    options = parse(Calibrate, args, Calibrate(), "seqrl calibrate RUN")
    if name is None:
        raise UserError("calibrate needs a run folder, named first: seqrl calibrate RUN")
    require(options.num_targets >= 3, f"--num-targets is {options.num_targets}: it must be at least 3")
    require(options.num_episodes >= 2, f"--num-episodes is {options.num_episodes}: an interval needs at least 2")
    require(all(map(math.isfinite, options.targets)), "--targets are not all finite numbers: give returns to ask for")
    require(options.play or not options.set_target, "--set-target needs the environment: leave out --no-play")
    run = Path(name)
    config = read_config(run)
    if not isinstance(config, decision_transformer.Config):
        raise UserError(f"{run} is no Decision Transformer: only that can be asked for a return")
    require(
        bool(config.env) or not options.play,
        f"{run} does not say which environment it is for: calibrate it with --no-play",
    )
    config = dataclasses.replace(config, device="cpu", run_dir=name)
    agent = load(run)
    assert isinstance(agent, DecisionAgent)
    dataset = EpisodeDataset.open(config.dataset, config.gamma)
    logged, held_out = calibration.held_out_or_all(dataset, config)
    bins, console = calibration.by_return(agent, logged, config), Console()
    is_relabelled = config.relabel == "values"
    console.print(calibration.bins_table(bins, held_out, is_relabelled))
    promised = float(agent.return_range[1]) if is_relabelled else -math.inf
    result = None
    if options.play:
        targets = sorted(set(options.targets)) or default_targets(agent, dataset, options.num_targets)
        in_turn = -(-options.num_episodes * len(targets) // 200)  # so that about 200 are played side by side
        each = -(-options.num_episodes // in_turn)
        with (
            contextlib.closing(make_environment(config, each * len(targets))) as environment,
            episodes_bar(f"calibrate {run.name}", environment.num_envs * -(-options.num_episodes // each)) as watch,
        ):
            check_spaces(run, environment.single_observation_space, environment.single_action_space)
            result = calibration.calibrate(
                agent, environment, dataset, targets, options.num_episodes, options.seed, watch
            )
        console.print(result.table(promised))
        console.print(f"Ask for {result.recommended:.4g}.", *result.warnings(promised))
    if options.set_target and result is not None:
        calibration.set_target(run, result.recommended)
        print(f"{run} asks for {result.recommended:.4g} from now on.")
    print("Written:", *calibration.write(run, result, bins, dataset, is_relabelled))
    return 0


def default_targets(agent: DecisionAgent, dataset: EpisodeDataset, number: int) -> list[float]:
    """The grid and the agent's own target, which QDT's may be far above: else another could only be a step back."""
    own = float(agent.target_return)
    grid = calibration.target_grid(dataset, number)
    return sorted([own, *(target for target in grid if not math.isclose(target, own, rel_tol=1e-6))])
