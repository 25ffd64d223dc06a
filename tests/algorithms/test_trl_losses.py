"""Losses of DPO, KTO, GRPO and RLOO, and their gradients, equal those of the installed TRL on the same tensors.

Its losses are methods of trainers: they are called on a stand-in for the trainer that has the settings they read.
"""

from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from seqrl.algorithms import dpo, kto
from seqrl.data.dialogues import Turn
from seqrl.data.preferences import Preference, thumbs_of
from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import sayable
from seqrl.language.preferences import PreferenceDataset, ThumbDataset
from seqrl.language.rows import batch_of
from seqrl.language_config import LanguageConfig, make_model
from seqrl.objectives import (
    clipped_surrogate,
    group_standardized_advantage,
    kl_k3,
    leave_one_out_advantage,
    masked_mean,
)
from seqrl.preference_run import Referenced
from seqrl.text import Tokenizer

pytest.importorskip("trl", reason="install the extra: pip install 'seqrl[dev]'")

TOKENIZER = Tokenizer(list("abc"))


def said(speaker, *texts):
    return tuple(Turn(speaker=speaker, text=text) for text in texts)


PREFERENCES = [
    Preference(id="1", prompt=said("user", "ab"), chosen=said("assistant", "abc"), rejected=said("assistant", "b")),
    Preference(id="2", prompt=said("user", "c"), chosen=said("assistant", ""), rejected=said("assistant", "ccab")),
    Preference(
        id="3",
        prompt=(*said("user", "a"), *said("assistant", "aa"), *said("user", "b")),  # the agent's own, and no answer
        chosen=said("assistant", "bb"),
        rejected=(*said("assistant", "a"), *said("user", "c"), *said("assistant", "ca")),
    ),
]


class OfHuggingFace:
    """Our model as TRL calls one of its own: rows of tokens, and log-probabilities of what is labelled."""

    def __init__(self, agent):
        self.agent, self.allowed, self.training = agent, sayable(agent.tokenizer), True

    def __call__(self, input_ids, labels, **_):
        model = self.agent.policy
        logits = model.logits(model(input_ids.T[:-1])).masked_fill(~self.allowed, -torch.inf)
        labels = labels.T[1:]
        found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        nothing = torch.zeros(labels.T.shape)
        return SimpleNamespace(
            log_probs=found.masked_fill(labels == -100, 0.0).T,
            entropy=nothing,
            mean_logits=nothing,
            is_top1=nothing.bool(),
        )


def trainer(**settings):
    """What stands for a trainer on one device."""

    def same(x, **_):
        return x

    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, gather=same, gather_for_metrics=same, reduce=same
    )
    return SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=accelerator, aux_loss_enabled=False,
        precompute_ref_logps=True, _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1, **settings,
    )  # fmt: skip


@pytest.fixture
def agent():
    return LanguageAgent(TOKENIZER, make_model(LanguageConfig(hidden_size=8, seed=3), TOKENIZER))


def columns(batches):
    """TRL's tensors of conversations, from rows of the same tokens: [B, T + 1]."""
    whole = batch_of([row for rows in batches for row in rows])
    mask = torch.cat([torch.zeros(1, whole.mask.shape[1], dtype=torch.bool), whole.mask]).T.long()
    return {"input_ids": whole.tokens.T, "completion_mask": mask, "attention_mask": (whole.tokens.T != 0).long()}


def of_both(agent, ours, theirs):
    """Two losses and all gradients, equal."""
    found = []
    for loss in (ours, theirs):
        agent.zero_grad()
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in agent.parameters() if p.grad is not None)])
    assert len(found[0]) > 5
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


# Broken by a prompt's tokens in the sums, the means of log-ratios for their sums, or β on one side.
@pytest.mark.parametrize(("objective", "theirs"), [("dpo", "sigmoid"), ("ipo", "ipo")])
def test_dpo(agent, objective, theirs):
    from trl.trainer.dpo_trainer import DPOTrainer

    dataset = PreferenceDataset.of(PREFERENCES, TOKENIZER)
    reference = torch.tensor([[-4.0, -2.5, -7.0], [-3.0, -9.0, -8.0]])
    config = dpo.Config(policy="x", preferences="x", beta=0.3, objective=objective)
    ours, _ = dpo.loss(agent, Referenced(dataset.pairs(range(3)), reference), config)
    self = trainer(
        beta=0.3, ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[theirs], loss_weights=[1.0],
        use_weighting=False, label_smoothing=0.0,
    )  # fmt: skip
    inputs = columns([dataset.chosen, dataset.rejected])
    inputs |= {"ref_chosen_logps": reference[0], "ref_rejected_logps": reference[1]}
    of_both(agent, ours, DPOTrainer._compute_loss(self, OfHuggingFace(agent), inputs, False))


# Broken by exchanging λ_D and λ_U, a KL of the answers themselves, or a KL below 0.
@pytest.mark.parametrize("shift", [-6.0, 6.0])
def test_kto(agent, shift):
    """At −6 the mismatched answers are likelier than under the reference, so that z is above 0; at 6 it is 0."""
    from trl.trainer.kto_trainer import KTOTrainer

    dataset = ThumbDataset.of(thumbs_of(PREFERENCES), TOKENIZER)
    answers = dataset.batch(range(6))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        reference = kto.log_probs(agent, answers) + torch.randn(2, 6, generator=generator)
    reference[1] += shift
    config = kto.Config(policy="x", thumbs="x", beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
    ours, metrics = kto.loss(agent, Referenced(answers, reference), config)
    assert (metrics["kl"] > 0) == (shift < 0)
    self = trainer(
        beta=0.3, loss_type="kto", calculate_KL=True, desirable_weight=1.5, undesirable_weight=0.5,
    )  # fmt: skip
    self._compute_kl_logps = partial(KTOTrainer._compute_kl_logps, self)
    inputs = columns([dataset.answer]) | {f"KL_{key}": leaf for key, leaf in columns([dataset.mismatched]).items()}
    inputs |= {"ref_logps": reference[0], "ref_KL_logps": reference[1], "label": answers.desirable}
    of_both(agent, ours, KTOTrainer._compute_loss(self, OfHuggingFace(agent), inputs, False))


def of_groups(num_tokens=5):
    """Two prompts, three answers each: log π, log π_old and log π_ref of tokens [T, 6], mask, and returns [2, 3]."""
    generator = torch.Generator().manual_seed(1)
    now, old, reference = -2 * torch.rand(3, num_tokens, 6, generator=generator)
    mask = torch.arange(num_tokens)[:, None] < torch.tensor([5, 1, 3, 2, 4, 5])
    return now.requires_grad_(), old, reference, mask, torch.randn(2, 3, generator=generator)


def of_trl(self, method, now, old, reference, mask, advantage):
    """The loss of a trainer's `method`, on these tensors."""
    self._get_per_token_logps_and_entropies = lambda *_, **__: (now.T, torch.zeros(mask.T.shape), None)
    prompt, answer = torch.ones(6, 2, dtype=torch.long), torch.ones(mask.T.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": answer, "completion_mask": mask.T.long(),
        "advantages": advantage.flatten(), "old_per_token_logps": old.T, "ref_per_token_logps": reference.T,
        "old_logps": (old * mask).sum(0), "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    loss = method(self, None, inputs)
    return loss, torch.autograd.grad(loss, now)[0]


# Broken by KL(π_ref ‖ π)'s k3, a clip of 1 ± 2ε, or a mean over answers for TRL's over tokens ("dapo", its default).
def test_grpo():
    from trl.trainer.grpo_trainer import GRPOTrainer

    now, old, reference, mask, returns = of_groups()
    advantage = group_standardized_advantage(returns)
    error = clipped_surrogate(now, old, advantage.flatten().expand_as(now), 0.2) + 0.05 * kl_k3(now, reference)
    ours = masked_mean(error, mask)
    self = trainer(
        beta=0.05, epsilon_low=0.2, epsilon_high=0.2, loss_type="dapo", importance_sampling_level="token",
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    )  # fmt: skip
    theirs, gradient = of_trl(self, GRPOTrainer._compute_loss, now, old, reference, mask, advantage)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, now)[0], gradient)
    assert (gradient[~mask] == 0).all()


# Broken by ratios of tokens: RLOO's there are those of whole answers.
def test_rloo():
    from trl.trainer.rloo_trainer import RLOOTrainer

    now, old, reference, mask, returns = of_groups()
    advantage = leave_one_out_advantage(returns)
    ours = clipped_surrogate((now * mask).sum(0), (old * mask).sum(0), advantage.flatten(), 0.2).mean()
    self = trainer(epsilon_low=0.2, epsilon_high=0.2)
    theirs, gradient = of_trl(self, RLOOTrainer._compute_loss, now, old, reference, mask, advantage)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, now)[0], gradient)
