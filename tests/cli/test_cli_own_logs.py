"""A log of one's own, by the command line: no task that could be played, rewards on some turns."""

import dataclasses
import functools
import io
import json
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from off_policy.test_shipping import GOOD
from rich.console import Console

from seqrl.algorithms import ALGORITHMS, bc, chai, ilql, load_speaker
from seqrl.cli import main, shipping
from seqrl.cli.chatting import rendered
from seqrl.cli.judging import tell_held_out
from seqrl.cli.without_task import ways
from seqrl.data.dialogues import Dialogue, Turn, read_dialogues, write_dialogues
from seqrl.errors import UserError
from seqrl.language.candidates import Candidate
from seqrl.language.logged import DialogueDataset
from seqrl.language.rows import TokenTurn
from seqrl.language_runs.rewards import REPORT
from seqrl.off_policy import FittedConfig, Interval
from seqrl.people.chat import AGENT, Chat, Option, Said
from seqrl.run_folder import read_saved_step

SMALL = ["--hidden-size", "8", "--batch-size", "4", "--num-steps", "2", "--max-tokens", "6"]
ASKED, SAID = (
    ("where is my parcel ?", "i cannot log in .", "the invoice is wrong ."),
    ("it comes tomorrow .", "read it ."),
)


def support(
    number: int, first: int = 0, *, rewards: bool = True, propensity: float | None = None, scale: float = 1.0
) -> list[Dialogue]:
    """Dialogues of a bot with customers, who thank it at the end."""
    return [
        Dialogue(
            id=f"chat-{k}",
            agent="bot",
            turns=(
                Turn(speaker="customer", text=ASKED[k % 3]),
                Turn(speaker="bot", text=SAID[k % 2], reward=scale * (4.0 - 5 * (k % 2)) if rewards else None,
                     propensity=propensity),
                Turn(speaker="customer", text="thank you !"),
            ),
        )
        for k in range(first, first + number)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The logs log.jsonl, bare.jsonl (no rewards), nought.jsonl (all 0), held_out.jsonl; runs of bc and ilql on the
    first, without a task."""
    path = tmp_path_factory.mktemp("own")
    write_dialogues(path / "log.jsonl", support(20))
    write_dialogues(path / "bare.jsonl", support(20, rewards=False))
    write_dialogues(path / "nought.jsonl", support(20, scale=0.0))
    write_dialogues(path / "held_out.jsonl", support(12, 100, propensity=0.5))
    flags = ["--dialogues", str(path / "log.jsonl"), *SMALL]
    assert main(["train", "ilql", *flags, "--run-dir", str(path / "ilql")]) == 0
    return path


@pytest.fixture(autouse=True)
def in_it(folder, monkeypatch):
    monkeypatch.chdir(folder)


def told(capsys) -> str:
    """The one line of an error."""
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


# Broken by `check_rewarded` left out of the command (a policy would be cloned first), and of either `train`; of
# nought.jsonl by one that asks whether rewards are there.
@pytest.mark.parametrize("log", ["bare.jsonl", "nought.jsonl"])
@pytest.mark.parametrize("algorithm", ["ilql", "chai"])
def test_values_are_not_learnt_of_nothing(algorithm, log, folder, capsys):
    assert main(["train", algorithm, "--dialogues", log, *SMALL, "--run-dir", "new"]) == 2
    said = told(capsys)
    assert f"{log}: no turn has a reward, or all are 0: nothing to learn values from; train bc, or" in said
    assert f"seqrl reward {log}" in said
    assert not list(folder.glob("new*"))
    module = ALGORITHMS[algorithm]
    with pytest.raises(UserError, match="no turn has a reward"):
        module.train(module.Config(policy="ilql_policy", dialogues=log, run_dir="new"))


# Broken by values that are learnt on half a policy, and by the step of the log's last line, here 0.
def test_ctrl_c_while_the_policy_is_cloned_ends_there_and_the_same_command_goes_on(tmp_path, capsys):
    loss = bc.loss

    def interrupting(*args):
        signal.raise_signal(signal.SIGINT)
        return loss(*args)

    command = ["train", "ilql", "--dialogues", "log.jsonl", *SMALL, "--run-dir", str(tmp_path / "run")]
    policy = tmp_path / "run_policy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bc, "loss", interrupting)
        assert main(command) == 130
        said = f"interrupted while the policy was cloned, saved at step 1 in {policy}: the same command goes on"
        assert told(capsys) == f"seqrl: {said}\n"
        assert not (tmp_path / "run").exists()
        shutil.copytree(policy, tmp_path / "alone")
        assert main(["train", "--resume", str(tmp_path / "alone"), "--num-steps", "4"]) == 130
        assert "interrupted at step 2; continue" in told(capsys)
    assert main(command) == 0
    assert [read_saved_step(each) for each in (policy, tmp_path / "run")] == [2, 2]


# Broken by a look at the log wherever a config is read, as `check` is called there.
def test_a_run_is_loaded_without_its_log(tmp_path, monkeypatch, folder):
    run = shutil.copytree(folder / "ilql", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"dialogues": "gone.jsonl"}))
    load_speaker(run)


# Broken by `check_reads` that is content with `reads_all`, as it was; the second half by MOST_SPELT of 0.
@pytest.mark.parametrize("command", ["evaluate", "inspect"])
def test_a_task_of_other_words_is_not_played(command, capsys):
    for task in ("negotiation", "wordle"):
        assert main([command, "ilql", "--task", task]) == 2
        said = told(capsys)
        assert "ilql was trained in another vocabulary: of the words of this task" in said


def test_a_task_of_the_same_words_is_played(tmp_path, capsys):
    log, run = str(tmp_path / "log.jsonl"), str(tmp_path / "run")
    assert main(["collect", "random", "--task", "negotiation", "--num-dialogues", "60", "--output", log]) == 0
    assert main(["train", "bc", "--dialogues", log, *SMALL, "--run-dir", run]) == 0  # the log's own vocabulary
    assert main(["evaluate", run, "--task", "negotiation", "--num-dialogues", "2"]) == 0
    assert "on negotiation" in capsys.readouterr().out


# Broken by hints that know no run without a task, or paths with spaces: what a command advises is done here.
def test_what_is_advised_after_training_can_be_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shipping, "FittedConfig", functools.partial(FittedConfig, updates_per_iteration=1))
    for algorithm in ("bc", "ilql"):
        run = str(tmp_path / f"my {algorithm}")
        assert main(["train", algorithm, "--dialogues", "log.jsonl", *SMALL, "--run-dir", run]) == 0
        hint = capsys.readouterr().out.strip().splitlines()[-1].partition("See how well: ")[2]
        commands = [shlex.split(part)[1:] for part in hint.replace(" or ", ", ").split(", ")]
        assert [each[0] for each in commands] == [{"bc": "evaluate", "ilql": "ship"}[algorithm], "chat", "report"]
        for command in (commands[0], commands[2]):
            args = ["held_out.jsonl" if arg == "HELD_OUT" else arg for arg in command]
            assert main(args) < 2  # a verdict may be 1
    capsys.readouterr()


# Broken by `ways` of one kind for all that have values: what chooses among utterances foretells nothing itself.
@pytest.mark.parametrize("config", [chai.Config(), ilql.Config(level="utterance")])
def test_what_chooses_among_utterances_is_inspected(config):
    assert ways("my run", config).startswith("seqrl inspect 'my run' --prompts HELD_OUT, seqrl chat")


# Broken by a kto that asks for a file of thumbs, where they stand in the log.
def test_thumbs_of_a_log_are_learnt_from(tmp_path, capsys):
    thumbs = [dataclasses.replace(each.turns[1], thumbs=1 - 2 * (k % 2)) for k, each in enumerate(support(8))]
    rated = [
        dataclasses.replace(each, turns=(each.turns[0], turn)) for each, turn in zip(support(8), thumbs, strict=True)
    ]
    write_dialogues(tmp_path / "rated.jsonl", rated)
    flags = ["--thumbs", str(tmp_path / "rated.jsonl"), "--num-steps", "2", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "kto", "--policy", "ilql_policy", *flags]) == 0
    assert "trained for 2 steps" in capsys.readouterr().out


# Broken by words about a task alone, which a log of one's own has not.
def test_fine_tuning_asks_for_prompts(capsys):
    assert main(["train", "grpo", "--policy", "ilql_policy", "--reward", "turns", "--run-dir", "new"]) == 2
    assert "ilql_policy has no task to speak in: name a log whose prompts are answered with --prompts" in told(capsys)


@pytest.mark.parametrize(
    ("args", "way"),
    [
        (["evaluate", "ilql_policy"], "seqrl evaluate ilql_policy --prompts HELD_OUT, seqrl chat ilql_policy"),
        (["inspect", "ilql"], "or a log of dialogues with --prompts"),
        (["frontier", "ilql"], "seqrl ship ilql --dialogues HELD_OUT --betas 0,1,2,4,8"),
    ],
)
def test_without_a_task_it_says_what_can_be_done(args, way, capsys):
    assert main(args) == 2
    said = told(capsys)
    assert f"{args[1]} was trained without a task to play" in said
    assert way in said


def test_answers_of_a_log_are_foretold(tmp_path, capsys):
    """The figures are those that bc logs as held_out_…, of all dialogues. Broken by `allowed` without specials."""
    output = tmp_path / "figures.json"
    flags = ["--prompts", "held_out.jsonl", "--output", str(output), "--show", "1"]
    assert main(["evaluate", "ilql_policy", *flags]) == 0
    out = capsys.readouterr().out
    assert "perplexity" in out
    assert "\nother> " in out
    assert "\nagent> " in out
    figures = json.loads(output.read_text())
    agent = load_speaker("ilql_policy")
    dataset = DialogueDataset.of(support(12, 100), agent.tokenizer)
    chosen = np.arange(12)
    loss, metrics = bc.loss(agent, dataset._gather(chosen, 0 * chosen, dataset.num_turns), bc.Config())
    assert (figures["num_dialogues"], figures["num_turns"]) == (12, 12)
    assert figures["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert figures["accuracy"] == pytest.approx(float(metrics["accuracy"]), abs=1e-6)
    assert main(["evaluate", "ilql", "--prompts", "held_out.jsonl", "--beta", "0"]) == 0
    assert "β = 0" in capsys.readouterr().out


# Broken by words for what learns.
def test_answers_of_a_log_without_any(tmp_path, capsys):
    silent = Dialogue(id="s", agent="bot", turns=(Turn(speaker="customer", text="hello ?"),))
    write_dialogues(tmp_path / "silent.jsonl", [silent])
    assert main(["evaluate", "ilql_policy", "--prompts", str(tmp_path / "silent.jsonl")]) == 2
    assert "the agent never speaks in these dialogues: give another log" in told(capsys)


def test_a_log_that_is_not_found_was_named_from_elsewhere(tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "bc", "--dialogues", "log.jsonl", *SMALL, "--run-dir", str(run)]) == 0
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | {"dialogues": "gone.jsonl"}))
    capsys.readouterr()
    assert main(["train", "--resume", str(run), "--num-steps", "3"]) == 2
    assert "gone.jsonl (--dialogues), which is not found: start in the folder it was trained in" in told(capsys)


# Broken by the rewards of prompts, which are 0, whatever the run learnt from.
def test_what_was_trained_by_rewards_is_inspected_by_them(tmp_path, capsys):
    run, flags = str(tmp_path / "run"), ["--num-steps", "1", "--num-conversations", "8", "--group-size", "4"]
    given = ["--policy", "ilql_policy", "--prompts", "log.jsonl", "--reward", "turns=0.5"]
    assert main(["train", "rloo", *given, *flags, "--run-dir", run]) == 0
    assert main(["inspect", run]) == 0
    assert "returns 0.5, 0.5, 0.5" in capsys.readouterr().out
    assert "Rewards by turns=0.5." in (Path(run) / "episodes.html").read_text()


# Broken by a page for runs with a task alone.
def test_answers_to_a_log_are_inspected(capsys):
    assert main(["inspect", "ilql_policy", "--prompts", "held_out.jsonl"]) == 0
    assert capsys.readouterr().out == "ilql_policy/episodes.html: Open it in a browser.\n"
    page = (Path("ilql_policy") / "episodes.html").read_text()
    assert "prompts of held_out.jsonl" in page
    assert any(text.split()[-2] in page for text in ASKED)
    assert main(["inspect", "ilql_policy", "--prompts", "held_out.jsonl", "--task", "wordle"]) == 2
    assert "--task and --prompts: give one of them" in told(capsys)


QUICK = ["--dialogues", "held_out.jsonl", "--no-fit", "--num-resamples", "100"]


def shipped(run: str, name: str = "shipping.json") -> dict:
    return json.loads((Path(run) / name).read_text())


def test_verdicts_name_beta_and_the_log_and_keep_those_of_another(capsys):
    """Broken by one name for all files: the run's own verdict would be written over."""
    main(["ship", "ilql", *QUICK])
    own = shipped("ilql")
    assert (own["beta"], own["log"], own["title"]) == (16.0, "held_out.jsonl", "ilql (β = 16) on held_out.jsonl")
    main(["ship", "ilql", *QUICK, "--beta", "1"])
    assert shipped("ilql") == own
    other = shipped("ilql", "shipping_beta1.json")
    assert (other["beta"], other["title"]) == (1.0, "ilql (β = 1) on held_out.jsonl")
    assert Path("ilql/shipping_beta1.png").is_file()
    main(["ship", "ilql_policy", *QUICK])
    assert (shipped("ilql_policy")["beta"], shipped("ilql_policy")["title"]) == (None, "ilql_policy on held_out.jsonl")
    assert "--beta" not in capsys.readouterr().out.partition("ilql_policy")[2]


def test_several_betas_are_a_table_and_one_is_chosen(capsys, monkeypatch):
    """Broken by a sweep that evaluates one β for all, or chooses one that does not ship."""
    assert main(["ship", "ilql", *QUICK, "--betas", "0,1,4"]) == 1
    said = capsys.readouterr().out
    assert "None of these ships" in said
    rows = shipped("ilql", "shipping_betas.json")
    assert ([row["beta"] for row in rows["betas"]], rows["chosen"]) == ([0.0, 1.0, 4.0], None)
    sizes = [row["effective_size"] for row in rows["betas"]]
    assert len(set(sizes)) == 3
    for row in rows["betas"]:
        assert f"{row['effective_size']:.1f}" in said
    assert "Whatever β" not in said
    assert main(["ship", "ilql", "--dialogues", "log.jsonl", *QUICK[2:], "--betas", "0,1"]) == 1
    said = capsys.readouterr().out
    assert "Whatever β: The policy learnt from 20 of these 20 dialogues: give others." in said
    assert "accept it (--estimated-propensities)." in said
    assert said.count("Whatever β") == 2
    gains = iter([-0.1, 0.2, 0.3, 0.25])
    monkeypatch.setattr(shipping, "evaluate_logged", lambda *args, **kwargs: dataclasses.replace(
        GOOD, gain=Interval(0.5, next(gains), 0.9)))  # fmt: skip
    assert main(["ship", "ilql", *QUICK, "--betas", "8,1,2,4"]) == 0
    assert "β = 2: of those that ship" in capsys.readouterr().out
    assert shipped("ilql", "shipping_betas.json")["chosen"] == 2.0


# Broken by the same words for all commands: only some begin runs.
def test_ctrl_c_speaks_of_runs_where_one_may_have_begun(monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(shipping, "evaluate_logged", interrupted)
    assert main(["ship", "ilql", *QUICK]) == 130
    assert told(capsys) == "seqrl: interrupted\n"
    monkeypatch.setattr(bc, "read_dataset", interrupted)
    assert main(["train", "bc", "--dialogues", "log.jsonl", "--run-dir", "new"]) == 130
    assert "interrupted; a run folder that was begun can be continued with --resume" in told(capsys)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--betas", "0,-1"], "--betas has -1.0"),
        (["--betas", "0,1", "--beta", "2"], "--beta and --betas: give one of them"),
    ],
)
def test_bad_betas(flags, words, capsys):
    assert main(["ship", "ilql", *QUICK, *flags]) == 2
    assert words in told(capsys)


def test_one_pair_is_not_pairs_and_shares_have_one_style(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    share = dict.fromkeys(("accuracy", "calibration_error", "longer_chosen", "longer_preferred"), 1.0)
    numbers = dict.fromkeys(("log_loss", "disagreement", "length_correlation"), 0.0)
    for pairs, words in ((1, "run on 1 held-out pair\n"), (2, "run on 2 held-out pairs\n")):
        report = {"pairs": pairs, "calibration": [], **share, **numbers}
        Path("run", REPORT).write_text(json.dumps(report))
        tell_held_out("run")
        said = capsys.readouterr().out
        assert words in "\n".join(line.strip() for line in said.splitlines())
        assert "100 %" in said
        assert "%" not in said.replace(" %", "")


def test_what_is_saved_calls_speakers_as_the_log_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("where is my parcel ?\n"))
    assert main(["chat", "ilql", "--save", str(tmp_path / "talk.jsonl")]) == 0
    [talk] = read_dialogues(tmp_path / "talk.jsonl")
    assert (talk.agent, [turn.speaker for turn in talk.turns]) == ("bot", ["customer", "bot"])
    assert "agent> " in capsys.readouterr().out


def option(text: str, log_prob: float, q: float, removed: str = "") -> Option:
    candidate = Candidate(ids=(1,), text=text, log_prob=log_prob, ended=True, q=q, v=0.0)
    return Option(candidate=candidate, removed=removed)


# Broken by a warning at each such answer, at none, or of one that is likely.
def test_it_warns_once_of_what_is_hardly_ever_said(monkeypatch, capsys):
    answers = iter([(-9.0, 3.0), (-1.0, 2.0), (-8.0, 3.0)])

    def options(chat: Chat) -> list[Option]:
        log_prob, q = next(answers)
        return [option("chosen", log_prob, q), option("likeliest", -1.0, 1.0)]

    monkeypatch.setattr(Chat, "_options", options)
    monkeypatch.setattr("sys.stdin", io.StringIO("log in ?\n" * 3))
    assert main(["chat", "ilql"]) == 0
    out = capsys.readouterr().out
    assert out.count("8.0 below the likeliest one's") == 1
    assert out.count("hardly ever said") == 1


# Broken by columns of fixed least widths, beside which the last one was cropped: "highest Q of th".
@pytest.mark.parametrize("width", [60, 80, 200])
def test_remarks_are_wrapped_by_words(width):
    likely, bad = (
        option("please reset your password by the link", -5.59, 3.94),
        option("no", -1.0, 9.0, "has 'no', out"),
    )
    said = Said(
        speaker=AGENT, text=likely.candidate.text, turn=TokenTurn(agent=True, ids=(1,)), at=0.0, options=(likely, bad),
        chosen=likely, why="highest Q of those that are left",
    )  # fmt: skip
    screen = io.StringIO()
    console = Console(file=screen, width=width)
    console.print(*rendered(said, Chat(load_speaker("ilql"))), sep="\n")
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    assert all(words.count(word) for word in said.why.split())
