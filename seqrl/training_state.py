"""Everything that a training run's next update depends on, saved and restored together."""

from typing import Protocol

from seqrl.acting import ActingModule
from seqrl.checkpoint import counter
from seqrl.run import Run, Stateful
from seqrl.run_folder import CHECKPOINT
from seqrl.seeds import derived_seed
from seqrl.testing.own_memory import warn_of_broken_laws
from seqrl.trajectory import Tree

NETWORKS = ("agent", "critic", "target", "temperature")
"""The parts that a run which starts from another one takes over: what was learnt, and nothing of how far it was."""


class Acting(Stateful, Protocol):
    """What acts: a rollout, or an engine with several of them."""

    @property
    def state(self) -> Tree:
        """The memory's state before the next row; a tuple of them, one for each actor, of an engine."""

    def restart(self, seed: int) -> None: ...


class Interruptible(Stateful, Protocol):
    """A replay, whose rows must say where episodes were ended from outside."""

    def interrupt(self, state: Tree) -> None: ...


class TrainingState:
    """The parts of a run that a checkpoint holds, and the number of updates so far.

    An environment that can be saved is a part itself. One that cannot begins new episodes at every checkpoint, with a
    seed made of the run's seed and the update: so an interrupted run and an uninterrupted one see the same episodes.
    """

    def __init__(
        self,
        seed: int,
        agent: ActingModule,
        environment: Stateful,
        rollout: Acting,
        replay: Interruptible | None = None,
        **parts: Stateful,
    ):
        self.seed, self.rollout, self.replay, self.updates = seed, rollout, replay, 0
        self.saves_environment = environment.state_dict() is not None
        self.agent = agent
        self.parts: dict[str, Stateful] = {"agent": agent, "rollout": rollout, **parts}
        if replay is not None:
            self.parts["replay"] = replay
        if self.saves_environment:
            self.parts["environment"] = environment

    def save(self, run: Run, step: int) -> None:
        """Write a checkpoint."""
        if not self.saves_environment:
            self._begin_new_episodes()
        run.save(self.parts, {"step": step, "updates": self.updates})

    def save_interrupted(self, run: Run, step: int) -> None:
        """Save between two checkpoints, if that does not change what an uninterrupted run would have done."""
        if self.saves_environment:
            self.save(run, step)

    def restore(self, run: Run) -> int:
        """Go back to the run's last checkpoint, if it has one, else to the networks of the run that it starts from.
        Returns the step.

        Of a new run, first say so where the agent's memory breaks the laws.
        """
        if run.is_new:
            warn_of_broken_laws(self.agent)
        counters = run.restore({})
        if not counters:
            if run.start_from:
                run.take_over({name: part for name, part in self.parts.items() if name in NETWORKS})
            return 0
        self.updates = counter(counters, "updates", run.folder / CHECKPOINT)
        if not self.saves_environment:
            self._begin_new_episodes()
        run.restore(self.parts)
        return counters["step"]

    def _begin_new_episodes(self) -> None:
        if self.replay is not None:
            self.replay.interrupt(self.rollout.state)
        # A user's own batch may give row i the seed plus i, and share episodes. The 1 tells it from an actor's seed.
        self.rollout.restart(derived_seed(self.seed, self.updates, 1) >> 2)  # below 2³⁰: it stays an int32
