"""Checks of single numbers: observations, actions, and what follows from them."""

from typing import Any

import gymnasium as gym
import numpy as np

from seqrl.actions import choices, is_mixed, parts
from seqrl.audit.finding import Finding, Found, listed
from seqrl.audit.reading import MOST_VALUES, Leaf, Rows, new_rows, row_hashes
from seqrl.statistics import percent


def finite(rows: Rows) -> Found:
    """NaN and infinity."""
    counts = {leaf.name or "observation": int(leaf.nonfinite.sum()) for leaf in rows.leaves}
    for name, values in (("action", rows.action), ("reward", rows.reward)):
        counts[name] = int((~np.isfinite(values[rows.decision])).sum())
    bad = [f"{count:,} in {name}" for name, count in counts.items() if count]
    if bad:
        message = f"NaN or infinity: {listed(bad)}; drop these episodes, or mend them"
        return {"nonfinite": sum(counts.values())}, [Finding("numbers", "nonfinite", "wrong", message)]
    return {"nonfinite": 0}, [Finding("numbers", "finite", "ok", "all finite")]


def columns(rows: Rows) -> Found:
    """Columns that say nothing, or the same as another."""
    seen = [leaf for leaf in rows.leaves if not leaf.is_mask]
    constant = [leaf.column(int(k)) for leaf in seen for k in np.flatnonzero(_constant(leaf))]
    total = sum(len(leaf.low) for leaf in seen)
    known: dict[int, str] = {}
    same: list[str] = []
    for leaf in seen:
        for k in np.flatnonzero(~_constant(leaf)):
            name, word = leaf.column(int(k)), int(leaf.hashes[k])
            if word in known:
                same.append(f"{name} = {known[word]}")
            known.setdefault(word, name)
    figures = {"columns": total, "constant_columns": constant[:100], "duplicate_columns": same[:100]}
    found = []
    if len(constant) == total:
        found.append(Finding("columns", "all_constant", "wrong", "no observation ever changes"))
    elif constant:
        message = f"{len(constant)} of {total} never change: {listed(constant)}"
        found.append(Finding("columns", "constant", "look", message))
    if same:
        found.append(Finding("columns", "duplicate", "look", f"{len(same)} of {total} are copies: {listed(same, 3)}"))
    return figures, found or [Finding("columns", "columns", "ok", f"{total}, each of which changes")]


def _constant(leaf: Leaf) -> np.ndarray:
    return leaf.low >= leaf.high


def placeholders(rows: Rows) -> Found:
    """One number far from all others, again and again, such as −999 where a sensor failed."""
    bad = []
    for leaf in rows.leaves:
        for k in np.flatnonzero(leaf.continuous):
            bad += [f"{value:.6g} in {leaf.column(int(k))}" for value in _far_and_often(leaf.points[:, k])]
    reward = rows.reward[rows.decision]
    bad += [f"{value:.6g} in reward" for value in _far_and_often(reward[:: max(len(reward) // 100_000, 1)])]
    if bad:
        message = f"the same number far from all others: {listed(bad, 4)}; stands it for a missing value?"
        return {"placeholders": bad[:100]}, [Finding("placeholders", "placeholder", "look", message)]
    return {"placeholders": []}, [Finding("placeholders", "placeholders", "ok", "no number stands apart")]


def _far_and_often(values: np.ndarray) -> list[float]:
    """The least and the greatest of `values` [m], if repeated and ten times as far off as the others are spread."""
    values = values[np.isfinite(values)]
    result = []
    for extreme in (values.min(), values.max()) if len(values) else ():
        others = values[values != extreme]
        if len(others) + 3 > len(values) or len(np.unique(others)) <= 20:
            continue
        low, high = np.quantile(others, [0.01, 0.99])
        if min(abs(extreme - low), abs(extreme - high)) > 10 * (high - low):
            result.append(float(extreme))
    return result


def coverage(rows: Rows) -> Found:
    """How much of what the spaces allow was seen."""
    found: list[Finding] = []
    texts: list[str] = []
    figures: dict[str, Any] = {}
    for leaf in rows.leaves:
        if leaf.is_mask:
            continue
        share = _covered(leaf)
        for k in range(min(len(share), 64)):
            part = None if np.isnan(share[k]) else float(share[k])
            figures[leaf.column(k)] = {"low": leaf.low[k], "high": leaf.high[k], "covered": part}
        known = share[~np.isnan(share)]
        texts += [f"{leaf.column(k)} {_range(leaf, k, share[k])}" for k in range(min(len(share), 8))]
        if len(known) and known.min() < 0.05:
            narrow = [leaf.column(int(k)) for k in np.flatnonzero(share < 0.05) if leaf.low[k] < leaf.high[k]]
            message = f"under 5 % of what the space allows was seen of {listed(narrow)}: nothing beyond can be learnt"
            found += [Finding("coverage", "narrow", "look", message)] if narrow else []
        outside = _outside(leaf)
        if len(outside):
            message = f"values outside the space in {listed([leaf.column(int(k)) for k in outside])}"
            found.append(Finding("coverage", "outside", "look", message))
    return {"coverage": figures}, found or [Finding("coverage", "coverage", "ok", listed(texts, 4))]


def _bounds(leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(leaf.space, gym.spaces.Box):
        return leaf.space.low.flatten().astype(np.float64), leaf.space.high.flatten().astype(np.float64)
    size = (
        leaf.space.nvec.flatten() if isinstance(leaf.space, gym.spaces.MultiDiscrete) else getattr(leaf.space, "n", 2)
    )
    high = np.broadcast_to(np.asarray(size, dtype=np.float64) - 1, leaf.low.shape)
    if isinstance(leaf.space, gym.spaces.MultiBinary):
        high = np.ones(leaf.low.shape)
    return np.zeros(leaf.low.shape), high


def _covered(leaf: Leaf) -> np.ndarray:
    """[D]: the share of a column's values, or of its range, that was seen; NaN without bounds."""
    low, high = _bounds(leaf)
    if leaf.seen is not None:
        return leaf.seen.sum(1) / (high + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        width = high - low
        usable = np.isfinite(width) & (width > 0) & (width < 1e30)  # some spaces write the largest float for infinity
        return np.where(usable, (leaf.high - leaf.low) / width, np.nan)


def _outside(leaf: Leaf) -> np.ndarray:
    low, high = _bounds(leaf)
    with np.errstate(invalid="ignore"):
        slack = 1e-5 * np.where(np.isfinite(high - low), np.maximum(high - low, 1.0), 1.0)
    return np.flatnonzero((leaf.low < low - slack) | (leaf.high > high + slack))


def _range(leaf: Leaf, k: int, share: float) -> str:
    part = "" if np.isnan(share) else f" ({percent(min(share, 1.0))})"
    return f"{leaf.low[k]:.3g} to {leaf.high[k]:.3g}{part}"


def actions(rows: Rows) -> Found:
    """Was each action tried, and are they what the space and the masks allow?"""
    space, action = rows.dataset.action_space, rows.action[rows.decision]
    if is_mixed(space):
        figures, found, text = _mixed(space, action)
    else:
        figures, found, text = (_box if isinstance(space, gym.spaces.Box) else _discrete)(space, action)
    if forbidden := _forbidden(rows, space):
        message = f"{forbidden:,} actions are forbidden by their action_mask: mend the log"
        found.append(Finding("actions", "forbidden", "wrong", message))
    return figures, found or [Finding("actions", "actions", "ok", text)]


def _mixed(space: gym.Space, action: np.ndarray) -> tuple[dict[str, Any], list[Finding], str]:
    """Leaf by leaf, each by its name."""
    shares: list[Any] = []
    at_bounds: list[float] = []
    found: list[Finding] = []
    texts, start = [], 0
    for part in parts(space):
        rows = action[:, start : start + part.size]
        figures, findings, text = (_box if isinstance(part.space, gym.spaces.Box) else _discrete)(part.space, rows)
        shares += figures.get("action_shares", [])
        at_bounds += figures.get("at_bounds", [])
        found += [finding._replace(message=f"{part.name}: {finding.message}") for finding in findings]
        texts.append(f"{part.name} {text}")
        start += part.size
    return {"action_shares": shares, "at_bounds": at_bounds}, found, "; ".join(texts)


def _discrete(space: gym.Space, action: np.ndarray) -> tuple[dict[str, Any], list[Finding], str]:
    sizes = list(choices(space).values())
    outside = sum(int(((part < 0) | (part >= size)).sum()) for part, size in zip(action.T, sizes, strict=True))
    if outside:
        message = f"{outside:,} outside {space}: discrete actions count from 0"
        return {}, [Finding("actions", "outside", "wrong", message)], ""
    if max(sizes) > MOST_VALUES:
        taken = sum(len(np.unique(part)) for part in action.T)
        message = f"{taken:,} of {sum(sizes):,} were ever taken: number those that exist from 0 without gaps"
        return {}, [Finding("actions", "never_taken", "look", message)], ""
    shares = [
        np.bincount(part.astype(np.int64), minlength=size) / len(part)
        for part, size in zip(action.T, sizes, strict=True)
    ]
    found = []
    many = len(sizes) > 1
    never = [f"{f'{k}:' if many else ''}{i}" for k, share in enumerate(shares) for i in np.flatnonzero(share == 0)]
    if never:
        message = f"{len(never)} of {sum(sizes)} were never taken: {listed(never)}"
        found.append(Finding("actions", "never_taken", "look", message))
    if max(share.max() for share in shares) > 0.99:
        found.append(Finding("actions", "one_action", "look", "one makes up over 99 %: nothing to compare it with"))
    text = "; ".join(listed([f"{i}: {percent(p)}" for i, p in enumerate(share)], 8) for share in shares[:3])
    return {"action_shares": [share.tolist() for share in shares]}, found, text


def _box(space: gym.Space, action: np.ndarray) -> tuple[dict[str, Any], list[Finding], str]:
    low, high = space.low.flatten().astype(np.float64), space.high.flatten().astype(np.float64)  # type: ignore[attr-defined]
    action = action.astype(np.float64)
    width = np.where(np.isfinite(high - low), np.maximum(high - low, 1e-12), 1.0)
    with np.errstate(invalid="ignore"):
        at_bounds = ((np.abs(action - low) <= 1e-6 * width) | (np.abs(action - high) <= 1e-6 * width)).mean(0)
        outside = int(((action < low - 1e-5 * width) | (action > high + 1e-5 * width)).any(1).sum())
        constant = np.flatnonzero(action.min(0) == action.max(0))
        spread = zip(action.mean(0)[:4], action.std(0)[:4], strict=True)
    found = []
    if outside:
        found.append(
            Finding("actions", "outside", "wrong", f"{outside:,} outside {space}: clip them, or widen the space")
        )
    if len(constant):
        message = f"entries {listed([str(k) for k in constant])} never change: nothing to compare them with"
        found.append(Finding("actions", "one_action", "look", message))
    elif at_bounds.max() > 0.5:
        k = int(at_bounds.argmax())
        message = f"{percent(at_bounds[k])} of entry {k} are at its bounds: clipped? A density gives them no sense"
        found.append(Finding("actions", "at_bounds", "look", message))
    means = ", ".join(f"{mean:.3g} ± {deviation:.3g}" for mean, deviation in spread)
    text = f"mean ± sd {means}; at most {percent(at_bounds.max())} of an entry at its bounds"
    return {"at_bounds": at_bounds.tolist()}, found, text


def _forbidden(rows: Rows, space: gym.Space) -> int:
    """How many actions of a Discrete space their masks forbid."""
    leaf = next((leaf for leaf in rows.leaves if leaf.is_mask), None)
    if leaf is None or not isinstance(space, gym.spaces.Discrete) or len(leaf.low) != space.n:
        return 0
    count = 0
    for block in rows.blocks(8 * len(leaf.low)):
        fresh = new_rows(block)
        mask, chosen = leaf.rows(rows.row[block][fresh]), rows.action[block, 0][fresh].astype(np.int64)
        inside = rows.decision[block][fresh] & (chosen >= 0) & (chosen < space.n)
        count += int((~mask[inside, chosen[inside]].astype(bool)).sum())
    return count


def chance(rows: Rows) -> Found:
    """After the same observation and action, did the same follow?

    Where a final observation is but the last one repeated, what followed is not known, and the decision is left out.
    A termination is known all the same.
    """
    before = np.flatnonzero(rows.decision)
    if rows.dataset.about.get("final_observation_repeated"):
        last = rows.end - 1
        cut = rows.truncated[last] & ~rows.terminated[last]
        before = np.setdiff1d(before, last[cut & (rows.hashes[last] == rows.hashes[rows.end])])
    if not len(before):
        text = "what followed the observations was not logged"
        return {"seen_again": 0.0, "followed_by_another": 0.0}, [Finding("chance", "chance", "ok", text)]
    key = rows.hashes[before] + row_hashes(rows.action[before])
    after = rows.hashes[before + 1] + row_hashes(
        np.column_stack([rows.reward[before], rows.terminated[before].astype(np.float64)])
    )
    order = np.argsort(key, kind="stable")
    key, after = key[order], after[order]
    group = np.cumsum(np.concatenate([[True], key[1:] != key[:-1]])) - 1
    begin = np.flatnonzero(np.diff(group, prepend=-1))
    varies = np.maximum.reduceat(after, begin) != np.minimum.reduceat(after, begin)
    repeated = np.bincount(group)[group] > 1
    seen_again = repeated.mean()
    figures = {"seen_again": seen_again, "followed_by_another": 0.0}
    if repeated.sum() < max(20, 0.01 * len(key)):
        text = f"{percent(seen_again)} of observations came again with the same action: too few to tell"
        return figures, [Finding("chance", "chance", "ok", text)]
    differ = varies[group[repeated]].mean()
    figures["followed_by_another"] = differ
    if differ > 0.05:
        message = (
            f"{percent(differ)} of recurring observations and actions were not always followed by the same: "
            "chance, which a target return mistakes for skill, or something hidden, which needs memory"
        )
        return figures, [Finding("chance", "chance", "look", message)]
    return figures, [Finding("chance", "chance", "ok", "the same observation and action are followed by the same")]
