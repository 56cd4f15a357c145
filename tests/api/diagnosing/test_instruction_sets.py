"""What instruction sets mean, from those of real processors."""

from __future__ import annotations

import pytest

from mistralrs_onnx.diagnosing.instruction_sets import UNKNOWN, arm, is_arm, x86

SKYLAKE = {"avx2", "avx512f", "avx512bw"}


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (SKYLAKE | {"avx512_vnni", "avx_vnni", "amx_int8"}, "AVX512-VNNI"),
        (SKYLAKE, "AVX-512 without VNNI"),
        ({"avx2", "avx_vnni"}, "AVX2 with VNNI"),
        ({"avx2"}, "AVX2 without VNNI"),
    ],
)
def test_x86(features: set[str], text: str) -> None:
    assert x86(features).text.startswith(text)
    assert not x86(features).is_slow
    assert ("AMX" in x86(features).text) == ("amx_int8" in features)


def test_slow_ones_have_a_remedy() -> None:
    for meaning in (x86({"sse4_2", "avx"}), arm({"asimd"})):
        assert meaning.is_slow
        assert meaning.remedy


def test_arm() -> None:
    assert "i8mm" in arm({"asimddp", "i8mm"}).text
    assert not arm({"asimddp"}).is_slow
    assert [is_arm(machine) for machine in ("aarch64", "arm64", "x86_64")] == [True, True, False]


def test_what_is_not_told() -> None:
    assert x86(set()) == arm(set()) == UNKNOWN
