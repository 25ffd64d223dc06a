"""Hugging Face's Decision Transformer: how fast it learns from logged episodes, and how fast it acts.

    python -P hugging_face_dt.py decision_transformer --threads 1 --seconds 5

`transformers` has the model alone. The loop around it is written here as its users write theirs: AdamW, clipped
gradients, the mean squared error of the actions that the mask keeps. It has no data of its own either: windows are cut
from NumPy arrays all at once, which costs it as little as it can, or are the same over and over (*without data*). It
learns without dropout, as seqrl does (*whole*), and with what it has by default (*dropout 0.1*). Its key/value cache,
which nothing here could read, is off.

It acts as the library's own example does: the model is called on the last 20 steps, behind zeros that the mask hides
while there are fewer, in one environment or (*64*) in a batch of them.
"""

import argparse
import json
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import DecisionTransformerConfig, DecisionTransformerModel

STATE, ACTION, EPISODES, LENGTH = 17, 6, 200, 1000
BATCH, K = 64, 20
Batch = dict[str, torch.Tensor]


def make_model(dropout: float = 0.0) -> DecisionTransformerModel:
    """Three layers, one head and 128 units are its defaults."""
    rates = {f"{place}_pdrop": dropout for place in ("resid", "embd", "attn")}
    config = DecisionTransformerConfig(state_dim=STATE, act_dim=ACTION, max_ep_len=LENGTH, use_cache=False, **rates)
    return DecisionTransformerModel(config)


class Episodes:
    """`EPISODES` logged episodes of the same length, `[N, T, ...]`."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.random = random
        self.states = random.normal(size=(EPISODES, LENGTH, STATE)).astype(np.float32)
        self.actions = random.uniform(-1, 1, size=(EPISODES, LENGTH, ACTION)).astype(np.float32)
        rewards = random.random((EPISODES, LENGTH), np.float32)
        self.returns_to_go = rewards[:, ::-1].cumsum(1)[:, ::-1].copy()

    def draw(self) -> Batch:
        """Windows that begin at any step; those that meet the end have zeros before them instead."""
        episode = self.random.integers(EPISODES, size=(BATCH, 1))
        t = self.random.integers(LENGTH, size=(BATCH, 1)) + np.arange(1 - K, 1)
        mask = t >= 0
        t = t.clip(0)
        return {
            "states": torch.from_numpy(self.states[episode, t] * mask[..., None]),
            "actions": torch.from_numpy(self.actions[episode, t] * mask[..., None]),
            "returns_to_go": torch.from_numpy(0.001 * (self.returns_to_go[episode, t] * mask)[..., None]),
            "timesteps": torch.from_numpy(t),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }


def now() -> float:
    """Processor time where there is one thread, which other work on the machine does not lengthen."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def quickest(moments: list[float], block: int) -> float:
    """The least time between two moments, of a block of `block` of them: what else goes on only ever adds."""
    return min(end - begin for begin, end in zip(moments, moments[block:], strict=False)) / block


def updates(seconds: float, dropout: float = 0.0, without_data: bool = False) -> float:
    """Updates a second, by the quickest five in a row; the first five do not count."""
    model, episodes = make_model(dropout).train(), Episodes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10_000, 1))
    batch, moments = episodes.draw(), []
    while len(moments) < 10 or moments[-1] - moments[4] < seconds:
        if not without_data:
            batch = episodes.draw()
        predicted = model(**batch)
        kept = batch["attention_mask"].bool()
        loss = torch.nn.functional.mse_loss(predicted.action_preds[kept], batch["actions"][kept])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()
        scheduler.step()
        moments.append(now())
    return 1 / quickest(moments[4:], 5)


@torch.no_grad()
def actions(model: DecisionTransformerModel, num_envs: int, seconds: float) -> float:
    """Actions a second, by the quickest block of steps in a row: 100 of them, or 5 in several environments."""
    states = torch.zeros(num_envs, K, STATE)
    taken, returns = torch.zeros(num_envs, K, ACTION), torch.zeros(num_envs, K, 1)
    timesteps, mask = torch.zeros(num_envs, K, dtype=torch.long), torch.zeros(num_envs, K, dtype=torch.long)
    observations, left = torch.randn(LENGTH, num_envs, STATE), torch.full((num_envs, 1), 6.0)
    t, moments, block = 0, [now()], 100 if num_envs == 1 else 5
    while len(moments) < 3 * block or moments[-1] - moments[block] < seconds:
        for history, newest in (
            (states, observations[t]),
            (returns, left),
            (timesteps, torch.full((num_envs,), t)),
            (mask, torch.ones(num_envs, dtype=torch.long)),
            (taken, torch.zeros(num_envs, ACTION)),  # the one to come
        ):
            history.copy_(history.roll(-1, 1))
            history[:, -1] = newest
        answer = model(states=states, actions=taken, returns_to_go=returns, timesteps=timesteps, attention_mask=mask)
        taken[:, -1] = answer.action_preds[:, -1]
        left, t = left - 0.0005, (t + 1) % LENGTH
        moments.append(now())
    return num_envs / quickest(moments[block:], block)


def speeds(seconds: float) -> dict[str, Any]:
    model = make_model().eval()
    return {
        "updates": {
            "whole": updates(seconds),
            "dropout 0.1": updates(seconds, dropout=0.1),
            "without data": updates(seconds, without_data=True),
        },
        "actions": {"1": actions(model, 1, seconds), "64": actions(model, 64, seconds)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=["decision_transformer"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    versions = {name: version(name) for name in ("transformers", "torch", "numpy")}
    print(json.dumps({**speeds(args.seconds), "versions": versions}))


if __name__ == "__main__":
    main()
