from __future__ import annotations

from collections.abc import Sequence

import click
import pytest
from rich.console import Console

from mistralrs_onnx.model import LoadOptions
from mistralrs_onnx.tools.benching.bench_results import compared, on_terminal
from mistralrs_onnx.tools.benching.contest import Standing, compete
from mistralrs_onnx.tools.benching.measuring import Result, Timing, Workload
from mistralrs_onnx.tools.benching.peer_llama import Rates
from mistralrs_onnx.tools.benching.peers import PEERS, Peer

READ, WRITE = Workload("pp", 512), Workload("tg", 64, concurrency=16)


def test_medians_of_turns_and_what_ours_is_beside_them() -> None:
    seconds = iter([9.0, 9.0, 1.0, 4.0, 2.0, 4.0, 8.0, 4.0])  # first the warm-up
    rates = iter([100.0, 10.0, 50.0])
    done: list[str] = []

    def ours(workload: Workload) -> Timing:
        done.append(workload.name)
        return Timing(512, next(seconds), (0.1,))

    def theirs(workloads: Sequence[Workload]) -> Rates:
        done.append("peer")
        return {workloads[0]: next(rates)}

    contest = compete(ours, [Peer("peer", theirs)], [READ, WRITE], repetitions=3)
    assert done == ["pp512", "tg64", *["pp512", "tg64", "peer"] * 3]
    assert [len(result.timings) for result in contest.results] == [3, 3]
    read, write = contest.standings
    assert read == Standing(READ, 256.0, {"peer": 50.0})
    assert read.ratio("peer") == 5.12
    assert (write.theirs, write.ratio("peer")) == ({"peer": None}, None)


def test_a_peer_that_fails_is_left_out_and_keeps_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    runs = iter([{READ: 5.0}, click.ClickException("it ended with 1: out of memory")])

    def failing(_: Sequence[Workload]) -> Rates:
        run = next(runs)
        if isinstance(run, Exception):
            raise run
        return run

    peers = [Peer("weak", failing), Peer("strong", lambda _: {READ: 7.0})]
    contest = compete(lambda _: Timing(1, 1.0, (1.0,)), peers, [READ], repetitions=3, warmup=0)
    assert contest.standings[0].theirs == {"weak": 5.0, "strong": 7.0}
    said = capsys.readouterr().err
    assert "weak is left out from here: it ended with 1: out of memory" in said
    assert "weak, repetition 3" not in said
    assert "strong, repetition 3 of 3" in said


def test_a_terminal_of_80_columns_has_room_for_all_peers() -> None:
    workload = Workload("tg", 128, 500, 16)
    result = Result(workload, (Timing(2048, 2.0, (0.1,)),))
    standing = Standing(workload, 12345.6, dict.fromkeys(PEERS, 1234.5))
    sheet = compared([result], [standing], "a-model", LoadOptions())
    console = Console(width=80)
    with console.capture() as capture:
        console.print(on_terminal(sheet))
    assert all(cell in capture.get() for cell in sheet.rows[0])
    assert all(word in capture.get() for word in ("ours", "llama", "mistral", "genai", "ratio"))
