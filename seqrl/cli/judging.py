"""seqrl evaluate of a reward model, and what is said of it once it is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from seqrl.cli.arguments import parse
from seqrl.cli.outputs import check_output, print_row, write_output
from seqrl.config import require
from seqrl.data.dialogues import shown
from seqrl.data.preferences import read_preferences
from seqrl.language.preferences import PreferenceDataset
from seqrl.language.reward_report import error_by_chance, reward_report
from seqrl.language_runs.rewards import REPORT, load_reward_model
from seqrl.run_folder import read_json
from seqrl.statistics import percent
from seqrl.tables import plain_table


@dataclass(frozen=True, kw_only=True)
class EvaluateRewardModel:
    """How far a reward model can be trusted, by pairs that it did not learn from."""

    preferences: str = ""
    """A file of preferences; by default what was held out when it was trained is told again."""
    output: str = ""
    """File to write the figures to as JSON; by default none."""


def evaluate_reward_model(run: str, args: list[str]) -> int:
    options = parse(EvaluateRewardModel, args, EvaluateRewardModel(), "seqrl evaluate RUN")
    check_output(options.output)
    if options.preferences:
        agent = load_reward_model(run)
        dataset = PreferenceDataset.of(read_preferences(options.preferences), agent.tokenizer)
        report, pairs = reward_report(agent, dataset).to_json(), shown(options.preferences, 1000)
    else:
        require((Path(run) / REPORT).is_file(), f"{run} has no held-out pairs: name others with --preferences FILE")
        report = read_json(Path(run), REPORT)
        pairs = _held_out(report)
    tell(run, report, pairs)
    write_output(options.output, {"run": run, "preferences": options.preferences or None, **report})
    return 0


def tell_held_out(run: str | Path) -> None:
    """What the pairs that were held out say, if there are any."""
    if (Path(run) / REPORT).is_file():
        report = read_json(Path(run), REPORT)
        tell(str(run), report, _held_out(report))


def _held_out(report: dict[str, Any]) -> str:
    return f"{report['pairs']} held-out pair{'s' if report['pairs'] != 1 else ''}"


def tell(run: str, report: dict[str, Any], pairs: str) -> None:
    """A report (`RewardReport.to_json`) on `pairs`, in tables."""
    columns = {
        "pairs": str(report["pairs"]),
        "accuracy": percent(report["accuracy"]),
        "log loss": f"{report['log_loss']:.3f}",
        "calibration error": percent(report["calibration_error"]),
        "disagreement": f"{report['disagreement']:.2f}",
    }
    print_row(f"{run} on {pairs}", columns)
    table = plain_table("how sure it was, and how often it was right")
    for column in ("probability", "pairs", "foretold", "came"):
        table.add_column(column, justify="right")
    for each in report["calibration"]:
        told = (percent(each["foretold"]), percent(each["right"])) if each["pairs"] else ("–", "–")
        table.add_row(f"{percent(each['low'])} to {percent(each['high'])}", str(each["pairs"]), *told)
    Console().print(table)
    chance = percent(error_by_chance(report["calibration"]))
    print(f"Calibration: of as many pairs chance alone makes an error of {chance}.")
    print(
        f"Length: correlation with the score {report['length_correlation']:+.2f}; the longer answer was chosen in "
        f"{percent(report['longer_chosen'])} of the pairs and has the higher score in "
        f"{percent(report['longer_preferred'])}."
    )
