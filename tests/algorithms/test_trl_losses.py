"""Losses of DPO, KTO, GRPO and RLOO, and their gradients, equal those of the installed TRL on the same tensors.

Its losses are methods of trainers: they are called on a stand-in for the trainer that has the settings they read.
"""

from collections import defaultdict
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from seqrl.algorithms import dpo, kto, rlhf
from seqrl.data.dialogues import Turn
from seqrl.data.preferences import Preference, thumbs_of
from seqrl.language.agent import LanguageAgent
from seqrl.language.generation import sayable
from seqrl.language.preferences import PreferenceDataset, ThumbDataset
from seqrl.language.rows import TokenTurn, batch_of, rows_of
from seqrl.language.tuned import TunedAgent
from seqrl.language.tuning import observe, of_said, with_group_advantages
from seqrl.language_runs.config import LanguageConfig, make_model
from seqrl.language_runs.preferences import Referenced
from seqrl.objectives import (
    clipped_surrogate,
    group_standardized_advantage,
    kl_k3,
    leave_one_out_advantage,
    masked_mean,
)
from seqrl.recipes import grpo, rloo
from seqrl.text import Tokenizer

pytest.importorskip("trl", reason="install the extra: pip install 'seqrl[dev]'")

TOKENIZER = Tokenizer(list("abc"))


def turns(speaker, *texts):
    return tuple(Turn(speaker=speaker, text=text) for text in texts)


PREFERENCES = [
    Preference(id="1", prompt=turns("user", "ab"), chosen=turns("assistant", "abc"), rejected=turns("assistant", "b")),
    Preference(id="2", prompt=turns("user", "c"), chosen=turns("assistant", ""), rejected=turns("assistant", "ccab")),
    Preference(
        id="3",
        prompt=(*turns("user", "a"), *turns("assistant", "aa"), *turns("user", "b")),  # the agent's own, and no answer
        chosen=turns("assistant", "bb"),
        rejected=(*turns("assistant", "a"), *turns("user", "c"), *turns("assistant", "ca")),
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
    assert (metrics["kl"] == 0) == (shift > 0)
    assert metrics["kl"] >= 0
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
    """The loss of a trainer's `method`, on these tensors [T, 6]."""
    self._get_per_token_logps_and_entropies = lambda *_, **__: (now.T, torch.zeros(mask.T.shape), None)
    prompt, answer = torch.ones(6, 2, dtype=torch.long), torch.ones(mask.T.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": answer, "completion_mask": mask.T.long(),
        "advantages": advantage.flatten(), "old_per_token_logps": old.T, "ref_per_token_logps": reference.T,
        "old_logps": (old * mask).sum(0), "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return method(self, None, inputs)


def grpo_trainer():
    """β 0.05, clipped at 0.2, and a mean over tokens ("dapo", TRL's default)."""
    return trainer(
        beta=0.05, epsilon_low=0.2, epsilon_high=0.2, loss_type="dapo", importance_sampling_level="token",
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, use_vllm=False, _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    )  # fmt: skip


# Broken by KL(π_ref ‖ π)'s k3, a clip of 1 ± 2ε, or a mean over answers.
def test_grpo():
    from trl.trainer.grpo_trainer import GRPOTrainer

    now, old, reference, mask, returns = of_groups()
    advantage = group_standardized_advantage(returns)
    error = clipped_surrogate(now, old, advantage.flatten().expand_as(now), 0.2) + 0.05 * kl_k3(now, reference)
    ours = masked_mean(error, mask)
    theirs = of_trl(grpo_trainer(), GRPOTrainer._compute_loss, now, old, reference, mask, advantage)
    torch.testing.assert_close(ours, theirs)
    slopes = [torch.autograd.grad(loss, now)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*slopes)
    assert (slopes[0][~mask] == 0).all()


# Broken by all that breaks `test_grpo`, by prompts that count, and by log-probabilities of a policy that says specials.
def test_grpo_of_conversations(agent):
    """The loss that `seqrl train grpo` learns by, of a policy that has moved from the one that drew."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    tuned, batch, returns = drawn(agent, "grpo")
    move(tuned.policy, seed=2)
    ours, _ = rlhf.loss(tuned, batch, grpo())
    now, advantage = said(tuned, tuned.policy, batch), group_standardized_advantage(returns)
    assert ((now - batch.log_prob).exp() - 1).abs().max() > 0.2  # some of it is clipped
    tensors = now, batch.log_prob, said(tuned, tuned.reference, batch).detach(), batch.said.valid, advantage
    of_both(agent, ours, of_trl(grpo_trainer(), GRPOTrainer._compute_loss, *tensors))


def drawn(agent, method):
    """Two prompts with three answers each, what they are worth, and what the policy and another say of them."""
    rows = [
        rows_of(
            [TokenTurn(agent=False, ids=(6,) * (1 + k // 3)), TokenTurn(agent=True, ids=(6, 7, 8, 6)[:length])],
            TOKENIZER,
        )
        for k, length in enumerate((0, 1, 4, 2, 3, 1))
    ]
    tuned, returns = TunedAgent(TOKENIZER, agent.policy), of_groups()[-1]
    move(tuned.reference, seed=1)
    batch = observe(tuned, rows, "k3")
    rewards = torch.zeros_like(batch.log_prob)
    rewards[0] = returns.flatten()
    [batch] = with_group_advantages([batch], [rewards], method, 3)
    return tuned, batch, returns


def said(tuned, model, batch):
    return of_said(tuned.log_probs(model, tuned.features(model, batch.tokens, batch.said)), batch.said)


def move(model, seed):
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p += 0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * seed + k))


# Broken by ratios of tokens: RLOO's there are those of whole answers.
def test_rloo():
    from trl.trainer.rloo_trainer import RLOOTrainer

    now, old, reference, mask, returns = of_groups()
    advantage = leave_one_out_advantage(returns)
    ours = clipped_surrogate((now * mask).sum(0), (old * mask).sum(0), advantage.flatten(), 0.2).mean()
    self = trainer(epsilon_low=0.2, epsilon_high=0.2)
    theirs = of_trl(self, RLOOTrainer._compute_loss, now, old, reference, mask, advantage)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, now)[0], torch.autograd.grad(theirs, now)[0])


def test_rloo_of_conversations(agent):
    """What `seqrl train rloo` learns by has ratios of tokens. Before the policy has moved its gradient is the same as
    TRL's, but for a mean over all tokens where that one's is over answers."""
    from trl.trainer.rloo_trainer import RLOOTrainer

    tuned, batch, returns = drawn(agent, "rloo")
    ours, _ = rlhf.loss(tuned, batch, replace(rloo(), kl_weight=0.0))
    now, old = said(tuned, tuned.policy, batch), batch.log_prob
    self = trainer(epsilon_low=0.2, epsilon_high=0.2)
    advantage = leave_one_out_advantage(returns)
    theirs = of_trl(self, RLOOTrainer._compute_loss, now, old, old, batch.said.valid, advantage)
    answers_a_token = 6 / batch.said.valid.sum()
    agent.zero_grad()
    slopes = [torch.autograd.grad(loss, list(agent.policy.parameters())) for loss in (ours, theirs * answers_a_token)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-6)
