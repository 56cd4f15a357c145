"""What an ONNX file says of itself."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from mistralrs_onnx.inspecting.inspected_graph import inspect_graph
from mistralrs_onnx.inspecting.inspection import FileFacts, Inspection, PortFacts, TensorFacts
from mistralrs_onnx.inspecting.package_files import silent

FLOAT, INT4 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT4


def external(name: str, location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=INT4, dims=[4, 8], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    function = helper.make_function(
        "ours", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 21)]
    )
    branch = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Twice", ["x"], ["t"], domain="ours"),
        helper.make_node("If", ["b"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["n", None, 2])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.BFLOAT16, [])],
        [
            external("w.q", "weights"),
            external("evil", "../../weights"),
            helper.make_tensor("const.0", FLOAT, [2], [1, 2]),
            helper.make_tensor("const.1", onnx.TensorProto.INT64, [1], [1]),
        ],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ours", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, producer_name="test")
    onnx.save(model, tmp_path / "a.onnx")
    (tmp_path / "weights").write_bytes(bytes(16))
    return tmp_path / "a.onnx"


def inspected(path: Path, *, verify: bool = False) -> Inspection:
    return inspect_graph(path, verify=verify, hashing=silent)


def test_operators_functions_and_ports(path: Path) -> None:
    (graph,) = inspected(path).graphs
    assert graph.operators == {"Neg": 2, "ours.Twice": 1, "If": 1}  # those of branches too
    assert graph.functions == {"ours.Twice": {"Add": 1}}
    assert graph.inputs == (PortFacts("x", "float32", ("n", "?", 2)),)
    assert graph.outputs == (PortFacts("y", "bfloat16", ()),)


def test_weights_have_sizes_and_constants_one_line(path: Path) -> None:
    assert inspected(path).tensors == (
        TensorFacts("w.q", "int4", (4, 8), 16),
        TensorFacts("evil", "int4", (4, 8), 16),
        TensorFacts("constants", "", (), 16),
    )


def test_files_of_weights_are_listed_but_none_outside_the_folder(path: Path) -> None:
    found = inspected(path)
    assert [(file.name, file.sha256) for file in found.files] == [("a.onnx", None), ("weights", None)]
    assert [len(file.sha256 or "") for file in inspected(path, verify=True).files] == [64, 64]
    (path.parent / "weights").unlink()
    assert inspected(path).files[1] == FileFacts("weights", 0, None, "is missing")
    assert inspected(path).problems == ["weights is missing"]
