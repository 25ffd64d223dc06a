"""Two agents as one: an actor that acts, and a critic that judges, each with an encoder and a memory of its own."""

from typing import Any

from torch import nn

from seqrl.acting import ActingModule
from seqrl.agent import Agent
from seqrl.envs.privileged import PRIVILEGED, SEEN
from seqrl.memory.base import Memory, State
from seqrl.trajectory import AgentInput, Trajectory


class ActorCritic(ActingModule):
    """Says what both say of a row; the state is the pair of their states.

    No gradient of the critic's reaches the actor, whose policy then rests on nothing that values alone needed. On
    Hopper that was worth more than all other settings of PPO that were tried (docs/log.md); Andrychowicz et al. 2020
    (arXiv 2006.05990) advise it for agents without memory. Acting takes up to twice the time while training: what is
    handed over needs the `actor` alone.

    A `privileged` critic sees more than the actor: observations as `seqrl.envs.privileged` shows them while training.
    Of any others, what the actor sees, the actor alone speaks, and there is no value.
    Source: Pinto et al. 2018, "Asymmetric Actor Critic" (arXiv 1710.06542). Baisero and Amato 2022 (arXiv 2105.11674)
    show that a critic of the state alone is biased where the actor remembers; this one has a memory of all it saw.
    """

    def __init__(self, actor: Agent, critic: Agent, privileged: bool = False):
        super().__init__(actor.observation_space, actor.action_space)
        self.actor, self.critic, self.privileged = actor, critic, privileged

    @property
    def heads(self) -> nn.ModuleDict:  # type: ignore[override]
        return nn.ModuleDict({**self.actor.heads, **self.critic.heads})

    @property
    def memory(self) -> Memory:
        """What the actor remembers with."""
        return self.actor.memory

    @property
    def reads_reward(self) -> bool:  # type: ignore[override]
        return self.actor.reads_reward

    def initial_state(self, batch_size: int) -> State:
        return self.actor.initial_state(batch_size), self.critic.initial_state(batch_size)

    def unroll(self, inputs: AgentInput, state: State) -> tuple[dict[str, Any], State]:
        """`Agent.unroll` of both: what each head says, leaves [T, B, ...], and their states after the rows."""
        seen, whole = self._parted(inputs)
        said, acting = self.actor.unroll(seen, state[0])
        if whole is None:
            return said, (acting, state[1])
        judged, judging = self.critic.unroll(whole, state[1])
        return said | judged, (acting, judging)

    def _parted(self, inputs: AgentInput) -> tuple[AgentInput, AgentInput | None]:
        """What the actor reads, and the critic; None where it is not shown what it needs."""
        if not self.privileged:
            return inputs, inputs
        observation = inputs.observation
        told = isinstance(observation, dict) and observation.keys() == {SEEN, PRIVILEGED}
        return split(inputs) if told else (inputs, None)

    def update_statistics(self, trajectory: Trajectory) -> None:
        """`Agent.update_statistics` of both."""
        for part, inputs in zip((self.actor, self.critic), self._parted(trajectory.inputs), strict=True):
            if inputs is not None:
                part.update_statistics(trajectory._replace(inputs=inputs))


def split(inputs: AgentInput) -> tuple[AgentInput, AgentInput]:
    """Of rows that show all, as `seqrl.envs.privileged` does: what the actor reads, and what the critic does."""
    seen, privileged = (inputs._replace(observation=inputs.observation[key]) for key in (SEEN, PRIVILEGED))
    return seen, privileged


class Seeing(ActingModule):
    """An actor among rows that show all, of which it reads what it sees; for one whose critics do not act with it."""

    def __init__(self, actor: Agent):
        super().__init__(actor.observation_space, actor.action_space)
        self.actor, self.heads, self.reads_reward = actor, actor.heads, actor.reads_reward

    def initial_state(self, batch_size: int) -> State:
        return self.actor.initial_state(batch_size)

    def unroll(self, inputs: AgentInput, state: State) -> tuple[dict[str, Any], State]:
        return self.actor.unroll(split(inputs)[0], state)

    def update_statistics(self, trajectory: Trajectory) -> None:
        """`Agent.update_statistics` of the actor."""
        self.actor.update_statistics(trajectory._replace(inputs=split(trajectory.inputs)[0]))
