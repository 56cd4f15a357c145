"""How commands end."""

from __future__ import annotations

import signal

import pytest

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.runtime.errors import LibraryError, RequestError, RoomError
from mistralrs_onnx.tools.cli.failures import BAD_MODEL, INTERRUPTED, NO_ROOM, OTHER, ended_as_interrupted, reported


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (CompileError("no model"), "error: no model\n", BAD_MODEL),
        (LibraryError("no ONNX Runtime"), "error: no ONNX Runtime\n", OTHER),
        (RoomError("too small"), "error: too small\n", NO_ROOM),
        (RequestError("too long"), "error: too long\n", OTHER),
        (KeyboardInterrupt(), "error: interrupted\n", INTERRUPTED),
    ],
)
def test_one_line_and_a_code(error: BaseException, line: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, reported():
        raise error
    assert (capsys.readouterr().err, end.value.code) == (line, code)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_who_ends_it_or_closes_its_terminal_interrupts_it(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end, reported(), ended_as_interrupted():
        signal.raise_signal(number)
    assert end.value.code == INTERRUPTED
    assert signal.getsignal(number) is before


def test_what_is_told_to_stay_when_terminals_close_stays() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_as_interrupted():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
