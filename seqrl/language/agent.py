"""What speaks after training: a policy in tokens, with the vocabulary that it was trained in."""

from torch import nn

from seqrl.language.generation import Plain, Voice
from seqrl.language.model import LanguageModel
from seqrl.text import Tokenizer


class LanguageAgent(nn.Module):
    """A language model that speaks as the agent of a dialogue. `voice()` is what `play` and `generate` take."""

    def __init__(self, tokenizer: Tokenizer, policy: LanguageModel) -> None:
        super().__init__()
        self.tokenizer, self.policy = tokenizer, policy

    @property
    def device(self):  # type: ignore[no-untyped-def]
        return self.policy.device

    def cloned(self) -> "LanguageAgent":
        """The policy alone, without what steers it or chooses among what it says. Of dpo and kto it is what was tuned:
        their checkpoints do not keep what it began as."""
        return LanguageAgent(self.tokenizer, self.policy)

    def voice(self) -> Voice:
        """Speaks by the policy's own probabilities."""
        return Plain(self.policy)
