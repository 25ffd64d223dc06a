"""Tasks and scripted speakers by name, and the logs that they make."""

import pytest
import torch

from seqrl.data.dialogues import read_dialogues, write_dialogues
from seqrl.errors import UserError
from seqrl.language.scripted import scripted_dialogues
from seqrl.text import SPEAKERS, QuestionsOptimum, make_speaker, make_task

SMALL = {"wordle": {"num_words": 12}, "text_maze": {"max_turns": 30}, "twenty_questions": {}}


def test_words_of_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("crane\nslate\n\ntrace\n")
    assert make_task("wordle", words=str(path)).words == ("crane", "slate", "trace")
    assert make_task("wordle", words=str(path), num_words=2).words == ("crane", "slate")
    assert len(make_task("wordle").words) == 60
    assert make_task("text_maze", partly_observed=True).partly_observed


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("wordel", {}, "unknown task 'wordel': did you mean 'wordle'"),
        ("wordle", {"word": "x"}, "takes no 'word': did you mean 'words'"),
        ("wordle", {"words": "nowhere.txt"}, "cannot read 'nowhere.txt', the list of words"),
        ("wordle", {"num_words": 61}, "num_words is 61: give a whole number from 1 to 60"),
        ("text_maze", {"max_turns": "many"}, "cannot make the task text_maze"),
    ],
)
def test_what_no_task_is(name, kwargs, message):
    with pytest.raises(UserError, match=message):
        make_task(name, **kwargs)


@pytest.mark.parametrize("name", list(SMALL))
def test_speakers_differ_in_quality_and_their_logs_read_back(name, tmp_path):
    task = make_task(name, **SMALL[name])
    means = {}
    for speaker in ("random", "optimal:0.5", "optimal"):
        log = list(scripted_dialogues(task, [speaker], 60, seed=1))
        means[speaker] = sum(turn.reward or 0 for d in log for turn in d.turns) / 60
        assert log == list(scripted_dialogues(task, [speaker], 60, seed=1))
    assert means["random"] < means["optimal:0.5"] < means["optimal"]
    mixed = list(scripted_dialogues(task, ["random", *SPEAKERS[type(task)]], 12))
    assert [d.meta["speaker"] for d in mixed[:2]] == ["random", next(iter(SPEAKERS[type(task)]))]
    write_dialogues(tmp_path / "log.jsonl", mixed)
    assert list(read_dialogues(tmp_path / "log.jsonl")) == mixed


# Broken by `0 <` for `0 <=` in what is left to ask for: it would ask what it knows, and never end.
def test_random_consistent_questions_find_everything():
    task = make_task("twenty_questions")
    log = scripted_dialogues(task, ["random_consistent"], 100)
    totals = [sum(turn.reward or 0 for turn in d.turns) for d in log]
    assert min(totals) > -20
    assert sum(totals) / 100 < QuestionsOptimum(task).expected_return


@pytest.mark.parametrize(
    ("speaker", "message"),
    [
        ("optimum", "Wordle has no speaker 'optimum': did you mean 'optimal'"),
        ("optimal:2", "is not NAME:EPSILON"),
        ("optimal:", "is not NAME:EPSILON"),
    ],
)
def test_who_is_no_speaker(speaker, message):
    with pytest.raises(UserError, match=message):
        make_speaker(speaker, make_task("wordle", num_words=3), torch.Generator())
