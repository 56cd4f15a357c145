"""Adapters beside the model give what the same adapters give when they are merged into it, experts included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import IDS, TOLERANCE, write_folder

from mistralrs_onnx.adapters import AdapterOptions, Adapters
from mistralrs_onnx.compiler.adapters.files import in_folder
from mistralrs_onnx.compiler.adapters.merge import ToMerge
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.lanes import Lanes
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.runner import OrtRunner
from mistralrs_onnx.runtime.sessions import make_session

WEIGHTS = {"one": 0.5, "two": -0.75, "three": 1.0}


@pytest.mark.parametrize("name", ["mixtral", "phi3-4k", "gemma"])
def test_several_with_weights(name: str, tmp_path: Path) -> None:
    model = read_golden()[name].model
    base, every = write_folder(model, tmp_path / "model"), linears(model.shapes)
    shapes = {
        "one": every,
        "two": {k: v for k, v in every.items() if "attn" not in k},
        "three": dict(list(every.items())[::2]),
    }
    for i, each in enumerate(WEIGHTS):
        write_adapter(tmp_path / each, shapes[each], rank=5 * i + 2, seed=i)
    merged = tuple(ToMerge(in_folder(tmp_path / each), weight) for each, weight in WEIGHTS.items())
    expected = logits(compiled(base, tmp_path / "merged", merged))
    package = compiled(base, tmp_path / "package")
    adapters = Adapters(package.manifest, AdapterOptions({each: tmp_path / each for each in WEIGHTS}))
    got = logits(package, adapters.select([Part(*each) for each in WEIGHTS.items()]))
    assert np.abs(expected - logits(package)).max() > 0.01 * np.abs(expected).max()
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


def compiled(base: Path, folder: Path, adapters: tuple[ToMerge, ...] = ()) -> Package:
    return open_package(compile_folder(base, folder, CompileOptions(accuracy="float32", adapters=adapters)))


def logits(package: Package, adapter: Adapter | None = None) -> np.ndarray:
    """Of all positions, from one step."""
    manifest, takes = package.manifest, adapter is not None
    session = make_session(package.engine("float32", takes_adapters=takes), 1)
    lanes = Lanes(manifest.lora, 1) if takes else None
    runner = OrtRunner(session, manifest, num_slots=1, max_model_len=64, max_chunk=64, extra=lanes)
    return runner.run([Row(0, 0, IDS, len(IDS), adapter=adapter)]).copy()
