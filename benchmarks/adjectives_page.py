"""docs/table.md: the adjectives of `benchmarks.adjectives`, and below them each problem's own table."""

from typing import Any

from benchmarks.adjectives import HOLDS, NOT, OPEN, TITLES, UNKNOWN, claims

INTRODUCTION = """\
# The table of adjectives, measured

Frame stacking has a short memory and is simple, recurrent RL is hard to train, a Decision Transformer is stable and
does not stitch, RLHF needs costly labels: so the approaches are usually compared. Here each adjective stands beside a
figure of this library on small problems, also where the figure contradicts it. It is the rule in
`benchmarks/adjectives.py` that says whether an adjective holds, not a person; and what holds on a small problem need
not hold on yours: `seqrl compare` measures the same there.

`make table` measures it, and goes on where it was interrupted; what it has not measured itself is taken from other
benchmarks of this house, which are named then. "Solved" and "reached" mean nine tenths of the optimum, which is
known for all of these problems. A difference in steps or speed counts from a fifth on, one in returns beyond its 95 %
interval over seeds, and what may be large within it is not settled. Seconds and steps per
second are of runs of which each had a core, two at a time
"""
ABOUT = {
    "tmaze": "Remember a cue for as many steps as the corridor is long, then turn as it said. What the methods at the "
    "end of the table learn from was played by the best run, a middling one, the weakest, and random actions.",
    "cartpole": "CartPole without its velocities, which a few positions in a row tell.",
    "corridors": "Two logged ways, each good in one half; the best way joins them, and was never logged.",
    "gamble": "Four times 1 for sure, or 3 with a chance of 0.2, logged at random: whoever got much was lucky.",
}
"""What each problem is about."""


def document(found: dict[str, Any], others: dict[str, Any]) -> str:
    """docs/table.md as text. `others` are further benchmarks' results, as far as there are any: `preferences`, `recall`
    and `staleness`."""
    parts = found["parts"] | others
    told = claims(parts)
    count = {verdict: sum(claim.verdict == verdict for claim in told) for verdict in (HOLDS, NOT, OPEN, UNKNOWN)}
    lines = [f"{INTRODUCTION}({found['processor']}, {found['date']}): compare them within this page alone.", ""]
    lines += [f"Of {len(told)} adjectives {count[HOLDS]} hold, {count[NOT]} do not hold here, {count[OPEN]} are not "
              f"settled by these figures, {count[UNKNOWN]} are not measured.", ""]  # fmt: skip
    lines += ["| approach | is said to be | measured | |", "|---|---|---|---|"]
    lines += [f"| {c.approach} | {c.adjective} | {c.figure or '–'} | {c.verdict} |" for c in told]
    for part, title in TITLES.items():
        lines += ["", f"## {title[0].upper()}{title[1:]}", "", ABOUT[part], ""]
        if parts[part]:
            name, *table = parts[part]["table"].splitlines()
            lines += [f"{name.removeprefix('# ')}:", *table]
        else:
            lines += ["Not measured."]
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
