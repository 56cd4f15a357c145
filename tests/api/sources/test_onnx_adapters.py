"""Adapters in ONNX Runtime's format, applied to the portable graph by ONNX Runtime alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import IDS, TOLERANCE, write_folder

from mistralrs_onnx.adapters import AdapterOptions, Adapters
from mistralrs_onnx.compiler.adapters.files import in_folder
from mistralrs_onnx.compiler.adapters.merge import ToMerge
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import Isq
from mistralrs_onnx.compiler.onnx_adapters import ToEmit
from mistralrs_onnx.graphs.contract import LOGITS, PORTABLE_GRAPH
from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.lanes import Lanes
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session
from mistralrs_onnx.sources.onnx_adapters import export_adapter


def answer(package: Path, *adapters: str) -> np.ndarray:
    """Logits (tokens, vocab), as a program without us gets them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(package / PORTABLE_GRAPH, options, providers=["CPUExecutionProvider"])
    ids = np.array([IDS], np.int64)
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(len(IDS))[None]}
    for value in session.get_inputs():
        if value.name.startswith("past_key_values"):
            feeds[value.name] = np.empty((1, value.shape[1], 0, value.shape[3]), np.float32)
    run = onnxruntime.RunOptions()
    for name in adapters:
        adapter = onnxruntime.LoraAdapter()
        adapter.Load(str(package / "adapters" / f"{name}.onnx_adapter"))
        run.add_active_adapter(adapter)
    logits: np.ndarray = session.run([LOGITS], feeds, run)[0][0]
    return logits


@pytest.mark.parametrize("name", ["llama", "phi3-4k", "mixtral"])
def test_onnxruntime_applies_them(name: str, tmp_path: Path) -> None:
    model = read_golden()[name].model
    base = write_folder(model, tmp_path / "base")
    modules = linears(model.shapes)
    files = {
        which: in_folder(write_adapter(tmp_path / which, modules, seed=seed, **config), which)
        for which, seed, config in (("all", 1, {}), ("some", 2, {"layers_to_transform": [1], "rank": 3}))
    }
    options = CompileOptions(accuracy="float32", emitted=ToEmit(tuple(files.values()), export_adapter))
    package = compile_folder(base, tmp_path / "package", options)
    assert {f"adapters/{which}.onnx_adapter" for which in files} <= set(open_package(package).manifest.files)
    plain = answer(compile_folder(base, tmp_path / "plain", CompileOptions(accuracy="float32")))
    np.testing.assert_array_equal(answer(package), plain)
    for which, each in files.items():
        merging = CompileOptions(accuracy="float32", adapters=(ToMerge(each),))
        merged = answer(compile_folder(base, tmp_path / f"merged-{which}", merging))
        assert np.abs(merged - plain).max() > 100 * TOLERANCE * np.abs(plain).max()
        assert np.abs(answer(package, which) - merged).max() < TOLERANCE * np.abs(merged).max()


def test_heads_are_refused(tmp_path: Path) -> None:
    model = read_golden()["llama"].model
    base = write_folder(model, tmp_path / "base")
    shape = model.shapes["lm_head.weight"]
    files = in_folder(write_adapter(tmp_path / "head", {"lm_head": shape}), "head")
    with pytest.raises(CompileError, match="adapter head changes lm_head, which can only be merged"):
        compile_folder(base, tmp_path / "package", CompileOptions(emitted=ToEmit((files,), export_adapter)))


def test_over_packed_weights_they_say_what_the_serving_graph_says(tmp_path: Path) -> None:
    model = read_golden()["llama"].model
    base = write_folder(model, tmp_path / "base")
    files = in_folder(write_adapter(tmp_path / "one", linears(model.shapes)), "one")
    options = CompileOptions(accuracy="float32", isq=Isq("int4-32"), emitted=ToEmit((files,), export_adapter))
    package = open_package(compile_folder(base, tmp_path / "package", options))
    adapter = Adapters(package.manifest, AdapterOptions({"one": files})).select([Part("one")])
    session = make_session(package.engine("float32", takes_adapters=True), 2)
    lanes = Lanes(package.manifest.lora, 2)
    runner = OrtRunner(session, package.manifest, num_slots=2, max_model_len=64, max_chunk=32, extra=lanes)
    served = runner.run([Row(0, 0, IDS, len(IDS), adapter=adapter)])
    assert np.abs(answer(package.path, "one") - served).max() < TOLERANCE * np.abs(served).max()
