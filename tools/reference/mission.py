"""What mistral.rs had when this project began, item by item: what it does here, and which tests show that."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .text import code, table

ABOVE = """# What mistral.rs has, here

Every option, key, route, field and argument that mistral.rs had in June 2024, when this project took it as its model:
what it does here, and the tests that would fail if it were read and then ignored. *There* is mistral.rs as it was
then. What begins with **Not here** or **Refused** is what is missing, and a test shows that it is refused.
"""
TESTS = "../../tests"  # from the page
MISSING = ("Not here", "Refused")
FILE = Path(__file__).with_name("mission.toml")


class Row(NamedTuple):
    """An item by its name there. `tests`: path below tests/ and function, as pytest has it."""

    name: str
    here: str
    tests: tuple[str, ...]

    @property
    def is_missing(self) -> bool:
        return self.here.startswith(MISSING)


@dataclass(frozen=True, slots=True)
class Section:
    """Items of one kind, which `of` names. `tests`: those of each row beside its own."""

    title: str
    of: str
    about: str
    tests: tuple[str, ...]
    rows: tuple[Row, ...]


def sections() -> tuple[Section, ...]:
    content = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return tuple(
        Section(
            each["title"],
            each["of"],
            each.get("about", ""),
            tuple(each.get("tests", ())),
            tuple(Row(name, here, tuple(tests)) for name, here, *tests in each["rows"]),
        )
        for each in content["sections"]
    )


def rows_of(of: str) -> list[Row]:
    """Of all sections of a kind."""
    return [row for section in sections() if section.of == of for row in section.rows]


def page() -> str:
    found = sections()
    rows = [row for section in found for row in section.rows]
    missing = sum(row.is_missing for row in rows)
    counts = f"\nOf {len(rows)} items {missing} are missing.\n"
    return ABOVE + counts + "".join(part for section in found for part in _section(section))


def _section(section: Section) -> Iterator[str]:
    yield f"\n## {section.title}\n\n"
    if section.about:
        yield f"{section.about}\n\n"
    if section.tests:
        yield f"All of them: {_links(section.tests)}.\n\n"
    rows = [(_names(row.name), _bold(row.here), _links(row.tests) or "above") for row in section.rows]
    yield table(["", "here", "test"], rows)


def _names(name: str) -> str:
    return ", ".join(code(each) for each in name.split(", "))


def _bold(here: str) -> str:
    start = next((each for each in MISSING if here.startswith(each)), "")
    return f"**{start}**{here.removeprefix(start)}" if start else here


def _links(tests: Sequence[str]) -> str:
    return ", ".join(_link(*test.split("::")) for test in tests)


def _link(path: str, function: str) -> str:
    return f"[{function}]({TESTS}/{path})"
