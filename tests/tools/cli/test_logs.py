"""What command lines log: warnings unless one asks for more, to standard error."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest

from mistralrs_onnx.tools.cli.logs import PACKAGE, set_up_logging


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    logger = logging.getLogger(PACKAGE)
    before = logger.handlers[:], logger.level
    logger.handlers = []
    yield
    logger.handlers, logger.level = before


@pytest.mark.parametrize(
    ("debug", "verbose", "shown"),
    [
        (None, False, ["warning"]),
        ("0", False, ["warning"]),
        (None, True, ["info", "warning"]),
        ("1", False, ["debug", "info", "warning"]),
        ("1", True, ["debug", "info", "warning"]),
    ],
)
def test_levels(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    debug: str | None,
    verbose: bool,
    shown: list[str],
) -> None:
    monkeypatch.delenv("MISTRALRS_DEBUG", raising=False)
    if debug is not None:
        monkeypatch.setenv("MISTRALRS_DEBUG", debug)
    set_up_logging(verbose=verbose)
    logger = logging.getLogger(f"{PACKAGE}.runtime.engine")
    for name in ("debug", "info", "warning"):
        logger.log(logging.getLevelNamesMapping()[name.upper()], "%s of an engine", name)
    out, err = capsys.readouterr()
    assert not out
    assert [line.rsplit(": ", 1)[1] for line in err.splitlines()] == [f"{name} of an engine" for name in shown]


def test_twice_writes_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    set_up_logging(verbose=True)
    logging.getLogger(f"{PACKAGE}.api").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_lines_say_when_and_who(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging()
    logging.getLogger(f"{PACKAGE}.api").warning("the disk is full")
    line = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]{12} WARNING mistralrs_onnx\.api: the disk is full\n", line)


def test_loggers_of_others_are_left_alone() -> None:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    set_up_logging()
    assert (root.level, root.handlers) == before


def test_who_sits_before_it_reads_no_dates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("MISTRALRS_DEBUG", raising=False)
    set_up_logging(dated=False)
    logging.getLogger(f"{PACKAGE}.compiler").warning("%d matrices fell back", 3)
    assert capsys.readouterr().err == "warning: 3 matrices fell back\n"
