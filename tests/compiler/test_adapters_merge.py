"""Adapters merged into weights of every type, and compiling with them."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_gguf import write_gguf
from tiny_models import IDS, TOLERANCE, write_folder

from mistralrs_onnx.compiler.adapters.files import AdapterFiles, in_folder
from mistralrs_onnx.compiler.adapters.merge import MADE, MERGE_DTYPES, Merged, ToMerge, weighted
from mistralrs_onnx.compiler.checkpoint import Reading, open_folder
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder, compile_gguf, plan
from mistralrs_onnx.compiler.dry_run import dry_run
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq, floats
from mistralrs_onnx.compiler.isq_map import GGML_TYPES
from mistralrs_onnx.graphs.contract import Update
from mistralrs_onnx.graphs.weights import DENSE
from mistralrs_onnx.ops.formats import Bytes, Float32, find_format, is_packed
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.sessions import make_session

NAME = "model.layers.0.mlp.up_proj"
N, K = 24, 512


class Kept:
    """A matrix in memory that notes which rows are asked for."""

    def __init__(self, kind: str, raw: Bytes, shape: tuple[int, int] = (N, K)) -> None:
        self.format, self.shape, self.raw = kind, shape, raw
        self.asked: list[tuple[int, int]] = []

    def rows(self, start: int, stop: int) -> Bytes:
        self.asked.append((start, stop))
        return self.raw[start:stop]


class Held(dict[str, Kept]):
    def matrix(self, name: str) -> Kept:
        return self[name]

    def vector(self, name: str) -> Float32:
        return np.ones(3, np.float32)


def values(seed: int, *shape: int) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def packed(kind: str, weights: Float32) -> Bytes:
    if kind in DENSE:
        return weights.astype(DENSE[kind]).view(np.uint8)
    return find_format(kind).quantize(weights)


def held(kind: str) -> Held:
    return Held({f"{NAME}.weight": Kept(kind, packed(kind, values(0, N, K))), "other.weight": Kept("F32", None)})


FIRST = {NAME: Update(values(1, 3, K), values(2, N, 3))}
SECOND = {NAME: Update(values(3, 5, K), values(4, N, 5))}
DELTA = sum(each[NAME].b.astype(np.float64) @ each[NAME].a.astype(np.float64) for each in (FIRST, SECOND))
INTEGERS = ("int4-32", "int8-64", "int4-128-f32")


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", *GGML_TYPES, *INTEGERS])
def test_every_type_is_dequantized_added_and_made_again(kind: str) -> None:
    weights = held(kind)
    merged = Merged(weights, [FIRST, SECOND]).matrix(f"{NAME}.weight")
    assert (merged.format, merged.shape) == (kind, (N, K))
    source = floats(weights[f"{NAME}.weight"].raw, kind)
    got = merged.rows(0, N)
    expected = packed(kind, (source + DELTA).astype(np.float32))
    assert got.shape == expected.shape
    # Sums in another order differ in the last bits, which now and then make another level: a step, and no more.
    step = np.abs(floats(expected, kind) - (source + DELTA)).max() + 1e-5
    assert np.abs(floats(got, kind) - floats(expected, kind)).max() <= 2 * step
    assert (got == expected).mean() > 0.9 if kind not in DENSE else True
    np.testing.assert_allclose(floats(got, kind), source + DELTA, atol=2 * step)
    assert np.abs(DELTA).max() > 4 * step  # forgetting the adapters would be seen


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("kind", ["Q4_0", "F16", "Q6_K"])
def test_changed_weights_can_be_left_dense(kind: str, dtype: str) -> None:
    weights = held(kind)
    merged = Merged(weights, [FIRST], dtype).matrix(f"{NAME}.weight")
    assert merged.format == dtype
    expected = floats(weights[f"{NAME}.weight"].raw, kind) + FIRST[NAME].b @ FIRST[NAME].a
    precision = {"F32": 1e-6, "F16": 2**-11, "BF16": 2**-8}[dtype]  # half a unit in the last place, and float32 sums
    np.testing.assert_allclose(floats(merged.rows(0, N), dtype), expected, rtol=precision, atol=1e-5)


def test_only_the_rows_that_are_asked_for_are_read() -> None:
    weights = held("Q8_0")
    whole = Merged(weights, [FIRST]).matrix(f"{NAME}.weight").rows(0, N)
    weights[f"{NAME}.weight"].asked.clear()
    part = Merged(weights, [FIRST]).matrix(f"{NAME}.weight").rows(5, 9)
    assert weights[f"{NAME}.weight"].asked == [(5, 9)]
    assert np.abs(floats(part, "Q8_0") - floats(whole[5:9], "Q8_0")).max() < 0.1


def test_large_pieces_are_read_in_parts() -> None:
    shape = (4096, 1024)
    matrix = Kept("F16", np.zeros((4096, 2048), np.uint8), shape)
    update = Update(values(1, 2, 1024), values(2, 4096, 2))
    Merged(Held({f"{NAME}.weight": matrix}), [{NAME: update}]).matrix(f"{NAME}.weight").rows(0, 4096)
    assert max(stop - start for start, stop in matrix.asked) * 1024 <= 1 << 19


def test_what_no_adapter_changes_passes_through() -> None:
    weights = held("Q4_0")
    merged = Merged(weights, [FIRST])
    assert merged.matrix("other.weight") is weights["other.weight"]
    assert "other.weight" in merged
    assert "third.weight" not in merged
    assert len(merged.vector("norm")) == 3


def test_order_does_not_matter_and_weights_scale() -> None:
    weights = held("F32")
    source = weights[f"{NAME}.weight"].raw.view(np.float32)

    def merged(*updates: dict[str, Update]) -> Float32:
        return floats(Merged(weights, updates).matrix(f"{NAME}.weight").rows(0, N), "F32")

    np.testing.assert_allclose(merged(FIRST, SECOND), merged(SECOND, FIRST), atol=1e-5)
    delta = merged(FIRST) - source
    np.testing.assert_allclose(merged(weighted(FIRST, -0.5)) - source, -0.5 * delta, atol=1e-5)
    np.testing.assert_allclose(merged(weighted(FIRST, 0.0)), source)


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        *MADE.items(),
        ("int4-128-zp", "int4-32"),
        ("int8-64-zp-f32", "int8-32"),
        ("int4-16-zp", "int4-16"),
    ],
)
def test_types_that_are_only_read_become_the_nearest(kind: str, made: str, caplog: pytest.LogCaptureFixture) -> None:
    assert is_packed(kind)
    assert is_packed(made)
    with pytest.raises(ValueError, match="read"):
        find_format(kind).quantize(values(0, 1, 256))
    with caplog.at_level(logging.WARNING):
        matrix = Merged(Held({f"{NAME}.weight": Kept(kind, None)}), [FIRST]).matrix(f"{NAME}.weight")
    assert matrix.format == made
    assert f"{kind} is only read, not made: merged weights of that type become {made}" in caplog.text


def test_narrow_rows_get_a_type_of_smaller_blocks_or_are_refused() -> None:
    def merged(columns: int) -> str:
        held = Held({f"{NAME}.weight": Kept("IQ4_NL", None, (N, columns))})
        return Merged(held, [{NAME: Update(values(1, 3, columns), values(2, N, 3))}]).matrix(f"{NAME}.weight").format

    assert merged(96) == "Q5_0"
    with pytest.raises(CompileError, match=r"type IQ4_NL cannot be quantized again .* --merge-dtype f32\|f16\|bf16"):
        merged(80)


def test_updates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CompileError, match=r"updates nothing.weight, which the base does not have$"):
        Merged(held("F32"), [{"nothing": FIRST[NAME]}])
    with pytest.raises(CompileError, match=r"updates lm_head\.weight, .*: it is tied to the embedding table"):
        Merged(held("F32"), [{"lm_head": FIRST[NAME]}])
    with pytest.raises(CompileError, match=r"as if it were \(24, 511\), it has shape \(24, 512\)"):
        Merged(held("F32"), [{NAME: Update(values(1, 3, K - 1), values(2, N, 3))}])
    large = {NAME: Update(values(1, 3, K) * np.float32(1e30), values(2, N, 3) * np.float32(1e30))}
    with pytest.raises(CompileError, match=r"up_proj\.weight has values that are not finite once"):
        Merged(held("F32"), [large]).matrix(f"{NAME}.weight").rows(0, N)
    with pytest.raises(CompileError, match="F16 cannot hold"):
        Merged(held("F16"), [weighted(FIRST, 1e6)]).matrix(f"{NAME}.weight").rows(0, N)
    with pytest.raises(CompileError, match="the weight of adapter x must be a finite number, got nan"):
        ToMerge(AdapterFiles("x", Path(), Path()), math.nan)


def test_options_say_which_merge_dtypes_there_are() -> None:
    with pytest.raises(CompileError, match="merge dtype must be one of f32, f16, bf16, got 'q4'"):
        CompileOptions(merge_dtype="q4")
    assert [CompileOptions(merge_dtype=dtype).merge_dtype for dtype in MERGE_DTYPES] == list(MERGE_DTYPES)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_folder(read_golden()["llama"].model, tmp_path / "model")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    attention = {name: shape for name, shape in linears(read_golden()["llama"].model.shapes).items() if ".0." in name}
    return write_adapter(tmp_path / "adapter", attention)


def test_dry_runs_and_isq_see_merged_weights(model: Path, adapter: Path) -> None:
    adapted, other = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    plain = CompileOptions(dtype="f16", adapters=(ToMerge(in_folder(adapter)),))
    dense = CompileOptions(dtype="f16", adapters=(ToMerge(in_folder(adapter)),), merge_dtype="f32")
    quantized = CompileOptions(adapters=(ToMerge(in_folder(adapter)),), isq=Isq("Q8_0"))
    for options, kinds in ((plain, ("F16", "F16")), (dense, ("F32", "F16")), (quantized, ("Q8_0", "Q8_0"))):
        with open_folder(model, Reading()) as checkpoint:
            tensors = {each.name: each for each in dry_run(checkpoint, options, 1 << 40).tensors}
            assert (tensors[adapted].type_out, tensors[other].type_out) == kinds
            with_it = plan(checkpoint, options).weights
            without = plan(checkpoint, CompileOptions(dtype=options.dtype, isq=options.isq)).weights
            assert not np.array_equal(with_it.matrix(adapted).rows(0, 8), without.matrix(adapted).rows(0, 8))
            np.testing.assert_array_equal(with_it.matrix(other).rows(0, 8), without.matrix(other).rows(0, 8))


def portable_logits(package: Path) -> np.ndarray:
    """Of all positions, from one run of model.onnx."""
    session = make_session(package / "model.onnx", 1)
    kv = open_package(package).manifest.kv
    count = np.arange(len(IDS))[None]
    feeds = {"input_ids": np.array([IDS]), "attention_mask": np.ones_like(count), "position_ids": count}
    empty = np.zeros((1, kv.num_heads, 0, kv.head_size), np.float32)
    feeds |= {each.name: empty for each in session.get_inputs() if each.name.startswith("past_key_values")}
    return session.run(["logits"], feeds)[0][0]


def test_gguf_files_and_folders_give_the_same_logits(model: Path, tmp_path: Path) -> None:
    """GGUF files of llama keep rows of q and k in another order; adapters have that of Hugging Face all the same."""
    described = read_golden()["llama"].model
    adapter = write_adapter(tmp_path / "adapter", linears(described.shapes))
    options = CompileOptions(accuracy="float32", adapters=(ToMerge(in_folder(adapter)),))
    expected = portable_logits(compile_folder(model, tmp_path / "folder", options))
    file = write_gguf(described, tmp_path / "tiny.gguf")
    got = portable_logits(compile_gguf(file, tmp_path / "gguf", options))
    base = portable_logits(compile_gguf(file, tmp_path / "base", CompileOptions(accuracy="float32")))
    largest = np.abs(expected).max()
    assert np.abs(got - expected).max() <= TOLERANCE * largest
    assert np.abs(got - base).max() > 0.1 * largest


def test_quantized_files_are_merged_and_run(tiny_llama: Any, tmp_path: Path) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf", {"attn_q": "Q8_0", "attn_k": "Q8_0", "ffn_up": "Q4_0", "ffn_down": "F16"})
    modules = {"model.layers.0.self_attn.q_proj": (64, 64), "model.layers.1.mlp.up_proj": (96, 64)}
    file, adapter = tiny.write(), write_adapter(tmp_path / "adapter", modules)
    packages = {
        dtype: compile_gguf(
            file,
            tmp_path / str(dtype),
            CompileOptions(accuracy="float32", adapters=(ToMerge(in_folder(adapter)),), merge_dtype=dtype),
        )
        for dtype in (None, "f32")
    }
    kinds = {dtype: open_package(package).manifest.tensors for dtype, package in packages.items()}
    assert [kinds[None][f"{name}.weight"].type for name in modules] == ["Q8_0", "Q4_0"]
    assert [kinds["f32"][f"{name}.weight"].type for name in modules] == ["F32", "F32"]
    assert kinds["f32"]["model.layers.1.self_attn.q_proj.weight"].type == "Q8_0"
    again, dense = portable_logits(packages[None]), portable_logits(packages["f32"])
    assert np.abs(again - dense).max() <= 0.2 * np.abs(dense).max()  # one more rounding to four bits


def test_sums_are_rounded_once(model: Path, adapter: Path) -> None:
    """Weights that were rounded to bfloat16 before would be off by more than half a unit in the last place."""
    name = "model.layers.0.mlp.up_proj.weight"
    with open_folder(model, Reading()) as checkpoint:
        exact = plan(checkpoint, CompileOptions(adapters=(ToMerge(in_folder(adapter)),))).weights
        rounded = plan(checkpoint, CompileOptions(adapters=(ToMerge(in_folder(adapter)),), dtype="bf16")).weights
        once = floats(exact.matrix(name).rows(0, 96), "F32").astype(DENSE["BF16"])
        np.testing.assert_array_equal(floats(rounded.matrix(name).rows(0, 96), "BF16"), once.astype(np.float32))


def test_adapters_of_another_base_are_refused(model: Path, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", {"model.layers.0.self_attn.q_proj": (64, 48)})
    with (
        open_folder(model, Reading()) as checkpoint,
        pytest.raises(CompileError, match=r"q_proj\.lora_A\.weight has shape \(4, 48\), needed is \(4, 64\)"),
    ):
        plan(checkpoint, CompileOptions(adapters=(ToMerge(in_folder(adapter)),)))
