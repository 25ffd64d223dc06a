"""RLlib's IMPALA with its LSTM on CartPole without velocities: how fast it trains.

    python -P rllib.py throughput --num-workers 2 --envs-per-worker 32 --threads 2 --seconds 20

Its new API stack, with the model that it makes itself: an encoder layer as wide as the memory, and an LSTM (it has no
GRU). Each env runner and the learner is a process of its own, on one thread each; `--threads` is therefore the number
of cores that all of them share. Every step is learnt from once. Steps are counted in the learner's loss, without those
that only pad: what was dropped before it does not count.

`--fragment` is the length of a rollout, `--max-seq-len` of the sequences that gradients flow back through;
`--batch-size` counts steps. `--num-learners 0` learns in the process that leads, in turn with sampling.
"""

import argparse
import json
import os
import secrets
import tempfile
import time
from importlib.metadata import version
from typing import Any

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # it keeps to the loopback interface
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # of this run alone: else Ray writes one into the home folder
    "RAY_worker_niceness": "0",  # else the process that leads, which polls, starves runners and learner
    "OMP_NUM_THREADS": "1",  # of each process
    "MKL_NUM_THREADS": "1",
    "RAY_process_group_cleanup_enabled": "0",  # all processes stay in the group that this one was started in
}

import gymnasium as gym
import numpy as np
import ray
from ray.rllib.algorithms.impala import IMPALA, IMPALAConfig
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

HIDDEN = 128


class Positions(gym.ObservationWrapper):
    """CartPole's positions without its velocities."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        space = env.observation_space
        assert isinstance(space, gym.spaces.Box)
        self.observation_space = gym.spaces.Box(space.low[::2], space.high[::2])

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2]


def make_environment(config: Any) -> gym.Env:
    return Positions(gym.make("CartPole-v1"))


class CountingLearner(IMPALATorchLearner):
    """Counts the rows that the loss reads: RLlib's own count of steps has those that pad sequences in it."""

    def compute_loss_for_module(self, *, module_id: Any, batch: Any, **rest: Any) -> Any:
        rows = float(batch[Columns.LOSS_MASK].sum())
        self.metrics.log_value("rows_learnt", rows, reduce="lifetime_sum")
        return super().compute_loss_for_module(module_id=module_id, batch=batch, **rest)


def make_algorithm(args: argparse.Namespace) -> IMPALA:
    ray.tune.register_env("masked_cartpole", make_environment)
    config = (
        IMPALAConfig()
        .api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
        .framework("torch")
        .environment("masked_cartpole")
        .env_runners(
            num_env_runners=args.num_workers,
            num_envs_per_env_runner=args.envs_per_worker,
            rollout_fragment_length=args.fragment,
        )
        .learners(num_learners=args.num_learners, learner_class=CountingLearner)
        .training(
            train_batch_size_per_learner=args.batch_size, num_epochs=1, timeout_s_sampler_manager=args.sampler_timeout
        )
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=[HIDDEN], use_lstm=True, lstm_cell_size=HIDDEN, max_seq_len=args.max_seq_len
            )
        )
        .reporting(min_time_s_per_iteration=1)
    )
    return config.build_algo()


def counts(result: dict[str, Any]) -> dict[str, int]:
    """Steps since the start: those sampled, and those that the learner has learnt from."""
    return {
        "sampled": int(result.get("env_runners", {}).get("num_env_steps_sampled_lifetime", 0)),
        "learnt": int(result.get("learners", {}).get("rows_learnt", 0)),
    }


def throughput(algorithm: IMPALA, warm_up: float, seconds: float) -> dict[str, Any]:
    """Steps per second of training, environments included, once `warm_up` seconds have passed and it has learnt."""
    start = time.perf_counter()
    moments: list[tuple[float, dict[str, int]]] = []
    while len(moments) < 3 or moments[-1][0] - moments[0][0] < seconds:
        seen = counts(algorithm.train())
        now = time.perf_counter()
        if now - start >= warm_up and (moments or seen["learnt"]):
            moments.append((now, seen))
    (begin, first), (end, last) = moments[0], moments[-1]
    rates = {name: (last[name] - first[name]) / (end - begin) for name in first}
    return {
        "steps_per_second": rates["learnt"],
        "steps_sampled_per_second": rates["sampled"],
        "learnt_of_sampled": last["learnt"] / last["sampled"],
        "seconds": end - begin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["throughput"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--envs-per-worker", type=int, default=32)
    parser.add_argument("--fragment", type=int, default=50)
    parser.add_argument("--max-seq-len", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--num-learners", type=int, default=1)
    parser.add_argument("--sampler-timeout", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--warm-up", type=float, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    answer_to = os.dup(1)
    os.dup2(2, 1)  # what the library and its processes print goes to standard error
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        ray.init(
            num_cpus=args.num_workers + args.num_learners + 1,  # it starts what it counts, whatever cores there are
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            object_store_memory=10**9,
        )
        try:
            algorithm = make_algorithm(args)
            answer = throughput(algorithm, args.warm_up, args.seconds)
            algorithm.stop()
        finally:
            ray.shutdown()
    answer = {
        "memory": "LSTM (it has no GRU), shared by policy and value",
        "num_envs": args.num_workers * args.envs_per_worker,
        "num_workers": args.num_workers,
        "envs_per_worker": args.envs_per_worker,
        "fragment": args.fragment,
        "max_seq_len": args.max_seq_len,
        "batch_size": args.batch_size,
        "num_learners": args.num_learners,
        **answer,
    }
    packages = ("ray", "gymnasium", "torch")
    with os.fdopen(answer_to, "w") as out:
        print(json.dumps({**answer, "versions": {name: version(name) for name in packages}}), file=out)


if __name__ == "__main__":
    main()
