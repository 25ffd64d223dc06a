"""Fitted Q evaluation of a policy in tokens: what each of its tokens is worth, learnt from logged dialogues.

Each iteration fits a model to targets that the last iteration's model gives, which then stands still:

    q_k = argmin_q Σ over the agent's logged tokens (G_d(q_{k−1}) − q(s_d, a_d))²

with v(s) = Σ_a π(a|s) q(s, a) over the whole vocabulary, π the policy that is asked about.

Source: Le, Voloshin & Yue 2019, arXiv 1903.08738 (FQE). Differs: targets G are tree backups to the end of the dialogue
(`seqrl.objectives.tree_backup`) in place of one step, so that a reward at the end needs fewer iterations than the
dialogue has tokens; a model learns by some gradient steps an iteration, from where the last one stood. γ counts turns.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqrl.language.likelihood import Decided, of_tokens
from seqrl.language.model import MemoryModel
from seqrl.language.rows import TokenRows, batch_of
from seqrl.learner import Learner
from seqrl.memory.make import make_memory
from seqrl.objectives import masked_mean, tree_backup
from seqrl.seeds import derived_seed


@dataclass(frozen=True, kw_only=True)
class FittedConfig:
    """How values of a policy are fitted."""

    num_iterations: int = 20
    updates_per_iteration: int = 30
    hidden_size: int = 64
    batch_size: int = 64
    """Dialogues of a gradient step."""
    learning_rate: float = 1e-2
    num_folds: int = 2
    """Each dialogue's values come from a model that did not learn from it or its group, but from the other folds."""
    seed: int = 0


class TokenQ(nn.Module):
    """q(s, a) = μ + σ (b(y) + A(y)_a), with the features y of a recurrent model that reads all tokens of s.

    A begins at 0, so that tokens which were never logged in states like s are worth what s is: the mean over the policy
    rests on them too, and nothing else would hold them.
    """

    def __init__(self, vocabulary_size: int, hidden_size: int, mean: float, scale: float) -> None:
        super().__init__()
        self.model = MemoryModel(vocabulary_size, make_memory("gru", hidden_size, hidden_size))
        nn.init.zeros_(self.model.head.weight)
        nn.init.zeros_(self.model.head.bias)
        self.state = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.state.weight)
        nn.init.zeros_(self.state.bias)
        self.mean, self.scale = mean, scale

    def forward(self, tokens: Int[Tensor, "T B"], row: Int[Tensor, "D B"]) -> Float[Tensor, "D B V"]:
        y = self.model(tokens)
        y = y.gather(0, row[..., None].expand(*row.shape, y.shape[-1]))
        return self.mean + self.scale * (self.state(y) + self.model.logits(y))


def cross_fitted(
    rows: Sequence[TokenRows],
    decided: Decided,
    log_prob: Float[Tensor, "D B V"],
    gamma: float = 1.0,
    config: FittedConfig | None = None,
    watch: Callable[[], None] = lambda: None,
    groups: Int[Tensor, "B"] | None = None,
) -> tuple[Float[Tensor, "D B"], Float[Tensor, "D B"]]:
    """q at the agent's logged tokens and v before each, by models that did not learn from the dialogue concerned.

    `log_prob` is the policy's (`log_probs`). `watch` is called after each iteration. Dialogues of one of `groups`,
    counted from 0, are of one fold; by default each is a group. Of a single dialogue there is nothing else to learn
    from: its values are the mean return, 0.
    """
    config = config or FittedConfig()
    groups = torch.arange(len(rows)) if groups is None or not groups.any() else groups
    size = int(groups.max()) + 1
    order = torch.randperm(size, generator=torch.Generator().manual_seed(derived_seed(config.seed, 0)))
    fold = torch.empty(size, dtype=torch.int64)
    fold[order] = torch.arange(size) % config.num_folds
    fold = fold[groups]
    q, v = torch.zeros(decided.token.shape), torch.zeros(decided.token.shape)
    for k in range(config.num_folds):
        inside, outside = (fold == k).nonzero()[:, 0], (fold != k).nonzero()[:, 0]
        if not len(inside) or not len(outside):
            continue
        model = _fit(rows, decided, log_prob, outside, gamma, config, derived_seed(config.seed, 1, k), watch)
        with torch.no_grad():
            for part in inside.split(256):
                found = _values(model, *_columns(rows, decided, log_prob, part))
                size = len(found[0])
                q[:size, part], v[:size, part] = found
    return q.masked_fill(~decided.valid, 0.0), v.masked_fill(~decided.valid, 0.0)


def _fit(
    rows: Sequence[TokenRows],
    decided: Decided,
    log_prob: Tensor,
    columns: Tensor,
    gamma: float,
    config: FittedConfig,
    seed: int,
    watch: Callable[[], None],
) -> TokenQ:
    generator = torch.Generator().manual_seed(seed)
    returns = decided.reward[:, columns].masked_fill(~decided.valid[:, columns], 0.0).sum(0)
    scale = max(float(returns.std(correction=0)), 1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TokenQ(log_prob.shape[-1], config.hidden_size, float(returns.mean()), scale)
    learner = Learner(model, config.learning_rate, max_grad_norm=1.0)
    for iteration in range(config.num_iterations):
        still = copy.deepcopy(model)
        # It falls to a tenth: the last iterations average what single batches say.
        learner.learning_rate = config.learning_rate * (1 - 0.9 * iteration / config.num_iterations)
        for _ in range(config.updates_per_iteration):
            chosen = columns[torch.randint(len(columns), (config.batch_size,), generator=generator)]
            tokens, part, part_log_prob = _columns(rows, decided, log_prob, chosen)
            with torch.no_grad():
                target = _targets(still, tokens, part, part_log_prob, gamma)
            q, _ = _values(model, tokens, part, part_log_prob)
            learner.update(masked_mean((q - target).square(), part.valid) / scale**2)
        watch()
    return model.eval()


def _columns(
    rows: Sequence[TokenRows], decided: Decided, log_prob: Tensor, columns: Tensor
) -> tuple[Tensor, Decided, Tensor]:
    """The tokens, decisions and probabilities of some dialogues, no longer than the longest of them."""
    tokens = batch_of([rows[k] for k in columns.tolist()]).tokens[:-1]
    size = max(int(decided.valid[:, columns].sum(0).max()), 1)
    part = Decided(*(leaf[:size, columns] for leaf in decided))
    return tokens, part, log_prob[:size, columns]


def _values(model: TokenQ, tokens: Tensor, decided: Decided, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """q of the tokens that were said, and its mean over π."""
    q = model(tokens, decided.row)
    return q.gather(-1, decided.token[..., None])[..., 0], (log_prob.exp() * q).sum(-1)


def _targets(model: TokenQ, tokens: Tensor, decided: Decided, log_prob: Tensor, gamma: float) -> Tensor:
    q, v = _values(model, tokens, decided, log_prob)
    follows = torch.cat([decided.valid[1:], torch.zeros_like(decided.valid[:1])])
    discount = torch.where(decided.ends_turn, gamma, 1.0) * follows
    return tree_backup(decided.reward, discount, q, v, of_tokens(log_prob, decided).exp())
