"""Compiled passes over rows of logits are what float64 says, with the instructions of any processor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mistralrs_onnx.runtime.leading import GROUP, Groups
from mistralrs_onnx.runtime.native import HERE, library_file
from mistralrs_onnx.runtime.rows import Rows
from mistralrs_onnx.runtime.sums import BLOCK

Row = NDArray[np.float32]

SIZES = [1, 15, 16, 17, 255, 256, 257, 5000]
INSTALLED, ANY, WITH_FMA = "as installed", "x86-64", "x86-64-v3"


@pytest.fixture(scope="module", params=[INSTALLED, ANY, WITH_FMA])
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What is installed suits this processor; what suits others runs here, too."""
    installed = library_file()
    if installed is None or shutil.which("g++") is None:
        pytest.skip("nothing was compiled here")
    if request.param == INSTALLED:
        return Rows(installed)
    file = tmp_path_factory.mktemp("rows") / "rows.so"
    flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-DVERSIONS=", f"-march={request.param}", "-o", str(file)]
    done = subprocess.run(["g++", *flags, str(Path(HERE, "rows.cpp"))], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return Rows(file)


def row_of(size: int, centre: float = 0.0) -> Row:
    """With equals, and some that are ruled out."""
    row = np.random.default_rng(size).normal(centre, 3, size).astype(np.float32)
    row[::5] = row[size // 2]
    row[3::40] = -np.inf
    return row


@pytest.mark.parametrize("centre", [-500.0, 0.0, 85.0, 500.0])
@pytest.mark.parametrize("size", SIZES)
def test_scores(rows: Rows, size: int, centre: float) -> None:
    """Sums of float32 exponentials err by 1e-6, of which some come from rounding logits of a size of 500 to 3e-5."""
    row = row_of(size, centre)
    exact = row.astype(np.float64)
    normalizer = exact.max() + np.log(np.exp(exact - exact.max()).sum())
    order = np.argsort(-row, kind="stable")
    for own, num_top in [(row[0], 0), (row[size // 2], 1), (row.max(), 3), (row.min(), 20), (np.float32(0), size + 5)]:
        scores = rows.scores(row, float(own), num_top)
        assert scores.normalizer == pytest.approx(normalizer, abs=2e-6 + 1e-7 * abs(centre))
        assert scores.top == order[:num_top].tolist()
        assert scores.rank == np.count_nonzero(row >= own)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_told(rows: Rows, wrong: float) -> None:
    row = row_of(300)
    row[77] = wrong
    assert np.isnan(rows.scores(row, 1.0, 3).normalizer)


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
    found = rows.near(row, groups.maxima, GROUP, least, temperature, size)
    assert found is not None
    np.testing.assert_array_equal(found.places, np.flatnonzero(row >= least))
    weights = np.exp((row.astype(np.float64) - row.max()) / temperature)
    np.testing.assert_allclose(found.weights, weights[found.places], rtol=2e-6)
    assert found.mass == pytest.approx(weights[found.places].sum(), rel=1e-6)
    bounds = np.exp((np.minimum(groups.maxima.astype(np.float64), least) - row.max()) / temperature)
    whole = size // GROUP
    assert found.rest == pytest.approx(GROUP * bounds[:whole].sum() + bounds[whole:].sum(), rel=1e-6)


def test_what_is_not_few_is_not_near(rows: Rows) -> None:
    for size, most, is_few in [(2000, 2000, True), (2000, 1999, False), (5, 0, False)]:
        groups = Groups(np.zeros(size, np.float32))
        assert (rows.near(groups.row, groups.maxima, GROUP, 0.0, 1.0, most) is not None) == is_few


def test_rows_are_float32(rows: Rows) -> None:
    with pytest.raises(AssertionError, match="float64"):
        rows.scores(np.zeros(20), 0.0, 1)  # type: ignore[arg-type]
