"""Reads a page as a browser's parser would, and refuses what is not well nested."""

import json
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "input", "br", "img", "hr"}
EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>\u202e</title></style>"
"""What an environment, a text or a metric may be called, and must never be on a page but as text."""


class Page(HTMLParser):
    """A parsed page: `tags` with their attributes in order, `text` of all that is neither script nor style."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.places: list[str] = []
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []
        assert not any(name.startswith("on") for _, attributes in self.tags for name in attributes)
        for _, attributes in self.tags:  # nothing is loaded, and links lead to neighbours
            assert (attributes.get("src") or "data:").startswith("data:")
            assert ":" not in (attributes.get("href") or "")

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.words.append(data)
            self.places.append(self.open[-1] if self.open else "")

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def classed(self, tag: str, kind: str) -> list[dict[str, str | None]]:
        """The attributes of all `tag` that have the class `kind`."""
        return [a for name, a in self.tags if name == tag and kind in (a.get("class") or "").split()]

    def within(self, tag: str) -> list[str]:
        """The words directly inside each `tag`."""
        return [word for word, place in zip(self.words, self.places, strict=True) if place == tag]

    def data(self) -> Any:
        """The JSON that the page carries."""
        kinds = [attributes.get("type") for name, attributes in self.tags if name == "script"]
        return json.loads(self.scripts[kinds.index("application/json")])
