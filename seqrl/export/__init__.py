"""From a trained agent to one file that acts: the network, the memory's state as an input and an output, and parity.

    from seqrl.export import export_run

    exported = export_run("runs/tmaze", "agent.onnx")
    print(exported.about["parity"])

`seqrl.exported` acts from such a file, without PyTorch where it is an ONNX file.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import seqrl
from seqrl.acting import ActingModule
from seqrl.actions import is_mixed
from seqrl.actor_critic import ActorCritic
from seqrl.algorithms import load, read_config
from seqrl.checkpoint import write_atomically
from seqrl.config import make_environment
from seqrl.decision_agent import DecisionAgent
from seqrl.envs import Environment
from seqrl.errors import UserError, nearest
from seqrl.export.onnx_file import require_onnx, to_bytes, to_onnx
from seqrl.export.parity import TOLERANCE, Parity, compare, random_rows, recorded_rows, with_target
from seqrl.export.step import ExportedStep, in_float32
from seqrl.export.torch_file import to_torch
from seqrl.export.trace import trace
from seqrl.exported import FORMAT, Exported, from_bytes
from seqrl.exported import load as load_exported
from seqrl.language_runs.config import LanguageConfig
from seqrl.nets.distributions import Categorical, Gaussian
from seqrl.own_code import algorithm_of
from seqrl.spaces import space_to_json

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""The formats, and what their files' names end in."""
NUM_STEPS = 1000
BATCH_SIZE = 4

__all__ = ["SUFFIXES", "TOLERANCE", "Exported", "Parity", "export_agent", "export_run"]


def export_run(
    run: str | Path, path: str | Path | None = None, format: str = "onnx", num_steps: int = NUM_STEPS
) -> Exported:
    """Export the trained agent of a run folder, as `export_agent` does; recorded rows are of the run's environment.

    Where that cannot be made any more, or the run knows none, rows are random alone, and `about["parity"]` says so.
    Without `path` it goes to agent.onnx or agent.pt2 in the run's folder, over an exported agent that is there.
    Raises UserError as `export_agent` does, and for a run that speaks.
    """
    config = read_config(run)
    if isinstance(config, LanguageConfig):
        raise UserError(f"{run} speaks and has no actions: only agents that act can be exported")
    about = {"run": Path(run).name, "algorithm": algorithm_of(config), "env": config.env, "memory": config.memory}
    target = default_path(run, format) if path is None else path
    agent = load(run)
    with contextlib.ExitStack() as stack:
        environment = None
        with contextlib.suppress(UserError):
            environment = stack.enter_context(contextlib.closing(make_environment(config, BATCH_SIZE)))
        return export_agent(
            agent, target, format, environment=environment, about=about, num_steps=num_steps, replace=path is None
        )


def default_path(run: str | Path, format: str) -> Path:
    """Where a run's agent is exported to. Raises UserError for an unknown format."""
    if format not in SUFFIXES:
        raise UserError(f"unknown format '{format}' (--format): {nearest(format, SUFFIXES)}")
    return Path(run) / f"agent{SUFFIXES[format]}"


def export_agent(
    agent: ActingModule,
    path: str | Path,
    format: str = "onnx",
    *,
    environment: Environment | None = None,
    about: dict[str, Any] | None = None,
    num_steps: int = NUM_STEPS,
    replace: bool = False,
) -> Exported:
    """Write what `agent` does with one row to a file ("onnx" or "torch"), and return what acts from it. Of an actor and
    a critic apart, the actor alone.

    Before the file is written, it is run beside the agent over `num_steps` rows of random inputs, and as many of
    episodes that the agent plays in `environment`, for 4 episodes at once that end at different times. The largest
    difference, |a − b| / max(1, |a|), is in the file. `about` is told in it besides. With `replace` an exported agent
    of before is written over, and no other file.

    Raises UserError for an unknown format, a file that exists or cannot be written, a missing package, mixed actions,
    and where the two differ by more than 1e-5; then nothing is written.
    """
    path = Path(path)
    check_output(path, format, replace)
    if is_mixed(agent.action_space):
        raise UserError(
            f"actions of {agent.action_space} have no place in an exported file: act with seqrl.load, by PyTorch"
        )
    agent = in_float32(agent.actor if isinstance(agent, ActorCritic) else agent).cpu()
    step = ExportedStep(agent)
    rows = {"random": random_rows(step, num_steps, BATCH_SIZE, seed=1)}
    if environment is not None:
        rows["recorded"] = recorded_rows(agent, environment, num_steps, seed=1)
    told = describe(step, agent) | {"about": about or {}}
    contents = _contents(step, format)
    found = check(agent, contents(told), rows)
    told["parity"] = {name: parity._asdict() for name, parity in found.items()}
    try:
        write_atomically(path, data := contents(told))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another --output") from None
    return from_bytes(data, str(path))


def check_output(path: Path, format: str, replace: bool = False) -> None:
    """Raise UserError for an unknown format or a missing package, and a file that is called otherwise or exists; with
    `replace` for one that exists and is no exported agent."""
    if format not in SUFFIXES:
        raise UserError(f"unknown format '{format}' (--format): {nearest(format, SUFFIXES)}")
    if path.suffix != SUFFIXES[format]:
        others = "".join(f", or in {suffix} for {name}" for name, suffix in SUFFIXES.items() if name != format)
        raise UserError(f"{path} is to be a file of {format}: let its name end in {SUFFIXES[format]}{others}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{path.parent} is no folder: make it first, or choose another --output")
    if format == "onnx":
        require_onnx()
    if path.exists() and not (replace and _is_exported(path)):
        what = ", and is no agent that seqrl export wrote" if replace else ""
        raise UserError(f"{path} exists already{what}: choose another --output, or remove it")


def _is_exported(path: Path) -> bool:
    try:
        load_exported(path)
    except UserError:
        return False
    return True


def check(agent: ActingModule, data: bytes, rows: dict[str, Any]) -> dict[str, Parity]:
    """The parity of an exported file's contents with the agent. Raises UserError where it is too far off."""
    exported = from_bytes(data)
    with_target(agent, exported)
    found = {name: compare(agent, exported, given) for name, given in rows.items()}
    for name, parity in found.items():
        if parity.difference > TOLERANCE:
            raise UserError(
                f"the exported step differs from the agent by {parity.difference:.2g} on {name} inputs "
                f"({parity.where}), and {TOLERANCE:.0e} is allowed: nothing was written; try another --format"
            )
    return found


def describe(step: ExportedStep, agent: ActingModule) -> dict[str, Any]:
    """What a file tells of its step, but for parity."""
    row = random_rows(step, 1, 1, seed=0)[0]
    policy = agent.step(row, agent.initial_state(1))[0]["policy"]
    asks = agent if isinstance(agent, DecisionAgent) else None
    kind: dict[str, Any] = {"type": type(policy).__name__}
    if isinstance(policy, Gaussian):
        kind |= {"bound": policy.bound}
        if policy.bound != "none":
            kind |= {"low": policy.low.tolist(), "high": policy.high.tolist()}
    elif kind["type"].endswith("Categorical"):
        parts = [policy] if isinstance(policy, Categorical) else policy.parts
        kind["sizes"] = [part.log_probs.shape[-1] for part in parts]
    learns_timesteps = asks is not None and asks.timestep is not None and asks.timestep.table is not None
    return {
        "format": FORMAT,
        "versions": {"seqrl": seqrl.__version__, "torch": torch.__version__},
        "observation_space": space_to_json(agent.observation_space),
        "action_space": space_to_json(agent.action_space),
        "inputs": step.inputs,
        "outputs": step.outputs,
        "policy": kind,
        "reads_reward": bool(agent.reads_reward),
        "draws": agent.draws,
        "target_return": None if asks is None else asks.target_return.tolist(),
        "max_timestep": asks.max_timestep if asks is not None and learns_timesteps else None,
    }


def _contents(step: ExportedStep, format: str) -> Callable[[dict[str, Any]], bytes]:
    """The function from what is told of the step to the contents of its file."""
    program = trace(step)
    if format == "torch":
        return lambda about: to_torch(program, about)
    model = to_onnx(program, step.inputs, step.outputs)
    return lambda about: to_bytes(model, about)
