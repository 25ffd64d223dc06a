"""What all references share: a policy whose state is what it has counted in the trial so far."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Generator, Tensor

from seqrl.envs import Environment, TorchEnvironment, TrialVectorEnv
from seqrl.trajectory import AgentInput, Tree, where_rows

State = dict[str, Tensor]
"""A reference's state by name; leaves are [B, ...]. The base adds `history` [B] int64: a number made of all that was
seen since the trial began, from which what must stay the same for a while, such as a drawn model, gets its chance."""


_OFFSET = 0x9E37_79B9  # no seed that anybody chooses


class Chosen:
    """A policy's distribution that has one action [B]: `sample` and `mode` both give it, as [1, B]."""

    def __init__(self, action: Tensor):
        self.action = action

    def sample(self, generator: Generator) -> Tensor:
        return self.action.unsqueeze(0)

    def mode(self) -> Tensor:
        return self.action.unsqueeze(0)


class Drawn(Chosen):
    """A policy's distribution given by how it is drawn from: `draw(generator)` gives actions [B].

    What is likeliest is not known. `mode` draws too, by a generator that begins with the history: a reference that
    lives by chance stays itself where likeliest actions are asked for, and the same history gives the same action.
    """

    def __init__(self, draw: Any, history: Tensor):
        self.draw, self.history = draw, history

    def sample(self, generator: Generator) -> Tensor:
        return self.draw(_apart(generator)).unsqueeze(0)

    def mode(self) -> Tensor:
        return self.draw(generator_of(self.history)).unsqueeze(0)


class Reference(ABC):
    """A policy (`seqrl.acting.Policy`) that counts what happens in a trial and acts upon it.

    A subclass gives `begin` (what it knows before the trial), `update` (what it knows a row later) and `choose`. All
    are batched and row by row: what a row's state becomes does not depend on what stands beside it. The state starts
    anew where `is_first`.
    """

    def __init__(self, environment: Environment):
        self.num_actions = int(environment.single_action_space.n)  # type: ignore[attr-defined]
        self.device = environment.device

    @abstractmethod
    def begin(self, batch_size: int) -> State: ...

    @abstractmethod
    def update(self, state: State, inputs: AgentInput) -> State:
        """The state after the previous row's action and reward, which led to this row's observation."""

    @abstractmethod
    def choose(self, state: State, inputs: AgentInput) -> Chosen: ...

    def initial_input(self, observation: Tree) -> AgentInput:
        batch_size = observation["episode_start"].shape[0]
        zero = torch.zeros(batch_size, dtype=torch.int64, device=self.device)
        return AgentInput(observation, zero, zero.float(), torch.ones_like(zero, dtype=torch.bool))

    def initial_state(self, batch_size: int) -> State:
        return self.begin(batch_size) | {"history": torch.zeros(batch_size, dtype=torch.int64, device=self.device)}

    def step(self, inputs: AgentInput, state: State) -> tuple[dict[str, Any], State]:
        batch_size = len(inputs.is_first)
        updated = self.update(state, inputs) | {"history": _longer(state["history"], inputs)}
        state = where_rows(inputs.is_first, self.initial_state(batch_size), updated)
        state = self.prepare(state, inputs)
        return {"policy": self.choose(state, inputs)}, state

    def prepare(self, state: State, inputs: AgentInput) -> State:
        """What is to be kept of this row besides, such as a plan; rows that begin a trial have begun it already."""
        return state

    def environment_action(self, distribution: Any, raw: Tensor) -> Tensor:
        return raw


def _longer(history: Tensor, inputs: AgentInput) -> Tensor:
    """The history [B] with one more row: a linear congruential step (Knuth's MMIX), the reward's bits mixed in."""
    row = inputs.previous_reward.float().view(torch.int32).long() + 31 * inputs.previous_action
    return history * 6364136223846793005 + row + 1442695040888963407  # wraps around


def generator_of(history: Tensor) -> Generator:
    """A generator that begins with the histories of all rows, and is far from one that a user's seed begins.

    PyTorch takes the lower 32 bits of a seed, where sums of congruential steps are poor: the upper ones are mixed in.
    """
    total = int(history.sum()) & 0xFFFF_FFFF_FFFF_FFFF
    return Generator(history.device).manual_seed(_OFFSET ^ (total >> 32) ^ (total & 0xFFFF_FFFF))


def _apart(generator: Generator) -> Generator:
    """A generator that follows from `generator`, with numbers of its own.

    Environments and those who play in them are often given one seed. A reference that draws from the posterior would
    then draw what the environment drew the task from, and know it.
    """
    seed = torch.randint(2**31, (1,), generator=generator, device=generator.device)
    return Generator(generator.device).manual_seed(_OFFSET ^ int(seed))


def trial_env(environment: Environment) -> TrialVectorEnv | None:
    """The trials inside `environment`, None where there are none or something is hidden of them."""
    vector_env = environment._env if isinstance(environment, TorchEnvironment) else None
    return vector_env if isinstance(vector_env, TrialVectorEnv) else None


class Memoryless(Reference):
    """A reference that needs no state."""

    def begin(self, batch_size: int) -> State:
        return {}

    def update(self, state: State, inputs: AgentInput) -> State:
        return {}


class Random(Memoryless):
    """Uniformly random actions."""

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        shape = inputs.is_first.shape
        return Drawn(
            lambda g: torch.randint(self.num_actions, shape, generator=g, device=self.device), state["history"]
        )


class Optimal(Memoryless):
    """The best action for who knows the task, asked of the environment itself; it plays there alone."""

    def __init__(self, environment: Environment):
        super().__init__(environment)
        trials = trial_env(environment)
        assert trials is not None
        self.trials = trials

    def choose(self, state: State, inputs: AgentInput) -> Chosen:
        return Chosen(self.trials.optimal_action())


def mixed(action: Tensor, num_actions: int, epsilon: float | Tensor, generator: Generator) -> Tensor:
    """`action` [B], each with the chance ε, one for all or [B], replaced by a uniform one."""
    other = torch.randint(num_actions, action.shape, generator=generator, device=action.device)
    chance = torch.rand(action.shape, generator=generator, device=action.device)
    return torch.where(chance < epsilon, other, action)


def any_best(values: Tensor, generator: Generator) -> Tensor:
    """One of the highest entries of each row, [B] from [B, n], all equally likely; 1e-4 is no difference."""
    draws = torch.rand(values.shape, generator=generator, device=values.device)
    return draws.masked_fill(values < values.amax(1, keepdim=True) - 1e-4, -1.0).argmax(1)
