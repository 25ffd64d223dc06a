"""Training reward models: what they learn from, that it resumes bit for bit, and what is written of them."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from interrupted import ends_the_same

from seqrl.algorithms import bc, load_speaker, resume, reward_model, train
from seqrl.data.dialogues import Dialogue, Turn, write_dialogues
from seqrl.data.preferences import Preference, write_preferences
from seqrl.errors import UserError
from seqrl.language.preferences import PreferenceDataset
from seqrl.language.reward_report import answers
from seqrl.language_runs.rewards import REPORT, load_reward_model
from seqrl.text import Tokenizer

WORDS = ["good", "fine", "bad", "poor"]


def turn(speaker: str, text: str) -> Turn:
    return Turn(speaker=speaker, text=text)


def preference(number: int, labeller: str = "ada") -> Preference:
    """The answer that begins with one of the first two words is chosen; how long it is says nothing."""
    generator = torch.Generator().manual_seed(number)
    tail = [" ".join(["so"] * int(torch.randint(3, (), generator=generator))) for _ in range(2)]
    word = [WORDS[int(torch.randint(2, (), generator=generator)) + 2 * k] for k in range(2)]
    said = [(turn("assistant", f"{word[k]} {tail[k]}".strip()),) for k in range(2)]
    return Preference(
        id=f"{number}", prompt=(turn("user", "so"),), chosen=said[0], rejected=said[1], labeller=labeller
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Preferences, and a policy of the same words."""
    path = tmp_path_factory.mktemp("preferences")
    write_preferences(path / "pairs.jsonl", [preference(k) for k in range(60)])
    talks = [
        Dialogue(id=f"{k}", agent="a", turns=(turn("o", "so"), turn("a", " ".join(WORDS)), turn("o", "so so")))
        for k in range(4)
    ]
    write_dialogues(path / "log.jsonl", talks)
    train(bc.Config(dialogues=str(path / "log.jsonl"), run_dir=str(path / "bc"), num_steps=1, hidden_size=8))
    return path


def config(folder: Path, **others: object) -> reward_model.Config:
    return reward_model.Config(**{
        "preferences": str(folder / "pairs.jsonl"), "hidden_size": 8, "batch_size": 16, "num_steps": 12, "log_every": 4,
        "checkpoint_every": 3, "warmup": 2, "learning_rate": 0.03, "held_out": 0.2, **others,
    })  # fmt: skip


@pytest.fixture(scope="module")
def trained(folder: Path) -> reward_model.Config:
    settings = config(folder, num_steps=40, num_models=2, policy=str(folder / "bc"), run_dir=str(folder / "trained"))
    train(settings)
    return settings


# Broken by `chosen` and `rejected` exchanged in the loss, or weights that are not kept.
def test_what_is_chosen_has_the_higher_score(folder: Path, trained: reward_model.Config) -> None:
    report = json.loads((Path(trained.run_dir) / REPORT).read_text())
    assert (report["pairs"], report["accuracy"]) == (12, 1.0)
    agent = load_reward_model(trained.run_dir)
    fresh = PreferenceDataset.of([preference(k) for k in range(100, 140)], agent.tokenizer)
    batch = answers(fresh.pairs(range(40)))
    chosen, rejected = agent.ensemble.returns(batch.tokens, batch.mask).mean(0).chunk(2)
    assert bool((chosen > rejected).all())


# Broken by a checkpoint written before `_describe`, or scales of single models.
def test_scores_have_mean_0_and_spread_1_over_what_was_learnt_from(folder: Path, trained: reward_model.Config) -> None:
    agent = load_reward_model(trained.run_dir)
    pairs = PreferenceDataset.of([preference(k) for k in range(60)], agent.tokenizer)
    learnt, kept = reward_model._split(pairs, trained)
    assert len(kept) == 12
    dataset = PreferenceDataset.of([preference(k) for k in learnt], agent.tokenizer)
    batch = answers(dataset.pairs(range(48)))
    score = agent.ensemble.returns(batch.tokens, batch.mask).mean(0)
    torch.testing.assert_close(score.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(score.std(correction=0), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert not agent.ensemble.several


def test_models_begin_as_the_policy_and_differ_afterwards(folder: Path, trained: reward_model.Config) -> None:
    policy = load_speaker(folder / "bc").policy
    begun = reward_model.make_reward_agent(bc.Config(hidden_size=8), load_speaker(folder / "bc").tokenizer, 2,
                                           str(folder / "bc"))  # fmt: skip
    for member in begun.ensemble.members:
        assert all(torch.equal(one, other) for one, other in zip(
            member.model.parameters(), policy.parameters(), strict=True
        ))  # fmt: skip
    heads = [member.head.weight for member in begun.ensemble.members]
    assert not torch.equal(*heads)
    first, second = load_reward_model(trained.run_dir).ensemble.members
    assert not torch.equal(first.model.embedding.weight, second.model.embedding.weight)


# Broken by numbers drawn once for all models.
def test_every_model_has_its_own_bootstrap(folder: Path) -> None:
    dataset = PreferenceDataset.of([preference(k) for k in range(20)], Tokenizer(byte_fallback=True))
    numbers = reward_model._Bootstraps(dataset, config(folder, num_models=3)).numbers
    assert all(len(each) == 20 and len(each.unique()) < 20 for each in numbers)
    assert not torch.equal(numbers[0], numbers[1])
    assert reward_model._Bootstraps(dataset, config(folder)).numbers[0].tolist() == list(range(20))


# Broken by a split of lines: what one labeller chose says what another will.
def test_a_question_is_learnt_from_or_held_out_whoever_labelled_it(folder: Path) -> None:
    pairs = [preference(k % 30, labeller) for labeller in ("ada", "bo") for k in range(30)]
    dataset = PreferenceDataset.of(pairs, Tokenizer(byte_fallback=True))
    learnt, kept = reward_model._split(dataset, config(folder))
    names = dataset.names
    assert sorted(learnt + kept) == list(range(60))
    assert not {names[k] for k in learnt} & {names[k] for k in kept}
    assert len(kept) == 12


# Broken by a split by ids: what is chosen in two pairs of a prompt tells what is in the third.
def test_all_pairs_of_a_prompt_are_held_out_together(folder: Path, tmp_path: Path) -> None:
    pairs = [
        Preference(
            id=f"{prompt}-{better}-{worse}", prompt=(turn("user", f"{prompt}"),),
            chosen=(turn("assistant", f"answer {better}"),), rejected=(turn("assistant", f"answer {worse}"),),
        )
        for better, worse in ((0, 1), (1, 2), (0, 2)) for prompt in range(40)
    ]  # fmt: skip
    write_preferences(tmp_path / "pairs.jsonl", pairs)
    settings = config(folder, preferences=str(tmp_path / "pairs.jsonl"), num_steps=1, run_dir=str(tmp_path / "run"))
    dataset = PreferenceDataset.of(pairs, Tokenizer(byte_fallback=True))
    learnt, kept = reward_model._split(dataset, settings)
    assert not {pairs[k].prompt for k in learnt} & {pairs[k].prompt for k in kept}
    train(settings)
    assert json.loads((tmp_path / "run" / REPORT).read_text())["pairs"] == len(kept) == 24
    few = dataset.subset([k for k in range(120) if k % 40 < 4])  # a prompt would be a quarter, where a fifth is asked
    assert len(reward_model._split(few, settings)[1]) == 2


def test_killed_and_resumed_is_the_same_bit_for_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(folder, num_models=2, policy=str(folder / "bc"))
    lines = ends_the_same(settings, tmp_path, monkeypatch)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert (tmp_path / "whole" / REPORT).read_bytes() == (tmp_path / "part" / REPORT).read_bytes()


# Must break: in `fit`, no `_check_same_size`.
def test_a_file_that_has_grown_is_not_split_anew(folder: Path, tmp_path: Path) -> None:
    """A run that goes on, and one that is finished, whose report would be of pairs that it learnt from."""
    path = tmp_path / "pairs.jsonl"
    write_preferences(path, [preference(k) for k in range(40)])
    train(config(folder, preferences=str(path), run_dir=str(tmp_path / "run")))
    report = (tmp_path / "run" / REPORT).read_bytes()
    write_preferences(path, [preference(k) for k in range(45)])
    for num_steps in (12, 15):
        with pytest.raises(UserError, match=r"another size \(\[32, 8\] to learn from and held out, now \[36, 9\]\)"):
            resume(tmp_path / "run", num_steps)
    assert (tmp_path / "run" / REPORT).read_bytes() == report


def test_answers_of_several_turns_are_told(folder: Path, tmp_path: Path) -> None:
    pairs = [preference(k) for k in range(8)]
    more = (turn("user", "so"), turn("assistant", "fine"))
    write_preferences(tmp_path / "p.jsonl", [dataclasses.replace(each, chosen=each.chosen + more) for each in pairs])
    agent = train(config(folder, preferences=str(tmp_path / "p.jsonl"), num_steps=2, run_dir=str(tmp_path / "run")))
    assert bool(agent.ensemble.several)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preferences": ""}, "no preferences given"),
        ({"num_models": 0}, "--num-models is 0"),
        ({"label_smoothing": 0.5}, "from 0 to below 0.5"),
    ],
)
def test_settings_that_make_no_sense(folder: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        reward_model.check(config(folder, **changes))


def test_what_scores_does_not_speak(trained: reward_model.Config, folder: Path) -> None:
    with pytest.raises(UserError, match="scores and does not speak: seqrl evaluate "):
        load_speaker(trained.run_dir)
    with pytest.raises(UserError, match="give one of reward_model"):
        load_reward_model(folder / "bc")
