"""The last few inputs side by side: the memory to try first."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqrl.memory.base import Memory, State
from seqrl.memory.sizes import check_sizes


class FrameStack(Memory):
    """y_t = tanh(W [x_{t−k+1}; …; x_t] + b), k = num_frames, with zeros in place of frames from before the episode.

    The state is [B, k − 1, input_size]: the last k − 1 inputs, oldest first, those from before the episode zeroed.

    Shapes: x [T, B, input_size] -> y [T, B, hidden_size]. Raises UserError where a size is below 1.
    Source: Mnih et al. 2015 (DQN), who repeat the first frame of an episode where this one puts zeros.
    """

    def __init__(self, input_size: int, hidden_size: int, num_frames: int = 4) -> None:
        super().__init__()
        check_sizes("FrameStack", input_size=input_size, hidden_size=hidden_size, num_frames=num_frames)
        self.input_size, self.output_size, self.num_frames = input_size, hidden_size, num_frames
        self.linear = nn.Linear(num_frames * input_size, hidden_size)

    def initial_state(self, batch_size: int) -> Float[Tensor, "B K D"]:
        return self.linear.weight.new_zeros(batch_size, self.num_frames - 1, self.input_size)

    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], Float[Tensor, "B K D"]]:
        """Read T rows; see `Memory.unroll`."""
        k = self.num_frames
        frames = torch.cat([state.transpose(0, 1), x])
        # Frames belong together where no reset lies between them. Zeros that stand in the state belong to anything.
        episode = torch.cat([is_first.new_zeros(k - 1, is_first.shape[1]), is_first]).cumsum(0)
        same_episode = episode.unfold(0, k, 1) == episode[k - 1 :, :, None]
        stacks = torch.where(same_episode[:, :, None], frames.unfold(0, k, 1), 0)  # [T, B, D, k]
        y = torch.tanh(self.linear(stacks.transpose(2, 3).flatten(2)))
        # A copy, since a view would keep all the stacks alive for as long as the state lives.
        return y, stacks[-1, :, :, 1:].transpose(1, 2).clone()
