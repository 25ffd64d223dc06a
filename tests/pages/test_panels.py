"""The panels of a run's page: all that was logged, in words."""

from markup_reading import EVIL, Page
from page_contents import run_folder

from seqrl.pages.run_page import run_page
from seqrl.reports.run import COLOURS, PANELS, is_logarithmic, panels_of


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


# Breaks if: `panels_of` gives PANELS as they are: a run of rlhf has its distance from the reference under "KL of an
# update", as PPO's.
def test_what_is_logged_of_a_speaker_has_words(tmp_path):
    lines = [{"step": float(k), "kl": 2.0 + k, "steps_per_second": 0.31} for k in (1, 2, 3)]
    rlhf = [line | {"kl_estimate": 2.1, "unfinished": 0.5} for line in lines]
    config = {"env": "", "task": "negotiation", "memory": "", "model": "gru"}
    page = Page(run_page(run_folder(tmp_path / "rlhf", rlhf, **config)))
    assert all(words in page.text for words in ("KL from where it began, nats", "share of what is said", "0.31"))
    assert not any(words in page.text for words in ("KL of an update", "metrics.jsonl", "1.5"))
    ppo = Page(run_page(run_folder(tmp_path / "ppo", [line | {"episodes": line["kl"]} for line in lines])))
    assert all(words in ppo.text for words in ("KL of an update, nats", "episodes that ended"))
    assert "metrics.jsonl" not in ppo.text


# Breaks if: "kl" stands in the panel of the gradient's norm, or "policy_loss" in that of values: of curves that are a
# hundred times as large as others those lie flat at the bottom.
def test_what_is_of_another_size_has_a_panel_of_its_own():
    updates = (
        "policy_loss",
        "value_loss",
        "actor_loss",
        "critic_loss",
        "kl",
        "clipped_fraction",
        "grad_norm",
        "td_error",
    )
    assert [metrics for metrics in panels_of(updates).values() if len(metrics) > 1] == []


# Breaks if: `> 10` is left out: an axis from 0.3 to 0.7 is logarithmic, with 0.5 alone beside it.
def test_an_axis_is_logarithmic_where_powers_of_ten_are_spanned():
    def is_log(values, title="norm of the gradient"):
        return is_logarithmic(title, [list(enumerate(values))])

    assert is_log([0.3, 0.7, 30.0])
    assert not any((is_log([0.3, 0.7]), is_log([0.0, 1.0, 30.0]), is_log([0.3, 30.0], "loss of values")))


# Breaks if: the panel of speed has a section to itself in a run of one process, which nobody waits for.
def test_speed_has_a_section_where_processes_wait_for_each_other(tmp_path):
    lines = [{"step": float(k), "steps_per_second": 9.0 + k} for k in (1, 2, 3)]
    alone = Page(run_page(run_folder(tmp_path / "ppo", lines)))
    assert alone.within("h2") == ["More", "Settings"]
    assert alone.within("h3") == ["steps per second"]
    apart = Page(run_page(run_folder(tmp_path / "impala", [line | {"policy_lag": 1.0} for line in lines])))
    assert apart.within("h2") == ["Speed and lag", "Settings"]


# Breaks if: the panels of `PANELS` that are drawn have more metrics than colours: those behind them are on no page.
def test_a_panel_has_no_more_metrics_than_colours():
    panels = [
        *PANELS.values(),
        *panels_of(["kl_estimate", *(name for each in PANELS.values() for name in each)]).values(),
    ]
    assert max(map(len, panels)) <= len(COLOURS)
