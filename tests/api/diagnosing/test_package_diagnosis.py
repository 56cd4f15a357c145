"""Checks of a package say ok, warn or fail of trials made up for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mistralrs_onnx.diagnosing.package_diagnosis import diagnose_package
from mistralrs_onnx.diagnosing.package_trial import Trial

GiB = 1 << 30
TRIED = Trial(
    Path("package"),
    name="tiny",
    size=5 * GiB,
    needed=6 * GiB,
    available=20 * GiB,
    room=8 * GiB,
    token_bytes=1 << 20,
    context_length=2048,
    promised="yes",
    is_invariant=True,
    seconds=2.0,
)


def statuses(trial: Trial) -> dict[str, str]:
    return {check.name: check.status for check in diagnose_package(trial)}


def test_a_good_package() -> None:
    checks = diagnose_package(TRIED)
    assert {check.status for check in checks} == {"ok"}
    assert (
        checks[-1].text == "8.00 GiB left hold 8,192 tokens; half of it, which a server takes, 2 requests of all 2,048"
    )


def test_what_is_no_package_is_not_looked_at_further() -> None:
    assert statuses(Trial(Path("x"), opening="has no manifest")) == {"package": "fail"}


def test_what_does_not_fit_is_not_loaded() -> None:
    assert statuses(replace(TRIED, available=6 * GiB)) == {"package": "ok", "fits": "fail"}


def test_what_cannot_be_loaded() -> None:
    assert statuses(replace(TRIED, loading="broken")) == {"package": "ok", "fits": "ok", "loading": "fail"}


@pytest.mark.parametrize(
    ("is_invariant", "promised", "status", "text"),
    [
        (False, "yes", "warn", "batches change the last bits of its logits"),
        (False, "no, because of caps", "warn", "(its manifest says so: no, because of caps)"),
        (None, "yes", "ok", "not probed"),
    ],
)
def test_what_a_package_computes(is_invariant: bool | None, promised: str, status: str, text: str) -> None:
    check = diagnose_package(replace(TRIED, is_invariant=is_invariant, promised=promised))[3]
    assert (check.status, text in check.text) == (status, True)


def test_little_room_for_context() -> None:
    check = diagnose_package(replace(TRIED, room=3 * GiB))[-1]
    assert (check.status, "hold 3,072 tokens" in check.text, "--kv-dtype float16" in check.remedy) == (
        "warn",
        True,
        True,
    )
