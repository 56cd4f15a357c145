"""Tiny random models of each architecture and format against an independent implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

IDS = np.random.default_rng(0).integers(0, 90, 21).tolist()
PROMPT = 13  # the rest is decoded
MATRICES = ("token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def prefill_and_decode(package: Path) -> np.ndarray:
    """Logits of each position, the last ones a token at a time."""
    opened = open_package(package)
    runner = OrtRunner(
        make_session(opened.engine("float32")), opened.manifest, num_slots=1, max_model_len=64, max_chunk=32
    )
    steps = [Row(0, 0, IDS[:PROMPT], PROMPT)]
    steps += [Row(0, position, [IDS[position]], 1) for position in range(PROMPT, len(IDS))]
    return np.concatenate([runner.run([row]).copy() for row in steps])


def check(source: Path, out: Path, reference_of, tolerance: float = 1e-4) -> None:
    """`tolerance` relative to the largest logit; 1e-4 is room for float32 sums in other orders."""
    expected = reference_of(source).logits(IDS)
    got = prefill_and_decode(compile_gguf(source, out, CompileOptions(accuracy="float32")))
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_llama_in_every_format(tiny_llama, reference_of, tmp_path: Path, kind: str, tied: bool) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf", dict.fromkeys(MATRICES, kind))
    tiny.tied = tied
    check(tiny.write(), tmp_path / "out", reference_of)


@pytest.mark.parametrize(("hidden", "heads", "kv_heads"), [(64, 4, 4), (96, 6, 1), (160, 2, 2), (96, 2, 1)])
def test_llama_of_odd_shapes(tiny_llama, reference_of, tmp_path: Path, hidden: int, heads: int, kv_heads: int) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf", dict.fromkeys(MATRICES, "Q4_1"))
    tiny.hidden, tiny.heads, tiny.kv_heads, tiny.layers = hidden, heads, kv_heads, 3
    check(tiny.write(), tmp_path / "out", reference_of)


def test_projections_of_different_formats(tiny_llama, reference_of, tmp_path: Path) -> None:
    types = {"attn_q": "Q4_0", "attn_k": "Q4_1", "attn_v": "Q8_0", "ffn_gate": "F16", "ffn_up": "Q4_1"}
    check(tiny_llama(tmp_path / "tiny.gguf", types).write(), tmp_path / "out", reference_of)


@pytest.mark.parametrize(("hidden", "heads", "kv_heads"), [(96, 6, 4), (1056, 66, 1)])
def test_shapes_that_the_operators_cannot_take_are_refused(
    tiny_llama, tmp_path: Path, hidden: int, heads: int, kv_heads: int
) -> None:
    tiny = tiny_llama(tmp_path / "tiny.gguf")
    tiny.hidden, tiny.heads, tiny.kv_heads = hidden, heads, kv_heads
    with pytest.raises(CompileError, match=r"6 heads cannot share 4|66 heads share a key head"):
        compile_gguf(tiny.write(), tmp_path / "out")
