"""What is fine-tuned by rewards: a policy that learns, the one it began as, and, for PPO, values."""

import copy
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import Plain, Voice, sayable
from seqrl.language.likelihood import Decided
from seqrl.language.model import LanguageModel
from seqrl.text import Tokenizer


class ValueModel(nn.Module):
    """V(s) = w · y + b, with y the features of a language model after all tokens of s. It begins at 0."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(model.output_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Int[Tensor, "T B"], said: Decided) -> Float[Tensor, "D B"]:
        """Before each of the agent's tokens; 0 where there is none."""
        return spread(self.head(at_tokens(self.model, tokens, said))[:, 0].float(), said)


def at_tokens(
    model: LanguageModel, tokens: Int[Tensor, "T B"], said: Decided, group_size: int = 1
) -> Float[Tensor, "N H"]:
    """Features before each of the agent's N tokens, in the order in which `said.valid` has them: what is wide, such as
    logits, need not be computed where there is no token. Nothing behind the last of them is read, and what the
    conversations of a group begin with is read once."""
    y = model.forward_alike(tokens[: int(said.row.max()) + 1], group_size)
    place = said.row * y.shape[1] + torch.arange(y.shape[1], device=y.device)
    return y.flatten(0, 1).index_select(0, place[said.valid])


def spread(x: Float[Tensor, "N"], said: Decided) -> Float[Tensor, "D B"]:
    """Numbers of the agent's tokens where these stand, and 0 where there is none."""
    return torch.zeros(said.valid.shape, dtype=x.dtype, device=x.device).masked_scatter(said.valid, x)


class Tempered:
    """A voice whose logits are divided by a temperature: drawing from it is drawing from the other at that."""

    def __init__(self, voice: Plain, temperature: float) -> None:
        self.voice, self.temperature = voice, temperature
        self.start, self.take = voice.start, voice.take

    def read(self, tokens: Tensor, count: Tensor, context: Any) -> tuple[Tensor, Any]:
        logits, context = self.voice.read(tokens, count, context)
        return logits / self.temperature, context


class Generator(Protocol):
    """Speaks for a policy, by its probabilities at the temperature that it was made with."""

    def speaking_for(self, model: LanguageModel) -> Voice:
        """A voice with the weights that `model` has now."""

    def close(self) -> None:
        """It is not needed any more."""


class TunedSpeaker(LanguageAgent):
    """A policy that is fine-tuned, as far as it speaks. An actor needs no more.

    What is trained is what speaks: log π is that of the tokens that an agent may say (`sayable`), at `temperature`,
    and so is what `voice()` says.
    """

    allowed: Bool[Tensor, "V"]

    def __init__(
        self,
        tokenizer: Tokenizer,
        policy: LanguageModel,
        *,
        temperature: float = 1.0,
        precision: torch.dtype = torch.float32,
        group_size: int = 1,
    ) -> None:
        super().__init__(tokenizer, policy)
        self.temperature, self.precision, self.group_size = temperature, precision, group_size
        self.generator: Generator | None = None
        """What speaks for the policy, where it does not speak itself."""
        self.register_buffer("allowed", sayable(tokenizer), persistent=False)

    def voice(self) -> Voice:
        """Speaks by the policy's probabilities at its temperature."""
        if self.generator is not None:
            return self.generator.speaking_for(self.policy)
        plain = Plain(self.policy)
        return plain if self.temperature == 1 else Tempered(plain, self.temperature)

    def speak_itself(self) -> None:
        """From now on the policy speaks, and nothing for it."""
        if self.generator is not None:
            self.generator.close()
        self.generator = None

    def autocast(self) -> torch.autocast:
        """The precision of the models' products in training; speaking, logarithms and losses stay in float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)

    def features(self, model: LanguageModel, tokens: Int[Tensor, "T B"], said: Decided) -> Float[Tensor, "N H"]:
        """Of the policy or the reference, before each of the agent's tokens."""
        with self.autocast():
            return at_tokens(model, tokens, said, self.group_size)

    def log_probs(self, model: LanguageModel, y: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """log π(· | all tokens before), as tokens are drawn; −∞ for those that are never said."""
        with self.autocast():
            logits = model.logits(y)
        logits = logits.float().masked_fill(~self.allowed, -torch.inf)
        return (logits if self.temperature == 1 else logits / self.temperature).log_softmax(-1)


class TunedAgent(TunedSpeaker):
    """A policy that is fine-tuned, and a frozen copy of what it began as: its reference.

    `values`, if it has any, are a model of their own that begins as a copy of the policy's: so nothing but rewards and
    the KL moves the policy, and no weight has to be found between their losses.
    """

    def __init__(
        self, tokenizer: Tokenizer, policy: LanguageModel, *, has_values: bool = False, **options: Any
    ) -> None:
        """`options` are those of `TunedSpeaker`."""
        super().__init__(tokenizer, policy, **options)
        self.reference = copy.deepcopy(policy).requires_grad_(False)
        self.values = ValueModel(copy.deepcopy(policy)) if has_values else None

    def cloned(self) -> LanguageAgent:
        """The reference: its policy is what was made of it."""
        return LanguageAgent(self.tokenizer, self.reference)

    @torch.no_grad()
    def begin(self) -> None:
        """Let the reference, and the values' model, be what the policy is now."""
        self.reference.load_state_dict(self.policy.state_dict())
        if self.values is not None:
            self.values.model.load_state_dict(self.policy.state_dict())

    def worth(self, tokens: Int[Tensor, "T B"], said: Decided) -> Float[Tensor, "D B"]:
        """V at the agent's tokens; 0 without values."""
        if self.values is None:
            return torch.zeros(said.row.shape, device=said.row.device)
        with self.autocast():
            return self.values(tokens, said)
