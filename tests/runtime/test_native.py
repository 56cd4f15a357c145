"""Kernels of our own: against the formula with activations rounded by hand, and in models."""

from __future__ import annotations

import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from machine import HAS_AMX
from native_calls import Call
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, RuntimeException
from random_rows import random_rows

from mistralrs_onnx.ops.formats import Planes, find_format
from mistralrs_onnx.ops.formats_block import NBits
from mistralrs_onnx.ops.linear import INT8_ACTIVATIONS
from mistralrs_onnx.ops.packed import linear_of
from mistralrs_onnx.runtime.native import kernel_library, kernel_problem

GGML = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K")
CODEBOOKS = ("IQ4_NL", "IQ4_XS", "MXFP4")
INTEGERS = tuple(
    f"int{bits}-{block}{zero_points}{scales}"
    for bits, block, zero_points, scales in product((4, 8), (16, 32, 64, 128, 256), ("", "-zp"), ("", "-f32"))
)
FORMATS = (*GGML, *CODEBOOKS, *INTEGERS)
COLUMNS = 768
ROWS = 53  # no whole panels of 16
GROUP = 32  # columns of activations that share a scale, or a block's if that is smaller

native = pytest.mark.skipif(kernel_library() is None, reason=f"no kernels of our own here: {kernel_problem()}")


def rounded(x: NDArray[np.float32], group: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """x as int8 with a scale for each group of columns, and the sums of the groups before that."""
    groups = x.reshape(len(x), -1, group)
    most = np.abs(groups).max(-1, keepdims=True)
    inverse = np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0)
    levels = np.rint(groups * inverse).astype(np.float64)
    return levels * (most / np.float32(127)).astype(np.float64), groups.astype(np.float64).sum(-1)


def expected(x: NDArray[np.float32], weights: NBits) -> NDArray[np.float64]:
    """In float64: groups of rounded x with centred levels, and sums of x itself with what is off the centre."""
    group = min(weights.block_size, GROUP)
    groups, sums = rounded(x, group)
    centred = weights._replace(offset=None, zero=None).dequantize()
    offsets = (weights.dequantize() - centred)[:, ::group]
    return groups.reshape(len(x), -1) @ centred.T + sums @ offsets.T


def inputs(rows: int, columns: int = COLUMNS) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)


@pytest.fixture
def planes(name: str) -> Planes:
    meaning = find_format(name)
    return meaning.split(random_rows(meaning, (13, 16), ROWS, COLUMNS // meaning.block_size))


@pytest.fixture
def call(planes: Planes, name: str) -> Call:
    return called(name, planes)


def called(name: str, planes: Planes, columns: int = COLUMNS, rows: int = ROWS, threads: int = 2) -> Call:
    function, _, attributes = linear_of(find_format(name))
    shape = {"K": columns, "N": rows, "accuracy_level": INT8_ACTIVATIONS}
    return Call(function, list(planes.values()), threads, **shape, **attributes)


@native
@pytest.mark.parametrize("name", FORMATS)
def test_products_are_those_of_rounded_activations(planes: Planes, name: str, call: Call) -> None:
    """1e-5 of the largest: float32 sums of 24 or 48 groups in another order than float64's."""
    x = inputs(23)
    x[3] = 0
    y, wanted = call(x), expected(x, find_format(name).nbits(planes))
    assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert not y[3].any()


@native
@pytest.mark.parametrize("exponents", [(0, 31), (0, 1), (30, 31)], ids=["all", "subnormal", "largest"])
@pytest.mark.parametrize("name", FORMATS)
def test_scales_of_every_size(name: str, exponents: tuple[int, int]) -> None:
    meaning = find_format(name)
    planes = meaning.split(random_rows(meaning, exponents, 17, COLUMNS // meaning.block_size))
    y = called(name, planes, rows=17)(inputs(2))
    wanted = expected(inputs(2), meaning.nbits(planes))
    assert np.abs(y - wanted).max() <= 1e-5 * np.abs(wanted).max()


@native
@pytest.mark.parametrize("name", FORMATS)
def test_a_row_has_the_same_bits_in_any_company(name: str, call: Call) -> None:
    x = inputs(500)  # more than are taken at once
    whole = call(x)
    for rows in (1, 2, 3, 7, 8, 9, 16, 17, 32, 47, 240, 241):
        np.testing.assert_array_equal(call(x[-rows:]), whole[-rows:])


@native
@pytest.mark.skipif(not HAS_AMX, reason="this CPU has no AMX")
@pytest.mark.parametrize("name", FORMATS)
def test_amx_gives_the_bits_of_vnni(name: str, call: Call) -> None:
    """AMX takes blocks of 16 rows where there are 32; x has rows of every size."""
    x = inputs(64) * np.exp2(np.arange(-32, 32, dtype=np.float32))[:, None]
    parts = [call(part) for part in np.split(x, 8)]
    np.testing.assert_array_equal(call(x), np.concatenate(parts))


@native
@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "int4-128-zp"])
def test_threads_change_no_bits(planes: Planes, name: str, call: Call) -> None:
    """Neither those of a session nor those that use one at once."""
    x = inputs(300)
    whole = call(x)
    alone = called(name, planes, threads=1)
    np.testing.assert_array_equal(alone(x), whole)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: call(x[start : start + 7]), range(0, 280, 7)))
    np.testing.assert_array_equal(np.concatenate(parts), whole[:280])


@native
@pytest.mark.parametrize("rows", [4, 32])
@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "int8-256", "int4-16-zp"])
def test_a_row_that_is_no_number_spoils_no_other(name: str, rows: int, call: Call) -> None:
    x = inputs(rows)
    good = call(x)
    x[1, 40], x[2, 700] = np.nan, np.inf
    y = call(x)
    assert np.isnan(y[1]).all()
    assert not np.isfinite(y[2]).any()
    np.testing.assert_array_equal(np.delete(y, [1, 2], 0), np.delete(good, [1, 2], 0))


@native
@pytest.mark.parametrize("name", ["Q4_1", "Q6_K"])
def test_no_rows_and_more_axes(name: str, call: Call) -> None:
    assert call(inputs(0)).shape == (0, ROWS)
    x = inputs(6)
    np.testing.assert_array_equal(call(x.reshape(2, 3, COLUMNS)), call(x).reshape(2, 3, ROWS))


@native
@pytest.mark.parametrize("name", FORMATS)
def test_planes_of_another_size_are_refused(planes: Planes, name: str) -> None:
    with pytest.raises(RuntimeException, match="elements, not"):
        called(name, {each: plane[1:] for each, plane in planes.items()})
    with pytest.raises(RuntimeException, match="does not fit the format"):
        called(name, planes, COLUMNS + 8)


@native
@pytest.mark.parametrize("name", ["int4-32", "int8-64-zp"])
def test_integers_that_there_are_not_are_refused(planes: Planes, name: str) -> None:
    function, _, attributes = linear_of(find_format(name))
    shape = {"K": COLUMNS, "N": ROWS, "accuracy_level": INT8_ACTIVATIONS}
    for wrong in ({"bits": 2}, {"block_size": 8}, {"block_size": 96}, {"block_size": 512}):
        with pytest.raises(RuntimeException, match="bits must be 4 or 8 and block_size a power of two from 16 to 256"):
            Call(function, list(planes.values()), **shape, **attributes | wrong)
    with pytest.raises(RuntimeException, match="scales must be float16 or float32"):
        called(name, planes | {"d": planes["d"].astype(np.float64)})


@native
@pytest.mark.parametrize("name", ["Q4_1"])
def test_rows_of_another_length_are_refused(call: Call) -> None:
    with pytest.raises(InvalidArgument, match="another length"):
        call(inputs(2, COLUMNS - 32))


def test_without_a_compiled_library_the_problem_is_named(tmp_path: Path) -> None:
    assert kernel_library(tmp_path) is None
    problem = kernel_problem(tmp_path)
    if sys.platform == "linux" and platform.machine() == "x86_64":
        assert problem == "they were not compiled when this was installed"
    (tmp_path / "_kernels.so").write_bytes(b"no library")
    kernel_problem.cache_clear()
    assert kernel_library(tmp_path) is None
