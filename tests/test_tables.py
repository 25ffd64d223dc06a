"""Tables of the terminal look alike."""

import ast
import io
from pathlib import Path

from rich.console import Console

import seqrl
from seqrl.tables import plain_table


# Breaks if: a command makes a `Table` of its own, which rich draws with heavy boxes.
def test_all_tables_have_one_style():
    others = []
    for path in Path(seqrl.__file__).parent.rglob("*.py"):
        source = path.read_text("utf-8")
        if "rich.table import Table" not in source or path.name == "tables.py":
            continue
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "Table":
                box = next((word.value for word in call.keywords if word.arg == "box"), ast.Constant(""))
                if not (isinstance(box, ast.Constant) and box.value is None):  # a list without any line
                    others.append(f"{path.name}:{call.lineno}")
    assert others == []


# Breaks if: `box` is left out.
def test_the_only_line_is_below_the_header():
    table = plain_table("title", "caption")
    table.add_column("a")
    table.add_row("1")
    console = Console(width=40, record=True, file=io.StringIO())
    console.print(table)
    drawn = set("".join(console.export_text().split())) - set("titlecaptiona1")
    assert drawn == {"─"}
