"""Tables of the terminal: one style for all commands."""

from rich import box
from rich.table import Table
from rich.text import TextType


def plain_table(title: TextType = "", caption: TextType = "") -> Table:
    """An empty table with a rule under its header and no other lines: what is read are the figures."""
    return Table(
        title=title or None, caption=caption or None, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
