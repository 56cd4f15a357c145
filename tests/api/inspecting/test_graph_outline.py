"""Graphs are read without their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mistralrs_onnx.inspecting.graph_outline import read_outline
from mistralrs_onnx.runtime.errors import PackageError

WEIGHT = np.arange(1 << 16, dtype=np.float32)


def model() -> onnx.ModelProto:
    """A weight as raw data, one as numbers, one as an attribute, and a branch."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Add", ["x", "raw"], ["y"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(WEIGHT, "attribute")),
        helper.make_node("If", ["b"], ["z"], then_branch=branch, else_branch=branch),
    ]
    numbers = helper.make_tensor("numbers", onnx.TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    initializers = [numpy_helper.from_array(WEIGHT, "raw"), numbers]
    port = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])
    return helper.make_model(helper.make_graph(nodes, "graph", [port], [port], initializers))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(model(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_all_but_the_values_is_kept(path: Path) -> None:
    outline, whole = read_outline(path), model()
    assert outline.ByteSize() < 1000 < whole.ByteSize()
    for graph in (outline.graph, whole.graph):
        for tensor in (*graph.initializer, graph.node[1].attribute[0].t):
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    assert outline == whole


@pytest.mark.parametrize("content", [b"", b"\x00", b"\xff" * 40, b"GGUF" * 10, b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.onnx").write_bytes(content)
    with pytest.raises(PackageError, match=r"no\.onnx is no ONNX graph"):
        read_outline(tmp_path / "no.onnx")


def test_a_cut_graph_is_damaged(path: Path) -> None:
    content = path.read_bytes()
    for size in (10, 500, len(content) - 3):
        path.write_bytes(content[:size])
        with pytest.raises(PackageError, match="damaged"):
            read_outline(path)


def test_a_graph_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="cannot be read: No such file"):
        read_outline(tmp_path / "none.onnx")
