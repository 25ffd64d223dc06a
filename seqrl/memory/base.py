"""The contract of memory."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from seqrl.trajectory import Tree

State = Tree
"""A tree of tensors, batch first, whose shapes never change. May be the empty tuple."""


class Memory(nn.Module, ABC):
    """Carries what happened before, so that a policy can depend on the history.

    One method serves acting (T = 1) and training (T > 1), so that the two cannot drift apart. Four laws hold, and
    `seqrl.testing.check_memory` proves them for any module:

    1. *Chunking*: unrolling two halves, the state handed over, equals unrolling the whole.
    2. *Reset*: what follows `is_first` equals a fresh start, whatever (finite) numbers the state held.
    3. *Independence*: a batch row equals that row alone.
    4. *Causality*: y_t does not depend on x_{>t}, in values and in gradients.
    """

    input_size: int
    output_size: int
    stores_state: bool = True
    """Whether the state is small enough for replay. A key/value cache is inference state, never replay data."""

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state of a fresh start, leaves [batch_size, ...], on the module's device."""

    @abstractmethod
    def unroll(
        self, x: Float[Tensor, "T B D"], state: State, is_first: Bool[Tensor, "T B"]
    ) -> tuple[Float[Tensor, "T B H"], State]:
        """Read T rows. Where `is_first[t, b]`, row b forgets everything before x[t, b] is read.

        Returns y [T, B, output_size] and the state after the last row.
        """
