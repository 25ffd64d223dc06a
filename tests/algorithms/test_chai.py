"""CHAI: its critics against what can be computed by hand, and its runs."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seqrl.algorithms import bc, chai, load_speaker, resume, train
from seqrl.checkpoint import load_checkpoint, save_checkpoint
from seqrl.cli import main, shipping
from seqrl.data.dialogues import Dialogue, Turn, read_dialogues, shown, write_dialogues
from seqrl.errors import UserError
from seqrl.language.critic import UtteranceCritic
from seqrl.language.model import MemoryModel
from seqrl.language.play import play
from seqrl.language.reranking import Choosing, RerankingAgent
from seqrl.language.rows import TokenTurn, rows_of
from seqrl.language.utterances import Drawn, UtteranceBatch, UtteranceDataset
from seqrl.language_runs.proposals import _flagged
from seqrl.learner import Learner
from seqrl.memory.make import make_memory
from seqrl.people.chat import Chat
from seqrl.run import Run
from seqrl.text import TextMaze, Tokenizer, converse, make_speaker

TOKENIZER = Tokenizer(list("abxy"))
SAID = TOKENIZER.end_of_utterance_id
WORDS = "ab"
REWARD = {"aa": 1.0, "ab": 7.0, "ba": 3.0, "bb": 4.0}
"""Of the second utterance, by both: what is best first is not what is best on average."""


def turn(text: str, reward: float | None = None) -> TokenTurn:
    return TokenTurn(agent=reward is not None, ids=tuple(TOKENIZER.encode(text)), reward=reward or 0.0)


def dialogue(said: str, last: str = "") -> list[TokenTurn]:
    reply = {"a": "x", "b": "y"}[said[0]]
    end = [turn(last)] if last else []
    return [turn(said[0], 0.5), turn(reply), turn(said[1], REWARD[said]), *end]


def graph(logged: list[str], log_prob: dict[str, float] | None = None, last: str = "") -> UtteranceDataset:
    """Two turns, in each of which a or b is said and both are proposed."""
    rows = [rows_of(dialogue(said, last), TOKENIZER) for said in logged]
    proposals = torch.tensor([[TOKENIZER.encode(word)[0], SAID] for word in WORDS])
    count = 2 * len(logged)
    likely = torch.tensor([(log_prob or {}).get(word, 0.0) for word in WORDS]).expand(count, 2)
    drawn = Drawn(proposals.expand(count, 2, 2), torch.full((count, 2), 2), likely, torch.zeros(count, 3, 0))
    return UtteranceDataset(rows, drawn, gamma=0.9)


def made(config: chai.Config) -> RerankingAgent:
    torch.manual_seed(config.seed)
    policy = MemoryModel(len(TOKENIZER), make_memory("gru", 4, 4))
    weight = config.alpha if config.critic == "brac" else 0.0
    return RerankingAgent(
        TOKENIZER, policy, UtteranceCritic(len(TOKENIZER), "gru", 16, 0), Choosing(log_prob_weight=weight)
    )


def learnt(dataset: UtteranceDataset, steps: int = 300, **settings: Any) -> RerankingAgent:
    config = chai.Config(**{"gamma": 0.9, "polyak": 0.05} | settings)
    agent = made(config)
    agent.critic.describe(dataset.returns_to_go)
    learner = Learner(agent, 5e-3, 1.0)
    batch = dataset.batch(list(range(dataset.num_dialogues)))  # type: ignore[arg-type]
    for step in range(steps):
        learner.learning_rate = 5e-3 * (1 - step / steps)
        learner.update(chai.loss(agent, batch, config)[0])
        agent.critic.follow(config.polyak)
    return agent


def values(agent: RerankingAgent) -> dict[str, float]:
    """Q of the first utterance by itself, and of the second by both."""
    result = {}
    for before in ["", *WORDS]:
        tokens = rows_of([*dialogue(before + "a")[:2]] if before else [], TOKENIZER).tokens[:-1].tolist()
        said = [[TOKENIZER.encode(word)[0], SAID] for word in WORDS]
        q, v = agent.critic.appraise([[*tokens, TOKENIZER.agent_id]], [said], torch.zeros(1, 2, 0))
        result |= {before + word: float(q[0, k]) for k, word in enumerate(WORDS)} | {f"V{before}": float(v[0])}
    return result


EVERYTHING = ["".join(said) for said in itertools.product(WORDS, WORDS)]


def test_with_all_proposals_the_critic_is_the_optimal_one() -> None:
    # Q*(a) = 0.5 + 0.9 · max(1, 7), Q*(b) = 0.5 + 0.9 · max(3, 4). Breaks if the backup takes the mean, the turn's own
    # proposals instead of the next one's, or γ for each token.
    q = values(learnt(graph(EVERYTHING)))
    exact = REWARD | {"a": 6.8, "b": 4.1, "V": (6.8 + 4.1) / 2, "Va": 4.0, "Vb": 3.5}
    assert q == pytest.approx(exact, abs=0.25)


def test_a_warm_backup_lies_between_the_mean_and_the_largest() -> None:
    q = values(learnt(graph(EVERYTHING), backup_temperature=1e6))
    assert q["a"] == pytest.approx(0.5 + 0.9 * 4.0, abs=0.25)


def test_cql_holds_down_what_was_not_logged() -> None:
    # b was never said first, and nothing after it: only the term of cql can tell it from a. Breaks with its sign
    # turned.
    logged = ["aa", "ab"]
    plain, held = (values(learnt(graph(logged), 150, critic=c, alpha=0.3)) for c in ("proposals", "cql"))
    assert held["b"] < plain["b"] - 0.5
    assert held["b"] < held["a"] - 1.0


def test_brac_pays_for_what_is_not_likely() -> None:
    # W = max over the next turn's proposals of r − α (− log π): max(1 − 0, 7 − 2 · 5) = 1. Breaks with penalties of the
    # turn's own proposals in its target, or with the sign turned.
    agent = learnt(graph(EVERYTHING, {"a": 0.0, "b": -5.0}), critic="brac", alpha=2.0)
    assert values(agent)["a"] == pytest.approx(0.5 + 0.9 * 1.0, abs=0.25)
    assert values(agent)["ab"] == pytest.approx(7.0, abs=0.25)


def test_only_the_agents_turns_are_learnt_from() -> None:
    # What is said behind the agent's last turn changes nothing; and its language model has no gradient.
    config = chai.Config(gamma=0.9)
    losses = []
    for last in ("", "xy", "yyyy"):
        agent = made(config)
        total, _ = chai.loss(agent, graph(EVERYTHING, last=last).batch([0, 1, 2, 3]), config)  # type: ignore[arg-type]
        total.backward()
        assert all(weight.grad is None for weight in agent.policy.parameters())
        assert all(weight.grad is None for weight in agent.critic.target.parameters())
        losses.append(float(total.detach()))
    assert losses[1:] == pytest.approx([losses[0]] * 2)


def test_neighbours_and_padding_do_not_matter() -> None:
    config = chai.Config(gamma=0.9, critic="cql", alpha=0.3)
    agent = made(config)
    agent.critic.describe(torch.tensor([0.0, 1.0, 5.0]))
    rows = [rows_of(turns, TOKENIZER) for turns in (dialogue("ab"), [turn("abab", 2.0)], dialogue("ba"))]
    count = 5
    proposals = torch.tensor([[[6, 7, SAID], [7, SAID, 0]]]).expand(count, 2, 3)
    drawn = Drawn(proposals, torch.tensor([3, 2]).expand(count, 2), torch.zeros(count, 2), torch.zeros(count, 3, 0))
    dataset = UtteranceDataset(rows, drawn, gamma=0.9)

    def squared(numbers: list[int]) -> float:
        batch: UtteranceBatch = dataset.batch(numbers)  # type: ignore[arg-type]
        return float(chai.loss(agent, batch, config)[0].detach()) * int(batch.valid.sum())

    assert squared([0, 1, 2]) == pytest.approx(sum(squared([k]) for k in range(3)), rel=1e-5)


# Runs

MAZE = TextMaze(max_turns=12)
SMALL: dict[str, Any] = {
    "task": "text_maze", "task_kwargs": ("max_turns=12",),
    "hidden_size": 8, "batch_size": 4, "num_steps": 6, "log_every": 2, "checkpoint_every": 2,
    "max_tokens": 4, "held_out": 0.25,
}  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chai")
    draws = torch.Generator().manual_seed(0)
    speaker = make_speaker("optimal:0.2", MAZE, draws)
    dialogues = []
    for number in range(8):
        talk = converse(MAZE, speaker, torch.Generator().manual_seed(number))
        turns = [Turn(speaker="task", text=talk.texts[0])] if talk.texts[0] else []
        for said, reply, reward in zip(talk.utterances, talk.replies, talk.rewards, strict=True):
            turns.append(Turn(speaker="agent", text=said, reward=reward, thumbs=-1 if number == 0 else None))
            turns += [Turn(speaker="task", text=reply)] if reply else []
        dialogues.append(Dialogue(id=str(number), agent="agent", turns=tuple(turns)))
    write_dialogues(folder / "log.jsonl", dialogues)
    train(bc.Config(**SMALL | {"dialogues": str(folder / "log.jsonl"), "run_dir": str(folder / "policy")}))
    return folder


def config(log: Path, name: str, **settings: Any) -> chai.Config:
    paths = {"dialogues": str(log / "log.jsonl"), "policy": str(log / "policy"), "run_dir": str(log / name)}
    return chai.Config(**SMALL | paths | {"num_proposals": 3} | settings)


def same(first: Path, second: Path) -> bool:
    trees = [load_checkpoint(path / "checkpoint.safetensors")[0]["agent"] for path in (first, second)]
    return all(torch.equal(trees[0][name], trees[1][name]) for name in trees[0])


def crash(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A run ends at its first line of the log at step `at`, before the checkpoint."""
    real = Run.log

    def log(self: Run, step: int, metrics: dict[str, float]) -> None:
        if step == at:
            monkeypatch.setattr(Run, "log", real)
            raise RuntimeError("crash")
        real(self, step, metrics)

    monkeypatch.setattr(Run, "log", log)


@pytest.mark.parametrize(("critic", "at"), [("cql", 2), ("brac", 4)])
def test_a_run_resumes_bit_for_bit(log: Path, monkeypatch: pytest.MonkeyPatch, critic: str, at: int) -> None:
    # At 2 there is no checkpoint yet, but proposals are. Breaks if these are drawn again by another seed, if what is
    # bad is, or if the targets are no part of the checkpoint.
    settings = {"critic": critic, "discriminator": True, "bad": ("corrupted", "sampled", "flagged")}
    whole, part = f"{critic} whole {at}", f"{critic} part {at}"
    train(config(log, whole, **settings))
    crash(monkeypatch, at)
    with pytest.raises(RuntimeError, match="crash"):
        train(config(log, part, **settings))
    resume(log / part)
    assert same(log / whole, log / part)
    metrics = (log / whole / "metrics.jsonl").read_text()
    assert "held_out_discriminator_calibration_error" in metrics
    assert "held_out_discriminator_accuracy" in metrics


def test_a_run_speaks_as_it_was_trained(log: Path) -> None:
    trained = train(config(log, "speaks", critic="brac"))
    loaded = load_speaker(log / "speaks")
    talks = [play(MAZE, agent.voice(), 2, seed=1, max_tokens=4) for agent in (trained, loaded)]
    assert talks[0] == talks[1]
    assert loaded.choosing == Choosing(num_proposals=3, log_prob_weight=chai.Config.alpha, gate=chai.Config.gate)


def test_proposals_of_another_run_are_taken(log: Path) -> None:
    train(config(log, "first"))
    train(config(log, "second", proposals=str(log / "first"), seed=1))
    first, second = (log / name / "proposals.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(UserError, match="another number"):
        train(config(log, "third", proposals=str(log / "first"), num_proposals=4))
    with pytest.raises(UserError, match="has no proposals"):
        train(config(log, "fourth", proposals=str(log / "policy")))
    first.unlink()
    resume(log / "second")  # which has its own copy


def test_proposals_of_something_else_are_refused(log: Path) -> None:
    # Broken by comparing numbers of turns and proposals alone. Older folders have no fingerprint, but policy.json.
    train(config(log, "mine", num_steps=1))
    train(bc.Config(**SMALL | {"dialogues": str(log / "log.jsonl"), "run_dir": str(log / "policy 1"), "seed": 1}))
    other = [replace(each, turns=each.turns[::-1]) for each in read_dialogues(log / "log.jsonl")]
    write_dialogues(log / "other.jsonl", other)
    tree, known = load_checkpoint(log / "mine" / "proposals.safetensors")
    assert set(known["made_of"]) == {"policy", "texts", "max_tokens", "temperature"}
    cases = [
        ({"policy": str(log / "policy 1")}, "another --policy"),
        ({"dialogues": str(log / "other.jsonl")}, "another --dialogues"),
        ({"max_tokens": 3}, "another --max-tokens"),
        ({"features": False}, "has 8 features of a proposal, not 0"),
    ]
    for k, (settings, message) in enumerate([*cases, cases[0], *cases[2:]]):
        if k == len(cases):  # as older folders are
            save_checkpoint(log / "mine" / "proposals.safetensors", tree, {})
        with pytest.raises(UserError, match=message):
            train(config(log, f"refused {k}", proposals=str(log / "mine"), **settings))
        assert not (log / f"refused {k}" / "proposals.safetensors").exists()
    train(config(log, "of an older one", proposals=str(log / "mine"), num_steps=1))


def test_thumbs_down_on_an_answer_flag_the_turn_before() -> None:
    turns = (
        Turn(speaker="bot", text="a", thumbs=1),
        Turn(speaker="bot", text="b"),
        Turn(speaker="me", text="", thumbs=-1),
    )
    assert _flagged([Dialogue(id="x", agent="bot", turns=turns)]) == [False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"critic": "qcl"}, "--critic 'qcl'"),
        ({"model": "gpt"}, "unknown memory 'gpt'"),
        ({"bad": ("corupted",)}, "unknown bad language 'corupted'"),
        ({"discriminator": True, "bad": ()}, "--bad is empty"),
        ({"num_proposals": 0}, "--num-proposals is 0"),
        ({"alpha": -1.0}, "--alpha is -1.0"),
        ({"gate": 1.0}, "--gate is 1.0"),
        ({"gamma": 0.0}, "--gamma is 0.0"),
        ({"polyak": 0.0}, "--polyak is 0.0"),
    ],
)
def test_settings_that_make_no_sense(log: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(config(log, "never", **settings))


def test_a_chat_shows_what_it_chose_by(log: Path) -> None:
    # Breaks if a chat ranks by Q alone, or shows nothing of the discriminator.
    agent = train(config(log, "chats", critic="brac", alpha=3.0, discriminator=True, gate=0.0, num_steps=2))
    talk = Chat(agent, task=MAZE, num_candidates=8, max_tokens=4, seed=1)
    said = talk.answer()
    assert said.why == "highest score"
    assert said.chosen is not None
    scores = [option.score for option in said.options]
    assert scores == sorted(scores, reverse=True)  # type: ignore[type-var]
    for option in said.options:
        assert option.candidate.q is not None
        assert option.score == pytest.approx(option.candidate.q + 3.0 * option.candidate.log_prob, rel=1e-5)
        assert f"confidence {option.confidence:.0%}" in option.remark(said)
    assert f"score {said.chosen.score:.2f}" in said.chosen.remark(said)


def test_a_chat_says_nothing_that_is_hardly_language(log: Path) -> None:
    agent = train(config(log, "gated", discriminator=True, gate=0.999, num_steps=2))
    said = Chat(agent, task=MAZE, num_candidates=8, max_tokens=4, seed=1).answer()
    assert said.chosen is said.options[0]
    assert said.chosen.confidence == max(option.confidence or 0 for option in said.options)
    assert {option.removed for option in said.options[1:]} == {"hardly good language"}


def test_what_cannot_be_weighed_is_not_shipped(log: Path) -> None:
    train(config(log, "ships", num_steps=2))
    with pytest.raises(UserError, match="chooses among whole utterances"):
        shipping.ship([str(log / "ships"), "--dialogues", str(log / "log.jsonl")])


def test_evaluating_draws_what_is_chosen_from(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Breaks if the likeliest tokens are taken: all proposals are one then.
    trained = train(config(log, "evaluated", num_steps=2))
    assert main(["evaluate", str(log / "evaluated"), "--num-dialogues", "1", "--show", "1", "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    talk = play(MAZE, trained.voice(), 1, seed=1, max_tokens=4)[0]
    assert (
        "\n".join(
            f"{('other', 'agent')[k % 2]}> {shown(text, 1000)}" for k, text in enumerate(talk.dialogue.texts) if text
        )
        in printed
    )
