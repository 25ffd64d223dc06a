"""The page of a speaker's conversations: token by token, with probabilities, values, and what each word rests on."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqrl.inspection.dialogues import Conversation, Option, SaidToken
from seqrl.pages.html import Html, data_script, element, markup, page, plain, static, write_page
from seqrl.pages.inspector import HINT, controls, short


def write_dialogues_page(path: Path, conversations: Sequence[Conversation], about: dict[str, Any]) -> Path:
    """Write the page of `conversations`. `about` has `title`, `kind`, `subtitle` and `values`, what Q and V are of."""
    data = plain({"values": about.get("values", "token"), "episodes": [_conversation(each) for each in conversations]})
    document = page(
        about["title"],
        element("style", Html(static("inspector.css") + static("dialogues.css"))),
        _skeleton(),
        data_script("episodes", data),
        kind=about["kind"], subtitle=about["subtitle"], scripts=("stepper.js", "dialogues.js"),
    )  # fmt: skip
    return write_page(path, document)


def _skeleton() -> Html:
    talk = element("div", element("div", id="talk-head", class_="head"), element("div", id="talk"), class_="card")
    token = element("div", id="token", class_="card sticky")
    return markup([controls(), element("div", talk, token, class_="talks"), element("div", id="facts"), HINT])


def _conversation(each: Conversation) -> dict[str, Any]:
    recall = each.recall
    return {
        "tokens": each.tokens,
        "speakers": each.speakers,
        "said": [_said(token) for token in each.said],
        "total": short(float(each.total)),
        "facts": [[name, value] for part in (each.facts, each.outcome) for name, value in part.items()],
        "recall": None if recall is None else {"about": recall.about, "bytes": _packed(recall.weights)},
    }


def _said(token: SaidToken) -> dict[str, Any]:
    figures = {name: _short(getattr(token, name)) for name in ("prob", "cloned_prob", "q", "v", "reward")}
    return {"place": token.place, **figures, "options": [_option(option) for option in token.options]}


def _option(option: Option) -> list[Any]:
    return [option.text, _short(option.prob), _short(option.q)]


def _short(value: float | None) -> float | None:
    return None if value is None else short(float(value))


def _packed(weights: Sequence[np.ndarray]) -> str:
    """Rows one after the other, a row's greatest 255; row d has as many as its token's place."""
    rows = [np.round(255 * row / (float(row.max()) or 1.0)).astype(np.uint8) for row in weights]
    return base64.b64encode(b"".join(row.tobytes() for row in rows)).decode()
