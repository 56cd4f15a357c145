from __future__ import annotations

import csv
import io

from rich.console import Console

from mistralrs_onnx.tools.tables import as_csv, markdown, terminal_table

CELLS = [("a", "x", "1.5", "22"), ("a", "y", "10.5", "3")]
COLUMNS = ("model", "test", "t/s", "longer\nhead")


def test_numbers_of_a_page_are_on_the_right() -> None:
    assert markdown(CELLS[:1], (*COLUMNS[:3], "n"), num_texts=2).splitlines() == [
        "| model | test | t/s | n |",
        "| --- | --- | --: | --: |",
        "| a | x | 1.5 | 22 |",
    ]


def test_what_all_rows_share_is_the_title_of_a_terminal() -> None:
    console = Console(width=40)
    with console.capture() as capture:
        console.print(terminal_table(CELLS, COLUMNS, 1))
    lines = [line.strip() for line in capture.get().splitlines() if line.strip()]
    assert lines[0] == "a"
    assert lines[-2].split() == ["x", "1.5", "22"]
    assert "model" not in capture.get()


def test_csv_has_the_columns_of_its_first_record() -> None:
    [line] = csv.DictReader(io.StringIO(as_csv([{"test": "a, b", "ttft": None}])))
    assert line == {"test": "a, b", "ttft": ""}
