"""What learns to speak from logs: what its losses may depend on, exact values on a tiny graph, steering, resuming."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from seqrl.algorithms import bc, ilql, train
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.language.generation import Sampling
from seqrl.language.logged import DialogueDataset
from seqrl.language.model import LanguageModel, MemoryModel
from seqrl.language.play import play
from seqrl.language.scripted import scripted_dialogues
from seqrl.language.steering import Steered, SteeredAgent, TokenValues
from seqrl.language.utterance_steering import UtteranceAgent
from seqrl.learner import Learner
from seqrl.memory import Transformer
from seqrl.memory.kernels.native_library import library
from seqrl.text import Tokenizer, make_task

TOKENIZER = Tokenizer(list("abxy"))  # 6 … 9
TASK, KWARGS = "wordle", ("num_words=6",)


def dialogue(*turns: str, rewards: tuple[float, ...] = ()) -> Dialogue:
    said = [Turn(speaker="o", text="x")]
    for k, text in enumerate(turns):
        reward = rewards[k // 2] if rewards and k % 2 == 0 else None
        said.append(Turn(speaker="oa"[k % 2 == 0], text=text, reward=reward))
    return Dialogue(id="d", agent="a", turns=tuple(said))


LOG = (
    dialogue("ab", "xy", "b", "yy", "a", rewards=(1.0, -2.0, 0.5)),
    dialogue("b", "x", "aba", "y", rewards=(0.0, 3.0)),
    dialogue("a", rewards=(2.0,)),
)


def settings(folder, **others):
    return {
        "dialogues": str(folder / "log.jsonl"), "task": TASK, "task_kwargs": KWARGS, "hidden_size": 8, "batch_size": 4,
        "num_steps": 12, "log_every": 4, "checkpoint_every": 3, "warmup": 2, "held_out": 0.2, "max_tokens": 6, **others,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    task = make_task(TASK, num_words=6)
    write_dialogues(tmp_path / "log.jsonl", scripted_dialogues(task, ["random", "optimal"], 20))
    return tmp_path


def made(algorithm, model="gru", level="token", hidden_size=8):
    """An agent and its config."""
    config = bc.Config(dialogues="x", model=model, hidden_size=hidden_size)
    agent = bc.build(config, TOKENIZER)
    if algorithm is ilql:
        values = TokenValues(bc.build(config, TOKENIZER).policy, None if level == "token" else 1)
        for head in values.target_q.modules():
            if isinstance(head, nn.Linear):
                nn.init.normal_(head.weight)
        config = ilql.Config(dialogues="x", cql_weight=0.1, level=level)
        if level == "utterance":
            return UtteranceAgent(TOKENIZER, agent.policy, values, 1.0, num_proposals=4), config
        agent = SteeredAgent(TOKENIZER, agent.policy, values, beta=1.0)
    return agent, config


def gradients(agent, config, windows, algorithm):
    agent.zero_grad()
    loss, _ = algorithm.loss(agent, windows, config)
    loss.backward()
    grads = [p.grad.clone() for p in agent.parameters() if p.grad is not None]
    return loss.detach(), grads


# Must break: `length` one less in `MemoryModel.forward_at`.
@pytest.mark.parametrize("algorithm", [bc, ilql])
@pytest.mark.parametrize("num_turns", [0, 1])
def test_dialogues_end_to_end_teach_what_padded_ones_do(algorithm, num_turns, monkeypatch):
    torch.manual_seed(0)
    agent, config = made(algorithm, "transformer", hidden_size=64)
    read, calls = Transformer.read_episodes, []
    monkeypatch.setattr(Transformer, "read_episodes", lambda *args: calls.append(len(args[1])) or read(*args))
    windows = DialogueDataset.of(LOG, TOKENIZER).windows(9, num_turns, torch.Generator().manual_seed(1))
    loss, grads = gradients(agent, config, windows, algorithm)
    assert calls and calls[0] < windows.tokens.numel() - 9 if library() else not calls
    monkeypatch.setattr(MemoryModel, "forward_at", LanguageModel.forward_at)
    expected_loss, expected = gradients(agent, config, windows, algorithm)
    torch.testing.assert_close(loss, expected_loss, atol=1e-6, rtol=1e-6)
    for actual, each in zip(grads, expected, strict=True):
        torch.testing.assert_close(actual, each, atol=2e-6, rtol=1e-4)


# Broken by `real = offset[:-1] <= length` in `_gather`, or by a mean over all rows.
@pytest.mark.parametrize(("algorithm", "level"), [(bc, "token"), (ilql, "token"), (ilql, "utterance")])
@pytest.mark.parametrize("num_turns", [0, 1, 2])
def test_losses_do_not_depend_on_padding_or_what_stands_beside(algorithm, level, num_turns):
    agent, config = made(algorithm, level=level)
    log = DialogueDataset.of(LOG, TOKENIZER, gamma=0.9)
    windows = log.windows(12, num_turns, torch.Generator().manual_seed(0))
    whole, grads = gradients(agent, config, windows, algorithm)
    pads = windows._replace(
        tokens=torch.cat([windows.tokens, torch.randint(6, 10, (3, 12))]),
        mask=torch.cat([windows.mask, torch.zeros(3, 12, dtype=torch.bool)]),
        learnt=torch.cat([windows.learnt, torch.zeros(3, 12, dtype=torch.bool)]),
        reward=torch.cat([windows.reward, torch.full((3, 12), torch.nan)]),
        return_to_go=torch.cat([windows.return_to_go, torch.full((3, 12), torch.nan)]),
    )
    padded, padded_grads = gradients(agent, config, pads, algorithm)
    torch.testing.assert_close(padded, whole)
    torch.testing.assert_close(padded_grads, grads)
    alone, count = torch.zeros(()), 0
    for n in range(12):
        one = type(windows)(*(leaf[:, n : n + 1] for leaf in windows))
        alone += gradients(agent, config, one, algorithm)[0] * one.learnt.sum()
        count += int(one.learnt.sum())
    if level == "token":  # each token counts the same; utterances are fewer
        torch.testing.assert_close(alone / count, whole)


# Broken by `decisions(windows.mask)` in bc.loss, or by any term over all rows: "none" remembers nothing, so that only
# the rows that decide have a gradient.
@pytest.mark.parametrize("algorithm", [bc, ilql])
def test_no_gradient_comes_from_the_other_speakers_tokens(algorithm):
    agent, config = made(algorithm, model="none")
    model = agent.policy if algorithm is bc else agent.values.model
    windows = DialogueDataset.of(LOG, TOKENIZER).windows(8, 1, torch.Generator().manual_seed(0))
    kept = []
    forward = model.forward

    def watched(tokens):
        y = forward(tokens)
        y.retain_grad()
        kept.append(y)
        return y

    model.forward = watched
    loss, _ = algorithm.loss(agent, windows, config)
    loss.backward()
    touched = kept[0].grad.abs().sum(-1) > 0
    assert torch.equal(touched, windows.learnt)
    if algorithm is ilql:
        assert all(p.grad is None for p in [*agent.policy.parameters(), *agent.values.target_q.parameters()])


# Broken by `surprise` of the pads, or by reading the agent's tokens twice.
def test_reading_adds_the_others_likelihood():
    agent, config = made(bc)
    windows = DialogueDataset.of(LOG, TOKENIZER).windows(6, 0, torch.Generator().manual_seed(0))
    plain, metrics = bc.loss(agent, windows, config)
    total, metrics = bc.loss(agent, windows, dataclasses.replace(config, reading_weight=0.5))
    log_probs = agent.policy.logits(agent.policy(windows.tokens[:-1])).log_softmax(-1)
    said = log_probs.gather(-1, windows.tokens[1:, :, None])[..., 0]
    others = ~windows.mask & (windows.tokens[1:] != 0)
    torch.testing.assert_close(metrics["reading_loss"], -said[others].mean())
    torch.testing.assert_close(total, plain - 0.5 * said[others].mean())


class Table(LanguageModel):
    """A vector of its own for every beginning of a conversation: what is learnt of one says nothing of another."""

    def __init__(self, tokenizer, log):
        super().__init__()
        self.vocabulary_size = len(tokenizer)
        self.known = {}
        for row in log._rows:
            for t in range(len(row.tokens)):
                self.known.setdefault(tuple(row.tokens[: t + 1].tolist()), len(self.known))
        self.output_size = len(self.known)
        self.anything = nn.Parameter(torch.zeros(()))

    def forward(self, tokens):
        columns = tokens.T.tolist()
        index = torch.tensor([[self.known.get(tuple(c[: t + 1]), 0) for c in columns] for t in range(len(tokens))])
        return nn.functional.one_hot(index, self.output_size).float()

    def logits(self, y):
        return self.anything * y.new_zeros(*y.shape[:-1], self.vocabulary_size)

    def start(self, batch_size):
        raise NotImplementedError

    def read(self, tokens, count, context):
        raise NotImplementedError


GRAPH = tuple(
    dialogue(first, "x", second, rewards=(one, two))
    for first, one, seconds in (("a", 0.0, {"a": 0.0, "b": 4.0}), ("b", 1.0, {"a": 0.0, "b": 1.0}))
    for second, two in seconds.items()
)
"""Two utterances of one letter, each as likely; 0.9 discounts a letter and the <end of utterance> behind it."""
BEST = {"a": 0.9 * 0.9 * 0.9 * 4, "b": 0.9 * (1 + 0.9 * 0.9)}
MEAN = {"a": 0.9 * 0.9 * 0.9 * 2, "b": 0.9 * (1 + 0.9 * 0.9 * 0.5)}


# Broken by `next_v` without `masked_fill` (the end would bootstrap from the pad), `gamma` of 1 at a turn's end, reward
# on the letter in place of the end of the utterance, a max in place of the min, `follow` left out, or τ for 1 − τ.
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expectile": 0.99}, BEST),
        ({"expectile": 0.5}, MEAN),
        ({"horizon": "turn", "expectile": 0.99}, BEST),
        ({"horizon": "turn", "expectile": 0.5}, MEAN),
        ({"target": "return"}, MEAN),
        ({"level": "utterance", "expectile": 0.99}, BEST),
        ({"level": "utterance", "expectile": 0.5}, MEAN),
        ({"level": "utterance", "target": "return"}, MEAN),
    ],
)
def test_exact_values_on_a_tiny_graph(changes, expected):
    config = ilql.Config(dialogues="x", gamma=0.9, cql_weight=0.0, polyak=0.2, **changes)
    log = DialogueDataset.of(GRAPH, TOKENIZER, gamma=0.9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        values = TokenValues(Table(TOKENIZER, log), 1 if config.level == "utterance" else None)
    values.describe(log.return_to_go[log.mask])
    agent = SteeredAgent(TOKENIZER, values.model, values, beta=1.0)
    learner = Learner(agent, 0.02, 10.0)
    windows = log._gather(np.arange(4), np.zeros(4, int), np.full(4, 2))  # each dialogue once
    for step in range(600):
        learner.learning_rate = 0.02 * (1 - step / 600)
        loss, _ = ilql.loss(agent, windows, config)
        learner.update(loss)
        values.follow(config.polyak)
    before = [1, 8, 4, 2]  # <begin> x <end of reply> <agent>
    if config.level == "utterance":
        read = torch.tensor([[*before, 6, 3], [*before, 7, 3]])
        least = torch.cat([torch.zeros(6), values.least(values.model(read.T)[-1])[:, 0]])
    else:
        least = values.least(values.model(torch.tensor([before]).T)[-1, 0])
    assert least[6].item() == pytest.approx(expected["a"], abs=0.06)
    assert least[7].item() == pytest.approx(expected["b"], abs=0.06)


# Broken by `last[d + 1]` for `last[d]`, or the target of a turn's first token in place of its last's.
def test_targets_of_turns_are_discounted_from_their_ends():
    last = torch.tensor([[False, True], [True, False], [False, True], [True, False]])
    target = torch.tensor([[9.0, 2.0], [3.0, 9.0], [9.0, 5.0], [4.0, 9.0]])
    reward = torch.tensor([[1.0, 9.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    found = ilql._from_turns_ends(target, reward, last, 0.5)
    expected = torch.tensor([[2.5, 2.0], [3.0, 2.5], [2.0, 5.0], [4.0, 9.0]])
    torch.testing.assert_close(found, expected)


# Broken by β in a power of two that is added even at 0, or a policy that learns.
def test_without_beta_a_steered_policy_is_the_policy_bit_for_bit(folder):
    policy = train(bc.Config(**settings(folder, run_dir=str(folder / "bc"))))
    agent = train(ilql.Config(**settings(folder, run_dir=str(folder / "ilql"), policy=str(folder / "bc"))))
    for name, value in policy.policy.state_dict().items():
        assert torch.equal(agent.policy.state_dict()[name], value)
    task = make_task(TASK, num_words=6)
    plain, steered, other = (
        play(task, voice, 20, seed=3, max_tokens=6) for voice in (policy.voice(), agent.voice(0.0), agent.voice(50.0))
    )
    assert plain == steered
    assert plain != other
    tokens, count = torch.randint(6, 20, (5, 3)), torch.tensor([5, 0, 3])
    with torch.no_grad():
        a, _ = policy.voice().read(tokens, count, policy.voice().start(3))
        b, _ = agent.voice(0.0).read(tokens, count, agent.voice(0.0).start(3))
    assert torch.equal(a[[0, 2]], b[[0, 2]])


# Broken by one Q in place of the smaller of two.
def test_steering_adds_beta_times_the_smaller_target_value():
    agent, _ = made(ilql)
    voice = agent.voice(2.0)
    assert isinstance(voice, Steered)
    tokens, count = torch.tensor([[1, 2], [2, 6]]), torch.tensor([2, 2])
    logits, _ = voice.read(tokens, count, voice.start(2))
    y, z = agent.policy(tokens)[-1], agent.values.model(tokens)[-1]
    first, second = (q(z) for q in agent.values.target_q)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(logits, agent.policy.logits(y) + 2 * torch.minimum(first, second))


# Broken by `index` for `place` in `speak`, Q of the wrong column, or proposals that are not read by the values.
def test_the_best_of_some_utterances_is_said():
    agent, _ = made(ilql, level="utterance")
    voice, plain = agent.voice(1e6), agent.cloned().voice()
    tokens, count = torch.tensor([[1, 1, 1], [2, 8, 2], [0, 2, 0]]), torch.tensor([2, 3, 2])
    speaks = torch.tensor([True, True, False])

    def speak(temperature, seed):
        logits, context = voice.read(tokens, count, voice.start(3))
        generator = torch.Generator().manual_seed(seed)
        rules = {"stop_id": 3, "max_tokens": 5, "speaks": speaks, "generator": generator}
        return voice.speak(logits, context, sampling=Sampling(temperature=temperature), **rules)

    def texts(said):
        return [said.ids[: said.length[b], b].tolist() for b in range(3)]

    said, context = speak(0.0, 1)
    for b in range(2):
        column = tokens[: count[b], b].tolist()
        ids = said.ids[: said.length[b], b].tolist()
        again = agent.policy.logits(agent.policy(torch.tensor([column + ids]).T))[len(column) - 1 : -1, 0]
        log_prob = again.log_softmax(-1)[range(len(ids)), ids]
        torch.testing.assert_close(said.log_prob[: len(ids), b], log_prob)
    assert said.length[2] == 0
    # The context has read what was said: going on from it is reading the whole.
    more, _ = voice.read(torch.tensor([[8, 8, 8]]), torch.tensor([1, 1, 0]), context)
    column = [*tokens[:2, 0].tolist(), *said.ids[: said.length[0], 0].tolist(), 8]
    whole, _ = voice.read(torch.tensor([column]).T, torch.tensor([len(column)]), voice.start(1))
    torch.testing.assert_close(more[0], whole[0])
    # With a β beyond all differences drawing is choosing the best, too.
    assert texts(speak(1.0, 1)[0]) == texts(said)
    assert any(texts(speak(1.0, seed)[0]) != texts(said) for seed in range(2, 5))
    assert type(agent.voice(0.0)) is type(plain)


def test_values_follow_and_start_as_the_policy(folder):
    config = settings(folder, run_dir=str(folder / "bc"), num_steps=1)
    policy = train(bc.Config(**config))
    values = {"policy": str(folder / "bc"), "num_steps": 1, "learning_rate": 1e-9}
    agent = train(ilql.Config(**config | values | {"run_dir": str(folder / "one")}))
    torch.testing.assert_close(agent.values.model.state_dict(), policy.policy.state_dict())
    fresh = train(ilql.Config(**config | values | {"run_dir": str(folder / "two"), "initial": "fresh", "seed": 1}))
    assert not torch.allclose(fresh.values.model.embedding.weight, policy.policy.embedding.weight)
    before = [p.clone() for p in agent.values.target_q.parameters()]
    with torch.no_grad():
        for p in agent.values.q.parameters():
            p += 1
    moved = [p.clone() for p in agent.values.q.parameters()]
    agent.values.follow(0.25)
    for old, now, target in zip(before, moved, agent.values.target_q.parameters(), strict=True):
        torch.testing.assert_close(target, old + 0.25 * (now - old))


# Broken by a cut turn that is read as ended, or whose end is learnt as another's with `reading_weight`.
@pytest.mark.parametrize("reading_weight", [0.0, 0.5])
def test_cloning_does_not_learn_an_end_that_nobody_said(reading_weight):
    agent, config = made(bc)
    config = dataclasses.replace(config, reading_weight=reading_weight)
    (first, turn) = dialogue("ab").turns
    pulls = []
    for cut in (None, True):
        log = [Dialogue(id="d", agent="a", turns=(first, dataclasses.replace(turn, cut=cut)))]
        windows = DialogueDataset.of(log, TOKENIZER).windows(1, 0, torch.Generator())
        logits = []

        def keep(y, logits=logits):
            logits.append(agent.policy.__class__.logits(agent.policy, y))
            logits[-1].retain_grad()
            return logits[-1]

        agent.policy.logits = keep
        total, _ = bc.loss(agent, windows, config)
        total.backward()
        del agent.policy.logits
        ends = [each.grad[..., TOKENIZER.end_of_utterance_id] for each in logits]
        pulls.append(sum(int((each < 0).sum()) for each in ends))  # rows in which the end is made likelier
    assert pulls == [1, 0]
