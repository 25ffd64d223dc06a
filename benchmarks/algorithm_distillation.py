"""Learning in context from logs: Algorithm Distillation in a dark room, the Decision-Pretrained Transformer on bandits.

    python -m benchmarks.algorithm_distillation dark_room --output benchmarks/results/algorithm_distillation.json
    python -m benchmarks.algorithm_distillation dark_room --methods shuffled exchanged "one episode" \\
        --output benchmarks/results/algorithm_distillation_ablations.json \\
        --beside benchmarks/results/algorithm_distillation.json
    python -m benchmarks.algorithm_distillation bandit --output benchmarks/results/decision_pretrained.json

`dark_room` logs a source on the training goals of the 9 × 9 room and distils it; then the agent plays on goals that no
log has shown, its weights at rest. A curve is the return of each inner episode, its draws sampled. Sources are tabular
Q-learning and an oracle whose noise falls. Three ablations are trained on the same log: "shuffled" (a history's inner
episodes in any order, which still show where its goal is), "exchanged" (those of all histories dealt out anew, which
show neither a goal nor a learner) and "one episode" (nothing is remembered across them). Optimal for who knows the goal
is 16.5. Runs are added to the JSON file as they end, and those in it are not run again.

`bandit` logs several references on Bernoulli bandits of five arms with the best one revealed, and predicts it. Its
total reward stands beside those of the references on the same bandits.

One process runs at a time, with one thread. `seconds` are a clock's; `cpu_seconds` leave out what others took.
"""

import argparse
import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.learning import machine
from seqrl.adaptation import trial_returns
from seqrl.algorithms import algorithm_distillation, train
from seqrl.collect import Policy, collect, random_policy
from seqrl.data import EpisodeWriter
from seqrl.envs import Environment, make
from seqrl.errors import UserError
from seqrl.malloc import keep_freed_memory
from seqrl.references import references_for
from seqrl.references.learners import AnnealedOracle, QLearning

Answer = dict[str, Any]

ROOM, OPTIMAL = "seqrl/DarkRoom-v0", 16.5
HISTORIES = {"q_learning": 3000, "annealed_oracle": 6000}
SOURCE_EPISODES = {"q_learning": 100, "annealed_oracle": 20}
"""Inner episodes of a logged history, in which its source becomes good."""
STRIDE = {"q_learning": 4, "annealed_oracle": 1}
EPISODES, TRIALS = 60, 320
"""Inner episodes of a trial on unseen goals, and trials."""
LAST = 40
"""Inner episodes, the last ones, whose slope says whether returns still rise."""
METHODS: dict[str, tuple[str, Answer]] = {
    "Q-learning distilled": ("q_learning", {}),
    "shuffled": ("q_learning", {"shuffle_episodes": True}),
    "exchanged": ("q_learning", {"exchange_episodes": True}),
    "one episode": ("q_learning", {"within_episode": True}),
    "annealed oracle distilled": ("annealed_oracle", {}),
}
UPDATES = {"gru": 8000, "transformer": 6000}

BANDIT, ARMS, PULLS = "seqrl/Bandit-v0", 5, 100
LOGGED = ("random", "greedy", "Thompson", "UCB1")
"""What plays the logged bandits, in equal shares: some histories say much of one arm, some a little of all."""


def source_of(name: str, environment: Environment) -> Policy:
    """Q-learning begins with values that are too high, so that it tries what it has not tried: a goal eight cells away
    is hardly ever found by chance."""
    if name == "annealed_oracle":
        return AnnealedOracle(environment, final_skill=4 / 3)  # the last quarter of a history is without noise
    return QLearning(environment, initial_value=1.0, exploration=0.5, final_epsilon=0.0)


def room(goals: str, num_episodes: int, num_envs: int) -> Environment:
    return make(ROOM, num_envs, env_kwargs={"goals": goals, "num_episodes": num_episodes})


def write_log(folder: Path, policies: list[Policy], environment: Environment, count: int, about: Answer) -> None:
    """`count` histories, in equal shares of `policies`."""
    spaces = environment.single_observation_space, environment.single_action_space
    with EpisodeWriter(folder, *spaces, about=about) as writer:
        for k, policy in enumerate(policies):
            for episode in collect(policy, environment, count // len(policies), seed=k):
                writer.add(episode)


def log_room(folder: Path, source: str) -> None:
    episodes = SOURCE_EPISODES[source]
    with contextlib.closing(room("train", episodes, 250)) as environment:
        about = {"env": ROOM, "env_kwargs": ["goals=train", f"num_episodes={episodes}"]}
        write_log(folder, [source_of(source, environment)], environment, HISTORIES[source], about)


def room_settings(source: str, memory: str, num_steps: int) -> algorithm_distillation.Config:
    """A GRU, whose cost does not grow with what it looks back, reads whole histories. The transformer reads ten inner
    episodes, and attends with one wide head: it has to find a cell again among 81."""
    settings: Answer = {"hidden_size": 64, "num_heads": 1, "context_length": 200, "learning_rate": 3e-3}
    if memory == "gru":
        length = {"annealed_oracle": 400, "q_learning": 500}[source]
        settings = {"hidden_size": 64, "memory_horizon": 400, "context_length": length, "learning_rate": 5e-3}
    return algorithm_distillation.Config(
        memory=memory,
        context="cache",
        episode_stride=STRIDE[source],
        num_steps=num_steps,
        batch_size=16 if memory == "gru" else 32,
        checkpoint_every=10**6,
        **settings,
    )


def timed_training(config: algorithm_distillation.Config) -> tuple[Any, Answer]:
    with tempfile.TemporaryDirectory() as folder:
        start, cpu_start = time.perf_counter(), time.process_time()
        agent = train(replace(config, run_dir=f"{folder}/run"))
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        last = json.loads((Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    return agent, {
        "updates": config.num_steps,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        **{name: last[name] for name in ("loss", "accuracy", "held_out_loss", "held_out_accuracy")},
    }


def dark_room(seeds: list[int], memory: str, num_steps: int, names: list[str], output: Path | None) -> Answer:
    """Every method on every seed, and the sources' own curves on the same unseen goals, with what `output` has."""
    answer: Answer = {"optimal": OPTIMAL, "settings": {}, "sources": {}, "summary": [], "runs": []}
    if output and output.exists():
        answer |= json.loads(output.read_text())
    known = {(run["method"], run["seed"]) for run in answer["runs"]}
    missing = [(name, seed) for name in names for seed in seeds if (name, seed) not in known]
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted({METHODS[name][0] for name, _ in missing}):
            log_room(Path(folder) / source, source)
            settings = json.loads(json.dumps(vars(room_settings(source, memory, num_steps))))
            before = answer["settings"].get(source, settings)
            if before != {name: settings.get(name) for name in before}:
                raise UserError(f"{output} holds runs of other settings of {source}: give another --output")
            answer["settings"][source] = settings
            with contextlib.closing(room("held_out", SOURCE_EPISODES[source], TRIALS)) as environment:
                returns = trial_returns(source_of(source, environment), environment, TRIALS, seed=10_000)
            answer["sources"][source] = returns.mean(0).tolist()
        for name, seed in missing:
            source, changes = METHODS[name]
            config = replace(
                room_settings(source, memory, num_steps), dataset=f"{folder}/{source}", seed=seed, **changes
            )
            agent, figures = timed_training(config)
            with contextlib.closing(room("held_out", EPISODES, TRIALS)) as environment:
                curve = trial_returns(agent, environment, TRIALS, seed=10_000 + seed).mean(0)
            answer["runs"].append({"method": name, "seed": seed, **figures, "curve": curve.tolist()})
            print(f"{name}, seed {seed}: {curve[0]:.2f} → {curve[-10:].mean():.2f}, {figures}", file=sys.stderr)
            answer["summary"] = summary(answer["runs"])
            keep(answer, output)
    return answer | {"summary": summary(answer["runs"])}


def summary(runs: list[Answer]) -> list[Answer]:
    """First and last inner episodes and the slope over the last `LAST`, a return for each further inner episode: means
    over seeds and half the 95 % intervals (Student's t), None where there is one seed."""
    rows = []
    for name in [name for name in METHODS if any(run["method"] == name for run in runs)]:
        curves = np.array([run["curve"] for run in runs if run["method"] == name])
        last = curves[:, -10:].mean(1)
        slope = np.polyfit(np.arange(LAST), curves[:, -LAST:].T, 1)[0]
        reached = np.flatnonzero(curves.mean(0) >= 0.7 * OPTIMAL)
        rows.append(
            {
                "method": name,
                "seeds": len(curves),
                "first": float(curves[:, 0].mean()),
                "last_ten": float(last.mean()),
                "half_width": half_width(last),
                "share_of_optimal": float(last.mean()) / OPTIMAL,
                "episodes_to_70_percent": int(reached[0]) + 1 if len(reached) else None,
                "slope": float(slope.mean()),
                "slope_half_width": half_width(slope),
            }
        )
    return rows


def half_width(values: np.ndarray) -> float | None:
    student = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}.get(len(values))
    return None if student is None else float(student * values.std(ddof=1) / len(values) ** 0.5)


def plot_room(answer: Answer, path: Path, beside: list[Answer]) -> None:
    """The curves of `answer` and of the runs `beside` it: means over seeds, and from the lowest to the highest."""
    figure, axes = plt.subplots(figsize=(7, 4.2))
    runs = [*beside, *answer["runs"]]
    for method in [name for name in METHODS if any(run["method"] == name for run in runs)]:
        curves = np.array([run["curve"] for run in runs if run["method"] == method])
        episodes = np.arange(1, curves.shape[1] + 1)
        (line,) = axes.plot(episodes, curves.mean(0), label=method)
        axes.fill_between(episodes, curves.min(0), curves.max(0), color=line.get_color(), alpha=0.2)
    for source, curve in answer["sources"].items():
        axes.plot(
            np.arange(1, len(curve) + 1),
            curve,
            "--",
            linewidth=1,
            label=f"{source.capitalize().replace('_', '-')} itself",
        )
    axes.axhline(answer["optimal"], color="black", linewidth=1)
    axes.axhline(0.7 * answer["optimal"], color="black", linewidth=0.5, linestyle=":")
    axes.set(xlim=(1, EPISODES), xlabel="inner episode", ylabel="return on unseen goals", ylim=(0, 17.5))
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def bandit(seeds: list[int], num_steps: int) -> Answer:
    """Total reward of 100 pulls: the agent's and the references', on the same 2,000 bandits."""
    kwargs = {"num_arms": ARMS, "num_episodes": PULLS}
    runs, trials = [], 2000
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(make(BANDIT, 1000, env_kwargs=kwargs | {"reveal": True})) as environment:
            known = references_for(environment)
            policies = [known.get(name, random_policy(environment.single_action_space)) for name in LOGGED]
            about = {"env": BANDIT, "env_kwargs": [f"{k}={v}" for k, v in kwargs.items()] + ["reveal=true"]}
            write_log(Path(folder) / "log", policies, environment, 8000, about)
        with contextlib.closing(make(BANDIT, trials, env_kwargs=kwargs)) as environment:
            references = {
                name: float(trial_returns(policy, environment, trials, seed=10_000).sum(1).mean())
                for name, policy in references_for(environment).items()
            }
            for seed in seeds:
                config = algorithm_distillation.Config(
                    dataset=f"{folder}/log", label="optimal_action", memory="gru", context="cache", seed=seed,
                    context_length=PULLS, num_steps=num_steps, learning_rate=3e-3, checkpoint_every=10**6,
                )  # fmt: skip
                agent, figures = timed_training(config)
                totals = {
                    how: float(trial_returns(agent, environment, trials, 10_000, how == "drawn").sum(1).mean())
                    for how in ("drawn", "likeliest")
                }
                runs.append({"seed": seed, **figures, **totals})
                print(f"seed {seed}: {runs[-1]}", file=sys.stderr)
    return {"logged": LOGGED, "references": references, "runs": runs}


def show(answer: Answer) -> None:
    rows = answer.get("summary") or answer["runs"]
    table = Table()
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)
    if "references" in answer:
        Console().print(answer["references"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["dark_room", "bandit"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--memory", choices=UPDATES, default="gru")
    parser.add_argument("--updates", type=int, default=0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--beside", type=Path, help="another file of dark rooms, whose curves the plot shows too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.what == "bandit":
        answer = bandit(options.seeds, options.updates or 3000)
        keep(answer, options.output)
    else:
        num_steps = options.updates or UPDATES[options.memory]
        answer = dark_room(options.seeds, options.memory, num_steps, options.methods, options.output)
        if options.output:
            beside = json.loads(options.beside.read_text())["runs"] if options.beside else []
            plot_room(answer, options.output.with_suffix(".png"), beside)
    show(answer)


def keep(answer: Answer, path: Path | None) -> None:
    """Write what there is so far, with the commands that it came of."""
    if path:
        command = "python -m benchmarks.algorithm_distillation " + shlex.join(sys.argv[1:])
        before = [each for each in answer.get("command", "").split("; ") if each not in ("", command)]
        written = path.with_name(f"{path.name}.{os.getpid()}")
        written.write_text(json.dumps(answer | machine() | {"command": "; ".join([*before, command])}) + "\n")
        written.rename(path)


if __name__ == "__main__":
    main()
