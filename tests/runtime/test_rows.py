"""Compiled passes over rows of logits are what float64 says, with any of the instruction sets that are here."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mistralrs_onnx.runtime import rows as rows_module
from mistralrs_onnx.runtime.leading import GROUP, Groups
from mistralrs_onnx.runtime.native import instruction_set, library_file
from mistralrs_onnx.runtime.rows import VECTORS, Rows, compiled_rows
from mistralrs_onnx.runtime.sums import BLOCK

Row = NDArray[np.float32]

SIZES = [1, 15, 16, 17, 255, 256, 257, 5000]


@pytest.fixture(scope="module", params=["avx2", "avx512"])
def rows(request: pytest.FixtureRequest) -> Rows:
    file = library_file()
    if file is None or instruction_set() is None:
        pytest.skip("nothing was compiled here")
    if request.param == "avx512" and VECTORS[instruction_set() or ""] == "avx2":
        pytest.skip("this processor has no AVX-512")
    return Rows(file, request.param)


def row_of(size: int, centre: float = 0.0) -> Row:
    """With equals, and some that are ruled out."""
    row = np.random.default_rng(size).normal(centre, 3, size).astype(np.float32)
    row[::5] = row[size // 2]
    row[3::40] = -np.inf
    return row


@pytest.mark.parametrize("centre", [-500.0, 0.0, 85.0, 500.0])
@pytest.mark.parametrize("size", SIZES)
def test_overview_and_top(rows: Rows, size: int, centre: float) -> None:
    """Sums of float32 exponentials err by 1e-6, of which some come from rounding logits of a size of 500 to 3e-5."""
    row = row_of(size, centre)
    exact = row.astype(np.float64)
    normalizer = exact.max() + np.log(np.exp(exact - exact.max()).sum())
    order = np.argsort(-row, kind="stable")
    found, highest = rows.overview(row)
    assert found == pytest.approx(normalizer, abs=2e-6 + 1e-7 * abs(centre))
    np.testing.assert_array_equal(highest, np.maximum.reduceat(row, range(0, size, BLOCK)))
    for own, num_top in [(row[0], 0), (row[size // 2], 1), (row.max(), 3), (row.min(), 20), (np.float32(0), size + 5)]:
        assert rows.top(row, highest, num_top) == order[:num_top].tolist()
        assert rows.rank(row, highest, float(own)) == np.count_nonzero(row >= own)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_told(rows: Rows, wrong: float) -> None:
    row = row_of(300)
    row[77] = wrong
    assert np.isnan(rows.overview(row)[0])


@pytest.mark.parametrize("size", [1, 63, 64, 65, 17 * 64, 5000])
def test_maxima(rows: Rows, size: int) -> None:
    row, maxima = row_of(size), np.empty(size // GROUP + size % GROUP, np.float32)
    assert rows.maxima(row, GROUP, maxima) == row.max()
    whole = size - size % GROUP
    np.testing.assert_array_equal(maxima, [*row[:whole].reshape(GROUP, -1).max(0), *row[whole:]])
    for place in {0, size // 2, size - 1}:
        wrong = row.copy()
        wrong[place] = np.nan
        assert np.isnan(rows.maxima(wrong, GROUP, maxima))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
@pytest.mark.parametrize("size", SIZES)
def test_weights(rows: Rows, size: int, temperature: float) -> None:
    """Factors of exponents are rounded, to 6e-8 of themselves."""
    row, weights = row_of(size), np.empty(size, np.float32)
    row[size // 3] = row.max() - 80 * np.float32(temperature)
    sums = rows.weigh(row, float(row.max()), temperature, weights)
    exponents = (row.astype(np.float64) - row.max()) / temperature
    wanted = np.where(exponents < -87, 0, np.exp(exponents))
    np.testing.assert_allclose(weights, wanted, rtol=3e-7 + 1e-7 * 87, atol=2e-38)
    assert (weights[row == -np.inf] == 0).all()
    assert weights.max() == 1
    blocks = np.split(weights.astype(np.float64), range(BLOCK, size, BLOCK))
    np.testing.assert_allclose(sums, [block.sum() for block in blocks], rtol=1e-6)  # of 256 numbers in float32


@pytest.mark.parametrize("size", SIZES)
def test_what_a_share_keeps(rows: Rows, size: int) -> None:
    """Of equals the first. Targets lie a thousandth to either side of what goes before, which is added up to 1e-6."""
    row, weights = row_of(size), 0.1 + np.random.default_rng(1).random(size, np.float32)
    places, centre = np.arange(size), np.float32(0.5)
    mass = np.add.reduceat(weights, range(0, size, BLOCK), dtype=np.float64).cumsum()
    near = -np.abs(row - centre)
    for place in {0, size // 3, size // 2, size - 1}:
        for keys, is_kept in [
            (row, lambda *of: rows.is_kept_of_largest(row, weights, mass, *of)),
            (near, lambda *of: rows.is_kept_of_nearest(row, weights, mass, *of, float(centre))),
        ]:
            goes_before = (keys > keys[place]) | ((keys == keys[place]) & (places < place))
            before = float(weights[goes_before].sum(dtype=np.float64))
            assert is_kept(place, before * 1.001 + 0.05)
            assert not is_kept(place, before * 0.999)


@pytest.mark.parametrize("size", SIZES)
def test_mass_ahead(rows: Rows, size: int) -> None:
    """Sums of 256 numbers in float32 err by 1e-6."""
    weights, places = np.exp(row_of(size)), np.arange(size)
    for place in {0, size // 3, size // 2, size - 1}:
        goes_before = (weights > weights[place]) | ((weights == weights[place]) & (places < place))
        wanted = weights[goes_before].sum(dtype=np.float64)
        assert rows.mass_ahead(weights, place) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_masks(rows: Rows, size: int) -> None:
    row, masked = row_of(size), np.full(size + 1, 7, np.float32)
    words = np.random.default_rng(2).integers(-(2**31), 2**31, -(-size // 32)).astype(np.int32)
    words.flags.writeable = False  # others may own it
    rows.mask(row, words, masked[:size])
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[:size]
    np.testing.assert_array_equal(masked[:size], np.where(bits, row, -np.inf))
    assert masked[size] == 7


@pytest.mark.parametrize("size", SIZES)
def test_near(rows: Rows, size: int) -> None:
    """What is not near weighs at most what is said: the largest of its group, or all that is not near may weigh."""
    row = row_of(size)
    groups, temperature = Groups(row), 0.7
    least = float(groups.highest) - 4
    found = rows.near(row, groups.maxima, GROUP, float(groups.highest), least, temperature, size)
    assert found is not None
    np.testing.assert_array_equal(found.places, np.flatnonzero(row >= least))
    weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
    np.testing.assert_allclose(found.weights, weights[found.places], rtol=2e-6)
    np.testing.assert_allclose(found.ends, weights[found.places].cumsum(), rtol=1e-6)
    bounds = np.exp((np.minimum(groups.maxima.astype(np.float64), least) - row.max()) / temperature)
    whole = size // GROUP
    assert found.rest == pytest.approx(GROUP * bounds[:whole].sum() + bounds[whole:].sum(), rel=1e-6)


def test_what_is_not_few_is_not_near(rows: Rows) -> None:
    for size, most, is_few in [(2000, 2000, True), (2000, 1999, False), (5, 0, False)]:
        groups = Groups(np.zeros(size, np.float32))
        assert (rows.near(groups.row, groups.maxima, GROUP, 0.0, 0.0, 1.0, most) is not None) == is_few


def test_rows_are_float32(rows: Rows) -> None:
    with pytest.raises(AssertionError, match="float64"):
        rows.overview(np.zeros(20))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [-1, 20, 2**62])
def test_nothing_outside_a_row_is_changed(rows: Rows, wrong: int) -> None:
    row, token_ids, none = np.zeros(20, np.float32), np.array([3, wrong, 3, 4, 3]), np.zeros(0, np.int64)
    for change in (
        lambda: rows.repeat(row, token_ids, 2.0),
        lambda: rows.count(row, token_ids, 1.0, 1.0),
        lambda: rows.dry(row, token_ids, none, 1, np.ones(3, np.float32)),
    ):
        with pytest.raises(IndexError, match="in a row of 20"):
            change()
    assert not row.any()


def test_a_library_without_these_passes_leaves_them_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path(ctypes.util.find_library("c") or "libc.so.6")
    monkeypatch.setattr(rows_module, "library_file", lambda: other)
    monkeypatch.setattr(rows_module, "instruction_set", lambda: "avx2")
    assert compiled_rows.__wrapped__() is None
