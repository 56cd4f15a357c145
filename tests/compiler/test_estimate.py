"""What `--dry-run` tells: bytes in and out, memory, and what fits, each worked out by hand."""

from __future__ import annotations

import json

import pytest

from mistralrs_onnx.compiler.estimate import (
    COMPILE_BASE,
    PREPACKED,
    RUNTIME_BASE,
    Estimate,
    Role,
    TensorPlan,
    estimate,
    folded_bytes,
    render,
    size_text,
    to_json,
)
from mistralrs_onnx.graphs.contract import KVGeometry
from mistralrs_onnx.graphs.weights import CHUNK

GIB = 1 << 30


class Spec:
    kv = KVGeometry(num_layers=2, num_heads=2, head_size=64)  # 512 values a token
    context_length = 4096


def q4_0(name: str, rows: int = 64, columns: int = 32) -> TensorPlan:
    num_bytes = rows * columns // 32 * 18
    return TensorPlan(name, "Q4_0", "Q4_0", (rows, columns), num_bytes, num_bytes)


def of(*tensors: TensorPlan, available: int = GIB) -> Estimate:
    return estimate(Spec(), tensors, available)


@pytest.mark.parametrize(
    ("type_name", "num_bytes"),
    [
        ("Q4_0", 16 + 4),  # of 32 weights: levels, a float32 scale
        ("Q4_1", 16 + 4 + 4),  # and a float32 offset
        ("Q8_0", 32 + 4),
    ],
)
def test_what_sessions_fold_packed_weights_to(type_name: str, num_bytes: int) -> None:
    assert folded_bytes(type_name, 32 * 1000) == num_bytes * 1000


def test_bytes_add_up() -> None:
    found = of(q4_0("a"), TensorPlan("b", "F32", "F16", (10, 10), 400, 200))
    assert (found.bytes_in, found.bytes_out) == (64 * 18 + 400, 64 * 18 + 200)


def test_keys_and_values_of_a_token() -> None:
    assert (of().kv_float32, of().kv_float16) == (512 * 4, 512 * 2)


@pytest.mark.parametrize(
    ("role", "memory"),
    [
        ("matmul", PREPACKED * 64 * 20),  # folded, and relaid for the kernels
        ("gather", 64 * 18),  # rows stay as they are
        ("both", PREPACKED * 64 * 20 + 64 * 18),
    ],
)
def test_the_memory_of_a_weight_depends_on_how_it_is_read(role: Role, memory: float) -> None:
    assert of(q4_0("a")._replace(role=role)).runtime_memory == RUNTIME_BASE + memory


def test_dense_weights_run_as_float32() -> None:
    assert of(TensorPlan("a", "F16", "F16", (10, 10), 200, 200)).runtime_memory == RUNTIME_BASE + 400


def test_compiling_holds_a_chunk_of_the_largest_tensor() -> None:
    small, large = q4_0("a"), q4_0("b", rows=1 << 20, columns=1 << 10)
    assert large.bytes_in > 10 * CHUNK
    assert of(small).compile_memory == COMPILE_BASE + 2 * small.bytes_in
    assert of(small, large).compile_memory == COMPILE_BASE + 2 * CHUNK


def test_quantizing_holds_floats_beside_the_chunk() -> None:
    plan = TensorPlan("a", "F16", "Q4_0", (64, 32), 64 * 64, 64 * 18)
    assert of(plan).compile_memory == COMPILE_BASE + 64 * (64 + 128 + 18)


def test_what_fits_is_what_memory_is_left_for() -> None:
    room = 3 * 4096 * 2048  # three full contexts in float32
    found = of(q4_0("a"), available=0)
    fits = of(q4_0("a"), available=found.runtime_memory + room).fits
    assert [tuple(fit) for fit in fits] == [(2048, 6, 12), (4096, 3, 6)]
    assert {(fit.float32, fit.float16) for fit in found.fits} == {(0, 0)}


def test_the_report_has_a_line_per_tensor_and_joins_equal_layers() -> None:
    layers = [q4_0(f"model.layers.{i}.mlp.up_proj.weight") for i in range(12)]
    odd = TensorPlan("model.layers.12.mlp.up_proj.weight", "F16", "Q4_0", (64, 32), 4096, 1152)
    lines = render(of(*layers, odd)).splitlines()
    assert lines[1].split() == [
        "model.layers.*.mlp.up_proj.weight",
        "12",
        "64x32",
        "Q4_0",
        "Q4_0",
        *["13.5", "KiB"] * 2,
    ]
    assert lines[2].split()[:5] == [odd.name, "1", "64x32", "F16", "Q4_0"]
    assert lines[3].split()[:2] == ["all", "13"]
    assert any("float16" in line and "1.0 KiB" in line for line in lines)


def test_a_report_without_tensors_is_a_report_too() -> None:
    assert "0 bytes" in render(of())


def test_json_says_the_same_in_bytes() -> None:
    found = of(q4_0("a"))
    values = json.loads(to_json(found))
    assert values["tensors"][0]["bytes_out"] == values["bytes_out"] == found.bytes_out
    assert values["fits"][-1]["context"] == values["context_length"] == 4096


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 bytes"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 * GIB, "3.00 GiB")]
)
def test_sizes_for_people(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text
