"""Tables of figures for pages, programs and terminals; knows nothing of what they mean."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table


def markdown(cells: Sequence[Sequence[str]], columns: Sequence[str], num_texts: int = 1) -> str:
    """A table whose first `num_texts` columns are text, the others numbers."""
    marks = ["---" if i < num_texts else "--:" for i in range(len(columns))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (columns, marks, *cells))


def terminal_table(cells: Sequence[Sequence[str]], columns: Sequence[str], num_titles: int) -> Table:
    """What is the same in each row, the first `num_titles` columns, stands above it: 80 columns are enough."""
    table = Table(title=", ".join(cells[0][:num_titles]), box=SIMPLE, collapse_padding=True, pad_edge=False)
    for i, column in enumerate(columns[num_titles:]):
        table.add_column(column, justify="right" if i else "left", no_wrap=True, vertical="bottom")
    for line in cells:
        table.add_row(*line[num_titles:])
    return table


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """The first record names the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, records[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
