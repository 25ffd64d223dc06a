"""How near an exported file is to its agent, and how quickly it acts, for every memory.

    python -m benchmarks.export --output benchmarks/results/export.json

Each agent has `--hidden-size` units, reads a vector of 8 numbers, its last action and reward, and has 4 actions, with a
policy and a value; "reencoded" is a Decision Transformer that reads the last 20 rows afresh at each step, "cache" one
that keeps keys and values. Weights are random: what a step costs does not depend on them. Parity is over 1,000 steps of
random inputs for 4 episodes that begin anew at random, measured as by `seqrl export`: the largest |a − b| / max(1, |a|)
of actions, probabilities and values.

Speed is that of `act` for one environment, one thread, steps a second: the agent's, the ONNX file's and the .pt2
file's, in turn, the best of `--rounds` of `--steps` steps each. Loading and exporting are timed once.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import onnxruntime
import torch

from benchmarks.learning import machine
from seqrl.acting import ActingModule
from seqrl.agent import Agent
from seqrl.decision_agent import DecisionAgent
from seqrl.export import SUFFIXES, export_agent
from seqrl.exported import load
from seqrl.memory import MEMORIES, make_memory
from seqrl.nets import Encoder, PolicyHead, ValueHead

OBSERVATION, ACTION = gym.spaces.Box(-1.0, 1.0, (8,)), gym.spaces.Discrete(4)
NAMES = (*MEMORIES, "decision_transformer (reencoded)", "decision_transformer (cache)")


class Acts(Protocol):
    def act(self, observation: Any, *, reward: Any) -> np.ndarray: ...
    def reset(self) -> None: ...


def agent(name: str, size: int) -> ActingModule:
    torch.manual_seed(0)
    if name.startswith("decision_transformer"):
        context = "cache" if "cache" in name else "reencode"
        return DecisionAgent(OBSERVATION, ACTION, hidden_size=size, context=context).eval()
    return Agent(
        OBSERVATION,
        ACTION,
        Encoder(OBSERVATION, size, normalize=True),
        make_memory(name, size, size),
        {"policy": PolicyHead(size, ACTION), "value": ValueHead(size)},
        use_previous_action=True,
        use_previous_reward=True,
    ).eval()


def steps_per_second(acts: Acts, num_steps: int) -> float:
    observations = np.random.default_rng(0).uniform(-1, 1, (num_steps, 8)).astype(np.float32)
    acts.reset()
    start = time.perf_counter()
    for observation in observations:
        acts.act(observation, reward=0.0)
    return num_steps / (time.perf_counter() - start)


def measure(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    made = agent(name, args.hidden_size)
    actors: dict[str, Acts] = {"agent": made}
    found: dict[str, Any] = {"memory": name}
    for format, suffix in SUFFIXES.items():
        path = folder / f"{name.replace(' ', '_')}{suffix}"
        start = time.perf_counter()
        exported = export_agent(made, path, format)
        parity = exported.about["parity"]["random"]
        found[format] = {
            "parity": parity["difference"],
            "steps": parity["steps"],
            "bytes": path.stat().st_size,
            "export_seconds": time.perf_counter() - start,
        }
        start = time.perf_counter()
        actors[format] = load(path)
        found[format]["load_seconds"] = time.perf_counter() - start
    rates: dict[str, list[float]] = {kind: [] for kind in actors}
    for _ in range(args.rounds):
        for kind, acts in actors.items():
            rates[kind].append(steps_per_second(acts, args.steps))
    return found | {"steps_per_second": {kind: max(rate) for kind, rate in rates.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--memories", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python -m benchmarks.export --output {args.output}"
    settings = {"hidden_size": args.hidden_size, "rounds": args.rounds, "steps": args.steps}
    result: dict[str, Any] = {"command": command, **machine(), "onnxruntime": onnxruntime.__version__, **settings}
    result["memories"] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.memories:
            result["memories"].append(measure(name, args, Path(folder)))
            print(json.dumps(result["memories"][-1]), flush=True)
            args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
