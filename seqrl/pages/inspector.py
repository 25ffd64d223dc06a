"""The page of an agent's episodes: one steps through them, and sees what was seen, done, expected and remembered."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from seqrl.inspection.episodes import Episode, Recall, leaves_of, total_of
from seqrl.pages.html import Html, data_script, element, markup, page, plain, static, write_page
from seqrl.pages.png import grey_or_colour, pictures
from seqrl.run_folder import read_json
from seqrl.trajectory import action_mask

FRAME_BYTES, IMAGE_BYTES = 1_400_000, 900_000
"""What an episode's frames, and all images that the agent saw in it, may take on the page."""
MOST_ENTRIES = 150
"""Entries of a vector that are shown; of longer ones the first."""
FAR = 1e6
"""Bounds beyond this one say nothing of what is seen."""
CONTROLS = {
    "first": "to the first step (Home)",
    "back": "one step back (←)",
    "play": "play and stop (space)",
    "next": "one step on (→)",
    "last": "to the last step (End)",
}

HINT = element(
    "p", "Keys: ← → one step, with Shift ten, Home and End, space plays, 1 … 9 episodes.", class_="about screen hint"
)

NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "seqrl/TMaze-v0": {
        "actions": ("left", "right", "up", "down"),
        "entries": ("cue", "at the oracle", "at the junction"),
    },
    "CartPole-v1": {"actions": ("left", "right"), "entries": ("position", "velocity", "angle", "angular velocity")},
    "seqrl/MaskedCartPole-v0": {"actions": ("left", "right"), "entries": ("position", "angle")},
    "seqrl/MaskedMountainCarContinuous-v0": {"actions": ("force",), "entries": ("position",)},
    "seqrl/MaskedPendulum-v0": {"actions": ("torque",), "entries": ("cos θ", "sin θ")},
    "MountainCar-v0": {"actions": ("left", "none", "right"), "entries": ("position", "velocity")},
    "Acrobot-v1": {
        "actions": ("torque −1", "torque 0", "torque +1"),
        "entries": ("cos θ₁", "sin θ₁", "cos θ₂", "sin θ₂", "velocity θ₁", "velocity θ₂"),
    },
    "Pendulum-v1": {"actions": ("torque",), "entries": ("cos θ", "sin θ", "angular velocity")},
}  # fmt: skip
"""What actions and entries of vectors are called, where we know it; else they have numbers."""


def write_inspector(
    path: Path, episodes: Sequence[Episode], observation_space: gym.Space, about: dict[str, Any]
) -> Path:
    """Write the page of `episodes`. `about` has `title`, `kind` and `subtitle`, and `env` and `hide` for names."""
    names = _names(about) | {"value": value_name(path.parent)}
    data = plain({"names": names, "episodes": [episode_data(e, observation_space) for e in episodes]})
    document = page(
        about["title"],
        element("style", Html(static("inspector.css"))),
        _skeleton(),
        data_script("episodes", data),
        kind=about["kind"], subtitle=about["subtitle"], scripts=("stepper.js", "memory.js", "inspector.js"),
    )  # fmt: skip
    return write_page(path, document)


def _names(about: dict[str, Any]) -> dict[str, Any]:
    names = NAMES.get(about.get("env", ""), {})
    hidden = set(about.get("hide", ()))
    return {
        "actions": list(names.get("actions", ())),
        "entries": [name for k, name in enumerate(names.get("entries", ())) if k not in hidden],
    }


def value_name(run: Path) -> str:
    """What a run's values are called: they are of the rewards that it learnt from, perhaps not the environment's."""
    config = read_json(run, "config.json") if (run / "config.json").is_file() else {}
    if config.get("normalize_rewards"):
        return "value (of scaled rewards)"
    return "value (squashed, as h(x))" if config.get("rescale_values") else "value"


def controls() -> Html:
    """Tabs of episodes, buttons and slider, for stepper.js. Without scripts they say so."""
    buttons = [
        element("button", type="button", id=f"step-{name}", title=title, aria_label=title)
        for name, title in CONTROLS.items()
    ]
    slider = element("input", type="range", id="slider", min=0, max=0, value=0, aria_label="step")
    place = element("output", id="place")
    without = "This page needs its own script to be stepped through: allow it."
    return markup(
        [
            element("noscript", element("p", without, class_="note")),
            element("nav", id="tabs", class_="tabs", aria_label="episodes"),
            element("div", element("div", buttons, class_="buttons"), slider, place, class_="controls screen"),
        ]
    )


def _skeleton() -> Html:
    cards = [element("div", id=name, class_="card") for name in ("seen", "chosen", "figures")]
    return markup(
        [
            controls(),
            element("div", id="timeline"),
            element("div", cards, class_="grid inspect"),
            element("div", id="memory", class_="card spaced"),
            HINT,
        ]
    )


def episode_data(episode: Episode, space: gym.Space) -> dict[str, Any]:
    """An episode as the script reads it: lists by row, numbers of four digits, weights as bytes."""
    leaves = leaves_of(space, episode.observation)
    images = sum(_is_image(leaf) for _, leaf, _ in leaves)
    frames = None
    if episode.frames:
        uris, numbers = pictures(episode.frames, FRAME_BYTES)
        frames = {"uris": uris, "numbers": numbers}
    return {
        "seed": episode.seed,
        "total": short(total_of(episode)),
        "steps": episode.num_steps,
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "frames": frames,
        "named": isinstance(space, gym.spaces.Dict | gym.spaces.Tuple),
        "leaves": [_leaf(*leaf, IMAGE_BYTES // max(images, 1)) for leaf in leaves],
        "action": short(episode.action),
        "names": episode.names,
        "policy": {name: short(leaf) for name, leaf in episode.policy.items()},
        "value": short(episode.value),
        "asked": short(episode.asked),
        "reward": short(episode.reward),
        "inner": episode.inner_starts,
        "allowed": _allowed(episode.observation),
        "recalls": [_recall(recall) for recall in episode.recalls],
    }


def _is_image(space: gym.Space) -> bool:
    return isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3


def _leaf(name: str, space: gym.Space, values: np.ndarray, most_bytes: int) -> dict[str, Any]:
    """A part of the observation: images, a number of so many, or a vector with the range that it is drawn on."""
    if _is_image(space):
        uris, numbers = pictures([grey_or_colour(image) for image in values], most_bytes)
        return {"name": name, "kind": "image", "uris": uris, "numbers": numbers}
    if isinstance(space, gym.spaces.Discrete):
        return {"name": name, "kind": "discrete", "size": int(space.n), "values": values.reshape(len(values)).tolist()}
    columns, seen = 0, np.stack([*values.astype(np.float64), *_range(space, values)])
    if values.ndim == 4:  # a grid of cells [H, W, C]: each kind of category beside the others
        columns = values.shape[2] * values.shape[3]
        seen = np.moveaxis(seen, -1, 2)
    flat = seen.reshape(len(seen), -1)
    shown = flat[:, :MOST_ENTRIES]
    return {
        "name": name, "kind": "vector", "size": flat.shape[1], "columns": columns, "values": short(shown[:-2]),
        "low": short(shown[-2]), "high": short(shown[-1]),
    }  # fmt: skip


def _range(space: gym.Space, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each entry's bar is drawn on: its bounds, or if it has none, from 0 to the furthest that was seen."""
    low, high = np.minimum(values.min(0), 0.0), np.maximum(values.max(0), 0.0)
    if isinstance(space, gym.spaces.Box):
        least, most = space.low.astype(np.float64), space.high.astype(np.float64)
        near = (np.abs(least) <= FAR) & (np.abs(most) <= FAR)
        low, high = np.where(near, np.minimum(least, low), low), np.where(near, np.maximum(most, high), high)
    return low, high


def _allowed(observation: Any) -> list[Any] | None:
    """Where an action mask is observed: for each row the actions' 0 and 1."""
    mask = action_mask(observation)
    return None if mask is None else mask.reshape(len(mask), -1).astype(int).tolist()


def _recall(recall: Recall) -> dict[str, Any]:
    """Weights as bytes, a row's greatest 255: row t has t + 1 of them, or the last `span`."""
    span = max(map(len, recall.weights))
    largest = [float(row.max()) if len(row) else 0.0 for row in recall.weights]
    scaled = [
        np.round(255 * row / (most or 1.0)).astype(np.uint8) for row, most in zip(recall.weights, largest, strict=True)
    ]
    data = base64.b64encode(np.concatenate(scaled).tobytes()).decode()
    return {"name": recall.name, "about": recall.about, "span": span, "largest": short(np.array(largest)),
            "bytes": data}  # fmt: skip


def short(values: Any) -> Any:
    """Numbers with four digits, as lists; None stays None."""
    if values is None:
        return None
    if isinstance(values, float):
        return float(f"{values:.4g}")
    if np.issubdtype(values.dtype, np.integer) or values.dtype == bool:
        return values.astype(int).tolist()
    return [short(row) if row.ndim else float(f"{row:.4g}") for row in values.astype(np.float64)]
