"""Two agents as one: an actor that acts, and a critic that judges, each with an encoder and a memory of its own."""

from typing import Any

from torch import nn

from seqrl.acting import ActingModule
from seqrl.agent import Agent
from seqrl.memory.base import Memory, State
from seqrl.trajectory import AgentInput, Trajectory


class ActorCritic(ActingModule):
    """Says what both say of a row; the state is the pair of their states.

    No gradient of the critic's reaches the actor, whose policy then rests on nothing that values alone needed. On
    Hopper that was worth more than all other settings of PPO that were tried (docs/log.md); Andrychowicz et al. 2020
    (arXiv 2006.05990) advise it for agents without memory. Acting takes up to twice the time while training: what is
    handed over needs the `actor` alone.
    """

    def __init__(self, actor: Agent, critic: Agent):
        super().__init__(actor.observation_space, actor.action_space)
        self.actor, self.critic = actor, critic

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
        said, acting = self.actor.unroll(inputs, state[0])
        judged, judging = self.critic.unroll(inputs, state[1])
        return said | judged, (acting, judging)

    def update_statistics(self, trajectory: Trajectory) -> None:
        """`Agent.update_statistics` of both."""
        self.actor.update_statistics(trajectory)
        self.critic.update_statistics(trajectory)
