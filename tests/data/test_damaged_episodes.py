"""A damaged folder of logged episodes is refused in one line."""

# ruff: noqa: F811  the fixture is imported, and tests take it by its name

import json
import os

import pytest
from test_episodes import dataset  # noqa: F401

from seqrl.data import EpisodeDataset
from seqrl.errors import UserError


def damage_index(folder, **changes):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | changes))


DAMAGES = {
    "no index": (lambda folder: os.remove(folder / "index.json"), "holds no logged episodes"),
    "index cut short": (lambda folder: os.truncate(folder / "index.json", 50), "index.json is damaged"),
    "index of bytes": (lambda folder: (folder / "index.json").write_bytes(b"\xff\xfe"), "index.json is damaged"),
    "index a list": (lambda folder: (folder / "index.json").write_text("[1]"), "not an object"),
    "other format": (
        lambda folder: damage_index(folder, format="seqrl-episodes-1"),
        "has the format 'seqrl-episodes-1', not 'seqrl-episodes-2': import or collect the episodes again",
    ),
    "rows below zero": (lambda folder: damage_index(folder, num_rows=-5), "holds 800 bytes, not"),
    "rows a text": (lambda folder: damage_index(folder, num_rows="many"), "index.json is damaged"),
    "no spaces": (lambda folder: damage_index(folder, observation_space=None), "index.json is damaged"),
    "unknown space": (lambda folder: damage_index(folder, action_space={"type": "Text"}), "index.json is damaged"),
    "other space": (lambda folder: damage_index(folder, action_space={"type": "MultiBinary", "shape": [2]}), "not fit"),
    "space too large": (
        lambda folder: damage_index(folder, action_space={"type": "Discrete", "n": 10**30, "start": 0}),
        "index.json is damaged",
    ),
    "about a list": (lambda folder: damage_index(folder, about=[]), "index.json is damaged"),
    "file missing": (lambda folder: os.remove(folder / "rows.bin"), "rows.bin is missing"),
    "file cut short": (lambda folder: os.truncate(folder / "rows.bin", 100), "holds 100 bytes, not 800"),
    "file too long": (lambda folder: os.truncate(folder / "rows.bin", 1000), "holds 1,000 bytes, not 800"),
    "starts of zeros": (
        lambda folder: (folder / "starts.bin").write_bytes(bytes(48)),
        "starts.bin is damaged",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(dataset, kind):
    damage, message = DAMAGES[kind]
    damage(dataset.folder)
    with pytest.raises(UserError) as caught:
        EpisodeDataset.open(dataset.folder)
    text = str(caught.value)
    assert message in text
    assert str(dataset.folder) in text
    assert ": " in text
    assert "\n" not in text
