"""The panels of a run's page: all that was logged, in words."""

from markup_reading import EVIL, Page
from page_contents import run_folder

from seqrl.pages.run_page import run_page
from seqrl.reports.run import COLOURS, PANELS, panels_of


# Break: a panel that stands in no group and is not shown under "More" either.
def test_every_metric_is_on_a_runs_page(tmp_path):
    names = [name for metrics in PANELS.values() for name in metrics] + [EVIL, "something_new"]
    lines = [{"step": 10.0 * k, **dict.fromkeys(names, 1.0 + k)} for k in range(30)]
    read = Page(run_page(run_folder(tmp_path / "run", lines)))
    assert read.count("script") == 1
    assert all(word in read.text for word in ("something new", "300,000", "seed 4", "length=3"))
    drawn = [a["data-name"] for a in read.classed("path", "line")]
    assert "ΔQ" in read.text
    assert len(drawn) == len(names) + 2  # returns are drawn twice, for wide and for narrow windows


# Breaks if: `panels_of` gives PANELS as they are: a run of rlhf has its distance from the reference among "size of
# errors", of PPO's updates.
def test_what_is_logged_of_a_speaker_has_words(tmp_path):
    lines = [{"step": float(k), "kl": 2.0 + k, "steps_per_second": 0.31} for k in (1, 2, 3)]
    rlhf = [line | {"kl_estimate": 2.1, "unfinished": 0.5} for line in lines]
    config = {"env": "", "task": "negotiation", "memory": "", "model": "gru"}
    page = Page(run_page(run_folder(tmp_path / "rlhf", rlhf, **config)))
    assert all(words in page.text for words in ("KL from where it began, nats", "share of what is said", "0.31"))
    assert not any(words in page.text for words in ("size of errors", "metrics.jsonl", "1.5"))
    ppo = Page(run_page(run_folder(tmp_path / "ppo", [line | {"episodes": line["kl"]} for line in lines])))
    assert all(words in ppo.text for words in ("size of errors: KL", "episodes that ended"))
    assert "metrics.jsonl" not in ppo.text


# Breaks if: the panels of `PANELS` that are drawn have more metrics than colours: those behind them are on no page.
def test_a_panel_has_no_more_metrics_than_colours():
    panels = [
        *PANELS.values(),
        *panels_of(["kl_estimate", *(name for each in PANELS.values() for name in each)]).values(),
    ]
    assert max(map(len, panels)) <= len(COLOURS)
