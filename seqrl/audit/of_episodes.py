"""Checks of whole episodes: how many, how they end, what they return, and whether one runs into the next."""

import numpy as np
from scipy.special import bdtrc

from seqrl.audit.finding import Finding, Found
from seqrl.audit.reading import Leaf, Rows, row_hashes, sequence_hashes
from seqrl.statistics import percent

FEW = 10
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def episodes(rows: Rows) -> Found:
    """Number and lengths."""
    lengths = rows.dataset.lengths
    number = len(lengths)
    quantiles = np.quantile(lengths, QUANTILES)
    figures = {"episodes": number, "decisions": int(lengths.sum()), "lengths": quantiles.tolist()}
    found = []
    if number < FEW:
        found.append(
            Finding("episodes", "few_episodes", "look", f"only {number}: too few to hold any out and to trust")
        )
    if lengths.max() == 1:
        message = "every episode has one decision: nothing to remember, and no return beyond the reward"
        found.append(Finding("episodes", "one_decision", "look", message))
    text = f"{number:,} with {lengths.sum():,} decisions; lengths {_spread(quantiles)}"
    return figures, found or [Finding("episodes", "episodes", "ok", text)]


def endings(rows: Rows) -> Found:
    """Terminated, truncated, and mix-ups of the two."""
    data, lengths = rows.dataset, rows.dataset.lengths
    last = data.starts[:-1] + lengths - 1
    terminated, truncated = np.array(data.terminated[last]), np.array(data.truncated[last])
    neither = ~(terminated | truncated)
    figures = {"terminated": float(terminated.mean()), "truncated": float(truncated.mean())}
    found = []
    if neither.any():
        message = (
            f"{percent(neither.mean())} of episodes end in neither: set truncated where only the recording stopped"
        )
        found.append(Finding("endings", "no_ending", "wrong", message))
    inside = (rows.terminated | rows.truncated) & rows.decision
    inside[rows.end - 1] = False
    if inside.any():
        message = f"{int(inside.sum()):,} decisions inside episodes are flagged as an end: split the episodes there"
        found.append(Finding("endings", "ending_inside", "wrong", message))
    found += _time_limits(lengths, terminated, truncated)
    text = f"{percent(terminated.mean())} terminated, {percent(truncated.mean())} truncated"
    return figures, found or [Finding("endings", "endings", "ok", text)]


def _time_limits(lengths: np.ndarray, terminated: np.ndarray, truncated: np.ndarray) -> list[Finding]:
    longest = int(lengths.max())
    at_limit = (lengths == longest) & terminated & ~truncated
    values = np.unique(lengths)
    if len(lengths) > 1 and longest > 1 and len(values) == 1 and at_limit.all():
        message = (
            f"all last {longest} decisions and are flagged terminated: is it a limit of time? That should be truncated"
        )
        return [Finding("endings", "time_limit", "look", message)]
    usual = 10 * len(lengths) / max(longest, 1)  # of lengths spread evenly, ten times as many as one has
    if longest >= 20 and len(values) >= 5 and at_limit.sum() > max(usual, 0.05 * len(lengths), 2):
        message = (
            f"{percent(at_limit.mean())} of episodes are terminated at the greatest length, {longest}: "
            "is it a limit of time? That should be truncated"
        )
        return [Finding("endings", "time_limit", "look", message)]
    cut = lengths[truncated & ~terminated]
    if len(cut) >= FEW and len(np.unique(cut)) >= 10 and np.unique(cut, return_counts=True)[1].max() < len(cut) / 2:
        message = f"episodes are truncated at {len(np.unique(cut))} different lengths: were ends of the task called so?"
        return [Finding("endings", "truncated_anywhere", "look", message)]
    return []


def leaks(rows: Rows) -> Found:
    """Does an episode go on where the one before stopped, or hold the beginning of another?"""
    found: list[Finding] = []
    found += _joined(rows)
    for leaf in rows.leaves:
        if not leaf.is_mask:
            found += _counters(rows, leaf) + _lost_boundaries(rows, leaf)
    return {}, found or [Finding("leaks", "leaks", "ok", "no episode runs into the next")]


def _neighbours(rows: Rows) -> np.ndarray:
    """Which episodes [E − 1] are followed, in the dataset, by the next that was read."""
    return np.diff(rows.episodes) == 1


def _severity(rows: Rows, which: np.ndarray) -> tuple[str, str]:
    """Cut recordings of something that never ends go on in the next; after a true end nothing may."""
    ended = rows.terminated[rows.end[:-1] - 1][which]
    if ended.mean() > 0.05:
        return "wrong", "the boundaries are off, by a row or altogether"
    return "look", "one recording cut into pieces? Then pieces of one must not be both learnt from and held out"


def _joined(rows: Rows) -> list[Finding]:
    """First observations that are the last of the episode before, more often than of any other episode.

    Three at least, and so many that luck would bring them in one log of 10,000.
    """
    near = _neighbours(rows)
    first, last = rows.hashes[rows.begin[1:]], rows.hashes[rows.end[:-1]]
    same = (first == last) & near
    matches, number = int(same.sum()), int(near.sum())
    if matches < 3:
        return []
    place = np.unique(np.concatenate([first[near], last[near]]), return_inverse=True)[1]
    often = [np.bincount(part, minlength=2 * number) for part in (place[:number], place[number:])]
    elsewhere = int(often[0] @ often[1]) - matches  # of the pairs of episodes that do not follow each other
    by_chance = (elsewhere + 1) / (number * (number - 1) + 1)
    share = matches / number
    if share <= 0.02 + 2 * by_chance or bdtrc(matches - 1, number, by_chance) > 1e-4:
        return []
    severity, why = _severity(rows, same)
    message = f"{percent(share)} of first observations are the last of the episode before: {why}"
    return [Finding("leaks", "joined", severity, message)]  # type: ignore[arg-type]


def _counters(rows: Rows, leaf: Leaf) -> list[Finding]:
    """Columns that always change by the same amount within an episode, and between episodes too."""
    change = leaf.step_high
    tolerance = np.minimum(1e-4 * np.abs(change) + _rounding(leaf), np.abs(change) / 2)
    columns = np.flatnonzero((change != 0) & np.isfinite(change) & (change - leaf.step_low <= tolerance))
    near = _neighbours(rows)
    if not len(columns) or len(columns) > 64 or near.sum() < 2:
        return []
    last, first = (
        leaf.rows(rows.row[place])[:, columns].astype(np.float64) for place in (rows.end[:-1], rows.begin[1:])
    )
    gap = np.abs(first - last - change[columns])
    goes_on = (np.minimum(gap, np.abs(first - last)) <= tolerance[columns]) & near[:, None]
    share = goes_on.sum(0) / near.sum()
    bad = columns[share > 0.5]
    if not len(bad):
        return []
    severity, why = _severity(rows, near)
    message = f"{leaf.column(int(bad[0]))} counts on from one episode to the next: {why}"
    return [Finding("leaks", "counter", severity, message)]  # type: ignore[arg-type]


def _rounding(leaf: Leaf) -> np.ndarray:
    """[D]: how far a step may be off since its two values were rounded to the column's type, and again for another."""
    largest = np.maximum(np.abs(leaf.low), np.abs(leaf.high))
    if not np.issubdtype(leaf.array.dtype, np.floating):
        return np.zeros_like(largest)
    with np.errstate(invalid="ignore"):  # of a column without a finite number
        return 2 * np.spacing(largest.astype(leaf.array.dtype)).astype(np.float64)


def _lost_boundaries(rows: Rows, leaf: Leaf) -> list[Finding]:
    """Steps far beyond the usual that land among first observations: two episodes in one.

    Only columns whose first values lie close together can tell: an angle that wraps around jumps too.
    """
    with np.errstate(invalid="ignore"):
        near = leaf.first_high - leaf.first_low < 0.5 * (leaf.high - leaf.low)
    columns = np.flatnonzero(leaf.continuous & near)
    if not 0 < len(columns) <= 256 or not len(leaf.steps):
        return []
    with np.errstate(invalid="ignore"):
        usual = np.nanquantile(np.abs(leaf.steps[:, columns]), 0.9, axis=0)
    usual[usual == 0] = np.inf  # what seldom changes has no usual step
    low, high = leaf.first_low, leaf.first_high
    count = 0
    for block in rows.blocks(8 * len(leaf.low)):
        values = leaf.rows(rows.row[block]).astype(np.float64)
        with np.errstate(invalid="ignore"):
            far = (np.abs(values[1:, columns] - values[:-1, columns]) > 4 * usual).any(1)
        at_start = np.all((values[1:] >= low) & (values[1:] <= high), axis=1)
        count += int((far & at_start & ~rows.is_final[block][:-1]).sum())
    if not count:
        return []
    name = f" of {leaf.name}" if leaf.name else ""
    message = f"{count:,} jumps{name} inside episodes land where episodes begin: was a boundary lost?"
    return [Finding("leaks", "lost_boundary", "look", message)]


def duplicates(rows: Rows) -> Found:
    """Episodes that are copies of others, bit for bit."""
    values = np.column_stack([rows.reward, rows.action.astype(np.float64)])
    words = rows.hashes + row_hashes(values)
    hashes = sequence_hashes(words, rows.position, rows.begin)
    share = 1 - len(np.unique(hashes)) / len(hashes)
    if share > 0.05:
        message = f"{percent(share)} of episodes are copies of others: held-out ones would be known already"
        found = [Finding("duplicates", "duplicates", "look", message)]
    else:
        found = [Finding("duplicates", "duplicates", "ok", f"{percent(share)} are copies of others")]
    return {"duplicate_share": share}, found


def returns(rows: Rows) -> Found:
    """Can a target return tell good episodes from bad ones?"""
    values = rows.dataset.returns
    quantiles = np.quantile(values, QUANTILES)
    spread, size = quantiles[5] - quantiles[1], np.abs(quantiles).max()
    commonest = np.unique(values, return_counts=True)[1].max() / len(values)
    figures = {"returns": quantiles.tolist(), "mean_return": float(values.mean()), "commonest_return": commonest}
    found = []
    if spread <= 0.01 * size:
        message = (
            f"hardly differ (5 % to 95 %: {quantiles[1]:.4g} to {quantiles[5]:.4g}): "
            "a target return has nothing to tell apart; add better and worse policies"
        )
        found.append(Finding("returns", "similar_returns", "look", message))
    if size > 1000:
        message = f"up to {size:.4g} in size: divide rewards, or scale returns-to-go, to about 1 to 10"
        found.append(Finding("returns", "large_returns", "look", message))
    text = f"{_spread(quantiles)}, mean {values.mean():.4g}"
    return figures, found or [Finding("returns", "returns", "ok", text)]


def rewards(rows: Rows) -> Found:
    """Scale, and where in an episode rewards come."""
    reward = rows.reward[rows.decision]
    ends = np.zeros(len(rows.reward), dtype=bool)
    ends[rows.end - 1] = True
    at_end = ends[rows.decision]
    finite = reward[np.isfinite(reward)]
    if not len(finite):
        return {}, [Finding("rewards", "no_rewards", "wrong", "none is finite")]
    given = np.abs(reward) > 0
    low, mean, high, some = finite.min(), finite.mean(), finite.max(), given.mean()
    figures = {"reward_low": low, "reward_mean": mean, "reward_high": high, "rewarded": some}
    text = f"{low:.4g} to {high:.4g}, mean {mean:.4g}; {percent(some)} of decisions are rewarded"
    if not given.any():
        return figures, [Finding("rewards", "no_rewards", "wrong", "all are 0: there is nothing to learn from")]
    if not given[~at_end].any() and not at_end.all():
        message = f"only at the end of episodes ({text}): the context must reach back to what earned them"
        return figures, [Finding("rewards", "sparse", "look", message)]
    return figures, [Finding("rewards", "rewards", "ok", text)]


def _spread(quantiles: np.ndarray) -> str:
    low, _, _, middle, _, _, high = quantiles
    return f"{low:.4g} / {quantiles[1]:.4g} / {middle:.4g} / {quantiles[5]:.4g} / {high:.4g}"
