"""Acting: an agent and a batch of environments make trajectories."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqrl.actor_critic import ActorCritic, Seeing
from seqrl.agent import Agent
from seqrl.data.captured import Captured, OnDevice, on_device
from seqrl.envs import Environment
from seqrl.errors import UserError
from seqrl.nets import Gaussian, Mixed
from seqrl.seeds import derived_seed
from seqrl.trajectory import AgentInput, Trajectory, Tree, to_device, tree_leaves, tree_like, tree_map, tree_stack


class Episodes(NamedTuple):
    """The episodes that ended while collecting, in order of their ends."""

    returns: list[float]
    lengths: list[int]

    def metrics(self) -> dict[str, float]:
        """Mean return and length and the number of episodes, for the log; nothing when none ended."""
        if not self.returns:
            return {}
        return {
            "episode_return": float(np.mean(self.returns)),
            "episode_length": float(np.mean(self.lengths)),
            "episodes": float(len(self.returns)),
        }


class Rollout:
    """Carries the environments, the memory's state and the last row from one `collect` to the next.

    `seed` seeds the environments and the draws of actions, which come from a generator of their own. With
    `noise_correlation` ρ, the noise of Gaussian actions is ε_t = ρ ε_{t−1} + √(1 − ρ²) ξ_t: each draw is still standard
    normal, as its log-probability says, but the exploration is smooth in time (Hollenstein et al. 2024,
    arXiv 2312.11091, with an AR(1) process in place of coloured noise). `explore` makes of the distribution that the
    policy's head gives the one that is acted on. Of an agent without a value head, the trajectories' values are 0.

    On a CUDA device, acting that reads nothing back is captured as one CUDA graph when the same `collect` is asked for
    a second time in a row, and replayed from then on, with the same results bit for bit (`seqrl.data.captured`).
    """

    captures = True
    """Whether acting may be captured; False where the agent's modules do what a graph cannot hold."""

    def __init__(
        self,
        environment: Environment,
        agent: Agent | ActorCritic | Seeing,
        seed: int,
        noise_correlation: float = 0.0,
        explore: Callable[[Any], Any] | None = None,
    ):
        self.environment, self.agent, self.noise_correlation = environment, agent, noise_correlation
        self.explore = explore
        # With the environments' own seed, noise of theirs could be the noise of actions, and be learnt from.
        self.generator = torch.Generator(agent.device).manual_seed(derived_seed(seed, 2))
        self._captured: Captured | None = None
        self._asked: tuple[Any, ...] = ()
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Reset every environment with `seed`, and begin new episodes."""
        batch_size = self.environment.num_envs
        step = self.environment.reset(seed)
        self.inputs = self.agent.initial_input(step.observation)
        self.state = self.agent.initial_state(batch_size)
        self.mask = step.mask
        self.noise: Tensor | None = None
        self.episode_return = np.zeros(batch_size)
        self.episode_length = np.zeros(batch_size, dtype=np.int64)

    @torch.no_grad()
    def collect(self, num_steps: int, state_rows: Collection[int] = (0,)) -> tuple[Trajectory, Episodes]:
        """Act for `num_steps` steps of all environments, and keep the memory's state before each row of `state_rows`.

        Environments that start a new episode within the same step give a longer trajectory: their final observations
        are put back as masked rows, and shorter columns are filled up with masked rows at the end.

        Raises UserError where the environment returned NaN or infinity.
        """
        trajectory, finals = self._acted(num_steps, [t for t in range(num_steps) if t in state_rows])
        _refuse_nan(trajectory)
        episodes = self._track(trajectory)
        if finals:
            trajectory = insert_final_observations(trajectory, *finals)
        return trajectory, episodes

    def _acted(self, num_steps: int, state_rows: list[int]) -> tuple[Trajectory, Tree]:
        """`_act`, from a graph where it can be."""
        device_part = on_device(self.agent, self.environment) if self.captures and self.explore is None else None
        if device_part is None:
            return self._act(num_steps, state_rows)
        # A graph reads weights and statistics where they were, and begins with noise or without.
        places = [leaf.data_ptr() for leaf in (*self.agent.parameters(), *self.agent.buffers())]
        asked = (num_steps, state_rows, self.noise is None, places)
        if asked != self._asked:  # act without a graph: where each rollout differs from the last, capturing never pays
            self._asked, self._captured = asked, None
            return self._act(num_steps, state_rows)
        carry = self._carry(device_part)
        if self._captured is None:

            def loop(carry: Tree) -> tuple[Tree, Tree]:
                self._take_up(device_part, carry)
                results = self._act(num_steps, state_rows)
                return self._carry(device_part), results

            generators = [self.generator, *device_part.generators]
            self._captured = Captured(loop, carry, generators, self.agent.device)
        carry, results = self._captured.replay(carry)
        self._take_up(device_part, carry)
        return results

    def _carry(self, device_part: OnDevice) -> Tree:
        """All that acting begins with and changes, the generators apart."""
        noise = () if self.noise is None else self.noise
        return self.inputs, self.state, self.mask, noise, device_part.carry

    def _take_up(self, device_part: OnDevice, carry: Tree) -> None:
        self.inputs, self.state, self.mask, noise, rest = carry
        self.noise = None if isinstance(noise, tuple) else noise
        device_part.take_up(rest)

    def _act(self, num_steps: int, state_rows: list[int]) -> tuple[Trajectory, Tree]:
        """The trajectory, and where episodes begin within the step, the final observations' rows and their values."""
        rows: list[Tree] = []
        states: list[Tree] = []
        finals: list[tuple[AgentInput, Tensor]] = []
        for t in range(num_steps):
            if t in state_rows:
                states.append(self.state)
            inputs = self.inputs
            outputs, self.state = self.agent.step(inputs, self.state)
            distribution = outputs["policy"] if self.explore is None else self.explore(outputs["policy"])
            value = self._value(outputs)
            raw = self._sample(distribution)
            action = self.agent.environment_action(distribution, raw[0])
            step = self.environment.step(action)
            log_prob = distribution.log_prob(raw)[0]
            rows.append((inputs, raw[0], step.reward, step.terminated, step.truncated, self.mask, log_prob, value))
            self.inputs, self.mask = AgentInput.following(step, action), step.mask
            if step.final_observation is not None:
                final = AgentInput(step.final_observation, action, step.reward, torch.zeros_like(step.is_first))
                finals.append((final, self._value(self.agent.step(final, self.state)[0])))
        has_value = "value" in self.agent.heads
        bootstrap = self._value(self.agent.step(self.inputs, self.state)[0] if has_value else {})
        inputs, action, reward, terminated, truncated, mask, log_prob, value = tree_stack(rows)
        trajectory = Trajectory(
            tree_map(lambda rows, last: torch.cat([rows, last.unsqueeze(0)]), inputs, self.inputs),
            *(action, reward, terminated, truncated, mask, log_prob),
            torch.cat([value, bootstrap.unsqueeze(0)]),
            tree_stack(states) if states else (),
        )
        return trajectory, tree_stack(finals) if finals else ()

    def _value(self, outputs: dict[str, Any]) -> Tensor:
        return outputs["value"][0] if "value" in outputs else self.inputs.previous_reward.new_zeros(len(self.mask))

    def _sample(self, distribution: object) -> Tensor:
        if self.noise_correlation == 0.0 or not isinstance(distribution, Gaussian | Mixed):
            return distribution.sample(self.generator)  # type: ignore[attr-defined]
        fresh = torch.empty_like(distribution.mean).normal_(generator=self.generator)
        if self.noise is not None:
            rho = self.noise_correlation
            fresh = rho * self.noise + (1 - rho**2) ** 0.5 * fresh
        self.noise = fresh
        return distribution.from_noise(fresh, self.generator)

    def _track(self, trajectory: Trajectory) -> Episodes:
        """Follow each environment's return and length, and give those of the episodes that ended."""
        episodes = Episodes([], [])
        ended = (trajectory.terminated | trajectory.truncated).cpu().numpy()
        reward, mask = trajectory.reward.double().cpu().numpy(), trajectory.mask.cpu().numpy()
        for t in range(len(reward)):
            self.episode_return += reward[t]
            self.episode_length += mask[t]
            if ended[t].any():
                episodes.returns.extend(self.episode_return[ended[t]].tolist())
                episodes.lengths.extend(self.episode_length[ended[t]].tolist())
                self.episode_return[ended[t]] = 0.0
                self.episode_length[ended[t]] = 0
        return episodes

    def state_dict(self) -> dict[str, Tree]:
        """What the next `collect` depends on besides the environments and the weights."""
        return {
            "generator": self.generator.get_state(),
            "inputs": self.inputs,
            "state": self.state,
            "mask": self.mask,
            "episode_return": torch.from_numpy(self.episode_return.copy()),
            "episode_length": torch.from_numpy(self.episode_length.copy()),
            **({} if self.noise is None else {"noise": self.noise}),
        }

    def load_state_dict(self, state: dict[str, Tree]) -> None:
        self.generator.set_state(state["generator"].cpu())
        state = to_device(state, self.agent.device)
        self.inputs, self.state = tree_like(self.inputs, state["inputs"]), tree_like(self.state, state["state"])
        self.mask = state["mask"]
        self.noise = state.get("noise")
        self.episode_return = state["episode_return"].cpu().numpy().copy()
        self.episode_length = state["episode_length"].cpu().numpy().copy()


def insert_final_observations(trajectory: Trajectory, final: AgentInput, final_value: Tensor) -> Trajectory:
    """Bring rows collected under same-step resets to the one layout: a masked row after each end of an episode.

    `trajectory` has T rows and its resets within the step: row t + 1 is already the next episode's first. `final` and
    `final_value` have T rows; row t is what row t + 1 would have been without the reset. Column b grows by its number
    of ends; all columns are filled up to the longest with masked rows, which begin with the column's bootstrap row.
    """
    num_steps, batch_size = trajectory.reward.shape
    ended = trajectory.terminated | trajectory.truncated
    before = ended.long().cumsum(0) - ended.long()  # how many rows were put in above row t
    length = num_steps + int(ended.sum(0).max())
    step, column = torch.arange(num_steps, device=ended.device)[:, None], torch.arange(batch_size, device=ended.device)
    # For each row of the result, the row of `rows ++ finals` that it shows; first all show the bootstrap row.
    source = torch.full((length + 1, batch_size), num_steps, device=ended.device)
    source[step + before, column] = step.expand(-1, batch_size)
    rows, columns = ended.nonzero(as_tuple=True)
    source[(rows + before[rows, columns] + 1), columns] = num_steps + 1 + rows
    played = source < num_steps
    filled = (source == num_steps).cumsum(0) > 1

    def lay_out(leaf: Tensor, last: Tensor) -> Tensor:
        return torch.cat([leaf, last])[source, column]

    def lay_out_played(leaf: Tensor) -> Tensor:
        return lay_out(leaf, leaf.new_zeros(num_steps + 1, *leaf.shape[1:]))[:-1]

    inputs = tree_map(lay_out, trajectory.inputs, final)
    action, reward, terminated, truncated, mask, log_prob = (lay_out_played(leaf) for leaf in trajectory[1:7])
    return Trajectory(
        inputs._replace(is_first=inputs.is_first | filled),
        *(action, reward, terminated, truncated, mask & played[:-1], log_prob),
        lay_out(trajectory.value, final_value),
        trajectory.states,
    )


def _refuse_nan(trajectory: Trajectory) -> None:
    leaves = [("an observation", leaf) for leaf in tree_leaves(trajectory.inputs.observation)]
    for name, leaf in [*leaves, ("a reward", trajectory.reward)]:
        # One pass without a copy: a sum is finite only if every entry is.
        if leaf.is_floating_point() and not torch.isfinite(leaf.sum()):
            bad = (~torch.isfinite(leaf)).flatten(2).any(-1) if leaf.ndim > 2 else ~torch.isfinite(leaf)
            if bad.any():
                step, index = bad.nonzero()[0].tolist()
                raise UserError(
                    f"environment {index} returned {name} that is NaN or infinite, at step {step} of the rollout: "
                    "mend the environment; a checkpoint that was written is kept"
                )
