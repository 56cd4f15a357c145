"""Every architecture against transformers: the same tiny weights, prefill and decode, in every form of the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_models import TINY, VOCAB, make_model, write_folder

from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

pytestmark = pytest.mark.oracle

IDS = np.random.default_rng(0).integers(2, VOCAB, 21).tolist()
PROMPT = 13  # the rest is decoded, eight steps
TOLERANCE = 1e-4  # of the largest logit: float32 sums in other orders


def engine_logits(package: Path) -> np.ndarray:
    opened = open_package(package)
    runner = OrtRunner(
        make_session(opened.engine("float32")), opened.manifest, num_slots=2, max_model_len=64, max_chunk=32
    )
    is_long = runner.rope_switch is not None and len(IDS) > runner.rope_switch
    steps = [Row(1, 0, IDS[:PROMPT], PROMPT, is_long)]
    steps += [Row(1, position, [IDS[position]], 1, is_long) for position in range(PROMPT, len(IDS))]
    return np.concatenate([runner.run([row]).copy() for row in steps])


def portable_logits(package: Path) -> np.ndarray:
    """The whole sequence in one run of model.onnx."""
    session = make_session(package / "model.onnx")
    kv = open_package(package).manifest.kv
    count = np.arange(len(IDS))[None]
    feeds = {"input_ids": np.array([IDS]), "attention_mask": np.ones_like(count), "position_ids": count}
    empty = np.zeros((1, kv.num_heads, 0, kv.head_size), np.float32)
    feeds |= {each.name: empty for each in session.get_inputs() if each.name.startswith("past_key_values")}
    return session.run(["logits"], feeds)[0][0]


@pytest.mark.parametrize("name", TINY)
def test_logits_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    import torch

    model = make_model(TINY[name])
    package = compile_folder(
        write_folder(model, tmp_path / "model"), tmp_path / "package", CompileOptions(accuracy="float32")
    )
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0].numpy()
    bound = TOLERANCE * np.abs(expected).max()
    engine, portable = (np.abs(form(package) - expected).max() for form in (engine_logits, portable_logits))
    print(f"{name}: engine {engine / bound * TOLERANCE:.1e}, model.onnx {portable / bound * TOLERANCE:.1e}")
    assert engine <= bound
    assert portable <= bound
