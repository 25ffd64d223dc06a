"""Acts from a file that `seqrl export` wrote, without PyTorch: NumPy and onnxruntime are all that is needed.

    import seqrl.exported

    agent = seqrl.exported.load("agent.onnx")
    action = agent.act(observation)   # keeps its own memory; agent.reset() begins a new episode

A file of `seqrl export --format torch` is read too, and needs PyTorch.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.errors import UserError, not_these_keys

FORMAT = "seqrl-export-1"
ABOUT = "seqrl"
"""The key of an ONNX file's metadata under which everything that is told of the step stands, as JSON."""


class Exported:
    """An exported agent that acts, as `seqrl.Agent` does; or its step, for those who keep the state themselves.

    `about` is what the file tells: spaces, the run it was made from, versions, parity. `outputs` is what the last `act`
    said besides the action, by name: the policy's parameters and what other heads say, [B, ...]. `target_return` may be
    set, to a number or one for each environment, where the agent is asked for a return.
    """

    def __init__(self, function: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], about: dict[str, Any]):
        self.step = function
        """One row: arrays [B, ...] by the names of `about["inputs"]` in, those of `about["outputs"]` out. The state
        goes in as state... and comes out as next_state...; where `is_first`, what it holds does not matter."""
        self.about = about
        self.target_return: float | np.ndarray | None = about["target_return"]
        self.outputs: dict[str, np.ndarray] = {}
        self._inputs = {name: (np.dtype(dtype), tuple(shape)) for name, dtype, shape in about["inputs"]}
        self._draws = np.random.default_rng()
        self._session: dict[str, np.ndarray] | None = None

    def reset(self) -> None:
        """Forget: the next `act` begins new episodes."""
        self._session = None

    def seed(self, seed: int) -> None:
        """Seed the draws of `act(sample=True)`."""
        self._draws = np.random.default_rng(seed)

    def act(
        self, observation: Any, *, reward: Any = None, is_first: Any = None, sample: bool | None = None
    ) -> np.ndarray:
        """The action for an observation as the environment gives it, for one environment or a batch of them.

        As `seqrl.Agent.act`: the memory is kept from call to call; `is_first` (bool, one a row of the batch) begins new
        episodes for some rows, `reset` for all; `reward` is what the last action brought, needed only by an agent that
        was trained with it; with `sample` the action is drawn from the policy, without it is the likeliest, and where
        nothing is said what was chosen in training.

        Raises UserError when the observation does not fit the space that the agent was trained on.
        """
        space = self.about["observation_space"]
        inputs: dict[str, np.ndarray] = {}
        single = _read(observation, space, "observation", inputs)
        batch_size = len(next(iter(inputs.values())))
        if any(len(leaf) != batch_size for leaf in inputs.values()):
            raise UserError("act: some parts of the observation have a batch axis of another size than others")
        inputs = {name: leaf.astype(self._inputs[name][0]) for name, leaf in inputs.items()}
        inputs |= self._going_on(batch_size, reward, is_first)
        self._check_timestep(inputs)
        outputs = self.step(inputs)
        action = outputs["action"]
        if self.about.get("draws", False) if sample is None else sample:  # older files do not tell
            action = draw(outputs, self.about, self._draws)
        self._session = {name.removeprefix("next_"): leaf for name, leaf in outputs.items() if "next_state" in name}
        self._session["previous_action"] = action
        self.outputs = {name: leaf for name, leaf in outputs.items() if name != "action" and "next_state" not in name}
        return action[0] if single else action

    def initial_inputs(self, batch_size: int) -> dict[str, np.ndarray]:
        """All inputs of `step` but the observation, for the first rows of a batch of episodes."""
        rest = {name: leaf for name, leaf in self._inputs.items() if name.partition(".")[0] != "observation"}
        inputs = {name: np.zeros((batch_size, *shape), dtype) for name, (dtype, shape) in rest.items()}
        inputs["is_first"] = np.ones(batch_size, bool)
        if "target_return" in inputs:
            target = np.asarray(self.target_return, np.float32)
            if target.shape not in ((), (batch_size,)):
                raise UserError(
                    f"{len(target)} target returns for {batch_size} environments: give one, or one for each"
                )
            inputs["target_return"] = np.broadcast_to(target, batch_size)
        return inputs

    def _going_on(self, batch_size: int, reward: Any, is_first: Any) -> dict[str, np.ndarray]:
        inputs, session = self.initial_inputs(batch_size), self._session
        if session is None:
            return inputs
        previous = len(session["previous_action"])
        if previous != batch_size:
            raise UserError(f"act: a batch of {batch_size} follows one of {previous}: call reset() in between")
        if reward is None and self.about["reads_reward"]:
            raise UserError("act: this agent reads the previous reward: pass reward=..., or reset() between episodes")
        inputs["previous_reward"] = _rows("reward", 0.0 if reward is None else reward, batch_size, np.float32)
        inputs["is_first"] = _rows("is_first", False if is_first is None else is_first, batch_size, bool)
        return inputs | session

    def _check_timestep(self, inputs: dict[str, np.ndarray]) -> None:
        longest = self.about["max_timestep"]
        if longest is not None and (inputs["state.timestep"][~inputs["is_first"]] >= longest).any():
            raise UserError(
                f"an episode has lasted {longest + 1} steps, and learned timesteps end at {longest}, "
                "the longest of the log: train with --timestep sinusoidal"
            )


def load(path: str | Path, num_threads: int = 1) -> Exported:
    """The exported agent of a file, ready to `act`. With so small a network, one thread is the quickest.

    Raises UserError where the file is missing, damaged or not of `seqrl export`, or onnxruntime is not installed.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): name a file that seqrl export wrote") from None
    return from_bytes(data, str(path), num_threads)


def from_bytes(data: bytes, source: str = "the exported agent", num_threads: int = 1) -> Exported:
    """`load` of a file's contents."""
    if data[:2] == b"PK":  # a zip, as torch.export writes
        try:
            from seqrl import exported_torch
        except ModuleNotFoundError:
            raise UserError(f"{source} needs PyTorch: pip install torch, or export with --format onnx") from None
        function, about = exported_torch.read(data, source)
    else:
        function, about = _onnx(data, source, num_threads)
    if about.get("format") != FORMAT:
        raise UserError(f"{source} is of {about.get('format')}, not {FORMAT}: export the run with this seqrl")
    return Exported(function, about)


def _onnx(data: bytes, source: str, num_threads: int) -> tuple[Callable, dict[str, Any]]:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise UserError("acting from an ONNX file needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = num_threads
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"{source} is damaged or no ONNX file ({reason}): export the run again") from None
    told = session.get_modelmeta().custom_metadata_map.get(ABOUT)
    if told is None:
        raise UserError(f"{source} was not written by seqrl export: it does not tell what its inputs mean")
    names, inputs = [o.name for o in session.get_outputs()], [i.name for i in session.get_inputs()]

    def function(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {name: given[name] for name in inputs}), strict=True))

    return function, json.loads(told)


def draw(outputs: dict[str, np.ndarray], about: dict[str, Any], draws: np.random.Generator) -> np.ndarray:
    """A random action [B, ...] of the policy, as the environment takes it, from its parameters in `outputs`.

    Values of actions have no distribution: of them the largest is taken, as with ε = 0.
    """
    space, policy, likeliest = about["action_space"], about["policy"], outputs["action"]
    if policy["type"] == "EpsilonGreedy":
        return likeliest
    if policy["type"] == "Gaussian":
        mean, log_std = outputs["policy.mean"], outputs["policy.log_std"]
        low: Any
        high: Any
        raw = mean + np.exp(log_std) * draws.standard_normal(mean.shape, np.float32)
        if policy["bound"] != "none":
            unit = np.tanh(raw) if policy["bound"] == "squash" else raw.clip(-1, 1)
            low, high = np.float32(policy["low"]), np.float32(policy["high"])
            raw = low + 0.5 * (unit + 1) * (high - low)
        else:
            low, high = (np.asarray(space[bound], np.float32).flatten() for bound in ("low", "high"))
        raw = raw.clip(low, high)
        return raw.reshape(likeliest.shape).astype(np.float32)
    log_probs = outputs["policy.log_probs"]
    # The largest of log p − log E with E ~ Exp(1) is distributed as p; 0 would make its action infinitely likely.
    noisy = log_probs - np.log(draws.standard_exponential(log_probs.shape).clip(np.finfo(np.float64).tiny))
    parts = np.split(noisy, np.cumsum(policy["sizes"])[:-1], axis=-1)
    action = np.stack([part.argmax(-1) for part in parts], -1).reshape(likeliest.shape)
    return (action + np.asarray(space.get("start", 0))).astype(likeliest.dtype)


def _read(observation: Any, space: dict[str, Any], name: str, leaves: dict[str, np.ndarray]) -> bool:
    """Put an observation's leaves, with a batch axis, under their names. Returns whether it came without one."""
    if space["type"] == "Dict":
        keys = space["spaces"]
        if not isinstance(observation, dict) or not set(keys) <= set(observation):
            raise not_these_keys(keys)
        singles = [_read(observation[key], keys[key], f"{name}.{key}", leaves) for key in keys]
        return all(singles)  # after all leaves were read
    if space["type"] == "Tuple":
        parts = space["spaces"]
        if not isinstance(observation, tuple) or len(observation) != len(parts):
            raise UserError(f"act: the observation is not a tuple of {len(parts)}")
        pairs = enumerate(zip(observation, parts, strict=True))
        singles = [_read(part, child, f"{name}.{index}", leaves) for index, (part, child) in pairs]
        return all(singles)
    leaf, shape = np.asarray(observation), shape_of(space)
    single = leaf.shape == shape
    if not single and leaf.shape[1:] != shape:
        raise UserError(
            f"act: {name} of shape {leaf.shape} does not fit {space['type']} of shape {shape}, nor a batch of them"
        )
    if leaf.dtype.kind not in "biuf":
        raise UserError(f"act: {name} is an array of {leaf.dtype}: give numbers")
    if leaf.dtype.kind == "f" and not np.isfinite(leaf).all():
        raise UserError("act: the observation holds NaN or infinity: mend the environment or the sensor")
    whole = space["type"] != "Box" or np.dtype(space["dtype"]).kind != "f"
    if whole and leaf.dtype.kind == "f":
        raise UserError(f"act: {name} is an array of {leaf.dtype}: {space['type']} holds whole numbers")
    if space["type"] in ("Discrete", "MultiDiscrete"):
        start, sizes = np.asarray(space["start"]), np.asarray(space.get("n", space.get("nvec")))
        if not ((leaf >= start) & (leaf < start + sizes)).all():
            raise UserError(f"act: {name} lies outside its {space['type']} space")
    leaves[name] = leaf[None] if single else leaf
    return single


def shape_of(space: dict[str, Any]) -> tuple[int, ...]:
    """The shape of an element of a space that is no Dict and no Tuple, from the space's JSON."""
    return {"Discrete": (), "MultiDiscrete": np.shape(space.get("nvec", ()))}.get(
        space["type"], tuple(space.get("shape", ()))
    )


def _rows(name: str, value: Any, batch_size: int, dtype: Any) -> np.ndarray:
    """`value` as one entry a row of the batch."""
    rows = np.asarray(value, dtype)
    if rows.shape not in ((), (batch_size,)):
        raise UserError(f"act: {name} has the shape {rows.shape}: give one value, or {batch_size}")
    if not all(math.isfinite(entry) for entry in rows.flat):
        raise UserError(f"act: {name} is NaN or infinite: mend the environment")
    return np.broadcast_to(rows, batch_size)
