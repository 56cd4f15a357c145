"""What a compile shows of itself."""

from __future__ import annotations

import sys
from io import StringIO

import pytest

from mistralrs_onnx.compiler.progress import Progress, quiet
from mistralrs_onnx.tools.cli.progress import StoppedError, compile_progress, stopping


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, *stages: Progress) -> str:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    with compile_progress(silent=False) as report:
        for stage in stages:
            report(stage)
    return terminal.getvalue()


def test_where_nothing_is_done_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch) == ""


def test_a_bar_counts_bytes_where_somebody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = shown(monkeypatch, Progress("hash", 0, 0), Progress("write", 1_000_000, 4_000_000))
    assert "1.0/4.0 MB" in counted
    uncounted = shown(monkeypatch, Progress("write", 1_000_000, 4_000_000), Progress("hash", 0, 0))
    assert "MB" not in uncounted.split("Hashing files")[-1]


def test_elsewhere_a_line_says_what_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with compile_progress(silent=False) as report:
        for done in (1, 2):
            report(Progress("write", done, 2))
    assert capsys.readouterr().err == "Writing weights ...\n"


def test_who_no_longer_waits_stops_it() -> None:
    waiting = iter([False, True])
    report = stopping(quiet, lambda: next(waiting))
    report(Progress("read", 0, 0))
    with pytest.raises(StoppedError):
        report(Progress("draw", 0, 0))
